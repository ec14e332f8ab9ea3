"""A model by file: its identity, its declarations, and what it says when something is wrong."""

import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from tiny_onnx import finding_red, means, saying

import tilevision as tv
from tilevision.adapters import gpuclaims
from tilevision.adapters.onnx import providers
from tilevision.adapters.onnx.detector import TilesPerCall
from tilevision.adapters.onnx.ports import read_facts
from tilevision.catalogue import model, resolve
from tilevision.errors import ModelError, RunError
from tilevision.modelspec import build, on_device, processes, runtime

GREY = np.full((96, 96, 3), 90, dtype=np.uint8)


@pytest.fixture
def red(tmp_path):
    """A detector of red rectangles."""
    return finding_red(tmp_path / "red.onnx")


@pytest.fixture
def street():
    """A grey picture with 6 red rectangles and as many blue ones, 300×200."""
    picture = np.full((200, 300, 3), 90, dtype=np.uint8)
    for y in (10, 120):
        for x in (10, 110, 210):
            picture[y : y + 20, x : x + 30] = (250, 10, 10)
            picture[y + 40 : y + 60, x : x + 30] = (10, 10, 250)
    return picture


def test_what_the_file_says_is_in_the_spec(red):
    """Name, input size, batch and class names come from the file; all decisions can be read."""
    spec = model(str(red))
    assert spec.name == "red.onnx"
    assert spec.input_size == (96, 96)
    assert spec.batch_size == 8  # the batch is the model's to choose
    assert spec.min_score == 0.25
    assert spec.params["names"] == ["red"]
    assert spec.params["path"] == str(red.resolve())
    assert resolve(red) == spec == resolve(str(red))


def test_names_from_file_and_user(tmp_path):
    """A list names all classes, a dict some, in place of the file's; a wrong count is told."""
    rows = np.zeros((84, 7), np.float32).T
    bare = str(saying(tmp_path / "bare.onnx", {"o": rows}))
    notes = {"task": "detect", "names": {0: "car", 1: "ship", 2: "tree"}}
    told = str(saying(tmp_path / "told.onnx", {"o": rows}, notes=notes))
    assert model(told).params["names"] == ["car", "ship", "tree"]
    assert model(told, names={1: "boat"}).params["names"] == ["car", "boat", "tree"]
    assert model(told, names=list("abc")).params["names"] == ["a", "b", "c"]
    assert model(bare, names={1: "boat"}).params["names"] == {"1": "boat"}
    assert model(bare).params["names"] is None
    with pytest.raises(ModelError, match=r"names of model told.onnx are 2, and the file has 3"):
        model(told, names=["a", "b"])
    other = saying(tmp_path / "odd.onnx", {"o": rows}, notes={"names": "whatever"})
    assert model(str(other)).params["names"] is None


def test_identity_is_content_and_what_changes_answers(red, tmp_path):
    """A copy elsewhere is the same model; other weights, floors, sizes and orders are not."""
    spec = model(str(red))
    copy = tmp_path / "elsewhere" / "other name.onnx"
    copy.parent.mkdir()
    shutil.copy(red, copy)
    assert model(str(copy)).fingerprint == spec.fingerprint
    assert model(str(red), threads=2, batch_size=3, min_score=0.5).fingerprint == spec.fingerprint
    others = [
        model(str(finding_red(tmp_path / "trained.onnx", shift=0.01))),
        model(str(red), score_floor=0.1),
        model(str(red), channels="bgr"),
        model(str(red), letterbox=False),
        model(str(red), normalize="imagenet"),
        model(str(red), names=["lamp"]),
        model(str(red), nms=0.3),
        model(str(red), max_detections=5),
        model(spec, max_detections=5),
    ]
    prints = {other.fingerprint for other in others}
    assert len(prints) == len(others)
    assert spec.fingerprint not in prints


def test_a_decoder_of_the_users_own(red):
    """Gets the outputs of one tile by name; answers as functions do, in pixels of the input."""

    def decode(outputs, info):
        assert info.input_size == (96, 96) and info.tile_size == (192, 96)
        assert outputs["rows"].shape == (1, 1, 6)
        row = outputs["rows"][0, 0]
        return [[*row[:4], row[4], 0]]

    def other(outputs, info):
        return []

    tile = np.full((96, 192, 3), 90, dtype=np.uint8)
    tile[40:60, 20:60] = (255, 0, 0)
    spec = model(str(red), decode=decode)
    (found, again) = build(spec).predict([tile, tile])
    np.testing.assert_allclose(found.boxes, [[20, 40, 60, 60]], atol=2)
    assert found == again and list(found.labels) == ["red"]
    assert model(str(red), decode=other).fingerprint != spec.fingerprint
    assert model(str(red), decode=other, fingerprint="v1").fingerprint != spec.fingerprint
    with pytest.raises(ModelError, match="decode= or family="):
        model(str(red), decode=decode, family="yolov8")
    with pytest.raises(ModelError, match="give a function"):
        model(str(red), decode="yolo")


