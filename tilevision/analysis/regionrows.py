"""Regions of a result: what lies in each of them, and the result for another region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.analysis.account import Ground, RunFacts, TileRow
from tilevision.findings import Findings, TileFindings
from tilevision.regions import Region, read_region
from tilevision.status import TileStatus

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from tilevision.analysis.units import Units
    from tilevision.sources import ImageSource

__all__ = ["region_table", "within_region"]


def within_region(
    region: Any,
    source: ImageSource,
    rows: Sequence[TileRow],
    seen: Sequence[TileFindings],
    facts: RunFacts,
) -> tuple[tuple[TileRow, ...], tuple[TileFindings, ...], RunFacts]:
    """Return rows, findings and facts as of a run of `region`; None: of the whole image.

    A tile that was skipped and would not have been is pending: nobody has looked at it.

    Raises
    ------
    GridError, SourceError
        If the region is not understood, or misses the image.
    """
    asked: Region | None = None if region is None else read_region(region, source)
    tiles = [row.tile for row in rows]
    touched = np.ones(len(tiles), bool) if asked is None else asked.touches(tiles)
    marked = tuple(
        replace(row, status=_status(row.status, wanted=bool(wanted)))
        for row, wanted in zip(rows, touched, strict=True)
    )
    inside = {tile for tile, wanted in zip(tiles, touched, strict=True) if wanted}
    kept = tuple(found for found in seen if found.tile in inside)
    return marked, kept, replace(facts, region=asked)


def _status(status: str, *, wanted: bool) -> str:
    if not wanted:
        return TileStatus.SKIPPED
    return TileStatus.PENDING if status == TileStatus.SKIPPED else status


def region_table(
    found: Findings,
    rows: Sequence[TileRow],
    asked: Region | None,
    *,
    size: tuple[int, int],
    units: Units,
    data_share: NDArray[np.float32] | None,
) -> pd.DataFrame:
    """Return one row per region of `asked`; see `ResultData.regions`."""
    import pandas as pd

    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    tiles = [(row.tile, row.status) for row in rows]
    told = []
    for region in (None,) if asked is None else asked.each:
        within = found if region is None else found.take(region.holds(centres))
        touched = np.ones(len(tiles), bool)
        if region is not None:
            touched = region.touches([tile for tile, _ in tiles])
        ground = Ground.of(
            [one for one, wanted in zip(tiles, touched, strict=True) if wanted],
            size=size,
            units=units,
            region=region,
            data_share=data_share,
        )
        density = len(within) * units.areas_per / ground.area if ground.area else np.nan
        name = "image" if region is None else region.name
        told.append((name, len(within), ground.area, density, ground.analysed_share))
    table = pd.DataFrame(
        told, columns=["region", "detections", "area", "density", "analysed_share"]
    )
    table.attrs = {"units": {"area": units.area, "density": f"1/{units.per}"}}
    return table
