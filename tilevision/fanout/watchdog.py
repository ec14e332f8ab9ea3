"""Notices that a run stands still, so that it never hangs without a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Watchdog"]

QUIET_SECONDS = 60.0
WORKERLESS_SECONDS = 5.0
REMIND_SECONDS = 60.0


@dataclass(slots=True)
class Watchdog:
    """Tells a listener, now and then, why nothing happens.

    Parameters
    ----------
    tell : callable
        Gets one line.
    now : float
        Seconds on the caller's clock, as in the methods.
    """

    tell: Callable[[str], None]
    now: float
    _moved: float = 0.0
    _worker_seen: float = 0.0
    _told: float | None = None

    def __post_init__(self) -> None:
        self._moved = self._worker_seen = self.now

    def moved(self, now: float) -> None:
        """Note that a task came back."""
        self._moved = now
        self._told = None

    def saw(self, workers: int, now: float) -> None:
        """Note how many workers there are."""
        if workers:
            if self.workerless(now) >= WORKERLESS_SECONDS:
                self._told = None
            self._worker_seen = now

    def workerless(self, now: float) -> float:
        """Return for how many seconds no worker was seen."""
        return now - self._worker_seen

    def check(self, flying: int, now: float) -> None:
        """Say what is wrong if something is, at most once a minute.

        Parameters
        ----------
        flying : int
            Tasks that were submitted and have not come back.
        now : float
        """
        line = self._complaint(flying, now)
        if line and (self._told is None or now - self._told >= REMIND_SECONDS):
            self._told = now
            self.tell(line)

    def _complaint(self, flying: int, now: float) -> str:
        gone = self.workerless(now)
        if gone >= WORKERLESS_SECONDS:
            return f"the Dask cluster has had no worker for {gone:.0f} s; waiting for one"
        quiet = now - self._moved
        if flying and quiet >= QUIET_SECONDS:
            return (
                f"no tile has come back for {quiet:.0f} s ({flying} tasks under way); "
                "timeout= gives up on tiles that take too long"
            )
        return ""
