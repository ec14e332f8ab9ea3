"""Seams: ours beside every merge SAHI and supervision offer, on the same detections.

Run by hand, in an environment that has the peers as well::

    pip install sahi supervision
    python benchmarks/seams.py [--scenes mixed crowd] [--seeds 3] [--speed] [--trees]

Without a choice it runs all of it. Each cell is F1 (one to one at IoU 0.5, in per cent)
and the count error in per cent, averaged over overlaps of 0, 10 and 20 % unless
``--by-overlap``; the last column is the time of all merges of that row. Scenes and
observers are those of ``tests/scenes.py``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.seams import merge

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import scenes  # noqa: E402  # lives beside the tests, which share it

Merge = Callable[[Sequence[TileFindings], tuple[int, int]], Findings]
THRESHOLDS = (0.1, 0.3, 0.5, 0.7)
OVERLAPS = (0.2, 0.1, 0.0)
TREES = HERE.parents[1] / "shared" / "data" / "trees-osbs-029"


def rows(tiles: Sequence[TileFindings]) -> tuple[np.ndarray, list[str]]:
    """Return all detections as ``(n, 6)`` (box, score, class number) and the class names."""
    found = merge(tiles, "none")
    names = sorted(set(found.labels.tolist()))
    classes = [names.index(label) for label in found.labels]
    scores = np.nan_to_num(found.scores, nan=0.5)
    return np.column_stack([found.boxes, scores, classes]), names


def sahi(kind: str, metric: str, threshold: float) -> Merge:
    """Return one of SAHI's merges, called as SAHI calls it after slicing."""
    from sahi.postprocess import combine
    from sahi.prediction import ObjectPrediction

    merger = getattr(combine, kind)(threshold, metric.upper(), class_agnostic=False)

    def run(tiles: Sequence[TileFindings], size: tuple[int, int]) -> Findings:
        table, names = rows(tiles)
        shape = [size[1], size[0]]
        predictions = [
            ObjectPrediction(
                row[:4].tolist(), int(row[5]), names[int(row[5])], score=row[4], full_shape=shape
            )
            for row in table
        ]
        kept = merger(predictions) if predictions else []
        return Findings(
            [item.bbox.to_xyxy() for item in kept],
            [item.score.value for item in kept],
            [item.category.name for item in kept],
        )

    return run


def supervision(kind: str, metric: str, threshold: float) -> Merge:
    """Return one of supervision's merges, as its ``InferenceSlicer`` applies it."""
    import supervision as sv

    def run(tiles: Sequence[TileFindings], _size: tuple[int, int]) -> Findings:
        table, names = rows(tiles)
        found = sv.Detections(
            table[:, :4], confidence=table[:, 4], class_id=table[:, 5].astype(int)
        )
        how = sv.detection.utils.iou_and_nms.OverlapMetric(metric.upper())
        kept = getattr(found, f"with_{kind}")(threshold=threshold, overlap_metric=how)
        return Findings(kept.xyxy, kept.confidence, [names[i] for i in kept.class_id])

    return run


def ours(method: str, metric: str = "iou", threshold: float = 0.5) -> Merge:
    """Return one of tilevision's merges."""
    return lambda tiles, size: merge(tiles, method, False, metric, threshold, size=size)


def contenders() -> dict[str, Merge]:
    """Return every merge by name; what is not installed is named and left out."""
    out: dict[str, Merge] = {"tilevision seam": ours("seam"), "tilevision none": ours("none")}
    settings = [(metric, threshold) for metric in ("iou", "ios") for threshold in THRESHOLDS]
    for metric, threshold in settings:
        for method in ("nms", "nmm", "wbf"):
            name = f"tilevision {method} {metric} {threshold}"
            out[name] = ours(method, metric, threshold)
    for package, make, kinds in (
        ("sahi", sahi, ("NMSPostprocess", "NMMPostprocess", "GreedyNMMPostprocess")),
        ("supervision", supervision, ("nms", "nmm")),
    ):
        try:
            __import__(package)
        except ImportError:
            print(f"{package} is not installed and left out: pip install {package}")
            continue
        for kind in kinds:
            for metric, threshold in settings:
                short = kind.removesuffix("Postprocess").lower()
                out[f"{package} {short} {metric} {threshold}"] = make(kind, metric, threshold)
    return out


