"""How right a result is: against ground truth, and against another result."""

from tilevision.evaluation.comparison import Comparison, compare
from tilevision.evaluation.mapscoring import MapEvaluation, ValueEvaluation
from tilevision.evaluation.scoring import Evaluation, evaluate
from tilevision.evaluation.truth import read_truth

__all__ = [
    "Comparison",
    "Evaluation",
    "MapEvaluation",
    "ValueEvaluation",
    "compare",
    "evaluate",
    "read_truth",
]
