"""Journals as they are read: from their start, or on from where they were read before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tilevision.errors import RunError
from tilevision.events.bus import Event
from tilevision.events.journal import from_line, is_listed, journal_parts, read_manifest

__all__ = ["JournalTail", "follow_journal", "read_journal"]

_CHUNK = 1 << 20


def read_journal(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Event]]:
    """Return the manifest of a journal and its events, in order.

    Torn lines, and kinds of events from later versions, are skipped.

    Raises
    ------
    RunError
        If there is no journal, or it does not start with a manifest.
    """
    manifest = read_manifest(path)
    return manifest, list(follow_journal(path, stop=lambda: True))


class JournalTail:
    """Reads what was appended to a journal since the last call. Keeps no file open in between.

    Once a later owner has begun a file of its own, what an earlier one may still add is not read:
    it has lost the run.

    Parameters
    ----------
    path : path
        Need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._first = self._path = Path(path)
        self._offset = 0
        self._there = False

    def read(self) -> Iterator[Event]:
        """Yield what was appended since; skip torn lines and kinds of later versions."""
        for line in self.lines():
            try:
                event = from_line(line)
            except ValueError:  # torn by a crash or a full disk; a later line is whole again
                continue
            if event is not None:
                yield event

    def lines(self) -> Iterator[bytes]:
        """Yield the complete lines appended since; skip the first, which is the manifest.

        Raises
        ------
        RunError
            If lines that were read are there no more: nobody can say what followed them.
        """
        self._there = self._there or is_listed(self._first)
        if not self._there:
            return
        yield from self._rest()
        for part in journal_parts(self._first)[1:]:
            if self._path == self._first or part.name > self._path.name:
                yield from self._rest()  # what was appended before the next owner came
                self._path, self._offset = part, 0
                yield from self._rest()

    def _rest(self) -> Iterator[bytes]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            if self._offset and not is_listed(self._path):
                raise self._gone() from None
            return
        with file:
            if os.fstat(file.fileno()).st_size < self._offset:
                raise self._gone()
            file.seek(self._offset)
            rest = b""
            while chunk := file.read(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    first = self._offset == 0
                    self._offset += len(line) + 1
                    if not first:
                        yield line

    def _gone(self) -> RunError:
        return RunError(
            f"The journal {self._path} was removed or cut short while it was read. What it said "
            "until then is shown; finished tiles are in the checkpoint."
        )


def follow_journal(
    path: str | os.PathLike[str], stop: Callable[[], bool], poll: float = 0.1
) -> Iterator[Event]:
    """Yield the events of a journal from its start, then as they are appended.

    Nothing is missed between history and live: both are the same file, read on.

    Parameters
    ----------
    path : path
        Need not exist yet.
    stop : callable
        Called whenever everything was read; once it returns True, what was appended
        meanwhile is still yielded, and then the iterator ends.
    poll : float
        Seconds between looks at the file.
    """
    tail, stopping = JournalTail(path), False
    while True:
        yield from tail.read()
        if stopping:
            return
        stopping = stop()
        if not stopping:
            time.sleep(poll)
