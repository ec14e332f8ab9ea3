"""The front door of the panel."""

from __future__ import annotations

import os
from collections.abc import Iterable
from inspect import signature
from typing import Any

from tilevision.errors import RunError
from tilevision.pipeline import start
from tilevision.view.notebook import require_notebook
from tilevision.view.panel.panel import Panel

__all__ = ["explore"]


def explore(
    image: Any,
    model: Any = None,
    *,
    models: Iterable[Any] = (),
    checkpoint: str | os.PathLike[str] | None = ".tilevision",
    **arguments: Any,
) -> Panel:
    """Show the panel for an image in the notebook: choose, press Run, watch, look closer.

    Returns at once; nothing runs before Run is pressed.

    Parameters
    ----------
    image : path, PIL image, array or ImageSource
    model : optional
        Chosen at first, as `tilevision.start` takes it; default: the first there is.
    models : iterable
        More to choose from, beside those of `tilevision.models`: functions, weights, specs.
    checkpoint : path-like or None
        Folder where each tile's findings are kept; its past runs can be reopened.
    **arguments
        Initial values of the controls, as `tilevision.start` takes them: ``grid="8x8"``,
        ``min_score=0.5``, ``client=client``, …

    Returns
    -------
    Panel
        Its ``run`` and ``result`` are what is on the screen; ``close()`` ends it.

    Raises
    ------
    RunError
        Outside a notebook, or if an argument is not one of `tilevision.start`.
    ModelError, GridError
        If a model or the grid makes no sense.
    """
    require_notebook("tv.explore", "tv.analyze(image, model=...)")
    known = signature(start).parameters
    strange = [name for name in arguments if name not in known or name == "strict"]
    if strange:
        raise RunError(
            f"tv.explore has no argument {strange[0]!r}; it takes image, model, models, checkpoint "
            "and the arguments of tv.start"
        )
    panel = Panel(image, model, tuple(models), checkpoint, arguments)
    panel.display()
    return panel
