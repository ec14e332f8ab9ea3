"""What a person corrected in a result: objects deleted, added, re-labelled, reshaped, accepted.

Corrections are a layer of their own, in an append-only file beside the tiles' records, which they
never change.
"""

from tilevision.corrections.correctionlayer import (
    Applied,
    CorrectionCounts,
    CorrectionLayer,
    Shown,
    origins,
)
from tilevision.corrections.correctionlog import CorrectionLog, log_path
from tilevision.corrections.editing import Corrections

__all__ = [
    "Applied",
    "CorrectionCounts",
    "CorrectionLayer",
    "CorrectionLog",
    "Corrections",
    "Shown",
    "log_path",
    "origins",
]
