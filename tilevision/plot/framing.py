"""The frame around the picture of a result: figure, title, note and legend.

Imports matplotlib, so it is loaded only when something is drawn.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from tilevision.display import smaller
from tilevision.errors import RunArgumentError
from tilevision.plot.labels import drawable
from tilevision.plot.wording import Heading, Key

__all__ = ["ResultFigure", "ShownFigure", "figure_of", "frame_axes", "write_around"]

WIDTH, TALLEST, NARROWEST = 9.0, 8.0, 6.0  # inches
MARGIN, LINE, ROW = 0.12, 0.26, 0.21
COLUMN = 2.2  # inches a legend entry takes
WARNING = "#A33600"  # the colour of a failed tile, dark enough to read on white


class ShownFigure(Figure):
    """A figure that a notebook shows without pyplot, as a picture that it can keep."""

    def _repr_jpeg_(self) -> bytes:
        out = BytesIO()
        options = {"quality": 90, "subsampling": 0}
        self.savefig(out, format="jpeg", dpi=self.dpi, pil_kwargs=options)
        return smaller(out.getvalue())

    def _ipython_display_(self) -> None:
        # Where pyplot is loaded, a notebook would keep a PNG besides, which is ten times as large.
        from IPython import display

        show: Any = display.display  # carries no types
        picture = b64encode(self._repr_jpeg_()).decode()
        show({"image/jpeg": picture, "text/plain": repr(self)}, raw=True)


class ResultFigure(ShownFigure):
    """The figure of a result, laid out around its picture."""


def frame_axes(
    target: Figure | Axes | None, size: tuple[int, int], n_lines: int, n_keys: int
) -> Axes:
    """Return the axes to draw on, on a figure laid out around a picture of `size`.

    Raises
    ------
    RunError
        If nothing can be drawn on `target`.
    """
    if isinstance(target, Axes):
        return target
    if isinstance(target, FigureBase):
        return target.add_subplot()
    if target is not None:
        raise RunArgumentError(
            f"{target!r:.80} is nothing to draw on; give a matplotlib Figure or Axes. A file is "
            "written by .savefig of the figure that comes back."
        )
    aspect = size[1] / size[0]
    width = min(WIDTH, TALLEST / aspect)
    height = max(width * aspect, 0.5)
    page = max(width + 2 * MARGIN, NARROWEST)
    rows = -(-n_keys // _columns(page))
    top, bottom = MARGIN + LINE * n_lines, MARGIN + ROW * rows + MARGIN
    figure = ResultFigure(figsize=(page, top + height + bottom), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    full = top + height + bottom
    return figure.add_axes((MARGIN / page, bottom / full, width / page, height / full))


def figure_of(axes: Axes) -> Figure:
    """Return the outermost figure that `axes` are on."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes that can be drawn on are on one
    return figure


def write_around(axes: Axes, heading: Heading, keys: Sequence[Key]) -> None:
    """Write the heading above and the legend below the picture on `axes`."""
    figure = figure_of(axes)
    own = isinstance(figure, ResultFigure)
    page_width, page_height = figure.get_size_inches()
    limit = int(page_width * 13)
    lines = [(heading.title, "bold", "#111111", 11.0)] if heading.title else []
    if heading.note:
        lines.append((heading.note, "normal", WARNING if heading.warning else "#444444", 9.5))
    for row, (text, weight, colour, points) in enumerate(lines):
        style: dict[str, Any] = {
            "fontweight": weight,
            "color": colour,
            "fontsize": points,
            "parse_math": False,
        }
        if own:
            at = (MARGIN / page_width, 1 - (MARGIN / 2 + LINE * (row + 0.5)) / page_height)
            figure.text(at[0], at[1], drawable(text, limit), va="center", **style)
        else:
            lift = 4 + 15 * (len(lines) - 1 - row)
            axes.annotate(drawable(text, limit), (0, 1), (0, lift), xycoords="axes fraction",
                          textcoords="offset points", annotation_clip=False, **style)  # fmt: skip
    _legend(axes, keys, page_width)


def _legend(axes: Axes, keys: Sequence[Key], page_width: float) -> None:
    if not keys:
        return
    legend = axes.legend(
        handles=[_handle(key) for key in keys],
        labels=["-"] * len(keys),  # the words follow below: in a label, "_x" and "$" have a meaning
        ncols=min(_columns(page_width), len(keys)),
        loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=0.6, borderpad=0,
        frameon=False, fontsize=9, handlelength=1.8, handleheight=1.1, columnspacing=1.6,
    )  # fmt: skip
    for text, key in zip(legend.get_texts(), keys, strict=True):
        text.set_parse_math(False)
        text.set_text(key.words)


def _handle(key: Key) -> Line2D | Patch:
    if key.line:
        handle = Line2D([], [], color=key.colour, linewidth=2.2, ls="--" if key.dashed else "-")
        handle.set_path_effects([Stroke(linewidth=4.2, foreground="#303030"), Normal()])
        return handle
    face = to_rgba(key.colour, key.fill)
    return Patch(facecolor=face, edgecolor=key.colour, hatch=key.hatch * 3, linewidth=1.2)


def _columns(page_width: float) -> int:
    return max(1, int(page_width / COLUMN))
