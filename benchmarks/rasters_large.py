"""Memory and time of maps: large sparse images end to end, and beside MONAI's sliding window.

    python benchmarks/rasters_large.py sizes 20000 40000   # a run and every export
    python benchmarks/rasters_large.py dense 20000         # the same of an image without gaps
    python benchmarks/rasters_large.py band                # a band of 100,000 × 100,000 pixels
    python benchmarks/rasters_large.py share               # blending and writing for each tile
    python benchmarks/rasters_large.py store               # what the worker does to keep a map
    python benchmarks/rasters_large.py peers 12288         # beside MONAI, where it is installed

Each step is a process of its own. Printed are wall seconds, seconds of processors and the most
anonymous memory, both of the process with all its descendants (the cluster), and of the largest of
them alone. Memory is looked at twenty times a second.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

import tilevision as tv
from tilevision.checkpoint.payloadstore import PayloadStore
from tilevision.payloads import bytes_of, packed, unpack
from tilevision.rasterspec import RasterSpec

CLASSES = ("water", "tree", "road", "roof", "bare")
TILE, OVERLAP = 1024, 0.2
BLOCK = 512  # of the TIFF
PEER_TILE, PEER_OVERLAP = 512, 0.25
SUFFIXES = (".npy", ".tif", ".ome.tif", ".ome.zarr")


def shares(pixels: np.ndarray) -> np.ndarray:
    """Return five shares (5, h, w) of pixels ``(h, w, 3)``, at little cost."""
    planes = np.empty((5, *pixels.shape[:2]), np.float32)
    planes[:3] = np.moveaxis(pixels, -1, 0)
    planes[3] = 255 - planes[0]
    planes[4] = 60
    planes += 1
    planes /= planes.sum(axis=0)
    return planes


def model() -> Any:
    """Return the model of the large runs."""
    return tv.model(shares, fingerprint="large", returns="probabilities", classes=CLASSES)


def sparse(path: Path, side: int, every: int = 16) -> None:
    """Write a tiled TIFF of which one block of 1,024 pixels in `every` holds anything."""
    import rasterio
    from rasterio.windows import Window

    rng = np.random.default_rng(side)
    coarse = rng.integers(0, 255, (3, 64, 64)).astype(np.uint8)
    picture = np.kron(coarse, np.ones((1, 16, 16), np.uint8)) ^ rng.integers(0, 8, (3, 1024, 1024))
    kind: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": 3, "photometric": "rgb"}
    kind |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "SPARSE_OK": "TRUE"}
    kind |= {"compress": "deflate", "bigtiff": "YES", "crs": "EPSG:32633"}
    place = rasterio.Affine(0.5, 0, 420_000, 0, -0.5, 5_600_000)
    with rasterio.open(path, "w", width=side, height=side, transform=place, **kind) as out:
        places = [(x, y) for y in range(0, side - 1023, 1024) for x in range(0, side - 1023, 1024)]
        for number in rng.permutation(len(places))[: min(len(places) // every, 600)]:
            x, y = places[number]
            out.write(np.roll(picture, number, 2).astype(np.uint8), window=Window(x, y, 1024, 1024))


def watched(*arguments: Any) -> dict[str, Any]:
    """Run a step of this script; return what it printed (JSON), and what it took."""
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, __file__, "--step", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    cpu: dict[int, float] = {}
    most = largest = 0
    while process.poll() is None:
        held = _held(process.pid, cpu)
        most, largest = max(most, sum(held)), max(largest, *held, 0)
        time.sleep(0.05)
    said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    lines = said.strip().splitlines()
    told: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    taken = {"wall": time.time() - began, "cpu": sum(cpu.values())}
    return told | taken | {"peak": most / 2**20, "largest": largest / 2**20}


def _held(process: int, cpu: dict[int, float]) -> list[int]:
    """Return the anonymous memory of a process and its descendants; note their seconds."""
    held = []
    try:
        first = psutil.Process(process)
        for one in (first, *first.children(recursive=True)):
            times = one.cpu_times()
            cpu[one.pid] = times.user + times.system
            status = Path(f"/proc/{one.pid}/status").read_text().splitlines()
            held += [int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon")]
    except (psutil.Error, OSError):
        pass
    return held or [0]


def show(what: str, told: dict[str, Any]) -> None:
    """Print a row."""
    rest = ", ".join(f"{k} {v}" for k, v in told.items() if k not in _TAKEN)
    print(
        f"{what:24} {told['wall']:7.1f} s  {told['cpu']:7.1f} s CPU  {told['peak']:6.0f} MiB all  "
        f"{told['largest']:6.0f} MiB largest  {rest}",
        flush=True,
    )


_TAKEN = {"wall", "cpu", "peak", "largest"}


def sizes(sides: list[int], every: int = 16) -> None:
    """Run, and export in every form, images of several sizes."""
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            sparse(Path(folder, "image.tif"), side, every)
            print(f"{side:,} × {side:,}, load {os.getloadavg()[0]:.1f}")
            show("run", watched("run", folder))
            show("restored", watched("save", folder, "none"))
            for suffix in ("areas", *SUFFIXES):
                show(suffix, watched("save", folder, suffix))


def _run(folder: str, **how: Any) -> Any:
    return tv.analyze(
        Path(folder, "image.tif"),
        model(),
        grid=tv.Grid.by_tile(TILE, OVERLAP),
        checkpoint=Path(folder, "checkpoint"),
        workers=2,
        progress=False,
        synthesis=None,
        **how,
    )


def step_run(folder: str) -> dict[str, Any]:
    """Analyse the image."""
    result = _run(folder)
    return {"tiles": len(result.rows), "restored": result.facts.restored}


def step_save(folder: str, suffix: str) -> dict[str, Any]:
    """Restore the result, and save it."""
    result = _run(folder)
    assert result.facts.restored == len(result.rows)
    if suffix == "none":
        return {}
    cpu = time.process_time()
    if suffix == "areas":
        return {"pixels": int(result.raster.areas()["pixels"].sum()), "own": _since(cpu)}
    path = result.save(Path(folder, f"map{suffix}"))
    whole = path.rglob("*") if path.is_dir() else [path]
    kept = sum(one.stat().st_size for one in whole if one.is_file())
    return {"MB": round(kept / 1e6, 1), "own": _since(cpu)}


def _since(cpu: float) -> str:
    return f"{time.process_time() - cpu:.1f} s CPU"


def band() -> None:
    """Plan 100,000 × 100,000 pixels, and run a band of it."""
    with tempfile.TemporaryDirectory() as folder:
        sparse(Path(folder, "image.tif"), 100_000)
        print(f"100,000 × 100,000, load {os.getloadavg()[0]:.1f}")
        show("plan", watched("plan", folder))
        show("band", watched("band", folder))


def step_plan(folder: str) -> dict[str, Any]:
    """Plan the whole image."""
    plan = tv.plan(
        Path(folder, "image.tif"),
        model(),
        grid=tv.Grid.by_tile(TILE, OVERLAP),
        checkpoint=Path(folder, "checkpoint"),
    )
    return {"tiles": len(plan.tiles)}


def step_band(folder: str) -> dict[str, Any]:
    """Run the tiles of a band, and save what is known of it."""
    result = _run(folder, region=(0, 50_000, 100_000, 51_000))
    areas = result.raster.areas()
    window = result.raster[50_000:50_256, 60_000:60_256]
    return {"tiles": len(result.rows), "classes": len(areas), "window": int(window.max())}


def share() -> None:
    """Print what blending and writing take for each tile."""
    with tempfile.TemporaryDirectory() as folder:
        side = 12_288
        sparse(Path(folder, "image.tif"), side, every=1)
        print(f"{side:,} × {side:,}, tiles {PEER_TILE}, load {os.getloadavg()[0]:.1f}")
        show("share", watched("share", folder))


def step_share(folder: str) -> dict[str, Any]:
    """Run with small tiles, and time what comes after the model."""
    result = tv.analyze(
        Path(folder, "image.tif"),
        model(),
        grid=tv.Grid.by_tile(PEER_TILE, PEER_OVERLAP),
        workers=2,
        progress=False,
        synthesis=None,
    )
    told: dict[str, Any] = {"tiles": len(result.rows)}
    for suffix in SUFFIXES:
        cpu = time.process_time()
        result.save(Path(folder, f"map{suffix}"))
        told[suffix] = f"{(time.process_time() - cpu) / len(result.rows) * 1e3:.1f} ms a tile"
    return told


def store() -> None:
    """Print what keeping the map of one tile takes: steps, digest, packing, disk; and its size."""
    print(f"a tile of {TILE}², {len(CLASSES)} shares, load {os.getloadavg()[0]:.1f}; ms of CPU")
    with tempfile.TemporaryDirectory() as folder:
        kept = PayloadStore(Path(folder))
        for what, planes in several_maps():
            print(f"{what:24} {kept_as(planes, kept)}", flush=True)
        kept.close()


def kept_as(planes: np.ndarray, kept: PayloadStore) -> str:
    """Keep a map ``(k, h, w)``; say what that takes."""
    spec = RasterSpec("probabilities", CLASSES)
    steps, whole = least(lambda: spec.kept(planes))
    digest, (ref, raw) = least(lambda: bytes_of(whole))
    packing, small = least(lambda: packed(raw, 1, TILE))
    before, slow = least(lambda: packed(raw, 1))
    opening, _ = least(lambda: unpack(*small, np.empty(len(raw), np.uint8)))
    began = time.process_time()
    kept.add({ref.digest: small})
    disk = (time.process_time() - began) * 1e3
    size, share = len(small.data) / 2**10, len(small.data) / len(slow.data)
    return (
        f"steps {steps:4.1f}, digest {digest:4.1f}, packing {packing:4.1f} (zstd 3 {before:4.1f}), "
        f"disk {disk:4.1f}: {steps + digest + packing + disk:4.1f}; unpacking {opening:4.1f}; "
        f"{size:,.0f} KiB, {share:.2f} of zstd 3"
    )


def least(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the milliseconds of this process's processors that work takes at least; its result."""
    best, made = 1e9, None
    for _ in range(7):
        began = time.process_time()
        made = work()
        best = min(best, (time.process_time() - began) * 1e3)
    return best, made


