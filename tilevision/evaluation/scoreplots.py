"""An evaluation drawn: mistakes on the image, precision over recall, classes, confusion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunError
from tilevision.evaluation.matches import matched
from tilevision.evaluation.scoredimage import ScoredImage, one_class
from tilevision.plot.labels import drawable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = ["confusion", "drawn", "drawn_image", "precision_recall"]

# Okabe–Ito, and a line style each, so that the three are told apart without colour too.
_HIT = ("#009E73", "solid", 0.9)
_MISS, _ALARM = ("#56B4E9", "dashed", 2.0), ("#D55E00", "dotted", 2.2)
_MAX_SIDE = 2000
_MOST_CLASSES = 12
_NOTHING = "nothing"


def drawn(
    images: Sequence[ScoredImage],
    name: str | None,
    title: str,
    classes: pd.DataFrame,
    mixed: pd.DataFrame,
) -> Figure:
    """Return the figure of `Evaluation.plot`.

    Parameters
    ----------
    images : sequence of ScoredImage
    name : str, optional
        The image to draw; default: the one with most mistakes.
    title : str
        Of the curve.
    classes, mixed : DataFrame
        Scores by class, the most frequent first, and the table of `confusion`.
    """
    from tilevision.plot.framing import ShownFigure

    figure = ShownFigure(figsize=(13, 8.5), layout="constrained")
    places: Any = [["image", "curve"], ["image", "classes"], ["image", "mixed"]]
    axes = figure.subplot_mosaic(places, width_ratios=(2, 1))
    _draw_image(axes["image"], _chosen(images, name))
    _draw_curve(axes["curve"], images, title)
    _draw_classes(axes["classes"], classes.head(_MOST_CLASSES).iloc[::-1])
    _draw_confusion(axes["mixed"], mixed)
    return figure


def drawn_image(axes: Axes, images: Sequence[ScoredImage], name: str | None) -> Figure:
    """Draw only the image of `drawn`, on `axes`; return the figure that they are on."""
    from tilevision.plot.framing import figure_of

    _draw_image(axes, _chosen(images, name))
    return figure_of(axes)


def precision_recall(images: Sequence[ScoredImage]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return recall and precision as the score threshold falls; empty where no score is known."""
    scores = np.concatenate([one.found.scores[one.counted] for one in images])
    hits = np.concatenate([one.hit_found[one.counted] for one in images])
    n_true = sum(len(one.true) for one in images)
    known = ~np.isnan(scores)
    if not n_true or not known.any():
        return np.empty(0), np.empty(0)
    order = np.argsort(-scores[known], kind="stable")
    right = np.cumsum(hits[known][order])
    return right / n_true, right / np.arange(1, len(right) + 1)


def confusion(images: Sequence[ScoredImage], iou: float) -> pd.DataFrame:
    """Return the table of `Evaluation.confusion`."""
    import pandas as pd

    pairs: Counter[tuple[str, str]] = Counter()
    for one in images:
        pairs.update((str(label), str(label)) for label in one.true.labels[one.hit_true])
        true, found = one.true.take(~one.hit_true), one.found.take(one.counted & ~one.hit_found)
        there, here = matched(one_class(true), one_class(found), iou)
        pairs.update(zip(map(str, true.labels[there]), map(str, found.labels[here]), strict=True))
        pairs.update((str(label), _NOTHING) for label in np.delete(true.labels, there))
        pairs.update((_NOTHING, str(label)) for label in np.delete(found.labels, here))
    seen: Counter[str] = Counter()
    for (true_name, found_name), n in pairs.items():
        seen.update({true_name: n, found_name: n})
    names = [name for name, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))]
    names = [*(name for name in names if name != _NOTHING), _NOTHING]
    counts = [[pairs[row, column] for column in names] for row in names]
    return pd.DataFrame(counts, index=pd.Index(names, name="true"), columns=names)


def _chosen(images: Sequence[ScoredImage], name: str | None) -> ScoredImage:
    if name is None:
        return max(images, key=lambda one: (~one.hit_true).sum() + (~one.hit_found).sum())
    for one in images:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in images[:5])
    raise RunError(f"There is no image {name!r:.80} in this evaluation. It has {names}.")


def _draw_image(axes: Any, one: ScoredImage) -> None:
    from matplotlib.collections import PolyCollection

    width, height = one.source.size
    axes.imshow(one.source.thumbnail(_MAX_SIDE), extent=(0, width, height, 0))
    parts = (
        ("found and true", one.found.take(one.hit_found), _HIT),
        ("missed", one.true.take(~one.hit_true), _MISS),
        ("false alarm", one.found.take(one.counted & ~one.hit_found), _ALARM),
    )
    for words, found, (colour, line, wide) in parts:
        corners = found.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        axes.add_collection(
            PolyCollection(
                list(corners),
                facecolors="none",
                edgecolors=colour,
                linestyles=line,
                linewidths=wide,
                label=f"{words}: {len(found):,}",
            )
        )
    axes.legend(loc="upper right")
    axes.set_title(drawable(one.name), parse_math=False)
    axes.set_axis_off()


def _draw_curve(axes: Any, images: Sequence[ScoredImage], title: str) -> None:
    recall, precision = precision_recall(images)
    if len(recall):
        axes.plot(recall, precision, color="#0072B2", drawstyle="steps-post")
        axes.plot(recall[-1], precision[-1], "o", color="#0072B2")
    else:
        axes.text(0.5, 0.5, "no scores", ha="center", va="center")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_classes(axes: Any, table: pd.DataFrame) -> None:
    places = np.arange(len(table))
    axes.barh(places + 0.2, table["precision"], 0.38, color="#0072B2", label="precision")
    axes.barh(places - 0.2, table["recall"], 0.38, color="#E69F00", label="recall")
    names = [f"{drawable(row.label)} ({row.n_true:,})" for row in table.itertuples()]
    axes.set_yticks(places, names, parse_math=False)
    room = (-0.6, max(len(table), 3) - 0.4)
    axes.set(xlim=(0, 1.02), ylim=room)
    axes.set_title("by class (true objects)", loc="left")
    # Above the bars: within, it covers what it explains.
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
    axes.legend(**above, ncols=2, fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_confusion(axes: Any, table: pd.DataFrame) -> None:
    names = [*table.columns[:-1][:_MOST_CLASSES], _NOTHING]
    counts = table.loc[names, names].to_numpy()
    axes.imshow(counts, cmap="Blues", aspect="auto")
    told = [drawable(name) for name in names]
    places = range(len(names))
    axes.set_xticks(places, told, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(places, told, parse_math=False)
    dark = counts.max(initial=0) / 2
    if len(names) <= _MOST_CLASSES // 2 + 1:
        for (row, column), n in np.ndenumerate(counts):
            axes.text(column, row, f"{n:,}", ha="center", va="center",
                      color="white" if n > dark else "black")  # fmt: skip
    axes.set(xlabel="found", ylabel="true")
