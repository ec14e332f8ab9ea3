"""Text for people, and standard error to show progress on: the work never stops for it."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import TextIO

__all__ = ["ErrorStream", "is_live", "readable"]


def readable(text: str) -> str:
    """Return `text` so that every output can hold it; a byte of a name that is no UTF-8 as ``%E9``.

    Python hands such bytes on as lone surrogates, which tables, XML and GeoPackages refuse.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(map(_readable, text))
    return text


def _readable(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"%{ord(char) - 0xDC00:02X}"
    return "\ufffd" if "\ud800" <= char <= "\udfff" else char


SILENT_SECONDS = 60.0  # after a failed write: a reader that has gone does not come back


class ErrorStream:
    """``sys.stderr``, looked up anew for each write. What it refuses is dropped, never raised.

    There may be none (``pythonw``, a service), its reader may have gone, its disk may be full.
    """

    def __init__(self) -> None:
        self._silent_until = 0.0
        self._lock = threading.Lock()

    @property
    def encoding(self) -> str:
        """The encoding of ``sys.stderr``, or UTF-8."""
        return getattr(sys.stderr, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write `text` as far as that is possible."""
        if sys.stderr is not None and time.monotonic() >= self._silent_until:
            try:
                sys.stderr.write(text)
            except (OSError, ValueError):  # ValueError: it was closed, or cannot encode it
                self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush as far as that is possible."""
        if sys.stderr is not None and time.monotonic() >= self._silent_until:
            try:
                sys.stderr.flush()
            except (OSError, ValueError):
                self._give_up()

    def isatty(self) -> bool:
        """Return True if it is a terminal."""
        with suppress(OSError, ValueError):
            return sys.stderr is not None and bool(sys.stderr.isatty())
        return False

    def fileno(self) -> int:
        """Return its file descriptor; `OSError` where it has none."""
        if sys.stderr is None:
            raise OSError("there is no standard error")
        return sys.stderr.fileno()

    def _give_up(self) -> None:
        """Write nothing for a while, and forget what could not be written.

        Python would try that once more at its end, and exit with 120 over it.
        """
        with self._lock, suppress(OSError, ValueError):
            self._silent_until = time.monotonic() + SILENT_SECONDS
            stream = sys.stderr
            if stream is sys.__stderr__ and stream is not None:
                _forget(stream)


def _forget(stream: TextIO) -> None:
    """Let what is buffered for a stream go nowhere."""
    number = stream.fileno()
    kept, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, number)
        stream.flush()
    finally:
        os.dup2(kept, number)
        os.close(kept)
        os.close(nowhere)


def is_live(stream: ErrorStream) -> bool:
    """Return True if somebody sees a line that is drawn over itself: a terminal, a notebook.

    A notebook that is executed without a browser keeps every drawing of it, as a log file does.
    Jupyter's server and Visual Studio Code name themselves to the kernels that they start.
    """
    if stream.isatty():
        return True
    notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return notebook and any(name in os.environ for name in ("JPY_SESSION_NAME", "VSCODE_PID"))
