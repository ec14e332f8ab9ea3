"""Joins what tiles saw across their seams; the methods others use as well.

Pure: no state, no input or output, and independent of the order of tiles and findings.
"""

from __future__ import annotations

from tilevision.seams.diagnostics import (
    OverlapCheck,
    SeamBias,
    merge_and_check,
    overlap_check,
    seam_bias,
)
from tilevision.seams.merging import LIMITS, METHODS, MergeSettings, check_merge, merge

__all__ = [
    "LIMITS",
    "METHODS",
    "MergeSettings",
    "OverlapCheck",
    "SeamBias",
    "check_merge",
    "merge",
    "merge_and_check",
    "overlap_check",
    "seam_bias",
]
