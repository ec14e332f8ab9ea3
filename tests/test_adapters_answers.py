"""What a user's model may return, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tilevision.adapters.answers import KEYS, findings_of
from tilevision.adapters.function import FunctionModel, ObjectModel
from tilevision.errors import ModelError
from tilevision.findings import Findings

EDGES = ("xmin", "ymin", "xmax", "ymax")
BOX = [2.0, 3.0, 10.0, 12.0]


@pytest.mark.parametrize("answer", [None, [], (), np.empty((0, 6)), np.array([]), Findings()])
def test_nothing_is_an_answer(answer):
    """Empty results of any kind are no detections."""
    assert len(findings_of(answer, "m")) == 0


@pytest.mark.parametrize(
    "answer",
    [
        np.array([[*BOX, 0.5, 1]]),
        [[*BOX, 0.5, 1]],
        [np.array([*BOX, 0.5, 1])],
        np.array([[*BOX, 0.5, 1]], dtype=np.float16),
        [{"box": BOX, "score": 0.5, "class_id": 1}],
        [{"bbox": np.array(BOX), "confidence": 0.5, "class_id": 1}],
        {"box": BOX, "score": 0.5, "class_id": 1},
        [dict(zip(EDGES, BOX, strict=True), score=0.5, class_id=1)],
        {"boxes": [BOX], "scores": [0.5], "labels": np.array([1])},
        pd.DataFrame(
            [[*BOX, 0.5, 1]], columns=["xmin", "ymin", "xmax", "ymax", "score", "class_id"]
        ),
        SimpleNamespace(
            xyxy=np.array([BOX]), confidence=np.array([0.5]), class_id=np.array([1]), mask=None
        ),
        Findings([BOX], [0.5], ["class_1"], [1]),
    ],
)
def test_every_documented_form_is_the_same_detection(answer):
    """Arrays, lists, dicts, frames and supervision's detections say the same."""
    assert findings_of(answer, "m") == Findings([BOX], [0.5], ["class_1"], [1])


def test_scores_may_be_missing():
    """Without a score it is NaN, never 1.0."""
    assert np.isnan(findings_of([[1, 2, 3, 4]], "m").scores).all()
    mixed = findings_of([{"box": BOX, "score": 0.5}, {"box": [0, 0, 1, 1]}], "m")
    assert mixed.scores[0] == 0.5 and np.isnan(mixed.scores[1])


def test_names_give_labels_to_class_numbers():
    """Names come as a list or by number; numbers without a name say so."""
    rows = [[*BOX, 0.9, 0], [*BOX, 0.8, 7]]
    assert list(findings_of(rows, "m", ["cat"]).labels) == ["cat", "class_7"]
    assert list(findings_of(rows, "m", {"7": "dog"}).labels) == ["class_0", "dog"]


def test_shapes_and_points_stand_for_boxes():
    """A polygon, rotated box or point without a box gets the box around it."""
    ring = [[1, 1], [5, 2], [3, 9]]
    found = findings_of(
        [
            {"polygon": ring, "score": 0.9},
            {"oriented": [[0, 2], [2, 0], [4, 2], [2, 4]], "score": 0.8},
            {"point": (7, 8), "score": 0.7, "text": "here", "attributes": {"age": 3}},
        ],
        "m",
    )
    assert found.boxes.tolist() == [[1, 1, 5, 9], [0, 0, 4, 4], [7, 8, 7, 8]]
    assert found.points is not None and found.points[2].tolist() == [7, 8]
    assert found.texts == (None, None, "here") and found.attributes == (None, None, {"age": 3})


