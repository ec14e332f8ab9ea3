"""Truth for the pixels of a map, read block by block on the map's own pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
from numpy.typing import NDArray

from tilevision import checks
from tilevision.errors import SourceError, TilevisionError
from tilevision.evaluation.toolformats import tree
from tilevision.files import kind_of
from tilevision.geometry import Box
from tilevision.rasters import RasterMap
from tilevision.rasterspec import NODATA
from tilevision.sources import ImageMetadata, ImageSource, ReadOptions, open_source, read_pixels

__all__ = ["MapTruth", "is_map_truth", "map_truth"]

Window = tuple[int, int, int, int]

# Files that hold other truth than pixels: outlines, boxes, tables.
_OTHER = {
    *(".json", ".json.gz", ".geojson", ".geojson.gz", ".xml", ".csv", ".parquet"),
    *(".gpkg", ".fgb", ".shp", ".txt"),
}
_SHIFT = 0.01  # pixels by which two lattices may be off each other and be one


@dataclass(frozen=True, eq=False)
class MapTruth:
    """What is true of the pixels of a map.

    Parameters
    ----------
    part : callable
        ``part(x0, y0, x1, y1)``: values ``(h, w, k)`` of pixels of the truth.
    rows, columns : array of int
        Which pixel of the truth each row and column of the map has; -1 where it has none.
    names : mapping of int to str
        Class names by value, where the truth itself states them.
    nodata : float, optional
        Value of pixels of which nothing is known.
    close : callable
        Lets go of the file.
    """

    part: Callable[[int, int, int, int], NDArray[Any]]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    names: Mapping[int, str] = field(default_factory=dict)
    nodata: float | None = None
    close: Callable[[], None] = lambda: None

    @property
    def ratio(self) -> float:
        """Pixels of the truth to a pixel of the map, the more of both ways."""
        spans = [np.ptp(one[one >= 0]) + 1 if (one >= 0).any() else 1 for one in self._axes]
        return max(1.0, *(span / len(one) for span, one in zip(spans, self._axes, strict=True)))

    @property
    def _axes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.rows, self.columns

    def window(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
        """Return the values ``(h, w, k)`` of a window of the map, and where there are any.

        None where the truth has no pixel in it.
        """
        x0, y0, x1, y1 = window
        rows, columns = self.rows[y0:y1], self.columns[x0:x1]
        inside = (rows >= 0)[:, None] & (columns >= 0)
        if not inside.any():
            return None
        top, left = rows[rows >= 0].min(), columns[columns >= 0].min()
        bottom, right = rows.max() + 1, columns.max() + 1
        values = self.part(int(left), int(top), int(right), int(bottom))
        at = np.maximum(rows - top, 0), np.maximum(columns - left, 0)
        found = values[at[0]][:, at[1]]
        if self.nodata is not None:
            same = np.isnan(found) if np.isnan(self.nodata) else found == self.nodata
            inside &= ~same.any(axis=2)
        if found.dtype.kind == "f":
            inside &= ~np.isnan(found).any(axis=2)
        return found, inside


def is_map_truth(truth: Any) -> bool:
    """Return True if truth is of pixels, as far as its kind tells: an array, a map or a picture."""
    if isinstance(truth, (str, PathLike)):
        path = checks.path("truth", truth, SourceError)
        return kind_of(path) not in _OTHER and not (path.is_dir() and _of_labels(path))
    if hasattr(truth, "columns") or isinstance(truth, (Mapping, list, tuple)):
        return False
    return isinstance(truth, ImageSource) or len(getattr(truth, "shape", ())) in (2, 3)


def _of_labels(path: Path) -> bool:
    """Return True if a folder is no Zarr store, but of files of annotations."""
    return not any((path / name).exists() for name in (".zarray", ".zgroup", "zarr.json"))


def map_truth(truth: Any, raster: RasterMap, image: ImageSource) -> MapTruth:
    """Return truth as a map's pixels have it.

    Parameters
    ----------
    truth : array, RasterMap, ImageSource, str or PathLike
        Of the size of the map or of the image; with a place on Earth in the same reference system
        as the image, of any size.
    raster : RasterMap
    image : ImageSource
        That the map is of.

    Raises
    ------
    SourceError
        If it cannot be read, or lies elsewhere.
    """
    where = str(truth) if isinstance(truth, (str, PathLike)) else "The truth"
    named: dict[int, str] = {}
    opened = isinstance(truth, (str, PathLike))
    if opened:
        path = checks.path("truth", truth, SourceError)
        named = _categories(path)
        truth = _array_of(path) if path.suffix.lower() == ".npy" else open_source(path)

    if isinstance(truth, RasterMap):
        told = {number: name for name, number in truth.classes.items()}
        axes = _axes(truth.size, truth.metadata, raster, image, where)
        return MapTruth(_of_map(truth), *axes, told, truth.nodata)
    if isinstance(truth, ImageSource):
        axes = _axes(truth.size, truth.metadata, raster, image, where)
        close = truth.close if opened else MapTruth.close
        return MapTruth(_of_source(truth), *axes, named, truth.metadata.nodata, close)
    kind = getattr(getattr(truth, "dtype", None), "kind", "O")  # of a tensor none is known
    if len(getattr(truth, "shape", ())) not in (2, 3) or 0 in truth.shape or kind not in "iufb":
        raise SourceError(
            f"{where} is no raster of numbers: give a file (.tif, .png, .npy, …), an array (h, w) "
            "or a map."
        )
    axes = _axes((truth.shape[1], truth.shape[0]), None, raster, image, where)
    unknown = NODATA if raster.spec.kind != "values" and truth.dtype == np.uint8 else None
    return MapTruth(_of_array(truth), *axes, {}, unknown)


def _array_of(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise SourceError(f"{path} cannot be read as truth: {words}; check the file.") from error
    return found


def _categories(path: Path) -> dict[int, str]:
    """Return the class names that stand beside a raster, as GDAL and QGIS write them."""
    beside = path.with_name(f"{path.name}.aux.xml")
    if not beside.is_file():
        return {}
    try:
        texts = [one.text for one in tree(beside).iter("Category")]
    except (TilevisionError, ParseError, OSError, ValueError):
        return {}  # the raster is whole without; its numbers count
    return {number: text for number, text in enumerate(texts) if text}


def _of_map(truth: RasterMap) -> Callable[[int, int, int, int], NDArray[Any]]:
    return lambda x0, y0, x1, y1: np.moveaxis(truth.window(x0, y0, x1, y1), 0, -1)


def _of_array(truth: Any) -> Callable[[int, int, int, int], NDArray[Any]]:
    def part(x0: int, y0: int, x1: int, y1: int) -> NDArray[Any]:
        values = np.asarray(truth[y0:y1, x0:x1])
        return values[..., None] if values.ndim == 2 else values

    return part


def _of_source(truth: ImageSource) -> Callable[[int, int, int, int], NDArray[Any]]:
    # As stored: the numbers of a colour table, not its colours.
    raw = ReadOptions(dtype="raw")
    return lambda x0, y0, x1, y1: read_pixels(truth, Box(x0, y0, x1, y1), 1.0, raw)


def _axes(
    size: tuple[int, int],
    metadata: ImageMetadata | None,
    raster: RasterMap,
    image: ImageSource,
    where: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the truth's row for each row of the map, and the same of columns.

    Raises
    ------
    SourceError
        If the truth lies elsewhere, or has another size and no place.
    """
    mine = raster.metadata
    if metadata is not None and metadata.crs and metadata.transform and mine.crs and mine.transform:
        _check_system(metadata.crs, mine.crs, where)
        return _by_place(size, metadata.transform, raster, where)
    if size not in (raster.size, image.size):
        (width, height), (wide, high), (across, down) = size, raster.size, image.size
        of_image = "" if raster.size == image.size else f" or of the image ({across}×{down})"
        raise SourceError(
            f"{where} has {width}×{height} px, and the map {wide}×{high}; give truth of the size "
            f"of the map{of_image}."
        )
    rows, columns = (
        ((np.arange(mine_side) + 0.5) * (side / mine_side)).astype(np.int64)
        for side, mine_side in zip(size[::-1], raster.size[::-1], strict=True)
    )
    return rows, columns


