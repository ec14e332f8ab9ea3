"""Seams, time and memory of maps, beside MONAI's sliding window, in one run.

    python benchmarks/rasters.py seams      # error near seams against the untiled answer; also
                                            # of one network: seams "conv, far"
    python benchmarks/rasters.py kills 50   # a run that is killed again and again

The networks have random weights: the same network untiled is the truth. MONAI is measured where it
is installed. What no blend could better is said as well: by one who knows the truth, and chooses
for each pixel among the tiles that cover it, or weighs them.
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
OVERLAPS = (0.1, 0.2, 0.25, 0.5)
NEAR = 16  # pixels from a tile's edge


def scaled(net: Any, last: Any, pixels: np.ndarray, spread: float) -> Any:
    """Return a network with a softmax, whose logits over `pixels` deviate by 1 / `spread`.

    So that it is neither sure everywhere nor nowhere.
    """
    import torch
    from torch import nn

    torch.set_num_threads(2)
    with torch.no_grad():
        factor = float(net(as_batch(pixels)).std()) * spread
        last.weight /= factor
        last.bias /= factor
    return nn.Sequential(net, nn.Softmax(1)).eval()


def convolutional(pixels: np.ndarray, falling: float) -> Any:
    """Return eight dilated layers with zero padding, whose reach is 34 pixels.

    Weights away from the middle of each kernel are smaller by `falling`, a factor for each axis:
    with 0.5 the influence of a pixel falls with its distance as it does in trained networks, and
    two tiles disagree at 0, 8, 16, 24 and 32 px from an edge as 1 : .6 : .26 : .07 : .005; with 1
    what is far counts as much as what is near.
    """
    import torch
    from torch import nn

    torch.manual_seed(18)
    layers: list[Any] = []
    channels = 3
    for dilation in (1, 1, 2, 4, 8, 8, 8, 2):
        layers += [nn.Conv2d(channels, 12, 3, padding=dilation, dilation=dilation), nn.ReLU()]
        channels = 12
    net = nn.Sequential(*layers, nn.Conv2d(channels, CLASSES, 1))
    axis = torch.tensor([falling, 1, falling])
    with torch.no_grad():
        for one in net:
            if isinstance(one, nn.Conv2d):
                nn.init.normal_(one.weight)
                nn.init.normal_(one.bias, std=0.1)
                if one.kernel_size == (3, 3):
                    one.weight *= axis[:, None] * axis
                one.weight *= (2.2 / (one.weight**2).sum((1, 2, 3)).mean()) ** 0.5
    return scaled(net, net[-1], pixels, 0.28 if falling < 1 else 0.5)


def unet(pixels: np.ndarray) -> Any:
    """Return a U-Net with three poolings: it depends on where its tile begins as well."""
    import torch
    from torch import nn
    from torch.nn.functional import interpolate, max_pool2d

    def block(before: int, after: int) -> Any:
        first, second = (nn.Conv2d(n, after, 3, padding=1) for n in (before, after))
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList([block(3, 8), block(8, 16), block(16, 32)])
            self.middle = block(32, 64)
            self.up = nn.ModuleList([block(96, 32), block(48, 16), block(24, 8)])
            self.last = nn.Conv2d(8, CLASSES, 1)

        def forward(self, x: Any) -> Any:
            kept = []
            for one in self.down:
                x = one(x)
                kept.append(x)
                x = max_pool2d(x, 2)
            x = self.middle(x)
            for one in self.up:
                beside = kept.pop()
                x = interpolate(x, size=beside.shape[-2:], mode="bilinear")
                x = one(torch.cat([x, beside], 1))
            return self.last(x)

    torch.manual_seed(18)
    net = Net()
    for one in net.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.normal_(one.weight, std=(2.2 / one.weight[0].numel()) ** 0.5)
            nn.init.normal_(one.bias, std=0.1)
    return scaled(net, net.last, pixels, 1.0)


NETWORKS = {
    "conv": lambda pixels: convolutional(pixels, 0.5),
    "conv, far": lambda pixels: convolutional(pixels, 1.0),
    "unet": unet,
}


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


Answers = list[tuple[Any, np.ndarray]]


def answered(net: Any, pixels: np.ndarray, overlap: float) -> Answers:
    """Return what the model says of each tile."""
    tiles = tv.Grid.by_tile(TILE, overlap).tiles((WIDTH, HEIGHT))
    cut = ((t, pixels[t.box.y0 : t.box.y1, t.box.x0 : t.box.x1]) for t in tiles)
    return [(tile, probabilities(net, its)) for tile, its in cut]


def blended(answers: Answers, pixels: np.ndarray, blend: str) -> np.ndarray:
    """Return what tilevision makes of the tiles' answers ``(k, h, w)``."""
    source = open_source(pixels)
    store, found = PayloadMemory(), []
    for tile, answer in answers:
        raster = tv.Raster(answer, classes=[f"c{n}" for n in range(CLASSES)])
        ref, raw = bytes_of(raster.kept)
        store.add({ref.digest: packed(raw, 1)})
        array = StoredArray(replace(ref, raster=raster.spec), store)
        found.append(TileFindings(tile, Findings(), raster=array))
    tiles = [tile for tile, _ in answers]
    made = map_of(tiles, found, source, MapSettings(blend), units_of(source.metadata), None)
    assert made is not None
    if blend == "smooth":
        print(f"    {made.agreement}")
    return np.moveaxis(np.asarray(made.probabilities), -1, 0)


