"""Whatever a user passes as a model becomes a small spec that any worker can build."""

import importlib
import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from tilevision.catalogue import model, models, register_model, resolve
from tilevision.errors import ModelError, TransientError
from tilevision.findings import Findings
from tilevision.modelspec import (
    Answers,
    HostedModel,
    Model,
    ModelSpec,
    Usage,
    build,
    count,
    counting,
    unwrap,
)
from tilevision.modelspec.build import KEPT

TILE = np.full((20, 30, 3), 9, dtype=np.uint8)


def whole(pixels):
    return [[0, 0, pixels.shape[1], pixels.shape[0], 0.5, 3]]


class Detector:
    """A model object, as an adapter would be."""

    batch_size = 4
    input_size = (640, 480)
    max_detections = 300

    def __init__(self, score=0.5):
        self.score = score

    def predict(self, batch):
        """Find one pixel."""
        return [Findings([[0, 0, 1, 1]], [self.score]) for _ in batch]


class Remote:
    """A model behind a network."""

    def encode(self, batch):
        """Send the number of tiles."""
        return len(batch)

    def request(self, payload):
        """Find nothing."""
        return [Findings()] * payload


def test_function_is_a_model_of_every_stage():
    """A function can serve any stage, and is called as it is outside the tiles."""
    for stage in ("tile", "moderation", "synthesis"):
        assert stage in resolve(whole, stage).stages
    spec = resolve(whole)
    found = build(spec).predict([TILE])[0]
    assert found.boxes.tolist() == [[0, 0, 30, 20]] and list(found.labels) == ["class_3"]
    assert unwrap(resolve(lambda a, b: a + b, "synthesis"), "synthesis")(1, 2) == 3


def test_object_declares_itself():
    """Attributes of a model object are its declarations, and what is passed comes first."""
    spec = model(Detector(), batch_size=2)
    assert (spec.batch_size, spec.input_size, spec.max_detections) == (2, (640, 480), 300)
    assert spec.name == "Detector" and not spec.hosted and isinstance(build(spec), Model)
    remote = resolve(Remote())
    assert remote.hosted and isinstance(build(remote), HostedModel)


def test_specs_are_small_picklable_and_silent():
    """A spec travels, and its repr shows nothing of what a function encloses."""
    secret = "sk-very-secret"
    spec = resolve(lambda pixels: secret and None)
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec and secret not in repr(spec)


def test_fingerprints_follow_what_changes_answers():
    """State, parameters, names and NMS count; batch size, price and the name do not."""
    base = model(whole)
    same = [model(whole), model(whole, batch_size=9, price=0.1), model(whole, name="other")]
    different = [
        model(whole, nms=0.5),
        model(whole, names=["a"]),
        model(whole, fingerprint="v1"),
        model(whole, fingerprint="v2"),
        model(Detector(0.5)),
        model(Detector(0.6)),
        model("blobs"),
        model("blobs", contrast=0.2),
        replace(model("nuclei"), name="x"),
    ]
    assert {spec.fingerprint for spec in same} == {base.fingerprint}
    assert len({spec.fingerprint for spec in [base, *different]}) == len(different) + 1


def test_stated_fingerprint_spares_the_reading():
    """``fingerprint='v1'`` makes a model of a function that cannot be read, if it travels."""
    generator = np.random.default_rng(3)

    def f(pixels):
        return None if generator is None else []

    with pytest.raises(ModelError, match="fingerprint='v1'"):
        model(f)
    assert len(build(model(f, fingerprint="v1")).predict([TILE])[0]) == 0


