"""The rate limit: a token bucket that holds in every minute, not only on average."""

from __future__ import annotations

import math

__all__ = ["Bucket"]

MINUTE = 60.0
BURST = 20  # a twentieth of the quota at once; what the burst takes, the steady rate gives up


class Bucket:
    """Tokens that come back steadily; each request takes one.

    A bucket of `b` tokens lets `b` requests through at once, then one every `1 / rate`
    seconds: at most ``b + ceil(60 * rate) - 1`` start in any half-open minute. The rate is
    set so that this is the quota.

    Parameters
    ----------
    per_minute : float, optional
        Requests that may start in any minute; None: as many as wanted.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute = per_minute
        self._last: float | None = None
        if per_minute is None:
            return
        whole = math.floor(per_minute) if per_minute >= 1 else per_minute
        self._capacity = max(1, int(whole // BURST))
        self._rate = (whole - self._capacity + 1 if whole >= 1 else whole) / MINUTE
        self._tokens = float(self._capacity)

    def available(self, now: float) -> float:
        """Return how many requests may start now: a whole number, or infinity."""
        if self.per_minute is None:
            return math.inf
        if self._last is None or now > self._last:
            gained = 0.0 if self._last is None else (now - self._last) * self._rate
            self._tokens = min(self._capacity, self._tokens + gained)
            self._last = now
        return math.floor(self._tokens)

    def take(self, requests: int) -> None:
        """Use up tokens that are available."""
        if self.per_minute is not None:
            self._tokens -= requests

    def ready_at(self, now: float) -> float:
        """Return when the next request may start; a millisecond late, for rounding."""
        if self.available(now) >= 1 or self._last is None:
            return now
        return self._last + (1 - self._tokens) / self._rate + 0.001
