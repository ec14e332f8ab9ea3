"""What one result found and another did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.checks import share
from tilevision.errors import RunError
from tilevision.evaluation.matches import matched
from tilevision.evaluation.scoretables import html_table, no_class_in_both, text_table
from tilevision.findings import Findings
from tilevision.plot.labels import drawable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tilevision.result import Result
    from tilevision.sources import ImageSource

__all__ = ["PARTS", "WORDS", "Comparison", "compare"]

# What both have is pale, so that the differences, in colours of Okabe and Ito, stand out of it.
# A line style each tells the three apart without colour too.
PARTS = {
    "both": ("#C9D1D6", "solid"),
    "only a": ("#56B4E9", "dashed"),
    "only b": ("#E69F00", "dotted"),
}

WORDS = {"both": "in both", "only a": "only in A", "only b": "only in B"}

_HEADS = {
    "label": "class",
    "n_a": "A",
    "n_b": "B",
    "only_a": "only A",
    "only_b": "only B",
    "agreement": "agree",
}
_MAX_SIDE = 2000
_MOST_BARS = 12
_LINE = {"both": 0.9, "only a": 2.0, "only b": 2.2}


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """Two results of one image, side by side.

    Attributes
    ----------
    both_a, both_b : Findings
        What both found, as `a` and as `b` has it; not in the same order.
    only_a, only_b : Findings
        What the other did not find.
    name_a, name_b : str
        What tells the two apart: the image, the model, the grid, a setting or the run.
    source : ImageSource
        The image, for `plot`.
    notes : tuple of str
        What to know before the numbers are trusted, a sentence each.
    a, b : Result
        The two results; `tilevision.explore` shows them in one picture.
    """

    both_a: Findings
    both_b: Findings
    only_a: Findings
    only_b: Findings
    name_a: str
    name_b: str
    source: ImageSource
    a: Result
    b: Result
    notes: tuple[str, ...] = ()

    @property
    def agreement(self) -> float:
        """Share of all objects that both found, 0 to 1; NaN where there are none."""
        return _agreement(len(self.both_a), len(self.only_a), len(self.only_b))

    @property
    def _agree(self) -> str:
        share = self.agreement
        return "neither has an object" if np.isnan(share) else f"{share:.1%} agree"

    def to_frame(self) -> pd.DataFrame:
        """Return one row a class, and a last one for all.

        Columns: label, n_a, n_b, both, only_a, only_b, agreement.
        """
        import pandas as pd

        parts = (self.both_a, self.only_a, self.only_b)
        counts = [Counter(map(str, part.labels)) for part in parts]
        common = sorted(sum(counts, Counter()).items(), key=lambda item: (-item[1], item[0]))
        rows = [_row(label, *(count[label] for count in counts)) for label, _ in common]
        return pd.DataFrame([*rows, _row("all", *map(len, parts))])

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row an object: in (both, only a, only b), xmin … ymax, label, score."""
        import pandas as pd

        tables = []
        for name, found in self._parts().items():
            columns = dict(zip(("xmin", "ymin", "xmax", "ymax"), found.boxes.T, strict=True))
            tables.append(
                pd.DataFrame({"in": name, **columns, "label": found.labels, "score": found.scores})
            )
        return pd.concat(tables, ignore_index=True)

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Draw the image with what both found and what only one did, and the counts by class.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw the image with the three kinds, without the counts by class beside it.
            None makes a figure of both.

        Returns
        -------
        Figure
            That holds the drawing.
        """
        from tilevision.plot.framing import ShownFigure, figure_of

        if ax is not None:
            self._draw_image(ax)
            return figure_of(ax)
        figure = ShownFigure(figsize=(12.5, 8), layout="constrained")
        axes: Any = figure.subplots(1, 2, width_ratios=(3, 1))
        self._draw_image(axes[0])
        self._draw_counts(axes[1])
        return figure

    def _draw_image(self, axes: Any) -> None:
        from matplotlib.collections import PolyCollection

        width, height = self.source.size
        axes.imshow(self.source.thumbnail(_MAX_SIDE), extent=(0, width, height, 0))
        for name, found in self._parts().items():
            colour, line = PARTS[name]
            corners = found.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
            axes.add_collection(
                PolyCollection(
                    list(corners),
                    facecolors="none",
                    edgecolors=colour,
                    linestyles=line,
                    linewidths=_LINE[name],
                    label=f"{WORDS[name]}: {len(found):,}",
                )
            )
        axes.legend(loc="upper right")
        names = f"A: {drawable(self.name_a)}, B: {drawable(self.name_b)}"
        axes.set_title(names, parse_math=False)
        axes.set_axis_off()

    def _draw_counts(self, axes: Any) -> None:
        table = self.to_frame().iloc[:-1].head(_MOST_BARS).iloc[::-1]
        places, so_far = np.arange(len(table)), np.zeros(len(table))
        for name, (colour, _) in PARTS.items():
            counts = table[name.replace(" ", "_")].to_numpy()
            axes.barh(places, counts, left=so_far, color=colour, label=WORDS[name])
            so_far = so_far + counts
        axes.set_yticks(places, [drawable(name) for name in table["label"]], parse_math=False)
        axes.set(xlabel="objects", title="by class", ylim=(-0.6, max(len(table), 5) - 0.4))
        axes.spines[["top", "right"]].set_visible(False)

    def _parts(self) -> dict[str, Findings]:
        return dict(zip(PARTS, (self.both_a, self.only_a, self.only_b), strict=True))

    def __str__(self) -> str:
        line = (
            f"{len(self.both_a):,} in both, {len(self.only_a):,} only in {self.name_a} (A), "
            f"{len(self.only_b):,} only in {self.name_b} (B); {self._agree}"
        )
        return ". ".join([line, *(note.removesuffix(".") for note in self.notes)])

    def __repr__(self) -> str:
        return f"{self}\n{text_table(self.to_frame())}"

    def _repr_html_(self) -> str:
        title = f"A: {self.name_a}, B: {self.name_b}"
        line = (
            f"{len(self.both_a):,} in both, {len(self.only_a):,} only in A, "
            f"{len(self.only_b):,} only in B; {self._agree}."
        )
        lines = [line, *(f"⚠ {note}" for note in self.notes)]
        return html_table(title, lines, self.to_frame().rename(columns=_HEADS))


def compare(a: Result, b: Result, *, iou: float = 0.5) -> Comparison:
    """Return what one result found and the other did not.

    Parameters
    ----------
    a, b : Result
        Of images of the same size.
    iou : float
        Overlap from which two detections of a class are the same object.

    Returns
    -------
    Comparison
        Prints as a table of counts by class, and `Comparison.plot` draws it. In a notebook,
        `tilevision.explore` of it puts both results into one picture.

    Raises
    ------
    RunError
        If the images differ in size, a side is no result, or `iou` is not above 0 and at most 1.
    """
    share("iou", iou, zero=False)
    for side, name in ((a, "a"), (b, "b")):
        if not hasattr(side, "source") or not hasattr(side, "findings"):
            one = "one of its results, by the image's name" if isinstance(side, Mapping) else ""
            raise RunError(
                f"{name} is a {type(side).__name__}; give {one or 'what tv.analyze returned'}. "
                "tv.evaluate compares a result with a list of objects."
            )
    if a.source.size != b.source.size:
        raise RunError(
            f"The images differ in size, {a.source.size} and {b.source.size}; "
            "compare results of the same image."
        )
    if not len(a.findings) and not len(b.findings) and None not in (a.raster, b.raster):
        raise RunError(
            "Both results are maps and have no objects; tv.evaluate(a, b) compares them pixel by "
            "pixel."
        )
    rows_a, rows_b = matched(a.findings, b.findings, iou)
    name_a, name_b = _names(a, b)
    return Comparison(
        both_a=a.findings.take(rows_a),
        both_b=b.findings.take(rows_b),
        only_a=a.findings.take(np.setdiff1d(np.arange(len(a.findings)), rows_a)),
        only_b=b.findings.take(np.setdiff1d(np.arange(len(b.findings)), rows_b)),
        name_a=name_a,
        name_b=name_b,
        source=a.source,
        a=a,
        b=b,
        notes=tuple(_notes(a, b)),
    )


def _agreement(both: int, only_a: int, only_b: int) -> float:
    total = both + only_a + only_b
    return both / total if total else float("nan")


def _row(label: str, both: int, only_a: int, only_b: int) -> dict[str, Any]:
    return {
        "label": label,
        "n_a": both + only_a,
        "n_b": both + only_b,
        "both": both,
        "only_a": only_a,
        "only_b": only_b,
        "agreement": _agreement(both, only_a, only_b),
    }


def _names(a: Result, b: Result) -> tuple[str, str]:
    """Return what tells two results apart: the first of what they have that differs."""
    for name_a, name_b in zip(_told(a), _told(b), strict=True):
        if name_a != name_b and name_a and name_b:
            return name_a, name_b
    return a.name, b.name


def _told(result: Result) -> tuple[str, ...]:
    facts, how = result.facts, result.settings
    least = how.min_score or 0
    return (
        *(result.name, facts.model, facts.grid, f"merge {how.method}", f"min_score {least:g}"),
        "corrected by hand" if str(result.correction_counts or "") else "as the model found it",
        f"run {facts.run_id}" if facts.run_id else "",
    )


def _notes(a: Result, b: Result) -> list[str]:
    """Return what makes objects look as if only one result had them."""
    notes = [
        f"{side} is INCOMPLETE: {result.coverage.removeprefix('INCOMPLETE: ')}"
        for side, result in (("A", a), ("B", b))
        if not result.complete
    ]
    notes += [
        f"{side}: {result.correction_counts}"
        for side, result in (("A", a), ("B", b))
        if result.complete and str(result.correction_counts or "")
    ]
    names = [None if one.facts.region is None else one.facts.region.name for one in (a, b)]
    regions = [None if one.facts.region is None else one.facts.region.geometry for one in (a, b)]
    if regions[0] != regions[1]:
        told = ["the whole image" if name is None else f"the region {name!r}" for name in names]
        notes.append(
            f"A is of {told[0]}, B of {told[1]}; what lies in one of them alone was found by one "
            "alone. Give both the same with_(region=...)."
        )
    if a.source.fingerprint != b.source.fingerprint:
        notes.append("The images differ in content.")
    whose = ("A has", "B has")
    strangers = no_class_in_both(map(str, a.findings.labels), map(str, b.findings.labels), whose)
    if strangers:
        notes.append(f"{strangers} Only objects of one class can be the same.")
    return notes