def test_the_folder_of_a_saved_model_is_named_where_something_near_it_is_given(tmp_path):
    """Its weights alone, or the repository in the cache of Hugging Face's hub: what to give."""
    folder = tmp_path / "models--org--net" / "snapshots" / "abc123"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    with pytest.raises(ModelError, match=rf"part of what stands in '{folder}'; give that"):
        model(str(folder / "model.safetensors"))
    with pytest.raises(ModelError, match=rf"has no config.json.*give '{folder}'"):
        model(str(folder.parents[1]))
    with pytest.raises(ModelError, match=r"has no config.json.*give the folder or file"):
        model(str(tmp_path))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nucleii", r"no model 'nucleii'. Did you mean 'nuclei'\?.*blobs.*textlines"),
        ("weights.onnx", "no file 'weights.onnx'"),
        ("weights.pt", "There is no file .weights.pt.; check the path"),
        ("weights.h5", "cannot be loaded by path; pass a function"),
        (Detector, r"is a class; pass an instance, as Detector\(\)"),
        (None, "Model is None; pass a name"),
        (7, "Model is 7; pass a name"),
        ("limits", "limits serves moderation, not tile; for tile there is blobs, .*nuclei"),
    ],
)
def test_what_is_no_model_is_one_clear_line(value, said):
    """The error says what came, what there is, and what to do."""
    with pytest.raises(ModelError, match=said) as error:
        resolve(value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "declared",
    [
        {"batch_size": 0},
        {"input_size": (0, 5)},
        {"mpp": -1},
        {"bands": ()},
        {"dtype": "uint16"},
        {"nms": 1.5},
        {"stages": "tiles"},
        {"stages": 3},
        {"stages": None},
        {"hosted": 1},
        {"batched": "yes"},
        {"names": 5},
        {"colour": "red"},
        {"fingerprint": 3},
    ],
)
def test_declarations_are_checked_at_once(declared):
    """A declaration that makes no sense is told before anything runs."""
    with pytest.raises(ModelError, match=next(iter(declared))):
        model(whole, **declared)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("blobs", {"contrats": 1}),
        ("blobs", {"contrast": 2}),
        ("blobs", {"polarity": "up"}),
        ("nuclei", {"min_area": "x"}),
        ("nuclei", {"min_area": 9, "max_area": 3}),
        ("textlines", {"window": 1}),
    ],
)
def test_parameters_of_the_built_in_are_checked_at_once(name, parameter):
    """A parameter that is unknown or makes no sense is told at the call, not by each tile."""
    with pytest.raises(ModelError, match=next(iter(parameter))):
        model(name, **parameter)


