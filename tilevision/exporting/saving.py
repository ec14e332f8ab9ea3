"""Files that a result leaves in: the suffix decides the format, or its name.

Every file says what was not analysed wherever its format can hold that, and none says
when or by which run it was computed, so that an interrupted and resumed run leaves the
same bytes as a clean one. Files and folders appear whole or not at all, and are written
detection by detection.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tilevision import checks
from tilevision.errors import RunArgumentError, RunError
from tilevision.exporting import (
    coco,
    cvat,
    document,
    geojson,
    geopackage,
    labelstudio,
    parquet,
    rasters,
    recipefile,
    spreadsheet,
    vectorfiles,
    voc,
    yolofolder,
)
from tilevision.exporting.bridges import spatialdataset
from tilevision.exporting.folders import check_replaceable
from tilevision.exporting.maps import mapgeotiff, mapometiff, mapzarr
from tilevision.files import check_folder, drafting, refusing, writing
from tilevision.findings import Findings

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData
    from tilevision.sources import ImageMetadata

__all__ = ["FORMATS", "SUFFIXES", "Format", "destination", "find_format", "save"]


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Parameters
    ----------
    suffix : str
        That stands for it.
    write : callable
        ``write(result, stream, **options)`` for a text, ``write(result, path, **options)``
        otherwise.
    makes : str
        ``"text"``, ``"file"`` (what a library writes), ``"files"`` (several, which it places
        itself) or ``"folder"``.
    needs : str
        A library that does not come with tilevision; empty for none.
    extra : str
        The extra that brings it.
    keeps : tuple of str
        What in a folder is the user's, and stays.
    suits : callable, optional
        Raises RunError where an image with such metadata cannot be saved so.
    lacks : tuple of str
        Columns of detections that it has no place for.
    among : str
        The suffix in a folder of many images, where tools expect another there.
    lists : bool
        Whether a file lists the classes of the run, found in its image or not.
    """

    suffix: str
    write: Callable[..., None]
    makes: Literal["text", "file", "files", "folder"] = "text"
    needs: str = ""
    extra: str = ""
    keeps: tuple[str, ...] = ()
    suits: Callable[[ImageMetadata], object] | None = None
    lacks: tuple[str, ...] = ()
    among: str = ""
    lists: bool = False

    def left_out(self, found: Findings) -> str:
        """Return what of `found` it has no place for, in a line; empty where it holds all."""
        lost = [_WORDS[name] for name in self.lacks if _present(found, name)]
        if not lost:
            return ""
        vectors = " (.parquet for vectors)" if _WORDS["embeddings"] in lost else ""
        return (
            f"{self.suffix} has no place for {', '.join(lost)}: that is left out there; "
            f"save .json to keep everything{vectors}."
        )

    def check(
        self,
        options: Mapping[str, Any] | None = None,
        metadata: ImageMetadata | None = None,
    ) -> None:
        """Make sure that its library is there, that it knows the `options` and suits the image.

        Raises
        ------
        RunError
            In one line: which, and what to do.
        """
        if self.needs and find_spec(self.needs) is None:
            raise RunError(
                f"{self.suffix} needs {self.needs}, which is not installed: "
                f"pip install 'tilevision[{self.extra}]'."
            )
        if self.suits is not None and metadata is not None:
            self.suits(metadata)
        parameters = inspect.signature(self.write).parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        unknown = [name for name in options or () if name not in known]
        if unknown:
            allowed = f"it knows {', '.join(known)}" if known else "it has none"
            raise RunArgumentError(f"{self.suffix} has no option {unknown[0]!r}; {allowed}.")


_WORDS = {
    "polygons": "outlines",
    "oriented": "rotated boxes",
    "points": "points beside boxes",
    "keypoints": "key points",
    "texts": "texts",
    "attributes": "attributes",
    "embeddings": "the vectors of detections",
}
_PLACED = ("points", "embeddings")
_TRAINING = ("polygons", "points", "texts", "attributes", "embeddings")


