"""The formats that a result can be saved in, by name and by suffix."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    voc,
    yolofolder,
)

if TYPE_CHECKING:
    from tilevision.sources import ImageMetadata

__all__ = ["FORMATS", "SUFFIXES", "Format", "find_format"]


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
    """

    suffix: str
    write: Callable[..., None]
    makes: Literal["text", "file", "files", "folder"] = "text"
    needs: str = ""
    extra: str = ""
    keeps: tuple[str, ...] = ()
    suits: Callable[[ImageMetadata], object] | None = None

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


FORMATS: dict[str, Format] = {
    "csv": Format(".csv", spreadsheet.write),
    "json": Format(".json", document.write),
    "geojson": Format(".geojson", geojson.write, suits=geojson.check_place),
    "qupath": Format(".qupath.geojson", geojson.write_qupath),
    "gpkg": Format(".gpkg", geopackage.write, "file", "pyogrio", "geo", suits=geopackage.place_of),
    "parquet": Format(".parquet", parquet.write, "file", "pyarrow", "parquet"),
    "coco": Format(".coco.json", coco.write),
    "coco-results": Format(".coco-results.json", coco.write_results),
    "label-studio": Format(".label-studio.json", labelstudio.write),
    "cvat": Format(".cvat.xml", cvat.write),
    "heatmap": Format(".heatmap.tif", rasters.write_tiff, "file", "rasterio", "geo"),
    "heatmap-png": Format(".heatmap.png", rasters.write_png, "files"),
    "recipe": Format(".recipe.json", recipefile.write),
    "voc": Format(".voc.xml", voc.write),
    "yolo": Format(".yolo", yolofolder.write, "folder", keeps=yolofolder.KEEPS),
    "yolo-obb": Format(".yolo-obb", yolofolder.write_turned, "folder", keeps=yolofolder.KEEPS),
    "yolo-pose": Format(".yolo-pose", yolofolder.write_poses, "folder", keeps=yolofolder.KEEPS),
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
        if name not in FORMATS:
            raise RunArgumentError(
                f"There is no format {name!r}; choose from {', '.join(FORMATS)}."
            )
        return FORMATS[name]
    said = path.name.lower()
    fits = [f for f in FORMATS.values() if said.endswith(f.suffix) and said != f.suffix]
    if not fits:
        raise RunError(
            f"Cannot save to {path}: the suffix decides the format; give one of "
            f"{', '.join(SUFFIXES)}, or format=."
        )
    return max(fits, key=lambda form: len(form.suffix))
