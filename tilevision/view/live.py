"""The live view of a run, below the cell that asked for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tilevision.errors import RunError, TilevisionError
from tilevision.view.notebook import cell_number, display, require_notebook, safe_link
from tilevision.view.picture.overlay import Frame
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.snapshot import Still
from tilevision.view.picture.subject import Watched
from tilevision.view.picture.viewstate import ViewState

if TYPE_CHECKING:
    from tilevision.history.followedmany import FollowedMany

__all__ = ["LiveView", "SeriesView", "watch"]

LOOK_SECONDS = 0.5


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
        out, as `tilevision.runs` lists it: its history is shown, then what happens. Of a run
        of many images, one image after the other as its turn comes.
    checkpoint : path-like
        For an id: the run's folder.
    image : optional
        For the id of a run of one image: where it is now, if it is not where it was. Without
        its image, a run is shown on grey.

    Returns
    -------
    LiveView
        Call its ``close()`` to end it early.

    Raises
    ------
    RunError
        Outside a notebook, if there is no such run, if `run` is not a run, or if no image of
        a run of many has been begun.
    SourceError
        If `image` cannot be opened, or is not what the run analysed.
    """
    if isinstance(run, str):
        view = _view_of(run, checkpoint, image)
    elif hasattr(run, "subscribe") and hasattr(run, "tiles"):
        require_notebook("tv.watch", "run.wait() or tv.analyze(..., progress=True)")
        view = LiveView(run)
    else:
        raise RunError(
            f"cannot watch {run!r:.80}; give what tv.start(...) returned, as in "
            "run = tv.start(image, model=...); tv.watch(run), or a run's id"
        )
    view.display()
    return view


def _view_of(run_id: str, checkpoint: str | os.PathLike[str], image: Any) -> LiveView:
    from tilevision.history import FollowedRun
    from tilevision.history.followedmany import FollowedMany, is_of_many

    instead = f"tilevision runs --follow {run_id}"
    if not is_of_many(run_id, checkpoint):
        followed = FollowedRun(run_id, checkpoint, image=image)
        require_notebook("tv.watch", instead)
        return LiveView(followed)
    if image is not None:
        raise RunError(
            f"run {run_id} is of many images, and image= is one; watch the run of that image, "
            f"as tv.runs(images={run_id!r}) lists it"
        )
    many = FollowedMany(run_id, checkpoint)
    require_notebook("tv.watch", instead)
    return SeriesView(many, checkpoint)


class LiveView:
    """The picture of a run in the notebook.

    Parameters
    ----------
    run : Watched
    clock : callable
        Returns the time that the picture is of, seconds since the epoch.
    """

    def __init__(self, run: Watched, clock: Callable[[], float] = time.time) -> None:
        self._still = Still()
        self._screen = Screen(self._keep)
        self._cell: int | None = None
        self.widget: Any = self._screen.canvas
        self._screen.show(run, clock)

    @property
    def state(self) -> ViewState:
        """What the view knows of the run, as of its last frame."""
        state = self._screen.state
        assert state is not None  # it shows a run from the start
        return state

    @property
    def frames(self) -> int:
        """How many have been drawn."""
        return self._screen.frames

    def display(self) -> None:
        """Show the picture below the current cell, once more if need be."""
        display(self.widget)
        self._still.display(self._screen.text)
        self._cell = cell_number()
        self._screen.poke()

    def close(self) -> None:
        """End the view; its last picture stays. The run goes on."""
        self._screen.close()

    def _keep(self, state: ViewState, frame: Frame, text: str) -> None:
        run = self._screen.run
        self.widget.link = safe_link(getattr(run, "dashboard_link", None))
        self._still.update(frame, text, now=state.ended)

    def _ipython_display_(self) -> None:
        # As the last value of the cell that displayed it, it is there already.
        if self._cell is None or self._cell != cell_number():
            self.display()

    def __repr__(self) -> str:
        return f"<LiveView of {self._screen.text}>"


class SeriesView(LiveView):
    """The picture of a run of many images: of each as its turn comes, until the run is over.

    Parameters
    ----------
    many : FollowedMany
    checkpoint : path-like
        Its folder.

    Raises
    ------
    RunError
        If no image has been begun.
    """

    def __init__(self, many: FollowedMany, checkpoint: str | os.PathLike[str]) -> None:
        self._many, self._checkpoint = many, checkpoint
        self._closed = threading.Event()
        many.news()
        first = self._next("")
        if first is None:
            raise RunError(f"no image of run {many.id} has been begun; watch it a little later")
        super().__init__(first)
        name = f"tilevision-view-images-{many.id}"
        self._mover = threading.Thread(target=self._move_on, args=(first.id,), name=name)
        self._mover.daemon = True
        self._mover.start()

    def close(self) -> None:
        """End the view; its last picture stays. The run goes on."""
        self._closed.set()
        self._mover.join(timeout=10)
        super().close()

    def _move_on(self, shown: str) -> None:
        over = self._many.over
        while not over and not self._closed.wait(LOOK_SECONDS):
            try:
                self._many.news()
                run = self._next(shown)
            except TilevisionError:  # its journal is about to be written, or was just removed
                run = None
            if run is not None:
                shown = run.id
                self._screen.show(run)
            over = self._many.over

    def _next(self, shown: str) -> Watched | None:
        """Return the run of the image whose turn it is, where that is not the one `shown`."""
        from tilevision.history import FollowedRun

        image = self._many.in_turn(shown)
        if image is None or image.run == shown:
            return None
        run = FollowedRun(image.run, self._checkpoint)
        number = self._many.names.index(image.image) + 1
        run.name = f"image {number:,} of {len(self._many.names):,}, {run.name}"
        return run
