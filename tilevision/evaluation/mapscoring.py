"""How right a map is, pixel by pixel: against classes, and against measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunArgumentError, RunError, SourceError
from tilevision.evaluation.maptruth import MapTruth, map_truth
from tilevision.evaluation.scoretables import html_table, text_table
from tilevision.plot.labels import drawable
from tilevision.rasters.regionmask import Window, mask_within
from tilevision.rasterspec import NODATA

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tilevision.rasters import RasterMap
    from tilevision.regions import Region
    from tilevision.sources import ImageSource

__all__ = ["MapEvaluation", "ValueEvaluation", "evaluate_map"]

_BLOCK = 1024
_LEAST_BLOCK = 32
_MOST_VALUES = 1000  # of truth: more are no classes
_NONE = 254
NO_CLASS = "(none)"
_NAMED = 5
_MEASURES = ("iou", "dice", "precision", "recall")
_WRITTEN = 20  # classes up to which the figure has numbers


@dataclass(frozen=True, eq=False)
class MapEvaluation:
    """How a map of classes compares with what is true of its pixels.

    Pixels of which nothing is known on one side are left out, and counted. Those that the map
    gives to no class (254, by ``thresholds=`` or ``unsure=``) count as missed.

    Attributes
    ----------
    confusion : DataFrame
        Pixels by true class (rows) and class of the map (columns).
    per_class : DataFrame
        One row a class: label, n_true, n_found, iou, dice, precision, recall; NaN where there is
        nothing to divide by.
    mean_iou, mean_dice : float
        Over the classes that are true or found anywhere.
    accuracy : float
        Share of pixels that are right.
    kappa : float
        Agreement beyond chance (Cohen, *A Coefficient of Agreement for Nominal Scales*, 1960).
    n_pixels, without_truth, without_answer : int
        Pixels compared; of which the truth says nothing; of which the map says nothing, though the
        truth does.
    coverage : str
    """

    confusion: pd.DataFrame
    per_class: pd.DataFrame
    mean_iou: float
    mean_dice: float
    accuracy: float
    kappa: float
    n_pixels: int
    without_truth: int
    without_answer: int
    coverage: str = ""

    def __str__(self) -> str:
        return (
            f"mean IoU {self.mean_iou:.3f}, accuracy {self.accuracy:.3f}, kappa {self.kappa:.3f} "
            f"over {self.n_pixels:,} pixels{_left_out(self)}. {self.coverage}".strip()
        )

    def __repr__(self) -> str:
        return f"{self}\n{text_table(self.to_frame())}"

    def to_frame(self) -> pd.DataFrame:
        """Return `per_class`, the most frequent class first, and a last row: their mean."""
        import pandas as pd

        classes = self.per_class.sort_values(["n_true", "n_found"], ascending=False, kind="stable")
        counted = classes[classes["label"] != NO_CLASS]
        mean: dict[str, Any] = {"label": "mean", "n_true": self.n_pixels, "n_found": self.n_pixels}
        mean |= {name: float(counted[name].mean()) for name in _MEASURES}
        return pd.DataFrame([*classes.to_dict("records"), mean], columns=list(mean))

    def _repr_html_(self) -> str:
        return html_table(f"mean IoU {self.mean_iou:.3f}", [str(self)], self.to_frame())

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Draw the confusion matrix: of each true class, the share that the map gives to each.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; None makes a figure.

        Returns
        -------
        Figure
            That holds the drawing.
        """
        from tilevision.plot.framing import ShownFigure, figure_of

        table = self.confusion
        shares = table.to_numpy(np.float64)
        shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)
        across, down = (max(4.0, 0.55 * side + 2.5) for side in shares.shape[::-1])
        if ax is None:
            page = ShownFigure(figsize=(min(across, 16), min(down, 16)), layout="constrained")
            ax = page.subplots()
        axes: Any = ax
        figure = figure_of(axes)
        drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        names = [drawable(name) for name in table.columns]
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.set_xlabel("map")
        axes.set_ylabel("truth")
        axes.set_title(f"mean IoU {self.mean_iou:.3f}, accuracy {self.accuracy:.3f}")
        if max(shares.shape) <= _WRITTEN:
            for (row, column), share in np.ndenumerate(shares):
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour)
        figure.colorbar(drawn, ax=axes, label="share of the true class")
        return figure


