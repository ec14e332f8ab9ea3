"""The picture that a saved notebook keeps: without a kernel it shows no widgets.

So headline, legend and scale bar, which the page draws around a live picture, are drawn into it.
"""

from __future__ import annotations

import math
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from tilevision.display import smaller
from tilevision.view.notebook import display
from tilevision.view.picture.overlay import Frame

__all__ = ["CaptionedFrame", "Snapshot", "captioned"]

SNAPSHOT_SECONDS = 10.0
SETTLED_SECONDS = 0.3  # after the last frame of a run that is at rest

# Sizes of the drawn text, pixels of a picture with 100 to the inch.
NARROWEST = 480
LINE = 20
MARGIN = 8
_POINTS = 8.5
_LETTER, _BOLD = 6.2, 7.4  # mean width of a letter
_UNITS = ((1e9, "km"), (1e6, "m"), (1e4, "cm"), (1e3, "mm"), (1.0, "µm"), (1e-3, "nm"))
_BAR = 0.22  # of the picture's width at most


@dataclass(frozen=True, slots=True)
class CaptionedFrame:
    """A frame, and what stands around it.

    Parameters
    ----------
    frame : Frame
    caption : dict
        See `tilevision.view.picture.caption.caption`.
    mpp : float
        Microns per full-resolution pixel in the middle of the frame; 0 if unknown.
    """

    frame: Frame
    caption: Mapping[str, Any]
    mpp: float


class Snapshot:
    """A plain picture below the widget, updated from time to time and at the end."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._drawn = float("-inf")
        self._went = False  # whether the latest frame was of what goes on
        self._latest: CaptionedFrame | None = None  # that is still to be drawn
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._drawing = threading.Lock()

    def display(self, text: str) -> None:
        """Add the picture below the current cell."""
        handle = display({"text/plain": text}, raw=True, display_id=True)
        self._handle, self._drawn = handle, float("-inf")

    def update(self, frame: CaptionedFrame, *, now: bool) -> None:
        """Update the picture if it is old; or if `now`, once no other frame follows.

        The first frame of what has just ended is drawn at once.
        """
        old = time.monotonic() - self._drawn > SNAPSHOT_SECONDS
        if self._handle is None or not (now or old):
            self._went = not now
            return
        with self._lock:
            self._latest = frame
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            wait, self._went = now and not self._went, not now
            if wait:  # whoever filters or drags sees the live picture
                self._timer = threading.Timer(SETTLED_SECONDS, self.flush)
                self._timer.name, self._timer.daemon = "tilevision-view-snapshot", True
                self._timer.start()
        if not wait:
            self.flush()

    def flush(self) -> None:
        """Draw what is still to be drawn; from any thread."""
        with self._drawing:
            with self._lock:
                frame, self._latest = self._latest, None
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None
            if frame is None:
                return
            self._drawn = time.monotonic()
            picture = b64encode(smaller(captioned(frame))).decode()
            words = frame.caption["alt"]
            bundle = {"image/jpeg": picture, "text/plain": words}
            self._handle.update(bundle, raw=True, metadata={"image/jpeg": {"alt": words}})


def captioned(captioned_frame: CaptionedFrame) -> bytes:
    """Return a JPEG of the frame with scale bar, and headline, detail and legend below it."""
    from matplotlib.figure import Figure
    from PIL import Image

    frame, caption, mpp = captioned_frame.frame, captioned_frame.caption, captioned_frame.mpp
    with Image.open(BytesIO(frame.jpeg)) as opened:
        picture = opened.convert("RGB")
    width = max(picture.width, NARROWEST)
    rows = [
        _wrapped(caption["headline"], width / _BOLD),
        _wrapped(caption["detail"], width / _LETTER),
    ]
    legend = _placed(caption["legend"], width)
    lines = [line for row in rows for line in row]
    height = MARGIN * 2 + LINE * (len(lines) + (legend[-1][1] + 1 if legend else 0))
    figure = Figure((width / 100, (picture.height + height) / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(picture.height + height, 0))
    axes.set_axis_off()
    axes.imshow(picture, extent=(0, picture.width, picture.height, 0), aspect="auto", zorder=0)
    if mpp > 0:
        _draw_scale_bar(axes, picture.size, mpp * frame.view.width / picture.width)
    y = picture.height + MARGIN + LINE / 2
    for number, line in enumerate(lines):
        bold = "bold" if number < len(rows[0]) else "normal"
        _write(axes, MARGIN, y + number * LINE, line, fontweight=bold)
    y += len(lines) * LINE
    for x, row, entry in legend:
        _draw_key(axes, x, y + row * LINE, entry)
    out = BytesIO()
    figure.savefig(out, format="jpg", pil_kwargs={"quality": 85})
    return out.getvalue()


def _write(axes: Any, x: float, y: float, words: str, **look: Any) -> None:
    # A label is a model's words: no dollar sign in it shall begin a formula.
    axes.text(x, y, words, fontsize=_POINTS, va="center", parse_math=False, **look)


def _draw_key(axes: Any, x: float, y: float, entry: Mapping[str, Any]) -> None:
    """Draw one entry of the legend: a patch of its colour, and its words."""
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {"facecolor": entry["colour"], "edgecolor": entry["colour"]}
    if entry.get("dashed"):  # white on the picture, which is dark around it; the legend is white
        look |= {"facecolor": "none", "edgecolor": "black", "linestyle": "--"}
    axes.add_patch(Rectangle((x, y - 5), 16, 10, hatch=entry.get("hatch") or None, **look))
    ramp = entry.get("ramp") or ()
    for number, colour in enumerate(ramp):  # a colour bar
        left, wide = x + 16 * number / len(ramp), 16 / len(ramp)
        axes.add_patch(Rectangle((left, y - 5), wide, 10, facecolor=colour, edgecolor="none"))
    _write(axes, x + 21, y, entry["words"])


def _draw_scale_bar(axes: Any, size: tuple[int, int], mpp: float) -> None:
    """Draw the longest round length that fits, in the lower right corner, as the page does."""
    from matplotlib.patches import Rectangle

    length, words = round_length(_BAR * size[0] * mpp)
    width = length / mpp
    x, y = size[0] - width - 18, size[1] - 20
    axes.add_patch(Rectangle((x - 9, y - 21), width + 18, 33, facecolor="black", alpha=0.63))
    axes.add_patch(Rectangle((x, y), width, 4, facecolor="white"))
    _write(axes, x + width / 2, y - 9, words, ha="center", color="white", fontweight="bold")


def round_length(most: float) -> tuple[float, str]:
    """Return the longest of 1, 2 and 5 times a power of ten up to `most` µm, and its name."""
    power = 10.0 ** math.floor(math.log10(most))
    length = next(d * power for d in (5, 2, 1) if d * power <= most * 1.0001)
    size, unit = next((one for one in _UNITS if length >= one[0]), _UNITS[-1])
    return length, f"{length / size:.3g} {unit}"


def _wrapped(words: str, letters: float) -> list[str]:
    from textwrap import wrap

    return wrap(words, int(letters) - 2)


def _placed(
    entries: list[Mapping[str, Any]], width: int
) -> list[tuple[float, int, Mapping[str, Any]]]:
    """Return x and row of each entry of the legend, in rows that fit."""
    placed, x, row = [], float(MARGIN), 0
    for entry in entries:
        needed = 35 + _LETTER * len(entry["words"])
        if x > MARGIN and x + needed > width:
            x, row = float(MARGIN), row + 1
        placed.append((x, row, entry))
        x += needed
    return placed
