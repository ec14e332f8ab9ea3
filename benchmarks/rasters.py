"""Seams, time and memory of maps, beside MONAI's sliding window, in one run.

    python benchmarks/rasters.py seams      # error near seams against the untiled answer
    python benchmarks/rasters.py kills 50   # a run that is killed again and again

The model is convolutional (eight dilated layers, zero padding, reach 34 pixels), with random
weights: the same network untiled is the truth. MONAI is measured where it is installed.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tilevision as tv
from tilevision.analysis.units import units_of
from tilevision.checkpoint.payloadstore import PayloadMemory
from tilevision.findings import Findings, TileFindings
from tilevision.payloads import StoredArray, bytes_of, packed
from tilevision.rasters import BLENDS, MapSettings, map_of
from tilevision.sources import open_source

HEIGHT, WIDTH, TILE, CLASSES = 848, 912, 256, 5
OVERLAPS = (0.1, 0.25, 0.5)
NEAR = 16  # pixels from a tile's edge


def network(pixels: np.ndarray) -> Any:
    """Return the model: (1, 3, h, w) floats to (1, k, h, w) probabilities, of all sizes alike.

    Its logits are divided by half their deviation over `pixels`, so that it is neither sure
    everywhere nor nowhere.
    """
    import torch
    from torch import nn

    torch.manual_seed(18)
    torch.set_num_threads(2)
    layers: list[Any] = []
    channels = 3
    for dilation in (1, 1, 2, 4, 8, 8, 8, 2):
        layers += [nn.Conv2d(channels, 12, 3, padding=dilation, dilation=dilation), nn.ReLU()]
        channels = 12
    layers += [nn.Conv2d(channels, CLASSES, 1)]
    net = nn.Sequential(*layers)
    for one in net.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.normal_(one.weight, std=(2.2 / one.weight[0].numel()) ** 0.5)
            nn.init.normal_(one.bias, std=0.1)
    with torch.no_grad():
        spread = float(net(as_batch(pixels)).std()) / 2
        net[-1].weight /= spread
        net[-1].bias /= spread
    return nn.Sequential(net, nn.Softmax(1)).eval()


def as_batch(pixels: np.ndarray) -> Any:
    """Return pixels ``(h, w, 3)`` as the network wants them ``(1, 3, h, w)``."""
    import torch

    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) / 64 - 2)


def scene() -> np.ndarray:
    """Return an image with structure at all scales ``(h, w, 3)``, 0 to 255."""
    rng = np.random.default_rng(7)
    total = np.zeros((HEIGHT, WIDTH, 3))
    for cell in (2, 8, 32, 128):
        coarse = rng.normal(size=(HEIGHT // cell + 2, WIDTH // cell + 2, 3))
        total += np.kron(coarse, np.ones((cell, cell, 1)))[:HEIGHT, :WIDTH]
    low, high = total.min(), total.max()
    return ((total - low) / (high - low) * 255).astype(np.uint8)


def probabilities(net: Any, pixels: np.ndarray) -> np.ndarray:
    """Return the model's answer for pixels ``(h, w, 3)``."""
    import torch

    with torch.no_grad():
        found: np.ndarray = net(as_batch(pixels))[0].numpy()
    return found


def blended(net: Any, pixels: np.ndarray, overlap: float, blend: str) -> np.ndarray:
    """Return what tilevision makes of the tiles' answers ``(k, h, w)``."""
    source = open_source(pixels)
    tiles = tv.Grid.by_tile(TILE, overlap).tiles(source.size)
    store, found = PayloadMemory(), []
    for tile in tiles:
        b = tile.box
        answer = probabilities(net, pixels[b.y0 : b.y1, b.x0 : b.x1])
        raster = tv.Raster(answer, classes=[f"c{n}" for n in range(CLASSES)])
        ref, raw = bytes_of(raster.kept)
        store.add({ref.digest: packed(raw, 1)})
        array = StoredArray(replace(ref, raster=raster.spec), store)
        found.append(TileFindings(tile, Findings(), raster=array))
    made = map_of(tiles, found, source, MapSettings(blend), units_of(source.metadata), None)
    assert made is not None
    if blend == "smooth":
        print(f"    {made.agreement}")
    return np.moveaxis(np.asarray(made.probabilities), -1, 0)


def monai(net: Any, pixels: np.ndarray, overlap: float, mode: str) -> np.ndarray:
    """Return what MONAI's sliding window makes of the same model ``(k, h, w)``."""
    import torch
    from monai.inferers import sliding_window_inference

    with torch.no_grad():
        batch = as_batch(pixels)
        found = sliding_window_inference(batch, (TILE, TILE), 1, net, overlap=overlap, mode=mode)
    answer: np.ndarray = found[0].numpy()
    return answer


