"""What the Results tab says of a run that makes a map and finds no objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.errors import CheckpointError
from tilevision.plot import shown

if TYPE_CHECKING:
    from tilevision.rasters import RasterMap

__all__ = ["map_report"]

_COUNTED = 2 * 10**8  # pixels: a larger map takes many seconds to count, so only when asked
_MOST = 30


def map_report(raster: RasterMap, per: str, *, ended: bool) -> dict[str, Any]:
    """Return what is said of a map, in plain JSON types; all text is safe to show.

    Parameters
    ----------
    raster : RasterMap
    per : str
        The unit of large areas, in a word.
    ended : bool
        Whether the run is over: areas are counted once, then.

    Returns
    -------
    dict
        ``head``: a word or two; ``heads``: of the columns; ``rows``: name, colour, and a number
        for each further column, None where there is none; ``more``: how many are not listed.
    """
    values = raster.spec.kind == "values"
    classes = "1 class" if len(raster.classes) == 1 else f"{len(raster.classes):,} classes"
    told: dict[str, Any] = {"head": f"Map of {'values' if values else classes}"}
    told |= {"heads": [], "rows": [], "more": 0}
    if not ended or raster.size[0] * raster.size[1] > _COUNTED:
        return told
    try:
        heads, rows = _values(raster) if values else _classes(raster, per)
    except CheckpointError:  # the summary says so
        return told
    return told | {"heads": heads, "rows": rows[:_MOST], "more": max(len(rows) - _MOST, 0)}


def _classes(raster: RasterMap, per: str) -> tuple[list[str], list[list[Any]]]:
    """Return the area and the share of each class, of all regions together, largest first."""
    table = raster.areas()
    units = raster.units
    plain = {"µm²": "area_um2", "m²": "area_m2"}.get(units.area)
    areas = table["pixels"] / raster.scale**2 if plain is None else table[plain]
    table = table.assign(area=areas / units.areas_per)
    added = table.groupby("class", sort=False)[["pixels", "area"]].sum()
    known = added.drop(index="(no data)", errors="ignore")
    whole = max(int(known["pixels"].sum()), 1)
    ranked = known.sort_values("pixels", ascending=False, kind="stable")
    rows = [
        [shown(name, 60), _colour(raster, name), float(row.area), int(row.pixels) / whole]
        for name, row in zip(ranked.index, ranked.itertuples(), strict=True)
    ]
    if len(known) < len(added):
        rows.append(["(no data)", None, float(added.loc["(no data)", "area"]), None])
    return ["Class", per, "Share"], rows


def _colour(raster: RasterMap, name: str) -> str | None:
    number = raster.classes.get(name)
    if number is None:
        return None
    return "#{:02x}{:02x}{:02x}".format(*raster.palette[number, :3].tolist())


def _values(raster: RasterMap) -> tuple[list[str], list[list[Any]]]:
    """Return mean, least and largest value of each region and band."""
    table = raster.stats()
    unit = f" ({shown(raster.unit, 20)})" if raster.unit else ""
    several = table["band"].nunique() > 1
    rows = [
        [
            shown(f"{row.region}, band {row.band}" if several else row.region, 60),
            None,
            *(float(one) if np.isfinite(one) else None for one in (row.mean, row.min, row.max)),
        ]
        for row in table.itertuples()
    ]
    return ["Region", f"Mean{unit}", f"Least{unit}", f"Most{unit}"], rows
