"""What one result found and another did not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.checks import share
from tilevision.errors import RunError
from tilevision.evaluation.matches import matched
from tilevision.findings import Findings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from tilevision.result import Result
    from tilevision.sources import ImageSource

__all__ = ["Comparison", "compare"]

# Okabe–Ito, and a line style each, so that the three are told apart without colour too.
_STYLES = {
    "both": ("#009E73", "solid"),
    "only a": ("#0072B2", "dashed"),
    "only b": ("#D55E00", "dotted"),
}

_MAX_SIDE = 2000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results of one image, side by side.

    Attributes
    ----------
    both_a, both_b : Findings
        What both found, as `a` and as `b` has it; not in the same order.
    only_a, only_b : Findings
        What the other did not find.
    name_a, name_b : str
    source : ImageSource
        The image, for `plot`.
    """

    both_a: Findings
    both_b: Findings
    only_a: Findings
    only_b: Findings
    name_a: str
    name_b: str
    source: ImageSource

    @property
    def agreement(self) -> float:
        """Share of all objects that both found, 0 to 1; NaN where there are none."""
        total = len(self.both_a) + len(self.only_a) + len(self.only_b)
        return len(self.both_a) / total if total else float("nan")

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row an object: in (both, only a, only b), xmin … ymax, label, score."""
        import pandas as pd

        parts = (("both", self.both_a), ("only a", self.only_a), ("only b", self.only_b))
        tables = []
        for name, found in parts:
            columns = dict(zip(("xmin", "ymin", "xmax", "ymax"), found.boxes.T, strict=True))
            tables.append(
                pd.DataFrame({"in": name, **columns, "label": found.labels, "score": found.scores})
            )
        return pd.concat(tables, ignore_index=True)

    def plot(self) -> Figure:
        """Draw the image with what both found, and what only one did, told apart."""
        from matplotlib.collections import PolyCollection
        from matplotlib.figure import Figure as NewFigure

        figure = NewFigure(figsize=(9, 9), layout="constrained")
        axes: Any = figure.subplots()
        width, height = self.source.size
        axes.imshow(self.source.thumbnail(_MAX_SIDE), extent=(0, width, height, 0))
        parts = zip(_STYLES.items(), (self.both_a, self.only_a, self.only_b), strict=True)
        for (name, (colour, line)), found in parts:
            corners = found.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
            axes.add_collection(
                PolyCollection(
                    list(corners),
                    facecolors="none",
                    edgecolors=colour,
                    linestyles=line,
                    label=f"{name}: {len(found):,}",
                )
            )
        axes.legend(loc="upper right")
        axes.set_title(f"a: {self.name_a}, b: {self.name_b}")
        axes.set_axis_off()
        return figure

    def __str__(self) -> str:
        return (
            f"{len(self.both_a):,} in both, {len(self.only_a):,} only in {self.name_a} (a), "
            f"{len(self.only_b):,} only in {self.name_b} (b); {self.agreement:.1%} agree"
        )


def compare(a: Result, b: Result, *, iou: float = 0.5) -> Comparison:
    """Return what one result found and the other did not.

    Parameters
    ----------
    a, b : Result
        Of images of the same size.
    iou : float
        Overlap from which two detections of a class are the same object.

    Raises
    ------
    RunError
        If the images differ in size, or `iou` is not above 0 and at most 1.
    """
    share("iou", iou, zero=False)
    if a.source.size != b.source.size:
        raise RunError(
            f"The images differ in size, {a.source.size} and {b.source.size}; "
            "compare results of the same image."
        )
    rows_a, rows_b = matched(a.findings, b.findings, iou)
    return Comparison(
        both_a=a.findings.take(rows_a),
        both_b=b.findings.take(rows_b),
        only_a=a.findings.take(np.setdiff1d(np.arange(len(a.findings)), rows_a)),
        only_b=b.findings.take(np.setdiff1d(np.arange(len(b.findings)), rows_b)),
        name_a=a.name,
        name_b=b.name,
        source=a.source,
    )