def _check_system(theirs: str, mine: str, where: str) -> None:
    if theirs == mine:
        return
    try:
        from rasterio.crs import CRS

        same = CRS.from_user_input(theirs) == CRS.from_user_input(mine)
    except Exception:  # noqa: BLE001 - whatever a system of its own raises, it is not known as ours
        same = False
    if not same:
        raise SourceError(
            f"{where} is in {_short(theirs)}, and the map in {_short(mine)}; bring it into the "
            "map's reference system (gdalwarp -r near)."
        )


def _short(crs: str) -> str:
    return crs if len(crs) <= 40 else f"{crs[:37]}…"


def _by_place(
    size: tuple[int, int], theirs: tuple[float, ...], raster: RasterMap, where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns by the coordinates of the middles of the map's pixels."""
    mine = raster.metadata.transform
    assert mine is not None  # the caller has looked
    if any(abs(one[place]) > 1e-12 for one in (theirs, mine) for place in (1, 3)):
        if theirs[:6] == mine[:6] and size == raster.size:
            return tuple(np.arange(side) for side in raster.size[::-1])  # type: ignore[return-value]
        raise SourceError(
            f"{where} or the map is turned against north, and they lie on other pixels; bring the "
            "truth onto the map's (gdalwarp)."
        )
    width, height = raster.size
    x = mine[2] + (np.arange(width) + 0.5) * mine[0]
    y = mine[5] + (np.arange(height) + 0.5) * mine[4]
    rows = _places(np.asarray((y - theirs[5]) / theirs[4], np.float64), size[1])
    columns = _places(np.asarray((x - theirs[2]) / theirs[0], np.float64), size[0])
    if (rows < 0).all() or (columns < 0).all():
        raise SourceError(
            f"{where} lies beside the map: they share no pixel; give truth of the same place."
        )
    return rows, columns


def _places(at: NDArray[np.float64], side: int) -> NDArray[np.int64]:
    """Return the pixels that places lie in; -1 outside. What is off by rounding is not off."""
    near = np.round(at * 2) / 2
    at = np.where(np.abs(at - near) < _SHIFT, near, at)
    found = np.floor(at).astype(np.int64)
    found[(found < 0) | (found >= side)] = -1
    return found
