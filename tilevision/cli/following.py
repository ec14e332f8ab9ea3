"""``tilevision runs --follow``: a run's progress, told in a terminal while it goes on."""

from __future__ import annotations

import sys
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import click

from tilevision.cli.failing import ExitCode, printable, warn
from tilevision.cli.followmany import follow_images

if TYPE_CHECKING:
    from tilevision.events import Event
    from tilevision.history import FollowedRun

__all__ = ["follow_run"]

TERMINAL_SECONDS = 0.25
FILE_SECONDS = 2.0
CLEAR_LINE = "\r\x1b[K"

_CODES = {
    "complete": ExitCode.COMPLETE,
    "blocked": ExitCode.BLOCKED,
    "interrupted": ExitCode.STOPPED,
}


def follow_run(run_id: str, checkpoint: str, *, as_json: bool) -> ExitCode:
    """Print what happens in a run, from its beginning until it is over.

    Returns
    -------
    ExitCode
        As the run ended; ``INTERRUPTED`` if Ctrl-C ended the following.

    Raises
    ------
    RunError
        If there is no such run.
    """
    from tilevision.history import FollowedRun
    from tilevision.history.followedmany import FollowedMany, is_of_many

    if is_of_many(run_id, checkpoint):
        many = FollowedMany(run_id, checkpoint)
        try:
            follow_images(many, as_json=as_json)
        except KeyboardInterrupt:
            return _left(run_id)
        return _CODES.get(many.status, ExitCode.MISSING)
    run = FollowedRun(run_id, checkpoint)
    told: SimpleQueue[Event] = SimpleQueue()
    leave = run.subscribe(told.put, history=True)
    try:
        if as_json:
            _print_events(run, told)
        else:
            _Screen(run).show(told)
    except KeyboardInterrupt:
        return _left(run_id)
    finally:
        leave()
    return _CODES.get(run.status, ExitCode.MISSING)


def _left(run_id: str) -> ExitCode:
    click.echo("", err=True)
    warn(f"no longer following run {run_id}; the run itself is not touched")
    return ExitCode.INTERRUPTED


def _print_events(run: FollowedRun, told: SimpleQueue[Event]) -> None:
    from tilevision.events import to_line

    over = False
    while not over:
        over = run.wait(TERMINAL_SECONDS)
        while not told.empty():
            click.echo(to_line(told.get()).decode("utf-8", "backslashreplace"), nl=False)
        sys.stdout.flush()


class _Screen:
    """Lines of what is worth telling; below them, in a terminal, the counts as they change."""

    def __init__(self, run: FollowedRun) -> None:
        self._run = run
        self._terminal = sys.stdout.isatty()
        self._counts = ""
        self._written = float("-inf")

    def show(self, told: SimpleQueue[Event]) -> None:
        """Print until the run is over."""
        run = self._run
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started))
        self._line(
            f"run {run.id}: {run.name} with {run.model.name}, {len(run.tiles):,} tiles, "
            f"started {when}"
        )
        over = False
        while not over:
            over = run.wait(TERMINAL_SECONDS)
            self._news(told)
            self._update(now=over)
        if self._terminal:
            click.echo("")

    def _news(self, told: SimpleQueue[Event]) -> None:
        while True:
            try:
                line = _worth_telling(told.get_nowait())
            except Empty:
                return
            if line:
                self._line(line)

    def _line(self, text: str) -> None:
        click.echo((CLEAR_LINE if self._terminal else "") + printable(text))
        if self._terminal:
            click.echo(self._counts, nl=False)

    def _update(self, *, now: bool) -> None:
        """Show the counts if they have changed; where lines stay, not too often."""
        counts = ", ".join(f"{n:,} {status}" for status, n in self._run.counts.items())
        text = printable(f"{self._run.status}: {counts}")
        waited = time.monotonic() - self._written
        if text == self._counts or not (now or self._terminal or waited > FILE_SECONDS):
            return
        self._counts, self._written = text, time.monotonic()
        click.echo(CLEAR_LINE + text if self._terminal else text, nl=not self._terminal)


def _worth_telling(event: Event) -> str:
    """Return a line about a failure, a wait, or the run as a whole; empty for anything else."""
    from tilevision.events import RunChanged, TileChanged

    if isinstance(event, RunChanged):
        return f"{event.status}: {event.reason}" if event.reason else ""
    if isinstance(event, TileChanged):
        if event.status != "failed":
            return ""
        return f"tile {event.tile.id} failed after {event.attempt} attempts: {event.error}"
    return event.message if event.stage in ("cluster", "model", "waiting") else ""
