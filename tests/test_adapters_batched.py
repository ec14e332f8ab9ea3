"""Libraries are called once for a batch, and say of a tile what they say of it alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framework_models import needs, pipeline_folder, yolo
from likeness import road
from tiny_onnx import finding_red

from tilevision.adapters.frameworks import devices, ultralytics_models
from tilevision.adapters.frameworks.together import PIXELS, SCORES, Together, alike
from tilevision.catalogue import model
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Calls, ModelSpec, Wish, build, runtime

SIDE = 160


@pytest.fixture(autouse=True)
def saved_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are saved under the test's own folder."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def tiles(shared_data: Path) -> list[np.ndarray]:
    """Six tiles of an aerial photo."""
    picture = road(shared_data)
    corners = [(x, y) for y in (60, 300) for x in (0, 300, 700)]
    return [np.ascontiguousarray(picture[y : y + SIDE, x : x + SIDE]) for x, y in corners]


def _torchvision(_: Path) -> ModelSpec:
    torch, torchvision = needs("torch", "torchvision")
    torch.manual_seed(3)
    network = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.0
    )
    return model(network.eval(), score_floor=0.0)


def _yolo(folder: Path) -> ModelSpec:
    return model(yolo(folder), input_size=SIDE, score_floor=1e-5)


def _sahi(folder: Path) -> ModelSpec:
    _, sahi, _ = needs("torchvision", "sahi", "ultralytics")
    return model(
        sahi.AutoDetectionModel.from_pretrained(
            "ultralytics",
            model_path=str(yolo(folder)),
            confidence_threshold=1e-5,
            image_size=SIDE,
            device="cpu",
        )
    )


def _pipeline(task: str, **given: Any) -> Callable[[Path], ModelSpec]:
    def made(folder: Path) -> ModelSpec:
        return model(pipeline_folder(folder, task), score_floor=0.0, **given)

    return made


def _timm(_: Path) -> ModelSpec:
    torch, timm = needs("torch", "timm")
    torch.manual_seed(4)
    return model(timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0))


def _features(folder: Path) -> ModelSpec:
    torch, transformers = needs("torch", "transformers")
    torch.manual_seed(6)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, intermediate_size=16, image_size=32, patch_size=8)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder / "vit")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder / "vit")
    return model(folder / "vit", returns="embedding", pooling="cls")


def _encoder(_: Path) -> ModelSpec:
    (torch,) = needs("torch")
    torch.manual_seed(5)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 7, stride=4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
    )
    return model(network, returns="embedding")


LIBRARIES = {
    "torchvision": _torchvision,
    "ultralytics": _yolo,
    "sahi": _sahi,
    "detector of transformers": _pipeline("object-detection"),
    "zero-shot detector of transformers": _pipeline(
        "zero-shot-object-detection", candidate_labels=["car", "road"]
    ),
    "instances of transformers": _pipeline("image-segmentation"),
    "classifier of transformers": _pipeline("image-classification"),
    "encoder of transformers": _features,
    "timm": _timm,
    "encoder of PyTorch": _encoder,
}


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_batch_is_one_call_with_the_answers_of_single_ones(
    library: str, tmp_path: Path, tiles: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of real tiles: boxes to 0.1 px, scores to 0.001, vectors to a thousandth of their length."""
    built = build(LIBRARIES[library](tmp_path))
    monkeypatch.setattr(built._ask, "_measure", False)
    alone = [built.predict([tile])[0] for tile in tiles]
    assert any(len(one) or one.tile_scores or one.embedding is not None for one in alone)
    for _ in range(5):  # some find nothing on two tiles, which proves nothing
        first = built.predict(tiles)
    assert built._ask._many is not None, "the trial found other answers"
    counts: list[int] = []
    many = built._ask._many
    built._ask._many = lambda group: counts.append(len(group)) or many(group)
    built._ask._one = None  # is called no more
    together = built.predict(tiles)
    assert counts == [len(tiles)]
    for answers in (first, together):
        assert all(alike(*pair) for pair in zip(alone, answers, strict=True))


# Memory -----------------------------------------------------------------------------------

FITS = 2  # tiles at once


