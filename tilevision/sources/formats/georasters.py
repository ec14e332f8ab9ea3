"""Maps and scenes that are no TIFF, through GDAL: JPEG 2000, VRT, ERDAS, ENVI and their like.

Read by window and overview, all bands as stored. GeoTIFF and COG stay with the TIFF reader,
and pictures that Pillow knows with Pillow.
"""

from __future__ import annotations

import copy
import hashlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.sources.capacity import check_plausible
from tilevision.sources.depth import declared_scaling, same_in_all
from tilevision.sources.filetree import FileWatch, Tree, tree_of
from tilevision.sources.formats.flat import picture_format
from tilevision.sources.formats.imageformat import ImageFile, ImageFormat
from tilevision.sources.formats.picturebytes import Jp2Components
from tilevision.sources.formats.pictures import to_rgb
from tilevision.sources.formats.spatial import place_of
from tilevision.sources.formats.tiffmetadata import few_bits_spread, is_grey_ramp
from tilevision.sources.formats.vrtfiles import VrtFailures, files_of_vrt
from tilevision.sources.identity import fingerprint_of_file
from tilevision.sources.levels import LevelReader
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef, check_image_shape

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

__all__ = ["FORMAT", "GeoSource", "RasterLevel", "is_raster", "open_raster"]

# Of GDAL's formats those of one image in local files: no services, no vectors, no containers.
_DRIVERS = (
    *("VRT", "JP2OpenJPEG", "HFA", "ENVI", "EHdr", "ERS", "PCIDSK", "NITF", "ILWIS", "RST"),
    *("AAIGrid", "GSBG", "GS7BG", "SAGA", "DTED", "SRTMHGT", "USGSDEM", "RMF", "KRO", "BT"),
)
_SUFFIXES = (".asc", ".bil", ".bip", ".bsq", ".ers", ".hgt", ".img", ".ntf", ".pix", ".vrt")
_LARGE = 1 << 24  # pixels from which JPEG 2000 is not decoded whole
_GREYS = 256  # entries of a table that make a picture of bytes a grey one
_STATISTICS = ".aux.xml"  # written beside a file by whoever looks at it


