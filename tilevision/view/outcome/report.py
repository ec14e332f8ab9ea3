"""What the Results tab says: counts, densities, regions, what is missing, checks and texts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from tilevision.analysis.resultdata import ENOUGH_FOR_BIAS
from tilevision.analysis.units import sparse
from tilevision.plot import class_colours, shown
from tilevision.result import Result
from tilevision.status import TileStatus
from tilevision.view.outcome.histograms import area_histogram, score_histogram
from tilevision.view.outcome.mapreport import map_report
from tilevision.view.picture.viewstate import ViewState

__all__ = ["charts_of", "report_of"]

MOST_CLASSES = 30
MOST_REGIONS = 200
MOST_TEXT = 4000


def report_of(result: Result, state: ViewState, subject: str) -> dict[str, Any]:
    """Return what is said of `result`, in plain JSON types; all text is safe to show.

    Parameters
    ----------
    result : Result
        As it is filtered.
    state : ViewState
        Of the run, as it was before `result` was looked up.
    subject : str
        What is shown, such as the name of the run.

    Returns
    -------
    dict
        ``subject``; ``total``; ``merged``: whether the run is still going; ``area``, ``per`` and
        ``unit``: words for the analysed area, the units of densities and of the regions' areas;
        ``density``; ``classes``: rows of name, colour, count, density, share; ``more``: how many
        classes are not listed;
        ``map``: of a run that makes a map and finds no objects, see `map_report`, else None;
        ``regions``: rows of name, count, area, density, analysed share; ``missing``: sentences;
        ``checks``: rows of whether it is well, title, words, advice; ``summary``; ``methods``.
    """
    facts, found = result.digest, result.findings
    units, area = result.units, facts.ground[0]
    scale = units.areas_per / area if area else 0.0
    density, per = sparse(len(found) * scale, units.per)
    if per != units.per:
        scale = density / len(found)
    unit, size = units.large(area)
    counts = Counter(map(str, found.labels)).most_common()
    colours = class_colours(label for label, _ in counts)
    ended = state.at_rest
    return {
        "subject": shown(subject, 80),
        "total": len(found),
        "going": not ended,
        "area": units.in_words(area),
        "per": units.short if per == units.per else per,
        "unit": unit,
        "density": density,
        "classes": [
            [shown(label, 60) or "(no name)", colours[label], n, n * scale, n / len(found)]
            for label, n in counts[:MOST_CLASSES]
        ],
        "more": max(len(counts) - MOST_CLASSES, 0),
        "map": _map(result, ended=ended),
        "regions": _regions(result, size, scale * area),
        "missing": _missing(result, state),
        "checks": _checks(result),
        "summary": shown(result.summary, MOST_TEXT) if ended else "",
        "methods": shown(result.methods(), MOST_TEXT) if ended and result.run_id else "",
    }


def charts_of(everything: Result) -> dict[str, Any]:
    """Return the distributions of ``score`` and ``area`` of all objects, whatever the limits."""
    found = everything.findings
    return {
        "score": score_histogram(found.scores),
        "area": area_histogram(everything.areas, everything.units.area),
    }


def _map(result: Result, *, ended: bool) -> dict[str, Any] | None:
    if len(result.findings) or result.raster is None:
        return None
    return map_report(result.raster, result.units.short, ended=ended)


def _regions(result: Result, size: float, per: float) -> list[list[Any]]:
    """Return what lies in each region: `size` and `per` are the units of areas and densities."""
    if result.facts.region is None:
        return []
    return [
        [
            shown(row.region, 60),
            int(row.detections),
            float(row.area) / size,
            None if np.isnan(row.density) else float(row.density) * per / result.units.areas_per,
            float(row.analysed_share),
        ]
        for row in result.regions.head(MOST_REGIONS).itertuples()
    ]


def _missing(result: Result, state: ViewState) -> list[str]:
    """Return one sentence on each kind of tile that was not analysed, and on what to do."""
    counts = Counter(row.status for row in result.rows)
    told = []
    if state.at_rest and not result.complete:
        told.append(result.coverage)
    if counts[TileStatus.FAILED]:
        n = counts[TileStatus.FAILED]
        first = "" if n == 1 else f"{n:,} tiles failed. The first: "
        told.append(f"{first}{shown(result.first_failure, 300)} Retry failed tries them again.")
    if state.at_rest and not state.planned and counts[TileStatus.PENDING]:
        n = counts[TileStatus.PENDING]
        tiles = "1 tile has" if n == 1 else f"{n:,} tiles have"
        told.append(f"{tiles} not been run. Press Run: what is stored costs nothing.")
    if counts[TileStatus.SKIPPED]:
        n = counts[TileStatus.SKIPPED]
        tiles = "1 tile lies" if n == 1 else f"{n:,} tiles lie"
        # Of a region that was drawn later, the run has analysed them.
        why = "skipped, as was asked" if state.n_skipped else "not counted"
        told.append(f"{tiles} outside the region: {why}.")
    return told


def _checks(result: Result) -> list[list[Any]]:
    """Return rows of whether it is well, what was looked at, what was seen, and what to do."""
    hand = _by_hand(result)
    if len(result.tile_findings) < 2 or not len(result.findings):
        return hand
    overlap = result.overlap_check
    rows = [*hand, _bias(result)] if len(result.findings) >= ENOUGH_FOR_BIAS else hand
    size = overlap.size
    words = (
        f"95% of the objects are up to {size}, tiles overlap by {overlap.overlap:,.0f} px; "
        f"{overlap.never_whole:.1%} of the objects are whole in no tile."
    )
    advice = f"Set {overlap.remedy} in Setup." if overlap.remedy else ""
    rows.append([overlap.enough, "Overlap", words, advice])
    n = len(overlap.saturated)
    tiles = "1 tile gave" if n == 1 else f"{n:,} tiles gave"
    words = f"{tiles} as many detections as the model can give." if n else "No tile was full."
    advice = "Use smaller tiles in Setup, or raise the model's max_detections." if n else ""
    rows.append([not n, "Saturation", words, advice])
    return rows


def _by_hand(result: Result) -> list[list[Any]]:
    counts = result.correction_counts
    if counts is None or not str(counts):
        return []
    advice = (
        "They belong to another model or merge; draw them again, or undo." if counts.lost else ""
    )
    words = str(counts).removeprefix("Corrected by hand: ")
    return [[not counts.lost, "Corrected by hand", words, advice]]


def _bias(result: Result) -> list[Any]:
    bias = result.seam_bias
    words = str(bias).partition("seam bias")[2].strip(" :")
    words = f"{words[:1].upper()}{words[1:]}."
    advice = ""
    if bias.low > 0:
        remedy = "raise the overlap in Setup"
        if result.settings.method != "seam":
            remedy = f"use the merge 'seam', or {remedy}"
        advice = f"Objects may count twice at seams: {remedy}."
    elif bias.high < 0:
        advice = "Objects are lost at seams: raise the overlap in Setup."
    return [not bias.visible, "Seam bias", words, advice]
