"""Counts: what tiles make of outlines, beside the untiled answer.

Run by hand::

    python benchmarks/counts.py [--tile 512] [--overlaps 0 0.1 0.25 0.5] [--pictures]

First scenes of known count (``tests/outlined.py``: discs, touching cells, worms longer than a tile,
thin lines, horseshoes, rings, nested discs, objects on edges) in tiles of 200 px; then models on
pictures, against the same model untiled: ``nuclei`` on scikit-image's tissue and on the slide of
``shared/data``, a watershed on scikit-image's deep sky and on the satellite scene of
``shared/data``, where these are there. Each cell is the count error, and in brackets missed,
doubled and other objects, then the mean IoU of those matched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from tilevision.adapters.nuclei import PARAMS, NucleusDetector
from tilevision.adapters.outlines import ring
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Grid
from tilevision.seams import merge

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import outlined  # noqa: E402  # lives beside the tests, which share it

DATA = HERE.parents[1] / "shared" / "data"
SIZE, SEEDS = (600, 500), 3


def cell(counts: Sequence[dict[str, float]]) -> str:
    """Return one cell of the table, for the sum of some comparisons."""
    total = {name: sum(one[name] for one in counts) for name in counts[0]}
    error = 100 * (total["found"] / total["truth"] - 1)
    rest = ", ".join(f"{total[name]:.0f}" for name in ("missed", "doubled", "beside"))
    return f"{error:+.2f} % ({rest}) {total['iou'] / len(counts):.3f}"


def scenes(overlaps: Sequence[float]) -> None:
    """Print a row for each scene."""
    for name, make in outlined.SCENES.items():
        cells = []
        for overlap in overlaps:
            counts = []
            for seed in range(SEEDS):
                shapes = make(np.random.default_rng(seed), SIZE)
                tiles = outlined.look(shapes, Grid.by_tile(200, overlap).tiles(SIZE))
                found = merge(tiles, size=SIZE)
                counts.append(outlined.compare(shapes, outlined.outlines(found)))
            cells.append(cell(counts))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def watershed(
    grey: Any, least: float, smoothing: float = 1.0, apart: int = 4, smallest: int = 12
) -> Findings:
    """Return what is brighter than `least`, parted at its necks."""
    from scipy.ndimage import distance_transform_edt
    from skimage import feature, filters, measure, segmentation

    mask = filters.gaussian(grey, smoothing) > least
    depth = filters.gaussian(distance_transform_edt(mask), 1.0)
    peaks = feature.peak_local_max(
        depth * mask, min_distance=apart, threshold_abs=0.5, exclude_border=False
    )
    marks = np.zeros(mask.shape, int)
    marks[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    numbered = segmentation.watershed(-depth, marks, mask=mask)
    parts = [part for part in measure.regionprops(numbered) if part.area >= smallest]
    rings = [ring(part.image, (part.bbox[1], part.bbox[0])) for part in parts]
    if not rings:
        return Findings()
    return Findings(shapely.bounds([shapely.Polygon(r) for r in rings]), polygons=rings)


def pictures(side: int) -> Iterator[tuple[str, Any, Callable[[Any], Findings], int]]:
    """Yield name, pixels, model and side of the tiles of each picture that is there."""
    import tifffile
    from skimage import data, filters

    detector = NucleusDetector(**PARAMS)

    def nuclei(pixels: Any) -> Findings:
        return detector.predict([pixels])[0]

    yield "tissue, nuclei", data.immunohistochemistry(), nuclei, 256
    sky = data.hubble_deep_field().mean(axis=2)
    bright = float(np.percentile(filters.gaussian(sky, 1.0), 94))
    for tile in (128, 256):
        yield "deep sky, watershed", sky, partial(watershed, least=bright), tile
    scene, slide = DATA / "cog-uint16.tif", DATA / "cmu-1-small-region.svs"
    if scene.exists():
        grey = np.log1p(tifffile.imread(scene).astype(float))
        bright = float(np.percentile(filters.gaussian(grey, 1.0), 90))
        shed = partial(watershed, least=bright, smoothing=1.5, apart=6, smallest=20)
        yield "satellite scene, watershed", grey, shed, 512
    if slide.exists():
        yield "slide, nuclei", tifffile.imread(slide)[..., :3], nuclei, side


def real(overlaps: Sequence[float], side: int) -> None:
    """Print a row for each picture, and which are not there."""
    for name, pixels, model, tile_side in pictures(side):
        size = (pixels.shape[1], pixels.shape[0])
        whole = outlined.outlines(model(pixels))
        cells = []
        for overlap in overlaps:
            seen = []
            for tile in Grid.by_tile(tile_side, overlap).tiles(size):
                x0, y0, x1, y1 = map(int, tile.box.as_tuple())
                seen.append(TileFindings(tile, model(pixels[y0:y1, x0:x1])))
            found = outlined.outlines(merge(seen, size=size))
            cells.append(cell([outlined.compare(whole, found)]))
        said = f"{name}, tiles of {tile_side} px ({len(whole):,})"
        print(f"| {said} | " + " | ".join(cells) + " |", flush=True)
    if not DATA.exists():
        print("shared/data is not there, so its scene and its slide are left out")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tile", type=int, default=512, help="side of the tiles of the slide")
    parser.add_argument("--overlaps", nargs="*", type=float, default=[0.0, 0.05, 0.1, 0.25, 0.5])
    parser.add_argument("--pictures", action="store_true", help="leave out the generated scenes")
    asked = parser.parse_args()
    print("| scene | " + " | ".join(f"{overlap:.0%}" for overlap in asked.overlaps) + " |")
    print("|---|" + "---|" * len(asked.overlaps))
    if not asked.pictures:
        scenes(asked.overlaps)
    real(asked.overlaps, asked.tile)


if __name__ == "__main__":
    main()