def _onnx(folder: Path) -> ModelSpec:
    return model(finding_red(folder / "red.onnx", (SIDE, SIDE)), score_floor=0.0, batch_size=6)


def _function(_: Path) -> ModelSpec:
    return model(full_of_three, batched=True, batch_size=6)


def full_of_three(tiles: list[np.ndarray]) -> list[Any]:
    """Answer as a network on a GPU that has room for two would."""
    if len(tiles) > 2:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return [[[0, 0, 9, 9, tile.mean() / 255]] for tile in tiles]


class SmallSession:
    """A session whose device has room for two tiles."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def run(self, names: Any, feeds: dict[str, Any]) -> Any:
        """Answer, or fail as onnxruntime does."""
        if any(len(array) > FITS for array in feeds.values()):
            raise RuntimeError("Failed to allocate memory for requested buffer of size 4194304")
        return self.session.run(names, feeds)


def small(built: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have a model run out of memory with more than two tiles, as deep down as that happens."""
    built.on_device, built.turn = True, threading.RLock()
    if hasattr(built, "_session"):
        built._session = SmallSession(built._session)
    if hasattr(built, "_ask"):
        (torch,) = needs("torch")
        forward = torch.nn.Conv2d.forward

        def full(self: Any, batch: Any) -> Any:
            if len(batch) > FITS:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(self, batch)

        monkeypatch.setattr(torch.nn.Conv2d, "forward", full)
        monkeypatch.setattr(built._ask, "_measure", False)
    return built


FULL = [(library, False) for library in (*LIBRARIES, "onnx", "function")]


@pytest.mark.slow
@pytest.mark.parametrize(("library", "auto"), [*FULL, ("onnx", True), ("encoder of PyTorch", True)])
def test_a_full_device_costs_no_tile_and_is_said_once(
    library: str, auto: bool, tmp_path: Path, tiles: list[np.ndarray], monkeypatch: Any
) -> None:
    """Whatever the library; afterwards a call takes no more than fits, found out or declared."""
    made = {**LIBRARIES, "onnx": _onnx, "function": _function}[library]
    built = small(build(replace(made(tmp_path), auto_batch=auto)), monkeypatch)
    alone = [built.predict([tile])[0] for tile in tiles]
    # A device on which each call takes as long, however full: what the machine does does not count.
    monkeypatch.setattr("tilevision.modelspec.calls.perf_counter", count().__next__)
    calls, remarks = Calls(built), []
    for _ in range(6):  # some find nothing on two tiles, which proves nothing
        steps = calls.steps
        prepare = None if steps is None else steps.prepare
        items = list(tiles) if prepare is None else prepare(tiles)
        ask = built.predict if steps is None else steps.compute
        wish = Wish(items, ask, lambda: None, lambda: None)
        calls.ask(wish, 6, auto=auto)
        assert wish.error is None
        found = wish.answers if steps is None else steps.read(list(wish.answers))
        assert all(alike(*pair) for pair in zip(alone, found, strict=True))
        remarks += [line for line in getattr(wish.answers, "remarks", ()) if "memory" in line]
    assert calls._most == (FITS if auto else 1)  # half of 4, or half of half of 6
    assert remarks and len(set(remarks)) == len(remarks)


# Half precision ---------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["encoder of PyTorch", "timm", "encoder of transformers"])
def test_half_precision_is_for_gpus_and_another_model(library: str, tmp_path: Path) -> None:
    """It is refused on a processor before the first tile; `half=False` is what nobody has said."""
    specs = [halved(library, tmp_path, half) for half in (None, False, True)]
    assert specs[0].fingerprint == specs[1].fingerprint != specs[2].fingerprint
    for ask in (runtime, build):
        with pytest.raises(ModelError, match="half=True, which is for GPUs"):
            ask(specs[2])
    with pytest.raises(ModelError, match="half of model"):
        halved(library, tmp_path, 2)


HALVED = ("encoder of PyTorch", "timm", "encoder of transformers", "classifier of transformers")


