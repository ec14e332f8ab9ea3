"""The map of an image as an array that is blended as it is read."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.colouring import chosen_colours, load_colours
from tilevision.display import PICTURE_BYTES
from tilevision.errors import RunArgumentError, RunError
from tilevision.findings import TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.rasters.agreement import Agreement, TilePairs, agreement_of
from tilevision.rasters.blending import Blender
from tilevision.rasters.colours import class_palette, coloured, hexadecimal
from tilevision.rasters.mapareas import (
    ClassCounts,
    PixelUnits,
    area_table,
    class_pixels,
    counted,
    value_table,
)
from tilevision.rasters.mapsettings import MapSettings
from tilevision.rasters.placement import tile_maps
from tilevision.rasters.rasterarray import BLOCK, RasterArray
from tilevision.rasters.regionmask import Window, reaches
from tilevision.rasters.sampling import SampledBlender, Samples
from tilevision.rasterspec import RasterSpec
from tilevision.sources import ImageMetadata, ImageSource, SourceRef, open_source

if TYPE_CHECKING:
    import pandas as pd

    from tilevision.regions import Region

__all__ = ["BLOCK", "RasterMap", "map_of"]

_DRAWN = 1500  # pixels of the longer side in a figure
_SHOWN = 360  # pixels of the longer side in a notebook
_LISTED = 20
_THUMBNAIL_ROWS = 256


def map_of(
    tiles: Sequence[Tile],
    found: Sequence[TileFindings],
    source: ImageSource,
    settings: MapSettings,
    units: PixelUnits,
    region: Region | None,
    folder: str | None = None,
) -> RasterMap | None:
    """Return the map of an image from those of its tiles; None where no tile has one.

    `folder` is where the colours of its classes are kept.

    Raises
    ------
    RunError
        If the tiles' maps are no one map, or the settings do not suit it.
    """
    layout = tile_maps(tiles, found, source.size)
    if layout is None:
        return None
    settings.check(layout.spec)
    layer = "values" if layout.spec.kind == "values" else "classes"
    return RasterMap(Blender(layout, settings, region), layer, source, units, region, folder)


class RasterMap(RasterArray):
    """The map of an image: an array, and an `ImageSource`, that is blended as it is read.

    Of probabilities and of classes it is the map of classes ``(h, w)``, uint8: 255 where no tile
    has data, 254 where no class is meant. `probabilities` has the shares behind it ``(h, w, k)``,
    `probability` those of one class. Of values it is ``(h, w)`` or ``(h, w, k)``, float32, NaN
    where no tile has data. Index it as an array (``raster[y0:y1, x0:x1]``), take it whole
    (``np.asarray(raster)``) or as a Dask array (``raster.dask``). Outside the region of a run
    there are no data.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    nodata : float
        255 or NaN.
    """

    def __init__(
        self,
        blender: Blender,
        layer: str,
        source: ImageSource,
        units: PixelUnits,
        region: Region | None,
        folder: str | None = None,
        band: int | None = None,
    ) -> None:
        super().__init__(blender, layer, band)
        self._folder = folder
        self._source = source
        self._units = units
        self._region = region
        self._staged: ImageSource | None = None
        self._learned: Sequence[Sequence[ClassCounts | None]] | None = None

    # What it is ---------------------------------------------------------------------------------

    @property
    def spec(self) -> RasterSpec:
        """What the model declares of its maps."""
        return self._blender.layout.spec

    @property
    def settings(self) -> MapSettings:
        """How the maps of tiles are blended."""
        return self._blender.settings

    @property
    def layer(self) -> str:
        """What is read: ``"classes"``, ``"probabilities"`` or ``"values"``."""
        return self._layer

    @property
    def classes(self) -> dict[str, int]:
        """Class name to number."""
        return self.spec.numbers

    @property
    def unit(self) -> str:
        """Unit of values."""
        return self.spec.unit

    @property
    def scale(self) -> float:
        """Pixels of the map per pixel of the image."""
        return self._blender.layout.scale

    @property
    def units(self) -> PixelUnits:
        """In which units its areas are."""
        return self._units

    @cached_property
    def tiles(self) -> frozenset[Tile]:
        """The tiles that have a map."""
        return frozenset(one.tile for one in self._blender.layout.placed)

    @property
    def missing(self) -> int:
        """How many tiles of the grid have no map: failed, skipped, not yet run."""
        return self._blender.layout.missing

    @property
    def colours(self) -> NDArray[np.uint8]:
        """Red, green, blue and opacity ``(256, 4)`` of a map of classes, by value.

        As somebody chose them, in this process or in the checkpoint folder; else by number.

        Raises
        ------
        RunError
            If the colours in the folder cannot be read.
        """
        load_colours(self._folder)
        return self.palette

    @property
    def palette(self) -> NDArray[np.uint8]:
        """The same as `colours`, without a look at the folder: a picture looks when it opens."""
        table = class_palette(len(self.spec.classes))
        for name, colour in chosen_colours(self.classes).items():
            table[self.classes[name], :3] = tuple(bytes.fromhex(colour[1:]))
        return table

    def __repr__(self) -> str:
        sides = " × ".join(f"{side:,}" for side in self.shape)
        named = f" ({', '.join(list(self.classes)[:6])})" if self.classes else ""
        lack = f"; {self.missing:,} tiles without a map" if self.missing else ""
        return f"<RasterMap {sides} {self.dtype.name} {self._layer}{named}{lack}>"

    # Other views of it --------------------------------------------------------------------------

    @property
    def probabilities(self) -> RasterMap:
        """The shares of all classes ``(h, w, k)``, float32, NaN where no tile has data.

        Raises
        ------
        RunError
            If the model gives none.
        """
        if self.spec.kind != "probabilities":
            raise RunError(
                f"The map has {self.spec.kind}, not probabilities; use "
                "tv.model(f, returns='probabilities', classes=…) without keep=."
            )
        return self._view("probabilities")

    def probability(self, name: str) -> RasterMap:
        """Return the share ``(h, w)`` of one class.

        Raises
        ------
        RunError
            If there is no such class, or the model gives no probabilities.
        """
        if name not in self.classes:
            raise RunArgumentError(
                f"There is no class {name!r:.40}; the map has {', '.join(list(self.classes)[:10])}."
            )
        whole = self.probabilities
        return whole._view("probabilities", self.classes[name])  # noqa: SLF001 - its own kind

    def _view(self, layer: str, band: int | None = None) -> RasterMap:
        about = self._source, self._units, self._region, self._folder
        return RasterMap(self._blender, layer, *about, band)

    def sampled(self, step: int, samples: Samples) -> SampledBlender:
        """Return what blends each `step`-th pixel, with what it keeps in `samples`."""
        blender = self._blender
        return SampledBlender(blender.layout, blender.settings, blender.region, step, samples)

    # Reading ------------------------------------------------------------------------------------

    @property
    def dask(self) -> Any:
        """The map as a Dask array; chunks of 1,024 pixels are blended when they are computed."""
        import dask.array

        chunks = (BLOCK, BLOCK) if self.ndim == 2 else (BLOCK, BLOCK, -1)
        return dask.array.from_array(
            RasterArray(self._blender, self._layer, self._band),
            chunks,
            name=f"tilevision-map-{self.fingerprint}",
            asarray=False,
        )

    # As an image --------------------------------------------------------------------------------

    def read(
        self, box: Box, scale: float = 1.0, bands: Sequence[int] | None = None
    ) -> NDArray[Any]:
        """Return the pixels of `box` as ``(h, w, c)``; at other scales those nearest.

        See `ImageSource.read`; classes have no average.
        """
        x0, y0, x1, y1 = map(int, box.as_tuple())
        if scale == 1:
            planes = self.window(x0, y0, x1, y1)
        else:
            high, wide = (max(1, round(side * scale)) for side in (y1 - y0, x1 - x0))
            step = max(1, math.floor(1 / scale))
            planes = self.window(x0, y0, x1, y1, step)
            rows = ((np.arange(high) + 0.5) * planes.shape[1] / high).astype(int)
            columns = ((np.arange(wide) + 0.5) * planes.shape[2] / wide).astype(int)
            planes = planes[:, rows][:, :, columns]
        chosen = planes if bands is None else planes[list(bands)]
        return np.ascontiguousarray(np.moveaxis(chosen, 0, -1))

    def thumbnail(self, max_side: int) -> NDArray[Any]:
        """Return the whole map ``(h, w, c)``, its longer side at most `max_side`."""
        width, height = self.size
        step = max(1, -(-max(width, height) // max_side))
        bands = [
            self.window(0, y, width, min(y + _THUMBNAIL_ROWS * step, height), step)
            for y in range(0, height, _THUMBNAIL_ROWS * step)
        ]
        return np.ascontiguousarray(np.moveaxis(np.concatenate(bands, axis=1), 0, -1))

    @property
    def metadata(self) -> ImageMetadata:
        """Where the map lies: as the image, at the scale of the map."""
        given, scale = self._source.metadata, self.scale
        place = given.transform
        if place is not None:
            a, b, c, d, e, f = place
            place = (a / scale, b / scale, c, d / scale, e / scale, f)
        names = [str(name) for name in self.spec.classes]
        channels: list[str] = names if self._layer == "probabilities" else []
        return ImageMetadata(
            format="map",
            mpp=None if given.mpp is None else (given.mpp[0] / scale, given.mpp[1] / scale),
            crs=given.crs,
            transform=place,
            nodata=self.nodata,
            levels=(self.size,),
            channels=tuple(channels if self._band is None else channels[self._band :][:1]),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Of the tiles' maps and of how they are blended: hexadecimal."""
        layout = self._blender.layout
        told = hashlib.sha256(repr((layout.size, layout.spec, self.settings)).encode())
        told.update(repr((self._layer, self._band)).encode())
        if self._region is not None:
            told.update(self._region.geometry.wkb)
        for one in layout.placed:
            told.update(repr((one.across, one.down)).encode() + one.array.ref.digest)
        return told.hexdigest()

    @property
    def reference(self) -> SourceRef:
        """What a worker opens the map again from: it is computed once into a staging file."""
        if self._staged is None:
            self._staged = open_source(self.dask, mpp=self.metadata.mpp)
        return self._staged.reference

    def close(self) -> None:
        """Remove the staging file, where one was made."""
        if self._staged is not None:
            self._staged.close()
            self._staged = None

    # What it says -------------------------------------------------------------------------------

    def areas(self, zones: Any = None) -> pd.DataFrame:
        """Return how much each class has: a row for each class of each region.

        Parameters
        ----------
        zones : as ``region=`` of `tilevision.start`, optional
            Each named part counts by itself, also where they overlap. Default: the region of the
            run, else the whole image.

        Returns
        -------
        DataFrame
            region, class, pixels (whose middle lies in the region), area_um2 and area_mm2, or
            area_m2 and area_ha (geodesic), where the image says how large a pixel is, share of
            what has data, and analysed, the share of the region's pixels that has any.
            ``(no data)`` and ``(none)`` are rows of their own.

        Raises
        ------
        RunError
            If the map has values: see `stats`.
        """
        if self.spec.kind == "values":
            raise RunError("A map of values has no classes to count; raster.stats() describes it.")
        if zones is None:
            return self._own_areas.copy()
        return self._areas(self._zones(zones))

    @cached_property
    def _own_areas(self) -> pd.DataFrame:
        zones = self._zones(None)
        learned = self._learned
        return self._areas(zones) if learned is None else self._table(learned, zones)

    def _areas(self, zones: Sequence[Region | None]) -> pd.DataFrame:
        blocks = ((w, self._blender.classes(*w)) for w in self._reached(zones))
        parts = ([counted(w, block, one, self.scale) for one in zones] for w, block in blocks)
        return self._table(parts, zones)

    def _table(
        self, parts: Iterable[Sequence[ClassCounts | None]], zones: Sequence[Region | None]
    ) -> pd.DataFrame:
        return area_table(parts, self.spec.classes, zones, self._units, self.scale)

    def class_pixels(self) -> dict[str, int]:
        """Return how many pixels each class has of those with data: regions added up."""
        if self._learned is not None:
            return class_pixels(self._learned, self.spec.classes)
        table = self.areas()
        shares = table[table["share"].notna()].groupby("class", sort=False)["pixels"].sum()
        return {str(name): int(n) for name, n in shares.items()}

    @property
    def counts_all(self) -> bool:
        """Whether `areas` still has to count the whole map."""
        known = "_own_areas" in self.__dict__ or self._learned is not None
        return self.spec.kind != "values" and self._region is None and not known

    def learn_areas(self, parts: Sequence[Sequence[ClassCounts | None]]) -> None:
        """Take what was counted of all windows, in their order, for the result of `areas`."""
        self._learned = parts

    def stats(self, zones: Any = None) -> pd.DataFrame:
        """Return mean, deviation, least and largest value of each region; see `areas`.

        Raises
        ------
        RunError
            If the map has no values.
        """
        if self.spec.kind != "values":
            raise RunError(f"A map of {self.spec.kind} has no values; raster.areas() counts it.")
        chosen = self._zones(zones)
        blocks = ((w, self._blender.values(*w)) for w in self._reached(chosen))
        return value_table(blocks, chosen, self.scale)

    def _reached(self, zones: Sequence[Region | None]) -> Iterator[Window]:
        """Yield the windows that a zone reaches into: the others need not be blended."""
        for window in self.windows():
            if any(reaches(zone, window, self.scale) for zone in zones):
                yield window

    def _zones(self, zones: Any) -> Sequence[Region | None]:
        if zones is None:
            return (None,) if self._region is None else self._region.each
        from tilevision.regions import read_region

        return read_region(zones, self._source).each

    def ground(self, polygon: Any) -> float:
        """Return the area of a shapely polygon in pixels of the image, in the image's unit."""
        middle = np.array([[polygon.centroid.x, polygon.centroid.y]])
        return float(polygon.area * self._units.pixel_areas(middle)[0])

    @cached_property
    def agreement(self) -> Agreement | None:
        """How far overlapping tiles disagree, and the overlap that would do; None: none overlap."""
        return agreement_of(self._blender)

    def comparison(self) -> TilePairs | None:
        """Return what compares the tiles while the map is read; None where that is known."""
        return None if "agreement" in self.__dict__ else TilePairs(self._blender)

    def learn_agreement(self, found: Agreement | None) -> None:
        """Take what a comparison found for `agreement`."""
        self.__dict__["agreement"] = found

    def cover(self, max_side: int = _DRAWN) -> tuple[NDArray[np.uint8], dict[str, str]]:
        """Return the map in colours ``(h, w, 4)``, its longer side at most `max_side`.

        And what they stand for, with the colour of each: the classes, or the lowest, the middle
        and the highest value.
        """
        values = self.thumbnail(max_side)[..., 0]
        if self._layer == "classes":
            table = self.colours
            return table[values], {name: hexadecimal(table[n]) for name, n in self.classes.items()}
        picture, stands = coloured(values)
        unit = f" {self.unit}" if self.unit else ""
        return picture, {f"{value:.4g}{unit}": colour for value, colour in stands.items()}

    def _repr_html_(self) -> str:
        from PIL import Image

        data, side = "", _SHOWN
        while not data or len(data) > PICTURE_BYTES:  # noise has no size that PNG could lessen
            picture, stands = self.cover(side)
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "PNG")
            data, side = base64.b64encode(stream.getvalue()).decode(), side // 2
        keys = "".join(
            f"<span style='margin-right:1em'><span style='display:inline-block;width:.8em;"
            f"height:.8em;background:{colour}'></span> {escape(words[:40])}</span>"
            for words, colour in list(stands.items())[:_LISTED]
        )
        return (
            f"<div><p>{escape(repr(self)[1:-1])}</p><img src='data:image/png;base64,{data}' "
            f"alt='map' style='image-rendering:pixelated'><p>{keys}</p></div>"
        )