def oracles(answers: Answers, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two bounds ``(h, w)`` of the mean squared error of a pixel, by who knows the truth.

    The first picks the best tile for each pixel. The second gives the tiles of each pixel the best
    weights there are: no blend of the same answers, whatever its window, is nearer. It is NaN where
    more than four tiles cover a pixel.
    """
    deepest = np.zeros((HEIGHT, WIDTH), int)
    for tile, _ in answers:
        deepest[tile.box.y0 : tile.box.y1, tile.box.x0 : tile.box.x1] += 1
    errors = np.full((deepest.max(), CLASSES, HEIGHT, WIDTH), np.nan, np.float32)
    filled = np.zeros((HEIGHT, WIDTH), int)
    for tile, answer in answers:
        here = slice(tile.box.y0, tile.box.y1), slice(tile.box.x0, tile.box.x1)
        for n in np.unique(filled[here]):
            mine = filled[here] == n
            errors[n][:, here[0], here[1]][:, mine] = (answer - truth[:, here[0], here[1]])[:, mine]
        filled[here] += 1
    picked = np.nanmin((errors**2).sum(axis=1), axis=0)
    best = picked.copy()
    for n in range(2, deepest.max() + 1):
        mine = deepest == n
        if mine.any():
            best[mine] = nearest(errors[:n, :, mine]) if n <= 4 else np.nan
    return picked / CLASSES, best / CLASSES


def nearest(points: np.ndarray, rounds: int = 60) -> np.ndarray:
    """Return a lower bound of the squared distance of the origin from the hull of points.

    Pairwise Frank–Wolfe; what it may still be off is subtracted.

    Parameters
    ----------
    points : array (n, k, m)
        Of m hulls: n points in k dimensions each.
    """
    points = points.astype(np.float64)
    n, _, m = points.shape
    all_ = np.arange(m)
    shares = np.full((n, m), 1 / n)
    for _ in range(rounds):
        at = (shares[:, None] * points).sum(axis=0)
        slope = (points * at).sum(axis=1)
        low, high = slope.argmin(axis=0), np.where(shares > 0, slope, -np.inf).argmax(axis=0)
        way = points[high, :, all_] - points[low, :, all_]
        length = (way**2).sum(axis=1)
        wanted = (at.T * way).sum(axis=1) / np.where(length > 0, length, 1)
        moved = np.clip(wanted, 0, shares[high, all_])
        shares[low, all_] += moved
        shares[high, all_] -= moved
    at = (shares[:, None] * points).sum(axis=0)
    squared = (at**2).sum(axis=0)
    gap = squared - (points * at).sum(axis=1).min(axis=0)
    bound: np.ndarray = np.maximum(squared - 2 * gap, 0)
    return bound


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


def worst_step(error: np.ndarray, overlap: float) -> float:
    """Return the largest mean jump of the error ``(k, h, w)`` across an edge of tiles."""
    tiles = tv.Grid.by_tile(TILE, overlap).tiles((WIDTH, HEIGHT))
    across = {edge for t in tiles for edge in (t.box.x0, t.box.x1) if 0 < edge < WIDTH}
    down = {edge for t in tiles for edge in (t.box.y0, t.box.y1) if 0 < edge < HEIGHT}
    steps = [np.abs(error[:, :, x] - error[:, :, x - 1]).mean() for x in across]
    steps += [np.abs(error[:, y] - error[:, y - 1]).mean() for y in down]
    return float(max(steps))


def seams(networks: list[str]) -> None:
    """Print errors near seams and elsewhere, and the worst steps."""
    pixels = scene()
    print(
        f"load {os.getloadavg()[0]:.1f}; RMSE within {NEAR} px of an inner edge / elsewhere; step"
    )
    try:
        import monai as _  # noqa: F401

        modes: tuple[str, ...] = ("constant", "gaussian")
    except ImportError:
        print("MONAI is not installed; its rows are left out")
        modes = ()
    for name in networks:
        net = NETWORKS[name](pixels)
        truth = probabilities(net, pixels)
        for overlap in OVERLAPS:
            print(f"{name}, overlap {overlap:.0%}", flush=True)
            answers = answered(net, pixels, overlap)
            ways = {blend: blended(answers, pixels, blend) for blend in BLENDS}
            ways |= {f"MONAI {mode}": monai(net, pixels, overlap, mode) for mode in modes}
            mask = near_seams(overlap)
            for way, found in ways.items():
                error = found - truth
                step = worst_step(error, overlap)
                print(f"  {way:15} {_told((error**2).mean(axis=0), mask)}  {step:.4f}")
            if overlap < 0.2:  # there the best of windows is not good enough
                names = ("best tile", "best weights")
                for way, error in zip(names, oracles(answers, truth), strict=True):
                    print(f"  {way:15} {_told(error, mask)}", flush=True)


def _told(squared: np.ndarray, mask: np.ndarray) -> str:
    near, far = (float(squared[one].mean()) ** 0.5 for one in (mask, ~mask))
    return f"{near:.4f} / {far:.4f}"


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
        seams(sys.argv[2:] or list(NETWORKS))
