"""Seams of maps beside the tiled inference of others, in one run; and runs that are killed.

    python benchmarks/rasters.py seams      # error near seams against the untiled answer; also
                                            # of one network: seams "conv, far"
    python benchmarks/rasters.py seeds 16   # of many convolutional networks, beside MONAI
    python benchmarks/rasters.py peers      # beside geoai and terratorch as well
    python benchmarks/rasters.py kills 50   # a run that is killed again and again

The networks have random weights: the same network untiled is the truth. Others are measured where
they are installed. What no blend could better is said as well: by one who knows the truth, and
chooses for each pixel among the tiles that cover it, or weighs them.
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
from rasters_peers import Scene, monai, peers_here

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
STRIDE = 8  # of the U-Net


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


def convolutional(pixels: np.ndarray, falling: float | None, seed: int = 18) -> Any:
    """Return eight dilated layers of 12 planes with zero padding, whose reach is 34 pixels.

    Weights are normal, of a variance that keeps the signal, biases of deviation 0.1. Those away
    from the middle of each kernel are smaller by `falling`, a factor for each axis: with 0.5 the
    influence of a pixel falls with its distance as it does in trained networks, and two tiles
    disagree at 0, 8, 16, 24 and 32 px from an edge as 1 : .6 : .26 : .07 : .005; with 1 what is
    far counts as much as what is near. None: all weights as PyTorch begins with them.
    """
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layers: list[Any] = []
    channels = 3
    for dilation in (1, 1, 2, 4, 8, 8, 8, 2):
        layers += [nn.Conv2d(channels, 12, 3, padding=dilation, dilation=dilation), nn.ReLU()]
        channels = 12
    net = nn.Sequential(*layers, nn.Conv2d(channels, CLASSES, 1))
    if falling is None:
        return scaled(net, net[-1], pixels, 0.5)
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


DRAWN = {"falling": 0.5, "far": 1.0, "PyTorch's own": None}  # of `convolutional`
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


def answered(net: Any, pixels: np.ndarray, overlap: float, stride: int = 1) -> Answers:
    """Return what the model says of each tile."""
    tiles = tv.Grid.by_tile(TILE, overlap).tiles((WIDTH, HEIGHT), 1.0, stride)
    cut = ((t, pixels[t.box.y0 : t.box.y1, t.box.x0 : t.box.x1]) for t in tiles)
    return [(tile, probabilities(net, its)) for tile, its in cut]


def blended(answers: Answers, pixels: np.ndarray, blend: str, *, quiet: bool = False) -> np.ndarray:
    """Return what tilevision makes of the tiles' answers ``(k, h, w)``; say how they agree."""
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
    if blend == "smooth" and not quiet:
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