def near_seams(overlap: float) -> np.ndarray:
    """Return which pixels lie within 16 px of an inner edge of a tile ``(h, w)``."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for tile in tv.Grid.by_tile(TILE, overlap).tiles((WIDTH, HEIGHT)):
        b = tile.box
        for edge in (b.x0, b.x1):
            if 0 < edge < WIDTH:
                mask[b.y0 : b.y1, max(0, edge - NEAR) : edge + NEAR] = True
        for edge in (b.y0, b.y1):
            if 0 < edge < HEIGHT:
                mask[max(0, edge - NEAR) : edge + NEAR, b.x0 : b.x1] = True
    return mask


def seams() -> None:
    """Print the error near seams and elsewhere, and what it took."""
    pixels = scene()
    net = network(pixels)
    truth = probabilities(net, pixels)
    print(f"load {os.getloadavg()[0]:.1f}; RMSE within {NEAR} px of an inner edge / elsewhere")
    ways: list[tuple[str, Any]] = [(blend, blended) for blend in BLENDS]
    try:
        import monai as _  # noqa: F401

        ways += [("constant", monai), ("gaussian", monai)]
    except ImportError:
        print("MONAI is not installed; its rows are left out")
    for overlap in OVERLAPS:
        print(f"overlap {overlap:.0%}")
        mask = near_seams(overlap)
        for name, way in ways:
            began = time.process_time()
            error = (way(net, pixels, overlap, name) - truth) ** 2
            spent = time.process_time() - began
            near, far = (float(error[:, one].mean()) ** 0.5 for one in (mask, ~mask))
            who = "MONAI " if way is monai else ""
            print(f"  {who}{name:9} {near:.4f} / {far:.4f}  ({spent:.1f} s CPU)")


JOB = """
import sys, numpy as np, tilevision as tv
def noted(kind, pixels):
    with open(sys.argv[2], "ab", buffering=0) as file:
        file.write(kind + pixels[0, :4].tobytes().hex().encode() + b"\\n")
def predict(pixels, log=sys.argv[2]):
    with open(log, "ab", buffering=0) as file:
        file.write(b"call " + pixels[0, :4].tobytes().hex().encode() + b"\\n")
    share = pixels[..., 0] / 255
    edge = np.minimum.outer(*(np.minimum(np.arange(n), np.arange(n)[::-1]) for n in share.shape))
    share = np.clip(share + np.exp(-edge / 4) * 0.3, 0, 1)
    return np.stack([share, 1 - share])
if __name__ == "__main__":
    image = np.random.default_rng(3).integers(0, 255, (1800, 1600, 3)).astype(np.uint8)
    model = tv.model(predict, fingerprint="drill", returns="probabilities", classes=("a", "b"))
    grid = tv.Grid.by_tile(96, 0.2)
    plan = tv.plan(image, model, grid=grid, checkpoint=sys.argv[1])
    for tile in plan.restored:
        noted(b"kept ", image[tile.box.y0 :, tile.box.x0 :])
    result = tv.analyze(image, model, grid=grid, checkpoint=sys.argv[1],
                        progress=False, workers=int(sys.argv[3]))
    for suffix in (".npy", ".tif", ".ome.tif", ".ome.zarr"):
        result.save(sys.argv[4] + suffix)
    print("restored", result.facts.restored, "of", len(result.rows), flush=True)
"""
EXPORTS = (".npy", ".tif", ".ome.tif", ".ome.zarr")


def kills(times: int) -> None:
    """Kill a run again and again; its files have the bytes of one that never was.

    Before each start the log says which tiles the checkpoint has; none of them may be called after.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job.py")
        job.write_text(JOB)
        print(_whole(job, folder, "clean"), flush=True)
        rng = np.random.default_rng(5)
        log = Path(folder, "killed.log")
        done = 0
        while done < times:
            process = _start(job, folder, "killed", 1 + done % 2)
            began, before = time.time(), _calls(log)
            wanted = before + int(rng.integers(2, 11))
            while process.poll() is None and _calls(log) < wanted and time.time() - began < 120:
                time.sleep(0.005)
            time.sleep(float(rng.uniform(0, 0.05)))
            if process.poll() is not None:
                break
            os.killpg(process.pid, signal.SIGKILL)
            done += 1
            process.wait()
        print(f"{done} kills; then {_whole(job, folder, 'killed')}")
        for suffix in EXPORTS:
            first, second = (_digest(Path(folder, name + suffix)) for name in ("clean", "killed"))
            print(f"{suffix:9} {first} {second} {'the same' if first == second else 'DIFFERS'}")
        kept: set[str] = set()
        again, called = 0, []
        for line in log.read_text().splitlines():
            what, tile = line.split()
            if what == "kept":
                kept.add(tile)
            else:
                called.append(tile)
                again += tile in kept
        print(f"{len(called)} calls for {len(set(called))} tiles; {again} for tiles that were kept")


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names."""
    told = hashlib.sha256()
    whole = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    for one in whole:
        told.update(one.relative_to(path.parent).as_posix().removeprefix(path.name).encode())
        told.update(one.read_bytes())
    return told.hexdigest()[:16]


def _start(job: Path, folder: str, name: str, workers: int) -> Any:
    places = [str(Path(folder, name + suffix)) for suffix in ("", ".log")]
    arguments = [*places, str(workers), str(Path(folder, name))]
    return subprocess.Popen(
        [sys.executable, str(job), *arguments],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _whole(job: Path, folder: str, name: str) -> str:
    said, _ = _start(job, folder, name, 2).communicate(timeout=600)
    return said.strip()


def _calls(path: Path) -> int:
    return path.read_bytes().count(b"call") if path.exists() else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["kills"]:
        kills(int(sys.argv[2]) if len(sys.argv) > 2 else 50)
    else:
        seams()
