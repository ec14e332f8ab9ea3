"""The picture of a run that has ended, as it happened."""

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
    """Show in the notebook how a run went, from its journal; returns immediately.

    Parameters
    ----------
    run_id : str
        Id of the run, as `tilevision.runs` lists it.
    checkpoint : path-like
        The run's folder.
    seconds : float
        Duration of the replay. The caption shows the run's own times and speeds. Pauses and
        interruptions are left out.
    image : optional
        Where the run's image is now, if it was moved.

    Returns
    -------
    LiveView
        Call its ``close()`` to end it early.

    Raises
    ------
    RunError
        If there is no such run, it is still running, or this is not a notebook.
    SourceError
        If `image` cannot be opened, or is not the image that the run analysed.
    """
    from tilevision.history import ReplayedRun

    run = ReplayedRun(run_id, checkpoint, seconds=seconds, image=image)
    require_notebook("tv.replay", f"tilevision runs --follow {run_id}")
    view = LiveView(run, clock=run.clock, checkpoint=checkpoint)
    view.display()
    return view
