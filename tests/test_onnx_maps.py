"""ONNX graphs that say something of each pixel: what map they give, and what decides it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from tiny_onnx import FLOAT, saying, write

import tilevision as tv
from tilevision.catalogue import model
from tilevision.modelspec import build
from tilevision.rasterspec import STEPS

NAMES = ["water", "tree", "road"]
RNG = np.random.default_rng(7)
HALF = 0.5 / STEPS + 1e-5
LOGITS = RNG.normal(0, 3, (3, 64, 64)).astype(np.float32)
TILE = np.full((64, 64, 3), 128, np.uint8)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Shares of the classes, which come first."""
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def seen(path: Path, tile: np.ndarray = TILE, **declared: Any) -> tv.Raster:
    """The map of a tile, the same alone and among others."""
    built = build(model(str(path), **declared))
    one = built.predict([tile])[0].raster
    assert [each.raster for each in built.predict([tile, tile, tile])] == [one] * 3
    return one


def ending(path: Path, operators: Sequence[Any], logits: np.ndarray = LOGITS) -> Path:
    """Save a graph that gives constant logits by way of further operators."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "all"], ["x0"]),
    ]
    for number, (operator, told) in enumerate(operators):
        last = number == len(operators) - 1
        outcome = "out" if last else f"x{number + 1}"
        nodes.append(helper.make_node(operator, [f"x{number}"], [outcome], **told))
    whole = operators[-1][0] == "ArgMax"
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(np.int64)) if whole else FLOAT
    inputs = [helper.make_tensor_value_info("images", FLOAT, ("n", 3, 64, 64))]
    outputs = [helper.make_tensor_value_info("out", kind, None)]
    constants = {"zero": np.zeros(1, np.float32), "all": logits[None]}
    return write(path, nodes, inputs, outputs, constants)


def test_a_graph_that_ends_in_shares_is_known(tmp_path: Path) -> None:
    """Its last operator says it: nothing is declared but the names."""
    path = ending(tmp_path / "s.onnx", [("Softmax", {"axis": 1})])
    spec = model(str(path), classes=NAMES)
    assert (spec.params["family"], spec.params["activation"]) == ("map", "none")
    assert spec.raster.kind == "probabilities" and spec.raster.classes == tuple(NAMES)
    kept = seen(path, classes=NAMES).kept
    assert np.abs(kept / STEPS - softmax(LOGITS)).max() <= HALF
    sigmoid = ending(tmp_path / "g.onnx", [("Sigmoid", {})])
    several = seen(sigmoid).kept / STEPS
    assert np.abs(several - 1 / (1 + np.exp(-LOGITS))).max() <= HALF
    assert model(str(sigmoid)).raster.classes == ("class_0", "class_1", "class_2")
    logarithms = ending(tmp_path / "l.onnx", [("LogSoftmax", {"axis": 1})])
    assert np.abs(seen(logarithms).kept / STEPS - softmax(LOGITS)).max() <= HALF
    with pytest.raises(tv.ModelError, match="its graph ends with Softmax, so that its numbers"):
        model(str(path), activation="softmax")


def test_logits_are_taken_as_they_are_declared(tmp_path: Path) -> None:
    """Undeclared, they are refused: nothing in a graph says whether pixels have one class."""
    path = ending(tmp_path / "l.onnx", [("Identity", {})])
    with pytest.raises(tv.ModelError, match=r"3 planes .*made by Add.*activation='softmax' \(a "):
        model(str(path))
    one = seen(path, activation="softmax", classes=NAMES).kept / STEPS
    assert np.abs(one - softmax(LOGITS)).max() <= HALF
    several = seen(path, activation="sigmoid", names=NAMES).kept / STEPS
    assert np.abs(several - 1 / (1 + np.exp(-LOGITS))).max() <= HALF
    best = seen(path, returns="classes", classes=NAMES)
    assert np.array_equal(best.kept[0], LOGITS.argmax(0)) and best.spec.kind == "classes"
    measures = seen(path, returns="values", unit="m", precision=0.01)
    assert np.abs(measures.kept * 0.01 - LOGITS).max() <= 0.0051 and measures.spec.unit == "m"
    with pytest.raises(tv.ModelError, match=r"numbers from -.* no probabilities; give activation"):
        seen(path, activation="none")


@pytest.mark.parametrize("declared", [{"returns": "classes"}, {"activation": "softmax"}])
def test_nan_is_of_no_class(tmp_path: Path, declared: dict[str, Any]) -> None:
    """A network that has gone wrong is no map of its first class."""
    logits = LOGITS.copy()
    logits[1, 3, 5] = np.nan
    path = ending(tmp_path / "n.onnx", [("Identity", {})], logits)
    with pytest.raises(tv.ModelError, match="gives NaN, of which no class is the best"):
        seen(path, **declared)


@pytest.mark.parametrize(
    ("operators", "declared"),
    [
        ([("Softmax", {"axis": 1})], {}),
        ([("Identity", {})], {"activation": "sigmoid", "classes": NAMES}),
        ([("Identity", {})], {"returns": "classes"}),
        ([("Identity", {})], {"returns": "values", "unit": "m", "precision": 0.5}),
        ([("ArgMax", {"axis": 1})], {"classes": {0: "a", 2: "c"}}),
        ([("ArgMax", {"axis": 1})], {"returns": "instances", "classes": ["cell"]}),
    ],
)
def test_what_was_decided_declares_the_same_model(
    tmp_path: Path, operators: Any, declared: dict[str, Any]
) -> None:
    """So a run is resumed from its manifest, which has the parameters as JSON."""
    path = ending(tmp_path / "m.onnx", operators)
    spec = model(str(path), **declared)
    params = json.loads(json.dumps(dict(spec.params)))
    again = model(spec.name, **params, max_detections=spec.max_detections)
    assert (again.fingerprint, again.params, again.raster) == (
        spec.fingerprint,
        spec.params,
        spec.raster,
    )


def test_the_names_of_transformers_stand_beside_the_file(tmp_path: Path) -> None:
    """With them stands that the network is semantic: its logits are of one class a pixel."""
    path = saying(tmp_path / "model.onnx", {"logits": LOGITS[:, ::4, ::4]})
    noted = {
        "architectures": ["SegformerForSemanticSegmentation"],
        "id2label": dict(enumerate(NAMES)),
    }
    (tmp_path / "config.json").write_text(json.dumps(noted))
    spec = model(str(path))
    assert spec.raster.classes == tuple(NAMES) and spec.params["activation"] == "softmax"
    assert spec.params["normalize"] == "imagenet" and spec.params["letterbox"] is False
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(tv.ModelError, match="give activation="):
        model(str(path))


def test_class_numbers_are_a_map_of_classes(tmp_path: Path) -> None:
    """Of a graph that ends in ArgMax, or whose file says so; others may be objects."""
    for keep in (0, 1):
        path = ending(tmp_path / f"a{keep}.onnx", [("ArgMax", {"axis": 1, "keepdims": keep})])
        with pytest.raises(tv.ModelError, match="classes that nobody names; give classes="):
            model(str(path))
        kept = seen(path, classes=NAMES)
        assert kept.spec.kind == "classes" and np.array_equal(kept.kept[0], LOGITS.argmax(0))
    noted = {"task": "semantic", "names": dict(enumerate(NAMES))}
    numbers = LOGITS.argmax(0).astype(np.uint8)
    yolo = saying(tmp_path / "y.onnx", {"map": numbers}, notes=noted)
    assert np.array_equal(seen(yolo).kept[0], numbers)
    params = model(str(yolo)).params
    assert params["normalize"] == "0..1" and params["letterbox"] is True
    mask = saying(tmp_path / "m.onnx", {"map": numbers[None].astype(np.int32)})
    with pytest.raises(tv.ModelError, match="may be classes or objects; give returns='classes'"):
        model(str(mask))
    assert np.array_equal(seen(mask, returns="classes", classes=NAMES).kept[0], numbers)
    one = np.zeros((64, 64), np.int32)
    one[10:20, 5:15] = 1
    one[40:50, 30:60] = 7
    objects = saying(tmp_path / "o.onnx", {"mask": one})
    found = build(model(str(objects), returns="instances", classes=["cell"])).predict([TILE])[0]
    assert found.boxes.tolist() == [[5, 10, 15, 20], [30, 40, 60, 50]]
    assert set(found.labels) == {"cell"} and found.polygons is not None


@pytest.mark.slow  # imports torch
@pytest.mark.parametrize("stride", [1, 2, 4, 16])
@pytest.mark.parametrize("size", [(64, 64), (48, 100), (130, 64)])
def test_a_map_of_a_stride_is_brought_to_the_tile_as_torch_does_it(
    tmp_path: Path, stride: int, size: tuple[int, int]
) -> None:
    """Between the middles of pixels, before the softmax; class numbers are the nearest."""
    torch = pytest.importorskip("torch")
    logits = LOGITS[:, : 64 // stride, : 64 // stride]
    path = saying(tmp_path / "m.onnx", {"logits": logits})
    tile = np.full((*size, 3), 9, np.uint8)
    declared = {"returns": "probabilities", "activation": "softmax", "classes": NAMES}
    kept = seen(path, tile, **declared).kept
    wide = torch.nn.functional.interpolate(torch.from_numpy(logits[None]), size, mode="bilinear")
    assert np.abs(kept / STEPS - wide.softmax(1)[0].numpy()).max() <= HALF
    best = seen(path, tile, returns="classes", classes=NAMES).kept
    assert (best[0] == wide.argmax(1)[0].numpy()).mean() > 0.999  # but for ties in the last bit
    numbers = saying(tmp_path / "n.onnx", {"map": logits.argmax(0)})
    kept = seen(numbers, tile, returns="classes", classes=NAMES).kept[0]
    rows, columns = (((np.arange(side) + 0.5) * (64 // stride) / side).astype(int) for side in size)
    assert np.array_equal(kept, logits.argmax(0)[rows][:, columns])


@pytest.mark.parametrize("letterbox", [True, "corner"])
def test_what_was_laid_into_the_input_is_taken_out_of_it(tmp_path: Path, letterbox: Any) -> None:
    """Of a tile that keeps its proportions, the map is that of its part of the input."""
    place = np.zeros((2, 64, 64), np.float32)
    place[0], place[1] = np.mgrid[:64, :64] + 0.5  # where in the input a pixel lies
    path = saying(tmp_path / "m.onnx", {"map": place})
    tile = np.zeros((32, 128, 3), np.uint8)
    kept = seen(path, tile, returns="values", letterbox=letterbox).kept
    top = 24 if letterbox is True else 0
    assert kept.shape == (2, 32, 128)
    rows = np.clip((np.arange(32) + 0.5) / 2 + top, 0.5, 63.5)
    assert np.allclose(kept[0], rows[:, None], atol=1e-4)
    assert np.allclose(kept[1], np.clip((np.arange(128) + 0.5) / 2, 0.5, 63.5), atol=1e-4)
    with pytest.raises(tv.ModelError, match="letterbox='middle' would show it a part of each"):
        model(str(path), returns="values", letterbox="middle")


def pooling(path: Path, steps: Sequence[Any]) -> Path:
    """Save a network that pools and enlarges by such nodes; its output has the input's size."""
    nodes, last = [], "images"
    for number, (operator, step) in enumerate(steps):
        told = {"kernel_shape": [step, step], "strides": [step, step]}
        inputs = [last, "up"] if operator == "ConvTranspose" else [last]
        if operator == "Resize":
            inputs, told = [last, "", "double"], {"mode": "nearest"}
        last = "out" if number == len(steps) - 1 else f"x{number}"
        nodes.append(helper.make_node(operator, inputs, [last], **told))
    nodes[-1].output[0] = "logits"
    nodes.append(helper.make_node("Softmax", ["logits"], ["out"], axis=1))
    inputs = [helper.make_tensor_value_info("images", FLOAT, ("n", 3, 64, 64))]
    outputs = [helper.make_tensor_value_info("out", FLOAT, ("n", 3, 64, 64))]
    up = np.zeros((3, 3, 2, 2), np.float32)
    return write(path, nodes, inputs, outputs, {"up": up, "double": np.array([1, 1, 2, 2], "f4")})


