"""The notebook that the code runs in: whether there is one, and showing things in it."""

from __future__ import annotations

from typing import Any

from tilevision.errors import RunError

__all__ = ["cell_number", "display", "require_notebook"]


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


def display(value: Any, **options: Any) -> Any:
    """Show `value` below the current cell; returns its handle where one was asked for."""
    from IPython import display

    show: Any = display.display  # carries no types
    return show(value, **options)


def cell_number() -> int | None:
    """Return the number of the cell at work; None outside a notebook."""
    return getattr(_shell(), "execution_count", None)


def _shell() -> Any:
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()
