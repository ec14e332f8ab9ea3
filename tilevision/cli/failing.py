"""How commands report errors: one line on standard error, and an exit code."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Any, NoReturn

import click

from tilevision.display import ErrorStream, printable
from tilevision.errors import (
    Blocked,
    ClusterError,
    GridError,
    ModelError,
    RunBusy,
    SourceError,
    TilevisionError,
)

__all__ = ["CommandGroup", "ExitCode", "interruptible", "resumable", "warn"]

# Whether anything is kept, the last line says.
ENDS = "\ntilevision: Interrupted. Tiles that have begun are finished; Ctrl-C again ends at once.\n"
_BAD_INPUT = (SourceError, GridError, ModelError, Blocked)


class ExitCode(IntEnum):
    """How a command ended."""

    COMPLETE = 0
    STOPPED = 1
    USAGE = 2
    MISSING = 3
    BLOCKED = 4
    INTERRUPTED = 130
    TERMINATED = 143


class CommandGroup(click.Group):
    """A group whose commands fail in one line, never with a traceback of an expected error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember the words of the command, for the line that resumes it."""
        ctx.obj = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; turn what it raises into a line and an exit code."""
        try:
            return super().invoke(ctx)
        except TilevisionError as error:
            _fail(error, _code(error))
        except (KeyboardInterrupt, click.Abort):
            warn("Interrupted.")
            raise SystemExit(ExitCode.INTERRUPTED) from None


@contextmanager
def interruptible(ctx: click.Context, *, keeps: bool) -> Iterator[None]:
    """Around work in progress: Ctrl-C prints the line that resumes it, and exits.

    At once it says what is waited for until then; pressed again, nothing is.

    Parameters
    ----------
    ctx : click.Context
        Of the command.
    keeps : bool
        True if finished tiles are in a checkpoint.
    """
    try:
        with _saying_that_it_ends():
            yield
    except KeyboardInterrupt:
        _say_resume(ctx, keeps)
        raise SystemExit(ExitCode.INTERRUPTED) from None
    except SystemExit as end:
        if end.code == ExitCode.TERMINATED:
            _say_resume(ctx, keeps)
        raise


@contextmanager
def _saying_that_it_ends() -> Iterator[None]:
    """Within the block, the first Ctrl-C is answered by a line before anything is waited for."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    pass_on = before

    def say(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, pass_on)
        with suppress(OSError):  # and no stream: this may have come in the middle of a write to it
            os.write(2, ENDS.encode())
        pass_on(number, frame)

    signal.signal(signal.SIGINT, say)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is say:
            signal.signal(signal.SIGINT, before)


@contextmanager
def resumable(ctx: click.Context, *, keeps: bool) -> Iterator[None]:
    """Like `interruptible`; an error that is not about the input prints that line, too."""
    with interruptible(ctx, keeps=keeps):
        try:
            yield
        except _BAD_INPUT:
            raise
        except TilevisionError as error:
            _say_error(error)
            _say_resume(ctx, keeps)
            raise SystemExit(ExitCode.STOPPED) from None


PATIENCE_SECONDS = 2.0  # for a line that matters; a reader that stands still longer misses it


def warn(line: str) -> None:
    """Write a line on standard error; that nobody can read it stops nothing."""
    stream = ErrorStream(PATIENCE_SECONDS)
    stream.write(f"tilevision: {printable(line)}\n")
    stream.flush()


def _code(error: TilevisionError) -> ExitCode:
    if isinstance(error, Blocked):
        return ExitCode.BLOCKED
    if isinstance(error, (ClusterError, RunBusy)):
        return ExitCode.STOPPED
    return ExitCode.USAGE


def _fail(error: TilevisionError, code: ExitCode) -> NoReturn:
    _say_error(error)
    raise SystemExit(code) from None


def _say_error(error: TilevisionError) -> None:
    warn("error: " + " ".join(str(error).split()))


def _say_resume(ctx: click.Context, keeps: bool) -> None:
    if not keeps:
        warn("Nothing was kept, because of --no-checkpoint.")
        return
    from tilevision.sources.addresses import address_of, is_address

    root = ctx.find_root()
    words = [address_of(word).shown if is_address(word) else word for word in root.obj]
    command = shlex.join([*(root.info_name or "tilevision").split(), *words])
    warn(f"Every finished tile is kept. To continue, run the same command again: {command}")
