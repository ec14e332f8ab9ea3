"""``tilevision runs --follow``: the progress of a run, shown in a terminal while it goes on."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import click

from tilevision.cli.failing import ExitCode, warn
from tilevision.display import printable
from tilevision.status import ImageStatus, RunStatus, TileStatus

if TYPE_CHECKING:
    from tilevision.events import Event, ImageChanged, RunChanged
    from tilevision.history import FollowedRun
    from tilevision.history.followedbatch import FollowedMany

__all__ = ["follow_images", "follow_run"]

LOOK_SECONDS = 0.25

TERMINAL_SECONDS = 0.25
FILE_SECONDS = 2.0
CLEAR_LINE = "\r\x1b[K"

_CODES: dict[str, ExitCode] = {
    RunStatus.COMPLETE: ExitCode.COMPLETE,
    RunStatus.BLOCKED: ExitCode.BLOCKED,
    RunStatus.INTERRUPTED: ExitCode.STOPPED,
}


def follow_run(run_id: str, checkpoint: str, *, as_json: bool) -> ExitCode:
    """Print what happens in a run, from its beginning until it ends.

    Returns
    -------
    ExitCode
        How the run ended; ``INTERRUPTED`` if Ctrl-C stopped following it.

    Raises
    ------
    RunError
        If there is no such run.
    """
    from tilevision.history import FollowedRun
    from tilevision.history.followedbatch import FollowedMany, is_of_many

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
    warn(f"Stopped following run {run_id}. The run continues.")
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
    """Prints a line for each notable event; in a terminal also the counts as they change."""

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
            f"Run {run.id}: {run.name} with {run.model.name}, {len(run.tiles):,} tiles, "
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
                line = _notable(told.get_nowait())
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


def _notable(event: Event) -> str:
    """Return a line about a failure, a wait, or the run as a whole; empty for anything else."""
    from tilevision.events import RunChanged, TileChanged

    if isinstance(event, RunChanged):
        return f"{event.status}: {event.reason}" if event.reason else ""
    if isinstance(event, TileChanged):
        if event.status != TileStatus.FAILED:
            return ""
        return f"Tile {event.tile.id} failed after {event.attempt} attempts: {event.error}"
    return event.message if event.stage in ("cluster", "model", "waiting") else ""


def follow_images(run: FollowedMany, *, as_json: bool) -> None:
    """Print what becomes of each image, from the beginning until the run ends."""
    terminal = sys.stdout.isatty() and not as_json
    if not as_json:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started))
        click.echo(
            printable(
                f"Run {run.id}: {len(run.names):,} images from {run.name} with {run.model}, "
                f"started {when}"
            )
        )
    while True:
        for event in run.news():
            line = json.dumps(asdict(event)) if as_json else _line(event)
            if line:
                click.echo((CLEAR_LINE if terminal else "") + printable(line))
        if terminal and not run.over:
            click.echo(CLEAR_LINE + printable(_progress(run)), nl=False)
        sys.stdout.flush()
        if run.over:
            break
        time.sleep(LOOK_SECONDS)
    if not as_json:
        click.echo((CLEAR_LINE if terminal else "") + printable(_progress(run)))


def _line(event: RunChanged | ImageChanged) -> str:
    from tilevision.events import RunChanged

    if isinstance(event, RunChanged):  # how it ended is the last line; not why
        lost = event.status == RunStatus.INTERRUPTED
        return f"{event.status}: {event.reason}" if lost else ""
    if event.status == ImageStatus.RUNNING:
        return ""
    if event.error:
        return f"{event.image}: {event.status}. {event.error}"
    tiles = f"{event.tiles:,} tile{'' if event.tiles == 1 else 's'}"
    return (
        f"{event.image}: {event.status}, {event.detections:,} detections in {tiles}, "
        f"{event.seconds:.1f} s"
    )


def _progress(run: FollowedMany) -> str:
    images = run.images.values()
    working = [image.image for image in images if image.status == ImageStatus.RUNNING]
    ended = len(images) - len(working)
    complete = sum(image.complete for image in images)
    words = f"{run.status}: {ended:,} of {len(run.names):,} images done, {complete:,} complete"
    if not working:
        return words
    return f"{words}; {'at' if not run.over else 'was at'} {working[0]}"
