"""The live view: a thread that draws what a run tells, while cells run and after they ended."""

from __future__ import annotations

import logging
import os
import threading
import time
from base64 import b64encode
from collections import deque
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilevision.errors import RunError, TilevisionError
from tilevision.events import Event
from tilevision.geometry import Box
from tilevision.plot import shown
from tilevision.sources import ImageSource, display_options, read_pixels
from tilevision.view.caption import alt_text, caption
from tilevision.view.overlay import Frame, Overlay
from tilevision.view.state import ViewState, fold, initial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilevision.grid import Tile

__all__ = ["LiveView", "Watched", "require_notebook", "watch"]

FRAME_SECONDS = 0.2
STILL_SECONDS = 10.0
STILL_BYTES = 500_000
BLANK = 128

_log = logging.getLogger("tilevision.view")


class Named(Protocol):
    """What a live view needs of a model."""

    @property
    def name(self) -> str:
        """What people call it."""


class Watched(Protocol):
    """What a live view needs of a run."""

    id: str
    name: str
    tiles: tuple[Tile, ...]

    @property
    def model(self) -> Named:
        """Of the tiles."""

    @property
    def source(self) -> ImageSource:
        """The image."""

    def events(self) -> Sequence[Event]:
        """Return what a late listener needs to know."""

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; return what ends that."""


def watch(
    run: Watched | str,
    checkpoint: str | os.PathLike[str] = ".tilevision",
    *,
    image: Any = None,
) -> LiveView:
    """Show a run in the notebook while it goes on: its tiles by status, its boxes as they come.

    Returns at once; the picture goes on in this cell's output, whatever other cells do.
    Scroll and drag in it to look closer. A saved notebook keeps its last state as a picture.

    Parameters
    ----------
    run : Run or str
        From `tilevision.start`; or the id of a run that another notebook or process carries
        out, as `tilevision.runs` lists it: its history is shown, then what happens.
    checkpoint : path-like
        For an id: the run's folder.
    image : optional
        For an id: where the run's image is now, if it is not where it was. Without its image,
        a run is shown on grey.

    Returns
    -------
    LiveView
        Call its ``close()`` to end it early.

    Raises
    ------
    RunError
        Outside a notebook, if there is no such run, or if `run` is not a run.
    SourceError
        If `image` cannot be opened, or is not what the run analysed.
    """
    if isinstance(run, str):
        from tilevision.pipeline import FollowedRun

        followed = FollowedRun(run, checkpoint, image=image)
        require_notebook("tv.watch", f"tilevision runs --follow {run}")
        run = followed
    if not (hasattr(run, "subscribe") and hasattr(run, "tiles")):
        raise RunError(
            f"cannot watch {run!r:.80}; give what tv.start(...) returned, as in "
            "run = tv.start(image, model=...); tv.watch(run), or a run's id"
        )
    require_notebook("tv.watch", "run.wait() or tv.analyze(..., progress=True)")
    view = LiveView(run)
    view.display()
    return view


def require_notebook(name: str, instead: str) -> None:
    """Refuse to draw where nobody would see it.

    Raises
    ------
    RunError
        Outside a notebook; says what to use there instead of the function `name`.
    """
    if getattr(_shell(), "kernel", None) is None:
        raise RunError(
            f"{name} draws in a notebook, and this is none; use {instead} here, "
            "or open one with: tilevision lab"
        )


class LiveView:
    """The picture of a run in the notebook.

    Its thread lives while there is something to draw: until the run has ended, and again
    when the user zooms or the run goes on.

    Parameters
    ----------
    run : Watched
    clock : callable
        Returns the time that the picture is of, seconds since the epoch.
    """

    def __init__(self, run: Watched, clock: Callable[[], float] = time.time) -> None:
        from tilevision.view.canvas import Canvas

        self.widget: Any = Canvas()
        self.frames = 0
        self._run = run
        self._clock = clock
        self._name = f"{run.name}, {run.model.name}"
        self._state = initial(run.tiles)
        self._overlay = Overlay(run.source.size, self._read)
        self._options: Any = None
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._open = False
        self._still = _Still()
        self._fault = ""
        self._cell: int | None = None
        self._unsubscribe = run.subscribe(self._hear)
        # What happened meanwhile is heard after the snapshot, perhaps again: that is no harm.
        self._events.extendleft(reversed(run.events()))
        self._open = True
        self.widget.observe(lambda _: self._poke(), names="viewport")
        self._poke()

    @property
    def state(self) -> ViewState:
        """What the view knows of the run, as of its last frame."""
        return self._state

    def display(self) -> None:
        """Show the picture below the current cell, once more if need be."""
        _display(self.widget)
        self._still.display(alt_text(self._state, self._name))
        self._cell = _cell_number()
        self._poke()

    def close(self) -> None:
        """End the view; its last picture stays. The run goes on."""
        self._unsubscribe()
        with self._lock:
            self._open = False
            thread = self._thread
        self._news.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=10)
        self.widget.close()

    def _ipython_display_(self) -> None:
        # As the last value of the cell that displayed it, it is there already.
        if self._cell is None or self._cell != _cell_number():
            self.display()

    def __repr__(self) -> str:
        return f"<LiveView of {alt_text(self._state, self._name)}>"

    def _hear(self, event: Event) -> None:
        self._events.append(event)
        self._poke()

    def _poke(self) -> None:
        """Have a frame drawn, by the thread there is or by a new one."""
        self._news.set()
        with self._lock:
            if self._thread is None and self._open:
                name = f"tilevision-view-{self._run.id}"
                self._thread = threading.Thread(target=self._draw_all, name=name, daemon=True)
                self._thread.start()

    def _draw_all(self) -> None:
        while True:
            self._news.wait()
            started = time.monotonic()
            self._news.clear()
            try:
                self._draw_one()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong in a view stays in it
                _log.exception("the live view of %s could not draw a frame", self._run.id)
                words = caption(self._state, self._name, self._clock())
                words["detail"] += f" · the picture could not be drawn: {error}"
                self.widget.caption = words
            with self._lock:
                idle = self._state.ended and not self._news.is_set()
                if idle or not self._open:
                    self._thread = None
                    return
            time.sleep(max(0.0, FRAME_SECONDS - (time.monotonic() - started)))

    def _draw_one(self) -> None:
        events = [self._events.popleft() for _ in range(len(self._events))]
        self._state = state = fold(self._state, events)
        frame = self._overlay.frame(state, self.widget.wanted())
        words = caption(state, self._name, self._clock())
        if self._fault:
            words["detail"] += f" · {shown(self._fault, 300)}"
        if not self._open:
            return
        self.widget.show(frame, self._overlay.whole, words)
        self.frames += 1
        self._still.update(frame, words["alt"], now=state.ended)

    def _read(self, box: Box, scale: float) -> Any:
        try:
            if self._options is None:
                self._options = display_options(self._run.source)
            return read_pixels(self._run.source, box, scale, self._options)
        except (TilevisionError, OSError, ValueError) as error:
            # Tiles and boxes are worth seeing without the image too.
            self._fault = f"the image could not be read: {error}"
            return np.full((1, 1, 3), BLANK, dtype=np.uint8)


class _Still:
    """The picture a saved notebook keeps, since it does not keep widgets."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._drawn = float("-inf")

    def display(self, text: str) -> None:
        handle = _display({"text/plain": text}, raw=True, display_id=True)
        self._handle, self._drawn = handle, float("-inf")

    def update(self, frame: Frame, text: str, *, now: bool) -> None:
        """Renew the picture if it is old, or `now`."""
        if self._handle is None or not (now or time.monotonic() - self._drawn > STILL_SECONDS):
            return
        self._drawn = time.monotonic()
        picture = b64encode(_smaller(frame.jpeg)).decode()
        self._handle.update({"image/jpeg": picture, "text/plain": text}, raw=True)


def _smaller(jpeg: bytes) -> bytes:
    """Return the picture in at most `STILL_BYTES` of base64, at half its size if need be."""
    from PIL import Image

    while len(jpeg) * 4 / 3 > STILL_BYTES:
        picture = Image.open(BytesIO(jpeg))
        out = BytesIO()
        picture.reduce(2).save(out, "JPEG", quality=80)
        jpeg = out.getvalue()
    return jpeg


def _display(value: Any, **options: Any) -> Any:
    from IPython import display

    show: Any = display.display  # carries no types
    return show(value, **options)


def _cell_number() -> int | None:
    return getattr(_shell(), "execution_count", None)


def _shell() -> Any:
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()