def test_masks_of_supervision_become_outlines():
    """A mask's outline runs along the edges of its pixels, holes included."""
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 4:14] = True
    mask[8:10, 8:10] = False
    answer = SimpleNamespace(
        xyxy=np.array([[4, 5, 14, 15]]),
        confidence=None,
        class_id=None,
        mask=mask[None],
        data={"class_name": np.array(["ring"])},
    )
    found = findings_of(answer, "m")
    assert list(found.labels) == ["ring"] and found.polygons is not None
    ((exterior, hole),) = found.polygons[0]
    assert (exterior.min(0).tolist(), exterior.max(0).tolist()) == ([4, 5], [14, 15])
    assert (hole.min(0).tolist(), hole.max(0).tolist()) == ([8, 8], [10, 10])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("boxes", "value of type str"),
        (7, "value of type int"),
        (True, "value of type bool"),
        ([1, 2, 3, 4], "list of int, length 4"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((3, 3)), r"shape \(3, 3\)"),
        (np.zeros((3, 7)), r"shape \(3, 7\)"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(8, 8, 3\)"),
        ([["a", "b", "c", "d"]], "an array|return"),
        ([None], "list of NoneType"),
        ((i for i in range(3)), "generator"),
        ([[0, 0, 1, float("nan")]], "not finite"),
        ([[0, 0, 1, 1, 7]], "score 7 lies outside 0 to 1"),
        ([[5, 5, 1, 1]], "inverted"),
        ([[0, 0, 1, 1, 0.5, 1.5]], "Class 1.5 is no whole number"),
        ([{"bx": BOX}], "Key 'bx' is not known. Did you mean 'box'"),
        ([{"score": 0.5}], "no box"),
        ({}, "no box"),
        ([{"box": [1, 2, 3]}], r"shape \(n, 4\)"),
        ([{"box": BOX, "score": "high"}], "scores must be numbers"),
        ([{"box": BOX, "class_id": "cat"}], "cat"),
        ([{"box": BOX, "polygon": [[0, 0], [1, 1]]}], "3 points or more"),
        ({"boxes": [BOX], "scrs": [0.5]}, "Key 'scrs' is not known"),
        ({"boxes": [BOX], "scores": [0.5, 0.6]}, "scores has 2 rows"),
    ],
)
def test_nonsense_is_one_clear_line(answer, said):
    """What came and what is accepted, as an error that names the model."""
    with pytest.raises(ModelError, match=said) as error:
        findings_of(answer, "ships")
    assert str(error.value).startswith("Model ships returned ") and "\n" not in str(error.value)


def test_ultralytics_results_are_refused_with_the_fix():
    """Its models expect BGR: swapping silently or not at all would both be wrong."""
    result = type("Results", (), {"__module__": "ultralytics.engine.results"})()
    with pytest.raises(ModelError, match=r"pixels\[\.\.\., ::-1\].*BGR"):
        findings_of(result, "m")


def test_documented_keys_are_all_understood():
    """Every key in the table is read by itself or with the rest of its box."""
    values = {"box": BOX, "score": 0.5, "label": "a", "class_id": 1, "text": "t", "point": [1, 1]}
    values |= {"polygon": [[0, 0], [1, 0], [0, 1]], "oriented": np.zeros((4, 2)), "attributes": {}}
    for key, meaning in KEYS.items():
        if meaning in values:
            assert len(findings_of([{"box": BOX, key: values[meaning]}], "m")) == 1, key


def test_batched_functions_answer_for_each_tile():
    """A batched function gets a list of tiles, and must return as many answers."""
    tiles = [np.zeros((4, 5, 3), np.uint8)] * 3
    good = FunctionModel(lambda batch: [[[0, 0, len(batch), 1]]] * 3, "m", batched=True)
    assert [f.boxes[0, 2] for f in good.predict(tiles)] == [3, 3, 3]
    for wrong in ([], None, np.zeros((3, 4))):
        bad = FunctionModel(lambda batch, wrong=wrong: wrong, "m", batched=True)
        with pytest.raises(ModelError, match="one answer for each tile"):
            bad.predict(tiles)


def test_answers_of_objects_are_read_like_those_of_functions():
    """A model object may return arrays, too; no list at all is refused."""

    class Anything:
        def predict(self, batch):
            return [np.array([[0, 0, 1, 1]])] * len(batch) if len(batch) > 1 else "none"

    assert [len(f) for f in ObjectModel(Anything(), "m").predict([None, None])] == [1, 1]
    with pytest.raises(ModelError, match="returned a str; return a list"):
        ObjectModel(Anything(), "m").predict([None])
