"""How many tiles go into one task: enough that Dask's cost per task does not matter."""

from __future__ import annotations

import math

__all__ = ["Batches"]

TARGET_SECONDS = 0.175  # the middle of 100 to 250 ms
LARGEST = 128
HOSTED_TASKS = 30  # a second: beyond, Dask's work beside the calls takes much of two processors
FASTER, SLOWER = 0.5, 0.2  # a slow first task (a model being built) is soon forgotten


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
