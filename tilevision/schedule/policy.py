"""How patient a run is: retries and the waits between them, quotas, limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tilevision.checks import is_number, positive, whole
from tilevision.errors import Failure, RunArgumentError

__all__ = ["Backoff", "Policy", "Quota", "Retry", "asked_for", "check_failure_limit"]


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
        whole("Retry attempts", self.attempts)
        waits = (self.wait, self.max_wait)
        if not all(map(is_number, waits)) or not 0 <= self.wait <= self.max_wait:
            raise RunArgumentError(
                f"Retry waits {self.wait!r:.80} up to {self.max_wait!r:.80} s; give wait= of 0 or "
                "more, and a max_wait= that is no less."
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
        if self.concurrency is not None:
            whole("Quota concurrency", self.concurrency)
        if self.per_minute is not None:
            positive("Quota per_minute", self.per_minute)


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
        Tiles to a task; None: so that a task takes about a quarter of a second.
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
            if (value := getattr(self, name)) is not None:
                whole(name, value)
        if self.timeout is not None:
            positive("timeout", self.timeout, what="seconds")
        check_failure_limit(self.max_failures)

    def failure_limit(self, tiles: int) -> int | None:
        """Return how many failed tiles of `tiles` stop the run; None: no number does."""
        limit = self.max_failures
        if limit is None:
            return None
        return int(limit) if limit >= 1 else max(1, math.ceil(limit * tiles - 1e-9))


def check_failure_limit(limit: Any) -> None:
    """Refuse what is neither a number of tiles nor a fraction of them.

    Raises
    ------
    RunError
    """
    if limit is None or (is_number(limit) and (0 < limit < 1 or (limit >= 1 and limit % 1 == 0))):
        return
    raise RunArgumentError(
        f"max_failures is {limit!r:.80}; give a count of 1 or more, a fraction between 0 and 1, or "
        "None."
    )


class Backoff:
    """Waits before another try; the same seed gives the same waits.

    Parameters
    ----------
    retry : Retry
    seed : int
    """

    def __init__(self, retry: Retry, seed: int) -> None:
        self._retry = retry
        self._random = Random(seed)  # noqa: S311 - jitter, not a secret

    def bound(self, failed: int) -> float:
        """Return the longest wait after `failed` failures, seconds."""
        doublings = min(failed - 1, 60)  # 2.0 ** 1024 would overflow
        return min(self._retry.max_wait, self._retry.wait * 2.0**doublings)

    def wait(self, failed: int, failure: Failure) -> float:
        """Return the seconds to wait after `failed` failures, the last being `failure`."""
        return max(self._random.uniform(0, self.bound(failed)), asked_for(failure))


def asked_for(failure: Failure) -> float:
    """Return the seconds that the backend asked to be left alone, 0 where it made no sense."""
    seconds = failure.retry_after
    return seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else 0.0