def test_a_decoder_that_fails_is_named(red):
    """Its error becomes one line with the shapes it was given."""
    spec = model(str(red), decode=lambda outputs, info: outputs["boxes"])
    with pytest.raises(ModelError, match=r"rows \(1, 1, 6\) cannot be decoded \(KeyError"):
        build(spec).predict([GREY])


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"chanels": "bgr"}, "Did you mean 'channels'"),
        ({"channels": "hsv"}, "give one of rgb"),
        ({"channels": "grey"}, "reads 3 channels, and grey are 1"),
        ({"bands": (0, 1, 2, 3)}, "reads 3 channels, and bands are 4"),
        ({"normalize": "sometimes"}, "give one of 0..1"),
        ({"normalize": {"mean": [0.5, 0.5], "std": [0.5, 0.5]}}, "one number, or 3"),
        ({"letterbox": "yes"}, "give True, False, 'corner' or 'middle'"),
        ({"letterbox": 1.5}, "give True, False, 'corner' or 'middle'"),
        ({"score_floor": 3}, "from 0 to 1"),
        ({"min_score": "low"}, "from 0 to 1"),
        ({"threads": 0}, "whole number"),
        ({"names": "cars"}, "give a list of class names"),
        ({"names": [1, 2]}, "give a list of class names"),
        ({"names": {"car": 1}}, "give a list of class names"),
        ({"input_size": 640}, "takes 96×96 px and nothing else"),
        ({"device": "gpu"}, "give 'auto', 'cpu', 'cuda:0'"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_one_line(red, declared, words):
    """It names the model and what may be given."""
    with pytest.raises(ModelError, match=words) as caught:
        model(str(red), **declared)
    assert "red.onnx" in str(caught.value) or "normalize" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_models(tmp_path):
    """Missing, empty, a folder, text, cut short: each in one line."""
    whole = finding_red(tmp_path / "whole.onnx").read_bytes()
    for name, content in (("text", b"not a model"), ("cut", whole[:300]), ("empty", b"")):
        (tmp_path / f"{name}.onnx").write_bytes(content)
    (tmp_path / "folder.onnx").mkdir()
    for name, words in (
        ("missing", "There is no file"),
        ("folder", "is a folder"),
        ("empty", "are empty"),
        ("text", "cannot open"),
        ("cut", "cannot open"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            model(str(tmp_path / f"{name}.onnx"))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(red):
    """Permissions are told as such."""
    red.chmod(0)
    with pytest.raises(ModelError, match="Permission denied"):
        model(str(red))


def test_a_worker_checks_the_file(red):
    """One that has changed, or is not there, is refused where the tiles would be analysed."""
    spec = model(str(red))
    finding_red(red, shift=0.5)
    with pytest.raises(ModelError, match="not what this run was planned with"):
        build(spec)
    red.unlink()
    with pytest.raises(ModelError, match=r"cannot see .*red.onnx.*all workers share"):
        build(replace(spec, device="cpu"))


def test_tensors_beside_the_model_count(tmp_path):
    """Large models keep their weights in another file; changing that changes the identity."""
    path = saying(tmp_path / "m.onnx", {"scores": np.linspace(0, 1, 3000, dtype=np.float32)})
    loaded = onnx.load(path)
    big = tmp_path / "big.onnx"
    onnx.save(loaded, big, save_as_external_data=True, location="big.onnx.data", size_threshold=0)
    before = model(str(big), family="classifier").fingerprint
    data = tmp_path / "big.onnx.data"
    content = bytearray(data.read_bytes())
    content[-2] ^= 1
    data.write_bytes(content)
    os.utime(data, ns=(1, 1))
    assert model(str(big), family="classifier").fingerprint != before
    data.unlink()
    with pytest.raises(ModelError, match=r"Cannot read .*big\.onnx\.data, part of .*big\.onnx"):
        model(str(big), family="classifier")


def test_outputs_through_bound_memory_are_the_same(red, street):
    """Inputs and outputs bound to a device's memory: here the processor's, as no GPU is at hand."""
    session = providers.open_session(Path(red), "red", device="cpu")
    assert providers.bound_device(session) is None  # a processor needs no binding
    facts = read_facts(Path(red), "red")
    shown = np.ascontiguousarray(street[:96, :96].transpose(2, 0, 1)[None], np.float32) / 255
    feeds = facts.feeds(shown, (96, 96))
    plain = providers.run_on(session, feeds, None)
    bound = providers.run_on(session, feeds, ("cpu", 0))
    assert len(plain) == len(bound) == len(facts.outputs)
    for one, other in zip(plain, bound, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_session_on_a_gpu_is_bound_to_its_memory():
    """By the number that onnxruntime gave it; other accelerators take what the processor has."""

    class Session:
        def __init__(self, provider):
            self.provider = provider

        def get_providers(self):
            return [self.provider, "CPUExecutionProvider"]

        def get_provider_options(self):
            return {self.provider: {"device_id": "1"}}

    assert providers.bound_device(Session("CUDAExecutionProvider")) == ("cuda", 1)
    assert providers.bound_device(Session("TensorrtExecutionProvider")) == ("cuda", 1)
    assert providers.bound_device(Session("CoreMLExecutionProvider")) is None


def test_batches_of_any_kind_answer_the_same(tmp_path):
    """A batch that is free, fixed at one or at three: each tile gets its own answer."""
    tiles = []
    for x in (10, 30, 50, 5):
        tile = GREY.copy()
        tile[20:40, x : x + 20] = (255, 0, 0)
        tiles.append(tile)
    expected = [10, 30, 50, 5]
    path = finding_red(tmp_path / "free.onnx")
    for batch in (None, 1, 3):
        if batch is not None:
            loaded = onnx.load(path)
            for port in (*loaded.graph.input, *loaded.graph.output):
                port.type.tensor_type.shape.dim[0].ClearField("dim_param")
                port.type.tensor_type.shape.dim[0].dim_value = batch
            path = tmp_path / f"fixed{batch}.onnx"
            onnx.save(loaded, path)
        spec = model(str(path))
        assert spec.batch_size == (batch or 8)
        found = build(spec).predict(tiles)
        assert [int(f.boxes[0, 0]) for f in found] == expected


def test_tiles_share_calls_of_a_free_batch(red, monkeypatch):
    """Of eight tiles seven are one call: the first is asked alone, to know what takes less."""
    detector = build(replace(model(str(red)), device="cpu"))
    shapes = []
    session = detector._session

    def run(names, feeds):
        shapes.append(feeds["images"].shape)
        return session.run(names, feeds)

    monkeypatch.setattr(detector, "_session", SimpleNamespace(run=run))
    detector.predict([GREY] * 8)
    assert shapes == [(1, 3, 96, 96), (7, 3, 96, 96)]


def test_a_model_of_any_size_gets_tiles_as_they_are(tmp_path):
    """Filled up to a multiple of 32, never scaled, and grouped by size."""
    spec = model(str(finding_red(tmp_path / "any.onnx", size=("w", "h"))), family="yolov10")
    assert spec.input_size is None
    wide = np.full((50, 150, 3), 90, dtype=np.uint8)
    wide[7:31, 101:149] = (255, 0, 0)
    found = build(spec).predict([wide, GREY, wide])
    assert [f.boxes.tolist() for f in found] == [
        [[101, 7, 149, 31]],
        [],
        [[101, 7, 149, 31]],
    ]
    sized = model(str(tmp_path / "any.onnx"), input_size=(320, 96))
    assert sized.input_size == (320, 96)


def test_sizes_written_by_the_exporter_are_used(tmp_path):
    """A free size with a noted one: height before width, as Ultralytics writes."""
    notes = {"imgsz": [64, 128], "task": "classify"}
    path = means(tmp_path / "m.onnx", size=("w", "h"), notes=notes)
    assert model(str(path)).input_size == (128, 64)


def test_crowded_tiles_are_saturated(tmp_path):
    """Duplicates go first; then the best are kept, and the tile says it is full."""
    rows = np.zeros((84, 5), np.float32)
    for i in range(30):
        rows[2 * i] = rows[2 * i + 1] = (2 + 2 * i, 2 + 2 * i, 1.5, 1.5, 0.5 + i / 100)
    path = saying(tmp_path / "m.onnx", {"o": rows.T}, notes={"task": "detect", "names": ["dot"]})
    tile = np.zeros((64, 64, 3), np.uint8)
    assert len(build(model(str(path))).predict([tile])[0]) == 30
    (few,) = build(model(str(path), max_detections=20)).predict([tile])
    assert len(few) == 20 and few.scores.min() == pytest.approx(0.6)


def test_sessions_leave_the_processors_to_the_workers(red):
    """One thread each, that sleeps while it waits; `threads` asks for more."""
    for threads in (1, 3):
        detector = build(model(str(red), threads=threads, max_detections=100 + threads))
        options = detector._session.get_session_options()
        assert options.intra_op_num_threads == threads
        assert options.inter_op_num_threads == 1
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_the_runtime_is_named(red):
    """In the words of the first line of a run."""
    line = runtime(replace(model(str(red)), device="cpu"))
    assert line.startswith("onnxruntime 1.") and line.endswith(", CPUExecutionProvider")
    assert processes(model(str(red))) is None


def test_a_device_that_is_not_there_is_an_error(red, monkeypatch):
    """It says what is there, and the command that would bring it."""
    monkeypatch.setattr(providers, "_works", lambda kind: kind == "cpu")
    for device, words in (
        ("cuda:0", r"no CUDAExecutionProvider.*there is CPUExecutionProvider.*onnx-gpu"),
        ("mps", "no CoreMLExecutionProvider.*on a Mac"),
        ("openvino", "pip install onnxruntime-openvino"),
        ("tensorrt:1", "tensorrt"),
    ):
        spec = on_device(model(str(red)), device)
        for ask in (runtime, build):
            with pytest.raises(ModelError, match=words):
                ask(spec)


def test_gpus_are_shared_out(red, monkeypatch):
    """One process for each; a number names one, and one that is not there is refused."""
    monkeypatch.setattr(providers, "_works", lambda kind: kind in ("cpu", "cuda"))
    monkeypatch.setattr(providers, "gpus", lambda: 2)
    spec = model(str(red))
    assert processes(spec) == processes(on_device(spec, "cuda")) == 2
    assert processes(on_device(spec, "cuda:1")) == 1
    assert processes(on_device(spec, "cpu")) is None
    assert providers.provider_for("cuda:1") == ("CUDAExecutionProvider", {"device_id": "1"})
    with pytest.raises(ModelError, match="shows 2 GPUs, numbered from 0"):
        providers.provider_for("cuda:2")
    assert providers.provider_for("cuda")[1] in ({"device_id": "0"}, {"device_id": "1"})


def test_processes_claim_different_gpus(tmp_path, monkeypatch):
    """Who comes first has the first, as long as it lives; more than there are take turns."""
    monkeypatch.setattr(gpuclaims.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(gpuclaims, "_claims", [])
    taken = [gpuclaims.claimed_gpu.__wrapped__(2) for _ in range(2)]
    assert sorted(taken) == [0, 1]
    assert gpuclaims.claimed_gpu.__wrapped__(2) in (0, 1)
    for claim in gpuclaims._claims:
        claim.close()


def test_models_without_a_choice_of_device_say_so():
    """Built-in detectors run where they run: asking otherwise is an error."""
    assert on_device(model("blobs"), "cpu").device == "cpu"
    with pytest.raises(ModelError, match="has no choice of device; leave device out"):
        tv.plan(GREY, "blobs", device="cuda:0", checkpoint=None)
    with pytest.raises(RunError, match="device is 'gpu'; give 'auto'"):
        tv.plan(GREY, "blobs", device="gpu", checkpoint=None)


def test_without_onnxruntime_the_extra_is_named(red, monkeypatch):
    """One line with the command."""
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    finding_red(red, shift=0.123)
    with pytest.raises(ModelError, match=r"pip install 'tilevision\[onnx\]'"):
        model(str(red))


def test_more_inputs_than_a_picture(tmp_path):
    """What is not known how to fill is refused with the list."""
    path = saying(tmp_path / "m.onnx", {"scores": np.ones(3, np.float32)}, beside={"text": (1, 77)})
    with pytest.raises(ModelError, match=r"does not take one picture \(inputs: .*text \(1, 77\)"):
        model(str(path))


def test_bytes_take_no_other_depth(tmp_path):
    """Values as stored would overflow, and normalising would do nothing."""
    path = saying(tmp_path / "m.onnx", {"scores": np.ones(3, np.float32)}, dtype="uint8")
    assert model(str(path)).params["normalize"] == "0..255"
    with pytest.raises(ModelError, match="dtype='raw' does not fit"):
        model(str(path), dtype="raw")
    with pytest.raises(ModelError, match="normalize has no effect"):
        model(str(path), normalize="imagenet")


def test_a_threshold_below_the_floor_is_pointed_out(red):
    """What was not recorded cannot be shown: the plan says so, and what to declare."""
    plan = tv.plan(GREY, red, min_score=0.01, checkpoint=None)
    assert any("records detections from score 0.05" in note for note in plan.notes)
    low = model(str(red), score_floor=0.01)
    for value, least in ((low, 0.01), (red, 0.3), (red, None), (red, 0)):
        notes = tv.plan(GREY, value, min_score=least, checkpoint=None).notes
        assert not any("records detections" in note for note in notes)


def test_declaring_again_keeps_the_weights(red):
    """A spec takes other fields; thresholds within the model make it another."""
    spec = model(str(red), names=["lamp"])
    assert model(spec, min_score=0.5).fingerprint == spec.fingerprint
    assert model(spec, device="cpu").device == "cpu"
    assert math.isclose(model(spec, min_score=0.5).min_score, 0.5)


@pytest.mark.slow
def test_a_run_and_its_thresholds(red, street, cluster, tmp_path):
    """On a real cluster: each rectangle where it is; what is shown costs no inference."""
    path = finding_red(red, shift=0.8)  # so that scores are 0.2
    given = {"grid": tv.Grid.by_tile(96, overlap=0.5), "checkpoint": tmp_path / "kept"}
    given |= {"progress": False, "merge": "nms"}
    first = tv.analyze(street, path, **given)
    assert first.complete and len(first.findings) == 0
    again = tv.analyze(street, path, min_score=0.1, **given)
    assert again.facts.restored == len(again.rows)
    whole = {(x, y, x + 30, y + 20) for x in (10, 110, 210) for y in (10, 120)}
    assert {tuple(box) for box in again.findings.boxes.tolist()} & whole
    assert set(again.findings.labels) == {"red"}


@pytest.mark.slow
def test_changed_weights_run_again_and_a_copy_does_not(red, street, cluster, tmp_path):
    """The checkpoint knows a model by its content."""
    given = {"checkpoint": tmp_path / "kept", "progress": False}
    first = tv.analyze(street, red, **given)
    assert first.complete and first.facts.restored == 0
    copy = tmp_path / "copy.onnx"
    shutil.copy(red, copy)
    assert tv.analyze(street, copy, **given).facts.restored == len(first.rows)
    finding_red(red, shift=0.1)
    assert tv.analyze(street, red, **given).facts.restored == 0


@pytest.mark.slow
def test_a_run_is_resumed_by_its_id(red, street, cluster, tmp_path):
    """Path and declarations are in the journal; a run on other weights is not resumed."""
    kept = tmp_path / "kept"
    spec = model(str(red), names=["lamp"], score_floor=0.1, nms=0.4, max_detections=9, mpp=None)
    first = tv.analyze(street, spec, checkpoint=kept, progress=False)
    again = tv.resume(first.run_id, kept, image=street).result()
    assert set(again.findings.labels) == {"lamp"} and again.facts.restored == len(again.rows)
    finding_red(red, shift=0.1)
    with pytest.raises(ModelError, match="is not what run"):
        tv.resume(first.run_id, kept, image=street)


@pytest.mark.slow
def test_a_local_cluster_has_one_worker_for_each_gpu(red, street, cluster, monkeypatch):
    """Unless the user says how many, or brings a cluster."""
    from tilevision import cluster as clusters
    from tilevision.modelspec import usual_workers

    asked = []
    find = clusters.find_cluster

    def watched(client, workers, usual):
        asked.append((workers, usual))
        return find(client, workers, usual)

    monkeypatch.setattr(clusters, "find_cluster", watched)
    monkeypatch.setattr(sys.modules[usual_workers.__module__], "processes", lambda spec: 1)
    assert tv.start(street, red, checkpoint=None).result().complete
    assert asked == [(None, 1)]


@pytest.mark.parametrize(("alone", "each", "size"), [(1.0, 1.2, 1), (1.0, 0.8, 4)])
def test_a_call_takes_as_many_tiles_as_save_time(alone: float, each: float, size: int) -> None:
    """One by one, once the quickest call for several took longer a tile; else as many as fit."""
    calls = TilesPerCall(4, settled=False)
    taken = []
    for _ in range(4):
        left = 8
        while left:
            now = calls.share(left)
            calls.took(left, now, alone if now == 1 else each * now)
            taken.append(now)
            left -= now
    assert set(taken[:6]) > {1}, "both ways are tried"
    assert calls.share(8) == size


def test_a_fixed_batch_is_not_tried_out() -> None:
    """What a graph or a device asks for stays."""
    calls = TilesPerCall(4, settled=True)
    assert [calls.share(n) for n in (8, 4, 3)] == [4, 4, 3]
