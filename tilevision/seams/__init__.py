"""Joins what tiles saw across their seams; the methods others use as well.

Pure: no state, no input or output, and independent of the order of tiles and findings.
"""

from __future__ import annotations

from tilevision.seams.detections import Detections, Sightings
from tilevision.seams.diagnostics import (
    OverlapCheck,
    SeamBias,
    Seams,
    merge_and_check,
    overlap_check,
    overlap_checked,
    saturated_tiles,
    seam_bias,
)
from tilevision.seams.merging import LIMITS, METHODS, MergeSettings, check_merge, merge, merged_by

__all__ = [
    "LIMITS",
    "METHODS",
    "Detections",
    "MergeSettings",
    "OverlapCheck",
    "SeamBias",
    "Seams",
    "Sightings",
    "check_merge",
    "merge",
    "merge_and_check",
    "merged_by",
    "overlap_check",
    "overlap_checked",
    "saturated_tiles",
    "seam_bias",
]
