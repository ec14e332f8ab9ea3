"""``tilevision runs --follow`` of many images: a line for each that is done."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tilevision.cli.failing import printable

if TYPE_CHECKING:
    from tilevision.events import ImageChanged, RunChanged
    from tilevision.history.followedmany import FollowedMany

__all__ = ["follow_images"]

LOOK_SECONDS = 0.25
CLEAR_LINE = "\r\x1b[K"


def follow_images(run: FollowedMany, *, as_json: bool) -> None:
    """Print what becomes of each image, from the beginning until the run is over."""
    terminal = sys.stdout.isatty() and not as_json
    if not as_json:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started))
        click.echo(
            printable(
                f"run {run.id}: {len(run.names):,} images of {run.name} with {run.model}, "
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

    if isinstance(event, RunChanged):
        return ""  # how it ended is the last line
    if event.status == "running":
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
    working = [image.image for image in images if image.status == "running"]
    ended = len(images) - len(working)
    complete = sum(image.status == "complete" and not image.error for image in images)
    words = f"{run.status}: {ended:,} of {len(run.names):,} images done, {complete:,} complete"
    if not working:
        return words
    return f"{words}; {'at' if not run.over else 'was at'} {working[0]}"
