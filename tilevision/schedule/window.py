"""How much may be in flight: the window, halved when throttled, grown by success."""

from __future__ import annotations

import math

from tilevision.schedule.policy import Policy

__all__ = ["Window"]

HOSTED_CAP = 32  # requests at once where neither a quota nor a number was given


class Window:
    """Tiles in flight, additive increase and multiplicative decrease (AIMD).

    Automatic and local, it is a little above the number of threads, in tasks: enough that
    no thread waits for the client, few enough that little is lost with a worker.

    Parameters
    ----------
    policy : Policy
    """

    def __init__(self, policy: Policy) -> None:
        self._quota = policy.quota.concurrency
        self._hosted = policy.hosted
        self._size: float | None = None
        self._explicit: int | None = None
        self.limit(policy.concurrency)
        self._last_cut = 0

    def limit(self, concurrency: int | None) -> None:
        """Set the number of tiles; None is automatic. The quota holds in any case."""
        given = [n for n in (concurrency, self._quota) if n is not None]
        self._explicit = max(1, min(given)) if given else None

    def tasks(self, threads: int) -> float:
        """Return how many tasks may be in flight; infinity where only tiles are counted."""
        if self._hosted or self._explicit is not None:
            return math.inf
        return _above(threads)

    def tiles(self, threads: int, batch: int) -> int:
        """Return how many tiles may be in flight or uncommitted, at least 1."""
        size = self._size
        if size is None:
            size = _above(threads) if self._hosted and self._explicit is None else math.inf
        return max(1, int(min(self._cap(threads, batch), size)))

    def share(self, threads: int) -> float:
        """Return the largest batch that leaves every thread its part of the window."""
        if self._hosted or self._explicit is None:
            return math.inf
        return max(1, self._explicit // max(1, threads))

    def succeeded(self, tiles: int, threads: int, batch: int) -> None:
        """Grow by one for every window's worth of tiles that came back well."""
        current = self.tiles(threads, batch)
        cap = self._cap(threads, batch)
        if self._size is None and current >= cap:
            return  # never cut: it follows the cap, whatever that becomes
        self._size = (self._size or current) + tiles / current
        if self._size >= cap:
            self._size = cap if self._hosted and self._explicit is None else None

    def throttled(self, task: int, latest: int, threads: int, batch: int) -> None:
        """Halve, but once for all tasks that were sent before the last cut.

        Parameters
        ----------
        task : int
            Serial of the task that was refused.
        latest : int
            Serial of the task sent last.
        threads, batch : int
        """
        if task > self._last_cut:
            self._size = max(1.0, self.tiles(threads, batch) / 2)
            self._last_cut = latest

    def _cap(self, threads: int, batch: int) -> int:
        if self._explicit is not None:
            return self._explicit
        if self._hosted:
            return max(HOSTED_CAP, _above(threads))
        return _above(threads) * batch


def _above(threads: int) -> int:
    """Return a little more than `threads`, so that each finds its next task waiting."""
    return threads + min(threads, max(2, threads // 4))
