"""Which pixels have no data: the value that means so in each band, and NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.sources.source import ImageMetadata, Pixels

__all__ = ["Nodata", "same_in_all", "with_data"]


@dataclass(frozen=True, slots=True)
class Nodata:
    """What means no data in some bands of an image, in the order in which they are read.

    Parameters
    ----------
    bands : tuple of int
        Which bands they are.
    values : tuple of (float or None)
        The value of each band; empty where none has any.
    """

    bands: tuple[int, ...] = ()
    values: tuple[float | None, ...] = ()

    @classmethod
    def of(cls, metadata: ImageMetadata, bands: int | Sequence[int]) -> Nodata:
        """Return the values of `bands`, given by their numbers, or by how many there are."""
        chosen = tuple(range(bands)) if isinstance(bands, int) else tuple(bands)
        if metadata.band_nodata is not None:
            return cls(chosen, tuple(metadata.band_nodata[band] for band in chosen))
        value = metadata.nodata
        return cls(chosen, () if value is None else (value,) * len(chosen))

    def there(self, pixels: Pixels) -> NDArray[np.bool_] | None:
        """Return which of ``(h, w, c)`` has data; None where all has."""
        values: Any = same_in_all(self.values) if self.values else None
        if values is None and pixels.dtype.kind != "f":
            return None
        return with_data(pixels, values)

    def is_band(self, band: int) -> NDArray[np.bool_]:
        """Return for each of the bands whether it is `band`, ``(c,)``."""
        return np.array([one == band for one in self.bands], np.bool_)

    def empty(
        self, dtype: np.dtype[Any], count: int | None = None, *, lowest: bool = False
    ) -> list[float]:
        """Return for each band what stands where there is no data.

        Its own value, else NaN; where integers have none 0, or the `lowest` that is shown black.
        """
        other = np.nan if dtype.kind == "f" else 0.0
        if lowest and dtype.kind == "i":
            other = float(np.iinfo(dtype).min)
        values = self.values or (None,) * (len(self.bands) if count is None else count)
        return [other if value is None else value for value in values]


def same_in_all(
    values: Sequence[float | None],
) -> float | tuple[float | None, ...] | None:
    """Return the one value of all bands where they agree, else those of each."""
    kinds = {repr(value) for value in values}  # NaN is not NaN
    return tuple(values) if len(kinds) > 1 else values[0]


def with_data(pixels: Pixels, nodata: float | tuple[float | None, ...] | None) -> NDArray[np.bool_]:
    """Return which values have data.

    Parameters
    ----------
    pixels : ndarray
        Its last axis is of bands where `nodata` is a value for each.
    nodata : float or tuple of (float or None), optional
    """
    found = ~np.isnan(pixels) if pixels.dtype.kind == "f" else np.ones(pixels.shape, np.bool_)
    if isinstance(nodata, tuple):
        for band, value in enumerate(nodata):
            if value is not None and not np.isnan(value):
                found[..., band] &= pixels[..., band] != value
    elif nodata is not None and not np.isnan(nodata):
        found &= pixels != nodata
    return found
