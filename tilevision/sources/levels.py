"""Reading a box at a scale from an image stored at one or more resolutions."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources.resample import Axis, resample
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef

__all__ = ["Level", "LevelPlacement", "LevelReader"]

# A level that is a hair coarser than asked (2667 px halved to 1333) is still the right one.
_TOLERANCE = 1.01


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

    Attributes
    ----------
    fingerprint : str
    reference : SourceRef
        See `ImageSource`.
    """

    def __init__(
        self,
        name: str,
        levels: Sequence[Level],
        bands: int,
        dtype: np.dtype[Any],
        metadata: ImageMetadata,
    ) -> None:
        self._name = name
        self._levels = tuple(levels)
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
        """Whether it holds a file in the temp folder: all its pixels, or what was downloaded."""
        return False

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
        x0, y0, x1, y1 = self._checked(box, scale)
        outputs = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        chosen = None if bands is None else self._band_numbers(bands)
        return self._resized(self._level_for(scale), (x0, y0, x1, y1), outputs, chosen)

    def thumbnail(self, max_side: int) -> Pixels:
        """Return the whole image as ``(h, w, c)``, its longer side at most `max_side`.

        Read from the coarsest level that is large enough; never enlarged.
        """
        if max_side < 1:
            raise SourceError(f"a thumbnail of {max_side} px makes no sense; ask for 1 px or more")
        width, height = self.size
        scale = min(1.0, max_side / max(width, height))
        outputs = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
        level = self._level_for(scale)
        if max(level.size) == max(outputs):
            outputs = level.size  # stored as it is; its other side may be rounded otherwise
        return self._resized(level, (0, 0, width, height), outputs, None)

    def at_resolution(self, mpp: tuple[float, float]) -> Self:
        """Return the same image, sharing its files, with other microns per pixel (x, y)."""
        other = copy.copy(self)
        other.metadata = replace(self.metadata, mpp=mpp)
        return other

    def _resized(
        self,
        level: Level,
        box: tuple[int, int, int, int],
        outputs: tuple[int, int],
        bands: list[int] | None,
    ) -> Pixels:
        x, y = self._axes(level, box, outputs)
        if x.exact and y.exact:
            edges = round(x.start), round(y.start), round(x.stop), round(y.stop)
            return level.window(*edges, bands)
        # 8-bit pictures often declare white or black as no-data in every band alone, which
        # would bias the averages of ordinary pixels.
        nodata = None if self.dtype == np.uint8 else self.metadata.nodata
        count = self.bands if bands is None else len(bands)

        def block(x0: int, y0: int, x1: int, y1: int) -> Pixels:
            return level.window(x0, y0, x1, y1, bands)

        return resample(block, x, y, count, self.dtype, nodata)

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
            raise SourceError(f"{box} is not of whole pixels; round it before reading")
        x0, y0, x1, y1 = whole
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise SourceError(
                f"{box} is not a region of {self._name} ({width}×{height} px); "
                f"keep 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
            )
        if not (np.isfinite(scale) and scale > 0):
            raise SourceError(f"scale {scale} makes no sense; give output pixels per image pixel")
        return x0, y0, x1, y1

    def _band_numbers(self, bands: Sequence[int]) -> list[int]:
        missing = [band for band in bands if not 0 <= band < self.bands]
        if missing or not len(bands):
            raise SourceError(
                f"{self._name} has no band {missing[0] if missing else 'in an empty list'}; "
                f"its {self.bands} bands are numbered from 0"
            )
        return [int(band) for band in bands]
