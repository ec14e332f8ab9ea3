"""Carries the passes of a run out, one after the other, on one cluster."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

from tilevision.cluster import Cluster, find_cluster, reported
from tilevision.errors import RunError
from tilevision.fanout import run_tiles
from tilevision.grid import Tile
from tilevision.infer import Work
from tilevision.pipeline.commands import Commands
from tilevision.pipeline.commits import commit
from tilevision.pipeline.passes import Pass, Store
from tilevision.pipeline.planning import Plan
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.state import RunState
from tilevision.pipeline.tilebook import TileBook
from tilevision.schedule import Policy, Quota, Scheduler
from tilevision.schedule.happenings import Announce, End, Happening, Paused, RetryFailed

__all__ = ["Passage"]

_CUT_SHORT = ("stopped", "cancelled")


_SETTLED = ("done", "restored", "failed", "skipped")


@dataclass(slots=True, eq=False)
class _Leg:
    """Tiles that were sent through a pass together, and how that ended."""

    scheduler: Scheduler
    end: End = End("complete")  # noqa: RUF009 - frozen

    def failed(self, among: frozenset[Tile] | None) -> frozenset[Tile]:
        """Return the failed tiles: all, or those `among` some."""
        mine = frozenset(self.end.failures)
        return mine if among is None else mine & among


class _Ground:
    """The cluster of a run: found when the first tile needs it, held until the last is through."""

    def __init__(self, settings: Settings, state: RunState) -> None:
        self._settings = settings
        self._state = state
        self._stack = ExitStack()
        self._cluster: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        if self._cluster is None:
            began = time.perf_counter()
            settings, state = self._settings, self._state
            cluster, note = find_cluster(settings.client, settings.workers)
            self._stack.enter_context(cluster)
            self._stack.enter_context(reported(cluster, settings.report, state.wait))
            self._cluster = cluster
            state.dashboard_link = cluster.dashboard_link or None
            state.stage("cluster", began, note)
        return self._cluster

    def __enter__(self) -> _Ground:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


class Passage:
    """The way of a run's tiles through its passes.

    Parameters
    ----------
    run_id : str
    plan : Plan
    settings : Settings
    state : RunState
    book : TileBook
    commands : Commands
    """

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        settings: Settings,
        state: RunState,
        book: TileBook,
        commands: Commands,
    ) -> None:
        self._run_id = run_id
        self._passes = plan.passes
        self._asked = len(plan.tiles) - len(plan.skipped)
        self._reference = plan.source.reference
        self._settings = settings
        self._state = state
        self._book = book
        self._commands = commands
        self._legs: list[list[_Leg]] = [[] for _ in plan.passes]
        self._at = {
            tile: number
            for number, one in enumerate(plan.passes)
            if one.after is None
            for tile in one.keys
        }
        self._again: set[Tile] = set()

    def first(self, checkpoint: Store) -> End:
        """Restore what is stored and send the rest through all passes."""
        for one in self._passes:
            if one.after is None:
                self._restore(one, one.stored, checkpoint)
        return self._through(checkpoint, frozenset())

    def again(self, checkpoint: Store) -> End:
        """Send failed tiles through once more: those that were commanded to be retried."""
        self._commands.take()  # of a run that is over, nothing else was meant
        return self._through(checkpoint, self._commands.to_retry())

    def _through(self, checkpoint: Store, retry: frozenset[Tile] | None) -> End:
        """Go through the passes until one is cut short; failed tiles in `retry` are sent again."""
        with _Ground(self._settings, self._state) as ground:
            while True:
                for number in range(len(self._passes)):
                    if not self._pass(ground, number, checkpoint, retry):
                        return self._verdict()
                # While a pass ran, fresh attempts were asked for tiles that had failed before it.
                retry, self._again = frozenset(self._again), set()
                if not retry:
                    return self._verdict()

    def _pass(
        self, ground: _Ground, number: int, checkpoint: Store, retry: frozenset[Tile] | None
    ) -> bool:
        """Send through one pass what is due; return whether it came to its end."""
        for leg in self._legs[number]:
            failed = leg.failed(retry)
            if failed and not self._run(ground, number, leg, checkpoint, RetryFailed(failed)):
                return False
        self._hand_on(number, checkpoint)
        due = [
            tile
            for tile in self._passes[number].keys
            if self._at[tile] == number and self._book.rows[tile].status not in _SETTLED
        ]
        if not due:
            return True
        leg = _Leg(Scheduler(due, self._policy(number)))
        self._legs[number].append(leg)
        return self._run(ground, number, leg, checkpoint)

    def _hand_on(self, number: int, checkpoint: Store) -> None:
        """Bring to a pass the tiles that the pass before it leaves to it."""
        one = self._passes[number]
        if one.after is None:
            return
        found = self._book.found
        wanted = one.wanted(
            {t: found[t] for t in one.keys if self._at[t] == one.after and t in found}
        )
        self._at.update(dict.fromkeys(wanted, number))
        self._book.hand_on(wanted, one)
        self._restore(one, one.stored.intersection(wanted), checkpoint)

    def _restore(self, one: Pass, tiles: frozenset[Tile], checkpoint: Store) -> None:
        if tiles:
            began = time.perf_counter()
            count = self._book.restore(one, tiles, checkpoint)
            of = f" ({one.label})" if len(self._passes) > 1 else ""
            self._state.stage("restore", began, f"{count:,} tiles restored{of}", restored=True)

    def _run(
        self,
        ground: _Ground,
        number: int,
        leg: _Leg,
        checkpoint: Store,
        command: RetryFailed | None = None,
    ) -> bool:
        """Fan a leg's tiles out; return whether it came to its end."""
        one, book, state = self._passes[number], self._book, self._state
        first: list[Happening] = [] if command is None else [command]
        if state.status == "paused":
            first.append(Paused())
        cluster, began = ground.cluster, time.perf_counter()
        leg.end = run_tiles(
            cluster,
            Work(self._reference, one.options, one.model),
            leg.scheduler,
            run_id=self._run_id,
            commit=lambda outcomes: commit(outcomes, one.keys, checkpoint, state),
            announce=partial(book.announce, one),
            commands=self._commands.hand_over(first),
            on_back=partial(book.back, one),
            on_outcome=partial(book.keep, one),
            on_wait=state.wait,
            on_hold=lambda reason: state.stumble(RunError(reason)),
            on_model=lambda line: state.stage("model", began, line),
        )
        for tile, (failure, attempts) in leg.end.failures.items():
            if book.rows[tile].status != "failed":
                book.announce(one, Announce(tile, "failed", attempts, failure=failure))
        commanded = self._commands.to_retry()
        others = (other for legs in self._legs for other in legs if other is not leg)
        self._again.update(*(other.failed(commanded) for other in others))
        return leg.end.status not in _CUT_SHORT

    def _policy(self, number: int) -> Policy:
        settings, spec = self._settings, self._passes[number].model
        policy = Policy(
            retry=settings.retry,
            quota=settings.quota or Quota(),
            concurrency=settings.concurrency,
            batch_size=settings.batch_size,
            timeout=settings.timeout,
            max_failures=settings.max_failures,
            hosted=spec.hosted,
            model_batch=spec.batch_size,
        )
        # A fraction is one of the whole run: what was restored, or failed before, counts as well.
        rows = self._book.rows
        limit = policy.failure_limit(self._asked)
        if limit is not None:
            failed = sum(row.status == "failed" for row in rows.values())
            limit = max(1, limit - failed)
        return replace(policy, max_failures=limit)

    def _verdict(self) -> End:
        """Return how all legs together ended."""
        legs = [leg for legs in self._legs for leg in legs]
        if len(legs) == 1:
            return legs[0].end
        rows = self._book.rows.values()
        failed = sum(row.status == "failed" for row in rows)
        done = sum(row.status == "done" for row in rows)
        cut = next((leg.end for leg in legs if leg.end.status in _CUT_SHORT), None)
        if cut is not None and cut.status == "stopped":
            return End("stopped", f"{failed} of {self._asked} tiles failed, which is the limit")
        if cut is not None:
            return End("cancelled", f"{done} of {self._asked} tiles done")
        if failed:
            return End("partial", f"{failed} of {self._asked} tiles failed")
        return End("complete")
