"""Ground truth as people have it: annotations of one image, or of many, in any usual format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np

from tilevision import checks
from tilevision.errors import ModelError, SourceError, TilevisionError
from tilevision.evaluation import truthformats as formats
from tilevision.evaluation.annotated import Pictured, Truth
from tilevision.evaluation.perimage import divided
from tilevision.evaluation.toolformats import tree, xml
from tilevision.evaluation.truthfolder import folder
from tilevision.files import kind_of
from tilevision.findings import Findings

if TYPE_CHECKING:
    from tilevision.analysis.units import Georeference

# Files of many images, by suffix, and how one is parsed.
_MANY: dict[str, Callable[[Path], Any]] = {
    ".json": formats.json_of,
    ".json.gz": formats.json_of,
    ".csv": formats.csv_of,
    ".xml": tree,
}

_MAY_BE_EMPTY = {".txt"}  # YOLO: an image without objects

__all__ = ["by_image", "preloaded", "read_truth", "truth_of"]

# What the reading of a damaged file may raise.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ParseError)


def read_truth(
    truth: Any,
    image: str | None = None,
    place: Georeference | None = None,
    *,
    size: tuple[int, int] | None = None,
    names: Iterable[str | None] = (),
) -> Findings:
    """Read ground truth as findings of the image, without crowd regions.

    Parameters
    ----------
    truth : Findings, DataFrame, mapping, list, array, str or PathLike
        Findings as they are; a table with columns xmin, ymin, xmax, ymax and, where there
        are classes, label, or of geopandas; COCO, GeoJSON, Label Studio or our own JSON as read
        from a file; an array ``(h, w)`` of object numbers (0 is background; with a single number
        or bool, connected patches are objects); or a file:

        ``.json`` (COCO, COCO results, GeoJSON, Label Studio, LabelMe, VIA 2, ours), ``.geojson``,
        both also compressed (``.geojson.gz``), ``.gpkg``, ``.fgb``, ``.shp``, ``.xml`` (Pascal
        VOC, CVAT for images), ``.csv``, ``.parquet``, ``.txt`` (YOLO; names of classes stand beside
        or above in ``data.yaml``, ``classes.txt`` or ``obj.names``) or its folder, a mask
        (``.png``, ``.tif``, ``.npy``).

        All in pixels of the full-resolution image, except for GeoJSON, GeoPackage, FlatGeobuf and
        Shapefile of an image with `place`, and YOLO and Label Studio, which count in shares of
        the sides.
    image : str, optional
        Name of the image, to choose it where a file has several.
    place : Georeference, optional
        Where the image lies on Earth. GeoJSON is then in the system that its ``crs`` names, else in
        longitude and latitude (RFC 7946), unless it says under ``coordinates_in`` that it is in
        pixels.
    size : tuple of int, optional
        Width and height of the image, for YOLO.
    names : sequence of str, optional
        Class names by number, for files with numbers alone.

    Raises
    ------
    SourceError
        If it is none of these, or a file cannot be read; the message says what is missing.
    """
    return truth_of(truth, Pictured(image, size, place, tuple(names))).objects


def truth_of(truth: Any, pictured: Pictured) -> Truth:
    """Read ground truth of an image, crowd regions included; see `read_truth`.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    read = _read(truth, pictured)
    return replace(read, other=pictured.others[0]) if pictured.others else read


def _read(truth: Any, pictured: Pictured) -> Truth:
    if isinstance(truth, Truth):
        return truth
    if isinstance(truth, Findings):
        return Truth(truth)
    if isinstance(truth, np.ndarray):
        return formats.mask(truth, "the truth", pictured)
    if isinstance(truth, Element):
        return _guarded(lambda: xml(truth, "The truth", pictured), "The truth")
    if isinstance(truth, (Mapping, list)):
        return _guarded(lambda: formats.parsed(truth, "the truth", pictured), "The truth")
    if hasattr(truth, "columns") and hasattr(truth, "to_dict"):
        return _guarded(lambda: formats.table(truth, "the truth", pictured), "The truth")
    if hasattr(truth, "findings"):
        raise SourceError(
            f"The truth is a {type(truth).__name__}; tv.compare(a, b) says where two results "
            "differ, and its .findings are truth where you take it for true."
        )
    if not isinstance(truth, (str, PathLike)):
        raise SourceError(
            f"Truth of type {type(truth).__name__} is not understood; give a file (COCO .json, "
            ".geojson, VOC or CVAT .xml, .csv), a DataFrame or Findings."
        )
    if not str(truth):
        raise SourceError("The path of the truth is empty; give that of a file or a folder.")
    return _file(checks.path("truth", truth, SourceError), pictured)


def _file(path: Path, pictured: Pictured) -> Truth:
    if path.is_dir():
        return _guarded(lambda: folder(path, pictured), str(path))
    reader = formats.READERS.get(kind_of(path))
    if reader is None:
        known = ", ".join(sorted(formats.READERS))
        raise SourceError(f"{path} is no known kind of truth; give {known}, or a YOLO folder.")
    if not path.exists():
        raise SourceError(f"There is no file {path}; check the path of the truth.")
    if kind_of(path) not in _MAY_BE_EMPTY and path.stat().st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes); write the truth again.")
    return _guarded(lambda: reader(path, pictured), str(path))


def _guarded(read: Callable[[], Truth], where: str) -> Truth:
    """Turn whatever a damaged file raises into one line."""
    try:
        return read()
    except ModelError as error:  # of Findings, which do not know where they come from
        what = str(error).split("; ")[0].rstrip(".")  # the rest is for those who write models
        raise SourceError(f"{where} cannot be read as truth: {what}; correct it there.") from error
    except TilevisionError:
        raise
    except Exception as error:
        if not isinstance(error, _DAMAGE):
            raise
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> SourceError:
    if isinstance(error, KeyError):
        what = f"{error} is missing"
    elif isinstance(error, (AttributeError, IndexError, TypeError)):  # Python's words, not ours
        what = "something in it is of another kind than the format has there"
    else:
        what = str(error)
    reason = " ".join(what.split())[:200]
    return SourceError(f"{where} cannot be read as truth: {reason}; check the file.")


def by_image(truth: Any) -> Mapping[str, Any] | None:
    """Return the truth of each image by its stem, where a file or table is of several images.

    Raises
    ------
    SourceError
        If the truth is damaged.
    """
    try:
        return divided(truth)
    except _DAMAGE as error:
        raise _unreadable("The truth", error) from error


def preloaded(truth: Any) -> Any:
    """Return what a file of many images holds, so that it is parsed once; else `truth` itself."""
    if isinstance(truth, (str, PathLike)):
        path = checks.path("truth", truth, SourceError)
        read = _MANY.get(kind_of(path))
        if read is not None and path.is_file():
            try:
                return read(path)
            except (TilevisionError, *_DAMAGE):
                return truth  # told in one line where it is read
    return truth
