"""A tile that holds as many objects as its model can give is told: limits of the model's own.

Declared limits stand in ``test_infer.py``, those of rows and queries in ``test_onnx_whole.py``.
What `NonMaxSuppression` does is written in the operator's definition (onnx.ai, operators): at most
``max_output_boxes_per_class`` boxes for each class, none beyond.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_onnx import FLOAT, write

from tilevision.adapters.onnx.mostrows import suppressed_to
from tilevision.catalogue import model
from tilevision.errors import ModelError
from tilevision.grid import Grid
from tilevision.infer import Work, infer
from tilevision.modelspec import build
from tilevision.sources import ReadOptions, open_source

node = helper.make_node
ENDLESS = 2**63 - 1  # as torchvision writes "no limit"
MANY = 9  # boxes, all apart
ONE_CLASS = (
    node("Unsqueeze", ["best", "zero"], ["1"]),
    node("Unsqueeze", ["1", "zero"], ["scores"]),
)


def suppressing(
    path: Path,
    most: Any = None,
    *,
    before: Sequence[Any] = (),
    scores: Sequence[float] = (0.9,) * MANY,
    classes: int = 2,
    together: bool = False,
) -> Path:
    """Save a detector that suppresses by itself: `MANY` boxes of class 1, one of the others.

    `before` makes the most of boxes, "most", where `most` does not give it.
    """
    table = np.zeros((1, classes, MANY), np.float32)
    table[0, 1 % classes] = scores
    table[0, 0, 0] = scores[0]
    places = np.arange(MANY, dtype=np.float32)[:, None] * 10 + np.array([1, 1, 9, 9], np.float32)
    constants: dict[str, Any] = {
        "zero": np.array([0]),
        "places": places,
        "all": places[None],
        "which": np.array(2),
        "kind": np.array(1),
        "iou": np.array([0.5], np.float32),
        "least": np.array([0.1], "f4"),
        "flat": np.array([-1]),
        "axis": np.array([1]),
        "seven": np.array(7, np.int32),
        "sevens": np.array([7]),
        "two": np.array([2]),
        "one": np.array([1]),
        ("best" if together else "scores"): table[0].max(axis=0) if together else table,
    }
    if most is not None:
        constants["most"] = np.asarray(most)
    nodes = [
        *(ONE_CLASS if together else ()),
        *before,
        node("NonMaxSuppression", ["all", "scores", "most", "iou", "least"], ["chosen"]),
        node("Gather", ["chosen", "which"], ["rows"], axis=1),
        node("Gather", ["chosen", "kind"], ["labels"], axis=1),
        node("Gather", ["places", "rows"], ["boxes"]),
        node("Gather", ["best" if together else "line", "rows"], ["scored"]),
    ]
    if not together:
        constants["line"] = np.asarray(scores, np.float32)
    nodes.append(node("Identity", ["scored"], ["scores_"]))
    outputs = [
        helper.make_tensor_value_info("boxes", FLOAT, (None, 4)),
        helper.make_tensor_value_info("labels", TensorProto.INT64, (None,)),
        helper.make_tensor_value_info("scores_", FLOAT, (None,)),
    ]
    picture = helper.make_tensor_value_info("image", FLOAT, (1, 3, 96, 96))
    return write(path, nodes, [picture], outputs, constants)


def told(path: Path, **declared: Any) -> tuple[int, bool]:
    """Return how many are found in one tile, and whether the tile is told to be full."""
    Image.new("RGB", (96, 96)).save(path.parent / "scene.png")
    source = open_source(path.parent / "scene.png")
    tiles = Grid(1, 1).tiles(source.size)
    outcome = infer(Work(source.reference, ReadOptions(), model(str(path), **declared)), tiles)[0]
    assert outcome.failure is None, outcome.failure
    return outcome.n_findings, outcome.saturated


@pytest.mark.parametrize(
    ("before", "most"),
    [
        ((), np.array([7])),
        ((), np.array(7)),
        ([node("Constant", [], ["most"], value=numpy_helper.from_array(np.array([7])))], None),
        ([node("Constant", [], ["most"], value_int=7)], None),
        ([node("Constant", [], ["most"], value_ints=[7])], None),
        ([node("Cast", ["seven"], ["most"], to=TensorProto.INT64)], None),
        (
            [
                node("Constant", [], ["f"], value_float=7.0),
                node("Cast", ["f"], ["most"], to=TensorProto.INT64),
            ],
            None,
        ),
        (
            [
                node("Shape", ["image"], ["sides"]),
                node("Gather", ["sides", "two"], ["side"]),
                node("Min", ["sevens", "side"], ["most"]),
            ],
            None,
        ),
        (
            [
                node("Shape", ["image"], ["sides"]),
                node("Gather", ["sides", "two"], ["side"]),
                node("Concat", ["sevens", "side"], ["both"], axis=0),
                node("ReduceMin", ["both"], ["most"], keepdims=1),
            ],
            None,
        ),
        ([node("Mul", ["sevens", "one"], ["most"])], None),
    ],
)
def test_the_most_of_boxes_of_a_class_is_found_however_it_is_written(
    tmp_path: Path, before: Sequence[Any], most: Any
) -> None:
    """Initializer, constant of any attribute, cast, least of it and a side of the picture."""
    path = suppressing(tmp_path / "m.onnx", most, before=before)
    assert suppressed_to(path, ["boxes", "labels", "scores_"]) == (None, 7)


def test_one_class_that_is_full_is_told(tmp_path: Path) -> None:
    """Nine boxes of a class, one of another: 7 a class fill the tile, 10 do not, nor no limit."""
    assert told(suppressing(tmp_path / "a.onnx", [7])) == (8, True)
    assert told(suppressing(tmp_path / "b.onnx", [10])) == (10, False)
    assert told(suppressing(tmp_path / "c.onnx", [ENDLESS])) == (10, False)


def test_what_was_left_out_below_the_floor_is_not_missed(tmp_path: Path) -> None:
    """The graph kept 7, of which only 5 are scored high enough: the eighth is scored lower yet."""
    scores = (0.9,) * 5 + (0.2,) * (MANY - 5)
    path = suppressing(tmp_path / "m.onnx", [7], scores=scores)
    assert told(path, score_floor=0.5) == (6, False)
    assert told(path, score_floor=0.05) == (8, True)


def test_all_classes_suppressed_together_share_one_limit(tmp_path: Path) -> None:
    """One score a box, ``(1, 1, boxes)``: then the number is the limit of the tile."""
    path = suppressing(tmp_path / "m.onnx", [7], together=True)
    assert suppressed_to(path, ["boxes"]) == (7, None)
    assert model(str(path)).max_detections == 7
    assert told(path) == (7, True)


def test_duplicates_that_are_left_out_afterwards_count(tmp_path: Path) -> None:
    """``nms=`` looks at what the graph gave: a limit that was reached stays reached."""
    path = suppressing(tmp_path / "m.onnx", [7])
    whole = model(str(path), decode=decoded)
    found = build(whole).predict([np.zeros((96, 96, 3), np.uint8)])
    assert len(found[0]) == 8 and found.full == (True,)
    fewer = build(model(str(path), decode=decoded, nms=0.5, class_agnostic=True))
    assert fewer.predict([np.zeros((96, 96, 3), np.uint8)]).full == (True,)


def decoded(outputs: Any, info: Any) -> Any:
    """Return rows of a box, score and class."""
    columns = (outputs["boxes"], outputs["scores_"], outputs["labels"])
    return np.column_stack(columns)


def test_operators_of_tensorrt_are_named(tmp_path: Path) -> None:
    """``EfficientNMS_TRT`` is a plugin of TensorRT; the file is whole, and no version has it."""
    outputs = [helper.make_tensor_value_info("num_dets", TensorProto.INT32, (1, 1))]
    nodes = [node("EfficientNMS_TRT", ["b", "s"], ["num_dets"], max_output_boxes=100)]
    constants = {"b": np.zeros((1, 9, 4), np.float32), "s": np.zeros((1, 9, 3), np.float32)}
    picture = helper.make_tensor_value_info("image", FLOAT, (1, 3, 96, 96))
    path = write(tmp_path / "m.onnx", nodes, [picture], outputs, constants)
    with pytest.raises(ModelError, match=r"exported for TensorRT.*EfficientNMS_TRT.*Export it"):
        model(str(path))
