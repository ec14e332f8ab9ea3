"""Reading a box at a scale from an image stored at one or more resolutions."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources.depth import Nodata, estimated
from tilevision.sources.resampling import BLOCK_SAMPLES, SHRUNK_FROM, nearest, resample, shrunk
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef

__all__ = ["Axis", "Level", "LevelPlacement", "LevelReader"]

# Masks of larger images are not read through to learn that they hide nothing.
_CHECKED_PIXELS = 1 << 23
# A level that is a hair coarser than asked (2667 px halved to 1333) is still the right one.
_TOLERANCE = 1.01
_ROUNDING = 1e-5


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


@dataclass(frozen=True, slots=True)
class LevelPlacement:
    """Where a level lies on the full resolution, as its file declares it.

    Parameters
    ----------
    scale : (float, float)
        Full-resolution pixels per pixel of the level, in x and y.
    offset : (float, float)
        Full-resolution position of the level's left and upper edge.
    """

    scale: tuple[float, float]
    offset: tuple[float, float]

    def axis(self, number: int, start: int, stop: int, outputs: int, level: Level) -> Axis:
        """Return how an edge to edge range of full-resolution pixels maps onto an output."""
        scale, offset = self.scale[number], self.offset[number]
        edges = (start - offset) / scale, (stop - offset) / scale
        return Axis(*edges, outputs, level.size[number], level.chunk[number])


class Level(Protocol):
    """One stored resolution.

    Attributes
    ----------
    size : tuple of int
        Width and height, pixels.
    chunk : tuple of int
        Width and height of what is decoded together, pixels; 1 where rows are free.
    """

    size: tuple[int, int]
    chunk: tuple[int, int]

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the stored pixels ``(y1 - y0, x1 - x0, c)``; the window is inside.

        `bands` exist and are in the order wanted; None is all.
        """
        ...


