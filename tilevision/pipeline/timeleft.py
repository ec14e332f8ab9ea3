"""When a run will end: foretold where that holds within a factor of 1.5, and nowhere else.

What a run says of itself (`Run.estimate`) and what is shown of one are the same: both come from
here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilevision.events import TileChanged
from tilevision.status import TileStatus

__all__ = ["TimeLeft"]

RATE_TILES = 32
# Tiles that have to be timed before anything is foretold: this share, between these numbers.
ENOUGH_SHARE, ENOUGH_LEAST, ENOUGH_TILES = 0.1, 3, 100
# Times the tiles looked at at once: the first of them end together, the last ones by chance.
FIRST_WAVES, LAST_WAVES = 2.5, 1.5
MOST_WAITING = 0.25  # of the open tiles, for another attempt


@dataclass(frozen=True, slots=True, eq=False)
class TimeLeft:
    """What decides on it. Times are seconds since the epoch.

    Parameters
    ----------
    done : array (n,)
        When tiles became done since the run was started or resumed, in order; of several models
        those of the last one, once it has any.
    begun : array (m,)
        When each of the tiles under way was begun.
    n_open : int
        Tiles that may still change.
    n_waiting : int
        Those of them that wait to be tried again.
    at_once : int
        The most tiles that were looked at at once since the run was started or resumed.
    more_to_come : bool
        Whether a model has tiles to look at that another has first.
    """

    done: NDArray[np.float64]
    begun: NDArray[np.float64]
    n_open: int
    n_waiting: int
    at_once: int
    more_to_come: bool

    @classmethod
    def of(
        cls, rows: Iterable[TileChanged], label: str, since: float, at_once: int, *, more: bool
    ) -> TimeLeft:
        """Return what the latest events of all tiles say.

        Parameters
        ----------
        rows : iterable of TileChanged
        label : str
            The model that is at work.
        since : float
            When the run was started or resumed.
        at_once : int
        more : bool
            Whether another model's tiles follow.
        """
        kept = list(rows)
        own = [
            row.time
            for row in kept
            if row.status == TileStatus.DONE and row.time > since and row.model == label
        ]
        again = (TileStatus.RETRYING, TileStatus.THROTTLED)
        return cls(
            np.sort(np.array(own, dtype=np.float64)),
            np.array([row.time for row in kept if row.status == TileStatus.RUNNING]),
            sum(TileStatus(row.status).open for row in kept),
            sum(row.status in again for row in kept),
            at_once,
            more,
        )

    def rate(self, now: float) -> float | None:
        """Return the tiles per second that become done; None until that can be known.

        Over the latest half of the tiles done, at least `RATE_TILES` of them; not over those
        that came first, as many as are looked at at once: they waited for the cluster and for
        models, and then ended together.
        """
        done = self.done
        n = len(done)
        if n < 2:
            return None
        ahead = self.at_once if n > self.at_once else 1
        first = done[max(ahead - 1, n - max(RATE_TILES, n // 2) - 1, 0)]
        counted = int((done > first).sum())
        span = max(now, done[-1]) - first
        return counted / span if counted and span > 0 else None

    def seconds(self, now: float) -> float | None:
        """Return the seconds until all tiles have ended; None where that cannot be told."""
        rate = self.rate(now)
        if not rate or self.doubt(now):
            return None
        if self.at_once > 1:  # as some are half done, others wait for the last one at the end
            return self.n_open / rate
        under_way = float(((now - self.begun) * rate).clip(0, 1).sum())
        return max(self.n_open - under_way, 0.1) / rate

    def doubt(self, now: float) -> str:
        """Return why nothing can be told, in words; empty where something can."""
        if self.more_to_come:  # nobody knows yet which tiles it will have to look at
            return "a further model follows"
        n_done = len(self.done)
        enough = min(max(ENOUGH_SHARE * (n_done + self.n_open), ENOUGH_LEAST), ENOUGH_TILES)
        if not self.rate(now) or n_done < max(enough, FIRST_WAVES * self.at_once):
            return "too few tiles are timed"
        if self.n_waiting > MOST_WAITING * self.n_open:
            return "many tiles wait to be tried again"
        if self.at_once > 1 and self.n_open <= LAST_WAVES * self.at_once:
            return "the last tiles are under way"
        return ""
