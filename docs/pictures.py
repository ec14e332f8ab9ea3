"""The pictures of the pages, made by tilevision itself whenever the site is built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import tilevision as tv
from tilevision import samples
from tilevision.plot import draw_result

RIGHT, EDGE = "#0072b2", "#d55e00"
STATUSES = ("restored", "restored", "done", "done", "failed", "running", "pending", "pending")


def make(folder: Path) -> None:
    """Write all pictures into `folder`."""
    folder.mkdir(exist_ok=True)
    tissue = samples.tissue()
    result = tv.analyze(tissue, "nuclei", grid="3x3", checkpoint=None, progress=False)
    _saved(result.plot(), folder / "result.jpg")
    _saved(_going_on(result), folder / "running.jpg")
    _saved(_seam(result), folder / "seam.jpg")
    _saved(_grids(samples.sky()), folder / "grids.jpg")


def _saved(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, facecolor="white", pil_kwargs={"quality": 85})


def _going_on(result: tv.Result) -> Figure:
    """Draw a run half way: every status that a tile can have."""
    tiles = tv.Grid(rows=4, cols=4, overlap=0.1).tiles(result.source.size)
    shown = [(tile, STATUSES[number % len(STATUSES)]) for number, tile in enumerate(tiles)]
    done = [tile.box for tile, status in shown if status in ("done", "restored")]
    boxes = result.findings.boxes
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    there = np.zeros(len(boxes), bool)
    for box in done:
        there |= (
            (middle[:, 0] >= box.x0)
            & (middle[:, 0] < box.x1)
            & (middle[:, 1] >= box.y0)
            & (middle[:, 1] < box.y1)
        )
    found = tv.Findings(boxes[there], result.findings.scores[there])
    return draw_result(None, result.source, shown, found, title="A run half way", note=" ")


def _seam(result: tv.Result) -> Figure:
    """Draw what two neighbouring tiles saw in a crop on their seam, and what came of it."""
    left, right = result.tile_findings[0], result.tile_findings[1]
    parts = {
        "The left tile": (left.in_image().boxes, left.tile.box),
        "The right tile": (right.in_image().boxes, right.tile.box),
        "Merged": (result.findings.boxes, None),
    }
    pixels = result.source.read(tv.Box(0, 0, *result.source.size))
    middle = (left.tile.box.x1 + right.tile.box.x0) / 2
    figure = Figure(figsize=(9, 3.3), layout="tight")
    for axes, (title, (boxes, tile)) in zip(figure.subplots(1, 3), parts.items(), strict=True):
        axes.imshow(pixels, interpolation="bicubic")
        for x0, y0, x1, y1 in boxes:
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=RIGHT, lw=1.6))
        if tile is not None:
            for x in {tile.x0, tile.x1} - {0}:
                axes.axvline(x, color=EDGE, lw=1.6, ls="--")
        axes.set(xlim=(middle - 60, middle + 60), ylim=(150, 50), xticks=[], yticks=[], title=title)
    return figure


def _grids(sky: np.ndarray) -> Figure:
    """Draw four grids over one picture."""
    source = tv.open_source(sky)
    grids = {
        'grid="3x4"': tv.Grid(rows=3, cols=4),
        "grid=300": tv.Grid.by_tile(300),
        "tv.Grid(3, 4, overlap=0)": tv.Grid(3, 4, overlap=0),
        'grid="adaptive"': tv.Grid.adaptive(max_tile=500, min_tile=125).fitted(source),
    }
    figure = Figure(figsize=(9, 7.6), layout="tight")
    for axes, (title, grid) in zip(figure.subplots(2, 2).flat, grids.items(), strict=True):
        axes.imshow(sky)
        for tile in grid.tiles(source.size):
            box = tile.box
            axes.add_patch(
                Rectangle((box.x0, box.y0), box.width, box.height, fc="#56b4e922", ec="#56b4e9")
            )
        axes.set(xticks=[], yticks=[], title=title)
    return figure
