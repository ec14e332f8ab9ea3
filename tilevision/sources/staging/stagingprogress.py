"""How far an image is on its way into the temp folder, for whoever wants to tell people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Preparation", "following", "is_followed", "tell"]


@dataclass(frozen=True, slots=True)
class Preparation:
    """A staging file that is being written.

    Parameters
    ----------
    done, total : int
        Bytes.
    folder : str
        Where it is.
    """

    done: int
    total: int
    folder: str

    def __str__(self) -> str:
        """Return one line for people."""
        share = self.done / max(1, self.total)
        return f"preparing the image: {share:.0%} of {self.total / 1e6:,.0f} MB in {self.folder}"


Listener = Callable[[Preparation], None]
_listener: ContextVar[Listener | None] = ContextVar("preparation", default=None)


@contextmanager
def following(listener: Listener) -> Iterator[None]:
    """Within the block, tell `listener` of images that are being prepared in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def is_followed() -> bool:
    """Say whether there is a listener."""
    return _listener.get() is not None


def tell(preparation: Preparation) -> None:
    """Tell the listener, where there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(preparation)