def near_seams(overlap: float, stride: int = 1) -> np.ndarray:
    """Return which pixels lie within 16 px of an inner edge of a tile ``(h, w)``."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for tile in tv.Grid.by_tile(TILE, overlap).tiles((WIDTH, HEIGHT), 1.0, stride):
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
    made = Scene(pixels, as_batch(pixels), TILE)
    print(
        f"load {os.getloadavg()[0]:.1f}; RMSE within {NEAR} px of an inner edge / elsewhere; step"
    )
    modes = ("constant", "gaussian") if "monai" in peers_here() else ()
    for name in networks:
        net = NETWORKS[name](pixels)
        truth = probabilities(net, pixels)
        for overlap in OVERLAPS:
            print(f"{name}, overlap {overlap:.0%}", flush=True)
            answers = answered(net, pixels, overlap)
            ways = {blend: blended(answers, pixels, blend) for blend in BLENDS}
            ways |= {f"MONAI {mode}": monai(net, made, overlap, mode) for mode in modes}
            mask = near_seams(overlap)
            for way, found in ways.items():
                error = found - truth
                step = worst_step(error, overlap)
                print(f"  {way:15} {_told((error**2).mean(axis=0), mask)}  {step:.4f}")
            if name == "unet":
                told = answered(net, pixels, overlap, STRIDE)
                error = ((blended(told, pixels, "smooth") - truth) ** 2).mean(axis=0)
                words = f"smooth, stride={STRIDE}"
                print(
                    f"  {words:15} {_told(error, near_seams(overlap, STRIDE))}  {len(told)} tiles"
                )
            if overlap < 0.2:  # there the best of windows is not good enough
                names = ("best tile", "best weights")
                for way, error in zip(names, oracles(answers, truth), strict=True):
                    print(f"  {way:15} {_told(error, mask)}", flush=True)


def _told(squared: np.ndarray, mask: np.ndarray) -> str:
    near, far = (float(squared[one].mean()) ** 0.5 for one in (mask, ~mask))
    return f"{near:.4f} / {far:.4f}"


def by_depth(answers: Answers, truth: np.ndarray, depth: int) -> np.ndarray:
    """Return the mean squared error of tiles ``(depth,)`` by the distance from an inner edge.

    Where no other edge within the image is near.
    """
    sums, counts = np.zeros(depth), 0
    for tile, answer in answers:
        box = tile.box
        error = ((answer - truth[:, box.y0 : box.y1, box.x0 : box.x1]) ** 2).mean(axis=0)
        inner = error[depth:-depth, :], error[:, depth:-depth].T
        edges = ((box.x0, WIDTH - box.x1), (box.y0, HEIGHT - box.y1))
        for part, (before, after) in zip(inner, edges, strict=True):
            if before:
                sums, counts = sums + part[:, :depth].mean(axis=0), counts + 1
            if after:
                sums, counts = sums + part[:, ::-1][:, :depth].mean(axis=0), counts + 1
    found: np.ndarray = sums / counts
    return found


def inverse_variance(answers: Answers, truth: np.ndarray) -> np.ndarray:
    """Return the blend ``(k, h, w)`` whose weights are 1 over the true squared error by depth.

    No window that is learnt from how tiles disagree can know more.
    """
    squared = np.maximum(by_depth(answers, truth, 64), 1e-9)
    sums, total = np.zeros_like(truth, np.float64), np.zeros(truth.shape[1:])
    for tile, answer in answers:
        box = tile.box
        at = [np.arange(TILE)] * 2
        variance = np.full((TILE, TILE), squared[-1])
        for axis, (before, after) in enumerate(
            ((box.y0, HEIGHT - box.y1), (box.x0, WIDTH - box.x1))
        ):
            near = np.full(TILE, 63)
            near = np.minimum(near, at[axis]) if before else near
            near = np.minimum(near, at[axis][::-1]) if after else near
            along = squared[near]
            variance = variance + (along[:, None] if axis == 0 else along)
        here = slice(box.y0, box.y1), slice(box.x0, box.x1)
        sums[:, here[0], here[1]] += answer / variance
        total[here] += 1 / variance
    found: np.ndarray = sums / total
    return found


def seeds(count: int, drawn: list[str]) -> None:
    """Print the error near seams of many networks, as a share of MONAI's default's."""
    if "monai" not in peers_here():
        return
    import torch

    pixels = scene()
    made, overlaps = Scene(pixels, as_batch(pixels), TILE), (0.1, 0.25, 0.5)
    print(f"{count} networks, seeds 0 to {count - 1}; RMSE within {NEAR} px of an inner edge as a")
    print("share of that of MONAI's constant: least, first quartile, median, third, most; by the")
    print("medians, the error itself; how many networks have at most half")
    for name in drawn:
        shares: dict[tuple[float, str], list[float]] = {}
        errors: dict[float, list[float]] = {}
        falls = []
        for seed in range(count):
            net = convolutional(pixels, DRAWN[name], seed)
            torch.set_num_threads(1)
            truth = probabilities(net, pixels)
            for overlap in overlaps:
                answers = answered(net, pixels, overlap)
                blends = ("smooth", "core")
                ways = {blend: blended(answers, pixels, blend, quiet=True) for blend in blends}
                ways["inverse variance"] = inverse_variance(answers, truth)
                constant = monai(net, made, overlap, "constant")
                mask = near_seams(overlap)
                most = _near(constant - truth, mask)
                for way, found in ways.items():
                    share = _near(found - truth, mask) / most
                    shares.setdefault((overlap, way), []).append(share)
                errors.setdefault(overlap, []).append(most)
            falls.append(by_depth(answers, truth, 40)[::8] ** 0.5)
        fall = np.median(np.array(falls) / np.array(falls)[:, :1], axis=0)
        print(f"{name}: error at 0, 8, 16, 24, 32 px from an edge " + " : ".join(map(_two, fall)))
        for (overlap, way), values in shares.items():
            spread = " ".join(map(_two, np.quantile(values, (0, 0.25, 0.5, 0.75, 1))))
            error = np.median(np.multiply(values, errors[overlap]))
            half = sum(one <= 0.5 for one in values)
            print(f"  {overlap:4.0%} {way:17} {spread}  {error:.4f}  {half} of {count}", flush=True)


def _near(error: np.ndarray, mask: np.ndarray) -> float:
    return float((error**2).mean(axis=0)[mask].mean()) ** 0.5


def _two(value: float) -> str:
    return f"{value:.2f}"


def peers(networks: list[str]) -> None:
    """Print the errors of all who are installed, away from the image's border and at it."""
    pixels = scene()
    made, ways = Scene(pixels, as_batch(pixels), TILE), peers_here()
    frame = 48  # pixels: more than the networks' reach, so that how one pads does not count
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[frame:-frame, frame:-frame] = True
    print(f"RMSE within {NEAR} px of an inner edge, and {frame} px from the image's border /")
    print("elsewhere there; worst step; RMSE in the border's 2 px; seconds of processors")
    for name in networks:
        net = NETWORKS[name](pixels)
        truth = probabilities(net, pixels)
        for overlap in (0.1, 0.25, 0.5):
            print(f"{name}, overlap {overlap:.0%}", flush=True)
            seams_, rim = near_seams(overlap), np.ones((HEIGHT, WIDTH), bool)
            rim[2:-2, 2:-2] = False
            for way, call in {"tilevision": _ours, **ways}.items():
                for mode in getattr(call, "modes", ("",)):
                    began = time.process_time()
                    found = call(net, made, overlap, mode)
                    took = time.process_time() - began
                    error = found - truth
                    squared = (error**2).mean(axis=0)
                    near, far = (float(squared[inside & one].mean()) for one in (seams_, ~seams_))
                    step = worst_step(error, overlap)
                    edge = float(squared[rim].mean()) ** 0.5
                    told = f"{near**0.5:.4f} / {far**0.5:.4f}  {step:.4f}  {edge:.4f}  {took:.1f} s"
                    print(f"  {f'{way} {mode}':32} {told}", flush=True)


def _ours(net: Any, made: Scene, overlap: float, mode: str) -> np.ndarray:
    return blended(answered(net, made.pixels, overlap), made.pixels, mode or "smooth", quiet=True)


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
    elif sys.argv[1:2] == ["seeds"]:
        seeds(int(sys.argv[2]) if len(sys.argv) > 2 else 16, sys.argv[3:] or list(DRAWN))
    elif sys.argv[1:2] == ["peers"]:
        peers(sys.argv[2:] or list(NETWORKS))
    else:
        seams(sys.argv[2:] or list(NETWORKS))
