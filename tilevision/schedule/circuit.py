"""Notices that the backend, not the tiles, is failing: slows down, then asks to pause.

Evidence are tiles that fail one after the other with no success in between. It counts only
while as many untried tiles remain: there must be something to protect, and a tail of bad
tiles being retried is no outage.
"""

from __future__ import annotations

from tilevision.errors import Failure
from tilevision.schedule.policy import Backoff, asked_for
from tilevision.schedule.tilestates import Task, TileState

__all__ = ["Circuit"]

IN_A_ROW = 10  # failed tiles that make an outage, or a window's worth where that is more
BRAKE = 3  # busy or unreachable so often in a row: one tile at a time, with waits between
DIED = ("workers",)
PROBES = 8  # single tiles that fail before it is an outage: a minute and a half by default


class Circuit:
    """Counts failures in a row.

    A backend that is busy, or hosted and unreachable, is first probed with single tiles
    at growing intervals, since most such outages pass.

    Parameters
    ----------
    backoff : Backoff
    hosted : bool
    """

    def __init__(self, backoff: Backoff, *, hosted: bool) -> None:
        self._backoff = backoff
        self._hosted = hosted
        self._proven = False
        self.reset()

    def reset(self) -> None:
        """Forget all failures: the user has resumed the run."""
        self._row: set[int] = set()
        self._kind: tuple[str, ...] = ()
        self._last: Failure | None = None
        self._trouble = 0
        self._rounds = 0
        self._probe: Task | None = None
        self.shut = False
        self.shut_until = 0.0

    @property
    def probing(self) -> bool:
        """Return True if a single tile is on its way to see if the backend is back."""
        return self._probe is not None

    @property
    def trouble(self) -> str:
        """The last failure, for people."""
        return str(self._last) if self._last else ""

    def succeeded(self) -> None:
        """Note a tile that came back well."""
        self._proven = True
        if self._last is not None:
            self.reset()

    def failed(self, state: TileState, failure: Failure, task: Task, now: float) -> None:
        """Count a tile that failed in `task`.

        Refusals, errors and timeouts add up; permanent errors only where they are the same.
        """
        permanent = failure.kind == "permanent"
        self._count((failure.error, failure.message) if permanent else (), state.order, failure)
        if failure.kind == "throttled" or (self._hosted and not permanent):
            self._trouble += 1
            if self._trouble >= BRAKE:
                self._brake(failure, task, now)

    def died(self, failure: Failure, now: float) -> None:
        """Count a worker's death, until something has succeeded: few bad tiles can kill many."""
        if not self._proven:
            self._count(DIED, int(now), failure)  # what is lost in the same second died together

    def _count(self, kind: tuple[str, ...], item: int, failure: Failure) -> None:
        if kind != self._kind:
            self.reset()
        self._kind, self._last = kind, failure
        self._row.add(item)

    def sent(self, task: Task) -> None:
        """Note a task; the first one after the circuit shut is its probe."""
        if self.shut and self._probe is None:
            self._probe = task

    def closed(self, task: Task) -> None:
        """Note that a task is over, whatever became of it."""
        if self._probe is task:
            self._probe = None

    def protects(self, untried: int) -> bool:
        """Return True if slowing down spares enough tiles to be worth it."""
        return self.shut and untried >= IN_A_ROW

    def outage(self, window: int, untried: int) -> str:
        """Return why the run should pause; empty while it should not."""
        died = self._kind == DIED
        enough = IN_A_ROW if died else max(IN_A_ROW, window)
        if len(self._row) < enough or untried < enough:
            return ""
        if self.shut and self._rounds < PROBES:
            return ""
        what = "workers died before any tile was done" if died else "tiles in a row failed"
        return (
            f"{len(self._row)} {what} (last error: {self.trouble}). Fix the cause, then "
            "call run.resume()."
        )

    def _brake(self, failure: Failure, task: Task, now: float) -> None:
        wait = asked_for(failure)
        if not self.shut or task is self._probe:  # not one sent before the circuit shut
            self._rounds += 1
            wait = max(self._backoff.bound(self._rounds), wait)
        self.shut = True
        self.shut_until = max(self.shut_until, now + wait)
