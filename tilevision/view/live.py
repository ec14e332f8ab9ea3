"""The live view of a run, below the cell that opened it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tilevision.errors import RunError, TilevisionError
from tilevision.view.jobs import JobQueue
from tilevision.view.notebook import cell_number, require_notebook, safe_link, show_widget
from tilevision.view.picture.caption import Counted
from tilevision.view.picture.counting import Counting, count
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.snapshot import CaptionedFrame, Snapshot
from tilevision.view.picture.subject import Watched
from tilevision.view.picture.viewstate import ViewState
from tilevision.view.results import ResultLookup

if TYPE_CHECKING:
    from tilevision.history.followedbatch import FollowedMany

__all__ = ["LiveView", "SeriesView", "watch"]

LOOK_SECONDS = 0.5

_log = logging.getLogger("tilevision.view")


def watch(
    run: Watched | str,
    checkpoint: str | os.PathLike[str] = ".tilevision",
    *,
    image: Any = None,
) -> LiveView:
    """Show a run in the notebook while it is going: its tiles by status and its detections.

    Returns immediately; the picture keeps updating in this cell's output while other cells run.
    Scroll and drag in it to look closer. A saved notebook keeps the last state as a picture.

    Parameters
    ----------
    run : Run or str
        A run that `tilevision.start` returned; or the id of a run in another notebook or
        process, as `tilevision.runs` lists it: what has happened is shown first, then what
        happens. For a multi-image run, its images are shown one after the other.
    checkpoint : path-like
        For an id: the run's folder.
    image : optional
        For the id of a single-image run: where the image is now, if it was moved. A run
        without its image is shown on grey.

    Returns
    -------
    LiveView
        Call its ``close()`` to stop it early.

    Raises
    ------
    RunError
        Outside a notebook, if there is no such run, if `run` is not a run, or if a multi-image
        run has not started its first image.
    SourceError
        If `image` cannot be opened, or is not the image that the run analysed.
    """
    if isinstance(run, str):
        view = _view_of(run, checkpoint, image)
    elif hasattr(run, "subscribe") and hasattr(run, "tiles"):
        require_notebook("tv.watch", "run.wait() or tv.analyze(..., progress=True)")
        view = LiveView(run)
    else:
        raise RunError(
            f"Cannot watch {run!r:.80}. Pass the run that tv.start(...) returned, as in "
            "run = tv.start(image, model=...); tv.watch(run), or a run's id."
        )
    view.display()
    return view


def _view_of(run_id: str, checkpoint: str | os.PathLike[str], image: Any) -> LiveView:
    from tilevision.history import FollowedRun
    from tilevision.history.followedbatch import FollowedMany, is_of_many

    instead = f"tilevision runs --follow {run_id}"
    if not is_of_many(run_id, checkpoint):
        followed = FollowedRun(run_id, checkpoint, image=image)
        require_notebook("tv.watch", instead)
        return LiveView(followed, checkpoint=checkpoint)
    if image is not None:
        raise RunError(
            f"Run {run_id} has several images, so image= does not apply. Watch the run of one "
            f"image; tv.runs(images={run_id!r}) lists them."
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
        Returns the time that the picture shows, seconds since the epoch.
    checkpoint : path-like or None
        Folder of a run that is read from its journal.
    """

    def __init__(
        self,
        run: Watched,
        clock: Callable[[], float] = time.time,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self._snapshot = Snapshot()
        self._screen = Screen(self._keep)
        self._screen.folder = checkpoint or getattr(run, "checkpoint", None)
        self._results = ResultLookup(checkpoint)
        self._jobs = JobQueue("tilevision-view-count", _log.warning)
        self._counting = Counting(self._screen, self._count, self._jobs)
        self._cell: int | None = None
        self.widget: Any = self._screen.canvas
        self._screen.show(run, clock)

    @property
    def state(self) -> ViewState:
        """The state of the run in the last frame."""
        state = self._screen.state
        assert state is not None  # it shows a run from the start
        return state

    @property
    def frames(self) -> int:
        """Number of frames drawn so far."""
        return self._screen.frames

    def display(self) -> None:
        """Show the picture below the current cell; it may be shown several times."""
        show_widget(self.widget)
        self._snapshot.display(self._screen.text)
        self._cell = cell_number()
        self._screen.poke()

    def close(self) -> None:
        """Close the view; its last picture stays. The run continues."""
        self._counting.close()
        self._jobs.close()
        self._screen.close()
        self._snapshot.flush()

    def _count(self, state: ViewState) -> Counted | None:
        result = self._results.of(self._screen.run, state)
        return None if result is None else count(result, state)

    def _keep(self, state: ViewState, frame: CaptionedFrame) -> None:
        run = self._screen.run
        self.widget.link = safe_link(getattr(run, "dashboard_link", None))
        self._snapshot.update(frame, now=state.ended)
        self._counting.follow(state)

    def _ipython_display_(self) -> None:
        # As the last value of the cell that displayed it, it is there already.
        if self._cell is None or self._cell != cell_number():
            self.display()

    def __repr__(self) -> str:
        return f"<LiveView of {self._screen.text}>"


class SeriesView(LiveView):
    """The picture of a multi-image run: one image after the other until the run ends.

    Parameters
    ----------
    many : FollowedMany
    checkpoint : path-like
        The run's folder.

    Raises
    ------
    RunError
        If no image has been started.
    """

    def __init__(self, many: FollowedMany, checkpoint: str | os.PathLike[str]) -> None:
        self._many, self._checkpoint = many, checkpoint
        self._closed = threading.Event()
        many.news()
        first = self._next("")
        if first is None:
            raise RunError(
                f"Run {many.id} has not started its first image yet. Try again in a moment."
            )
        super().__init__(first, checkpoint=checkpoint)
        name = f"tilevision-view-images-{many.id}"
        self._mover = threading.Thread(target=self._move_on, args=(first.id,), name=name)
        self._mover.daemon = True
        self._mover.start()

    def close(self) -> None:
        """Close the view; its last picture stays. The run continues."""
        self._closed.set()
        self._mover.join(timeout=10)
        super().close()

    def _move_on(self, shown: str) -> None:
        over = self._many.over
        while not over and not self._closed.wait(LOOK_SECONDS):
            try:
                self._many.news()
                run = self._next(shown)
            except TilevisionError:  # its journal is being written, or was just removed
                run = None
            if run is not None:
                shown = run.id
                self._screen.show(run)
            over = self._many.over

    def _next(self, shown: str) -> Watched | None:
        """Return the run of the current image, unless it is the one `shown`."""
        from tilevision.history import FollowedRun

        image = self._many.in_turn(shown)
        if image is None or image.run == shown:
            return None
        run = FollowedRun(image.run, self._checkpoint)
        number = self._many.names.index(image.image) + 1
        run.name = f"image {number:,} of {len(self._many.names):,}, {run.name}"
        return run
