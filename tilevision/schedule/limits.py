"""How much may be on its way: tiles in flight, requests a minute, tiles to a task."""

from __future__ import annotations

import math

from tilevision.schedule.policy import Policy

__all__ = ["HOSTED_CAP", "Batches", "Bucket", "Window"]

HOSTED_CAP = 32  # requests at once where neither a quota nor a number was given
MINUTE = 60.0
BURST = 20  # a twentieth of the quota at once; what the burst takes, the steady rate gives up
TARGET_SECONDS = (
    0.175  # for a task: the middle of 100 to 250 ms, so that its overhead does not matter
)
LARGEST = 128
HOSTED_TASKS = 30  # a second: beyond, Dask's work beside the calls takes much of two processors
FASTER, SLOWER = 0.5, 0.2  # a slow first task (a model being built) is soon forgotten


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


class Batches:
    """The automatic batch size, from measured seconds per tile.

    A hosted model's tiles are all asked about at once, and their task lasts as long as the
    slowest of them: batches stay as small as the number of tasks a second allows.

    Parameters
    ----------
    fixed : int, optional
        The batch size where the user gave one.
    model_batch : int
        Tiles that the model takes at once; automatic sizes are multiples of it.
    hosted : bool
        Whether tiles wait on a network.
    """

    def __init__(self, fixed: int | None, model_batch: int, *, hosted: bool = False) -> None:
        self._fixed = fixed
        self._unit = model_batch
        self._hosted = hosted
        self._seconds: float | None = None
        self.size = fixed or 1

    def measured(self, seconds: float, tiles: int) -> None:
        """Learn from a task that took `seconds` for `tiles`; at most doubles the size."""
        if seconds <= 0 or tiles < 1:
            return
        each = seconds if self._hosted else seconds / tiles
        if self._seconds is None:
            self._seconds = each
        else:
            weight = FASTER if each < self._seconds else SLOWER
            self._seconds += weight * (each - self._seconds)
        if self._fixed is None and not self._hosted:
            wanted = min(LARGEST, 2 * self.size, int(TARGET_SECONDS / self._seconds))
            self.size = max(self._unit, self.whole(wanted))

    def next(self, untried: int, threads: int, window: int) -> int:
        """Return the size of the next batch: the last tiles are shared among the threads.

        Parameters
        ----------
        untried : int
        threads : int
        window : int
            Tiles that may be in flight.
        """
        if self._fixed:
            return self._fixed
        size = self._sustained(window, threads) if self._hosted else self.size
        return min(size, max(self._unit, -(-untried // threads)))

    def _sustained(self, window: int, threads: int) -> int:
        """Return the size with which a full window of calls is `HOSTED_TASKS` tasks a second."""
        tasks = HOSTED_TASKS * (1.0 if self._seconds is None else self._seconds)
        size = min(LARGEST, math.ceil(window / tasks), window // (2 * threads))
        return max(self._unit, self.whole(size))

    def whole(self, size: int) -> int:
        """Return `size`, cut to whole batches of the model where it is larger than one."""
        return size if self._fixed or size < self._unit else size - size % self._unit


def _above(threads: int) -> int:
    """Return a little more than `threads`, so that each finds its next task waiting."""
    return threads + min(threads, max(2, threads // 4))
