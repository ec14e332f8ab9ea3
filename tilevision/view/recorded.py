"""The picture of a run that is over, as it happened."""

from __future__ import annotations

import os
from typing import Any

from tilevision.view.live import LiveView
from tilevision.view.notebook import require_notebook

__all__ = ["replay"]


def replay(
    run_id: str,
    checkpoint: str | os.PathLike[str] = ".tilevision",
    *,
    seconds: float = 10,
    image: Any = None,
) -> LiveView:
    """Show in the notebook how a run went, from its journal; returns at once.

    Parameters
    ----------
    run_id : str
        As `tilevision.runs` lists it.
    checkpoint : path-like
        Its folder.
    seconds : float
        That the whole run is squeezed into; what the caption says of time and speed is the
        run's own. Time in which it was stopped or paused is left out.
    image : optional
        Where the run's image is now, if it is not where it was.

    Returns
    -------
    LiveView
        Call its ``close()`` to end it early.

    Raises
    ------
    RunError
        If there is no such run, it is still at work, or this is no notebook.
    SourceError
        If `image` cannot be opened, or is not what the run analysed.
    """
    from tilevision.history import ReplayedRun

    run = ReplayedRun(run_id, checkpoint, seconds=seconds, image=image)
    require_notebook("tv.replay", f"tilevision runs --follow {run_id}")
    view = LiveView(run, clock=run.clock)
    view.display()
    return view