def _present(found: Findings, name: str) -> bool:
    """Return True if any row has a value; a point that is all of a row is its empty box."""
    column = getattr(found, name)
    if column is None:
        return False
    if isinstance(column, np.ndarray):
        there = np.isfinite(column).reshape(len(column), -1).any(axis=1)
        if name == "points":
            there &= (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
        return bool(there.any())
    return any(column)


FORMATS: dict[str, Format] = {
    # Outlines are not named: nobody expects them in a table of numbers, and their areas are there.
    "csv": Format(".csv", spreadsheet.write, lacks=("oriented", "points", "embeddings")),
    "json": Format(".json", document.write, lacks=("embeddings",)),
    "geojson": Format(".geojson", geojson.write, suits=geojson.check_place, lacks=_PLACED),
    "geojson-gz": Format(
        ".geojson.gz", geojson.write_zipped, "file", suits=geojson.check_place, lacks=_PLACED
    ),
    "qupath": Format(".qupath.geojson", geojson.write_qupath, lacks=_PLACED),
    "qupath-gz": Format(".qupath.geojson.gz", geojson.write_qupath_zipped, "file", lacks=_PLACED),
    "gpkg": Format(
        *(".gpkg", geopackage.write, "file", "pyogrio", "geo"),
        suits=geopackage.place_of,
        lacks=_PLACED,
    ),
    "flatgeobuf": Format(
        *(".fgb", geopackage.write_flatgeobuf, "file", "pyogrio", "geo"),
        suits=geopackage.place_of,
        lacks=_PLACED,
    ),
    "parquet": Format(".parquet", parquet.write, "file", "pyarrow", "parquet", lacks=("points",)),
    "coco": Format(".coco.json", coco.write, lacks=_PLACED, lists=True),
    "coco-results": Format(
        *(".coco-results.json", coco.write_results),
        lacks=("texts", "attributes", *_PLACED),
    ),
    "label-studio": Format(".label-studio.json", labelstudio.write, lacks=("attributes", *_PLACED)),
    "cvat": Format(".cvat.xml", cvat.write, lacks=("attributes", *_PLACED), lists=True),
    "heatmap": Format(".heatmap.tif", rasters.write_tiff, "file", "rasterio", "geo"),
    "heatmap-png": Format(".heatmap.png", rasters.write_png, "files"),
    "embeddings": Format(".embeddings.npz", vectorfiles.write_npz, "file"),
    "embeddings-parquet": Format(
        ".embeddings.parquet", vectorfiles.write_parquet, "file", "pyarrow", "parquet"
    ),
    "embeddings-hdf5": Format(
        ".embeddings.h5", vectorfiles.write_hdf5, "file", "h5py", "embeddings", among=".h5"
    ),
    "anndata": Format(".h5ad", vectorfiles.write_anndata, "file", "anndata", "anndata"),
    "anndata-zarr": Format(
        ".anndata.zarr", vectorfiles.write_anndata_zarr, "folder", "anndata", "anndata"
    ),
    "spatialdata": Format(
        *(".spatialdata.zarr", spatialdataset.write, "folder", "spatialdata", "spatialdata")
    ),
    "map": Format(".tif", mapgeotiff.write, "files", "rasterio", "geo"),
    "map-ome-tiff": Format(".ome.tif", mapometiff.write, "file"),
    "map-ome-zarr": Format(".ome.zarr", mapzarr.write, "folder", "zarr", "zarr"),
    "map-npy": Format(".npy", mapzarr.write_npy, "file"),
    "recipe": Format(".recipe.json", recipefile.write),
    "voc": Format(".voc.xml", voc.write, lacks=("oriented", "keypoints", *_TRAINING)),
    "yolo": Format(
        *(".yolo", yolofolder.write, "folder"),
        keeps=yolofolder.KEEPS,
        lists=True,
        lacks=("oriented", "keypoints", *_TRAINING),
    ),
    "yolo-obb": Format(
        *(".yolo-obb", yolofolder.write_turned, "folder"),
        keeps=yolofolder.KEEPS,
        lists=True,
        lacks=("keypoints", *_TRAINING),
    ),
    "yolo-pose": Format(
        *(".yolo-pose", yolofolder.write_poses, "folder"),
        keeps=yolofolder.KEEPS,
        lists=True,
        lacks=("oriented", *_TRAINING),
    ),
}
SUFFIXES = tuple(sorted(form.suffix for form in FORMATS.values()))


def find_format(path: Path, name: str | None = None) -> Format:
    """Return the format called `name`, else the one that the longest suffix stands for.

    Raises
    ------
    RunError
        If nobody knows it; the message lists those known.
    """
    if name is not None:
        return FORMATS[checks.one_of("format", name, FORMATS)]
    said = path.name.lower()
    fits = [f for f in FORMATS.values() if said.endswith(f.suffix) and said != f.suffix]
    if not fits:
        raise RunError(
            f"Cannot save to {path}: the suffix decides the format; give one of "
            f"{', '.join(SUFFIXES)}, or format=."
        )
    return max(fits, key=lambda form: len(form.suffix))


def save(
    result: ResultData,
    path: str | PathLike[str],
    format: str | None = None,  # noqa: A002  # the word people look for
    **options: Any,
) -> Path:
    """Write `result` to `path`, replacing an earlier export that is there; return the path.

    Unless a line says otherwise, positions are pixels of the full-resolution image, x
    right, y down, counted from the top left corner of the image, to 0.01 px.

    ===================  =======================  ==============================================
    name                 suffix                   what it is
    ===================  =======================  ==============================================
    csv                  .csv                     a row per detection, no outlines
    json                 .json                    everything
    geojson              .geojson                 degrees (WGS84) where the image has CRS and
                                                  transform, else as qupath
    geojson-gz           .geojson.gz              the same, compressed
    qupath               .qupath.geojson          QuPath objects; pixels from the slide's bounds
    qupath-gz            .qupath.geojson.gz       the same, compressed
    gpkg                 .gpkg                    GeoPackage, in the image's own CRS
    flatgeobuf           .fgb                     FlatGeobuf, in the image's own CRS
    parquet              .parquet                 a row per detection, with shapes (GeoParquet)
    coco                 .coco.json               a COCO dataset of this image
    coco-results         .coco-results.json       the list that COCO's evaluation takes
    label-studio         .label-studio.json       a task with predictions; per cent of the sides
    cvat                 .cvat.xml                CVAT for images 1.1
    voc                  .voc.xml                 Pascal VOC, boxes
    heatmap              .heatmap.tif             GeoTIFF of tile probabilities, a band a class
    heatmap-png          .heatmap.png             one class, and a world file (.pgw)
    embeddings           .embeddings.npz          vectors of the tiles, their ids and boxes
    embeddings-parquet   .embeddings.parquet      the same as a table
    embeddings-hdf5      .embeddings.h5           features and coords, as TRIDENT and CLAM
                                                  read them
    anndata              .h5ad                    AnnData: vectors in X, obsm["spatial"]
    anndata-zarr         .anndata.zarr            the same as a folder (Zarr)
    spatialdata          .spatialdata.zarr        SpatialData: shapes, tables, tiles, map
    map                  .tif                     the map as a cloud-optimised GeoTIFF
    map-ome-tiff         .ome.tif                 the map as a pyramid, for QuPath
    map-ome-zarr         .ome.zarr                a folder: OME-Zarr 0.5
    map-npy              .npy                     the map as a NumPy array
    recipe               .recipe.json             how to do it again: see `tilevision.recipe`
    yolo, yolo-obb       .yolo, .yolo-obb         a folder; shares of the sides, 0 to 1
    yolo-pose            .yolo-pose               the same with key points
    ===================  =======================  ==============================================

    Parameters
    ----------
    result : Result
    path : str or PathLike
        A file; a folder for yolo and yolo-obb.
    format : str, optional
        Name of the format. Default: by the suffix.
    **options
        What the format knows besides: see the ``write`` of its module.

    Raises
    ------
    RunError
        If the format is unknown, its library missing, an option makes no sense, or the file
        cannot be written.

    Warns
    -----
    UserWarning
        If the format has no place for some of what was found, as outlines or key points.
    """
    target = destination(path, format, result.source.metadata)
    form = find_format(target, format)
    form.check(options)
    if form.makes == "text":
        with writing(target) as stream:
            form.write(result, stream, **options)
    elif form.makes == "file":
        with drafting(target) as draft:
            form.write(result, draft, **options)
    else:
        form.write(result, target, **options)
    lost = form.left_out(result.findings) if form.lacks else ""
    if lost:
        warnings.warn(lost, stacklevel=3)  # where `Result.save` was called
    return target


def destination(
    path: str | PathLike[str],
    format: str | None = None,  # noqa: A002  # as `save` calls it
    metadata: ImageMetadata | None = None,
) -> Path:
    """Return `path` if a result (of an image with such `metadata`) could be saved there now.

    Raises
    ------
    RunError
        If the format is unknown, its library missing or the image none for it, or the folder
        is missing, not writable or, for a format that is a folder, holds something else.
    """
    target = checks.path("path", path)
    form = find_format(target, format)
    form.check(metadata=metadata)
    if form.makes == "folder":
        check_replaceable(target, form.keeps)
        return target
    with refusing(target):
        if target.is_dir():
            raise RunError(f"Cannot save to {target}: it is a folder; give the name of a file.")
        check_folder(target.parent)
    return target