@pytest.mark.parametrize(
    ("steps", "stride"),
    [
        ([("MaxPool", 2), ("Resize", 2)], 2),
        ([("MaxPool", 2), ("AveragePool", 2), ("ConvTranspose", 2), ("Resize", 2)], 4),
        ([("MaxPool", 2), ("Resize", 2), ("MaxPool", 2), ("Resize", 2)], 2),
        ([("MaxPool", 1)], 1),
    ],
)
def test_a_plan_says_by_how_much_a_graph_pools(tmp_path: Path, steps: Any, stride: int) -> None:
    """Where tiles begin off it; they are moved only where the user declares it."""
    path = pooling(tmp_path / "p.onnx", steps)
    spec = model(str(path))
    assert (spec.pools, spec.stride) == (stride, None)
    image = np.zeros((200, 200, 3), np.uint8)
    off, on = (tv.Grid.by_tile(64, f"{shared}px") for shared in (13, 16))

    def said(asked: Any, grid: tv.Grid) -> list[str]:
        plan = tv.plan(image, asked, grid=grid, checkpoint=None)
        return [note for note in plan.notes if "pools" in note]

    assert said(spec, on) == []
    told = "\n".join(said(spec, off))
    assert (f"declare stride={stride} with tv.model." in told) == (stride > 1)
    assert said(model(str(path), stride=stride), off) == []
    assert model(str(path), stride=stride).fingerprint == spec.fingerprint


