"""How work shows its progress: bars of a run and of an image's preparation; lines in a log.

Drawing them never stops the work, and leaves a handful of lines where lines stay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tilevision.display import ErrorStream, is_live, printable
from tilevision.events import Event, RunChanged, StageDone, TileChanged, TileCounts
from tilevision.sources import StagingProgress, following, is_followed
from tilevision.status import RunStatus, TileStatus

__all__ = ["Bar", "ProgressBar", "log_events", "preparing"]

_SHOWN = (
    *(TileStatus.RESTORED, TileStatus.RETRYING),
    *(TileStatus.THROTTLED, TileStatus.FAILED),
)
_SAID = ("cluster", "model", "waiting")
# Where lines stay, the next is written after so many seconds and half as long as all took.
_FIRST_LINES = 3.0
_LATER_LINES = 300.0
_PATIENCE = 1.0  # seconds: what is over sooner is not worth a bar
# What is left is foretold in one place (`TimeLeft` of `estimate`), and not by tqdm as well.
WITHOUT_LEFT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
# Seconds between two questions for it, and so many times what an answer took: many tiles are read.
_ASK_EVERY, _ASK_SHARE = 1.0, 50


class Bar:
    """One line of progress on standard error, drawn over itself where somebody can see that.

    Elsewhere (a log, a pipe, a notebook without a browser) every drawing stays: there it is
    written as a line, more and more seldom, and once at its end.

    Parameters
    ----------
    total : float
    shown : bool
        False: nothing is drawn.
    delay : float
        Seconds before the first drawing: what is over sooner is not worth one.
    **look
        As `tqdm.tqdm` takes it: ``desc``, ``unit``, ``bar_format``, ….
    """

    def __init__(
        self, total: float, *, shown: bool = True, delay: float = 0.0, **look: Any
    ) -> None:
        from tqdm import tqdm

        if "desc" in look:
            look["desc"] = _line_of(look["desc"])
        self._stream = ErrorStream()
        self._shown = shown
        self._live = is_live(self._stream)
        self._began = time.monotonic()
        self._due = self._began + delay
        self._bar: Any = tqdm(
            total=total,
            file=self._stream if self._live else _Nowhere(self._stream),
            dynamic_ncols=True,
            disable=not shown,
            delay=delay,
            **look,
        )

    @property
    def done(self) -> float:
        """How far it is."""
        return float(self._bar.n)

    def move(self, done: float) -> None:
        """Draw how far it is now."""
        if done != self._bar.n:
            self._bar.update(done - self._bar.n)
        self._line()

    def describe(self, words: str) -> None:
        """Put `words` before the bar, from its next drawing on."""
        self._bar.set_description_str(_line_of(words), refresh=False)

    def mention(self, words: str) -> None:
        """Put `words` behind the bar, from its next drawing on."""
        self._bar.set_postfix_str(words, refresh=False)

    def note(self, line: str) -> None:
        """Write a line above the bar."""
        if not self._shown:
            return
        line = printable(line)
        if self._live:
            self._bar.write(line, file=self._stream)
        else:
            self._say(line)

    def close(self) -> None:
        """Draw the bar a last time, or remove it where ``leave=False`` was asked for."""
        if self._bar.disable:
            return
        if not self._live and (self._bar.leave or time.monotonic() >= self._due):
            self._say(str(self._bar))
        # What is live is left to tqdm: it removes only a bar that it has drawn by itself.
        self._bar.close()

    def _line(self) -> None:
        """Write the bar as a line where lines stay, if that is due."""
        now = time.monotonic()
        if self._shown and not self._live and now >= self._due:
            self._due = now + min(_FIRST_LINES + (now - self._began) / 2, _LATER_LINES)
            self._say(str(self._bar))

    def _say(self, line: str) -> None:
        self._stream.write(f"{line.strip()}\n")
        self._stream.flush()


def _line_of(words: str) -> str:
    """Return what a bar is labelled with, in one line: names of files may hold anything."""
    return printable(words.replace("\n", " "))


class _Nowhere:
    """Takes what tqdm draws where `Bar` writes lines instead."""

    def __init__(self, stream: ErrorStream) -> None:
        self.encoding = stream.encoding
        self.fileno = stream.fileno  # by which tqdm finds the width

    def write(self, text: str) -> int:
        """Take a drawing."""
        return len(text)

    def flush(self) -> None:
        """Do nothing."""


class ProgressBar:
    """Draws a run's progress on standard error.

    Parameters
    ----------
    name : str
        What the bar is labelled with.
    total : int
        Number of tiles, without those that are skipped.
    left : callable, optional
        Returns the seconds that are left, None where nobody can tell. Default: nobody is asked.
    """

    def __init__(
        self, name: str, total: int, left: Callable[[], float | None] = lambda: None
    ) -> None:
        self._bar = Bar(total, desc=name[:30], unit="tile", bar_format=WITHOUT_LEFT)
        self._counts = TileCounts()
        # Not at once: what is stored is restored first.
        self._left, self._ask_at, self._told_left = left, time.monotonic() + _ASK_EVERY, ""

    def __call__(self, event: Event) -> None:
        """Draw what one event changes."""
        if isinstance(event, TileChanged):
            self._tile(event)
        elif isinstance(event, StageDone) and event.message and event.stage in _SAID:
            self.note(event.message)
        elif isinstance(event, RunChanged) and event.reason:
            self.note(f"{event.status}: {event.reason}")

    def note(self, line: str) -> None:
        """Write a line above the bar."""
        self._bar.note(line)

    def close(self) -> None:
        """Draw the bar a last time; nothing is left then."""
        self._mention("")
        self._bar.close()

    def _mention(self, left: str) -> None:
        told = [f"{s}={self._counts[s]}" for s in _SHOWN if self._counts[s]]
        self._bar.mention(", ".join(filter(None, [left, *told])))

    def _tile(self, event: TileChanged) -> None:
        self._counts.change(event.tile.id, event.status)
        self._mention(self._words_left())
        self._bar.move(self._counts.ended - self._counts[TileStatus.SKIPPED])

    def _words_left(self) -> str:
        now = time.monotonic()
        if now >= self._ask_at:
            seconds = self._left()
            self._ask_at = now + _ASK_EVERY + _ASK_SHARE * (time.monotonic() - now)
            self._told_left = "" if seconds is None else f"about {_clock(seconds)} left"
        return self._told_left


def _clock(seconds: float) -> str:
    from tqdm import tqdm

    return str(tqdm.format_interval(seconds))


@contextmanager
def preparing(name: str, *, wanted: bool) -> Iterator[None]:
    """Within the block, draw on standard error how far an image without windows is decoded.

    Parameters
    ----------
    name : str
        What people call the image.
    wanted : bool
        False: nothing is drawn; nor is it where somebody else draws this already.
    """
    if not wanted or is_followed():
        yield
        return
    bar = _PreparationBar(name)
    with following(bar):
        try:
            yield
        finally:
            bar.close()


class _PreparationBar:
    """Draws the latest preparation; starts anew with another image."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Bar | None = None

    def __call__(self, preparation: StagingProgress) -> None:
        if self._bar is None or preparation.done < self._bar.done:
            self.close()
            self._bar = Bar(
                preparation.total,
                desc=f"preparing {self._name[-30:]} in {preparation.folder}",
                unit="B",
                unit_scale=True,
                leave=False,
                delay=_PATIENCE,
            )
        self._bar.move(preparation.done)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


_log = logging.getLogger("tilevision.run")
# A run tells all this on its bar and in its result: where nobody asked for a log, there is none.
_log.addHandler(logging.NullHandler())
_TROUBLE = (TileStatus.RETRYING, TileStatus.THROTTLED, TileStatus.FAILED)
_FINE = (RunStatus.RUNNING, RunStatus.COMPLETE)


def log_events(run_id: str, name: str) -> Callable[[Event], None]:
    """Return a listener that writes a run's events with the logger ``tilevision.run``.

    What the run does is INFO; attempts that failed, and an end that is not complete, WARNING.
    """

    def listen(event: Event) -> None:
        if isinstance(event, TileChanged):
            if event.status in _TROUBLE:
                words = (run_id, name, event.tile.id, event.status, event.attempt, event.error)
                _log.warning("Run %s of %s: tile %s %s, attempt %d: %s", *words)
        elif isinstance(event, RunChanged):
            level = logging.INFO if event.status in _FINE else logging.WARNING
            why = f": {event.reason}" if event.reason else ""
            _log.log(level, "Run %s of %s: %s%s", run_id, name, event.status, why)
        elif event.message:
            _log.info("Run %s of %s: %s: %s", run_id, name, event.stage, event.message)

    return listen
