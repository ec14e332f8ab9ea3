"""Networks on one NVIDIA GPU: a run beside a bare loop, SAHI and supervision.

    python benchmarks/gpu.py [--tiles 10000] [--batch 16] [--half] [--onnx FASTESTDET]
    python benchmarks/gpu.py --device cpu --tiles 64 --turns 1     # whether it works, without one

Takes less than ten minutes on one GPU of a server. Needs torch and torchvision, onnxruntime-gpu for
the ONNX file; SAHI and supervision take part if they are installed. FastestDet (an ONNX file that
takes one picture at a time), a detector of torchvision (SSDlite) and a ViT-B encoder (of two layers
on a processor), both with random weights, look at TILES tiles of 512 px, each a block of a
JPEG-tiled TIFF:

- ``bare loop``: threads decode ahead, the network takes the same batches; nothing is stored. ONNX
  inputs and outputs are bound to the GPU's memory, as tilevision binds them
- ``tilevision``: a run in one process on DEVICE with its checkpoint, once its cluster is up
- ``SAHI``, ``supervision``: the detectors with their batching, on a picture of 1,024 tiles, since
  they hold all of it in memory. SAHI knows no FastestDet

Printed are tiles a second: the median, the least and the most of the turns, and the share of the
bare loop's. A first turn on few tiles warms everything up and does not count.
"""

from __future__ import annotations

import argparse
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from device import _block, _picture
from end_to_end import Network

SIDE = 512
FEW = 1024  # tiles of those who hold the picture in memory
WARM = 64  # tiles of the turn that does not count
ONNX = "../shared/data/fastestdet-coco.onnx"

Ask = Callable[[list[np.ndarray]], Any]


@dataclass
class Job:
    """What everybody is given.

    Parameters
    ----------
    path : str
        The file of all tiles.
    picture : ndarray
        A smaller one, as it lies in memory.
    """

    path: str
    picture: np.ndarray