def test_the_axes_of_keras_are_read(tmp_path: Path) -> None:
    """Where the channels of the picture come last, so do the planes of the map."""
    shares = softmax(LOGITS)
    path = saying(tmp_path / "k.onnx", {"map": shares.transpose(1, 2, 0)}, last=True)
    kept = seen(path, activation="none", classes=NAMES).kept
    assert np.abs(kept / STEPS - shares).max() <= HALF


def test_auxiliary_outputs_of_torchvision_are_left_alone(tmp_path: Path) -> None:
    """Its export has ``out`` and ``aux``; others with several outputs are told which one it is."""
    both = {"aux": LOGITS[::-1].copy(), "out": LOGITS}
    path = saying(tmp_path / "t.onnx", both)
    kept = seen(path, activation="softmax", classes=NAMES).kept
    assert np.abs(kept / STEPS - softmax(LOGITS)).max() <= HALF
    twins = saying(tmp_path / "d.onnx", {"a": LOGITS, "b": LOGITS})
    with pytest.raises(tv.ModelError, match=r"has no one output .*decode=f"):
        model(str(twins), returns="probabilities", activation="softmax", classes=NAMES)


def test_of_shares_class_numbers_alone_may_be_kept(tmp_path: Path) -> None:
    """The classes that the shares have; with nothing asked, the model is who it was."""
    path = ending(tmp_path / "l.onnx", [("Identity", {})])
    declared = {"activation": "softmax", "classes": NAMES}
    whole, numbers = seen(path, **declared), seen(path, keep="classes", **declared)
    assert numbers.spec.kind == "classes" and numbers.spec.classes == tuple(NAMES)
    assert np.array_equal(numbers.kept[0], whole.kept.argmax(axis=0))
    prints = {model(str(path), keep=one, **declared).fingerprint for one in (None, "", "classes")}
    assert len(prints) == 2
    assert model(str(path), **declared).fingerprint in prints
    for wrong in ({"returns": "classes"}, {"returns": "values", "activation": None}):
        with pytest.raises(tv.ModelError, match="leave keep out"):
            model(str(path), keep="classes", **({"activation": "softmax"} | wrong))


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"classes": NAMES[:2]}, "gives 3 planes, and its class names are for 2"),
        ({"classes": {7: "x"}}, "gives 3 planes, and its class names are for others"),
        ({"activation": "relu"}, "activation of model l.onnx is 'relu'; give 'softmax'"),
        ({"returns": "masks"}, "give one of embedding, probabilities"),
        ({"returns": "values", "activation": "softmax"}, "makes probabilities, and it is declared"),
        (
            {"returns": "values", "classes": NAMES, "activation": None},
            "A map of values has no classes",
        ),
        ({"returns": "classes", "family": "yolov8"}, "or family='yolov8', not both"),
        ({"returns": "classes", "decode": len}, "or decode=, not both"),
        ({"precision": 0.1}, "precision of model l.onnx is 0.1; give 'float16'"),
    ],
)
def test_declarations_that_make_no_sense_are_one_line(
    tmp_path: Path, declared: dict[str, Any], said: str
) -> None:
    """They name the file, and what to give."""
    path = ending(tmp_path / "l.onnx", [("Identity", {})])
    with pytest.raises(tv.ModelError, match=said) as caught:
        model(str(path), **({"activation": "softmax"} | declared))
    assert "\n" not in str(caught.value)