@dataclass(frozen=True, eq=False)
class ValueEvaluation:
    """How a map of measures compares with what is true of its pixels.

    Attributes
    ----------
    mae, rmse : float
        Mean of the absolute error, and root of the mean of its square, in `unit`.
    bias : float
        Mean of map minus truth.
    r2 : float
        Share of the truth's variance that the map explains; NaN where the truth has none.
    n_pixels, without_truth, without_answer : int
        As in `MapEvaluation`.
    unit : str
    per_band : DataFrame
        One row a plane of the map: band, n_pixels, mae, rmse, bias, r2.
    coverage : str
    """

    mae: float
    rmse: float
    bias: float
    r2: float
    n_pixels: int
    without_truth: int
    without_answer: int
    unit: str
    per_band: pd.DataFrame
    coverage: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"MAE {self.mae:.4g}{unit}, RMSE {self.rmse:.4g}{unit}, bias {self.bias:+.4g}{unit}, "
            f"R² {self.r2:.3f} over {self.n_pixels:,} pixels{_left_out(self)}. {self.coverage}"
        ).strip()

    __repr__ = __str__

    def to_frame(self) -> pd.DataFrame:
        """Return `per_band`."""
        return self.per_band.copy()

    def _repr_html_(self) -> str:
        shown = self.per_band.to_html(index=False, float_format="{:.4g}".format, max_rows=40)
        return f"<div><p>{escape(str(self))}</p>{shown}</div>"


def _left_out(score: MapEvaluation | ValueEvaluation) -> str:
    parts = [
        f"{count:,} without {what}"
        for count, what in ((score.without_truth, "truth"), (score.without_answer, "an answer"))
        if count
    ]
    return f" ({', '.join(parts)})" if parts else ""


def evaluate_map(
    raster: RasterMap,
    truth: Any,
    image: ImageSource,
    *,
    classes: Mapping[Any, str | None] | None = None,
    region: Region | None = None,
    coverage: str = "",
) -> MapEvaluation | ValueEvaluation:
    """Compare a map with truth for its pixels, block by block.

    Parameters
    ----------
    raster : RasterMap
    truth : array, RasterMap, ImageSource, str or PathLike
        See `map_truth`.
    image : ImageSource
        That the map is of.
    classes : mapping, optional
        Value of the truth to the class that it means; None leaves its pixels out.
    region : Region, optional
        Pixels whose middle is outside count on neither side.
    coverage : str
        How much was analysed.

    Raises
    ------
    SourceError
        If the truth cannot be read, or its classes and the map's never match.
    RunError
        If there is nothing to compare.
    """
    true = map_truth(truth, raster, image)
    try:
        if raster.spec.kind == "values":
            if classes is not None:
                raise RunArgumentError("A map of values has no classes; leave classes out.")
            return _of_values(raster, true, region, coverage)
        if raster.layer != "classes":
            raise RunArgumentError("Shares have no one class; give result, or result.raster.")
        return _of_classes(raster, true, _class_names(classes), region, coverage)
    finally:
        true.close()


def _class_names(classes: Any) -> dict[int, str | None]:
    if classes is None:
        return {}
    try:
        return {int(n): None if name is None else str(name) for n, name in dict(classes).items()}
    except (TypeError, ValueError):
        raise RunArgumentError(
            f"classes is {classes!r:.80}; give {{value of the truth: class of the map}}."
        ) from None


