"""Parquet: the table of detections with their shapes, for pandas, DuckDB and geopandas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.units import AREA_COLUMNS
from tilevision.exporting.detectionrows import Detection, shaped
from tilevision.exporting.statement import statement
from tilevision.files import as_text

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["write"]

FRAME = "pixels of the full-resolution image, x right, y down, from the top left corner"
# GeoParquet 1.1: geopandas.read_parquet takes the column as shapes. No CRS: these are pixels.
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": [], "crs": None}},
}


def write(result: ResultData, path: Path) -> None:
    """Write one row a detection, in pixels of the full-resolution image.

    Columns: xmin, ymin, xmax, ymax (half-open), label, class_id, score (null where the
    model gives none), area_px2, area_um2 where microns per pixel are known, text and
    attributes and keypoints (JSON) and embedding (a list of float32, all of one length; null where
    a detection has none) where there are such, and geometry (WKB: the outline, else the
    rotated box, else the point of an empty box, else the box). The file's metadata say
    under ``tilevision`` what was not analysed.

    Parameters
    ----------
    result : Result
    path : Path
        A file that is not yet there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = {"tilevision": {"coordinates_in": FRAME, **statement(result)}, "geo": _GEO}
    schema = _schema(result).with_metadata(
        {name: json.dumps(value, ensure_ascii=False) for name, value in said.items()}
    )
    with pq.ParquetWriter(path, schema) as file:
        start = 0
        for chunk, shapes in shaped(result):
            columns = _columns(result, chunk, shapes)
            if (vectors := result.findings.embeddings) is not None:
                columns["embedding"] = _lists(vectors[start : start + len(chunk)])
            start += len(chunk)
            file.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema))


def _schema(result: ResultData) -> Any:
    import pyarrow as pa

    found, number, text = result.findings, pa.float64(), pa.string()
    columns = {"xmin": number, "ymin": number, "xmax": number, "ymax": number, "label": text}
    columns |= {"class_id": pa.int64(), "score": number, "area_px2": number}
    ground = AREA_COLUMNS.get(result.units.area)
    columns |= {ground: number} if ground else {}
    columns |= {"text": text} if found.texts is not None else {}
    columns |= {"attributes": text} if found.attributes is not None else {}
    columns |= {"keypoints": text} if found.keypoints is not None else {}
    if found.embeddings is not None:
        columns |= {"embedding": pa.list_(pa.float32(), found.embeddings.shape[1])}
    return pa.schema([*columns.items(), ("geometry", pa.binary())])


def _lists(vectors: NDArray[Any]) -> Any:
    """Return vectors ``(n, d)`` as lists of one length; null for those that are NaN."""
    import pyarrow as pa

    flat = pa.array(vectors.astype(np.float32).reshape(-1))
    none = pa.array(np.isnan(vectors).any(axis=1))
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=none)


def _columns(result: ResultData, chunk: list[Detection], shapes: Any) -> dict[str, Any]:
    import shapely

    xmin, ymin, xmax, ymax = zip(*(d.box for d in chunk), strict=True)
    columns = {
        "xmin": xmin,
        "ymin": ymin,
        "xmax": xmax,
        "ymax": ymax,
        "label": [d.label for d in chunk],
        "class_id": [d.class_id for d in chunk],
        "score": [d.score for d in chunk],
        "area_px2": [d.area for d in chunk],
        AREA_COLUMNS.get(result.units.area, ""): [d.ground for d in chunk],
        "text": [d.text for d in chunk],
        "attributes": [as_text(d.attributes) for d in chunk],
        "keypoints": [as_text(d.keypoints) for d in chunk],
        "geometry": shapely.to_wkb(shapes),
    }
    names = _schema(result).names
    return {name: columns[name] for name in names if name != "embedding"}
