"""From stored values to what a model or an eye gets: bands chosen, depth stretched to 8 bits.

One rule serves the whole image, found from a bounded sample of it, so neighbouring tiles
never differ in brightness. The sample depends on the content only, so every machine finds
the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources.source import ImageMetadata, ImageSource, Pixels, ReadOptions

__all__ = [
    "Nodata",
    "declared_scaling",
    "display_options",
    "estimated",
    "read_options",
    "read_pixels",
    "same_in_all",
    "stretched",
    "to_uint8",
    "with_data",
]

_PERCENTILES = (1.0, 99.0)
_SAMPLE_PIXELS = 1 << 22
_WINDOW = 256
_WINDOWS = 8
_SAMPLE_SIDE = 512
_PROBE_SIDE = 64
_LIMIT = float(np.finfo(np.float32).max)
_NEAR = 0.99
_TABLED_BYTES = 2  # of whole numbers that are looked up rather than stretched each
_TABLES = 64
_FLOATS = (np.float16, np.float32)


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
                found[..., band] &= _other_than(pixels[..., band], value)
    elif nodata is not None and not np.isnan(nodata):
        found &= _other_than(pixels, nodata)
    return found


def _other_than(pixels: Pixels, value: float) -> NDArray[np.bool_]:
    """Return which values are not `value`.

    Near the limit of float32 it may be written in few digits: GDAL 3.10 takes -3.4e+38 and
    -3.40282e+38 for the lowest float as well.
    """
    if pixels.dtype in _FLOATS and _is_near_limit(value):
        return np.asarray(pixels > value * _NEAR if value < 0 else pixels < value * _NEAR)
    return np.asarray(pixels != value)


def _is_near_limit(value: float | None) -> bool:
    """Return True if a value is nearly, but not exactly, the limit of float32."""
    if value is None or not _LIMIT * _NEAR <= abs(value) <= _LIMIT / _NEAR:
        return False
    return float(np.float32(min(abs(value), _LIMIT))) != _LIMIT


def read_options(
    source: ImageSource,
    bands: Sequence[int | str] | None = None,
    dtype: Literal["uint8", "raw", "scaled"] = "uint8",
) -> ReadOptions:
    """Decide how the stored values of `source` become what a model sees.

    Parameters
    ----------
    source : ImageSource
    bands : sequence of int or str, optional
        Numbered from 0, or by the names that the file gives them, as ``"DAPI"``. For
        ``"uint8"`` one (grey) or three (red, green, blue). None: all unless for ``"uint8"``;
        there the first three, or the first alone where there are one or two.
    dtype : str
        ``"uint8"``: RGB; values that are not 8-bit are stretched between the 1st and 99th
        percentile of each band, NaN and no-data left out. ``"raw"``: as stored. ``"scaled"``:
        float32, by the scale and offset that the file declares, no-data as NaN.

    Raises
    ------
    SourceError
        If a band does not exist, or their number makes no picture; if whole numbers are to be
        scaled, and the file does not say how.
    """
    if dtype not in ("uint8", "raw", "scaled"):
        raise SourceError(f"dtype={dtype!r} is not known; give 'uint8', 'raw' or 'scaled'.")
    source = _as_asked(source, dtype)
    declared = source.metadata.band_nodata or (source.metadata.nodata,)
    near = source.dtype in _FLOATS and any(_is_near_limit(value) for value in declared)
    fact = "no data near the limit" if near else ""
    revision: str = getattr(source, "revision", "")
    resampled: str = getattr(source, "resampled", "")
    raw = dtype == "raw"  # whose values are what they were, unless averaged
    return replace(
        _options(source, _chosen_bands(source, bands, dtype), dtype),
        revision=_both(revision, "" if raw else fact),
        resampled=_both(resampled, fact if raw else ""),
    )


def _both(*facts: str) -> str:
    return "; ".join(filter(None, facts))


def display_options(source: ImageSource) -> ReadOptions:
    """Return how to show `source` to people: RGB, 8 bits."""
    return read_options(source)


def estimated(
    read: Callable[[int, int, int, int], tuple[Pixels, NDArray[np.bool_] | None]],
    size: tuple[int, int],
    chunk: tuple[int, int],
    outputs: tuple[int, int],
    most: int,
) -> NDArray[np.float32]:
    """Return the mean of what `read` returns around each output, from windows over a level.

    Parameters
    ----------
    read : callable
        ``read(x0, y0, x1, y1)`` returns ``(h, w, 1)``, and nothing that is wanted here.
    size, chunk : tuple of int
        Of the level; see `Level`.
    outputs : tuple of int
        Width and height of the result.
    most : int
        Pixels that may be decoded.
    """
    sides = [one if one > 1 else _PROBE_SIDE for one in chunk]
    count = max(1, int((most / (sides[0] * sides[1])) ** 0.5))
    places = []
    for extent, side, step, there in zip(size, sides, chunk, outputs, strict=True):
        centres = (np.arange(min(count, there)) + 0.5) * extent / min(count, there)
        first = centres.astype(np.int64) // step * step  # a window is a chunk: no other is read
        places.append([(int(one), min(int(one) + side, extent)) for one in first])
    shares = np.array(
        [[read(x0, y0, x1, y1)[0].mean() for x0, x1 in places[0]] for y0, y1 in places[1]],
        np.float32,
    )
    rows, columns = (
        np.arange(there) * len(found) // there
        for there, found in zip(outputs[::-1], places[::-1], strict=True)
    )
    return shares[np.ix_(rows, columns)]


def declared_scaling(
    scales: Sequence[float], offsets: Sequence[float]
) -> tuple[tuple[float, float], ...] | None:
    """Return scale and offset of each band; None where they change nothing, or make no sense."""
    both = tuple(
        (float(scale), float(offset)) for scale, offset in zip(scales, offsets, strict=True)
    )
    sensible = all(np.isfinite(pair).all() and pair[0] for pair in both)
    return both if sensible and any(pair != (1.0, 0.0) for pair in both) else None


def read_pixels(source: ImageSource, box: Box, scale: float, options: ReadOptions) -> Pixels:
    """Read `box` as `options` say.

    Returns
    -------
    ndarray, ``(h, w, 3)`` uint8, ``(h, w, c)`` as stored, or ``(h, w, c)`` float32
        ``max(1, round(height * scale))`` by ``max(1, round(width * scale))``.

    Raises
    ------
    SourceError
        If the box is not inside the image, or its pixels cannot be read.
    """
    source = _as_asked(source, options.dtype)
    if options.stretch is None and options.scaling is None:
        return _turned(source.read(box, scale, options.bands), None, options)
    return _turned(*_read(source, box, scale, options.bands), options)


def read_shown(source: ImageSource, box: Box, scale: float, options: ReadOptions) -> Pixels:
    """Return about what `read_pixels` does, sooner where the source can: for people to look at.

    `options` are those of `display_options`.
    """
    preview = getattr(source, "preview", None)
    if preview is None or options.stretch is not None:
        return read_pixels(source, box, scale, options)
    return _turned(preview(box, scale, options.bands), None, options)


def to_uint8(pixels: Pixels, options: ReadOptions) -> Pixels:
    """Turn pixels that hold all bands of a source (a thumbnail) into what `options` say.

    Parameters
    ----------
    pixels : ndarray, ``(h, w, c)``
        As stored.
    options : ReadOptions

    Returns
    -------
    ndarray
        As of `read_pixels`.
    """
    if options.bands is not None:
        pixels = np.take(pixels, options.bands, axis=2)
    return _turned(pixels, None, options)


def _options(
    source: ImageSource,
    bands: tuple[int, ...] | None,
    dtype: Literal["uint8", "raw", "scaled"],
) -> ReadOptions:
    if dtype == "raw":
        return ReadOptions(bands, dtype)
    nodata = _nodata(source, bands)
    if dtype == "scaled":
        return ReadOptions(bands, dtype, nodata=nodata, scaling=_scaling(source, bands))
    assert bands is not None
    if source.dtype == np.uint8:
        return ReadOptions(bands)
    if source.dtype == np.bool_:
        return ReadOptions(bands, stretch=((0.0, 1.0),) * len(bands))
    return ReadOptions(bands, stretch=_stretch(source, bands, nodata), nodata=nodata)


def _as_asked(source: ImageSource, dtype: str) -> ImageSource:
    """Return `source` with the values that `dtype` is of: those stored, or those shown."""
    return source if dtype == "uint8" else getattr(source, "stored", source)


def _read(
    source: ImageSource, box: Box, scale: float, bands: Sequence[int] | None
) -> tuple[Pixels, NDArray[np.bool_] | None]:
    """Return pixels, and which of them a mask says have data; None where there is no mask."""
    if not getattr(source, "masked", False):
        return source.read(box, scale, bands), None
    found: tuple[Pixels, NDArray[np.bool_] | None] = source.read_masked(box, scale, bands)  # type: ignore[attr-defined]  # as `masked` says
    return found


def _turned(pixels: Pixels, mask: NDArray[np.bool_] | None, options: ReadOptions) -> Pixels:
    if options.dtype == "uint8":
        return _to_rgb(pixels, mask, options)
    if options.scaling is None:
        return pixels
    scale, offset = np.array(options.scaling).T
    there = _there(pixels, mask, options.nodata)
    return np.where(there, pixels * scale + offset, np.nan).astype(np.float32)


def _to_rgb(
    pixels: Pixels, mask: NDArray[np.bool_] | None, options: ReadOptions
) -> NDArray[np.uint8]:
    if options.stretch is not None:
        pixels = stretched(pixels, mask, options.stretch, options.nodata)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def stretched(
    pixels: Pixels,
    mask: NDArray[np.bool_] | None,
    stretch: tuple[tuple[float, float], ...],
    nodata: float | tuple[float | None, ...] | None,
) -> NDArray[np.uint8]:
    """Stretch each band to 8 bits.

    Parameters
    ----------
    pixels : ndarray, ``(h, w, c)``
    mask : ndarray of bool, optional
        ``(h, w, c)`` or ``(h, w, 1)``: which of them have data.
    stretch, nodata
        Of each band, as in `ReadOptions`.

    Returns
    -------
    ndarray, ``(h, w, c)``
        0 where there is no data.
    """
    shown = np.empty(pixels.shape, np.uint8)
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= _TABLED_BYTES:
        each = nodata if isinstance(nodata, tuple) else (nodata,) * len(stretch)
        for band, ((low, high), value) in enumerate(zip(stretch, each, strict=True)):
            table = _table(pixels.dtype, low, high, value)
            shown[..., band] = table[_unsigned(pixels[..., band])]
        return shown if mask is None else np.where(mask, shown, np.uint8(0))
    whole = mask is None and nodata is None and pixels.dtype.kind != "f"
    there = None if whole else _there(pixels, mask, nodata)
    for band, (low, high) in enumerate(stretch):
        seen = None if there is None else there[..., band]
        shown[..., band] = _stretched(pixels[..., band], low, high, seen)
    return shown


def _unsigned(values: Pixels) -> Pixels:
    """Return the bits of whole numbers as numbers from 0: places in a table."""
    return values.view(f"u{values.dtype.itemsize}")


@lru_cache(maxsize=_TABLES)
def _table(dtype: np.dtype[Any], low: float, high: float, nodata: float | None) -> Pixels:
    """Return what each value that `dtype` has is stretched to, by its bits."""
    bits = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}")
    values = bits.view(dtype)
    there = None if nodata is None else with_data(values, nodata)
    return _stretched(values, low, high, there)


def _chosen_bands(
    source: ImageSource, bands: Sequence[int | str] | None, dtype: str
) -> tuple[int, ...] | None:
    if bands is None:
        if dtype != "uint8":
            return None
        colours: tuple[int, ...] | None = getattr(source, "colours", None)
        return colours or ((0, 1, 2) if source.bands >= 3 else (0,))
    chosen = tuple(
        _band_called(source, band) if isinstance(band, str) else int(band) for band in bands
    )
    missing = [band for band in chosen if not 0 <= band < source.bands]
    if missing:
        raise SourceError(
            f"The image has no band {missing[0]}; its {source.bands} bands are numbered from 0."
        )
    if not chosen or (dtype == "uint8" and len(chosen) not in (1, 3)):
        raise SourceError(
            f"{len(chosen)} bands make no 8-bit picture; give one (grey) or three "
            "(red, green, blue), or dtype='raw'."
        )
    return chosen


def _band_called(source: ImageSource, name: str) -> int:
    """Return the number of the band with a name; upper and lower case need not agree."""
    names = source.metadata.channels
    plain = [one.strip().casefold() for one in names]
    wanted = [n for n, one in enumerate(names) if one == name] or [
        n for n, one in enumerate(plain) if one == name.strip().casefold()
    ]
    if len(wanted) == 1:
        return wanted[0]
    if wanted:
        raise SourceError(
            f"The image has {len(wanted)} bands called {name!r}; give their numbers from 0."
        )
    called = ", ".join(names) if names else "none: the file gives them no names"
    raise SourceError(
        f"The image has no band called {name!r} (its bands are called {called}); give one of "
        "these, or numbers from 0."
    )


def _scaling(source: ImageSource, bands: tuple[int, ...] | None) -> tuple[tuple[float, float], ...]:
    declared = source.metadata.scaling
    if declared is None and source.dtype.kind != "f":
        raise SourceError(
            "The image declares no scale and offset for its values; take dtype='raw', and scale "
            "them in the model."
        )
    every = declared or ((1.0, 0.0),) * source.bands
    return every if bands is None else tuple(every[band] for band in bands)


def _nodata(
    source: ImageSource, bands: tuple[int, ...] | None
) -> float | tuple[float | None, ...] | None:
    values = Nodata.of(source.metadata, source.bands if bands is None else bands).values
    return same_in_all(values) if values else None


def _stretch(
    source: ImageSource, bands: tuple[int, ...], nodata: float | tuple[float | None, ...] | None
) -> tuple[tuple[float, float], ...]:
    values: list[list[Pixels]] = [[] for _ in bands]
    for pixels, mask in _sample(source, bands):
        there = _there(pixels, mask, nodata)
        for place, kept in enumerate(values):
            kept.append(pixels[..., place][there[..., place]])
    return tuple(_range(np.concatenate(kept)) for kept in values)


def _sample(
    source: ImageSource, bands: tuple[int, ...]
) -> Iterator[tuple[Pixels, NDArray[np.bool_] | None]]:
    """Yield windows that stand for the whole image, at most some millions of pixels."""
    width, height = source.size
    scale = 1.0
    # Some levels came to be read later: stretches, and so keys, stay what they were.
    later = getattr(source, "later_levels", ())
    for size in source.metadata.levels:
        if max(size) >= _SAMPLE_SIDE and size not in later:
            scale = min(1.0, size[0] / width)
    if width * height * scale * scale <= _SAMPLE_PIXELS:
        yield _read(source, Box(0, 0, width, height), scale, bands)
        return
    side = int(_WINDOW / scale)
    for y0, y1 in _lattice(height, side):
        for x0, x1 in _lattice(width, side):
            yield _read(source, Box(x0, y0, x1, y1), scale, bands)


def _lattice(extent: int, side: int) -> list[tuple[int, int]]:
    if extent <= side * _WINDOWS:
        return [(start, min(start + side, extent)) for start in range(0, extent, side)]
    starts = np.linspace(0, extent - side, _WINDOWS).astype(int)
    return [(int(start), int(start) + side) for start in starts]


def _range(values: Pixels) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    if low == high:
        low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low, low + 1.0)


def _stretched(values: Pixels, low: float, high: float, there: NDArray[np.bool_] | None) -> Pixels:
    if there is None:
        plain = (values.astype(np.float64) - low) * (255.0 / (high - low))
        return np.rint(np.clip(plain, 0, 255)).astype(np.uint8)
    shown = (np.where(there, values, low).astype(np.float64) - low) * (255.0 / (high - low))
    return np.where(there, np.rint(np.clip(shown, 0, 255)), 0).astype(np.uint8)


def _there(
    pixels: Pixels,
    mask: NDArray[np.bool_] | None,
    nodata: float | tuple[float | None, ...] | None,
) -> NDArray[np.bool_]:
    found = with_data(pixels, nodata)
    if pixels.dtype.kind == "f":
        found &= np.isfinite(pixels)
    return found if mask is None else found & mask
