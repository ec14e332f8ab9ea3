"""Classes as formats number them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.tables import class_numbers
from tilevision.findings import Findings

__all__ = ["categories", "category_numbers", "positions"]


def categories(found: Findings) -> dict[str, int]:
    """Return label to number, in the order of the numbers; see `category_numbers`."""
    return category_numbers(found.labels, class_numbers(found))


def category_numbers(labels: NDArray[np.object_], numbers: NDArray[np.int64]) -> dict[str, int]:
    """Return label to number: the model's, or the position where those are ambiguous.

    From 1 on, for some readers of COCO take 0 for the background: a model's numbers that
    begin with 0 are all raised by one.

    Parameters
    ----------
    labels, numbers : array (n,)
        Of each detection.
    """
    pairs = sorted(set(zip(numbers.tolist(), map(str, labels), strict=True)))
    names = sorted({label for _, label in pairs})
    if not len(pairs) == len(names) == len({number for number, _ in pairs}):
        pairs = list(enumerate(names))
    raised = max(1 - pairs[0][0], 0) if pairs else 0
    return {label: number + raised for number, label in pairs}


def positions(numbers: dict[str, int]) -> dict[str, int]:
    """Return label to position 0, 1, …, for formats that number without gaps."""
    return {label: i for i, label in enumerate(numbers)}