class GeoSource(LevelReader):
    """A raster that GDAL reads.

    Parameters
    ----------
    path : str
    levels : sequence of RasterLevel
    content : RasterContent
    metadata : ImageMetadata
    options : dict
        What `open_raster` was asked for, beyond the path, and what tells the raster's files.
    fingerprint : str
    files : sequence of Path
        All that the raster is made of.
    """

    def __init__(
        self,
        path: str,
        levels: Sequence[RasterLevel],
        content: RasterContent,
        metadata: ImageMetadata,
        options: dict[str, Any],
        fingerprint: str,
        files: Sequence[Path],
    ) -> None:
        dtype = levels[0].dtype
        kept = [RasterMask(level) for level in levels] if content.masked else []
        super().__init__(path, levels, content.bands, dtype, metadata, kept, content.alpha)
        self.revision = content.revision
        self._as_stored: GeoSource | None = None
        if content.table is None:
            self.colours = content.colours
        if content.highest:
            self._as_stored = copy.copy(self)
            spread = few_bits_spread(content.highest)
            few = [SpreadLevel(level, spread) for level in levels]
            metadata = _spread_values(metadata, spread)
            super().__init__(path, few, content.bands, dtype, metadata, kept, content.alpha)
            self.revision = "few bits"
        if content.show is not None:
            self._as_stored = copy.copy(self)
            mixed = [MixedColours(level, content.show) for level in levels]
            kept = [RasterMask(level, 0) for level in levels] if kept else []
            metadata = replace(metadata, nodata=None, band_nodata=None)
            super().__init__(path, mixed, 3, np.dtype(np.uint8), metadata, kept)
            self.colours, self.revision = (0, 1, 2), content.mode
        if content.table is not None:
            self.classes = True
            self._as_stored = copy.copy(self)
            shown = [ClassColours(level, content.table) for level in levels]
            if kept or metadata.nodata is not None:
                kept = [RasterMask(level, 0) for level in levels]
            metadata = replace(metadata, nodata=None)
            super().__init__(path, shown, 3, np.dtype(np.uint8), metadata, kept)
            self.classes, self.revision = False, "colour table"
        self.watch = FileWatch(path, lambda: files, options["tree"])
        self._path = path
        self._rasters = tuple(levels)
        self._options = options
        self._fingerprint = fingerprint

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this raster again from."""
        return SourceRef(
            opener="tilevision.sources.formats.georasters:open_raster",
            path=self._path,
            options={**self._options, "fingerprint": self._fingerprint},
            fingerprint=self._fingerprint,
        )

    @property
    def stored(self) -> LevelReader:
        """The same raster with the values that the file stores: class numbers, few bits."""
        return self if self._as_stored is None else self._as_stored

    def close(self) -> None:
        """Close the files."""
        for level in self._rasters:
            level.close()


@dataclass(frozen=True, slots=True)
class RasterContent:
    """What the bands of a raster are.

    Parameters
    ----------
    bands : int
    masked : bool
        Whether a mask or an alpha band says where they have data.
    alpha : int, optional
        The alpha band.
    colours : tuple of int, optional
        The bands that are red, green and blue, where the file names them.
    table : ndarray, ``(n, 3)`` uint8, optional
        The colour of each class, where the one band is of class numbers.
    highest : int
        Of a value of fewer than 8 bits in every band; else 0.
    revision : str
        Names in what the values differ from those that earlier releases read; else empty.
    mode : str
        What its colours are, where they are not red, green and blue; else empty.
    show : callable, optional
        ``show(pixels)`` returns them in red, green and blue.
    """

    bands: int
    masked: bool = False
    alpha: int | None = None
    colours: tuple[int, int, int] | None = None
    table: NDArray[np.uint8] | None = None
    highest: int = 0
    revision: str = ""
    mode: str = ""
    show: Callable[[Pixels], Pixels] | None = None

    @classmethod
    def of(cls, path: str, dataset: DatasetReader) -> RasterContent:
        """Read it from an open dataset."""
        kinds = [kind.name for kind in dataset.colorinterp]
        place = {
            kind: kinds.index(kind) for kind in ("red", "green", "blue", "alpha") if kind in kinds
        }
        flags = [flag.name for flag in dataset.mask_flag_enums[0]]
        masked = "all_valid" not in flags and flags != ["nodata"]
        colours = None
        if {"red", "green", "blue"} <= place.keys():
            colours = place["red"], place["green"], place["blue"]
        stored = Jp2Components.of(path) if dataset.driver.startswith("JP2") else Jp2Components()
        by_pillow = not (dataset.crs or _is_large(dataset) or _colourless(dataset))
        before = stored.changed_by_pillow and by_pillow
        table = _colour_table(dataset)
        return cls(
            int(dataset.count),
            masked,
            place.get("alpha"),
            colours,
            table,
            _highest(dataset) if table is None else 0,
            ("no opacity" if stored.adds_opacity and set(stored.depths) == {8} else "depth")
            if before
            else "",
            stored.mode or stored.unread,
            _colours_shown(path, stored),
        )


class RasterLevel:
    """The full resolution of a raster, or one of its overviews.

    A GDAL dataset serves one thread at a time: each that reads at once has its own.

    Parameters
    ----------
    path : str
    overview : int, optional
        Which overview, from 0; None is the full resolution.
    files : sequence of Path
        All that it is made of.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    dtype : numpy.dtype
        That holds the values of every band.
    """

    def __init__(self, path: str, overview: int | None = None, files: Sequence[Path] = ()) -> None:
        self._path = path
        self._overview = overview
        self._failures = VrtFailures(path, files)
        self._idle: list[DatasetReader] = []
        self._lock = threading.Lock()
        self._closed = False
        with self._dataset() as dataset:
            self.size = (int(dataset.width), int(dataset.height))
            high, wide = dataset.block_shapes[0] if dataset.count else (1, 1)
            self.dtype: np.dtype[Any] = np.result_type(*dataset.dtypes or ["uint8"])
        self.chunk = (int(wide), int(high))

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        from rasterio.windows import Window

        window = Window(x0, y0, x1 - x0, y1 - y0)
        with self._dataset() as dataset:
            wanted = dataset.indexes if bands is None else [band + 1 for band in bands]
            try:
                if len(set(dataset.dtypes)) == 1:
                    found = dataset.read(wanted, window=window)
                else:  # which rasterio does not read together
                    parts = [dataset.read(band, window=window) for band in wanted]
                    found = np.stack(parts).astype(self.dtype)
            except Exception as error:
                raise SourceError(
                    f"{self._path} cannot be read at {x0}, {y0}: GDAL says {_words(error)}; get it "
                    "again, with the files that belong to it."
                ) from error
        return np.ascontiguousarray(np.moveaxis(found, 0, -1))

    def valid(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return where the bands have data ``(y1 - y0, x1 - x0, bands)``: not 0."""
        from rasterio.windows import Window

        with self._dataset() as dataset:
            wanted = dataset.indexes if bands is None else [band + 1 for band in bands]
            shared = "per_dataset" in [flag.name for flag in dataset.mask_flag_enums[0]]
            window = Window(x0, y0, x1 - x0, y1 - y0)
            found = dataset.read_masks(wanted[:1] if shared else wanted, window=window)
        return np.moveaxis(found, 0, -1)

    def close(self) -> None:
        """Close every dataset that nobody reads; reads after this are errors."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()

    @contextmanager
    def _dataset(self) -> Iterator[DatasetReader]:
        self._failures.check()
        with self._lock:
            if self._closed:
                raise SourceError(f"{self._path} is closed; open it again to read it.")
            dataset = self._idle.pop() if self._idle else None
        dataset = dataset or _opened(self._path, self._overview)
        try:
            yield dataset
        except BaseException as error:  # after which GDAL may read zeros
            if isinstance(error, Exception):
                self._failures.add(dataset)
            dataset.close()
            raise
        with self._lock:
            if self._closed:
                dataset.close()
            else:
                self._idle.append(dataset)


class RasterMask:
    """Where a level of a raster has data, as a level of its own.

    Parameters
    ----------
    level : RasterLevel
    only : int, optional
        The band that speaks for all.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, level: RasterLevel, only: int | None = None) -> None:
        self._level = level
        self._only = only
        self.size = level.size
        self.chunk = level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return what is 0 where there is no data, for all bands alike or each."""
        return self._level.valid(x0, y0, x1, y1, bands if self._only is None else [self._only])


class ClassColours:
    """A level of class numbers, shown in the colours of its table.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, level: RasterLevel, table: NDArray[np.uint8]) -> None:
        self._level = level
        self._table = table
        self.size = level.size
        self.chunk = level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the colours ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        classes = self._level.window(x0, y0, x1, y1, None)[..., 0]
        pixels = self._table[np.minimum(classes, len(self._table) - 1)]
        return pixels if bands is None else np.take(pixels, bands, axis=2)


