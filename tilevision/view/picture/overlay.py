"""Frames of a run: the image, its tiles by status and its boxes, as one JPEG.

Pillow puts the layers onto each other: any single thread may draw, and the first picture does not
wait for matplotlib, which draws lines alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.plot import STYLES, TileMap
from tilevision.plot.palette import SENT_ON, rgb
from tilevision.status import TileStatus
from tilevision.view.picture.boxcanvas import BoxCanvas, dashed
from tilevision.view.picture.boxes import BoxLayer
from tilevision.view.picture.heatlayer import TileGroups, TileHeat
from tilevision.view.picture.viewstate import ViewState

__all__ = ["Frame", "Overlay", "Reader"]

WIDEST, TALLEST = 1080, 720  # px of a frame
NARROWEST = 200
QUALITY = 80
BACKGROUND = "#2B2F36"
PLANNED_FILL, PLANNED_EDGE = 20, (255, 255, 255, 200)

# Closed rings (k, 2) of x and y.
Rings = tuple[NDArray[np.float64], ...]
# Returns a box's pixels (h, w, 3) of uint8, at that many pixels per image pixel.
Reader = Callable[[Box, float], NDArray[np.uint8]]
# Returns RGBA (h, w, 4), not premultiplied, over a view; given the largest view, and (w, h).
Cover = Callable[[Box, Box, tuple[int, int]], NDArray[np.uint8] | None]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture.

    Attributes
    ----------
    jpeg : bytes
    view : Box
        Region it shows, full-resolution image pixels; may reach past the image.
    size : tuple of int
        Width and height, pixels.
    beside : bytes
        The same with other boxes, a JPEG; empty for none.
    """

    jpeg: bytes
    view: Box
    size: tuple[int, int]
    beside: bytes = b""


class Overlay:
    """Draws one frame after the other; what did not change is not drawn again.

    Not for use by several threads at once.

    Parameters
    ----------
    size : tuple of int
        Width and height of the image at full resolution.
    read : callable
        ``read(box, scale)`` returns the image's pixels, ``(h, w, 3)`` of uint8.
    """

    def __init__(self, size: tuple[int, int], read: Reader) -> None:
        self.image_size, self._read = size, read
        self.size = frame_size(size)
        self.whole = whole_view(size, self.size)
        self._background = Image.new("RGBA", self.size, BACKGROUND)
        self._view: Box | None = None
        self._tiles: tuple[Tile, ...] | None = None
        self._codes: NDArray[np.uint8] | None = None
        self._heat: tuple[TileHeat | TileGroups, NDArray[np.uint8]] | None = None
        self._outline: tuple[Rings, NDArray[np.uint8]] | None = None
        self._framed: tuple[TileMap, NDArray[np.bool_], NDArray[np.uint8]] | None = None
        self._planned = False
        self._second: BoxCanvas | None = None

    def frame(
        self,
        state: ViewState,
        view: Box | None = None,
        heat: TileHeat | TileGroups | None = None,
        outline: Rings = (),
        opacity: float = 1.0,
        cover: Cover | None = None,
        framed: NDArray[np.bool_] | None = None,
    ) -> Frame:
        """Draw `state`: the whole image or its part `view`, with `heat` if given.

        `view` is fitted to the shape of the frame and to the image. `outline` holds the closed
        rings of the analysed region, in image pixels. `opacity` is that of all over the image but
        `cover`, which returns what lies right upon it. `framed` says which tiles ``(n,)`` were sent
        on to another model.
        """
        view = self._look(view)
        layers = [self._statuses(state), self._boxes.picture(state.boxes)]
        if framed is not None and framed.any():
            layers.insert(1, self._framed_tiles(framed))
        if outline:
            layers.insert(1, self._outlined(outline, view))
        if heat is not None:
            layers.insert(0, self._heated(heat))
        lowest = None if cover is None else cover(view, self.whole, self.size)
        return Frame(self._composed(layers, opacity, lowest), view, self.size)

    def compared(
        self,
        state: ViewState,
        boxes: tuple[BoxLayer, BoxLayer | None],
        view: Box | None = None,
        heat: TileHeat | TileGroups | None = None,
        outline: Rings = (),
        opacity: float = 1.0,
    ) -> Frame:
        """Draw one layer of boxes without the tiles, and a second one as the frame's `beside`.

        The other arguments are those of `frame`; of `state`, only its tiles count.
        """
        view = self._look(view)
        self._statuses(state)
        below = [] if heat is None else [self._heated(heat)]
        if outline:
            below.append(self._outlined(outline, view))
        first, second = boxes
        jpeg = self._composed([*below, self._boxes.picture(first)], opacity)
        beside = b""
        if second is not None:
            if self._second is None:
                self._second = BoxCanvas(view, (self.size[1], self.size[0]))
            beside = self._composed([*below, self._second.picture(second)], opacity)
        return Frame(jpeg, view, self.size, beside)

    def _look(self, view: Box | None) -> Box:
        view = self.whole if view is None else self.settled(view)
        if view != self._view:
            self._show(view)
        return view

    def _statuses(self, state: ViewState) -> NDArray[np.uint8]:
        """Return the tiles by status, painted again where one has changed."""
        if state.tiles is not self._tiles:
            view = self._view or self.whole
            self._map = TileMap(state.tiles, view, (self.size[1], self.size[0]))
            self._tiles, self._codes, self._heat = state.tiles, None, None
        planned = state.planned
        known = self._codes
        if known is None or planned != self._planned or not np.array_equal(known, state.status):
            self._codes, self._planned = state.status, planned
            self._status = self._map.paint(state.status)
            if planned:
                _lift(self._status)
        return self._status

    def _outlined(self, outline: Rings, view: Box) -> NDArray[np.uint8]:
        if self._outline is None or self._outline[0] is not outline:
            self._outline = (outline, dashed(outline, view, self.size))
        return self._outline[1]

    def _framed_tiles(self, framed: NDArray[np.bool_]) -> NDArray[np.uint8]:
        known = self._framed
        if known is None or known[0] is not self._map or not np.array_equal(known[1], framed):
            frames = self._map.frames(framed, SENT_ON.colour)
            self._framed = known = (self._map, framed, frames)
        return known[2]

    def _heated(self, heat: TileHeat | TileGroups) -> NDArray[np.uint8]:
        if self._heat is None or self._heat[0] is not heat:
            self._heat = (heat, heat.paint(self._map.index))
        return self._heat[1]

    def _composed(
        self,
        layers: Sequence[NDArray[np.uint8]],
        opacity: float,
        lowest: NDArray[np.uint8] | None = None,
    ) -> bytes:
        """Return a JPEG of the image under `layers`, and under `lowest`, which has its own."""
        picture = self._background
        if lowest is not None:
            picture = self._under(picture, lowest)
        for layer in layers:
            picture = self._under(picture, layer if opacity == 1 else _fainter(layer, opacity))
        out = BytesIO()
        picture.convert("RGB").save(out, "JPEG", quality=QUALITY)
        return out.getvalue()

    def _under(self, picture: Image.Image, layer: NDArray[np.uint8]) -> Image.Image:
        """Return `picture` under a layer, RGBA (h, w, 4), not premultiplied."""
        above = Image.frombuffer(
            "RGBA", self.size, np.ascontiguousarray(layer), "raw", "RGBA", 0, 1
        )
        return Image.alpha_composite(picture, above)

    def settled(self, view: Box) -> Box:
        """Return the region nearest to `view` that has the frame's shape and lies on the image."""
        whole = self.whole
        width = min(max(view.width, view.height * whole.width / whole.height, 8), whole.width)
        height = width * whole.height / whole.width
        x0 = min(max((view.x0 + view.x1 - width) / 2, whole.x0), whole.x1 - width)
        y0 = min(max((view.y0 + view.y1 - height) / 2, whole.y0), whole.y1 - height)
        return Box(x0, y0, x0 + width, y0 + height)

    def forget(self) -> None:
        """Read the image again for the next frame."""
        self._view = None

    def _show(self, view: Box) -> None:
        """Draw the image under `view`, and drop what was drawn over another view."""
        width, height = self.image_size
        shown = Box(
            max(0, int(view.x0)), max(0, int(view.y0)),
            min(width, int(np.ceil(view.x1))), min(height, int(np.ceil(view.y1))),
        )  # fmt: skip
        scale = min(1.0, self.size[0] / view.width)
        self._background = _placed(self._read(shown, scale), shown, view, self.size)
        self._boxes, self._second = BoxCanvas(view, (self.size[1], self.size[0])), None
        self._view, self._tiles, self._outline = view, None, None


