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
from tilevision.seams.merging import LIMITS, METHODS, MergeSettings, merge

__all__ = [
    "LIMITS",
    "METHODS",
    "MergeSettings",
    "OverlapCheck",
    "SeamBias",
    "merge",
    "merge_and_check",
    "overlap_check",
    "seam_bias",
]
