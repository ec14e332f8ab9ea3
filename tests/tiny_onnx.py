"""ONNX files made on the spot: models that always answer the same, and one that looks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
KINDS = {"float32": FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def write(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Mapping[str, np.ndarray],
    notes: Mapping[str, Any] | None = None,
    opset: int = 13,
) -> Path:
    """Save a model; `notes` go into its metadata as Ultralytics writes them."""
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {k: str(v) for k, v in (notes or {}).items()})
    onnx.save(model, path)
    return path


def saying(
    path: Path,
    answers: Mapping[str, np.ndarray],
    *,
    size: tuple[Any, Any] = (64, 64),
    batch: int | str = "batch",
    notes: Mapping[str, Any] | None = None,
    beside: Mapping[str, tuple[Any, ...]] | None = None,
    channels: int = 3,
    dtype: str = "float32",
    last: bool = False,
    batched: bool = True,
) -> Path:
    """Save a model that gives the same `answers`, shapes without the batch, for any picture."""
    sides = (size[1], size[0])
    shape = (batch, *sides, channels) if last else (batch, channels, *sides)
    inputs = [helper.make_tensor_value_info("images", KINDS[dtype], shape)]
    for name, extra in (beside or {}).items():
        inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, extra))
    nodes = [
        helper.make_node("Shape", ["images"], ["_shape"]),
        helper.make_node("Gather", ["_shape", "_zero"], ["_n"]),
    ]
    constants = {"_zero": np.array([0])}
    outputs = []
    for name, answer in answers.items():
        value = np.asarray(answer)
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        constants[f"_{name}"] = value[None] if batched else value
        if batched:
            constants[f"_{name}_sides"] = np.array(value.shape, np.int64)
            nodes += [
                helper.make_node("Concat", ["_n", f"_{name}_sides"], [f"_{name}_all"], axis=0),
                helper.make_node("Expand", [f"_{name}", f"_{name}_all"], [name]),
            ]
            outputs.append(helper.make_tensor_value_info(name, kind, (batch, *value.shape)))
        else:
            nodes.append(helper.make_node("Identity", [f"_{name}"], [name]))
            outputs.append(helper.make_tensor_value_info(name, kind, (None, *value.shape[1:])))
    return write(path, nodes, inputs, outputs, constants, notes)


def means(path: Path, size: tuple[Any, Any] = (32, 32), notes: Any = None) -> Path:
    """Save a classifier that gives the mean of each channel, as it was fed: nothing else."""
    inputs = [helper.make_tensor_value_info("images", FLOAT, ("n", 3, size[1], size[0]))]
    outputs = [helper.make_tensor_value_info("scores", FLOAT, ("n", 3))]
    nodes = [helper.make_node("ReduceMean", ["images"], ["scores"], axes=[2, 3], keepdims=0)]
    return write(path, nodes, inputs, outputs, {}, notes)


def brighter(path: Path, names: Sequence[str], steep: float = 20.0) -> Path:
    """Save a segmentation network of three classes: the share of each channel by its softmax."""
    sides = ("n", 3, "h", "w")
    inputs = [helper.make_tensor_value_info("images", FLOAT, sides)]
    outputs = [helper.make_tensor_value_info("shares", FLOAT, sides)]
    nodes = [
        helper.make_node("Mul", ["images", "steep"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"], axis=1),
    ]
    constants = {"steep": np.array(steep, np.float32)}
    return write(path, nodes, inputs, outputs, constants, {"names": dict(enumerate(names))})


def finding_red(
    path: Path, size: tuple[Any, Any] = (96, 96), names: Sequence[str] = ("red",), shift: float = 0
) -> Path:
    """Save a detector, end to end, of the reddest rectangle: its rows are (n, 1, 6).

    What it finds is where the first channel, from 0 to 1, passes 0.5 and the last does not.
    `shift` is added to the score, and so makes another file.
    """
    half = np.array(0.5, np.float32)
    nodes = [
        helper.make_node("Gather", ["images", "first"], ["red"], axis=1),
        helper.make_node("Gather", ["images", "last"], ["blue"], axis=1),
        helper.make_node("Greater", ["red", "half"], ["is_red"]),
        helper.make_node("Less", ["blue", "half"], ["no_blue"]),
        helper.make_node("And", ["is_red", "no_blue"], ["hit"]),
        helper.make_node("Cast", ["hit"], ["mask"], to=FLOAT),
        helper.make_node("ReduceMax", ["mask"], ["score0"], axes=[1, 2], keepdims=1),
        helper.make_node("Sub", ["score0", "shift"], ["score"]),
    ]
    for name, across in (("x", 1), ("y", 2)):
        along = f"along_{name}"
        nodes.append(helper.make_node("ReduceMax", ["mask"], [along], axes=[across], keepdims=0))
        for end, last in (("low", 0), ("high", 1)):
            at = f"{end}_{name}"
            most = {"axis": 1, "keepdims": 1, "select_last_index": last}
            nodes += [
                helper.make_node("ArgMax", [along], [f"{at}_i"], **most),
                helper.make_node("Cast", [f"{at}_i"], [f"{at}_f"], to=FLOAT),
                helper.make_node("Add", [f"{at}_f", "one" if last else "none"], [f"{at}_g"]),
                helper.make_node("Unsqueeze", [f"{at}_g", "axis"], [at]),
            ]
    nodes += [
        helper.make_node("Mul", ["score0", "none"], ["class"]),
        helper.make_node(
            "Concat",
            ["low_x", "low_y", "high_x", "high_y", "score", "class"],
            ["rows"],
            axis=2,
        ),
    ]
    constants = {
        "first": np.array(0),
        "last": np.array(2),
        "half": half,
        "one": np.array(1, np.float32),
        "none": np.array(0, np.float32),
        "shift": np.array(shift, np.float32),
        "axis": np.array([1]),
    }
    inputs = [helper.make_tensor_value_info("images", FLOAT, ("n", 3, size[1], size[0]))]
    outputs = [helper.make_tensor_value_info("rows", FLOAT, ("n", 1, 6))]
    notes = {"names": dict(enumerate(names)), "task": "detect", "stride": 32}
    return write(path, nodes, inputs, outputs, constants, notes)
