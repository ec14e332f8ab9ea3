"""What a server says of a file before any of it is read, and how it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, TypeVar

from tilevision.errors import SourceError, Throttled, TransientError
from tilevision.sources.addresses import Address

__all__ = ["FIRST_BYTES", "Look", "Remote", "changed", "patiently"]

FIRST_BYTES = 1 << 15
_ATTEMPTS = 3
_PAUSE = 0.3
_LONGEST_PAUSE = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a file elsewhere.

    Parameters
    ----------
    size : int
        Bytes; -1 where the server does not say.
    tag : str
        Changes with the content; empty where the server has nothing of the kind.
    ranges : bool
        Whether any part can be read on its own.
    start : bytes
        The first `FIRST_BYTES`, or all where there are fewer.
    """

    size: int
    tag: str
    ranges: bool
    start: bytes

    def fingerprint(self, address: Address) -> str:
        """Return the identity of the content at `address`.

        The address is in it: servers make tags of size and second of the last change, which two
        files may share.
        """
        told = f"remote\n{address.identity}\n{self.size}\n{self.tag}"
        return sha256(told.encode()).hexdigest()


class Remote(Protocol):
    """A file elsewhere, by one protocol; safe to use from several threads.

    All raise `SourceError` where asking again is no use, else `TransientError` or `Throttled`.
    """

    address: Address

    def look(self) -> Look:
        """Ask what it is, and for its beginning."""
        ...

    def read(self, offset: int, count: int, look: Look) -> bytes:
        """Return exactly these bytes of the file that `look` saw."""
        ...

    def check(self, look: Look) -> None:
        """Raise `SourceError` if what `read` returned may be of another file than `look` saw."""
        ...

    def part(self, start: int | None, stop: int | None) -> bytes | None:
        """Return bytes of a file of which nothing is known, None where there is none.

        A negative `start` counts from the end; None is from the beginning, or to the end.
        """
        ...

    def tag(self) -> str | None:
        """Return size and tag, as one text; None where there is no such file."""
        ...

    def pieces(self, look: Look, offset: int) -> Iterator[bytes]:
        """Yield the whole file from `offset`, which is 0 where there are no ranges."""
        ...


def changed(address: Address) -> SourceError:
    """Return the error for a file that is another by now."""
    return SourceError(
        f"{address} has changed since it was opened: its content is not the same any more; "
        "open it again to analyse the new content."
    )


def patiently(ask: Callable[[], T]) -> T:
    """Return what `ask` returns, asking a few times while the server is busy or unreachable."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return ask()
        except (TransientError, Throttled) as error:
            pause = error.retry_after or _PAUSE * 4**attempt
            if pause > _LONGEST_PAUSE:
                raise
        time.sleep(pause)
    return ask()