def _networks(device: str) -> dict[str, Any]:
    import torch
    import torchvision

    torch.manual_seed(1)
    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )
    layers = 2 if device == "cpu" else 12
    sizes = {"num_layers": layers, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
    encoder = torchvision.models.VisionTransformer(image_size=SIDE, patch_size=16, **sizes)
    encoder.heads = torch.nn.Identity()
    return {"detector": detector.eval(), "encoder": encoder.eval()}


def _asked(network: Any, name: str, given: argparse.Namespace) -> Ask:
    import torch

    network, device, half = network.to(given.device), given.device, given.half
    network = network.half() if half else network

    def ask(tiles: list[np.ndarray]) -> Any:
        pictures = [torch.from_numpy(tile).permute(2, 0, 1).to(device) / 255 for tile in tiles]
        pictures = [one.half() if half else one for one in pictures]
        with torch.inference_mode():
            if name == "detector":
                return [{k: v.cpu() for k, v in one.items()} for one in network(pictures)]
            return network(torch.stack(pictures)).float().cpu()

    return ask


class BoundNetwork(Network):
    """FastestDet on a device, its input and output bound to its memory."""

    def __init__(self, path: str, device: str) -> None:
        super().__init__(path)
        if device == "cpu":
            return
        import onnxruntime as ort

        index = int(device.partition(":")[2] or 0)
        providers = [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
        session = ort.InferenceSession(path, providers=providers)

        class Bound:
            def run(self, _: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
                binding = session.io_binding()
                for name, array in feeds.items():
                    value = ort.OrtValue.ortvalue_from_numpy(array, "cuda", index)
                    binding.bind_ortvalue_input(name, value)
                for output in session.get_outputs():
                    binding.bind_output(output.name, "cuda", index)
                session.run_with_iobinding(binding)
                copied: list[np.ndarray] = binding.copy_outputs_to_cpu()
                return copied

        self._session = Bound()

    def ask(self, tiles: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Return what it finds on each tile."""
        names = ("boxes", "scores", "labels")
        return [dict(zip(names, self(tile), strict=True)) for tile in tiles]


def _loop(path: str, ask: Ask, batch: int) -> int:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        numbers, ahead = iter(range(len(page.dataoffsets))), queue.Queue(4 * batch)
        lock, left, _ = threading.Lock(), len(page.dataoffsets), page.jpegtables

        def decode() -> None:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                ahead.put(_block(file, page, number))

        for _ in range(max(2, (os.cpu_count() or 2) // 2)):
            threading.Thread(target=decode, daemon=True).start()
        for first in range(0, left, batch):
            ask([ahead.get() for _ in range(min(batch, left - first))])
        return left


def _run(path: str, model: Any) -> int:
    import tilevision as tv

    with tempfile.TemporaryDirectory() as folder:
        result = tv.analyze(
            path,
            model,
            grid=tv.Grid.by_tile(SIDE, overlap=0),
            checkpoint=folder,
            workers=1,
            progress=False,
            strict=True,
        )
        return len(result.tiles)


def _sahi(picture: np.ndarray, network: Any, given: argparse.Namespace) -> int:
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        "torchvision",
        model=network.to(given.device),
        confidence_threshold=0.25,
        device=given.device,
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
        batch_size=given.batch,
        verbose=0,
    )
    return picture.shape[0] * picture.shape[1] // SIDE**2


def _supervision(picture: np.ndarray, ask: Ask, batch: int) -> int:
    import supervision as sv

    def look(tiles: list[np.ndarray]) -> list[Any]:
        return [
            sv.Detections(
                xyxy=np.asarray(one["boxes"], np.float32).reshape(-1, 4),
                confidence=np.asarray(one["scores"], np.float32),
                class_id=np.asarray(one["labels"], np.int64),
            )
            for one in ask([np.ascontiguousarray(tile) for tile in tiles])
        ]

    sv.InferenceSlicer(look, slice_wh=(SIDE, SIDE), overlap_wh=(0, 0), batch_size=batch)(picture)
    return picture.shape[0] * picture.shape[1] // SIDE**2


Contestants = dict[str, Callable[[Job], int]]


def _of_onnx(given: argparse.Namespace) -> Contestants:
    import tilevision as tv

    network = BoundNetwork(given.onnx, given.device)
    spec = tv.model(given.onnx, device=given.device)
    contestants: Contestants = {
        "bare loop": lambda job: _loop(job.path, network.ask, given.batch),
        "tilevision": lambda job: _run(job.path, spec),
    }
    if find_spec("supervision"):
        contestants["supervision"] = lambda job: _supervision(job.picture, network.ask, given.batch)
    return contestants


def _of_torch(network: Any, name: str, given: argparse.Namespace) -> Contestants:
    import tilevision as tv

    kind = {"returns": "embedding"} if name == "encoder" else {}
    half = {"half": True} if given.half else {}
    spec = tv.model(network, batch_size=given.batch, device=given.device, **half, **kind)
    ask = _asked(network, name, given)
    contestants: Contestants = {
        "bare loop": lambda job: _loop(job.path, ask, given.batch),
        "tilevision": lambda job: _run(job.path, spec),
    }
    if name == "detector" and find_spec("sahi") and not given.half:
        contestants["SAHI"] = lambda job: _sahi(job.picture, network, given)
    if name == "detector" and find_spec("supervision"):
        contestants["supervision"] = lambda job: _supervision(job.picture, ask, given.batch)
    return contestants


def _measured(given: argparse.Namespace, folder: str) -> dict[tuple[str, str], list[float]]:
    import tifffile

    few = min(FEW, given.tiles)
    warm = _picture(folder, SIDE, min(WARM, given.tiles))
    small = tifffile.imread(_picture(folder, SIDE, few))
    jobs = [Job(warm, tifffile.imread(warm)), Job(_picture(folder, SIDE, given.tiles), small)]
    everybody = {name: _of_torch(one, name, given) for name, one in _networks(given.device).items()}
    if given.onnx and not given.half:
        everybody = {"FastestDet": _of_onnx(given)} | everybody
    rates: dict[tuple[str, str], list[float]] = {}
    for name, contestants in everybody.items():
        for turn in range(given.turns + 1):
            for who, run in contestants.items():
                began = time.perf_counter()
                tiles = run(jobs[min(turn, 1)])
                if turn:
                    rate = tiles / (time.perf_counter() - began)
                    rates.setdefault((name, who), []).append(rate)
    return rates


def main() -> None:
    """Have everybody do the job in turn, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--onnx", default=ONNX if Path(ONNX).exists() else "")
    given = parser.parse_args()
    if not find_spec("torch") or not find_spec("torchvision"):
        raise SystemExit("This needs PyTorch and torchvision: pip install torch torchvision.")
    import torch

    if given.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no NVIDIA GPU here; --device cpu tells whether this works.")
    with tempfile.TemporaryDirectory() as folder:
        rates = _measured(given, folder)
    where = "processor" if given.device == "cpu" else torch.cuda.get_device_name(0)
    print(f"{where}, torch {torch.__version__}, {given.tiles} tiles, batches of {given.batch}\n")
    print("| | tiles a second, median | least to most | of the bare loop's |")
    print("|---|---|---|---|")
    for (name, who), found in rates.items():
        share = median(found) / median(rates[name, "bare loop"])
        spread = f"{min(found):.0f} to {max(found):.0f}"
        print(f"| {name}, {who} | {median(found):.0f} | {spread} | {share:.2f} |")


if __name__ == "__main__":
    main()
