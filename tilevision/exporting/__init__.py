"""Files that a result leaves in: the suffix decides the format, or its name.

Every file says what was not analysed wherever its format can hold that, and none says
when or by which run it was computed, so that an interrupted and resumed run leaves the
same bytes as a clean one. Files and folders appear whole or not at all, and are written
detection by detection.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilevision.errors import RunError
from tilevision.exporting.folders import check_replaceable
from tilevision.exporting.formats import FORMATS, SUFFIXES, find_format
from tilevision.files import check_folder, drafting, refusing, writing

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData
    from tilevision.sources import ImageMetadata

__all__ = ["FORMATS", "SUFFIXES", "destination", "save"]


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
    qupath               .qupath.geojson          QuPath objects; pixels from the slide's bounds
    gpkg                 .gpkg                    GeoPackage, in the image's own CRS
    parquet              .parquet                 a row per detection, with shapes (GeoParquet)
    coco                 .coco.json               a COCO dataset of this image
    coco-results         .coco-results.json       the list that COCO's evaluation takes
    label-studio         .label-studio.json       a task with predictions; per cent of the sides
    cvat                 .cvat.xml                CVAT for images 1.1
    voc                  .voc.xml                 Pascal VOC, boxes
    heatmap              .heatmap.tif             GeoTIFF of tile probabilities, a band a class
    heatmap-png          .heatmap.png             one class, and a world file (.pgw)
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
    target = Path(path).expanduser()
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
