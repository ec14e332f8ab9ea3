"""Detectors that end with boxes on a real picture: what their own tools make of them.

torchvision and SAHI are their own oracles. Of YOLOX, NanoDet and MMDetection, which are seldom
installed, the published preparation and post-processing are written out here in NumPy.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framework_models import needs
from likeness import batch_of, check_alike, road, scattered, settled, tiles, to_onnx
from test_libraries_queries import detr, saved

from tilevision.catalogue import model
from tilevision.modelspec import build

pytestmark = pytest.mark.slow  # makes, exports and runs networks

NAMES = ["a", "b", "c", "d", "e"]
FLOOR, OVERLAP = 0.05, 0.45


def as_pictures(picture: Any) -> list[Any]:
    """Return a tile as torchvision's detectors take it."""
    (torch,) = needs("torch")
    return [torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255]


@pytest.fixture(scope="module")
def ssd() -> Any:
    """An SSDlite that keeps 200 objects of a picture; its head is settled by `lively`."""
    torch, torchvision = needs("torch", "torchvision")
    torch.manual_seed(0)
    return scattered(
        torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=6, score_thresh=FLOOR,
            detections_per_img=200,
        )
    )  # fmt: skip


def lively(ssd: Any, picture: np.ndarray) -> Any:
    head = ssd.head
    classes = [(one[1], 0.0, 1.5) for one in head.classification_head.module_list]
    places = [(one[1], 0.0, 1.0) for one in head.regression_head.module_list]
    return settled(ssd, as_pictures(tiles(picture)["square"]), classes + places)


def check_network(spec: Any, network: Any, picture: Any, *, exact: bool) -> None:
    """Compare a detector with the network called by hand, at each shape of tile."""
    (torch,) = needs("torch")
    detector = build(spec)
    for tile in tiles(picture).values():
        with torch.no_grad():
            right = network(as_pictures(tile))[0]
        columns = [right[name].numpy() for name in ("boxes", "scores", "labels")]
        check_alike(detector.predict([tile])[0], tile, *columns, exact=exact)


def test_a_detector_of_torchvision(ssd: Any, shared_data: Path) -> None:
    """Exactly what the network returns: an object is called as anybody calls it."""
    needs("torch")
    picture = road(shared_data)
    network = lively(ssd, picture)
    spec = model(network)
    assert spec.max_detections == 200
    check_network(spec, network, picture, exact=True)


def test_its_onnx_file_takes_tiles_of_any_size(ssd: Any, shared_data: Path, tmp_path: Path) -> None:
    """A tile is not filled up to a multiple of 32: what is in the graph resizes it as it is."""
    needs("torch", "onnx")
    picture = road(shared_data)
    network = lively(ssd, picture)
    file = to_onnx(
        *(network, as_pictures(tiles(picture)["square"]), tmp_path / "ssd.onnx"),
        ("boxes", "scores", "labels"), dynamic_axes={"image": {1: "high", 2: "wide"}},
    )  # fmt: skip
    spec = model(file)
    assert spec.params["family"] == "torchvision" and spec.input_size is None
    assert spec.max_detections == 200
    check_network(spec, network, picture, exact=False)
    assert spec.fingerprint_for((320, 320)) == spec.fingerprint != spec.fingerprint_for((320, 240))


def test_a_detection_model_of_sahi(shared_data: Path, tmp_path: Path) -> None:
    """Exactly what `sahi.predict.get_prediction` gives; the network's queries are the limit."""
    needs("torch", "transformers", "sahi")
    from sahi import AutoDetectionModel
    from sahi.predict import get_prediction

    picture = road(shared_data)
    made = AutoDetectionModel.from_pretrained(
        model_type="huggingface", confidence_threshold=FLOOR, device="cpu",
        model_path=saved(*detr(batch_of(picture)), tmp_path / "net"),
    )  # fmt: skip
    spec = model(made)
    assert spec.max_detections == 60
    detector = build(spec)
    for tile in tiles(picture).values():
        found = get_prediction(tile, made).object_prediction_list
        columns = ([one.bbox.to_xyxy() for one in found], [one.score.value for one in found])
        numbers = [one.category.id for one in found]
        check_alike(detector.predict([tile])[0], tile, *columns, numbers, exact=True)


# Families without a library: what their own demos do ------------------------------------------


