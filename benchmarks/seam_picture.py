"""Seams before and after, ours beside theirs, as the picture of the README.

Run by hand, in an environment that has the peers as well::

    pip install sahi supervision
    python benchmarks/seam_picture.py [seams.jpg]

A page of text is cut into tiles, its lines and words are found in each, and the same
findings go through SAHI's default merge, supervision's default merge and ours (the merges
alone: SAHI's further pass over the whole image is left out for all). What the same
detector finds on the whole page, uncut, is the reference.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from scipy.optimize import linear_sum_assignment
from seams import crop, ours, sahi, supervision

from tilevision import samples
from tilevision.catalogue import resolve
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import iou
from tilevision.grid import Grid, Tile
from tilevision.modelspec import build

TARGET = Path(__file__).resolve().parents[1] / "notebooks" / "images" / "seams.jpg"
GRID = Grid.by_tile(128, 0.2)
VIEW = (66, 56, 258, 136)  # x0, y0, x1, y1 on the page; ours errs in it as well
RIGHT, WRONG, EDGE = "#1565c0", "#d50000", "#00897b"
MERGES = {
    "Tiles as they come": ours("none"),
    "SAHI, default (greedy NMM, IoS 0.5)": sahi("GreedyNMMPostprocess", "ios", 0.5),
    "supervision, default (NMS, IoU 0.5)": supervision("nms", "iou", 0.5),
    "tilevision, default (seam)": ours("seam"),
}


def matched(found: Findings, whole: Findings) -> tuple[np.ndarray, np.ndarray]:
    """Tell which of `found` and of `whole` are alike: same class, IoU of 0.5, one to one."""
    overlap = iou(found.boxes[:, None], whole.boxes[None])
    good = (overlap >= 0.5) & (found.labels[:, None] == whole.labels[None])
    rows, columns = linear_sum_assignment(good * (1 + overlap), maximize=True)
    hit = good[rows, columns]
    right, seen = np.zeros(len(found), bool), np.zeros(len(whole), bool)
    right[rows[hit]] = seen[columns[hit]] = True
    return right, seen


def draw(axes: Axes, page: np.ndarray, tiles: Sequence[Tile], found: Findings, right: np.ndarray,
         missing: Findings) -> None:  # fmt: skip
    """Draw the view with the edges of tiles, and what is right, wrong and missing."""
    axes.imshow(page, cmap="gray", vmin=-120, vmax=255, interpolation="bicubic")
    edges = np.array([tile.box.as_tuple() for tile in tiles])
    for x in np.unique(edges[:, ::2]):
        axes.axvline(x, color=EDGE, lw=1.4, ls="--")
    for y in np.unique(edges[:, 1::2]):
        axes.axhline(y, color=EDGE, lw=1.4, ls="--")
    for boxes, labels, colour, style in (
        (found.boxes[right], found.labels[right], RIGHT, "-"),
        (missing.boxes, missing.labels, WRONG, ":"),
        (found.boxes[~right], found.labels[~right], WRONG, "-"),
    ):
        for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
            pad = 0.8 if label == "line" else 0  # a line and its words share edges
            corner, size = (x0 - pad, y0 - pad), (x1 - x0 + 2 * pad, y1 - y0 + 2 * pad)
            axes.add_patch(Rectangle(corner, *size, fill=False, ec=colour, lw=1.5, ls=style))
            if colour == WRONG and style == "-":
                axes.add_patch(Rectangle(corner, *size, fc=colour, ec="none", alpha=0.08))
    axes.set(xlim=VIEW[::2], ylim=VIEW[:0:-2], xticks=[], yticks=[])


def main() -> None:
    page = samples.page()
    height, width = page.shape
    pixels = np.repeat(page[..., None], 3, axis=2)
    model = build(resolve("textlines"))
    whole = model.predict([pixels])[0]
    tiles = GRID.tiles((width, height))
    seen = [TileFindings(tile, model.predict([crop(pixels, tile)])[0]) for tile in tiles]
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    figure.get_layout_engine().set(hspace=0.05, wspace=0.02)
    for axes, (name, run) in zip(figure.subplots(2, 2).flat, MERGES.items(), strict=True):
        found = run(seen, (width, height))
        right, hit = matched(found, whole)
        draw(axes, page, tiles, found, right, whole.take(~hit))
        print(f"{name}: {len(found)} found, {right.sum()} right, {(~hit).sum()} missing, "
              f"F1 {200 * right.sum() / (len(found) + len(whole)):.1f} %")  # fmt: skip
        axes.set_title(f"{name}: {len(found)} found\n{right.sum()} right, "
                       f"{(~right).sum()} double or in parts, {(~hit).sum()} missing")  # fmt: skip
    figure.suptitle(f"Lines and words of a page cut into {len(tiles)} tiles (a part of it, "
                    f"zoomed); uncut, the same model finds {len(whole)}", fontsize=14)  # fmt: skip
    handles = [
        Line2D([], [], color=RIGHT, label="same as on the uncut page"),
        Line2D([], [], color=WRONG, label="double or in parts"),
        Line2D([], [], color=WRONG, ls=":", label="missing"),
        Line2D([], [], color=EDGE, ls="--", label="edges of tiles"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=11, frameon=False)
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    figure.savefig(target, dpi=100, pil_kwargs={"quality": 45, "optimize": True})
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