def compare_scenes(names: Sequence[str], seeds: int, by_overlap: bool) -> None:
    """Print F1 and count error of every contender on every scene."""
    runs = contenders()
    for observer_name, observer in (("perfect", scenes.PERFECT), ("noisy", scenes.NOISY)):
        columns = [(name, (o,)) for name in names for o in OVERLAPS]
        if not by_overlap:
            columns = [(name, OVERLAPS) for name in names]
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        spent = dict.fromkeys(runs, 0.0)
        for scene_name, overlaps in columns:
            cases = []
            for seed in range(seeds):
                scene = scenes.SCENES[scene_name](seed)
                for overlap in overlaps:
                    tiles = scenes.grid_tiles(scene.size, overlap)
                    cases.append((scene, scenes.observe(scene, tiles, observer, seed)))
            for name, run in runs.items():
                start = time.process_time()
                found = [run(tiles, scene.size) for scene, tiles in cases]
                spent[name] += time.process_time() - start
                scores = [
                    (scenes.f1(scene, one), scenes.count_error(scene, one))
                    for (scene, _), one in zip(cases, found, strict=True)
                ]
                f1, error = np.mean(scores, axis=0)
                results[name].append((float(f1), float(error)))
        heads = [
            name if len(overlaps) > 1 else f"{name} {overlaps[0]:.0%}" for name, overlaps in columns
        ]
        print_table(f"{observer_name} observer", heads, results, spent)


def print_table(
    title: str,
    heads: Sequence[str],
    results: dict[str, list[tuple[float, float]]],
    spent: dict[str, float],
) -> None:
    """Print a table, a merge a row, best mean F1 first, and how far ours is ahead."""
    print(f"\n{title}: F1 %, count error %")
    print("| merge | " + " | ".join(heads) + " | CPU s |")
    print("|---|" + "---|" * (len(heads) + 1))
    for name in sorted(results, key=lambda n: -np.mean([f1 for f1, _ in results[n]])):
        cells = [f"{100 * f1:.1f} {100 * error:+.0f}" for f1, error in results[name]]
        print(f"| {name} | " + " | ".join(cells) + f" | {spent[name]:.1f} |")
    lead = []
    for column in range(len(heads)):
        peers = {n: cells[column][0] for n, cells in results.items() if n != "tilevision seam"}
        best = max(peers, key=lambda n: peers[n])
        ahead = results["tilevision seam"][column][0] - peers[best]
        lead.append(f"{heads[column]} {100 * ahead:+.1f} ({best})")
    print("seam ahead of the best other, in points of F1: " + "; ".join(lead))


def crowded(n: int, crowd: bool, tile: int = 1024) -> tuple[list[TileFindings], tuple[int, int]]:
    """Return about `n` detections of boxes of 12 to 40 px over many tiles."""
    rng = np.random.default_rng(0)
    count = int(n / 1.5)
    side = max(int(np.sqrt(count) * (12 if crowd else 40)), 2 * tile)
    wh, corner = rng.uniform(12, 40, (count, 2)), rng.uniform(0, side - 40, (count, 2))
    boxes = np.hstack([corner, corner + wh])
    boxes = boxes[np.argsort(boxes[:, 0])]
    out = []
    for cell in Grid.by_tile(tile, 0.2).tiles((side, side)):
        region = np.array(cell.box.as_tuple())
        low, high = np.searchsorted(boxes[:, 0], [region[0] - 40, region[2]])
        seen = boxes[low:high] + rng.normal(0, 1, (high - low, 4))
        seen = np.clip(seen, np.tile(region[:2], 2), np.tile(region[2:], 2))
        seen = seen[(seen[:, 2:] - seen[:, :2] > 2).all(axis=1)] - np.tile(region[:2], 2)
        found = Findings(seen, rng.uniform(0.3, 1, len(seen)))
        out.append(TileFindings(cell, found))
    return out, (side, side)


def compare_speed() -> None:
    """Print CPU seconds at growing numbers of boxes, ours beside SAHI's numpy NMS."""
    print("\nCPU seconds (one process; wall seconds in brackets)")
    print("| boxes | layout | seam | tilevision nms | SAHI numpy nms | seam / SAHI |")
    print("|---|---|---|---|---|---|")
    for n, crowd in (
        (10_000, False),
        (100_000, False),
        (100_000, True),
        (1_000_000, False),
        (1_000_000, True),
    ):
        tiles, size = crowded(n, crowd)
        table, _ = rows(tiles)
        cells = [timed(partial(ours(method), tiles, size)) for method in ("seam", "nms")]
        theirs = timed(partial(sahi_arrays, table)) if n <= 100_000 else None
        text = [f"{cpu:.2f} ({wall:.2f})" for cpu, wall in cells]
        text.append(f"{theirs[0]:.2f} ({theirs[1]:.2f})" if theirs else "not run")
        text.append(f"{cells[0][0] / theirs[0]:.2f}" if theirs else "")
        kind = "crowded" if crowd else "sparse"
        print(f"| {len(table):,} | {kind} | " + " | ".join(text) + " |", flush=True)


