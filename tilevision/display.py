"""What people see: text, pictures in notebooks, and standard error, for which no work stops."""

from __future__ import annotations

import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

__all__ = [
    "PICTURE_BYTES",
    "ErrorStream",
    "is_live",
    "loaded",
    "loading",
    "printable",
    "readable",
    "smaller",
]

PICTURE_BYTES = 280_000  # of base64: with its text, an output adds less than 300 KB to a notebook


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


def printable(text: str) -> str:
    """Return `text` with what could steer a terminal replaced: labels come from models.

    File names and errors come from strangers, too. Line ends stay.
    """
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def smaller(jpeg: bytes) -> bytes:
    """Return the picture in at most `PICTURE_BYTES` of base64: coarser, and then smaller."""
    from PIL import Image

    factor, quality = 1, 85
    smallest = jpeg
    while len(smallest) * 4 / 3 > PICTURE_BYTES:
        factor, quality = (factor, quality - 15) if quality > 55 else (2 * factor, 85)
        out = io.BytesIO()
        with Image.open(io.BytesIO(jpeg)) as picture:
            picture.reduce(factor).save(out, "JPEG", quality=quality)
        smallest = out.getvalue()
    return smallest


STALLED_SECONDS = 1.0  # between two looks whether a reader that stands still reads again
PATIENCE_SECONDS = 0.02
AT_ONCE = 4096  # bytes for which a pipe that says it is ready has room (POSIX: at least 512)
SILENT_SECONDS = 60.0  # after a failed write: a reader that has gone does not come back


class ErrorStream:
    """``sys.stderr``, looked up anew for each write. What it refuses is dropped, never raised.

    There may be none (``pythonw``, a service), its reader may have gone, its disk may be full. A
    reader that stands still (a pager, ``| sleep 1000``, Ctrl-S) would hold the work up: what it
    does not take is dropped, and it is told so once it reads again.

    Parameters
    ----------
    patience : float
        Seconds to wait for a reader that stands still.
    """

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._silent_until = 0.0
        self._dropped = 0
        self._lock = threading.Lock()

    @property
    def encoding(self) -> str:
        """The encoding of ``sys.stderr``, or UTF-8."""
        return getattr(sys.stderr, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write `text` as far as that is possible."""
        if sys.stderr is not None and time.monotonic() >= self._silent_until:
            try:
                self._write(sys.stderr, text)
            except (OSError, ValueError):  # ValueError: it was closed, or cannot encode it
                self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush as far as that is possible."""
        if sys.stderr is not None and time.monotonic() >= self._silent_until:
            try:
                if not self._dropped:
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

    def _write(self, stream: TextIO, text: str) -> None:
        """Write as much as the reader takes; drop the rest, and note that."""
        if not isinstance(stream, io.TextIOWrapper):  # a notebook's, or another that takes all
            stream.write(text)
            return
        if self._dropped and _takes_more(stream, 0.0):
            stream.write(f"\n(The reader stood still: {self._dropped} messages are left out.)\n")
            stream.flush()
            self._dropped = 0
        step = AT_ONCE // 4  # a character takes four bytes at most
        for start in range(0, len(text), step):
            if not _takes_more(stream, 0.0 if self._dropped else self._patience):
                self._dropped += 1
                self._silent_until = time.monotonic() + STALLED_SECONDS
                return
            stream.write(text[start : start + step])
            stream.flush()

    def _give_up(self) -> None:
        """Write nothing for a while, and forget what could not be written.

        Python would try that once more at its end, and exit with 120 over it.
        """
        with self._lock, suppress(OSError, ValueError):
            self._silent_until = time.monotonic() + SILENT_SECONDS
            stream = sys.stderr
            if stream is sys.__stderr__ and stream is not None:
                _forget(stream)


def _takes_more(stream: TextIO, patience: float) -> bool:
    """Return True if a stream takes `AT_ONCE` bytes without a wait, as far as can be known."""
    if sys.platform == "win32":  # only sockets can be asked there
        return True
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return bool(poll.poll(1000 * patience))
    except (OSError, ValueError):  # what is wrong shows when it is written to
        return True


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


LOADING = "Loading tilevision …"


class _Loading:
    """The line that says that the package is being loaded; shown once in a process."""

    def __init__(self) -> None:
        self.due = True
        self.erase: Callable[[], None] = lambda: None


_loading = _Loading()


@contextmanager
def loading() -> Iterator[None]:
    """Within the block, show that the package is being loaded, where somebody sees that.

    Loading takes the longest part of the time until anything of a run can be shown. A terminal's
    line is erased at the end. In a notebook it stays until a run has begun or the cell ends, so
    that what the cell shows follows it.
    """
    due, _loading.due = _loading.due, False
    stream = ErrorStream()
    if due and stream.isatty():
        stream.write(LOADING)
        stream.flush()
    elif due and is_live(stream):
        _show_in_cell()
    try:
        yield
    finally:
        if due and stream.isatty():
            stream.write("\r\x1b[K")
            stream.flush()


def loaded() -> None:
    """Erase the line of `loading`, where it is still shown."""
    _loading.erase()


def _show_in_cell() -> None:
    """Show the line below the current cell until that has ended, at the latest."""
    with suppress(Exception):  # whatever a kernel lacks, the work goes on
        from IPython import display, get_ipython

        events: Any = get_ipython().events
        show: Any = display.display  # carries no types
        handle = show(_line(LOADING), raw=True, display_id=True)

        def erase(_: object = None) -> None:
            events.unregister("post_run_cell", erase)
            _loading.erase = lambda: None
            handle.update(_line(""), raw=True)

        events.register("post_run_cell", erase)
        _loading.erase = erase


def _line(text: str) -> dict[str, str]:
    return {"text/plain": text, "text/html": f"<em>{text}</em>" if text else ""}
