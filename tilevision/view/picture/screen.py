"""The screen: a thread that draws the events of a run, during cells and after them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tilevision.analysis.units import pixel_width
from tilevision.colouring import choose, load_colours
from tilevision.errors import TilevisionError
from tilevision.events import Event
from tilevision.geometry import Box
from tilevision.plot import shown
from tilevision.routing import last_label, sent_on
from tilevision.sources import ImageSource, ReadOptions, display_options, read_shown
from tilevision.view.jobs import JobQueue
from tilevision.view.mapping.mapchoice import class_key
from tilevision.view.mapping.mappainter import MapPainter
from tilevision.view.picture.boxes import BoxLayer, LayerMix
from tilevision.view.picture.canvas import Canvas
from tilevision.view.picture.caption import Counted, alt_text, caption, key_of, region_words
from tilevision.view.picture.overlay import Overlay
from tilevision.view.picture.snapshot import CaptionedFrame
from tilevision.view.picture.subject import PlannedRun, Watched
from tilevision.view.picture.viewstate import ViewState, fold, initial

__all__ = ["Screen"]

FRAME_SECONDS = 0.15  # a commit shows within 300 ms: this, drawing a frame, and sending it
BLANK = 128

_log = logging.getLogger("tilevision.view")


@dataclass(slots=True, eq=False)
class _Scene:
    """One run as it is shown; other threads add to `events`, and put in what was counted."""

    run: Watched
    name: str
    overlay: Overlay
    outline: tuple[Any, ...]  # of the region
    region: str
    sent_on: dict[str, str]  # models that a cascade gives tiles to, and why
    state: ViewState
    clock: Callable[[], float]
    events: deque[Event] = field(default_factory=deque)
    leave: Callable[[], None] = lambda: None
    number: int = 0  # of the scenes of a screen
    counted: Counted | None = None
    counted_for: Any = None

    @property
    def final(self) -> bool:
        """Return True if what was counted is what the state has."""
        return bool(self.counted_for == self.state.version)


class Screen:
    """Shows one run after the other in a `Canvas`.

    Its thread exists while there is something to draw: until the run has ended, and again
    when the user zooms or the run is resumed.

    Parameters
    ----------
    on_frame : callable
        ``on_frame(state, frame)`` after each frame, on the drawing thread.
    """

    def __init__(self, on_frame: Callable[[ViewState, CaptionedFrame], None]) -> None:
        self.canvas: Any = Canvas()
        self.frames = 0
        self.outlines = True  # of the run's region; False where the canvas draws regions itself
        self._opacity = 1.0
        self._hidden: frozenset[str] = frozenset()  # keys of classes
        self._way = "differences"  # how two results are compared
        self._seen: tuple[Any, ...] = (None, None, None)
        self._on_frame = on_frame
        self._scene: _Scene | None = None
        self._mix = LayerMix()
        self._source: ImageSource | None = None
        self._options: tuple[ImageSource, ReadOptions] | None = None
        self._width: tuple[ImageSource, Callable[[float, float], float] | None] | None = None
        self._fault = self._colour_fault = ""
        self.folder: Any = None  # in which colours of classes are kept
        self.on_colour: Callable[[], None] = lambda: None  # called when one was changed
        self._map = MapPainter(self.poke)
        self._readings = JobQueue("tilevision-view-reading", _log.warning)
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # what was counted of one run is not drawn of the next
        self._news = threading.Event()
        self._drawn = threading.Event()  # since something was counted
        self._thread: threading.Thread | None = None
        self._open = True
        self.canvas.observe(lambda _: self.poke(), names="viewport")
        self.canvas.observe(lambda change: self._choose_map(change["new"]), names="mapped")
        self.canvas.observe(lambda change: self._read_map(change["new"]), names="picked")
        self.canvas.on_msg(self._heard)

    @property
    def state(self) -> ViewState | None:
        """The state of the run in the last frame; None before there is a run."""
        return None if self._scene is None else self._scene.state

    @property
    def run(self) -> Watched | None:
        """The run or plan that is shown."""
        return None if self._scene is None else self._scene.run

    @property
    def view(self) -> Box | None:
        """The part of the image that is looked at, or will be in a moment; None before a frame."""
        asked: Box | None = self.canvas.wanted()
        if asked is None and self._scene is not None:
            asked = self._scene.overlay.whole
        return asked

    @property
    def text(self) -> str:
        """The picture in one sentence."""
        scene = self._scene
        if scene is None:
            return "no run yet"
        final = scene.final
        return alt_text(scene.state, scene.name, scene.counted, final=final)

    def show(self, run: Watched, clock: Callable[[], float] = time.time) -> None:
        """Show `run` from now on.

        Parameters
        ----------
        run : Watched
        clock : callable
            Returns the time that the picture shows, seconds since the epoch.
        """
        self.read_colours()
        before = self._scene
        size, region = run.source.size, getattr(run, "region", None)
        asked = getattr(run, "routing", None) or run.model
        overlay = before.overlay if before and before.overlay.image_size == size else None
        scene = _Scene(
            run=run,
            name=f"{run.name}, {run.model.name}",
            overlay=overlay or Overlay(size, self._read),
            outline=() if region is None else region.outline(),
            region="" if region is None else region_words(region, run.source),
            sent_on=sent_on(asked),
            state=initial(
                run.tiles, planned=isinstance(run, PlannedRun), last_model=last_label(asked)
            ),
            clock=clock,
            number=before.number + 1 if before else 1,
        )
        if before is not None:
            before.leave()
            if before.run.source.fingerprint != run.source.fingerprint:
                self.canvas.viewport = []  # a part of one image means nothing in another
                if overlay:
                    overlay.forget()
        self.canvas.reading = ""

        def listen(event: Event) -> None:
            scene.events.append(event)
            self.poke()

        scene.leave = run.subscribe(listen)
        # Events since then come after the snapshot, perhaps twice: the fold allows that.
        scene.events.extendleft(reversed(run.events()))
        with self._turn:
            self._scene = scene
            self._map.update(run, None)
        self.poke()

    def read_colours(self) -> None:
        """Take the colours of classes that are kept in the folder."""
        self._colour_fault = ""
        try:
            load_colours(self.folder)
        except TilevisionError as error:
            self._colour_fault = str(error)

    def count(self, run: Watched | None, counted: Counted | None, version: Any) -> None:
        """Draw these detections instead of those of the single tiles; None: those of the tiles.

        Nothing, where `run` is not shown any more. `version` is `ViewState.version` of the run as
        it was when they were counted.
        """
        with self._turn:
            scene = self._scene
            if scene is None or scene.run is not run:
                return
            scene.counted, scene.counted_for = counted, version
            self._drawn.clear()
            self._map.update(run, None if counted is None else counted.maps)
        self.poke()

    def await_frame(self, seconds: float) -> None:
        """Wait until what was counted last is drawn, at most so long."""
        self._drawn.wait(seconds)

    def show_none(self) -> None:
        """Say that there is no image, unless one is shown: nothing is starting any more."""
        if self._scene is None:
            self.canvas.caption = {"headline": "No image to show"}

    def working(self, yes: bool) -> None:
        """Say that something is being counted, or no longer."""
        if self._open:
            self.canvas.busy = yes

    def look_at(self, box: Box, side: float) -> None:
        """Bring `box` into the middle of the picture, with about `side` image pixels around it.

        A picture that shows about as much already keeps its zoom.
        """
        shown = self.canvas.shown
        if len(shown) == 4 and side / 4 <= shown[3] <= 2 * side:
            side = shown[3]
        wide = side * (shown[2] / shown[3] if len(shown) == 4 and shown[3] else 1.0)
        x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        self.canvas.viewport = [x - wide / 2, y - side / 2, wide, side]

    def poke(self) -> None:
        """Request a frame, from the current thread or a new one."""
        self._news.set()
        with self._lock:
            if self._thread is None and self._open and self._scene is not None:
                name = f"tilevision-view-{self._scene.run.id}"
                self._thread = threading.Thread(target=self._draw_all, name=name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop drawing; the last picture stays. The run continues."""
        if self._scene is not None:
            self._scene.leave()
        with self._lock:
            self._open = False
            thread = self._thread
        self._news.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=10)
        self._map.close()
        self._readings.close()
        self.canvas.close()

    def _draw_all(self) -> None:
        while True:
            self._news.wait()
            started = time.monotonic()
            self._news.clear()
            scene = self._scene
            assert scene is not None
            try:
                with self._map.held():
                    self._draw_one(scene)
            except Exception as error:  # noqa: BLE001 - an error in a view must not end the run
                _log.exception("the view of %s could not draw a frame", scene.run.id)
                words = caption(scene.state, scene.name, scene.clock())
                words["detail"] += f" · The picture could not be drawn: {error}"
                self.canvas.caption = words
            with self._lock:
                idle = scene.state.at_rest and scene is self._scene and not self._news.is_set()
                if idle or not self._open:
                    self._thread = None
                    return
            time.sleep(max(0.0, FRAME_SECONDS - (time.monotonic() - started)))

    def _draw_one(self, scene: _Scene) -> None:
        events = [scene.events.popleft() for _ in range(len(scene.events))]
        self._source = scene.run.source
        scene.state = state = fold(scene.state, events)
        final, counted = scene.final, scene.counted  # in this order: `count` sets them in the other
        heat = None if counted is None else counted.heat
        rivals = None if counted is None else counted.rivals
        outline = scene.outline if self.outlines else ()
        over = (self.canvas.wanted(), heat, outline, self._opacity)
        if rivals is None:
            boxes = self._showing(self._boxes(scene))
            cover = self._map.cover
            framed = [state.given_to(label) for label in scene.sent_on]
            marked = np.logical_or.reduce(framed) if framed else None
            frame = scene.overlay.frame(replace(state, boxes=boxes), *over, cover, marked)
        else:
            both = rivals.layers(self._way, self._hidden)
            boxes, frame = both[0], scene.overlay.compared(state, both, *over)
        words = caption(
            *(state, scene.name, scene.clock(), counted),
            final=final,
            region=scene.region if counted is None else counted.region,
            way="" if rivals is None else self._way,
            hidden=self._hidden,
            maps=self._map.legend(),
            sent_on=scene.sent_on,
        )
        for fault in filter(None, (self._fault, self._map.fault, self._colour_fault)):
            words["detail"] += f" · {shown(fault, 300)}"
        choices = self._map.choices if rivals is None else []
        self.canvas.offer([(one.key, one.words) for one in choices])
        if not self._open:
            return
        mpp = self._mpp(scene.run.source, frame.view)
        sides = {} if rivals is None else {"names": list(rivals.names), "way": self._way}
        whole = scene.overlay.whole
        self.canvas.show(frame, whole, words, boxes, mpp, sides, subject=scene.number)
        self.frames += 1
        self._drawn.set()
        self._on_frame(state, CaptionedFrame(frame, words, mpp))

    def _heard(self, _: object, content: Any, __: object) -> None:
        match content:
            case {"opacity": int() | float() as opacity}:
                self._opacity = min(max(float(opacity), 0.0), 1.0)
            case {"hide": list(keys)}:
                self._hidden = self._map.hidden = frozenset(map(str, keys))
            case {"colour": str(key), "value": (str() | None) as colour}:
                self._recolour(key, colour)
            case {"way": "differences" | "swipe" | "blink" as way}:
                self._way, self._hidden = way, frozenset()
            case _:
                return
        self.poke()

    def _recolour(self, key: str, colour: str | None) -> None:
        """Give a class of the legend another colour; None: its own."""
        scene = self._scene
        counted = None if scene is None else scene.counted
        labels = {*(() if scene is None else scene.state.boxes.labels)}
        if counted is not None:
            labels |= {*counted.counts, *counted.layer.labels}
            labels |= set() if counted.maps is None else {*counted.maps.raster.classes}
        mine = {label: colour for label in labels if key in (key_of(label), class_key(label))}
        self._colour_fault = ""
        try:
            choose(mine, self.folder)
        except TilevisionError as error:
            self._colour_fault = str(error)
        self.on_colour()

    def _choose_map(self, asked: Any) -> None:
        match asked:
            case {"layer": str() as layer, "opacity": int() | float() as opacity}:
                self._map.choose(layer, float(opacity))
                self.poke()

    def _read_map(self, picked: list[float]) -> None:
        """Say what the map has where the user clicked."""

        def read() -> None:
            self.canvas.reading = self._map.reading(picked[0], picked[1])

        if len(picked) == 3:
            self._readings.put("read", read)

    def _showing(self, layer: BoxLayer) -> BoxLayer:
        """Return the boxes of classes that are not hidden; the same as long as those are."""
        if not self._hidden:
            return layer
        if self._seen[:2] != (layer, self._hidden):
            hidden = self._hidden
            shown = layer.showing(lambda label: key_of(label) not in hidden)
            self._seen = (layer, hidden, shown)
        found: BoxLayer = self._seen[2]
        return found

    def _boxes(self, scene: _Scene) -> BoxLayer:
        """Return the boxes to draw: the merged ones, and those of tiles that ended since."""
        state, counted = scene.state, scene.counted
        if counted is None:
            return state.boxes
        if counted.tiles is None or (state.at_rest and scene.final):
            return counted.layer
        return self._mix.layer(counted.layer, counted.tiles, state.boxes)

    def _mpp(self, source: ImageSource, view: Box) -> float:
        """Return the width of a pixel in the middle of `view`, µm; 0 if it is unknown."""
        if self._width is None or self._width[0] is not source:
            self._width = (source, pixel_width(source.metadata))
        across = self._width[1]
        if across is None:
            return 0.0
        mpp = across((view.x0 + view.x1) / 2, (view.y0 + view.y1) / 2)
        return mpp if math.isfinite(mpp) else 0.0

    def _read(self, box: Box, scale: float) -> Any:
        source = self._source
        assert source is not None  # set before anything is drawn
        try:
            if self._options is None or self._options[0] is not source:
                self._options = (source, display_options(source))
            pixels = read_shown(source, box, scale, self._options[1])
        except (TilevisionError, OSError, ValueError) as error:
            # Tiles and boxes are worth seeing without the image too.
            self._fault = f"The image could not be read: {error}"
            return np.full((1, 1, 3), BLANK, dtype=np.uint8)
        self._fault = ""
        return pixels
