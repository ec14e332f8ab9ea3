"""The widget a live picture is shown in: one message a frame, and where the user looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from tilevision.geometry import Box
from tilevision.view.overlay import Frame

__all__ = ["Canvas"]

_FOLDER = Path(__file__).parent


class Canvas(anywidget.AnyWidget):
    """Shows frames, and tells which region of the image the user wants to see.

    The state is what a page that was reloaded gets again, so a frame is part of it.

    Attributes
    ----------
    frame : bytes
        The picture, a JPEG.
    shown, whole : list of float
        Region that `frame` shows, and the largest that can be: x, y, width, height in
        full-resolution image pixels.
    caption : dict
        See `tilevision.view.caption.caption`.
    viewport : list of float
        Region the user asks for, as `shown`; empty for the whole image. Set by the page.
    """

    # As text: given a path, anywidget listens for changes of the file and never lets a widget go.
    _esm = (_FOLDER / "canvas.js").read_text(encoding="utf-8")
    _css = (_FOLDER / "canvas.css").read_text(encoding="utf-8")

    frame = traitlets.Bytes(b"").tag(sync=True)
    shown = traitlets.List(traitlets.Float(), []).tag(sync=True)
    whole = traitlets.List(traitlets.Float(), []).tag(sync=True)
    caption = traitlets.Dict({}).tag(sync=True)
    viewport = traitlets.List(traitlets.Float(), []).tag(sync=True)

    def show(self, frame: Frame, whole: Box, caption: dict[str, Any]) -> None:
        """Show `frame`, in one message."""
        with self.hold_sync():
            self.frame = frame.jpeg
            self.shown = _corner_and_size(frame.view)
            self.whole = _corner_and_size(whole)
            self.caption = caption

    def wanted(self) -> Box | None:
        """Return the region the user asks for; None for the whole image, or for nonsense."""
        if len(self.viewport) != 4:
            return None
        x, y, width, height = self.viewport
        box = Box(x, y, x + width, y + height)
        return box if box.width > 0 and box.height > 0 else None


def _corner_and_size(box: Box) -> list[float]:
    return [float(box.x0), float(box.y0), float(box.width), float(box.height)]