def test_ultralytics_is_asked_for_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, by its own argument; on a processor, where it would ignore that, it is refused."""
    spec = halved("ultralytics", tmp_path, True)
    for ask in (runtime, build):
        with pytest.raises(ModelError, match="half=True, which is for GPUs"):
            ask(spec)
    asked: list[dict[str, Any]] = []

    class Predicts:
        def predict(self, pictures: list[np.ndarray], **given: Any) -> list[Any]:
            asked.append(given)
            raise RuntimeError("there is none")

    monkeypatch.setattr(ultralytics_models, "torch_device", lambda device: "cuda:0")
    with pytest.raises(ModelError, match="there is none"):
        ultralytics_models.UltralyticsDetector(Predicts(), spec).predict([TILE])
    assert asked[0]["device"] == "cuda:0"
    assert asked[0].get("quantize") == 16 or asked[0]["half"] is True  # as its version calls it


@pytest.mark.slow
@pytest.mark.parametrize("library", HALVED)
def test_half_precision_differs_by_rounding(
    library: str, tmp_path: Path, tiles: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network and tiles are halved alike: answers are those of full precision, to a hundredth.

    PyTorch computes in half precision on a processor as well, if nobody forbids it.
    """
    monkeypatch.setattr(devices, "_in_half", lambda spec, device: bool(spec.params.get("half")))
    full, half = (build(halved(library, tmp_path, asked)) for asked in (None, True))
    for _ in range(2):
        pairs = list(zip(full.predict(tiles), half.predict(tiles), strict=True))
        assert all(alike(*pair, slack=20) for pair in pairs)
    assert not all(alike(*pair, slack=1e-3) for pair in pairs), "it was not halved"


def halved(library: str, folder: Path, half: Any) -> ModelSpec:
    """Declare a model of `LIBRARIES` in half precision."""
    kept: list[Any] = []
    given = {} if half is None else {"half": half}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "model", lambda value, **more: kept.append((value, more)))
        LIBRARIES[library](folder)
    value, more = kept[0]
    return model(value, **more, **given)


# What may share a call --------------------------------------------------------------------


TILE = np.zeros((4, 4, 3), np.uint8)


class Library:
    """Counts calls; answers a tile with its brightness, to which `wrong` adds in larger calls."""

    def __init__(self, wrong: Callable[[int], float] = lambda count: 0.0) -> None:
        self.wrong = wrong
        self.calls: list[int] = []

    def one(self, tile: np.ndarray) -> Findings:
        """Answer for one."""
        return self.many([tile])[0]

    def many(self, tiles: list[np.ndarray]) -> list[Findings]:
        """Answer for several."""
        self.calls.append(len(tiles))
        off = self.wrong(len(tiles))
        bright = (float(tile.mean()) / 255 for tile in tiles)
        return [Findings([[0, 0, 2, 2]] * (b > 0), [b + off] * (b > 0)) for b in bright]


def grey(value: int, shape: tuple[int, ...] = TILE.shape) -> np.ndarray:
    return np.full(shape, value, np.uint8)


def asked(library: Library, *batches: list[np.ndarray], **given: Any) -> list[list[float]]:
    ask = Together(library.one, library.many, measure=False, **given)
    return [[float(one.scores.sum()) for one in ask(batch)] for batch in batches]


def test_the_first_two_tiles_are_asked_about_both_ways() -> None:
    """From then on a batch is one call; the answers for the two are those of each alone."""
    library = Library()
    asked(library, [grey(10), grey(20), grey(30), grey(40)], [grey(50)] * 3)
    assert library.calls == [1, 1, 2, 2, 3]


def test_a_library_that_answers_otherwise_in_company_is_asked_one_by_one() -> None:
    """The answers stay those of tiles alone, whatever the batch."""
    library = Library(lambda count: 0.1 * (count > 1))
    batches = asked(library, [grey(51)] * 4, [grey(51)] * 2)
    assert library.calls == [1, 1, 2, 1, 1, 1, 1]
    assert batches == [[pytest.approx(0.2)] * 4, [pytest.approx(0.2)] * 2]


def test_what_cannot_take_several_is_asked_one_by_one() -> None:
    """An error of the larger call is none of the run's."""
    library = Library()

    def refuses(tiles: list[np.ndarray]) -> list[Findings]:
        raise ValueError("batch of 1 expected")

    ask = Together(library.one, refuses)
    assert len(ask([grey(1), grey(2), grey(3)])) == 3 and library.calls == [1, 1, 1]


