"""The widget that shows a live picture: one message per frame, and where the user looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from tilevision.geometry import Box
from tilevision.view.picture.boxes import BoxLayer, hits
from tilevision.view.picture.overlay import Frame

__all__ = ["Canvas"]

_FOLDER = Path(__file__).parent


class Canvas(anywidget.AnyWidget):
    """Shows frames, and says which region of the image the user wants to see.

    A page that is reloaded gets the state again, so the frame is part of it.

    Attributes
    ----------
    frame : bytes
        The picture, a JPEG.
    shown, whole : list of float
        Region that `frame` shows, and the largest that can be: x, y, width, height in
        full-resolution image pixels.
    caption : dict
        See `tilevision.view.picture.caption.caption`.
    beside : bytes
        The same picture with the boxes of another result, a JPEG; empty for none.
    sides : dict
        Of two results that are compared: their ``names``, and the ``way``: ``"differences"``,
        ``"swipe"`` or ``"blink"``, which the page changes by ``{"way": ...}``. Empty for one.
    hits, names : bytes, list of str
        Boxes that have a tooltip; see `tilevision.view.picture.boxes.hits`.
    mpp : float
        Microns per pixel in the middle of the frame, for the scale bar; 0 if unknown.
    regions : list of dict
        Regions of interest: ``name`` and ``parts``, polygons of closed rings in image pixels.
    tools : bool
        Whether regions can be drawn. The page then sends ``{"regions": [...]}`` after a change,
        and ``{"tissue": True}`` for a region that is to be found, ``{"step": 1}`` or ``-1`` for
        another object, and ``{"pause": True}``. Of any canvas it sends ``{"opacity": 0.5}``, and
        ``{"hide": [...]}`` with the keys of classes in the legend.
    correcting : dict
        What can be corrected; see `tilevision.view.correction.correcting`. Empty: nothing.
    busy : bool
        Whether something is being counted: the page says so.
    doing : str
        What else is being done, for the page to say; empty for nothing.
    link : str
        Address of the cluster's dashboard; empty if there is none.
    outline : list of float
        Tile that is marked, as `shown`; empty if there is none.
    chosen : list of float
        Object that is selected, as `shown`; empty if there is none.
    subject : int
        Another number for each run or plan that `frame` shows: pictures of the one before are old.
    viewport : list of float
        Region the user asks for, as `shown`; empty for the whole image. Set by the page, and
        where an object is looked at.
    maps : list of (str, str)
        Layers of the run's map that can be shown, key and words; empty without a map.
    mapped : dict
        ``layer``, a key of `maps` or ``"off"``, and ``opacity``, 0 to 1; empty: the first, as
        usual. Set by the page.
    reading : str
        What the map says where the user clicked last.
    picked : list of float
        Where the user clicked last, x and y in image pixels, and how many clicks there were.
        Set by the page.
    """

    # As text: given a path, anywidget watches the file and keeps every widget in memory.
    _esm = "\n".join(
        (_FOLDER.parent / name).read_text(encoding="utf-8")
        for name in (
            *("drawing/toolbar.js", "drawing/drawing.js", "drawing/aids.js"),
            *("compare/compare.js", "correction/correcting.js"),
            *("picture/legend.js", "picture/canvas.js"),
        )
    )
    _css = (_FOLDER / "canvas.css").read_text(encoding="utf-8")
    # The bar below a map comes first: the module ends with what it exports.
    _esm = "\n".join([(_FOLDER.parent / "mapping/mapbar.js").read_text(encoding="utf-8"), _esm])
    _css = "\n".join([_css, (_FOLDER.parent / "mapping/mapbar.css").read_text(encoding="utf-8")])

    frame = traitlets.Bytes(b"").tag(sync=True)
    beside = traitlets.Bytes(b"").tag(sync=True)
    sides = traitlets.Dict({}).tag(sync=True)
    shown = traitlets.List(traitlets.Float(), []).tag(sync=True)
    whole = traitlets.List(traitlets.Float(), []).tag(sync=True)
    subject = traitlets.Int(0).tag(sync=True)
    caption = traitlets.Dict({}).tag(sync=True)
    hits = traitlets.Bytes(b"").tag(sync=True)
    names = traitlets.List(traitlets.Unicode(), []).tag(sync=True)
    mpp = traitlets.Float(0.0).tag(sync=True)
    regions: Any = traitlets.List([]).tag(sync=True)
    tools = traitlets.Bool(False).tag(sync=True)
    correcting: Any = traitlets.Dict({}).tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    doing = traitlets.Unicode("").tag(sync=True)
    link = traitlets.Unicode("").tag(sync=True)
    outline = traitlets.List(traitlets.Float(), []).tag(sync=True)
    chosen = traitlets.List(traitlets.Float(), []).tag(sync=True)
    viewport = traitlets.List(traitlets.Float(), []).tag(sync=True)
    maps: Any = traitlets.List([]).tag(sync=True)
    mapped: Any = traitlets.Dict({}).tag(sync=True)
    reading = traitlets.Unicode("").tag(sync=True)
    picked = traitlets.List(traitlets.Float(), []).tag(sync=True)

    def show(
        self,
        frame: Frame,
        whole: Box,
        caption: dict[str, Any],
        boxes: BoxLayer,
        mpp: float,
        sides: dict[str, Any] | None = None,
        *,
        subject: int = 0,
    ) -> None:
        """Show `frame`, with tooltips for `boxes`, in one message."""
        rows, names = hits(boxes, frame.view)
        with self.hold_sync():
            self.subject, self.frame = subject, frame.jpeg
            self.beside, self.sides = frame.beside, sides or {}
            self.hits, self.names = rows, names
            self.mpp = mpp
            self.shown = _corner_and_size(frame.view)
            self.whole = _corner_and_size(whole)
            self.caption = caption

    def offer(self, maps: list[tuple[str, str]]) -> None:
        """Offer layers of a map, key and words."""
        told = [list(one) for one in maps]
        if told != self.maps:
            self.maps = told

    def outline_of(self, box: Box | None) -> None:
        """Mark the region `box`, or none."""
        self.outline = [] if box is None else _corner_and_size(box)

    def wanted(self) -> Box | None:
        """Return the region the user asks for; None for the whole image or an invalid region."""
        if len(self.viewport) != 4:
            return None
        x, y, width, height = self.viewport
        box = Box(x, y, x + width, y + height)
        return box if box.width > 0 and box.height > 0 else None


def _corner_and_size(box: Box) -> list[float]:
    return [float(box.x0), float(box.y0), float(box.width), float(box.height)]