def grid(side: int = 320) -> tuple[np.ndarray, np.ndarray]:
    """Return column and row ``(n, 2)``, and the stride, of each cell of three levels."""
    places, steps = [], []
    for step in (8, 16, 32):
        xv, yv = np.meshgrid(np.arange(side // step), np.arange(side // step))
        places.append(np.stack([xv, yv], 2).reshape(-1, 2))
        steps.append(np.full((len(places[-1]), 1), step))
    return np.concatenate(places), np.concatenate(steps)


def heads(columns: dict[str, int]) -> Any:
    """A network of three levels; each head gives so many columns: ``(1, cells, all columns)``."""
    (torch,) = needs("torch")
    torch.manual_seed(0)

    class Heads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            wide = (3, 12, 16, 20, 24, 28)
            self.stem = torch.nn.ModuleList(
                torch.nn.Conv2d(one, two, 3, 2, 1) for one, two in itertools.pairwise(wide)
            )
            self.ends = torch.nn.ModuleDict(
                {name: torch.nn.ModuleList(torch.nn.Conv2d(c, n, 1) for c in wide[3:])
                 for name, n in columns.items()}
            )  # fmt: skip
            self.sure = tuple(name for name in columns if name in ("class", "object"))

        def forward(self, image: Any) -> Any:
            levels = []
            for layer in self.stem:
                image = torch.relu(layer(image))
                levels.append(image)
            rows = []
            for at, level in enumerate(levels[-3:]):
                parts = [
                    end[at](level).sigmoid() if name in self.sure else end[at](level)
                    for name, end in self.ends.items()
                ]
                rows.append(torch.cat(parts, 1).flatten(2))
            return torch.cat(rows, 2).permute(0, 2, 1)

    return scattered(Heads())


def suppressed(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the rows that greedy suppression within each class keeps."""
    torch, torchvision = needs("torch", "torchvision")
    keep = torchvision.ops.batched_nms(
        torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(),
        torch.from_numpy(classes), OVERLAP,
    )  # fmt: skip
    return keep.numpy()


def laid(tile: np.ndarray, side: int = 320) -> tuple[np.ndarray, float]:
    """Return a tile as YOLOX's preproc lays it in: at the top left, BGR, 0 to 255, and by how much.

    Sides are cut to whole pixels, not rounded.
    """
    (cv2,) = needs("cv2")
    ratio = min(side / tile.shape[0], side / tile.shape[1])
    size = int(tile.shape[1] * ratio), int(tile.shape[0] * ratio)
    shown = np.full((side, side, 3), 114, np.uint8)
    resized = cv2.resize(tile[..., ::-1], size, interpolation=cv2.INTER_LINEAR)
    shown[: size[1], : size[0]] = resized
    return shown.transpose(2, 0, 1)[None].astype(np.float32), ratio


def decoding(network: Any) -> Any:
    """Return a network that says centre and size in pixels, as YOLOX's decode_outputs does."""
    (torch,) = needs("torch")

    class Decoding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network
            self.where, self.stride = (torch.from_numpy(part).float() for part in grid())

        def forward(self, image: Any) -> Any:
            out = self.inner(image)
            centre = (out[..., :2] + self.where) * self.stride
            return torch.cat([centre, out[..., 2:4].exp() * self.stride, out[..., 4:]], -1)

    return Decoding().eval()


@pytest.mark.parametrize("family", ["yolox", "yolox-decoded"])
def test_yolox(family: str, shared_data: Path, tmp_path: Path) -> None:
    """YOLOX 0.3: preproc, demo_postprocess and postprocess of its ONNX demo, by their formulas.

    With `--decode_in_inference` the first half of them is in the graph.

    But for the way back: the demo divides by one ratio, though cutting to whole pixels has shrunk
    the sides by two, and so lies up to 3 px beside what was found in a tile of 1068×580 px.
    """
    (torch,) = needs("torch", "onnx", "cv2")[:1]
    picture = road(shared_data)
    network = heads({"box": 4, "object": 1, "class": len(NAMES)})
    shown = torch.from_numpy(laid(tiles(picture)["square"])[0])
    spread = {"box": (0.7, 0.6), "object": (-3.0, 1.5), "class": (-1.0, 1.5)}
    settled(network, shown, [(e, *spread[name]) for name, end in network.ends.items() for e in end])
    kept = decoding(network) if family == "yolox-decoded" else network
    file = to_onnx(kept, shown, tmp_path / "x.onnx", ["output"])
    # Without names the decoded rows may as well be those of a YOLOv8 that lie.
    spec = model(file, nms=OVERLAP, **({} if kept is network else {"names": NAMES}))
    assert spec.params["family"] == family
    detector = build(spec)
    for tile in tiles(picture).values():
        fed, ratio = laid(tile)
        sides = np.array(tile.shape[1::-1])
        ratios = np.tile((sides * ratio).astype(int) / sides, 2)
        with torch.no_grad():
            out = network(torch.from_numpy(fed))[0].numpy().astype(float)
        where, stride = grid()
        centre, size = (out[:, :2] + where) * stride, np.exp(out[:, 2:4]) * stride
        boxes = np.concatenate([centre - size / 2, centre + size / 2], 1) / ratios
        scores = out[:, 4:5] * out[:, 5:]
        best, sure = scores.argmax(1), scores.max(1)
        rows = np.flatnonzero(sure >= FLOOR)
        rows = rows[suppressed(boxes[rows], sure[rows], best[rows])]
        check_alike(
            detector.predict([tile])[0], tile, boxes[rows], sure[rows], best[rows], exact=False
        )


def test_nanodet(shared_data: Path, tmp_path: Path) -> None:
    """NanoDet 1.0: its demo stretches the tile, and a distance is the mean of its distribution."""
    (torch, cv2) = needs("torch", "cv2", "onnx")[:2]
    picture = road(shared_data)
    network = heads({"class": len(NAMES), "box": 32})
    mean, std = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])

    def fed(tile: np.ndarray) -> Any:
        resized = cv2.resize(tile[..., ::-1], (320, 320), interpolation=cv2.INTER_LINEAR)
        values = ((resized - mean) / std).astype(np.float32)
        return torch.from_numpy(values.transpose(2, 0, 1)[None].copy())

    shown = fed(tiles(picture)["square"])
    spread = {"box": (0.0, 1.0), "class": (-2.0, 1.5)}
    settled(network, shown, [(e, *spread[name]) for name, end in network.ends.items() for e in end])
    file = to_onnx(network, shown, tmp_path / "n.onnx", ["output"])
    detector = build(model(file, nms=OVERLAP, names=NAMES))
    for tile in tiles(picture).values():
        with torch.no_grad():
            out = network(fed(tile))[0].numpy().astype(float)
        where, stride = grid()
        powers = np.exp(out[:, 5:].reshape(-1, 4, 8))
        reach = (powers / powers.sum(2, keepdims=True)) @ np.arange(8) * stride
        at = (where + 0.5) * stride
        boxes = np.concatenate([at - reach[:, :2], at + reach[:, 2:]], 1).clip(0, 320)
        boxes *= np.tile([tile.shape[1] / 320, tile.shape[0] / 320], 2)
        best, sure = out[:, :5].argmax(1), out[:, :5].max(1)
        rows = np.flatnonzero(sure >= FLOOR)
        rows = rows[suppressed(boxes[rows], sure[rows], best[rows])]
        check_alike(
            detector.predict([tile])[0], tile, boxes[rows], sure[rows], best[rows], exact=False
        )


def test_mmdetection(shared_data: Path, tmp_path: Path) -> None:
    """MMDeploy: dets ``(n, k, 5)`` and labels; Resize keeps proportions, and Pad fills below.

    Normalised as mmdet's configs do it (mean 123.675, 116.28, 103.53; std 58.395, 57.12, 57.375,
    RGB), and padded afterwards, so that what is padded is 0.
    """
    (torch, cv2) = needs("torch", "cv2", "onnx")[:2]
    picture = road(shared_data)
    network = heads({"box": 4, "class": len(NAMES)})
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])

    def fed(tile: np.ndarray) -> tuple[Any, float]:
        ratio = min(320 / tile.shape[0], 320 / tile.shape[1])
        size = int(tile.shape[1] * ratio + 0.5), int(tile.shape[0] * ratio + 0.5)
        resized = cv2.resize(tile, size, interpolation=cv2.INTER_LINEAR)
        shown = np.zeros((320, 320, 3), np.float32)
        shown[: size[1], : size[0]] = (resized - mean) / std
        return torch.from_numpy(shown.transpose(2, 0, 1)[None].copy()), ratio

    class Deployed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network
            where, stride = grid()
            self.at = torch.from_numpy((where + 0.5) * stride).float()
            self.stride = torch.from_numpy(stride).float()

        def forward(self, image: Any) -> tuple[Any, Any]:
            out = self.inner(image)[0]
            size = torch.exp(out[:, :4].clamp(-2, 2)) * self.stride
            score, label = out[:, 4:].max(1)
            score, best = score.topk(100)
            at, size = self.at[best], size[best]
            dets = torch.cat([at - size[:, :2], at + size[:, 2:], score[:, None]], 1)
            return dets[None], label[best][None]

    shown = fed(tiles(picture)["square"])[0]
    spread = {"box": (0.5, 0.6), "class": (-2.0, 1.5)}
    settled(network, shown, [(e, *spread[name]) for name, end in network.ends.items() for e in end])
    deployed = Deployed()
    spec = model(to_onnx(deployed, shown, tmp_path / "m.onnx", ["dets", "labels"]), names=NAMES)
    assert spec.params["family"] == "mmdet" and spec.max_detections == 100
    detector = build(spec)
    for tile in tiles(picture).values():
        pixels, ratio = fed(tile)
        with torch.no_grad():
            dets, labels = (part[0].numpy() for part in deployed(pixels))
        keep = dets[:, 4] >= FLOOR
        columns = (dets[keep, :4] / ratio, dets[keep, 4], labels[keep])
        check_alike(detector.predict([tile])[0], tile, *columns, exact=False)
