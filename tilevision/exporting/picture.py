"""A result as a picture: the image, its tiles, its detections or its heatmap."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tilevision.analysis.heatmap import Heatmap
    from tilevision.result import Result

__all__ = ["plot"]


def plot(result: Result, target: Figure | Axes | None = None, label: str | None = None) -> Figure:
    """Draw the image, its tiles by status and its detections; say what is missing.

    Parameters
    ----------
    result : Result
    target : matplotlib Figure or Axes, optional
        Where to draw; None makes a figure that a notebook shows by itself.
    label : str, optional
        Class whose probability is drawn as a heatmap, where the model classifies tiles.
        Default: where it finds nothing else, the class that varies most.

    Raises
    ------
    RunError
        If there is no such class.
    """
    from tilevision.plot import draw_result

    region, heat = result.facts.region, _heat(result, label)
    title = f"{result.name}: {len(result.findings):,} detections"
    if heat is not None and not len(result.findings):
        title = f"{result.name}: probability of {heat[1]}"
    return draw_result(
        target,
        result.source,
        [(row.tile, row.status) for row in result.rows],
        result.findings,
        title=title,
        note=result.coverage,
        outline=() if region is None else region.outline(),
        heat=heat,
    )


def _heat(result: Result, label: str | None) -> tuple[Heatmap, str] | None:
    classified = any(found.findings.tile_scores for found in result.tile_findings)
    if label is None and (len(result.findings) or not classified):
        return None
    heat = result.heatmap()
    chosen = heat.most_varied if label is None else label
    heat.of(chosen)  # an unknown class is told before anything is drawn
    return heat, chosen
