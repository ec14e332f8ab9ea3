"""Reads journals: all at once, or while they grow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tilevision.errors import RunError
from tilevision.events.facts import Event
from tilevision.events.lines import from_line, parse_line

__all__ = ["JournalTail", "follow_journal", "journal_path", "read_journal", "read_manifest"]

BEGINNING_SECONDS = 1.0
_CHUNK = 1 << 20


def journal_path(folder: str | os.PathLike[str], run_id: str) -> Path:
    """Return the path of the journal of a run in a checkpoint folder."""
    return Path(folder).expanduser() / "runs" / f"{run_id}.jsonl"


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the first line of a journal: what the run is.

    Raises
    ------
    RunError
        If there is no journal, or it does not start with a manifest.
    """
    until = time.monotonic() + BEGINNING_SECONDS
    try:
        while True:
            with Path(path).open("rb") as file:
                line = file.readline()
                young = time.time() - os.fstat(file.fileno()).st_mtime < BEGINNING_SECONDS
            if line.endswith(b"\n") or not young or time.monotonic() > until:
                return _manifest(path, line)
            time.sleep(0.01)  # the file was just made, and its first line is on its way
    except OSError as error:
        raise RunError(f"There is no journal {path} ({error.strerror}).") from error


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

    Parameters
    ----------
    path : path
        Need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._offset = 0

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
        """Yield the complete lines appended since; skip the first, which is the manifest."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            rest = b""
            while chunk := file.read(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    first = self._offset == 0
                    self._offset += len(line) + 1
                    if not first:
                        yield line


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


def _manifest(path: str | os.PathLike[str], line: bytes) -> dict[str, Any]:
    try:
        raw = parse_line(line)
        if raw.pop("kind") == "manifest":
            return raw
    except ValueError:
        pass
    raise RunError(f"{path} is not a journal of tilevision: its first line is not a manifest.")
