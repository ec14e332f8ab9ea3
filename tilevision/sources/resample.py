"""Bringing stored pixels to another size: area average down, bilinear up.

Both are linear and separable, so one axis is a sparse matrix of weights (output samples
by stored samples). An image is reduced block by block: each stored block is read once,
whatever it overlaps, and adds its share to the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.sources.source import Pixels

__all__ = ["Axis", "nearest", "resample"]

# Samples of one block while reducing; 4 bytes each while in work.
_BLOCK_SAMPLES = 1 << 22

ReadBlock = Callable[[int, int, int, int], tuple[Pixels, NDArray[np.bool_] | None]]


@dataclass(frozen=True, slots=True)
class Axis:
    """How one axis of a window maps onto an output.

    Parameters
    ----------
    start, stop : float
        The window's edges in stored samples.
    outputs : int
        Output samples.
    extent : int
        Stored samples there are along the whole axis.
    chunk : int
        Stored samples that are decoded together.
    """

    start: float
    stop: float
    outputs: int
    extent: int
    chunk: int = 1

    @property
    def step(self) -> float:
        """Stored samples per output sample."""
        return (self.stop - self.start) / self.outputs

    @property
    def enlarges(self) -> bool:
        """Return True if there are more output samples than stored ones."""
        return self.step < 1

    @property
    def exact(self) -> bool:
        """Return True if output samples are stored samples, one to one."""
        whole = abs(self.step - 1) < 1e-9 and abs(self.start - round(self.start)) < 1e-6
        return whole and round(self.start) >= 0 and round(self.stop) <= self.extent

    @property
    def needed(self) -> tuple[int, int]:
        """First and past-the-last stored sample that the output depends on.

        Beyond the first and last stored sample, which a window may reach, it depends on those.
        """
        margin = 1 if self.enlarges else 0
        low = int(np.floor(self.start)) - margin
        high = int(np.ceil(self.stop)) + margin
        low = min(max(0, low), self.extent - 1)
        return low, max(min(self.extent, high), low + 1)

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Cut what is needed into runs of about `size` samples that end at chunk borders."""
        low, high = self.needed
        step = max(1, size // self.chunk) * self.chunk
        first = low // step * step
        edges = [low, *range(first + step, high, step), high]
        return list(pairwise(edges))

    def weights(self, low: int, high: int) -> tuple[int, Any]:
        """Return the first output touched by stored ``[low, high)`` and the weights from there.

        The weights are a sparse matrix, outputs by ``high - low``; those of one output sum
        to 1 over all blocks.
        """
        outputs, samples, values = self._bilinear() if self.enlarges else self._area(low, high)
        inside = (samples >= low) & (samples < high) & (values > 0)
        return _sparse(outputs[inside], samples[inside] - low, values[inside], high - low)

    def middles(self) -> NDArray[np.int64]:
        """Return the stored sample in the middle of each output."""
        centre = self.start + (np.arange(self.outputs) + 0.5) * self.step
        return np.asarray(np.clip(np.floor(centre), 0, self.extent - 1), np.int64)

    def _bilinear(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        outputs = np.arange(self.outputs)
        centre = self.start + (outputs + 0.5) * self.step - 0.5
        centre = np.clip(centre, 0, self.extent - 1)
        left = np.floor(centre).astype(np.int64)
        right = np.minimum(left + 1, self.extent - 1)
        share = centre - left
        return (
            np.concatenate([outputs, outputs]),
            np.concatenate([left, right]),
            np.concatenate([1 - share, share]),
        )

    def _area(self, low: int, high: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        first = max(0, int((low - self.start) / self.step) - 1) if low > 0 else 0
        last = min(self.outputs, int((high - self.start) / self.step) + 2)
        outputs = np.arange(first, last if high < self.extent else self.outputs)
        begin = self.start + outputs * self.step
        end = np.minimum(self.start + (outputs + 1) * self.step, self.extent)
        begin = np.where(begin < self.extent, np.maximum(begin, 0), self.extent - 1)
        end = np.where(end > 0, end, 1)
        start = np.maximum(np.floor(begin).astype(np.int64), low)
        count = np.maximum(np.minimum(np.ceil(end).astype(np.int64), high) - start, 0)
        rows = np.repeat(np.arange(len(outputs)), count)
        ordinal = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        samples = start[rows] + ordinal
        covered = np.minimum(end[rows], samples + 1) - np.maximum(begin[rows], samples)
        return outputs[rows], samples, covered / (end - begin)[rows]


def _sparse(
    outputs: NDArray[Any], samples: NDArray[Any], values: NDArray[Any], width: int
) -> tuple[int, Any]:
    from scipy import sparse

    if not len(outputs):
        return 0, sparse.csr_matrix((0, width), dtype=np.float32)
    first = int(outputs.min())
    shape = (int(outputs.max()) - first + 1, width)
    return first, sparse.csr_matrix((values, (outputs - first, samples)), shape=shape)


def resample(
    read: ReadBlock,
    x: Axis,
    y: Axis,
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
    x, y : Axis
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
        known = np.bool_(True) if there is None else there
        _add(total, np.where(known, block, 0).astype(work), across, down)
        _add(valid, np.broadcast_to(known, block.shape).astype(work), across, down)
    if valid is None or empty is None:
        return _cast(total, dtype), None
    # Rounding leaves crumbs of weight where nothing was valid.
    seen = valid > 1e-4
    shared = np.divide(total, valid, out=np.zeros_like(total), where=seen)
    return _cast(np.where(seen, shared, np.asarray(empty, work)), dtype), seen


def nearest(
    read: ReadBlock, x: Axis, y: Axis, bands: int, dtype: np.dtype[Any]
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return for each output the stored sample in its middle: class numbers have no average.

    Parameters and results are those of `resample`.
    """
    out = np.zeros((y.outputs, x.outputs, bands), dtype)
    seen = np.ones(out.shape, np.bool_)
    columns, rows = x.middles(), y.middles()
    for x0, x1 in x.blocks(max(x.chunk, _BLOCK_SAMPLES // bands // max(y.chunk, 256))):
        for y0, y1 in y.blocks(max(y.chunk, _BLOCK_SAMPLES // bands // (x1 - x0))):
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
    read: ReadBlock, x: Axis, y: Axis, bands: int
) -> Iterator[tuple[Pixels, NDArray[np.bool_] | None, tuple[int, Any], tuple[int, Any]]]:
    """Yield each stored block with what has data in it, and its weights across and down."""
    for x0, x1 in x.blocks(max(x.chunk, _BLOCK_SAMPLES // bands // max(y.chunk, 256))):
        across = x.weights(x0, x1)
        for y0, y1 in y.blocks(max(y.chunk, _BLOCK_SAMPLES // bands // (x1 - x0))):
            yield *read(x0, y0, x1, y1), across, y.weights(y0, y1)


def _add(total: Pixels, block: Pixels, across: tuple[int, Any], down: tuple[int, Any]) -> None:
    height, width, bands = block.shape
    (left, columns), (top, rows) = across, down
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
