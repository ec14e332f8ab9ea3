"""The error tree: everything tilevision raises on purpose.

Each message says what is wrong, where, and the remedy, in one line. A command-line
run prints that line and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from traceback import StackSummary, TracebackException, extract_tb
from typing import Any

from tilevision.display import readable

__all__ = [
    "Blocked",
    "CheckpointCorrupt",
    "CheckpointError",
    "CheckpointTooLarge",
    "ClusterError",
    "Failure",
    "GridArgumentError",
    "GridError",
    "IncompleteRun",
    "ModelArgumentError",
    "ModelError",
    "PermanentError",
    "RunArgumentError",
    "RunBusy",
    "RunError",
    "SourceError",
    "Throttled",
    "TilevisionError",
    "TransientError",
]

_FRAMES = 6
_PLACE_LIMIT = 2000
_FOREIGN = re.compile(
    rf"^{re.escape(str(Path(__file__).parent))}[/\\\\]"
    r"|[/\\](site|dist)-packages[/\\](dask|distributed|cloudpickle)[/\\]"
)


class TilevisionError(Exception):
    """Base of every error tilevision raises on purpose.

    Attributes
    ----------
    usage : object
        For adapters: what the failed call used (`tilevision.modelspec.Usage`), where it is known.
    """

    usage: Any = None


class SourceError(TilevisionError):
    """An image cannot be found, opened, read or understood."""


class GridError(TilevisionError):
    """A grid or a region is malformed, or does not fit the image."""


class ModelError(TilevisionError):
    """A model cannot be resolved, built or fingerprinted, or returned nonsense.

    Never retried: the same model on the same tile would do the same again.
    """


class CheckpointError(TilevisionError):
    """The checkpoint folder cannot be used: not writable, full, on a network share."""


class CheckpointTooLarge(CheckpointError):
    """One tile's findings have no form that fits the record limit."""


class CheckpointCorrupt(CheckpointError):
    """The checkpoint was not written by tilevision, or is damaged."""


class ClusterError(TilevisionError):
    """The Dask cluster cannot be started, reached or trusted with the work."""


class RunError(TilevisionError):
    """A run cannot start, continue or be found; also an argument that makes no sense."""


class RunArgumentError(RunError, ValueError):
    """An argument of a run, a merge or an export has a value that makes no sense."""


class GridArgumentError(GridError, ValueError):
    """An argument of a grid has a value that makes no sense."""


class ModelArgumentError(ModelError, ValueError):
    """An argument or a declaration of a model has a value that makes no sense."""


class IncompleteRun(RunError):
    """Some tiles failed and the caller asked for all of them (``strict=True``).

    Attributes
    ----------
    result : Result
        What was found in the tiles that did finish.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class RunBusy(RunError):
    """Another process is at work on this run."""


class Blocked(RunError):
    """Moderation refused the image, so no tile was analysed."""


class Throttled(TilevisionError):
    """For adapters: the backend asks for fewer requests.

    Attributes
    ----------
    retry_after : float or None
        Seconds the backend asked to be left alone, where it said so.
    """

    def __init__(self, message: str = "throttled", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TransientError(TilevisionError):
    """For adapters: failed now, may work on the next attempt.

    Attributes
    ----------
    retry_after : float or None
        Seconds the backend asked to be left alone, where it said so.
    """

    retry_after: float | None = None


class PermanentError(TilevisionError):
    """For adapters: will fail the same way however often it is tried."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it travels between processes: plain text, never an exception object.

    Parameters
    ----------
    kind : str
        ``"throttled"``, ``"transient"`` (worth another attempt), ``"permanent"``,
        ``"lost"`` (the worker died) or ``"timeout"``.
    error : str
        Name of the exception's class.
    message : str
        One line.
    retry_after : float, optional
        Seconds the backend asked to be left alone.
    traceback : str
        Where it came from: the last frames outside of tilevision and Dask, the chain of causes
        and the notes; at most 2,000 characters.
    """

    kind: str
    error: str
    message: str
    retry_after: float | None = None
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Sort `error` into a kind; whatever nobody declared permanent is transient."""
        kind = "transient"
        if isinstance(error, Throttled):
            kind = "throttled"
        elif isinstance(error, (PermanentError, ModelError, SourceError, CheckpointError)):
            kind = "permanent"
        return cls(
            kind=kind,
            error=type(error).__name__,
            message=readable(" ".join(_said(error).split())[:500]),
            retry_after=getattr(error, "retry_after", None),
            traceback=_where(error),
        )

    def __str__(self) -> str:
        return f"{self.error}: {self.message}" if self.message else self.error


def _said(error: BaseException) -> str:
    """Return the words of an error, whose class may be anybody's."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 whatever its author has done
        return "its message cannot be read"


def _where(error: BaseException) -> str:
    """Return the traceback of `error` with the frames that its author can do something about."""
    try:
        told = TracebackException.from_exception(error, limit=-50)
        _keep_own_frames(told, set())
        text = readable("".join(told.format()).rstrip())
    except Exception:  # noqa: BLE001 odd notes, a chain of causes without an end: its place at least
        frames = extract_tb(error.__traceback__, -50)
        own = [frame for frame in frames if not _FOREIGN.search(frame.filename)] or list(frames)
        lines = [*StackSummary.from_list(own[-_FRAMES:]).format(), type(error).__name__]
        text = readable("".join(["Traceback (most recent call last):\n", *lines]))
    if len(text) <= _PLACE_LIMIT:
        return text
    half = _PLACE_LIMIT // 2 - 3  # the first cause stands first, what came of it last
    return f"{text[:half]}\n...\n{text[-half:]}"


def _keep_own_frames(told: TracebackException, seen: set[int]) -> None:
    """Drop frames of tilevision and Dask, of the whole chain, where any other is left."""
    if id(told) in seen:
        return
    seen.add(id(told))
    own = [frame for frame in told.stack if not _FOREIGN.search(frame.filename)]
    told.stack = StackSummary.from_list((own or list(told.stack))[-_FRAMES:])
    for cause in (told.__cause__, told.__context__):
        if cause is not None:
            _keep_own_frames(cause, seen)
