"""When a tile is tried again: exponential backoff with full jitter, Retry-After as a floor."""

from __future__ import annotations

import math
from random import Random

from tilevision.errors import Failure
from tilevision.schedule.policy import Retry

__all__ = ["Backoff"]


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
