"""A map as a cloud-optimised GeoTIFF, with what GIS programs read: place, colours, names."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilevision.errors import RunArgumentError
from tilevision.exporting.maps.inorder import processors
from tilevision.exporting.maps.mapfile import MapFile
from tilevision.files import draft_name, drafting, dumps, element
from tilevision.rasters import RasterMap

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["write"]

_BLOCK = 512
_WINDOW = 2 * _BLOCK
_PACKING = 4  # threads
_CACHE_MEGABYTES = 64  # of GDAL, which else takes a share of the machine's memory
_PACKINGS = ("deflate", "zstd", "lzw")
_FOR_NOW = {"compress": "deflate", "zlevel": 1}  # where the disk has no room for more
_PYRAMID = 4 / 3  # times the room of its first level
_SPARE = 2**26  # bytes of the disk that are left to others
_QUICK, _LEVEL = 1, 5  # of deflate, of shares and classes: more takes twice as long, for a tenth
_NOTHING = 2**20  # bytes of a disk that is full
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EIO, errno.EDQUOT)
_CENTIMETRE, _MICRONS = 3, 1e4


def write(
    result: ResultData, path: Path, *, layer: str | None = None, compress: str = "deflate"
) -> None:
    """Write a tiled GeoTIFF with overviews (COG).

    Classes: uint8, 255 no data, with a colour table; beside the file stands ``.tif.aux.xml``,
    from which GDAL and QGIS take the names of classes. Probabilities: a band a class, uint8 with
    scale 1/253, 255 no data. Values: float32, NaN no data. The tag ``TILEVISION`` says the
    classes and what was analysed. While it is written the disk holds another of the pixels as they
    are and their overviews; where it has no room for that, one of about twice the file's size.

    Parameters
    ----------
    result : Result
    path : Path
    layer : str, optional
        ``"classes"``, ``"probabilities"`` or ``"values"``; default classes, or values.
    compress : str
        ``"deflate"``, ``"zstd"`` or ``"lzw"``.

    Raises
    ------
    RunError
        If there is no such map.
    """
    import rasterio
    import rasterio.errors
    import rasterio.shutil

    if compress not in _PACKINGS:
        raise RunArgumentError(f"compress is {compress!r:.40}; give {', '.join(_PACKINGS)}.")
    made = MapFile(result, layer)
    whole = draft_name(path)  # GDAL's driver of such files only copies
    with (
        drafting(path) as draft,
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MEGABYTES),
        warnings.catch_warnings(),
    ):
        # An image without a place on Earth has a map without one: nothing to warn of.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            with _by_the_system(path.parent):
                _write_whole(made, whole)
                rasterio.shutil.copy(
                    *(whole, draft),
                    driver="COG",
                    compress=compress,
                    blocksize=_BLOCK,
                    overviews="FORCE_USE_EXISTING",
                    bigtiff="IF_SAFER",
                    num_threads=str(processors(_PACKING)),
                    **_packed(made, compress),
                )
        finally:
            whole.unlink(missing_ok=True)
    beside = path.with_name(path.name + ".aux.xml")
    if made.raster.layer == "classes":
        with drafting(beside) as draft:
            draft.write_text(_names(made), "utf-8")
    else:
        beside.unlink(missing_ok=True)  # of an earlier map of classes


@contextmanager
def _by_the_system(folder: Path) -> Iterator[None]:
    """Turn what GDAL says where it cannot write into an error of the system.

    It names what it was at, and some of its errors are of a class that only rasterio knows.

    Raises
    ------
    OSError
        In place of them; of a full disk where that is so.
    """
    from rasterio.errors import RasterioError

    try:
        yield
    except Exception as error:
        if not isinstance(error, RasterioError) and type(error).__module__ != "rasterio._err":
            raise
        if shutil.disk_usage(folder).free < _NOTHING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        for code in _REFUSALS:  # told in the system's words, behind the name of a draft
            if str(error).endswith(os.strerror(code)):
                raise OSError(code, os.strerror(code)) from error
        raise OSError(str(error)) from error


def _write_whole(made: MapFile, path: Path) -> None:
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.windows import Window

    raster = made.raster
    width, height = raster.size
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": raster.bands,
        "dtype": made.dtype.name,
        "nodata": made.nodata,
        **_for_now(made, path.parent),
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "bigtiff": "IF_SAFER",
        **_place(raster),
    }
    with rasterio.open(path, "w", **profile) as out:
        for (x0, y0, x1, y1), planes in made.blocks(_WINDOW):
            out.write(planes, window=Window(x0, y0, x1 - x0, y1 - y0))
        for band, name in enumerate(made.names, 1):
            out.set_band_description(band, name)
        if raster.layer == "classes":
            table = dict(enumerate(map(tuple, made.palette.tolist())))
            out.write_colormap(1, table)
        if made.scale != 1:
            out.scales = (made.scale,) * raster.bands
        if raster.unit:
            out.units = (raster.unit,) * raster.bands
        out.update_tags(TILEVISION=dumps(made.said), **_resolution(raster))
    factors = [2**n for n in range(1, len(list(made.levels())))]
    if factors:
        how = Resampling.nearest if raster.layer == "classes" else Resampling.average
        # A file that is opened again has forgotten how quickly it is packed.
        with rasterio.Env(ZLEVEL_OVERVIEW=_QUICK), rasterio.open(path, "r+") as out:
            out.build_overviews(factors, how)


def _for_now(made: MapFile, folder: Path) -> dict[str, Any]:
    """Return how the file is written that is copied at once: it decides no byte of the copy.

    Unpacked where the disk has the room, which is quicker than to pack it twice. Its planes are
    not laid one after the other, though that would be: GDAL makes other overviews of such a file.
    """
    raster = made.raster
    width, height = raster.size
    whole = width * height * raster.bands * made.dtype.itemsize * _PYRAMID
    roomy = shutil.disk_usage(folder).free > 2 * whole + _SPARE  # the copy may take as much
    return {"sparse_ok": "TRUE"} if roomy else _FOR_NOW


def _packed(made: MapFile, compress: str) -> dict[str, str]:
    """Return how the copy is packed: whole numbers by what they differ from the one before."""
    level = _LEVEL if made.raster.layer == "classes" else _QUICK
    told = {"level": str(level)} if compress == "deflate" else {}
    return told | ({"predictor": "STANDARD"} if made.dtype.kind == "u" else {})


def _place(raster: RasterMap) -> dict[str, Any]:
    """Return reference system and transform; without a system, pixels of the image, y down."""
    from rasterio.transform import Affine

    metadata = raster.metadata
    if metadata.transform is not None:
        return {"crs": metadata.crs, "transform": Affine(*metadata.transform)}
    if raster.scale == 1:
        return {}
    return {"transform": Affine(1 / raster.scale, 0, 0, 0, 1 / raster.scale, 0)}


def _resolution(raster: RasterMap) -> dict[str, str]:
    """Return the tags of pixels per centimetre, where the image has microns."""
    mpp = raster.metadata.mpp
    if mpp is None:
        return {}
    x, y = (_MICRONS / side for side in mpp)
    return {
        "TIFFTAG_XRESOLUTION": f"{x:.6f}",
        "TIFFTAG_YRESOLUTION": f"{y:.6f}",
        "TIFFTAG_RESOLUTIONUNIT": str(_CENTIMETRE),
    }


def _names(made: MapFile) -> str:
    """Return GDAL's sidecar with the names of classes, and a table of them with colours."""
    raster = made.raster
    names = [name or "" for name in raster.spec.classes]
    categories = "".join(element("Category", name) for name in names)
    columns = (("Value", 0, 5), ("Class", 2, 2), ("R", 0, 6), ("G", 0, 7), ("B", 0, 8))
    fields = "".join(
        f'<FieldDefn index="{n}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage>'
        "</FieldDefn>"
        for n, (name, kind, usage) in enumerate(columns)
    )
    rows = "".join(
        f'<Row index="{index}">'
        + "".join(element("F", cell) for cell in (number, name, *made.palette[number, :3]))
        + "</Row>"
        for index, (name, number) in enumerate(raster.classes.items())
    )
    return (
        '<PAMDataset><PAMRasterBand band="1">'
        f"<CategoryNames>{categories}</CategoryNames>"
        f'<GDALRasterAttributeTable tableType="thematic">{fields}{rows}</GDALRasterAttributeTable>'
        "</PAMRasterBand></PAMDataset>\n"
    )
