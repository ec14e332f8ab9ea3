"""The merged detections of a run: counted in the background, again and again while it is going."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tilevision.corrections import origins
from tilevision.status import RunStatus
from tilevision.view.jobs import JobQueue
from tilevision.view.mapping.mappainter import map_seen
from tilevision.view.picture.boxes import BoxLayer
from tilevision.view.picture.caption import Counted, region_words
from tilevision.view.picture.heatlayer import TileGroups, TileHeat
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.viewstate import ViewState

if TYPE_CHECKING:
    from tilevision.result import Result

__all__ = ["Counting", "count"]

REST_SECONDS = 0.3  # the least time between two counts while a run is going
SIGN_SECONDS = 0.1  # after which the page says that something is being counted
DRAWN_SECONDS = 0.5  # the longest that what follows a count waits for its picture
REST_FACTOR = 2.0  # times what the last count took


def count(
    result: Result,
    state: ViewState,
    *,
    heat: TileHeat | TileGroups | None = None,
    filtered: bool = False,
) -> Counted:
    """Return the detections of `result` as they are drawn and counted in place of the tiles'.

    Parameters
    ----------
    result : Result
    state : ViewState
        Of the run, as it was before `result` was looked up.
    heat : TileHeat or TileGroups, optional
    filtered : bool
        Whether the user filters: boxes of tiles that end later wait for the next count.
    """
    findings, region = result.findings, result.facts.region
    method = result.settings.method
    merged = "not merged" if method == "none" else f"merged by {method}"
    if not state.at_rest:
        merged = f"{merged.split(' by ', maxsplit=1)[0]} so far"
    hand = None
    corrected = result.correction_counts
    if corrected is not None and corrected.made:  # not if none of them finds its object
        hand = origins(findings) != "model"
        merged += ", corrected by hand"
    known = (state.index.get(found.tile) for found in result.tile_findings)
    return Counted(
        BoxLayer.of(findings, state.boxes.labels, hand),
        dict(Counter(map(str, findings.labels)).most_common()),
        merged,
        heat,
        maps=map_seen(result, state),
        tiles=None if filtered else frozenset(i for i in known if i is not None),
        of=state.version,
        by_hand=0 if hand is None else int(hand.sum()),
        region="" if region is None else region_words(region, result.source),
    )


class Counting:
    """Has a screen draw the merged detections, brought up to date as tiles end.

    Parameters
    ----------
    screen : Screen
    look : callable
        ``look(state)`` returns what is to be drawn, or None where that cannot be known; called
        on a thread of its own.
    jobs : JobQueue
        Where it counts.
    """

    def __init__(
        self, screen: Screen, look: Callable[[ViewState], Counted | None], jobs: JobQueue
    ) -> None:
        self._screen = screen
        self._look = look
        self._jobs = jobs
        self._seen: tuple[object, ...] = ()
        self._rest_until = 0.0
        self._timer: threading.Timer | None = None
        self._sign: threading.Timer | None = None
        self._signing = threading.Lock()

    def follow(self, state: ViewState) -> None:
        """Count again if `state` has more to count; called after each frame."""
        news = (self._screen.run, state.n_finished, state.version)
        if news == self._seen:
            return
        urgent = state.at_rest or state.run_status is RunStatus.PAUSED
        rest = self._rest_until - time.monotonic()
        if urgent or rest <= 0:
            self._seen = news
            self.again()
        elif self._timer is None or not self._timer.is_alive():
            # Nothing else may happen until then: the tiles that have ended are not forgotten.
            self._timer = threading.Timer(rest, self._screen.poke)
            self._timer.name, self._timer.daemon = "tilevision-view-rest", True
            self._timer.start()

    def again(self) -> None:
        """Count what is on the screen; from any thread."""
        self._jobs.put("count", self._count)
        state = self._screen.state
        with self._signing:
            if state is not None and state.at_rest and self._sign is None:
                self._sign = threading.Timer(SIGN_SECONDS, self._screen.working, (True,))
                self._sign.name, self._sign.daemon = "tilevision-view-sign", True
                self._sign.start()

    def then(self, job: Callable[[], None]) -> None:
        """Do `job` once what was counted is drawn, unless something newer is to be counted.

        Picture and count come first: what else is said of them takes longer.
        """

        def drawn() -> None:
            self._screen.await_frame(DRAWN_SECONDS)
            if not self._jobs.awaits("count"):
                job()

        self._jobs.put("then", drawn)

    def close(self) -> None:
        """Count no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._unsign()

    def _unsign(self) -> None:
        """Take the sign of work away."""
        with self._signing:
            if self._sign is not None:
                self._sign.cancel()
                self._sign.join()
                self._sign = None
                self._screen.working(False)

    def _count(self) -> None:
        run, state, began = self._screen.run, self._screen.state, time.monotonic()
        if state is None:
            return
        counted = None
        try:
            counted = self._look(state)
        finally:  # what cannot be counted is drawn tile by tile, and said to be that
            took = time.monotonic() - began
            self._rest_until = time.monotonic() + REST_FACTOR * took + REST_SECONDS
            self._screen.count(run, counted, state.version)
            self._unsign()
