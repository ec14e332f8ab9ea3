"""Shrinking and enlarging: stored samples become output samples, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilevision.sources.source import Pixels

__all__ = ["BLOCK_SAMPLES", "SHRUNK_FROM", "ReadBlock", "Sampled", "nearest", "resample", "shrunk"]

# Samples of one block while reducing; 4 bytes each while in work.
BLOCK_SAMPLES = 1 << 22
# Sums to an output that `shrunk` makes at least: one at an output's edge is shared evenly.
_KEPT = 1.5
_MOST_IN_16_BITS = 256  # times 255
SHRUNK_FROM = 6.0  # stored samples per output from which `shrunk` is the sooner way

ReadBlock = Callable[[int, int, int, int], tuple[Pixels, NDArray[np.bool_] | None]]


class Sampled(Protocol):
    """How one axis of a window maps onto an output: `tilevision.sources.levels.Axis`."""

    @property
    def start(self) -> float:
        """The window's first edge in stored samples."""

    @property
    def stop(self) -> float:
        """The window's last edge in stored samples."""

    @property
    def outputs(self) -> int:
        """Output samples."""

    @property
    def extent(self) -> int:
        """Stored samples there are along the whole axis."""

    @property
    def chunk(self) -> int:
        """Stored samples that are decoded together."""

    @property
    def step(self) -> float:
        """Stored samples per output sample."""

    @property
    def needed(self) -> tuple[int, int]:
        """First and past-the-last stored sample that the output depends on."""

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Cut what is needed into runs of about `size` samples that end at chunk borders."""

    def weights(self, low: int, high: int) -> tuple[int, Any]:
        """Return the first output touched by stored ``[low, high)`` and the weights from there."""

    def middles(self) -> NDArray[np.int64]:
        """Return the stored sample in the middle of each output."""


def resample(
    read: ReadBlock,
    x: Sampled,
    y: Sampled,
    bands: int,
    dtype: np.dtype[Any],
    empty: Sequence[float] | None = None,
) -> tuple[Pixels, NDArray[np.bool_] | None]:
    """Return ``(y.outputs, x.outputs, bands)`` of `dtype` from stored pixels, and what has data.

    Parameters
    ----------
    read : callable
        ``read(x0, y0, x1, y1)`` returns the stored ``(h, w, bands)``, whole samples, and which
        of them have data, `None` where all have. What has none is left out of the averages.
    x, y : Sampled
    bands : int
    dtype : numpy.dtype
        Integers are rounded to the nearest.
    empty : sequence of float, optional
        The value of each band for outputs with no data at all; None where all samples have data.
    """
    work = np.dtype(
        np.float64
        if dtype.itemsize > 4 or (dtype.kind in "iu" and dtype.itemsize > 2)
        else np.float32
    )
    total = np.zeros((y.outputs, x.outputs, bands), work)
    valid = np.zeros_like(total) if empty is not None else None
    for block, there, across, down in _blocks(read, x, y, bands):
        if valid is None:
            _add(total, block.astype(work), across, down)
            continue
        if there is None or there.all():
            _add(total, block.astype(work), across, down)
            _add(valid, np.ones((*block.shape[:2], 1), work), across, down)
            continue
        _add(total, np.where(there, block, 0).astype(work), across, down)
        _add(valid, there.astype(work), across, down)
    if valid is None or empty is None:
        return _cast(total, dtype), None
    # Rounding leaves crumbs of weight where nothing was valid.
    seen = valid > 1e-4
    shared = np.divide(total, valid, out=np.zeros_like(total), where=seen)
    return _cast(np.where(seen, shared, np.asarray(empty, work)), dtype), seen


def nearest(
    read: ReadBlock, x: Sampled, y: Sampled, bands: int, dtype: np.dtype[Any]
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return for each output the stored sample in its middle: class numbers have no average.

    Parameters and results are those of `resample`.
    """
    out = np.zeros((y.outputs, x.outputs, bands), dtype)
    seen = np.ones(out.shape, np.bool_)
    columns, rows = x.middles(), y.middles()
    for x0, x1 in x.blocks(max(x.chunk, BLOCK_SAMPLES // bands // max(y.chunk, 256))):
        for y0, y1 in y.blocks(max(y.chunk, BLOCK_SAMPLES // bands // (x1 - x0))):
            left, right = np.searchsorted(columns, (x0, x1))
            top, bottom = np.searchsorted(rows, (y0, y1))
            if left == right or top == bottom:
                continue
            block, there = read(x0, y0, x1, y1)
            picked = np.ix_(rows[top:bottom] - y0, columns[left:right] - x0)
            out[top:bottom, left:right] = block[picked]
            if there is not None:
                seen[top:bottom, left:right] = np.broadcast_to(there, block.shape)[picked]
    return out, seen


def _blocks(
    read: ReadBlock, x: Sampled, y: Sampled, bands: int
) -> Iterator[tuple[Pixels, NDArray[np.bool_] | None, tuple[int, Any], tuple[int, Any]]]:
    """Yield each stored block with what has data in it, and its weights across and down."""
    for x0, x1 in x.blocks(max(x.chunk, BLOCK_SAMPLES // bands // max(y.chunk, 256))):
        across = x.weights(x0, x1)
        for y0, y1 in y.blocks(max(y.chunk, BLOCK_SAMPLES // bands // (x1 - x0))):
            yield *read(x0, y0, x1, y1), across, y.weights(y0, y1)


def _add(total: Pixels, block: Pixels, across: tuple[int, Any], down: tuple[int, Any]) -> None:
    """Add a block's share to `total`; one band of it stands for all."""
    (height, width, bands), (left, columns), (top, rows) = block.shape, across, down
    part = rows.astype(block.dtype) @ block.reshape(height, width * bands)
    part = part.reshape(-1, width, bands).transpose(1, 0, 2).reshape(width, -1)
    part = columns.astype(block.dtype) @ part
    part = part.reshape(columns.shape[0], rows.shape[0], bands).transpose(1, 0, 2)
    total[top : top + rows.shape[0], left : left + columns.shape[0]] += part


def _cast(total: Pixels, dtype: np.dtype[Any]) -> Pixels:
    if dtype.kind == "b":
        return total >= 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        total = np.clip(np.rint(total), info.min, info.max)
    return total.astype(dtype)


def shrunk(read: ReadBlock, x: Sampled, y: Sampled) -> Pixels:
    """Return about what `resample` does of 8-bit colours or greys, in a fraction of the time.

    Where much is shrunk, whole numbers of samples are summed first. A value may be off by one, at
    a hard edge by somewhat more: good for looking at, not for a model.

    Parameters
    ----------
    read : callable
        As of `resample`, of one band or three that have data everywhere.
    x, y : Sampled
        Neither enlarges, nor reaches past what is stored.
    """
    across, down = _factor(x), _factor(y)
    (left, right), (top, bottom) = _aligned(x, across), _aligned(y, down)
    rows = []
    for y0, y1 in pairwise(_edges(top, bottom, y, down, right - left)):
        row = [
            _summed(read(x0, y0, x1, y1)[0], across, down)
            for x0, x1 in pairwise(_edges(left, right, x, across, y1 - y0))
        ]
        rows.append(np.concatenate(row, axis=1))
    found = _means(np.concatenate(rows), (y.start - top) / down, y.step / down, y.outputs)
    found = found.transpose(1, 0, 2)
    found = _means(found, (x.start - left) / across, x.step / across, x.outputs)
    return np.ascontiguousarray(np.rint(found).astype(np.uint8).transpose(1, 0, 2))


def _means(samples: Pixels, start: float, step: float, outputs: int) -> NDArray[np.float32]:
    """Return the mean of the rows of ``(n, k, c)`` that lie in each output, with parts of rows."""
    edges = np.clip(start + np.arange(outputs + 1) * step, 0, len(samples))
    first = edges[:-1].astype(np.int64)
    means = np.zeros((outputs, *samples.shape[1:]), np.float32)
    for number in range(math.ceil(step) + 1):
        row = first + number
        covered = np.minimum(edges[1:], row + 1) - np.maximum(edges[:-1], row)
        shares = (np.maximum(covered, 0) / step).astype(np.float32)
        means += samples[np.minimum(row, len(samples) - 1)] * shares[:, None, None]
    return means


def _factor(axis: Sampled) -> int:
    """Return how many samples are summed: a power of two, which chunks are often multiples of."""
    return int(2 ** max(0, math.floor(math.log2(axis.step / _KEPT))))


def _aligned(axis: Sampled, factor: int) -> tuple[int, int]:
    """Return the first and past-the-last sample that are read, in whole groups of `factor`."""
    low, high = axis.needed
    return low // factor * factor, min(-(-high // factor) * factor, axis.extent)


def _edges(low: int, high: int, axis: Sampled, factor: int, other: int) -> list[int]:
    """Return where blocks end: at borders of chunks and of groups alike, but for the last."""
    unit = math.lcm(axis.chunk, factor)
    step = max(1, BLOCK_SAMPLES // max(other, 1) // unit) * unit
    return [low, *range(low // step * step + step, high, step), high]


def _summed(block: Pixels, across: int, down: int) -> Pixels:
    """Return the means of groups of samples; the last group in a row or column may be smaller."""
    height, width, bands = block.shape
    short = -height % down, -width % across
    if any(short):
        block = np.pad(block, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")
        height, width = block.shape[:2]
    if across == down == 1:
        return block
    kind = np.uint16 if down <= _MOST_IN_16_BITS else np.uint32
    sums = np.add.reduce(block.reshape(height // down, down, -1), axis=1, dtype=kind)
    beside = sums.reshape(height // down, width // across, across * bands)
    means = np.empty((height // down, width // across, bands), np.uint8)
    for band in range(bands):  # each by itself: numpy is slow along an axis of three
        total = beside[..., band].astype(np.uint32)
        for number in range(1, across):
            total += beside[..., number * bands + band]
        total += across * down // 2
        total //= across * down
        means[..., band] = total
    return means
