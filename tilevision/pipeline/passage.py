"""Carries the passes of a run out, one after the other, on one cluster."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

from tilevision.errors import RunError
from tilevision.fanout import run_tiles
from tilevision.grid import Tile
from tilevision.infer import Work
from tilevision.pipeline.budget import Budgeted
from tilevision.pipeline.commands import Commands
from tilevision.pipeline.commits import commit
from tilevision.pipeline.ground import Ground
from tilevision.pipeline.passes import Pass, Store
from tilevision.pipeline.planning import Plan
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.state import RunState
from tilevision.pipeline.tilebook import TileBook
from tilevision.schedule import Policy, Quota, Scheduler
from tilevision.schedule.messages import Announce, End, Happening, Paused, RetryFailed

__all__ = ["Passage"]

_CUT_SHORT = ("stopped", "cancelled")


_FINISHED = ("done", "restored", "skipped")


@dataclass(slots=True, eq=False)
class _Leg:
    """Tiles that were sent through a pass together, and how that ended."""

    scheduler: Scheduler
    end: End = End("complete")  # noqa: RUF009 - frozen

    def failed(self, among: frozenset[Tile] | None) -> frozenset[Tile]:
        """Return the failed tiles: all, or those `among` some."""
        mine = frozenset(self.end.failures)
        return mine if among is None else mine & among


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
        self._tile_models = plan.stages.models
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

    def left(self) -> list[tuple[Pass, float | None]]:
        """Return how many tiles each pass has yet to run; from any thread, for an estimate.

        How many will come to a pass is judged by the tiles that are decided; None without any.
        """
        rows, found = dict(self._book.rows), dict(self._book.found)
        open_ = Counter(
            number
            for tile, number in list(self._at.items())
            if rows[tile].status not in (*_FINISHED, "failed")
        )
        left: list[tuple[Pass, float | None]] = []
        for number, one in enumerate(self._passes):
            share: float | None = 0.0
            alive: list[Tile] = []
            if one.after is not None:
                mine = (tile for tile in one.keys if self._at[tile] == one.after)
                alive = [tile for tile in mine if rows[tile].status != "failed"]
                share = one.share([found[tile] for tile in alive if tile in found])
            unknown = share is None and alive
            left.append((one, None if unknown else open_[number] + (share or 0.0) * len(alive)))
        return left

    def _through(self, checkpoint: Store, retry: frozenset[Tile] | None) -> End:
        """Go through the passes until one is cut short; failed tiles in `retry` are sent again."""
        with Ground(self._settings, self._state, self._tile_models) as ground:
            while True:
                for number in range(len(self._passes)):
                    if not self._pass(ground, number, checkpoint, retry):
                        return self._verdict(number)
                # While a pass ran, fresh attempts were asked for tiles that had failed before it.
                retry, self._again = frozenset(self._again), set()
                if not retry:
                    return self._verdict(None)

    def _pass(
        self, ground: Ground, number: int, checkpoint: Store, retry: frozenset[Tile] | None
    ) -> bool:
        """Send through one pass what is due; return whether it came to its end."""
        legs = self._legs[number]
        for leg in list(legs):
            failed = leg.failed(retry)
            if failed and not self._run(ground, number, leg, checkpoint, RetryFailed(failed)):
                return False
            if leg.end.status in _CUT_SHORT:  # what it left undone is due anew
                legs.remove(leg)
        self._hand_on(number, checkpoint)
        due = self._due(number, retry)
        if not due:
            return True
        leg = _Leg(Scheduler(due, self._policy(number)))
        legs.append(leg)
        return self._run(ground, number, leg, checkpoint)

    def _due(self, number: int, retry: frozenset[Tile] | None) -> list[Tile]:
        """Return the tiles of a pass that no leg has settled."""
        kept = {tile for leg in self._legs[number] for tile in leg.end.failures}
        settled = {tile for tile in self._failed() if retry is not None and tile not in retry}
        rows = self._book.rows
        return [
            tile
            for tile in self._passes[number].keys
            if self._at[tile] == number
            and rows[tile].status not in _FINISHED
            and tile not in kept
            and tile not in settled
        ]

    def _failed(self) -> list[Tile]:
        return [tile for tile, row in self._book.rows.items() if row.status == "failed"]

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
        ground: Ground,
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
            self._within_budget(leg.scheduler, one),
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

    def _within_budget(self, scheduler: Scheduler, one: Pass) -> Scheduler | Budgeted:
        budget = self._settings.budget
        if budget is None:
            return scheduler
        return Budgeted(scheduler, budget, self._book.spending, one.model, one.label)

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

    def _verdict(self, cut: int | None) -> End:
        """Return how all legs together ended; the last of pass number `cut` was cut short."""
        legs = [leg for legs in self._legs for leg in legs]
        failed = len(self._failed())
        if len(legs) == 1 and len(legs[0].end.failures) == failed:
            return legs[0].end
        if cut is None:
            reason = f"{failed} of {len(self._at)} tiles failed"
            return End("partial", reason) if failed else End("complete")
        end = next(leg.end for leg in self._legs[cut] if leg.end.status in _CUT_SHORT)
        if end.status == "stopped":
            reason = f"{failed} of {len(self._at)} tiles failed, which is the limit"
            return End("stopped", reason if self._too_many(failed) else end.reason)
        done = sum(row.status == "done" for row in self._book.rows.values())
        return End("cancelled", f"{done} of {len(self._at)} tiles done")

    def _too_many(self, failed: int) -> bool:
        limit = Policy(max_failures=self._settings.max_failures).failure_limit(len(self._at))
        return limit is not None and failed >= limit
