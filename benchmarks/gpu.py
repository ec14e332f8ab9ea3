"""Networks of PyTorch on one NVIDIA GPU: a run beside a bare loop, SAHI and supervision.

    python benchmarks/gpu.py [--tiles 10000] [--batch 16] [--half]

Takes about ten minutes on one GPU and stops where there is none. Needs torch and torchvision; SAHI
and supervision take part if they are installed. A detector of torchvision (SSDlite) and a ViT
encoder, with random weights, look at TILES tiles of 512 px, each a block of a JPEG-tiled TIFF:

- ``bare loop``: two threads decode ahead, the network takes the same batches; nothing is stored
- ``tilevision``: a run on ``device="cuda:0"`` with its checkpoint, once its cluster is up
- ``SAHI``, ``supervision``: the detector with their batching, on a picture of 1,024 tiles, since
  they hold all of it in memory

Printed are tiles a second: of three turns the median, the least and the most.
"""

from __future__ import annotations

import argparse
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
from device import _block, _picture

SIDE = 512
FEW = 1024  # tiles of those who hold the picture in memory


def _networks() -> dict[str, Any]:
    import torch
    import torchvision

    torch.manual_seed(1)
    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )
    encoder = torchvision.models.vit_b_16(weights=None, image_size=SIDE)
    encoder.heads = torch.nn.Identity()
    return {"detector": detector.eval(), "encoder": encoder.eval()}


def _asked(network: Any, name: str, half: bool) -> Callable[[list[np.ndarray]], Any]:
    import torch

    network = network.to("cuda:0")
    network = network.half() if half else network

    def ask(tiles: list[np.ndarray]) -> Any:
        pictures = [torch.from_numpy(tile).permute(2, 0, 1).to("cuda:0") / 255 for tile in tiles]
        pictures = [one.half() if half else one for one in pictures]
        with torch.inference_mode():
            if name == "detector":
                return [{k: v.cpu() for k, v in one.items()} for one in network(pictures)]
            return network(torch.stack(pictures)).float().cpu()

    return ask


def _loop(path: str, ask: Callable[[list[np.ndarray]], Any], batch: int) -> int:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        numbers, ahead = iter(range(len(page.dataoffsets))), queue.Queue(4 * batch)
        lock, left = threading.Lock(), len(page.dataoffsets)

        def decode() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                ahead.put(_block(file, page, number, lock))

        for _ in range(2):
            threading.Thread(target=decode, daemon=True).start()
        for first in range(0, left, batch):
            ask([ahead.get() for _ in range(min(batch, left - first))])
        return left


def _run(path: str, network: Any, name: str, batch: int, half: bool) -> int:
    import tilevision as tv

    given = {"returns": "embedding"} if name == "encoder" else {}
    model = tv.model(network.cpu(), batch_size=batch, device="cuda:0", half=half, **given)
    with tempfile.TemporaryDirectory() as folder:
        result = tv.analyze(
            path,
            model,
            grid=tv.Grid.by_tile(SIDE, overlap=0),
            checkpoint=folder,
            progress=False,
            strict=True,
        )
        return len(result.tiles)


def _sahi(picture: np.ndarray, network: Any, batch: int) -> int:
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        "torchvision",
        model=network.to("cuda:0"),
        confidence_threshold=0.25,
        device="cuda:0",
        category_mapping={str(number): str(number) for number in range(5)},
    )
    get_sliced_prediction(
        picture,
        model,
        slice_height=SIDE,
        slice_width=SIDE,
        overlap_height_ratio=0,
        overlap_width_ratio=0,
        perform_standard_pred=False,
        batch_size=batch,
        verbose=0,
    )
    return picture.shape[0] * picture.shape[1] // SIDE**2


def _supervision(picture: np.ndarray, ask: Callable[[list[np.ndarray]], Any], batch: int) -> int:
    import supervision as sv

    def look(tiles: list[np.ndarray]) -> list[Any]:
        return [
            sv.Detections(
                xyxy=one["boxes"].float().numpy(),
                confidence=one["scores"].float().numpy(),
                class_id=one["labels"].numpy(),
            )
            for one in ask([np.ascontiguousarray(tile) for tile in tiles])
        ]

    sv.InferenceSlicer(look, slice_wh=(SIDE, SIDE), overlap_wh=(0, 0), batch_size=batch)(picture)
    return picture.shape[0] * picture.shape[1] // SIDE**2


def _pictures(folder: str, tiles: int) -> tuple[str, np.ndarray]:
    """Return the file of all tiles, and the smaller picture as it lies in memory."""
    import tifffile

    picture = tifffile.imread(_picture(folder, SIDE, FEW))
    return _picture(folder, SIDE, tiles), picture


def _measured(given: argparse.Namespace, folder: str) -> dict[str, list[float]]:
    path, picture = _pictures(folder, given.tiles)
    rates: dict[str, list[float]] = {}
    for name, network in _networks().items():
        ask = _asked(network, name, given.half)
        contestants: dict[str, Callable[[], int]] = {
            "bare loop": lambda ask=ask: _loop(path, ask, given.batch),
            "tilevision": lambda network=network, name=name: _run(
                path, network, name, given.batch, given.half
            ),
        }
        if name == "detector" and find_spec("sahi") and not given.half:
            contestants["SAHI"] = lambda network=network: _sahi(picture, network, given.batch)
        if name == "detector" and find_spec("supervision"):
            contestants["supervision"] = lambda ask=ask: _supervision(picture, ask, given.batch)
        for turn in range(4):  # the first warms everything up
            for who, run in contestants.items():
                ask = _asked(network, name, given.half)  # a run is given the network elsewhere
                began = time.perf_counter()
                tiles = run()
                if turn:
                    rate = tiles / (time.perf_counter() - began)
                    rates.setdefault(f"{name}, {who}", []).append(rate)
    return rates


def main() -> None:
    """Have everybody do the job in turn, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--half", action="store_true")
    given = parser.parse_args()
    if not find_spec("torch"):
        raise SystemExit("This needs PyTorch and torchvision: pip install torch torchvision.")
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no NVIDIA GPU here, so there is nothing to measure.")
    with tempfile.TemporaryDirectory() as folder:
        rates = _measured(given, folder)
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, batches of {given.batch}\n")
    print("| | tiles a second, median | least to most |")
    print("|---|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {median(found):.0f} | {min(found):.0f} to {max(found):.0f} |")


if __name__ == "__main__":
    main()