# Classes ------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Counts:
    """Pixels by value of the truth and value of the map."""

    rows: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    without_truth: int = 0

    def add(self, true: NDArray[Any], found: NDArray[np.uint8]) -> None:
        """Count pixels ``(n,)`` of which the truth says something."""
        if true.dtype == np.uint8:
            pairs = np.bincount(true.astype(np.int64) * 256 + found, minlength=65536)
            table = pairs.reshape(256, 256)
            values: Any = np.flatnonzero(table.any(axis=1))
            counts = table[values]
        else:
            values, places = np.unique(true, return_inverse=True)
            if len(values) > _MOST_VALUES:
                raise SourceError(
                    f"The truth holds more than {_MOST_VALUES:,} different values, so they are no "
                    "classes; give a raster of class numbers."
                )
            pairs = np.bincount(places * 256 + found, minlength=256 * len(values))
            counts = pairs.reshape(-1, 256)
        if values.dtype.kind == "f" and not (values == np.floor(values)).all():
            raise SourceError(
                f"The truth holds {float(values[values != np.floor(values)][0]):g}, which is no "
                "class number; give whole numbers."
            )
        for value, row in zip(values.tolist(), counts, strict=True):
            self.rows[int(value)] = self.rows.get(int(value), 0) + row
        if len(self.rows) > _MOST_VALUES:
            self.add(np.arange(_MOST_VALUES + 1), np.zeros(_MOST_VALUES + 1, np.uint8))


def _of_classes(
    raster: RasterMap,
    truth: MapTruth,
    classes: Mapping[int, str | None],
    region: Region | None,
    coverage: str,
) -> MapEvaluation:
    counted, total = _Counts(), 0
    # A number that is declared as a class, on either side, is one, whatever it means elsewhere.
    nodata = None if truth.nodata in classes else truth.nodata
    truth = MapTruth(truth.part, truth.rows, truth.columns, truth.names, nodata)
    for _, inside, found, true in _blocks(raster, truth, region):
        total += int(inside.sum())
        if true is None:
            continue
        values, there = true
        if values.shape[2] != 1:
            raise SourceError(
                f"The truth has {values.shape[2]} bands; that of a map of classes has one."
            )
        known = inside & there
        counted.add(values[..., 0][known], found[0][known])
    skipped = {value for value, name in classes.items() if name is None}
    rows = {value: row for value, row in counted.rows.items() if value not in skipped}
    compared = sum(int(row[:NODATA].sum()) for row in rows.values())
    silent = sum(int(row[NODATA]) for row in rows.values())
    if not compared:
        raise RunError(
            f"There is nothing to compare: of {total:,} pixels {total - silent:,} are without "
            f"truth and {silent:,} without an answer."
        )
    table = _confusion(rows, raster, {**truth.names, **classes})
    return _evaluation(table, total - compared - silent, silent, coverage)


def _confusion(
    rows: Mapping[int, NDArray[np.int64]], raster: RasterMap, told: Mapping[int, str | None]
) -> pd.DataFrame:
    """Return pixels by true class and class of the map, with the same classes on both sides."""
    import pandas as pd

    by_number = {number: name for name, number in raster.classes.items()} | {_NONE: NO_CLASS}
    named = {value: told.get(value) or by_number.get(value) or str(value) for value in rows}
    if not set(named.values()) & set(raster.classes):
        mine = ", ".join(f"{name!r}" for name in list(raster.classes)[:_NAMED])
        theirs = ", ".join(map(repr, list(dict.fromkeys(named.values()))[:_NAMED]))
        raise SourceError(
            f"No class of the map ({mine}) is in the truth, which has {theirs}; say what its "
            "values mean: classes={1: 'tree', …}."
        )
    answers = [n for n, name in by_number.items() if name in raster.classes]
    if any(row[_NONE] for row in rows.values()):
        answers.append(_NONE)
    labels = [by_number[n] for n in answers]
    labels += [name for _, name in sorted(named.items()) if name not in labels]
    labels = list(dict.fromkeys(labels))
    table = np.zeros((len(labels), len(labels)), np.int64)
    for value, row in rows.items():
        for number in answers:
            table[labels.index(named[value]), labels.index(by_number[number])] += row[number]
    return pd.DataFrame(
        table, index=pd.Index(labels, name="truth"), columns=pd.Index(labels, name="map")
    )