class LevelReader(ABC):
    """`read` and `thumbnail` over levels; the base of every source in this package.

    Parameters
    ----------
    name : str
        What errors call the image.
    levels : sequence of Level
        Full resolution first, then coarser ones.
    bands : int
    dtype : numpy.dtype
    metadata : ImageMetadata
    masks : sequence of (Level or None), optional
        For each level, one band that is 0 where the image has no data.
    alpha : int, optional
        The band that says itself where the image has no data, so that no mask is for it.

    Attributes
    ----------
    fingerprint : str
    reference : SourceRef
        See `ImageSource`.
    revision : str
        Names in what the values differ from those that earlier releases read; else empty.
    classes : bool
        Whether values are numbers of classes, which have no average.
    colours : tuple of int, optional
        The bands that are red, green and blue, where they are not the first three in order.
    nodata_later : bool
        Whether earlier releases did not read which values mean no data.
    later_levels : tuple of (int, int)
        The sizes of levels that earlier releases did not read.
    readable_pixels : int
        As many as may be read to learn which part of the image has data.
    """

    revision = ""
    classes = False
    colours: tuple[int, int, int] | None = None
    nodata_later = False
    later_levels: tuple[tuple[int, int], ...] = ()
    readable_pixels = 1 << 28

    def __init__(
        self,
        name: str,
        levels: Sequence[Level],
        bands: int,
        dtype: np.dtype[Any],
        metadata: ImageMetadata,
        masks: Sequence[Level | None] = (),
        alpha: int | None = None,
    ) -> None:
        self._name = name
        self._levels = tuple(levels)
        self._masks = dict(zip(self._levels, masks, strict=False))
        self._alpha = alpha
        self._whole: bool | None = None
        self.size = self._levels[0].size
        self.bands = bands
        self.dtype = dtype
        self.metadata = metadata

    @property
    def fingerprint(self) -> str:
        """Of the content; see `ImageSource`."""
        return self.reference.fingerprint

    @property
    def is_staged(self) -> bool:
        """Return True if a file in the temp folder holds its pixels, or what was downloaded."""
        return False

    @property
    def stored(self) -> LevelReader:
        """The same image with the values that the file stores: class numbers, not their colours."""
        return self

    @property
    def masked(self) -> bool:
        """Return True if a mask or an alpha band says where the image has no data."""
        return any(mask is not None for mask in self._masks.values())

    @property
    def resampled(self) -> str:
        """Names in what enlarged and shrunk values differ from those of earlier releases."""
        if self.classes:
            return "nearest"
        known = self.metadata.band_nodata is not None or self.nodata_later
        holes = self.masked and not self._is_whole
        return "no data" if holes or (known and self.dtype != np.uint8) else ""

    @property
    def _is_whole(self) -> bool:
        """Return True if a mask says of every pixel that it is there, as far as it may be read."""
        if self._whole is None:
            self._whole = self._mask_hides_nothing()
        return self._whole

    def _mask_hides_nothing(self) -> bool:
        width, height = self.size
        mask = self._masks.get(self._levels[0])
        if mask is None or width * height > min(self.readable_pixels, _CHECKED_PIXELS):
            return False
        rows = Axis(0, height, height, height, mask.chunk[1]).blocks(BLOCK_SAMPLES // width)
        return all(mask.window(0, y0, width, y1, range(self.bands)).all() for y0, y1 in rows)

    @property
    @abstractmethod
    def reference(self) -> SourceRef:
        """What a worker opens this image again from."""

    @abstractmethod
    def close(self) -> None:
        """Release what the source holds."""

    def __repr__(self) -> str:
        width, height = self.size
        return (
            f"<{self.metadata.format} {self._name}: {width}×{height}, "
            f"{self.bands} band{'s' * (self.bands != 1)} of {self.dtype}>"
        )

    def read(self, box: Box, scale: float = 1.0, bands: Sequence[int] | None = None) -> Pixels:
        """Return the pixels of `box` as ``(h, w, c)``; see `ImageSource.read`.

        Raises
        ------
        SourceError
            If the box is not of whole pixels inside the image, the scale is not positive,
            a band does not exist, or the stored pixels are damaged.
        """
        return self._read(box, scale, bands)[0]

    def read_masked(
        self, box: Box, scale: float = 1.0, bands: Sequence[int] | None = None
    ) -> tuple[Pixels, NDArray[np.bool_] | None]:
        """Return what `read` does, and which of it has data ``(h, w, c)``; None where all has."""
        return self._read(box, scale, bands, masked=True)

    def preview(self, box: Box, scale: float, bands: Sequence[int] | None = None) -> Pixels:
        """Return about what `read` does, sooner where that is possible: for people to look at."""
        x0, y0, x1, y1 = edges = self._checked(box, scale)
        outputs = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        level = self._level_for(scale)
        x, y = self._axes(level, edges, outputs)
        count = self.bands if bands is None else len(bands)
        plain = self.dtype == np.uint8 and not self.classes and not self.masked
        within = all(one.start >= 0 and one.stop <= one.extent for one in (x, y))
        little = min(x.step, y.step) < SHRUNK_FROM
        if little or not plain or count not in (1, 3) or not within:
            return self.read(box, scale, bands)
        chosen = None if bands is None else self._band_numbers(bands)
        if chosen == list(range(self.bands)):  # to pick them takes a copy
            chosen = None

        def block(x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, None]:
            return level.window(x0, y0, x1, y1, chosen), None

        return shrunk(block, x, y)

    def thumbnail(self, max_side: int) -> Pixels:
        """Return the whole image as ``(h, w, c)``, its longer side at most `max_side`.

        Read from the coarsest level that is large enough; never enlarged.
        """
        if max_side < 1:
            raise SourceError(f"A thumbnail has 1 px or more, not {max_side}.")
        width, height = self.size
        scale = min(1.0, max_side / max(width, height))
        outputs = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
        level = self._level_for(scale)
        if max(level.size) == max(outputs):
            outputs = level.size  # stored as it is; its other side may be rounded otherwise
        found, there = self._resized(level, (0, 0, width, height), outputs, None, masked=True)
        if there is not None and self.dtype != np.uint8:
            there = np.broadcast_to(there, found.shape)
            for band, value in enumerate(self._nodata(None).empty(self.dtype, lowest=True)):
                if not there[..., band].all():
                    found[..., band][~there[..., band]] = value
        return found

    def data_share(self, max_side: int) -> NDArray[np.float32] | None:
        """Return the share of each cell that has data in any band, ``(h, w)``.

        The cells are the pixels of `thumbnail`. None where the image declares no missing data.
        Where no level is small enough to be read for it, it is estimated: windows that lie evenly
        over the image each stand for their surroundings. None where none of these has data.
        """
        nodata = self._nodata(None)
        told = bool(nodata.values) or self.dtype.kind == "f"
        if not self.masked and not told:
            return None
        width, height = self.size
        scale = min(1.0, max_side / max(width, height))
        level = self._level_for(scale)
        bands = [band for band in range(self.bands) if band != self._alpha] or None

        def block(x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, None]:
            pixels = level.window(x0, y0, x1, y1, bands) if told else None
            there = self._there(level, pixels, (x0, y0, x1, y1), self._nodata(bands))
            share = np.any(np.asarray(there), axis=2, keepdims=True)
            return share.astype(np.float32), None

        outputs = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
        if level.size[0] * level.size[1] > self.readable_pixels:
            about = estimated(block, level.size, level.chunk, outputs, self.readable_pixels)
            return about if about.any() else None  # data that lie between all windows
        x = Axis(0, level.size[0], outputs[0], level.size[0], level.chunk[0])
        y = Axis(0, level.size[1], outputs[1], level.size[1], level.chunk[1])
        share: NDArray[np.float32] = resample(block, x, y, 1, np.dtype(np.float32))[0][..., 0]
        return np.where(share > 1 - _ROUNDING, np.float32(1), np.maximum(share, 0))

    def at_resolution(self, mpp: tuple[float, float]) -> Self:
        """Return the same image, sharing its files, with other microns per pixel (x, y)."""
        other = copy.copy(self)
        other.metadata = replace(self.metadata, mpp=mpp)
        return other

    def _read(
        self, box: Box, scale: float, bands: Sequence[int] | None, *, masked: bool = False
    ) -> tuple[Pixels, NDArray[np.bool_] | None]:
        x0, y0, x1, y1 = self._checked(box, scale)
        outputs = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        chosen = None if bands is None else self._band_numbers(bands)
        if chosen == list(range(self.bands)):  # all in order: to pick them takes a copy
            chosen = None
        level = self._level_for(scale)
        return self._resized(level, (x0, y0, x1, y1), outputs, chosen, masked=masked)

    def _resized(
        self,
        level: Level,
        box: tuple[int, int, int, int],
        outputs: tuple[int, int],
        bands: list[int] | None,
        *,
        masked: bool = False,
    ) -> tuple[Pixels, NDArray[np.bool_] | None]:
        x, y = self._axes(level, box, outputs)
        if x.exact and y.exact:
            edges = round(x.start), round(y.start), round(x.stop), round(y.stop)
            pixels = level.window(*edges, bands)
            if not masked:
                return pixels, None
            return pixels, self._there(level, pixels, edges, self._nodata(bands))
        nodata = self._nodata(bands)
        # 8-bit pictures often declare white or black as no-data in every band alone, which
        # would bias the averages of ordinary pixels.
        averaged = nodata if self.dtype != np.uint8 or self.classes else Nodata(nodata.bands)

        def block(x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, NDArray[np.bool_] | None]:
            pixels = level.window(x0, y0, x1, y1, bands)
            return pixels, self._there(level, pixels, (x0, y0, x1, y1), averaged)

        count = self.bands if bands is None else len(bands)
        if self.classes:
            return nearest(block, x, y, count, self.dtype)
        holes = self.masked or averaged.values or self.dtype.kind == "f"
        return resample(
            block, x, y, count, self.dtype, averaged.empty(self.dtype, count) if holes else None
        )

    def _nodata(self, bands: Sequence[int] | None) -> Nodata:
        return Nodata.of(self.metadata, self.bands if bands is None else bands)

    def _there(
        self, level: Level, pixels: Pixels | None, box: tuple[int, int, int, int], nodata: Nodata
    ) -> NDArray[np.bool_] | None:
        """Return which pixels of a window of `level` have data; None where all have."""
        there = None if pixels is None else nodata.there(pixels)
        mask = self._masks.get(level)
        if mask is None:
            return there
        valid = mask.window(*box, nodata.bands) != 0
        if self._alpha is not None:
            valid = valid | nodata.is_band(self._alpha)
        return np.asarray(valid if there is None else there & valid, np.bool_)

    def _axes(
        self, level: Level, box: tuple[int, int, int, int], outputs: tuple[int, int]
    ) -> tuple[Axis, Axis]:
        """Return how both axes of a window onto a level map onto the output."""
        x0, y0, x1, y1 = box
        declared: LevelPlacement | None = getattr(level, "placement", None)
        if declared is not None:
            return (
                declared.axis(0, x0, x1, outputs[0], level),
                declared.axis(1, y0, y1, outputs[1], level),
            )
        fx, fy = level.size[0] / self.size[0], level.size[1] / self.size[1]
        return (
            Axis(x0 * fx, x1 * fx, outputs[0], level.size[0], level.chunk[0]),
            Axis(y0 * fy, y1 * fy, outputs[1], level.size[1], level.chunk[1]),
        )

    def _level_for(self, scale: float) -> Level:
        best = self._levels[0]
        for level in self._levels[1:]:
            declared: LevelPlacement | None = getattr(level, "placement", None)
            ratios = self.size[0] / level.size[0], self.size[1] / level.size[1]
            shrink = max(declared.scale if declared is not None else ratios)
            if shrink * scale <= _TOLERANCE:
                best = level
        return best

    def _checked(self, box: Box, scale: float) -> tuple[int, int, int, int]:
        width, height = self.size
        edges = box.as_tuple()
        whole = tuple(int(edge) for edge in edges) if np.isfinite(edges).all() else ()
        if whole != edges:
            raise SourceError(f"{box} is not of whole pixels; round it before reading.")
        x0, y0, x1, y1 = whole
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise SourceError(
                f"{box} is not a region of {self._name} ({width}×{height} px); "
                f"keep 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
            )
        if not (np.isfinite(scale) and scale > 0):
            raise SourceError(f"scale={scale} is not valid; give output pixels per image pixel.")
        return x0, y0, x1, y1

    def _band_numbers(self, bands: Sequence[int]) -> list[int]:
        missing = [band for band in bands if not 0 <= band < self.bands]
        if missing or not len(bands):
            raise SourceError(
                f"{self._name} has no band {missing[0] if missing else 'in an empty list'}; "
                f"its {self.bands} bands are numbered from 0."
            )
        return [int(band) for band in bands]
