"""Joins what tiles saw across their seams; the methods others use as well.

Pure: no state, no input or output, and independent of the order of tiles and findings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilevision.checks import share
from tilevision.errors import RunArgumentError
from tilevision.findings import Findings, TileFindings
from tilevision.seams.detections import gather
from tilevision.seams.diagnostics import OverlapCheck, SeamBias, overlap_check, seam_bias
from tilevision.seams.joining import group, join
from tilevision.seams.matching import enter, match
from tilevision.seams.suppression import METRICS, fuse, suppress, twice_named

__all__ = ["METHODS", "OverlapCheck", "SeamBias", "merge", "overlap_check", "seam_bias"]

METHODS = ("seam", "nms", "nmm", "wbf", "none")


def merge(
    tile_findings: Sequence[TileFindings],
    method: str = "seam",
    class_agnostic: bool = False,
    match_metric: str = "iou",
    match_threshold: float = 0.5,
    *,
    size: tuple[int, int] | None = None,
) -> Findings:
    """Join the detections of all tiles to the detections of the image.

    ``"seam"`` matches, for every two tiles, what both saw of the zone they share, one to
    one; detections of one tile are never joined. An object that some tile saw whole
    keeps that tile's box (the best such), any other becomes the union of its views.
    ``"nms"``, ``"nmm"`` (greedy) and ``"wbf"`` suppress, unite or average whatever
    overlaps enough, wherever it comes from. ``"none"`` joins nothing. Box, outline, rotated
    box and area of what is merged are of one object; where ``"wbf"`` averages, outlines are
    left out.

    Parameters
    ----------
    tile_findings : sequence of TileFindings
        Each tile once, in any order; findings in the tile's frame.
    method : str
        ``"seam"``, ``"nms"``, ``"nmm"``, ``"wbf"`` or ``"none"``.
    class_agnostic : bool
        True if detections of different classes may be one object, within a tile as well: of what
        one tile saw under several names the best is kept.
    match_metric : str
        ``"iou"`` or ``"ios"`` (of the smaller), for nms, nmm and wbf, and for several names of one
        object. It is measured on outlines, else on rotated boxes, else on boxes; points are
        squares of 12 pixels of the model.
    match_threshold : float
        Overlap from which two are one, above 0, up to 1.
    size : tuple of int, optional
        Width and height of the image in pixels: tile edges inside it cut objects.
        Default: what the tiles span.

    Returns
    -------
    Findings
        Image frame, float64.

    Raises
    ------
    RunError
        If an argument is not among those listed.
    GridError
        If a tile is there twice, or lies outside `size`.
    """
    _check(method, match_metric, match_threshold)
    found = gather(tile_findings, class_agnostic, size)
    if method == "seam" and class_agnostic:
        found = found.without(twice_named(found, match_metric, match_threshold))
    if method == "seam":
        zones = enter(found)
        a, b, alike = match(found, zones)
        return join(found, zones, group(len(found), found.tile, a, b, alike))
    if method == "none":
        return found.findings(np.arange(len(found)))
    return fuse(found, suppress(found, match_metric, match_threshold), method)


def _check(method: str, metric: str, threshold: float) -> None:
    if method not in METHODS:
        raise RunArgumentError(f"merge is {method!r:.80}; choose from {', '.join(METHODS)}.")
    if metric not in METRICS:
        raise RunArgumentError(f"match_metric is {metric!r:.80}; choose from {', '.join(METRICS)}.")
    share("match_threshold", threshold, zero=False)