def test_build_makes_one_model_for_all_threads():
    """A process builds a model once, however many tasks ask at once."""
    built = []

    def make():
        built.append(1)
        return whole

    # By reference, so that the list above is the one that is appended to.
    globals()["_make_for_test"] = lambda spec: make() and Detector()
    spec = ModelSpec("counted", f"{__name__}:_make_for_test", "one model for all threads")
    threads = [threading.Thread(target=build, args=(spec,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_build_forgets_models_not_used():
    """A notebook that edits its function all day does not fill its workers' memory."""
    globals()["_make_for_test"] = lambda spec: Detector()
    specs = [ModelSpec("m", f"{__name__}:_make_for_test", str(i)) for i in range(KEPT + 1)]
    first = build(specs[0])
    assert build(specs[0]) is first
    for spec in specs[1:]:
        build(spec)
    assert build(specs[0]) is not first


def _explode(spec):
    raise {"exit": SystemExit, "later": TransientError}.get(spec.name, OSError)("no such weights")


@pytest.mark.parametrize(
    ("name", "error"), [("gone", ModelError), ("exit", ModelError), ("later", TransientError)]
)
def test_what_cannot_be_built_says_so(name, error):
    """A failing factory is a ModelError, unless it says that it may work later."""
    with pytest.raises(error, match="no such weights"):
        build(ModelSpec(name, f"{__name__}:_explode", name))


def test_factory_that_makes_no_model_is_told():
    """What a factory returns is looked at when it is built, not at the first tile."""
    register_model("odd", lambda: 5)
    with pytest.raises(ModelError, match="made a int; return an object with predict"):
        build(resolve("odd"))
    with pytest.raises(ModelError, match="Cannot find 'no_such:thing'"):
        build(ModelSpec("lost", "no_such:thing", "x"))


def test_registered_models_are_found_by_name():
    """A registered name resolves, shows in the list, and takes parameters."""
    register_model("flat", lambda score=0.1: Detector(score), batch_size=3)
    assert any(known.name == "flat" and known.installed for known in models())
    spec = model("flat", score=0.7)
    assert spec.batch_size == 3 and build(spec).predict([TILE])[0].scores.tolist() == [0.7]
    assert model("flat").fingerprint != spec.fingerprint


@pytest.mark.parametrize("name", ["", "a.onnx", "nuclei", " x"])
def test_unusable_names_are_refused(name):
    """Built-in names stay, and a name never looks like a path."""
    with pytest.raises(ModelError, match="Model name"):
        register_model(name, lambda: whole)


def test_built_in_models_are_listed():
    """What can be asked for by name, with the stage it serves."""
    listed = {known.name: known.stages for known in models()}
    assert (
        listed.items()
        >= {
            "blobs": ("tile",),
            "nuclei": ("tile",),
            "textlines": ("tile",),
            "limits": ("moderation",),
            "summary": ("synthesis",),
        }.items()
    )


def test_big_functions_are_refused_with_the_remedy():
    """A function travels as one blob of 1 MB at most."""
    weights = np.zeros(200_000)
    with pytest.raises(ModelError, match=r"1\.6 MB.*inside the function"):
        model(lambda pixels: weights)


def test_what_cannot_travel_is_refused_with_the_remedy():
    """A lock or session in a function is told, also where the fingerprint was stated."""
    lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot be sent to workers.*functools\.cache"):
        model(lambda pixels: lock, fingerprint="v1")


HELPERS = """
import functools, threading
from mod_nested.deep import SCALE, Scaler
import mod_nested.deep as deep

LOCK = threading.Lock()  # cannot travel, and is not used

@functools.lru_cache(maxsize=None)
def table():
    return {"limit": 7}

def count(pixels):
    return Scaler(SCALE).of(table()["limit"]) + deep.offset()
"""
DEEP = """
SCALE = 3
class Scaler:
    def __init__(self, by): self.by = by
    def of(self, n): return self.by * n
def offset(): return 1
"""
SENDER = """
import sys
sys.path.insert(0, sys.argv[1])
import mod_helpers
from mod_helpers import count
import tilevision as tv, pickle
def detect(pixels):
    n = mod_helpers.count(pixels) + count(pixels)
    return [{"box": (0, 0, n, n)}]
with open(sys.argv[2], "wb") as out:
    pickle.dump(tv.model(detect), out)
"""
RECEIVER = """
import sys, pickle, numpy as np
from tilevision.modelspec import build
with open(sys.argv[1], "rb") as file:
    found = build(pickle.load(file)).predict([np.zeros((9, 9, 3), np.uint8)])[0]
assert not [m for m in sys.modules if m.startswith("mod_")]
print(found.boxes.tolist())
"""


@pytest.mark.slow
def test_helpers_beside_the_script_travel(tmp_path):
    """Workers need not have the user's files: nested modules, classes and caches go along."""
    beside = tmp_path / "beside"
    (beside / "mod_nested").mkdir(parents=True)
    (beside / "mod_helpers.py").write_text(HELPERS)
    (beside / "mod_nested" / "deep.py").write_text(DEEP)
    (tmp_path / "send.py").write_text(SENDER)
    (tmp_path / "receive.py").write_text(RECEIVER)
    blob = tmp_path / "spec.pickle"
    run = [sys.executable, str(tmp_path / "send.py"), str(beside), str(blob)]
    subprocess.run(run, check=True, timeout=200)
    run = [sys.executable, str(tmp_path / "receive.py"), str(blob)]
    printed = subprocess.run(run, check=True, timeout=200, capture_output=True, text=True)
    assert printed.stdout.strip() == "[[0.0, 0.0, 44.0, 44.0]]"


def test_functions_of_libraries_travel_by_name(tmp_path, monkeypatch):
    """Packing leaves cloudpickle's registry as it was, and names installed code."""
    import cloudpickle

    before = cloudpickle.list_registry_pickle_by_value()
    (tmp_path / "mod_beside_test.py").write_text("def one(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    beside = importlib.import_module("mod_beside_test")
    spec = model(lambda pixels: [np.ones(4)] * beside.one())
    assert cloudpickle.list_registry_pickle_by_value() == before
    assert len(spec.payload) < 5000


class Charging:
    """A hosted model that knows what it used, and whose methods are its stages."""

    def encode(self, batch):
        """Send the number of tiles."""
        return len(batch)

    def request(self, payload):
        """Find nothing, at a price."""
        return Answers([Findings()] * payload, Usage(payload, 100, 5))

    def synthesis(self, digest, thumbnail):
        """Write a word, at a price."""
        count(Usage(1, 7, 3))
        return "word"


def test_what_a_model_object_used_is_handed_on():
    """An object of the user's may return `Answers` as an adapter does."""
    made = build(model(Charging(), fingerprint="v1"))
    assert made.request(made.encode([TILE, TILE])).usage == Usage(2, 100, 5)


def test_what_a_stage_used_is_counted_around_the_call():
    """Only there, and only by whoever counts innermost."""
    writer = Charging()
    with counting() as outer, counting() as inner:
        writer.synthesis({}, TILE)
    writer.synthesis({}, TILE)
    assert (inner, outer) == ([Usage(1, 7, 3)], [])