class MixedColours:
    """A level of inks, or of brightness and two colours, shown in red, green and blue.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, level: RasterLevel, show: Callable[[Pixels], Pixels]) -> None:
        self._level = level
        self._show = show
        self.size = level.size
        self.chunk = level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the colours ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        pixels = self._show(self._level.window(x0, y0, x1, y1, None))
        return pixels if bands is None else np.take(pixels, bands, axis=2)


class SpreadLevel:
    """A level of few bits, shown as 8: from black to white.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, level: RasterLevel, spread: NDArray[np.uint8]) -> None:
        self._level = level
        self._spread = spread
        self.size = level.size
        self.chunk = level.chunk

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        return self._spread[self._level.window(x0, y0, x1, y1, bands)]


def _spread_values(metadata: ImageMetadata, spread: NDArray[np.uint8]) -> ImageMetadata:
    """Return `metadata` with the values that mean no data as they are shown."""

    def shown(value: float | None) -> float | None:
        return float(spread[int(value)]) if value in range(256) else value  # type: ignore[arg-type]  # a number then

    every = metadata.band_nodata
    return replace(
        metadata,
        nodata=shown(metadata.nodata),
        band_nodata=None if every is None else tuple(shown(value) for value in every),
    )


def is_raster(path: str, *, picture: str) -> bool:
    """Return True if a file is one for GDAL.

    Parameters
    ----------
    path : str
    picture : str
        What Pillow takes it for, or empty. Pillow is preferred, but for JPEG 2000 that is a
        map or large, which has windows here, of bands that have no colour, or not of the 8 bits
        that Pillow keeps.
    """
    known = not picture and Path(path).suffix.lower() in _SUFFIXES
    if picture not in ("", "JPEG2000"):
        return False
    deep = bool(picture) and Jp2Components.of(path).changed_by_pillow
    known = known or deep  # without rasterio it is refused, not read otherwise than it is stored
    try:
        import rasterio  # noqa: F401  only whether it is there
    except ImportError:
        return known
    with suppress(SourceError), _opened(path) as dataset:
        large = _is_large(dataset)
        return not picture or bool(dataset.crs) or large or _colourless(dataset) or deep
    return known


