"""The journal: the history of a run, one file, one line per event, written as it happens."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tilevision.errors import CheckpointError, RunError
from tilevision.events.facts import Event
from tilevision.events.journalreader import read_manifest
from tilevision.events.lines import json_line, to_line
from tilevision.events.secrets import redact_settings

__all__ = ["JOURNAL_SCHEMA", "Journal"]

JOURNAL_SCHEMA = 1
LINES_HELD_BACK = 10_000

_log = logging.getLogger("tilevision.events")


class Journal:
    """A listener that appends each event to a file.

    The first line is the manifest. Each line is one write to a file opened for appending,
    so lines never mix. A disk that fills up does not end the run: it is logged once,
    `error` holds the reason, and the latest lines are kept and written once that works again.

    Parameters
    ----------
    path : path
        Its folder is made where it is missing. Readable by its owner only.
    manifest : mapping, optional
        Plain JSON types: ``id``, ``image``, ``model``, ``started`` (epoch), ``n_tiles`` and
        the run's settings. Secrets are replaced by ``***``. None appends to the existing
        journal; see `reopen`.

    Raises
    ------
    RunError
        If there already is a journal at `path`, or there is none to append to.
    CheckpointError
        If the file cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], manifest: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.error: OSError | None = None
        self._lock = threading.Lock()
        self._held_back: deque[bytes] = deque(maxlen=LINES_HELD_BACK)
        self._reported = False
        if manifest is None:
            read_manifest(path)
            self._torn = _ends_torn(self.path)
            self._file = _open(self.path, 0)
            return
        self._torn = False
        self._file = _open(self.path, os.O_CREAT | os.O_EXCL)
        raw = {"kind": "manifest", "schema": JOURNAL_SCHEMA, **redact_settings(manifest)}
        try:
            self._append(json_line(raw))
        except OSError as error:
            self.close()
            self.path.unlink(missing_ok=True)
            raise _unwritable(self.path, error) from error

    @classmethod
    def reopen(cls, path: str | os.PathLike[str]) -> Journal:
        """Append to the journal at `path`, on a new line where the last one is torn.

        Raises
        ------
        RunError
            If there is no journal with a manifest at `path`.
        CheckpointError
            If the file cannot be written.
        """
        return cls(path, None)

    def __call__(self, event: Event) -> None:
        """Append `event`; a disk that refuses raises nothing."""
        self.write(to_line(event))

    def write(self, line: bytes) -> None:
        """Append a line with its newline; a disk that refuses raises nothing."""
        with self._lock:
            if self._file < 0:
                return
            self._held_back.append(line)
            try:
                while self._held_back:
                    self._append(self._held_back[0])
                    self._held_back.popleft()
            except OSError as error:
                self._report(error)
            else:
                self.error = None

    def close(self) -> None:
        """Close the file; later events are ignored."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        """Write one line with one call; after a short write the next starts on a new line."""
        data = b"\n" + line if self._torn else line
        written = os.write(self._file, data)
        if written < len(data):
            self._torn = data[:written] != b"\n"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False

    def _report(self, error: OSError) -> None:
        self.error = error
        if not self._reported:
            self._reported = True
            _log.warning(
                "The journal %s cannot be written (%s); the run continues, and its latest events "
                "are written once that works again. %s",
                self.path,
                error.strerror,
                _remedy(error),
            )


def _open(path: Path, flags: int) -> int:
    no_links = getattr(os, "O_NOFOLLOW", 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | no_links | flags, 0o600)
    except OSError as error:
        if flags and os.path.lexists(path):
            raise RunError(
                f"There already is a journal {path}. Resume that run, or start one with another id."
            ) from error
        raise _unwritable(path, error) from error


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"The journal {path} cannot be written ({error.strerror}). {_remedy(error)}"
    )


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space on its disk, or use another checkpoint folder."
    return "Use another checkpoint folder."