def _evaluation(
    confusion: pd.DataFrame, without_truth: int, without_answer: int, coverage: str
) -> MapEvaluation:
    import pandas as pd

    table = confusion.to_numpy(np.float64)
    true, found, right = table.sum(axis=1), table.sum(axis=0), np.diag(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_class = pd.DataFrame(
            {
                "label": list(confusion.index),
                "n_true": true.astype(np.int64),
                "n_found": found.astype(np.int64),
                "iou": right / (true + found - right),
                "dice": 2 * right / (true + found),
                "precision": right / found,
                "recall": right / true,
            }
        )
    known = per_class[per_class["label"] != NO_CLASS]
    total = table.sum()
    by_chance = float((true * found).sum()) / total**2
    accuracy = float(right.sum() / total)
    return MapEvaluation(
        confusion=confusion,
        per_class=per_class,
        mean_iou=float(known["iou"].mean()),
        mean_dice=float(known["dice"].mean()),
        accuracy=accuracy,
        kappa=(accuracy - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan"),
        n_pixels=int(total),
        without_truth=without_truth,
        without_answer=without_answer,
        coverage=coverage,
    )


# Values -------------------------------------------------------------------------------------


@dataclass
class _Sums:
    """Of one plane: errors, and how the truth varies (its mean and squares, joined exactly)."""

    n: int = 0
    absolute: float = 0.0
    squares: float = 0.0
    errors: float = 0.0
    mean: float = 0.0
    spread: float = 0.0

    def add(self, found: NDArray[np.float64], true: NDArray[np.float64]) -> None:
        """Add pixels that are known on both sides."""
        if not len(true):
            return
        error, mean = found - true, float(true.mean())
        apart, n = mean - self.mean, self.n + len(true)
        self.spread += float(((true - mean) ** 2).sum()) + apart**2 * self.n * len(true) / n
        self.mean += apart * len(true) / n
        self.n = n
        self.absolute += float(np.abs(error).sum())
        self.squares += float((error**2).sum())
        self.errors += float(error.sum())

    def row(self, band: int) -> dict[str, Any]:
        """Return what it comes to."""
        n = self.n or float("nan")
        return {
            "band": band,
            "n_pixels": self.n,
            "mae": self.absolute / n,
            "rmse": (self.squares / n) ** 0.5,
            "bias": self.errors / n,
            "r2": 1 - self.squares / self.spread if self.spread else float("nan"),
        }


def _of_values(
    raster: RasterMap, truth: MapTruth, region: Region | None, coverage: str
) -> ValueEvaluation:
    import pandas as pd

    bands = 1 if raster.ndim == 2 else raster.shape[2]
    sums, whole = [_Sums() for _ in range(bands)], _Sums()
    total = silent = 0
    for _, inside, found, true in _blocks(raster, truth, region):
        total += int(inside.sum())
        if true is None:
            continue
        values, there = true
        if values.shape[2] != bands:
            raise SourceError(f"The truth has {values.shape[2]} bands, and the map {bands}.")
        known = inside & there
        answered = known & ~np.isnan(found).any(axis=0)
        silent += int(known.sum() - answered.sum())
        for band, (one, plane) in enumerate(zip(sums, found, strict=True)):
            pair = plane[answered].astype(np.float64), values[..., band][answered].astype(float)
            one.add(*pair)
            whole.add(*pair)
    if not sums[0].n:
        raise RunError(
            f"There is nothing to compare: of {total:,} pixels {total - silent:,} are without "
            f"truth and {silent:,} without an answer."
        )
    told = whole.row(0)
    return ValueEvaluation(
        **{key: told[key] for key in ("mae", "rmse", "bias", "r2")},
        n_pixels=sums[0].n,
        without_truth=total - sums[0].n - silent,
        without_answer=silent,
        unit=raster.unit,
        per_band=pd.DataFrame([one.row(band) for band, one in enumerate(sums)]),
        coverage=coverage,
    )


Truths = tuple[NDArray[Any], NDArray[np.bool_]] | None


def _blocks(
    raster: RasterMap, truth: MapTruth, region: Region | None
) -> Iterator[tuple[Window, NDArray[np.bool_], NDArray[Any], Truths]]:
    """Yield windows, where they count, what the map says ``(k, h, w)``, and what is true.

    So small that neither side takes more memory than a block of the map would.
    """
    side = max(_LEAST_BLOCK, int(_BLOCK / truth.ratio))
    for window in raster.windows(side):
        inside = mask_within(region, window, raster.scale)
        if inside is not None and inside.any():
            yield window, inside, raster.window(*window), truth.window(window)
