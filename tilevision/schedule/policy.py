"""How patient a run is: retries, quotas, limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tilevision.errors import RunError

__all__ = ["Policy", "Quota", "Retry"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a tile is tried, and how long to wait in between.

    Waits are exponential with full jitter: uniform between 0 and
    ``min(max_wait, wait * 2 ** (attempt - 1))`` seconds, but never less than the backend
    asked for (``Retry-After``).

    Parameters
    ----------
    attempts : int
        Tries per tile, the first included. Worker deaths and throttling are counted apart.
    wait : float
        Seconds; the first upper bound.
    max_wait : float
        Seconds; the highest upper bound.
    """

    attempts: int = 3
    wait: float = 0.5
    max_wait: float = 30.0

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or self.attempts < 1:
            raise RunError(f"Retry attempts is {self.attempts!r}; give a whole number of 1 or more")
        if not 0 <= self.wait <= self.max_wait:
            raise RunError(
                f"Retry waits {self.wait} s up to {self.max_wait} s; give 0 or more, rising"
            )


@dataclass(frozen=True, slots=True)
class Quota:
    """What the backend allows; never exceeded.

    Parameters
    ----------
    concurrency : int, optional
        Requests in flight at once.
    per_minute : float, optional
        Requests started in any minute (token bucket).
    """

    concurrency: int | None = None
    per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "per_minute"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or value <= 0):
                raise RunError(f"Quota {name} is {value!r}; give a number above 0, or None")


@dataclass(frozen=True, slots=True)
class Policy:
    """All that the scheduler's decisions depend on besides what happens.

    Parameters
    ----------
    retry : Retry
    quota : Quota
    concurrency : int, optional
        Tiles in flight; None: a little above the threads, or the quota where hosted.
    batch_size : int, optional
        Tiles to a task; None: so that a task takes about 100 to 250 ms.
    timeout : float, optional
        Seconds a tile may run before it is given up. The first one of each process gets more,
        since the model is loaded with it: see `deadlines`.
    max_failures : int or float, optional
        Failed tiles (a count, or a fraction below 1 of the tiles to be analysed) that stop
        the run.
    hosted : bool
        Whether tiles wait on a network; a hosted model's worker is never restarted.
    model_batch : int
        Tiles the model takes at once; automatic batches are multiples of it.

    Raises
    ------
    RunError
        If a number is out of range; the message says which and what is allowed.
    """

    retry: Retry = field(default_factory=Retry)
    quota: Quota = field(default_factory=Quota)
    concurrency: int | None = None
    batch_size: int | None = None
    timeout: float | None = None
    max_failures: float | None = None
    hosted: bool = False
    model_batch: int = 1

    def __post_init__(self) -> None:
        for name in ("concurrency", "batch_size", "model_batch"):
            value = getattr(self, name)
            if value is not None and not _whole(value):
                raise RunError(f"{name} is {value!r}; give a whole number of 1 or more")
        if self.timeout is not None and not (_number(self.timeout) and self.timeout > 0):
            raise RunError(f"timeout is {self.timeout!r}; give seconds above 0, or None")
        limit = self.max_failures
        if limit is not None and not (_whole(limit) or (_number(limit) and 0 < limit < 1)):
            raise RunError(
                f"max_failures is {limit!r}; give a count of 1 or more, "
                "a fraction between 0 and 1, or None"
            )

    def failure_limit(self, tiles: int) -> int | None:
        """Return how many failed tiles of `tiles` stop the run; None: no number does."""
        limit = self.max_failures
        if limit is None:
            return None
        return int(limit) if limit >= 1 else max(1, math.ceil(limit * tiles - 1e-9))


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return _number(value) and value == int(value) and value >= 1  # type: ignore[operator,call-overload]  # a number
