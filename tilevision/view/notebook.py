"""The notebook that the code runs in: whether there is one, and displaying things in it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from tilevision.errors import RunError

__all__ = [
    "CellWatch",
    "cell_number",
    "display",
    "name_of",
    "require_notebook",
    "safe_link",
    "show_widget",
    "variable",
]

_LINK = re.compile(r"https?://|/(?![/\\])")


def require_notebook(name: str, instead: str) -> None:
    """Raise an error where nothing can be displayed.

    Raises
    ------
    RunError
        Outside a notebook; its message says what to use instead of the function `name`.
    """
    if getattr(_shell(), "kernel", None) is None:
        raise RunError(
            f"{name} draws in a notebook, but this is not a notebook. Use {instead} here, "
            "or run 'tilevision lab' to open a notebook."
        )


def display(value: Any, **options: Any) -> Any:
    """Show `value` below the current cell; returns its handle if one was requested."""
    from IPython import display

    show: Any = display.display  # carries no types
    return show(value, **options)


def show_widget(widget: Any) -> None:
    """Show `widget` below the current cell; where widgets cannot be shown, no text stands for it.

    A page made of a saved notebook would have the name of its class there, above its picture.
    """
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    bundle = {"application/vnd.jupyter.widget-view+json": view, "text/plain": ""}
    display(bundle, raw=True)


def cell_number() -> int | None:
    """Return the number of the running cell; None outside a notebook."""
    return getattr(_shell(), "execution_count", None)


def variable(name: str) -> Any:
    """Return the notebook's variable `name`; None if there is none."""
    return getattr(_shell(), "user_ns", {}).get(name)


def name_of(value: Any) -> str | None:
    """Return the name of the notebook's variable that holds `value`; None if there is none."""
    names = getattr(_shell(), "user_ns", {})
    found = (name for name, held in list(names.items()) if held is value)
    return next((name for name in found if not name.startswith("_")), None)


def safe_link(link: str | None) -> str:
    """Return the address if it is safe to put into the page, else an empty string.

    Behind a proxy, Dask's template ``distributed.dashboard.link`` gives a path of this server.
    """
    return link if link and _LINK.match(link) else ""


class CellWatch:
    """Reports when a cell has been running for a while and blocks all clicks until it ends.

    Reports nothing if clicks come to a subshell of the kernel, as from JupyterLab 4.4 and later;
    Visual Studio Code opens none, whatever the kernel can do.

    Parameters
    ----------
    on_busy : callable
        Given True on a thread when a cell has run for `seconds`, and False when it ends.
    seconds : float
    """

    def __init__(self, on_busy: Callable[[bool], None], seconds: float = 1.0) -> None:
        self._on_busy = on_busy
        self._seconds = seconds
        self._timer: threading.Timer | None = None
        self._told = False
        self._events: Any = getattr(_shell(), "events", None)
        self._ours = {"pre_run_cell": self._began, "post_run_cell": self._ended}
        if self._events is not None:
            for name, ours in self._ours.items():
                self._events.register(name, ours)

    def close(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._timer.cancel()
        if self._events is not None:
            for name, ours in self._ours.items():
                self._events.unregister(name, ours)
            self._events = None

    def _began(self, _: object) -> None:
        self._timer = threading.Timer(self._seconds, self._tell)
        self._timer.name, self._timer.daemon = "tilevision-panel-busy", True
        self._timer.start()

    def _ended(self, _: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None
            if self._told:
                self._told = False
                self._on_busy(False)

    def _tell(self) -> None:
        if not _has_subshells():
            self._told = True
            self._on_busy(True)


def _has_subshells() -> bool:
    """Return True if the front end has opened a subshell, which answers while a cell runs."""
    kernel = getattr(_shell(), "kernel", None)
    manager = getattr(getattr(kernel, "shell_channel_thread", None), "manager", None)
    return manager is not None and bool(manager.list_subshell())


def _shell() -> Any:
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()
