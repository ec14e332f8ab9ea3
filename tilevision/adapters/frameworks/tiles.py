"""Between tiles and libraries: pictures as they want them, findings as the tile has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.outlines import outline
from tilevision.adapters.pixels import rgb
from tilevision.findings import Findings

__all__ = [
    "LIMIT",
    "MOST_CLASSES",
    "NAMES",
    "NOTES",
    "REVISION",
    "SHAPED",
    "SMALLEST",
    "UNCOUNTED",
    "in_tile",
    "padded",
    "picture",
    "traced",
    "unread",
]

# Of what `examine` returns: the input's size is no part of the identity.
UNCOUNTED = "uncounted"
# Of what `examine` returns: how many objects a tile can have. It changes none of them, so it is no
# part of the identity either.
LIMIT = "limit"
# Of what `examine` returns: True if answers have outlines or rotated boxes, which `nms=` compares.
SHAPED = "shaped"
# Of what `examine` returns: the names of its classes by number, which are in the file's content.
NAMES = "class names"
MOST_CLASSES = 100_000  # a table of names by number is no larger
# Of what `examine` returns: lines that a plan says of the model; no part of its identity.
NOTES = "notes"
# Of what `examine` returns: what changed in how such models are read, a part of the identity.
REVISION = "revision"
SMALLEST = 32  # pixels; libraries fail on less, so smaller tiles are laid on black


def picture(tile: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a tile ``(h, w, c)`` as RGB uint8 of its own memory, 32 pixels a side at least."""
    if tile.dtype == np.uint8 and tile.shape[2] == 3:
        return padded(tile).copy()
    return padded(np.round(rgb(tile) * 255).clip(0, 255).astype(np.uint8))


def padded(tile: NDArray[Any], least: tuple[int, int] = (SMALLEST, SMALLEST)) -> NDArray[Any]:
    """Return a tile with black to its right and below, `least` pixels high and wide or more."""
    missing = [max(0, side - have) for side, have in zip(least, tile.shape, strict=False)]
    if not any(missing):
        return np.ascontiguousarray(tile)
    return np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)))


def unread(name: str, keys: Iterable[str], remedy: str = "") -> list[str]:
    """Return what to tell of parts of a library's answer that are not read; nothing for none.

    Parameters
    ----------
    name : str
        Of the model.
    keys : iterable of str
        What the library calls them.
    remedy : str
        What to do where they are wanted.
    """
    told = sorted({str(key) for key in keys})
    if not told:
        return []
    remedy = remedy or "pass a function that returns what you need of them as attributes"
    return [f"Model {name} also gives {', '.join(told)}, which will not be read; {remedy}."]


def in_tile(
    tile: NDArray[Any],
    boxes: Any,
    scores: Any,
    labels: Any,
    *,
    class_ids: Any = None,
    polygons: Any = None,
    oriented: Any = None,
    keypoints: Any = None,
    floor: float = 0.0,
    most: int | None = None,
) -> Findings:
    """Return what a library found, cut to the tile, from the score `floor` up, best first."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    height, width = tile.shape[:2]
    boxes = boxes.clip(0, [width, height, width, height])
    good = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & ~(scores < floor)
    rows = np.flatnonzero(good)
    findings = Findings(
        boxes[rows],
        scores[rows],
        [str(labels[row]) for row in rows],
        None if class_ids is None else np.asarray(class_ids, dtype=np.int64).reshape(-1)[rows],
        polygons=None if polygons is None else [polygons[row] for row in rows],
        oriented=None if oriented is None else np.asarray(oriented, dtype=np.float64)[rows],
        keypoints=None if keypoints is None else np.asarray(keypoints, dtype=np.float64)[rows],
    )
    return findings if most is None else findings.take(np.arange(min(most, len(findings))))


def traced(mask: NDArray[np.bool_], tile: NDArray[Any]) -> tuple[list[float] | None, Any]:
    """Return the box and the outline of a mask over the tile; None where it is empty."""
    mask = mask[: tile.shape[0], : tile.shape[1]]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None, None
    x0, x1, y0, y1 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    box = [float(x0), float(y0), float(x1), float(y1)]
    return box, outline(mask[y0:y1, x0:x1], (float(x0), float(y0)))
