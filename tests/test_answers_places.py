"""Answers whose numbers stand for something else: shares of the sides, scores for classes."""

from pathlib import Path

import numpy as np
import pytest
from framework_models import needs
from tiny_onnx import saying

from tilevision.adapters.answers import findings_of
from tilevision.catalogue import model
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import build

# As TensorFlow, Florence and `Results.boxes.xyxyn` give them.
SHARES = np.array([[0.1, 0.25, 0.4, 0.5], [0.5, 0.5, 1.002, 0.75]])


@pytest.mark.parametrize(
    "answer",
    [
        SHARES,
        np.column_stack([SHARES, [0.9, 0.8], [0, 1]]),
        [{"box": box, "score": 0.5} for box in SHARES.tolist()],
        [{"polygon": [[0.1, 0.1], [0.5, 0.1], [0.5, 0.4]]}],
        {"boxes": SHARES, "scores": [0.5, 0.4], "labels": [1, 2]},
        (SHARES, np.array([0.5, 0.4]), np.array([1, 2])),
        Findings(SHARES, [0.5, 0.4]),
    ],
)
@pytest.mark.parametrize("on_bad", ["raise", "drop"])
def test_shares_of_the_sides_are_no_pixels(answer, on_bad):
    """They were taken for specks in the first pixel of each tile, without a word."""
    with pytest.raises(ModelError, match=r"returned .*between 0 and 1, as shares.*give pixels"):
        findings_of(answer, "m", on_bad=on_bad)


@pytest.mark.parametrize(
    "boxes",
    [
        [[0, 0, 1, 1]],  # of whole pixels
        [[0, 0, 0.7, 0.9]],  # what the tile's corner cuts off
        [[0.5, 0.5, 0.5, 0.5]],  # a point
        [[0.2, 0.2, 0.9, 0.9], [10, 10, 20, 20]],  # a speck beside something larger
        [[0.2, 0.2, 0.9, 3]],
    ],
)
def test_what_lies_in_the_first_pixel_is_left_there(boxes):
    """A box is refused only where all of them are shares, and can be nothing else."""
    assert findings_of(np.array(boxes, float), "m").boxes.tolist() == boxes


@pytest.mark.parametrize(
    "answer",
    [
        # Boxes, classes, scores: the order of TensorFlow's detectors.
        (np.array([[5.0, 5, 9, 9]]), np.array([1.0]), np.array([0.87])),
        {"boxes": [[5, 5, 9, 9]], "scores": [1], "labels": [0.87]},
        [{"box": [5, 5, 9, 9], "score": 1, "label": 0.87}],
    ],
)
def test_a_score_in_the_place_of_a_class_is_refused(answer):
    """It was the name of a class, "0.87", and the class number was the score."""
    with pytest.raises(ModelError, match=r"Class 0.87 is no whole number.*and then classes"):
        findings_of(answer, "m")


@pytest.mark.parametrize("kind", ["torchvision", "mmdet"])
def test_shares_of_a_graph_are_refused_with_the_remedy(tmp_path: Path, kind: str) -> None:
    """Boxes, labels and scores as Azure's Custom Vision exports them look like torchvision's."""
    boxes, scores = SHARES.astype(np.float32), np.array([0.9, 0.8], np.float32)
    answers = {"detected_boxes": boxes, "labels": np.array([0, 1]), "detected_scores": scores}
    if kind == "mmdet":
        dets = np.column_stack([boxes, scores])
        answers = {"dets": dets, "labels": answers["labels"]}
    path = saying(tmp_path / "m.onnx", answers, batch=1, batched=False)
    spec = model(path)
    assert spec.params["family"] == kind
    tile = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ModelError, match=r"boxes between 0 and 1, as shares.*decode=f"):
        build(spec).predict([tile])

    def decode(outputs, info):
        shown = outputs["dets"] if "dets" in outputs else outputs["detected_boxes"]
        return shown[:, :4] * np.tile(info.input_size, 2)

    (found,) = build(model(path, decode=decode)).predict([tile])
    np.testing.assert_allclose(found.boxes.max(axis=0), [32, 32, 64, 48], atol=0.2)


@pytest.mark.slow
def test_shares_of_a_network_are_refused_with_the_remedy(tmp_path: Path) -> None:
    """As of a network in the form of torchvision's whose boxes are normalised."""
    (torch,) = needs("torch")

    class Normalised(torch.nn.Module):
        def forward(self, x):
            boxes = torch.tensor(SHARES, dtype=torch.float32) + x.mean() * 0
            return {"boxes": boxes, "scores": boxes[:, 2], "labels": torch.tensor([1, 2])}

    example = torch.zeros(1, 3, 64, 64)
    torch.export.save(torch.export.export(Normalised().eval(), (example,)), tmp_path / "m.pt2")
    detector = build(model(tmp_path / "m.pt2"))
    with pytest.raises(ModelError, match=r"boxes between 0 and 1, as shares.*pass a function"):
        detector.predict([np.zeros((64, 64, 3), np.uint8)])
