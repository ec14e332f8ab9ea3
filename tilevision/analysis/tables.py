"""What the tables say of detections and tiles: class numbers, areas, DataFrames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.analysis.account import TileRow
from tilevision.analysis.units import AREA_COLUMNS, areas
from tilevision.errors import RunArgumentError, RunError
from tilevision.findings import Findings, TileFindings
from tilevision.overlaps import geometries, rectangles
from tilevision.status import TileStatus

if TYPE_CHECKING:
    import pandas as pd

    from tilevision.analysis.units import Units

__all__ = [
    "NO_VECTOR",
    "detection_table",
    "lacking",
    "shapes_of_rows",
    "tile_score_table",
    "tile_table",
]

NO_VECTOR = "No tile of this result has a vector; use an encoder: tv.model(f, returns='embedding')."
_BOX = ("xmin", "ymin", "xmax", "ymax")
_TILE_COLUMNS = [
    *("id", "row", "col", *_BOX, "scale", "status", "attempts"),
    *("seconds", "read_seconds", "infer_seconds", "n_findings", "saturated"),
    *("model", "worker", "error"),
]


def lacking(rows: Sequence[TileRow], said: str) -> RunError:
    """Return the error over what no tile of a result has: `said`, where any was analysed."""
    if not rows or any(TileStatus(row.status).analysed for row in rows):
        return RunError(said)
    why = next((row.error for row in rows if row.error), "")
    return RunError(
        f"No tile of this result was analysed{f' ({why[:200]})' if why else ''}, so there is "
        "nothing to take that from; the same call tries them again."
    )


def detection_table(
    found: Findings,
    numbers: NDArray[np.int64],
    ground: Units,
    said: Mapping[str, Any],
    geometry: str | None = None,
) -> pd.DataFrame:
    """Return one row per detection, with `said` among its ``attrs``; see `Result.to_dataframe`.

    Raises
    ------
    RunError
        If `geometry` is unknown.
    """
    import pandas as pd

    if geometry not in (None, "wkb", "shapely"):
        raise RunArgumentError(f"geometry is {geometry!r:.40}; give 'wkb', 'shapely' or None.")
    columns: dict[str, Any] = dict(zip(_BOX, found.boxes.T, strict=True))
    columns["label"] = found.labels
    columns["class_id"] = numbers
    columns["score"] = found.scores
    columns["area"] = areas(found)
    units = dict.fromkeys(_BOX, "px") | {"area": "px²"}
    name = AREA_COLUMNS.get(ground.area)
    if name:
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        columns[name] = ground.of(centres, columns["area"])
        units[name] = ground.area
    if found.texts is not None:
        columns["text"] = list(found.texts)
    columns |= _coordinates(found) | _flattened(found)
    if geometry is not None:
        shapes = shapes_of_rows(found)
        columns["geometry"] = shapes if geometry == "shapely" else list(shapely.to_wkb(shapes))
    table = pd.DataFrame(columns)
    table.attrs = {"units": units, **said}
    return table


def shapes_of_rows(found: Findings) -> NDArray[np.object_]:
    """Return the shapely geometry of each row ``(n,)``.

    The outline where there is one, else the rotated box, else the point of an empty box, else the
    box.
    """
    shapes = geometries(len(found), found.oriented, found.polygons)
    bare = np.asarray(shapely.is_missing(shapes))
    boxes = found.boxes
    if found.points is not None:
        empty = (boxes[:, 2:] == boxes[:, :2]).any(axis=1)
        points = bare & empty & ~np.isnan(found.points).any(axis=1)
        shapes[points] = shapely.points(found.points[points])
        bare &= ~points
    shapes[bare] = rectangles(boxes[bare])
    return shapes


def _coordinates(found: Findings) -> dict[str, Any]:
    """Return the columns of points, corners of rotated boxes and key points, flat."""
    columns: dict[str, Any] = {}
    if found.points is not None:
        columns |= {"point_x": found.points[:, 0], "point_y": found.points[:, 1]}
    if found.oriented is not None:
        for i in range(4):
            columns |= {f"corner{i}_{axis}": found.oriented[:, i, j] for j, axis in enumerate("xy")}
    if found.keypoints is not None:
        for i in range(found.keypoints.shape[1]):
            for j, name in enumerate(("x", "y", "score")):
                columns[f"keypoint{i}_{name}"] = found.keypoints[:, i, j]
    return columns


def _flattened(found: Findings) -> dict[str, Any]:
    """Return a column for each attribute that any row has; None where a row lacks it."""
    rows = [dict(_leaves(row or {}, "attributes")) for row in found.attributes or ()]
    names = sorted({name for row in rows for name in row})
    return {name: [row.get(name) for row in rows] for name in names}


def _leaves(values: Mapping[str, Any], head: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings under the path to each: ``attributes.size.width``."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{head}.{name}")
        else:
            yield f"{head}.{name}", value


def tile_table(rows: Sequence[TileRow]) -> pd.DataFrame:
    """Return one row per tile; see `Result.tiles`."""
    import pandas as pd

    return pd.DataFrame([_tile_record(row) for row in rows], columns=_TILE_COLUMNS)


def tile_score_table(tile_findings: Sequence[TileFindings]) -> pd.DataFrame:
    """Return one row per classified tile; see `Result.tile_scores`."""
    import pandas as pd

    rows = [
        {"id": seen.tile.id, **dict(zip(_BOX, seen.tile.box.as_tuple(), strict=True))}
        | dict(seen.findings.tile_scores)
        for seen in tile_findings
        if seen.findings.tile_scores
    ]
    return pd.DataFrame(rows, columns=None if rows else ["id", *_BOX])


def _tile_record(row: TileRow) -> tuple[Any, ...]:
    read, infer = (
        np.nan if row.status == TileStatus.RESTORED or value is None else value
        for value in (row.read_seconds, row.infer_seconds)
    )
    tile = row.tile
    return (
        *(tile.id, tile.row, tile.col, *tile.box.as_tuple(), tile.scale),
        *(row.status, row.attempts, read + infer, read, infer),
        *(row.n_findings, row.saturated, row.model, row.worker, row.error),
    )