def several_maps() -> Iterator[tuple[str, np.ndarray]]:
    """Yield maps of five shares ``(5, h, w)`` and what they are, where torch is also networks'."""
    rng = np.random.default_rng(7)
    noise = np.zeros((TILE, TILE, 3))
    for cell in (2, 8, 32, 128):
        coarse = rng.normal(size=(TILE // cell, TILE // cell, 3))
        noise += np.kron(coarse, np.ones((cell, cell, 1)))
    picture = ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)
    yield "of each pixel alone", shares(picture)
    logits = rng.normal(size=(5, 32, 32)).repeat(8, 1).repeat(8, 2)
    quarter = (logits + rng.normal(size=(5, 256, 256)) * 0.2).astype(np.float32)
    smooth = np.stack([np.asarray(Image.fromarray(one).resize((TILE, TILE), 2)) for one in quarter])
    for what, factor in (("stride 4, sharp", 4.0), ("stride 4, soft", 1.0)):
        raised = np.exp(smooth * factor)
        yield what, raised / raised.sum(axis=0)
    if importlib.util.find_spec("torch") is not None:
        import rasters

        for name, make in rasters.NETWORKS.items():
            yield name, rasters.probabilities(make(picture), picture)


# Beside MONAI -----------------------------------------------------------------------------------


def network() -> Any:
    """Return the network of both: three convolutions, random weights, softmax."""
    import torch
    from torch import nn

    torch.manual_seed(18)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 5, 3, padding=1), nn.Softmax(1)).eval()