def test_what_describes_maps_is_refused_where_there_is_none(tmp_path: Path) -> None:
    """A detector has names, no classes of pixels."""
    rows = np.zeros((1, 6), np.float32)
    path = saying(tmp_path / "d.onnx", {"out": rows}, notes={"task": "detect", "stride": 32})
    with pytest.raises(tv.ModelError, match=r"classes of model d.onnx is for maps.*names="):
        model(str(path), classes=NAMES, family="yolov10")


def test_a_decoder_may_return_boxes_a_map_and_a_vector(tmp_path: Path) -> None:
    """All three of one tile, from one file."""
    path = saying(tmp_path / "all.onnx", {"map": LOGITS, "rows": np.array([[1, 2, 9, 8.0]])})

    def decode(outputs: Any, info: Any) -> tv.Findings:
        assert info.input_size == info.tile_size
        shares = tv.Raster(softmax(outputs["map"][0]), classes=NAMES)
        return tv.Findings(outputs["rows"][0], embedding=[1.0, 2.0], raster=shares)

    (found,) = build(model(str(path), decode=decode)).predict([TILE])
    assert found.boxes.tolist() == [[1, 2, 9, 8]] and found.embedding.tolist() == [1, 2]
    assert np.abs(found.raster.kept / STEPS - softmax(LOGITS)).max() <= HALF


