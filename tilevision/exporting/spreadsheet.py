"""CSV: one row per detection, for spreadsheets and data frames.

A comment line would break readers, so what holds of all rows is a column that says it in each:
``incomplete`` how much was not analysed, ``corrected`` what a person corrected by hand; ``origin``
says so of the row itself. Outlines do not fit a row; they are in the JSON, GeoJSON and Parquet.

Where tiles were classified and nothing was detected, the rows are the tiles (`Result.tile_scores`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import repeat
from typing import TYPE_CHECKING, Any, TextIO

from tilevision.analysis.units import AREA_COLUMNS
from tilevision.exporting.detectionrows import Detection, detections
from tilevision.files import as_text

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["write"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(result: ResultData, stream: TextIO, *, guard: bool = True) -> None:
    """Write the header and the rows; coordinates in full-resolution pixels.

    Parameters
    ----------
    result : Result
    stream : text stream
    guard : bool
        True if labels and texts that a spreadsheet would run as a formula get an apostrophe
        in front (OWASP, *CSV Injection*): they are a model's words, and an image can put
        them into its mouth.
    """
    found = result.findings
    if not len(found) and any(seen.findings.tile_scores for seen in result.tile_findings):
        _write_classified(result, stream, guard=guard)
        return
    columns = ["xmin", "ymin", "xmax", "ymax", "label", "class_id", "score", "area"]
    area = AREA_COLUMNS.get(result.units.area, "")
    columns += [area] if area else []
    columns += ["text"] if found.texts is not None else []
    columns += ["attributes"] if found.attributes is not None else []
    columns += ["keypoints"] if found.keypoints is not None else []
    whole = {} if result.complete else {"incomplete": result.coverage}
    origins: Iterable[Any] = repeat("")
    if counts := str(result.correction_counts or ""):
        columns.insert(columns.index("area"), "origin")
        whole["corrected"], origins = counts, result.origins
    table = csv.DictWriter(stream, [*columns, *whole], extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for detection, origin in zip(detections(result), origins, strict=False):  # "" has no end
        row = _row(detection, area) | {"origin": origin} | whole
        table.writerow({name: _guarded(value) for name, value in row.items()} if guard else row)


def _write_classified(result: ResultData, stream: TextIO, *, guard: bool) -> None:
    table = result.tile_scores
    if not result.complete:
        table["incomplete"] = result.coverage
    names = [_guarded(name) if guard else name for name in table.columns]
    table.to_csv(stream, index=False, header=names, lineterminator="\n")


def _row(detection: Detection, area: str) -> dict[str, Any]:
    x0, y0, x1, y1 = detection.box
    attributes = detection.attributes
    return {
        "xmin": x0,
        "ymin": y0,
        "xmax": x1,
        "ymax": y1,
        "label": detection.label,
        "class_id": detection.class_id,
        "score": detection.score,
        "area": detection.area,
        area: detection.ground,
        "text": detection.text,
        "attributes": as_text(attributes),
        "keypoints": as_text(detection.keypoints),
    }


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
