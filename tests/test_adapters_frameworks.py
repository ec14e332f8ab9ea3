"""Models of torch, torchvision, transformers, Ultralytics and SAHI: found as their library does."""

import importlib

import numpy as np
import pytest
from framework_models import (
    OPERATORS,
    enliven,
    needs,
    pipeline_folder,
    red_and_blue,
    red_finder,
    yolo,
)
from PIL import Image

import tilevision as tv
from tilevision.adapters import modelfiles
from tilevision.catalogue import model
from tilevision.errors import ModelError
from tilevision.fingerprint import fingerprint_value, version
from tilevision.modelspec import build, on_device, runtime

pytestmark = pytest.mark.slow  # importing these libraries takes seconds

PICTURE = red_and_blue()
FLOOR = 1e-4  # networks with random weights are sure of nothing
RED = [10, 20, 40, 50]
SWAPPED = np.ascontiguousarray(PICTURE[..., ::-1])


@pytest.fixture(autouse=True)
def own_temp(tmp_path, monkeypatch):
    """Objects are saved under the test's own folder."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))


@pytest.fixture
def picture_file(tmp_path):
    """The picture as a file, which each library reads in its own order of channels."""
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def find(spec, picture=PICTURE):
    return build(spec).predict([picture])[0]


def among(boxes, theirs):
    """Say whether each box is one of theirs, cut to the picture."""
    theirs = theirs.clip(0, [120, 90] * 2)
    return all(np.abs(theirs - box).max(axis=1).min() < 0.05 for box in boxes)


def torch_models(folder):
    (torch,) = needs("torch")
    whole, scripted, traced = (folder / name for name in ("whole.pt", "scripted.pt", "graph.pt2"))
    torch.save(red_finder(), whole)
    torch.jit.script(red_finder()).save(scripted)
    torch.export.save(
        torch.export.export(red_finder("batch"), (torch.rand(1, 3, 96, 128),)), traced
    )
    return {"torch": whole, "torchscript": scripted, "export": traced}


@pytest.mark.parametrize("kind", ["torch", "torchscript", "export"])
def test_networks_in_files_are_known_by_what_stands_in_them(tmp_path, kind):
    """Whole, scripted and exported networks find red where it is; blue is told apart from it."""
    path = torch_models(tmp_path)[kind]
    spec = model(str(path), names={"1": "red"})
    assert spec.params["framework"] == kind and spec.min_score == 0.25
    found = find(spec)
    assert found.boxes.tolist() == [RED] and list(found.labels) == ["red"]
    assert found.scores == pytest.approx(0.9)
    blue = find(model(str(path), channels="bgr"))
    assert blue.boxes.tolist() == [[70, 40, 110, 80]]


def test_an_exported_network_of_one_size_decides_the_grid_and_larger_tiles_are_shrunk(tmp_path):
    """Its only size is the input size; a tile twice as large is found at its own pixels."""
    spec = model(str(torch_models(tmp_path)["export"]))
    assert spec.input_size == (128, 96)
    large = PICTURE.repeat(2, 0).repeat(2, 1)
    assert np.abs(find(spec, large).boxes - np.array(RED) * 2).max() <= 3


@pytest.mark.parametrize("scripted", [False, True])
def test_a_live_network_travels_as_a_file_of_its_content(scripted):
    """The same weights are the same model, others another one; masks come as polygons."""
    (torch,) = needs("torch")
    network = red_finder(masks=not scripted)
    made = torch.jit.script(network) if scripted else network
    spec = model(made)
    assert model(made).fingerprint == spec.fingerprint and not spec.payload
    found = find(spec)
    assert found.boxes.tolist() == [RED]
    assert scripted or (found.polygons is not None and found.polygons[0] is not None)
    with torch.no_grad():
        next(iter(made.parameters())).add_(0.1)
    assert model(made).fingerprint != spec.fingerprint


def test_a_detector_of_torchvision_finds_what_it_finds_without_us(picture_file):
    """An SSD with random weights, called by hand on the picture in RGB from 0 to 1."""
    torch, torchvision = needs("torch", "torchvision")
    torch.manual_seed(0)
    network = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    enliven(network)
    pixels = torch.from_numpy(np.array(Image.open(picture_file))).permute(2, 0, 1) / 255
    with torch.no_grad():
        (seen,) = network([pixels])
    spec = model(network, score_floor=0.0)
    found = find(spec)
    boxes = seen["boxes"].numpy()
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    assert len(found) == len(boxes) > 10
    assert np.allclose(np.sort(found.boxes, 0), np.sort(boxes, 0), atol=0.01)
    assert not np.array_equal(find(spec, SWAPPED).scores, found.scores)


@pytest.mark.parametrize(
    "task", ["object-detection", "zero-shot-object-detection", "image-segmentation"]
)
def test_a_pipeline_finds_what_it_finds_without_us(tmp_path, picture_file, task):
    """From the folder and from the object, as the pipeline does from a picture's file."""
    (transformers,) = needs("transformers")
    folder = pipeline_folder(tmp_path, task)
    given = {"candidate_labels": ["cat", "dog"]} if task.startswith("zero") else {}
    pipeline = transformers.pipeline(task, model=str(folder), device="cpu")
    said = {"subtask": "instance"} if task == "image-segmentation" else given
    rows = pipeline(picture_file, threshold=0.0, **said)
    spec = model(str(folder), score_floor=0.0, **given)
    live = model(pipeline, score_floor=0.0, **given)
    assert spec.params["task"] == live.params["task"] == task
    found = find(spec)
    assert 0 < len(found) <= len(rows)
    scores = {round(row["score"], 4) for row in rows}
    assert {round(float(score), 4) for score in found.scores} <= scores
    assert find(live).scores == pytest.approx(found.scores, abs=1e-5)
    assert task == "image-segmentation" or {*found.labels} <= {"cat", "dog"}
    assert task != "image-segmentation" or found.polygons[0] is not None
    swapped = find(spec, SWAPPED)
    assert swapped.scores.tolist() != found.scores.tolist()