def test_sizes_that_a_graph_does_not_take_are_filled_up(tmp_path: Path) -> None:
    """Tried once, when it is declared: where odd sizes fail, tiles are laid on grey."""
    sides = helper.make_tensor_value_info("images", FLOAT, ("n", 3, "h", "w"))
    halved = [
        helper.make_node("AveragePool", ["images"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["half", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Add", ["images", "large"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["map"], axis=1),
    ]
    outputs = [helper.make_tensor_value_info("map", FLOAT, ("n", 3, "h", "w"))]
    constants = {"scales": np.array([1, 1, 2, 2], np.float32)}
    path = write(tmp_path / "u.onnx", halved, [sides], outputs, constants)
    spec = model(str(path), classes=NAMES, normalize="0..1")
    assert spec.params["multiple"] == 32
    tile = RNG.integers(0, 256, (51, 67, 3), np.uint8)
    kept = seen(path, tile, classes=NAMES, normalize="0..1").kept
    values = tile[:50, :66].transpose(2, 0, 1) / 255
    means = values.reshape(3, 25, 2, 33, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    assert np.abs(kept[:, :50, :66] / STEPS - softmax(values + means)).max() <= HALF
    free = saying(tmp_path / "f.onnx", {"map": softmax(LOGITS)})
    assert model(str(free), returns="values").params["multiple"] == 1


@pytest.mark.slow
def test_a_run_over_an_image_is_the_image_of_the_graph(tmp_path: Path) -> None:
    """A graph that compares each pixel by itself, tiled and blended, and untiled, are the same."""
    nodes = [
        helper.make_node("Sub", ["images", "half"], ["off"]),
        helper.make_node("Mul", ["off", "steep"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["map"], axis=1),
    ]
    sides = ("n", 3, "h", "w")
    path = write(
        tmp_path / "pixels.onnx",
        nodes,
        [helper.make_tensor_value_info("images", FLOAT, sides)],
        [helper.make_tensor_value_info("map", FLOAT, sides)],
        {"half": np.array(0.5, np.float32), "steep": np.array(9, np.float32)},
    )
    pixels = RNG.integers(0, 256, (150, 210, 3), np.uint8)
    spec = model(str(path), classes=NAMES, normalize="0..1")
    (whole,) = build(spec).predict([pixels])
    result = tv.analyze(
        pixels, spec, grid=tv.Grid.by_tile(64, overlap=0.25), progress=False, checkpoint=tmp_path
    )
    assert np.array_equal(np.asarray(result.raster), whole.raster.kept.argmax(0))
