"""What every adapter keeps to, whoever wrote it; a new one is added to MODELS and held to it."""

import importlib.util
import pickle
import sys

import numpy as np
import pytest
import tiny_onnx
from framework_models import needs, pipeline_folder, red_finder, yolo
from openai_server import OpenAIServer

from tilevision.catalogue import model, models
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import HostedModel, build

KEY = "sk-contract-0123456789"


@pytest.fixture(scope="module")
def server():
    """An endpoint on this machine."""
    with OpenAIServer(key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where models of files are made."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def own_key(monkeypatch):
    """The endpoint's key is where people keep it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def brightest(pixels):
    """Find the extent of what is bright."""
    y, x = np.nonzero(pixels.max(axis=2) > 128)
    return [] if not len(x) else [[x.min(), y.min(), x.max() + 1, y.max() + 1, 0.7, 0]]


class Brightest:
    """The same as an object."""

    def predict(self, batch):
        """Find it in each tile."""
        return [brightest(pixels) for pixels in batch]


def _scripted(folder):
    (torch,) = needs("torch")
    path = folder / "scripted.pt"
    if not path.exists():
        torch.jit.script(red_finder()).save(path)
    return str(path)


def _sahi(folder):
    _, sahi, _ = needs("torchvision", "sahi", "ultralytics")
    path = folder / "sahi.pt"
    if not path.exists():
        yolo(folder).rename(path)
    return sahi.AutoDetectionModel.from_pretrained(
        "ultralytics", model_path=str(path), confidence_threshold=1e-5, device="cpu"
    )


def _saved(folder, task):
    path = folder / task
    return str(path if path.exists() else pipeline_folder(folder, task))


def _yolo(folder):
    needs("torchvision", "ultralytics")
    path = folder / "yolov8n.pt"
    return str(path if path.exists() else yolo(folder))


# Name to what makes the model; given a folder and an endpoint.
MODELS = {
    "blobs": lambda folder, server: model("blobs"),
    "nuclei": lambda folder, server: model("nuclei"),
    "textlines": lambda folder, server: model("textlines"),
    "function": lambda folder, server: model(brightest),
    "object": lambda folder, server: model(Brightest()),
    "onnx": lambda folder, server: model(str(tiny_onnx.finding_red(folder / "red.onnx"))),
    "hosted": lambda folder, server: model(
        "openai:spots:0-1 xyxy", base_url=server.url, box_format="0-1"
    ),
    "torchscript": lambda folder, server: model(_scripted(folder)),
    "transformers": lambda folder, server: model(
        _saved(folder, "object-detection"), score_floor=0.01
    ),
    "transformers-classifier": lambda folder, server: model(_saved(folder, "image-classification")),
    "ultralytics": lambda folder, server: model(_yolo(folder), score_floor=1e-4, input_size=160),
    "sahi": lambda folder, server: model(_sahi(folder)),
}
SLOW = ("torchscript", "transformers", "transformers-classifier", "ultralytics", "sahi")


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODELS]
)
def spec(request, folder, server):
    """Each adapter's model in turn."""
    return MODELS[request.param](folder, server)


def ask(spec, tiles):
    """Do with a model what a worker does."""
    made = build(spec)
    if isinstance(made, HostedModel) and spec.hosted:
        return made.request(made.encode(tiles))
    return made.predict(tiles)


def tile(height=96, width=96):
    """A dark tile with a bright, reddish rectangle."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (250, 190, 60)
    return pixels


def same(one, other):
    """Say whether two findings are equal."""
    return (
        np.array_equal(one.boxes, other.boxes)
        and np.array_equal(one.scores, other.scores, equal_nan=True)
        and list(one.labels) == list(other.labels)
        and dict(one.tile_scores) == dict(other.tile_scores)
    )


def test_it_travels_small(spec):
    """A spec is picklable, a megabyte at most, and says in words what it is."""
    blob = pickle.dumps(spec)
    assert len(blob) < 1_100_000 and pickle.loads(blob) == spec
    assert KEY.encode() not in blob and KEY not in repr(spec)
    assert spec.name and len(spec.fingerprint) >= 16 and spec.batch_size >= 1


def test_the_same_model_has_the_same_identity(request, spec, folder, server):
    """Declared again it is the same; declared with another nms its answers are not the same."""
    name = request.node.callspec.params["spec"]
    again = MODELS[name](folder, server)
    assert again.fingerprint == spec.fingerprint
    assert model(spec, nms=0.123).fingerprint != spec.fingerprint
    assert model(spec, device="cpu", batch_size=3).fingerprint == spec.fingerprint


def test_one_answer_for_each_tile_in_its_frame(spec):
    """Findings lie within the tile, have words for labels, and scores from 0 to 1 or none."""
    tiles = [tile(), tile(64, 130), tile()]
    answers = list(ask(spec, tiles))
    assert len(answers) == 3 and all(isinstance(answer, Findings) for answer in answers)
    for answer, pixels in zip(answers, tiles, strict=True):
        height, width = pixels.shape[:2]
        assert (answer.boxes >= -1).all() and (answer.boxes <= [width + 1, height + 1] * 2).all()
        assert all(type(label) is str for label in [*answer.labels, *answer.tile_scores])
        scores = np.array([*answer.scores, *answer.tile_scores.values()])
        assert (np.isnan(scores) | ((scores >= 0) & (scores <= 1))).all()


def test_odd_tiles_are_survived(spec):
    """No tile, one pixel, one row, one column, black and white."""
    assert list(ask(spec, [])) == []
    odd = [
        np.zeros((1, 1, 3), np.uint8),
        tile(1, 77),
        tile(53, 1),
        np.full((33, 47, 3), 255, np.uint8),
    ]
    answers = [ask(spec, [pixels]) for pixels in odd]
    assert [len(answer) for answer in answers] == [1, 1, 1, 1]


def test_it_answers_the_same_again_and_leaves_tiles_alone(spec):
    """Deterministic, alone or among others, also on memory that cannot be written to."""
    pixels = tile()
    kept = pixels.copy()
    pixels.flags.writeable = False
    first, second = ask(spec, [pixels])[0], ask(spec, [pixels])[0]
    assert same(first, second) and np.array_equal(pixels, kept)
    assert same(ask(spec, [tile(40, 50), pixels])[1], first)


@pytest.mark.parametrize(
    ("library", "suffix", "remedy"),
    [
        ("onnxruntime", ".onnx", r"pip install 'tilevision\[onnx\]'"),
        ("torch", ".pt", r"pip install 'tilevision\[torch\]'"),
        ("transformers", "", r"pip install 'tilevision\[transformers\]'"),
    ],
)
def test_a_missing_library_is_one_line(tmp_path, monkeypatch, library, suffix, remedy):
    """It says what to install, before anything runs."""
    import zipfile

    path = tmp_path / f"m{suffix}"
    if suffix == ".onnx":
        tiny_onnx.finding_red(path)
    elif suffix:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/constants.pkl", b"")
    else:
        path.mkdir()
        (path / "config.json").write_text('{"architectures": ["YolosForObjectDetection"]}')
    present = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == library else present(name)
    )
    with pytest.raises(ModelError, match=remedy) as error:
        model(str(path))
    assert "\n" not in str(error.value)


def test_each_name_tells_its_stage_and_what_it_needs():
    """The registry says what a model serves and whether its library is here."""
    listed = {known.name: known for known in models()}
    assert {"blobs", "nuclei", "textlines", "limits", "summary", "openai"} <= set(listed)
    assert listed["openai"].extra == "vlm" and listed["openai"].installed
    assert all(known.stages and known.summary for known in listed.values())