def test_a_classifier_gives_scores_of_the_tile(tmp_path, picture_file):
    """All classes, as the pipeline scores the picture's file; the order of channels is told."""
    (transformers,) = needs("transformers")
    folder = pipeline_folder(tmp_path, "image-classification")
    rows = transformers.pipeline("image-classification", model=str(folder))(picture_file)
    spec = model(str(folder))
    assert spec.input_size == (32, 32)
    found = find(spec)
    assert found.tile_scores == pytest.approx({r["label"]: r["score"] for r in rows}, abs=1e-5)
    assert find(spec, SWAPPED).tile_scores != pytest.approx(found.tile_scores, abs=1e-5)


@pytest.mark.parametrize("kind", ["yolov8n", "yolov8n-seg", "yolov8n-obb", "yolov8n-cls"])
def test_ultralytics_finds_what_it_finds_without_us(tmp_path, picture_file, kind):
    """Its own reading of the picture's file (BGR) gives the same as our tile (RGB)."""
    _, ultralytics = needs("torchvision", "ultralytics")
    path = yolo(tmp_path, kind)
    spec = model(str(path), score_floor=FLOOR * (not kind.endswith("cls")), input_size=320)
    found = find(spec)
    direct = ultralytics.YOLO(str(path)).predict(
        picture_file, conf=FLOOR, imgsz=[320, 320], max_det=1000, verbose=False, device="cpu"
    )[0]
    other = find(spec, SWAPPED)
    if kind.endswith("cls"):
        assert sorted(found.tile_scores.values()) == pytest.approx(
            sorted(direct.probs.data.tolist()), abs=1e-5
        )
        assert found.tile_scores != pytest.approx(other.tile_scores, abs=1e-7)
        return
    seen = direct.obb if kind.endswith("obb") else direct.boxes
    assert 0 < len(found) <= len(seen)
    best = float(seen.conf.max())
    assert among(found.boxes, seen.xyxy.numpy())
    assert found.scores.max() == pytest.approx(best, abs=1e-9)
    assert other.scores.max() != pytest.approx(best, abs=1e-9)
    assert (found.oriented is not None) == kind.endswith("obb")
    assert (found.polygons is not None) == kind.endswith("seg")


def test_a_live_yolo_is_the_same_before_and_after_it_was_used(tmp_path):
    """Saved without a date, so what it is does not change with the day or with use."""
    _, ultralytics = needs("torchvision", "ultralytics")
    live = ultralytics.YOLO(str(yolo(tmp_path)))
    before = model(live)
    live.predict(SWAPPED, verbose=False, device="cpu")
    assert model(live).fingerprint == before.fingerprint
    live.task = "depth"
    with pytest.raises(ModelError, match="depth, which is not read"):
        model(live)


