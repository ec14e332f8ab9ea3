"""What a model printed before it failed, which often says more than its error.

Only what Python code of the calling thread writes to ``sys.stdout`` and ``sys.stderr`` is kept;
it reaches them as well.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["noting_what_is_printed"]

LINES = 6
CHARACTERS = 600
HEADING = "Printed before it failed:\n"
_NAMES = ("stdout", "stderr")

_lock = threading.Lock()
_listening = 0
_kept = threading.local()


class _Copying:
    """A stream that hands everything on, and keeps the end of what its caller's thread writes.

    Whoever got hold of it (a logging handler) may use it for ever: it is transparent.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        kept = getattr(_kept, "text", None)
        if kept is not None:
            _kept.text = (kept + text)[-4 * CHARACTERS :]
        written: int = self._stream.write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def noting_what_is_printed() -> Iterator[None]:
    """Within the block, add the last lines that were printed to whatever error is raised.

    They become a note of the error: 6 lines and 600 characters at most.
    """
    outer, _kept.text = getattr(_kept, "text", None), ""
    _enter()
    try:
        yield
    except BaseException as error:
        _note(error, _kept.text)
        raise
    finally:
        _kept.text = outer
        _leave()


def _note(error: BaseException, text: str) -> None:
    # Progress bars go back to the beginning of their line.
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    said = "\n".join([line for line in lines if line][-LINES:])[-CHARACTERS:]
    # The same error may be raised again and again.
    noted = getattr(error, "__notes__", ())
    if not isinstance(noted, (list, tuple)):  # anybody may set it to anything
        return
    notes = [note for note in noted if not str(note).startswith(HEADING)]
    if said:
        notes.append(HEADING + said)
    if notes:
        error.__notes__ = notes


def _enter() -> None:
    global _listening  # noqa: PLW0603 - the streams are the process's too
    with _lock:
        _listening += 1
        for name in _NAMES:
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _Copying):
                setattr(sys, name, _Copying(stream))


def _leave() -> None:
    global _listening  # noqa: PLW0603 - as above
    with _lock:
        _listening -= 1
        for name in _NAMES if not _listening else ():
            stream = getattr(sys, name)
            if isinstance(stream, _Copying):
                setattr(sys, name, stream._stream)  # noqa: SLF001 - of this module's own class