def _placed(pixels: NDArray[np.uint8], shown: Box, view: Box, size: tuple[int, int]) -> Image.Image:
    """Return a picture of `view` with the pixels of `shown` in their place.

    What is enlarged has pixels with sharp edges: they are the image's own.
    """
    picture = Image.new("RGBA", size, BACKGROUND)
    across, down = size[0] / view.width, size[1] / view.height
    left, right = round((shown.x0 - view.x0) * across), round((shown.x1 - view.x0) * across)
    top, bottom = round((shown.y0 - view.y0) * down), round((shown.y1 - view.y0) * down)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    if left >= right or top >= bottom:
        return picture
    height, width = pixels.shape[:2]
    x, y = width / shown.width, height / shown.height
    taken = (
        max((view.x0 + left / across - shown.x0) * x, 0.0),
        max((view.y0 + top / down - shown.y0) * y, 0.0),
        min((view.x0 + right / across - shown.x0) * x, float(width)),
        min((view.y0 + bottom / down - shown.y0) * y, float(height)),
    )
    sharp = across >= 1
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.HAMMING
    there = Image.fromarray(pixels).resize((right - left, bottom - top), method, taken)
    picture.paste(there, (left, top))
    return picture


def _lift(painted: NDArray[np.uint8]) -> None:
    """Make pending tiles of a plan lighter, so that the image can be seen."""
    pending = (painted[..., :3] == rgb(STYLES[TileStatus.PENDING].colour)).all(axis=2)
    fill = painted[..., 3] == round(255 * STYLES[TileStatus.PENDING].fill)
    painted[pending & fill, 3] = PLANNED_FILL
    painted[pending & ~fill] = PLANNED_EDGE


def _fainter(layer: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    # Agg has an opacity of its own for lines, and none for pictures.
    out = layer.copy()
    out[..., 3] = np.round(layer[..., 3] * opacity)
    return out


def frame_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of a frame for an image of `size`; never a sliver."""
    factor = min(WIDEST / size[0], TALLEST / size[1])
    width, height = round(size[0] * factor), round(size[1] * factor)
    return max(width, NARROWEST), max(height, NARROWEST)


def whole_view(size: tuple[int, int], frame: tuple[int, int]) -> Box:
    """Return the smallest region with the frame's shape that contains the image, centred on it."""
    scale = max(size[0] / frame[0], size[1] / frame[1])
    x, y = (frame[0] * scale - size[0]) / 2, (frame[1] * scale - size[1]) / 2
    return Box(-x, -y, size[0] + x, size[1] + y)