def test_a_full_device_is_not_taken_for_a_library_that_refuses() -> None:
    """It is raised: whoever makes the batches takes smaller ones."""

    def full(tiles: list[np.ndarray]) -> list[Findings]:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(RuntimeError, match="out of memory"):
        Together(Library().one, full)([grey(1), grey(2)])


def test_tiles_of_different_sizes_share_no_call() -> None:
    """Smaller ones would be filled up; the order of the answers stays."""
    library, low = Library(), (2, 4, 3)
    batch = [grey(10), grey(20, low), grey(30), grey(40, low)]
    found = asked(library, [grey(1)] * 2, batch)[1]
    assert found == [pytest.approx(value / 255, abs=1e-6) for value in (10, 20, 30, 40)]
    assert library.calls[3:] == [2, 2]


def test_two_empty_tiles_are_no_proof_and_five_times_two_are() -> None:
    """Where nothing is found on the first tiles, the next ones are tried as well, for a while."""
    library = Library()
    asked(library, *[[grey(0)] * 2] * 7)
    assert library.calls == [1, 1, 2] * 5 + [2, 2]


@pytest.mark.parametrize(("slower", "calls"), [(True, [1, 1]), (False, [2])])
def test_on_a_processor_the_quicker_way_is_taken(
    slower: bool, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time that each took for the first tiles."""
    clock = [0.0]
    library = Library()

    def many(tiles: list[np.ndarray]) -> list[Findings]:
        clock[0] += 3.0 if slower else 1.0
        return library.many(tiles)

    def one(tile: np.ndarray) -> Findings:
        clock[0] += 1.0
        return library.one(tile)

    monkeypatch.setattr("tilevision.adapters.frameworks.together.thread_time", lambda: clock[0])
    ask = Together(one, many)
    ask([grey(9), grey(8)])
    library.calls.clear()
    ask([grey(9), grey(8)])
    assert library.calls == calls


@pytest.mark.parametrize(("each", "calls"), [(1.5, [1] * 4), (0.5, [4])])
def test_a_larger_batch_that_is_slower_is_given_up(
    each: float, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tiles were quicker together; what four take shows with the first calls of them."""
    clock = [0.0]
    library = Library()

    def many(tiles: list[np.ndarray]) -> list[Findings]:
        clock[0] += len(tiles) * (each if len(tiles) > 2 else 0.9)
        return library.many(tiles)

    def one(tile: np.ndarray) -> Findings:
        clock[0] += 1.0
        return library.one(tile)

    monkeypatch.setattr("tilevision.adapters.frameworks.together.thread_time", lambda: clock[0])
    ask, four = Together(one, many), [grey(value) for value in (9, 8, 7, 6)]
    ask(four[:2])
    for _ in range(2):
        ask(four)
    library.calls.clear()
    ask(four)
    assert library.calls == calls


@pytest.mark.parametrize(
    ("off", "score", "same"),
    [(0.0, 0.0, True), (PIXELS / 2, SCORES / 2, True), (2 * PIXELS, 0, False), (0, 0.01, False)],
)
def test_answers_are_alike_within_a_tolerance(off: float, score: float, same: bool) -> None:
    """Whatever order near ties come in; a class or a number of detections has no tolerance."""
    one = Findings([[0, 0, 9, 9], [20, 0, 29, 9]], [0.5, 0.5], ["a", "b"])
    boxes = [[20 + off, 0, 29, 9], [0, 0, 9, 9]]
    assert alike(one, Findings(boxes, [0.5 + score, 0.5], ["b", "a"])) is same
    assert not alike(one, Findings([[0, 0, 9, 9], [20, 0, 29, 9]], [0.5, 0.5], ["a", "a"]))
    assert not alike(one, Findings([[0, 0, 9, 9]], [0.5], ["a"]))
    vector = np.array([3.0, 4.0], np.float32)
    longer = Findings(embedding=vector * (1 + score))
    assert alike(Findings(embedding=vector), longer) is (score < SCORES)