def _is_large(dataset: DatasetReader) -> bool:
    return bool(dataset.width * dataset.height > _LARGE)


def _colours_shown(path: str, stored: Jp2Components) -> Callable[[Pixels], Pixels] | None:
    """Return what shows the colours of a JPEG 2000 that GDAL hands on as they lie; None for RGB."""
    if stored.mode:
        bands = len(stored.mode) if stored.mode == "CMYK" else 3
        return lambda pixels: to_rgb(pixels[..., :bands], stored.mode)
    if not stored.unread:
        return None

    def refuse(pixels: Pixels) -> Pixels:  # noqa: ARG001 - as they lie they are no picture
        raise SourceError(
            f"{path} stores {stored.unread}, which are not shown as a picture here; convert it to "
            "RGB, or give a model that takes stored values (dtype='raw')."
        )

    return refuse


def _highest(dataset: DatasetReader) -> int:
    """Return the highest value of the few bits that GDAL says every band has; 0 for 8 and more."""
    said = {dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", "8") for band in dataset.indexes}
    bits = said.pop() if len(said) == 1 else ""
    few = set(dataset.dtypes) == {"uint8"} and bits.isdecimal() and 0 < int(bits) < 8
    return 2 ** int(bits) - 1 if few else 0


def _colour_table(dataset: DatasetReader) -> NDArray[np.uint8] | None:
    """Return the colours of classes ``(n, 3)``; None where the raster is no map of classes."""
    if dataset.count != 1 or np.dtype(dataset.dtypes[0]).kind != "u":
        return None
    try:
        listed = dataset.colormap(1)
    except ValueError:
        return None
    table = np.zeros((max(listed) + 1, 3), np.uint8)
    for number, colour in listed.items():
        table[number] = colour[:3]
    return None if len(table) == _GREYS and is_grey_ramp(table) else table


def _colourless(dataset: DatasetReader) -> bool:
    """Return True if the bands have no colours: Pillow calls such JPEG 2000 damaged."""
    return dataset.count > 2 and dataset.colorinterp[0].name in ("undefined", "gray")


def open_raster(
    path: str,
    *,
    mpp: tuple[float, float] | None = None,
    tree: Tree | None = None,
    fingerprint: str = "",
) -> GeoSource:
    """Open a raster that GDAL reads.

    Parameters
    ----------
    path : str
    mpp : tuple of float, optional
        Microns per pixel in x and y, where the caller knows them.
    tree : tuple of int, optional
        Number, bytes and latest change (ns) of its files under which it had `fingerprint`.
    fingerprint : str

    Raises
    ------
    SourceError
        If rasterio is not installed, or the raster is damaged or holds no image.
    """
    with _opened(path) as dataset:
        bands = int(dataset.count)
        if not bands:
            raise SourceError(
                f"{path} holds no image of its own; give one of those in it "
                f"({', '.join(dataset.subdatasets[:3]) or 'it names none'})"
            )
        try:
            overviews = dataset.overviews(1)
            metadata = _metadata(dataset, mpp)
            content = RasterContent.of(path, dataset)
        except Exception as error:
            raise _unopened(path, error) from error
        files = _files(path, dataset)
        found = tree_of(path, files)
        made_here = dataset.driver == "VRT" and len(files) == 1  # of no file, or of distant ones
        if not made_here and all(Path(name).is_file() for name in dataset.files):
            check_plausible(path, dataset.width, dataset.height, found[1])
    levels = [RasterLevel(path, number, files) for number in (None, *range(len(overviews)))]
    size = levels[0].size
    check_image_shape((size[1], size[0], bands), levels[0].dtype, path)
    metadata = replace(metadata, levels=tuple(level.size for level in levels))
    if not fingerprint or tree is None or tuple(tree) != found:
        fingerprint = _fingerprint(files)
    options = {"mpp": mpp, "tree": found}
    return GeoSource(path, levels, content, metadata, options, fingerprint, files)


def _opened(path: str, overview: int | None = None) -> DatasetReader:
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.io import DatasetReader
    except ImportError:
        raise FORMAT.missing(path) from None
    options = {} if overview is None else {"overview_level": overview}
    try:
        # Not shared: GDAL would hand one dataset to all threads.
        with rasterio.Env(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return DatasetReader(path, driver=list(_DRIVERS), sharing=False, **options)
    except Exception as error:
        raise _unopened(path, error) from error


def _metadata(dataset: DatasetReader, mpp: tuple[float, float] | None) -> ImageMetadata:
    place = place_of(dataset)
    values = [None if value is None else float(value) for value in dataset.nodatavals]
    nodata = same_in_all(values)
    names = tuple(name or "" for name in dataset.descriptions)
    return ImageMetadata(
        format="JPEG2000" if dataset.driver.startswith("JP2") else dataset.driver,
        mpp=mpp,
        crs=place.crs,
        transform=place.transform,
        nodata=None if isinstance(nodata, tuple) else nodata,
        scaling=declared_scaling(dataset.scales, dataset.offsets),
        notes=(place.note,) if place.note else (),
        channels=names if any(names) else (),
        band_nodata=nodata if isinstance(nodata, tuple) else None,
    )


def _files(path: str, dataset: DatasetReader) -> list[Path]:
    """Return the raster's files, itself first: headers, overviews, what a VRT is made of."""
    named = set(map(Path, dataset.files))
    if dataset.driver == "VRT":
        named |= files_of_vrt(Path(path), named, _opened)
    beside = {one for one in named - {Path(path)} if not one.name.endswith(_STATISTICS)}
    return [Path(path), *sorted(file for file in beside if file.is_file())]


def _fingerprint(files: Sequence[Path]) -> str:
    """Return the SHA-256 of the one file, or over the contents of all."""
    digests = [fingerprint_of_file(file) for file in files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _unopened(path: str, error: Exception) -> SourceError:
    return SourceError(
        f"{path} is not a raster that GDAL can open ({_words(error)}); check that it is complete, "
        "with the files that belong to it."
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _accepts(file: ImageFile) -> bool:
    return is_raster(file.path, picture=picture_format(file.prefix))


FORMAT = ImageFormat(
    "a raster for GDAL",
    accepts=_accepts,
    opener=open_raster,
    suffixes=frozenset(
        {*_SUFFIXES, ".dt0", ".dt1", ".dt2", ".kro", ".mpr", ".nitf", ".sdat"},
    ),
    library="rasterio",
    extra="geo",
)
