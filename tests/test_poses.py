"""Key points are read wherever a model gives them: x, y and confidence of each, as a column."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from exported import result_of
from framework_models import needs
from tiny_onnx import saying

import tilevision as tv
from tilevision.adapters.answers import findings_of
from tilevision.catalogue import model
from tilevision.codec import decode, encode
from tilevision.errors import ModelError, RunError
from tilevision.findings import Findings
from tilevision.modelspec import build

BOX = [2.0, 3.0, 10.0, 12.0]
POSE = [[3.0, 4.0, 0.9], [9.0, 11.0, 0.4], [5.0, 6.0, 0.0]]
TILE = np.full((64, 128, 3), 128, np.uint8)  # half of it is border in an input of 64×64 px


def found_by(path, **declared):
    spec = model(str(path), **declared)
    return spec, build(spec).predict([TILE])[0]


# Answers of functions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        Findings([BOX], [0.5], keypoints=[POSE]),
        [{"box": BOX, "score": 0.5, "keypoints": POSE}],
        [{"box": BOX, "score": 0.5, "keypoints": np.array(POSE)}],
        [
            {
                "x": 6.0,
                "y": 7.5,
                "width": 8.0,
                "height": 9.0,
                "confidence": 0.5,
                "keypoints": [{"x": x, "y": y, "confidence": c, "class_id": 0} for x, y, c in POSE],
            }
        ],
        {"boxes": [BOX], "scores": [0.5], "keypoints": np.array([POSE])},
    ],
)
def test_every_form_of_key_points_is_the_same(answer):
    """Findings, rows, Roboflow's rows and torchvision's columns say the same."""
    assert findings_of(answer, "m") == Findings([BOX], [0.5], keypoints=[POSE])


def test_points_without_confidence_and_rows_without_points():
    """A pair has confidence 1; a detection without a pose has NaN."""
    rows = [{"box": BOX, "score": 0.9, "keypoints": [[3, 4], [5, 6]]}, {"box": BOX, "score": 0.5}]
    found = findings_of(rows, "m")
    assert found.keypoints[0].tolist() == [[3, 4, 1], [5, 6, 1]]
    assert np.isnan(found.keypoints[1]).all()


def test_key_points_of_supervision_get_a_box():
    """`supervision.KeyPoints` has no boxes: each goes around the points that are there."""
    kind = type("KeyPoints", (SimpleNamespace,), {})
    xy = np.array([[[3.0, 4.0], [9.0, 11.0], [0.0, 0.0]]])
    sure = np.array([[0.9, 0.4, 0.0]])
    answer = kind(xy=xy, keypoint_confidence=sure, class_id=np.array([0]), data={})
    found = findings_of(answer, "m", ["person"])
    assert found.boxes.tolist() == [[3, 4, 9, 11]] and found.labels.tolist() == ["person"]
    assert found.keypoints[0].tolist() == [[3, 4, 0.9], [9, 11, 0.4], [0, 0, 0]]


def test_a_tile_score_that_is_no_probability_is_refused():
    """It was drawn as 1 in every heatmap; the line says where a plain number may go."""
    assert findings_of(Findings(tile_scores={"forest": 0.8}), "m").tile_scores == {"forest": 0.8}
    for score in (3.2, -0.5, float("nan")):
        with pytest.raises(ModelError, match=r"no probability from 0 to 1; .*attributes"):
            findings_of(Findings(tile_scores={"age": score}), "m")


def test_an_image_without_detections_is_an_empty_file_of_poses(tmp_path):
    """One of many images may have nothing: YOLO-pose is no error there, as YOLO is not."""
    folder = result_of(Findings()).save(tmp_path / "a.yolo-pose")
    (labels,) = (folder / "labels").iterdir()
    assert labels.read_text() == ""
    with pytest.raises(RunError, match="no key points"):
        result_of(Findings([[1, 1, 5, 5]])).save(tmp_path / "b.yolo-pose")


def test_a_tile_where_a_pose_model_finds_nothing_is_stored_and_read():
    """No detection of five points is written as an empty list, which says no number of points."""
    nothing = Findings(keypoints=np.zeros((0, 5, 3)))
    back = decode(encode(nothing))
    assert back == nothing and len(back) == 0
    some = Findings([BOX], [0.5], keypoints=[POSE])
    assert Findings.concat([back, some]) == Findings.concat([some, back]) == some
    with pytest.raises(ModelError, match="0 rows, boxes has 1"):
        Findings([BOX], keypoints=[])


# ONNX ---------------------------------------------------------------------------------------


def test_an_image_without_anybody_is_an_empty_result(tmp_path: Path, cluster) -> None:
    """A run of a pose model over empty tiles ends, complete, and is restored."""
    notes = {"task": "pose", "kpt_shape": [3, 3], "names": {0: "person"}, "stride": 32}
    answer = {"output0": np.zeros((14, 84), np.float32)}
    path = saying(tmp_path / "m.onnx", answer, notes=notes)
    for status in ("done", "restored"):
        result = tv.analyze(TILE, str(path), grid=64, checkpoint=tmp_path / "kept", progress=False)
        assert result.complete and len(result.findings) == 0
        assert set(result.tiles["status"]) == {status}
        assert "keypoint0_x" in result.to_dataframe()


@pytest.mark.parametrize("each", [2, 3])
@pytest.mark.parametrize("ended", [False, True])
def test_yolo_pose(tmp_path: Path, each, ended) -> None:
    """Ultralytics' pose models: columns of key points after the class scores, or chosen rows.

    Its exporter notes kpt_shape; input pixels come back to the tile through the letterbox.
    """
    count = 3
    points = np.array([[20, 30, 0.9], [40, 34, 0.5], [30, 20, 0.1]], np.float32)[:, :each]
    box = (16, 24, 48, 40, 0.8, 0) if ended else (32, 32, 32, 16, 0.8)
    row = np.concatenate([np.array(box, np.float32), points.reshape(-1)])
    out = np.zeros((300 if ended else 84, len(row)), np.float32)
    out[5] = row
    notes = {"task": "pose", "kpt_shape": [count, each], "names": {0: "person"}, "stride": 32}
    path = saying(tmp_path / "m.onnx", {"output0": out if ended else out.T}, notes=notes)
    spec, found = found_by(path)
    assert spec.params["family"] == ("yolo-pose-end2end" if ended else "yolo-pose")
    assert found.labels.tolist() == ["person"]
    # The tile of 128×64 px is shown at half its size, 16 px from the top.
    assert found.boxes[0].tolist() == [32, 16, 96, 48]
    right = points[:, :2] * 2 - (0, 32)
    assert found.keypoints[0, :, :2].tolist() == right.tolist()
    assert found.keypoints[0, :, 2] == pytest.approx(points[:, 2] if each == 3 else np.ones(3))


def test_a_pose_model_without_its_shape_is_refused(tmp_path: Path) -> None:
    """Without kpt_shape nobody knows which columns are points."""
    path = saying(
        tmp_path / "m.onnx", {"o": np.zeros((56, 84), np.float32)}, notes={"task": "pose"}
    )
    with pytest.raises(ModelError, match="was exported for pose, which is not read"):
        model(str(path))


@pytest.mark.parametrize("named", [True, False])
def test_torchvision_key_points(tmp_path: Path, named) -> None:
    """Keypoint R-CNN gives (n, k, 3) beside its boxes, under names or by shape."""
    answers = {
        "boxes": np.array([[10, 20, 30, 40]], np.float32),
        "labels": np.array([1]),
        "scores": np.array([0.9], np.float32),
        "keypoints": np.array([[[12, 22, 1], [28, 38, 1]]], np.float32),
    }
    if not named:
        answers = {str(number): value for number, value in enumerate(answers.values())}
    spec, found = found_by(saying(tmp_path / "m.onnx", answers, batched=False), letterbox=False)
    assert spec.params["family"] == "torchvision"
    assert found.keypoints[0].tolist() == [[24, 22, 1], [56, 38, 1]]
    assert found.boxes[0].tolist() == [20, 20, 60, 40]


def test_yunet_landmarks(tmp_path: Path) -> None:
    """Five landmarks of a face, each relative to its cell (Wu et al. 2023)."""
    answers = {}
    for stride in (8, 16, 32):
        cells = (64 // stride) ** 2
        for name, columns in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            answers[f"{name}_{stride}"] = np.zeros((cells, columns), np.float32)
    answers["cls_8"][9] = answers["obj_8"][9] = 0.81  # row 1, column 1
    answers["bbox_8"][9] = (0.5, 0.5, np.log(2), np.log(2))
    answers["kps_8"][9] = np.arange(10) / 10
    _, found = found_by(saying(tmp_path / "m.onnx", answers), letterbox=False)
    right = (np.arange(10).reshape(5, 2) / 10 + 1) * 8 * (2, 1)
    np.testing.assert_allclose(found.keypoints[0, :, :2], right, atol=1e-4)


# Libraries ----------------------------------------------------------------------------------


def test_a_network_of_torchvisions_form_gives_key_points(tmp_path):
    """A dict with keypoints (n, k, 3), as Keypoint R-CNN returns; shrunk tiles are scaled back."""
    (torch,) = needs("torch")

    class Pose(torch.nn.Module):
        def forward(self, x):
            zero = x.mean() * 0
            found = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]) + zero}
            found |= {"scores": torch.tensor([0.9]) + zero, "labels": torch.tensor([1])}
            return found | {"keypoints": torch.tensor([[[10.0, 12.0, 1.0]]]) + zero}

    program = torch.export.export(Pose().eval(), (torch.zeros(1, 3, 64, 64),))
    torch.export.save(program, str(tmp_path / "m.pt2"))
    detector = build(model(str(tmp_path / "m.pt2")))
    for times in (1, 2):
        (found,) = detector.predict([np.zeros((64 * times, 64 * times, 3), np.uint8)])
        assert found.keypoints[0].tolist() == [[10 * times, 12 * times, 1]]


def test_ultralytics_poses(tmp_path, monkeypatch):
    """A pose network of Ultralytics finds the points that its own predict() finds.

    Oracle: ultralytics.YOLO on the same picture.
    """
    torch, ultralytics = needs("torch", "ultralytics")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    yolo = ultralytics.YOLO("yolov8n-pose.yaml", task="pose")
    path = tmp_path / "pose.pt"
    torch.save({"model": yolo.model, "train_args": {"task": "pose", "imgsz": 128}}, path)
    spec = model(str(path), score_floor=1e-6)
    picture = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    (found,) = build(spec).predict([picture])
    oracle = ultralytics.YOLO(str(path)).predict(
        np.ascontiguousarray(picture[..., ::-1]), imgsz=[128, 128], conf=1e-6, iou=0.7,
        max_det=1000, verbose=False, device="cpu",
    )[0]  # fmt: skip
    assert len(oracle.keypoints.data), "the network finds nothing to compare"
    best = int(oracle.boxes.conf.argmax())
    np.testing.assert_allclose(found.keypoints[0], oracle.keypoints.data[best].numpy(), atol=1e-3)
