"""Weighted sums of what overlapping tiles say, in whole numbers, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.rasterspec import NODATA, NONE, STEPS, first_of_most

__all__ = ["Sums", "decided", "in_steps", "woven"]

_HIGHEST = STEPS + 2  # number of a pixel
_FEW = 2**10  # weights up to here leave single precision exact: see `in_steps`


@dataclass(frozen=True, slots=True)
class Sums:
    """What tiles say of a window, weighted and added up.

    Parameters
    ----------
    planes : iterator of array (h, w)
        Whole numbers, one class after the other; each holds until the next is asked for, and is
        not to be written to.
    total : array of unsigned whole numbers
        The weights, of a shape that broadcasts to ``(h, w)``; 0 where no tile is.
    """

    planes: Iterator[NDArray[Any]]
    total: NDArray[Any]


def woven(
    values: Sequence[Sequence[NDArray[np.uint8]]],
    down: Sequence[NDArray[np.uint32]],
    across: Sequence[NDArray[np.uint32]],
) -> Sums | None:
    """Return the sums over a window that rows and columns of tiles cover entirely.

    A weight is one of its row times one of its column. So the tiles of a row are added up by the
    weights of columns alone, and then the rows; and what all tiles have in common, as the weight
    of the only row, is left out of the sums and of the total: shares and their order stay the
    same. The numbers are so small that most fit 16 bits.

    Parameters
    ----------
    values : sequence of sequence of array (k, h, w) of uint8
        By row and column of the tiles.
    down : sequence of array (h,)
    across : sequence of array (w,)
        The weights of each row and column.

    Returns
    -------
    Sums or None
        None where weights are 0 for some pixels: there others are to be tried.
    """
    over, beside = _common(down), _common(across)
    high, wide = (np.sum(one, axis=0) for one in (over, beside))
    if not (high.all() and wide.all()):
        return None
    # Of a single row or column it is 1, and the total has the length of the other axis alone.
    rows, columns = high[: None if len(over) > 1 else 1], wide[: None if len(beside) > 1 else 1]
    return Sums(_planes(values, over, beside), rows[:, None] * columns)


def _common(weights: Sequence[NDArray[np.uint32]]) -> list[NDArray[np.uint64]]:
    """Return weights along one axis less what they have in common: the only one's are 1."""
    if len(weights) == 1:
        return [np.minimum(weights[0], 1).astype(np.uint64)]
    factor = np.gcd.reduce([np.gcd.reduce(one) for one in weights])
    return [(one // max(1, factor)).astype(np.uint64) for one in weights]


def _planes(
    values: Sequence[Sequence[NDArray[np.uint8]]],
    down: Sequence[NDArray[np.uint64]],
    across: Sequence[NDArray[np.uint64]],
) -> Iterator[NDArray[Any]]:
    most = int(np.sum(across, axis=0).max()) * _HIGHEST
    small = _fitting(most)
    large = _fitting(most * int(np.sum(down, axis=0).max()))
    columns = [one.astype(small) for one in across]
    rows = [one.astype(large)[:, None] for one in down]
    # Made once: fresh memory takes longer to fill than the sums do.
    shape = values[0][0].shape[1:]
    beside, spare = np.empty(shape, small), np.empty(shape, small)
    over, more = np.empty(shape, large), np.empty(shape, large)
    for plane in range(len(values[0][0])):
        lines = (_added([tile[plane] for tile in row], columns, beside, spare) for row in values)
        yield _added(lines, rows, over, more)


def _added(
    values: Iterable[NDArray[Any]],
    weights: Sequence[NDArray[Any]],
    found: NDArray[Any],
    spare: NDArray[Any],
) -> NDArray[Any]:
    """Return the weighted sum of arrays, in the memory of `found`; a single one as it is."""
    if len(weights) == 1:
        return next(iter(values))
    for number, (one, mine) in enumerate(zip(values, weights, strict=True)):
        if number:
            np.multiply(one, mine, out=spare)
            found += spare
        else:
            np.multiply(one, mine, out=found)
    return found


def _fitting(most: int) -> Any:
    """Return the smallest type of whole numbers that `most` fits into."""
    return next(one for one in (np.uint16, np.uint32, np.uint64) if most <= np.iinfo(one).max)


def decided(
    sums: Sums, shape: tuple[int, int], least: Sequence[float], unsure: float | None
) -> NDArray[np.uint8]:
    """Return the class number ``(h, w)`` of each pixel: 255 is no data, 254 none of them.

    The class with the largest sum, of equal ones that with the lower number.

    Parameters
    ----------
    sums : Sums
    shape : tuple of int
        ``(h, w)``.
    least : sequence of float
        The share from which each class counts.
    unsure : float or None
        Pixels whose largest share is less are of no class.
    """
    if any(least) or unsure is not None:
        best = _reaching(sums, shape, least, unsure)
    else:
        best = first_of_most(sums.planes)
    if not sums.total.all():
        best[np.broadcast_to(sums.total == 0, shape)] = NODATA
    return best


def _reaching(
    sums: Sums, shape: tuple[int, int], least: Sequence[float], unsure: float | None
) -> NDArray[np.uint8]:
    """Return the best class of those that reach their own share."""
    kind = _fitting(_HIGHEST * int(sums.total.max()))
    total = sums.total.astype(kind)
    best = np.full(shape, NONE, np.uint8)
    most = np.zeros(shape, kind)  # of those that reach it
    highest = np.zeros(shape, kind)  # of all
    # In whole steps, rounded as shares are: what a model calls 0.5 reaches a half.
    for number, (plane, share) in enumerate(zip(sums.planes, least, strict=True)):
        better = (plane > most) | (best == NONE)
        if share:
            better &= plane >= kind(round(share * STEPS)) * total
        np.copyto(best, number, where=better, casting="unsafe")
        np.copyto(most, plane, where=better)
        if unsure is not None:
            np.maximum(highest, plane, out=highest)
    if unsure is not None:
        best[highest < kind(round(unsure * STEPS)) * total] = NONE
    return best


def in_steps(sums: Sums, out: NDArray[np.uint8]) -> Sums:
    """Return the same sums; what of them was seen stands in `out` as shares.

    Shares are rounded to the nearest step, 255 is no data: so it is once all planes were seen, and
    the iterator has ended.

    Parameters
    ----------
    sums : Sums
    out : array (k, h, w) of uint8
    """
    return Sums(_in_steps(sums, out), sums.total)


def _in_steps(sums: Sums, out: NDArray[np.uint8]) -> Iterator[NDArray[Any]]:
    total = np.maximum(sums.total, 1)
    # The quotient of whole numbers, rounded down, on any platform: half of a weight is added, so
    # it misses a whole number by half a weight's share at least, and floats err by far less.
    kind = np.float32 if total.max() <= _FEW else np.float64
    share = 1 / total.astype(kind)
    more = ((total // 2).astype(kind) + kind(0.5)) * share
    found = np.empty(out.shape[1:], kind)
    for plane, mine in zip(sums.planes, out, strict=True):
        np.copyto(found, plane, casting="unsafe")
        found *= share
        found += more
        np.copyto(mine, found, casting="unsafe")
        yield plane
    if not sums.total.all():
        out[:, np.broadcast_to(sums.total == 0, out.shape[1:])] = NODATA
