"""The live view of one run, below the cell that asked for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from tilevision.errors import RunError
from tilevision.view.notebook import cell_number, display, require_notebook, safe_link
from tilevision.view.overlay import Frame
from tilevision.view.screen import Screen
from tilevision.view.state import ViewState
from tilevision.view.still import Still
from tilevision.view.subject import Watched

__all__ = ["LiveView", "watch"]


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
        of many images, the image that is at work now; a line says which.
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
        from tilevision.pipeline.followedmany import is_of_many, latest_image

        if is_of_many(run, checkpoint):
            run, line = latest_image(run, checkpoint)
            print(f"{line}; tv.watch again shows the one that is at work then")  # noqa: T201 - asked for
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
