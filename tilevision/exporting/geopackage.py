"""GeoPackage and FlatGeobuf in the image's own CRS, for QGIS, ArcGIS, geopandas and the web."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.units import AREA_COLUMNS, Georeference
from tilevision.errors import RunError
from tilevision.exporting.detectionrows import Detection, shaped
from tilevision.exporting.statement import missing_tiles, statement
from tilevision.files import as_text

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData
    from tilevision.sources import ImageMetadata

__all__ = ["place_of", "write", "write_flatgeobuf"]

LAYER, GAPS = "detections", "not_analysed"
_SETTINGS = {
    # The format keeps a time of change; no file says when it was computed.
    "OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z",
    # A draft need not outlive a crash; it is synced once, when it is whole.
    "OGR_SQLITE_SYNCHRONOUS": "OFF",
}


def write(result: ResultData, path: Path) -> None:
    """Write the layer ``detections``, and where tiles are missing ``not_analysed`` with them.

    Coordinates are x, y of the CRS, in its units. Columns: label, class_id, score (null
    where the model gives none), area_px2 (square pixels of the image), area_m2
    (geodesic; area_um2 where microns per pixel are known), and where there are
    such text and attributes (JSON). The metadata say what was analysed, and how.

    Parameters
    ----------
    result : Result
    path : Path
        A file that is not yet there.

    Raises
    ------
    RunError
        If the image has no CRS and transform, or its CRS is not understood.
    """
    place = place_of(result.source.metadata)
    draft = path.with_suffix(".gpkg")  # GDAL frowns at any other
    try:
        with _gdal(place.crs):
            _write_layers(result, place, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_flatgeobuf(result: ResultData, path: Path) -> None:
    """Write the detections as one layer with a spatial index, which the web reads by its parts.

    Coordinates and columns are those of `write`. The description of the layer says what was not
    analysed, and how. Such a file is written at once, so all shapes are in memory meanwhile.

    Parameters
    ----------
    result : Result
    path : Path
        A file that is not yet there.

    Raises
    ------
    RunError
        If the image has no CRS and transform, or its CRS is not understood.
    """
    import shapely
    from pyogrio.raw import write as write_features

    place = place_of(result.source.metadata)
    said = json.dumps(statement(result), ensure_ascii=False, sort_keys=True)
    parts = [
        (shapely.to_wkb(shapely.transform(shapes, place.to_crs)), _columns(result, chunk))
        for chunk, shapes in shaped(result)
    ] or [(np.empty(0, dtype=object), _columns(result, []))]
    names = list(parts[0][1])
    draft = path.with_suffix(".fgb")  # GDAL goes by it
    try:
        with _gdal(place.crs):
            write_features(
                draft,
                np.concatenate([shapes for shapes, _ in parts]),
                [np.concatenate([columns[name] for _, columns in parts]) for name in names],
                names,
                layer=LAYER,
                driver="FlatGeobuf",
                geometry_type="Unknown",
                crs=place.crs,
                layer_options={"TITLE": result.name, "DESCRIPTION": f"{result.coverage} {said}"},
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def place_of(metadata: ImageMetadata) -> Georeference:
    """Return where an image lies.

    Raises
    ------
    RunError
        If it does not say.
    """
    place = Georeference.of(metadata)
    if place is None:
        raise RunError(
            "The image has no CRS and transform, so this file has no place for it on the map; "
            "save .geojson (pixels) or .parquet."
        )
    return place


def _write_layers(result: ResultData, place: Georeference, path: Path) -> None:
    import shapely

    said = {"tilevision": json.dumps(statement(result), ensure_ascii=False, sort_keys=True)}
    layer = _Layer(path, LAYER, place, {"DESCRIPTION": result.coverage, **said})
    for chunk, shapes in shaped(result):
        layer.append(shapes, _columns(result, chunk))
    if not layer.begun:
        layer.append(np.empty(0, dtype=object), _columns(result, []))
    gaps = missing_tiles(result)
    if gaps:
        boxes = [shapely.box(x0, y0, x1, y1) for x0, y0, x1, y1 in (gap["box"] for gap in gaps)]
        names = np.array([gap["tile"] for gap in gaps], dtype=object)
        _Layer(path, GAPS, place, said, begun=True).append(np.array(boxes), {"tile": names})


class _Layer:
    """A layer that grows by the chunk; `begun` where its file is there already."""

    def __init__(
        self, path: Path, name: str, place: Georeference, said: dict[str, str], begun: bool = False
    ) -> None:
        self.begun = begun
        self._path = path
        self._name = name
        self._place = place
        self._said = said

    def append(self, shapes: NDArray[np.object_], columns: dict[str, NDArray[Any]]) -> None:
        """Write `shapes` ``(n,)``, in pixels, and the `columns` beside them."""
        import shapely
        from pyogrio.raw import write as write_features

        write_features(
            self._path,
            shapely.to_wkb(shapely.transform(shapes, self._place.to_crs)),
            list(columns.values()),
            list(columns),
            layer=self._name,
            driver="GPKG",
            geometry_type="Unknown",
            crs=self._place.crs,
            append=self.begun,
            layer_metadata=self._said,
        )
        self.begun = True


def _columns(result: ResultData, chunk: list[Detection]) -> dict[str, NDArray[Any]]:
    found = result.findings
    columns = {
        "label": np.array([d.label for d in chunk], dtype=object),
        "class_id": np.array([d.class_id for d in chunk], dtype=np.int64),
        "score": np.array([d.score for d in chunk], dtype=np.float64),  # None becomes NaN, null
        "area_px2": np.array([d.area for d in chunk], dtype=np.float64),
    }
    ground = AREA_COLUMNS.get(result.units.area)
    if ground is not None:
        columns[ground] = np.array([d.ground for d in chunk], dtype=np.float64)
    if found.texts is not None:
        columns["text"] = np.array([d.text for d in chunk], dtype=object)
    if found.attributes is not None:
        said = [as_text(d.attributes) for d in chunk]
        columns["attributes"] = np.array(said, dtype=object)
    if found.keypoints is not None:
        columns["keypoints"] = np.array([as_text(d.keypoints) for d in chunk], dtype=object)
    return columns


@contextmanager
def _gdal(crs: str) -> Iterator[None]:
    """Set GDAL up for a draft; turn its errors into one line."""
    import pyogrio
    from pyogrio.errors import CRSError, DataLayerError, DataSourceError

    before = {name: pyogrio.get_gdal_config_option(name) for name in _SETTINGS}
    pyogrio.set_gdal_config_options(_SETTINGS)
    try:
        yield
    except CRSError as error:
        raise RunError(
            f"The image's CRS {crs[:60]} is not understood by GDAL; save pixels with "
            "format='qupath' or .parquet."
        ) from error
    except (DataSourceError, DataLayerError) as error:
        raise RunError(f"Cannot write features: {' '.join(str(error).split())}.") from error
    finally:
        pyogrio.set_gdal_config_options(before)