def test_sahi_finds_what_it_finds_without_us(tmp_path, picture_file):
    """Its class and arguments travel, its own threshold counts, and it is handed RGB."""
    _, sahi, _ = needs("torchvision", "sahi", "ultralytics")
    from sahi.predict import get_prediction

    made = sahi.AutoDetectionModel.from_pretrained(
        "ultralytics",
        model_path=str(yolo(tmp_path)),
        confidence_threshold=1e-5,
        image_size=320,
        device="cpu",
    )
    spec = model(made)
    listed = {str(number): name for number, name in enumerate(spec.classes)}
    assert listed == made.category_mapping
    found = find(spec)
    direct = get_prediction(picture_file, made).object_prediction_list
    theirs = np.array([one.bbox.to_xyxy() for one in direct])
    assert len(found) and among(found.boxes, theirs)
    best = max(one.score.value for one in direct)
    assert found.scores.max() == pytest.approx(best, abs=1e-9)
    assert find(spec, SWAPPED).scores.max() != pytest.approx(best, abs=1e-9)
    made.confidence_threshold = 1.0
    assert model(made).fingerprint != spec.fingerprint and not len(find(model(made)))
    made.model_path = None
    with pytest.raises(ModelError, match="no model_path; workers load it anew: give model_path="):
        model(made)


def test_through_a_real_cluster(tmp_path, monkeypatch):
    """Each framework's model, loaded by workers from its path, finds what it finds here."""
    needs("torch", "torchvision", "transformers", "ultralytics")
    monkeypatch.setenv("PYTHONPATH", str(OPERATORS))
    paths = [
        torch_models(tmp_path)["torchscript"],
        pipeline_folder(tmp_path),
        yolo(tmp_path),
    ]
    from distributed import Client

    from tilevision.cluster import local_cluster

    with local_cluster(workers=1) as ours, Client(ours.client.scheduler.address):
        for path in paths:
            spec = model(str(path), score_floor=FLOOR)
            result = tv.analyze(
                PICTURE, spec, grid=(1, 1), min_score=FLOOR, checkpoint=None, progress=False
            )
            assert result.complete and len(result.findings) == len(find(spec)), path


def test_a_file_that_is_no_model_is_one_clear_line(tmp_path):
    """Weights alone, a cut file, a folder of something else, a wrong parameter or device."""
    (torch,) = needs("torch")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pth")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "weights.pth").read_bytes()[:400])
    (tmp_path / "folder").mkdir()
    script = str(torch_models(tmp_path)["torchscript"])
    for given, said in (
        (("weights.pth", {}), "holds weights without the network"),
        (("cut.pt", {}), "no file that PyTorch writes"),
        (("folder/", {}), "no config.json"),
        (("absent.pt2", {}), "There is no file"),
        ((script, {"nmaes": ["a"]}), "no parameter 'nmaes'. Did you mean 'names'"),
        ((script, {"normalize": "often"}), "normalize of model .* give one of 0..1, 0..255"),
        ((script, {"framework": "caffe"}), "framework of model .* give torch"),
    ):
        text, declared = given
        path = text if text.startswith("/") else f"{tmp_path}/{text}"
        with pytest.raises(ModelError, match=said) as error:
            model(path, **declared)
        assert "\n" not in str(error.value)
    spec = model(script)
    assert (
        runtime(spec)
        == f"torch {torch.__version__}, {'cuda:0' if torch.cuda.is_available() else 'cpu'}"
    )
    if not torch.cuda.is_available():
        with pytest.raises(
            ModelError, match=r"'cuda:0' was asked for, but torch .* sees none here"
        ):
            runtime(on_device(spec, "cuda:0"))


def test_a_file_that_changes_after_planning_is_not_used(tmp_path):
    """The worker compares the content before it loads."""
    path = torch_models(tmp_path)["torchscript"]
    spec = model(str(path))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ModelError, match="is not what this run was planned with"):
        build(spec)
    path.unlink()
    with pytest.raises(ModelError, match=r"cannot see .* on a folder that all workers share"):
        build(spec)


def test_an_object_is_saved_once_for_its_content(tmp_path):
    """Declared again, it takes no more room; nobody else may read or write there."""
    needs("torch")
    network = red_finder()
    places = {model(network).params["path"] for _ in range(2)}
    home = modelfiles._home()
    assert len(places) == 1 and len(list(home.iterdir())) == 1
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["yolov8n", "yolov8n-obb", "yolov8n-seg"])
def test_what_was_suppressed_by_upright_boxes_is_computed_again(tmp_path, kind):
    """Only `nms=` of models with outlines or rotated boxes is another model than it was."""
    needs("torch", "ultralytics")
    path = str(yolo(tmp_path, kind))
    facts = {name: getattr(model(path, nms=0.5), name) for name in ("params", "max_detections")}
    counted = sorted((k, v) for k, v in facts["params"].items() if k != "path")
    adapter = importlib.import_module("tilevision.adapters.frameworks.ultralytics_models")
    before = fingerprint_value(
        (adapter.VERSION, counted, None, [640, 640], facts["max_detections"], 0.5,
         version("ultralytics"))
    )  # fmt: skip
    assert (model(path, nms=0.5).fingerprint == before) == (kind == "yolov8n")