def sahi_arrays(table: np.ndarray) -> None:
    """Run SAHI's NMS on bare arrays, with its numpy backend: the fastest it offers here."""
    from sahi.postprocess import backends, combine

    backends.set_postprocess_backend("numpy")
    combine.batched_nms(table, "IOU", 0.5)


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return CPU and wall seconds of the better of two runs."""
    spent = []
    for _ in range(2):
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        spent.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(spent)


def crowns(pixels: np.ndarray) -> Findings:
    """Find tree crowns in an aerial picture: bright green bumps, cut apart by watershed."""
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian
    from skimage.measure import regionprops
    from skimage.segmentation import watershed

    rgb = pixels.astype(np.float64) / 255
    excess = 2 * rgb[..., 1] - rgb[..., 0] - rgb[..., 2]
    green, bump = gaussian(excess, 3), gaussian(excess, 4)
    mask = green > 0.09
    peaks = peak_local_max(bump, min_distance=15, labels=mask.astype(int), exclude_border=False)
    marks = np.zeros(bump.shape, int)
    marks[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    regions = [
        region
        for region in regionprops(watershed(-bump, marks, mask=mask), intensity_image=green)
        if region.area >= 150
    ]
    boxes = [np.array(region.bbox)[[1, 0, 3, 2]] for region in regions]
    scores = [float(np.clip(region.intensity_mean * 3, 0.05, 1)) for region in regions]
    return Findings(np.reshape(boxes, (-1, 4)), scores, ["Tree"] * len(regions))


def compare_trees() -> None:
    """Print what every merge makes of a real detector on a real image with drawn truth."""
    image, drawn = TREES.with_suffix(".tif"), TREES.with_suffix(".csv")
    if not image.exists():
        print(f"\n{image.name} is not there, so the real image is left out")
        return
    import tifffile

    pixels = tifffile.imread(image)[..., :3]
    height, width = pixels.shape[:2]
    lines = [line.split(",") for line in drawn.read_text().splitlines()[1:]]
    truth = np.array([[float(value) for value in line[1:5]] for line in lines])
    labels = np.array([line[5].strip() for line in lines], dtype=object)
    scene = scenes.Scene("trees", (width, height), truth, labels)
    whole = crowns(pixels)
    print(f"\nreal trees: {len(truth)} drawn; detector on the whole image: {len(whole)} found, "
          f"F1 {100 * scenes.f1(scene, whole, 0.4):.1f} % at IoU 0.4")  # fmt: skip
    target = scenes.Scene("whole", (width, height), whole.boxes, whole.labels)
    runs = contenders()
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    for overlap in (0.4, 0.2, 0.1):
        tiles = [
            TileFindings(tile, crowns(crop(pixels, tile)))
            for tile in Grid.by_tile(128, overlap).tiles((width, height))
        ]
        for name, run in runs.items():
            start = time.process_time()
            found = run(tiles, (width, height))
            spent[name] += time.process_time() - start
            for reference, threshold in ((scene, 0.4), (target, 0.5)):
                results[name].append(
                    (scenes.f1(reference, found, threshold), scenes.count_error(reference, found))
                )
    heads = [f"{o:.0%} vs {what}" for o in (0.4, 0.2, 0.1) for what in ("drawn", "whole image")]
    print_table("real trees, tiles of 128 px", heads, results, spent)


def crop(pixels: np.ndarray, tile: Tile) -> np.ndarray:
    """Return the pixels of a tile."""
    box: Box = tile.box
    return pixels[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="*", choices=list(scenes.SCENES), metavar="SCENE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--by-overlap", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--trees", action="store_true")
    asked = parser.parse_args()
    everything = asked.scenes is None and not (asked.speed or asked.trees)
    if everything or asked.scenes is not None:
        compare_scenes(asked.scenes or list(scenes.SCENES), asked.seeds, asked.by_overlap)
    if everything or asked.trees:
        compare_trees()
    if everything or asked.speed:
        compare_speed()


if __name__ == "__main__":
    main()