class Predict:
    """The network as a function of the pixels of a tile."""

    def __init__(self) -> None:
        self.net: Any = None

    def __call__(self, pixels: np.ndarray) -> Any:
        import torch

        if self.net is None:
            torch.set_num_threads(1)
            self.net = network()
        with torch.inference_mode():
            ready = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
            return self.net(ready)[0].numpy()


def peers(side: int) -> None:
    """Print both, one after the other; MONAI in its default mode and with its Gaussian."""
    with tempfile.TemporaryDirectory() as folder:
        sparse(Path(folder, "image.tif"), side, every=1)
        print(f"{side:,} × {side:,}, load {os.getloadavg()[0]:.1f}")
        show("tilevision", watched("ours", folder))
        for mode in ("constant", "gaussian"):
            try:
                show(f"MONAI {mode}", watched("monai", folder, mode))
            except SystemExit as error:
                print(error)


def step_ours(folder: str) -> dict[str, Any]:
    """Analyse with two workers, and save the classes."""
    result = tv.analyze(
        Path(folder, "image.tif"),
        tv.model(Predict(), fingerprint="net", returns="probabilities", classes=CLASSES),
        grid=tv.Grid.by_tile(PEER_TILE, PEER_OVERLAP),
        checkpoint=Path(folder, "checkpoint"),
        workers=2,
        progress=False,
        synthesis=None,
    )
    result.save(Path(folder, "ours.tif"))
    return {"tiles": len(result.rows)}


def step_monai(folder: str, mode: str) -> dict[str, Any]:
    """Do the same with MONAI, two threads: read, slide, argmax, write."""
    import rasterio
    import torch
    from monai.inferers import sliding_window_inference

    torch.set_num_threads(2)
    with rasterio.open(Path(folder, "image.tif")) as image, torch.inference_mode():
        pixels, profile = torch.from_numpy(image.read()), image.profile
        ready = pixels[None].float() / 255
        tile = (PEER_TILE, PEER_TILE)
        found = sliding_window_inference(ready, tile, 4, network(), overlap=PEER_OVERLAP, mode=mode)
        best = found[0].argmax(0).to(torch.uint8).numpy()
    profile |= {"count": 1, "photometric": "minisblack", "bigtiff": "IF_SAFER"}
    with rasterio.open(Path(folder, "monai.tif"), "w", **profile) as out:
        out.write(best, 1)
    return {}


def _step(name: str, *given: str) -> None:
    told = {
        "run": step_run,
        "save": step_save,
        "plan": step_plan,
        "band": step_band,
        "share": step_share,
        "ours": step_ours,
        "monai": step_monai,
    }[name](*given)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--step", name, *given]:
            _step(name, *given)
        case ["sizes", *sides]:
            sizes([int(side) for side in sides] or [20_000, 40_000])
        case ["dense", *sides]:
            sizes([int(side) for side in sides] or [20_000], every=1)
        case ["band"]:
            band()
        case ["share"]:
            share()
        case ["store"]:
            store()
        case ["peers", *side]:
            peers(int(side[0]) if side else 12_288)
        case _:
            raise SystemExit(__doc__)
