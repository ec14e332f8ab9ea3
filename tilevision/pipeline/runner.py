"""Sends the tiles of a run through its passes: one cluster, one scheduler a leg, every commit."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tilevision.checkpoint import check_records
from tilevision.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointTooLarge,
    Failure,
    ModelError,
    RunError,
)
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.infer import TileOutcome, Work
from tilevision.modelspec import ModelSpec, usual_workers, within
from tilevision.payloads import PackedArray, PayloadRef, arrays_of, kind_of
from tilevision.pipeline.control import Control
from tilevision.pipeline.estimate import Budgeted, duration, has_run
from tilevision.pipeline.planning import Pass, Plan, Stages, Store, found_in, image_name
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.tally import Tally
from tilevision.schedule import Policy, Quota, Scheduler
from tilevision.schedule.messages import Announce, End, Happening, Paused, RetryFailed
from tilevision.schedule.policy import asked_for
from tilevision.status import RunStatus, TileStatus

if TYPE_CHECKING:
    from tilevision.cluster import Cluster

__all__ = ["Runner", "commit", "expect", "expect_for", "stop_expecting"]

COMMIT_AGAIN_SECONDS = 1.0
FINISHED = frozenset(status for status in TileStatus if status.finished)
LONG_WAIT_SECONDS = 10.0  # a wait that people would take for a run that hangs


@dataclass(slots=True, eq=False)
class _Leg:
    """Tiles that were sent through a pass together, and how that ended."""

    scheduler: Scheduler
    end: End = End(RunStatus.COMPLETE)  # noqa: RUF009 - frozen

    @property
    def cut_short(self) -> bool:
        """Return True if tiles were left undone: by a limit, or by the user."""
        return self.end.status in (RunStatus.STOPPED, RunStatus.CANCELLED)

    def failed(self, among: frozenset[Tile] | None) -> frozenset[Tile]:
        """Return the failed tiles: all, or those `among` some."""
        mine = frozenset(self.end.failures)
        return mine if among is None else mine & among


class Runner:
    """Sends a run's tiles through its passes.

    Parameters
    ----------
    run_id : str
    plan : Plan
    settings : Settings
    control : Control
    tally : Tally
    """

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        settings: Settings,
        control: Control,
        tally: Tally,
    ) -> None:
        self._run_id = run_id
        self._passes = plan.passes
        self._tile_models = plan.stages.models
        self._asked = len(plan.tiles) - len(plan.skipped)
        self._reference = plan.source.reference
        self._settings = settings
        self._control = control
        self._commands = control.commands
        self._tally = tally
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
        self._commands.take()  # after a run has ended, nothing else was meant
        return self._through(checkpoint, self._commands.to_retry())

    def left(self) -> list[tuple[Pass, float | None]]:
        """Return how many tiles each pass has yet to run; for an estimate, on any thread.

        How many will come to a pass is judged by the tiles that are decided; None without any.
        """
        rows, found = dict(self._tally.rows), dict(self._tally.found)
        open_ = Counter(
            number for tile, number in list(self._at.items()) if TileStatus(rows[tile].status).open
        )
        left: list[tuple[Pass, float | None]] = []
        for number, one in enumerate(self._passes):
            share: float | None = 0.0
            alive: list[Tile] = []
            if one.after is not None:
                mine = (tile for tile in one.keys if self._at[tile] == one.after)
                alive = [tile for tile in mine if rows[tile].status != TileStatus.FAILED]
                share = one.share([found[tile] for tile in alive if tile in found])
            unknown = share is None and alive
            left.append((one, None if unknown else open_[number] + (share or 0.0) * len(alive)))
        return left

    def _through(self, checkpoint: Store, retry: frozenset[Tile] | None) -> End:
        """Go through the passes until one is cut short; failed tiles in `retry` are sent again."""
        with RunCluster(self._settings, self._control, self._tile_models) as cluster:
            while True:
                for number in range(len(self._passes)):
                    if not self._pass(cluster, number, checkpoint, retry):
                        return self._verdict(number)
                # While a pass ran, fresh attempts were asked for tiles that had failed before it.
                retry, self._again = frozenset(self._again), set()
                if not retry:
                    return self._verdict(None)

    def _pass(
        self, cluster: RunCluster, number: int, checkpoint: Store, retry: frozenset[Tile] | None
    ) -> bool:
        """Send through one pass what is due; return whether it came to its end."""
        legs = self._legs[number]
        for leg in list(legs):
            failed = leg.failed(retry)
            if failed and not self._run(cluster, number, leg, checkpoint, RetryFailed(failed)):
                return False
            if leg.cut_short:  # what it left undone is due anew
                legs.remove(leg)
        self._hand_on(number, checkpoint)
        due = self._due(number, retry)
        if not due:
            return True
        leg = _Leg(Scheduler(due, self._policy(number)))
        legs.append(leg)
        return self._run(cluster, number, leg, checkpoint)

    def _due(self, number: int, retry: frozenset[Tile] | None) -> list[Tile]:
        """Return the tiles of a pass that no leg has settled."""
        settled = {tile for leg in self._legs[number] for tile in leg.end.failures}
        settled |= {tile for tile in self._failed() if retry is not None and tile not in retry}
        settled |= {tile for tile, at in self._at.items() if at != number}
        rows = self._tally.rows
        due = [tile for tile in self._passes[number].keys if rows[tile].status not in FINISHED]
        return [tile for tile in due if tile not in settled] if settled else due

    def _failed(self) -> list[Tile]:
        return [tile for tile, row in self._tally.rows.items() if row.status == TileStatus.FAILED]

    def _hand_on(self, number: int, checkpoint: Store) -> None:
        """Bring to a pass the tiles that the pass before it leaves to it."""
        one = self._passes[number]
        if one.after is None:
            return
        found = self._tally.found
        wanted = one.wanted(
            {t: found[t] for t in one.keys if self._at[t] == one.after and t in found}
        )
        self._at.update(dict.fromkeys(wanted, number))
        self._tally.hand_on(wanted, one)
        self._restore(one, one.stored.intersection(wanted), checkpoint)

    def _restore(self, one: Pass, tiles: frozenset[Tile], checkpoint: Store) -> None:
        if tiles:
            began = time.perf_counter()
            with self._control.bus.together():
                count = self._tally.restore(one, tiles, checkpoint)
            of = f" ({one.label})" if len(self._passes) > 1 else ""
            self._control.stage("restore", began, f"{count:,} tiles restored{of}", restored=True)

    def _run(
        self,
        cluster: RunCluster,
        number: int,
        leg: _Leg,
        checkpoint: Store,
        command: RetryFailed | None = None,
    ) -> bool:
        """Fan a leg's tiles out; return whether it came to its end."""
        from tilevision.fanout import run_tiles

        one, tally, control = self._passes[number], self._tally, self._control
        first: list[Happening] = [] if command is None else [command]
        if control.status is RunStatus.PAUSED:
            first.append(Paused())
        leg.end = run_tiles(
            cluster.found(),
            Work(self._reference, one.options, within(one.model, self._settings.timeout)),
            self._within_budget(leg.scheduler, one),
            _PassSink(one, tally, control, checkpoint),
            run_id=self._run_id,
            commands=self._commands.hand_over(first),
        )
        for tile, (failure, attempts) in leg.end.failures.items():
            if tally.rows[tile].status != TileStatus.FAILED:
                tally.announce(one, Announce(tile, TileStatus.FAILED, attempts, failure=failure))
        commanded = self._commands.to_retry()
        others = (other for legs in self._legs for other in legs if other is not leg)
        self._again.update(*(other.failed(commanded) for other in others))
        return not leg.cut_short

    def _within_budget(self, scheduler: Scheduler, one: Pass) -> Scheduler | Budgeted:
        budget = self._settings.budget
        if budget is None:
            return scheduler
        return Budgeted(scheduler, budget, self._tally.spending, one.model, one.label)

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
        rows = self._tally.rows
        limit = policy.failure_limit(self._asked)
        if limit is not None:
            failed = sum(row.status == TileStatus.FAILED for row in rows.values())
            limit = max(1, limit - failed)
        return replace(policy, max_failures=limit)

    def _verdict(self, cut: int | None) -> End:
        """Return how all legs together ended; the last of pass number `cut` was cut short."""
        legs = [leg for legs in self._legs for leg in legs]
        failed = len(self._failed())
        # A leg counts the tiles it was sent; people read of those that are stored as well.
        of_all = f"{failed} of {len(self._at)} tiles failed"
        if len(legs) == 1 and len(legs[0].end.failures) == failed:
            end = legs[0].end
            return replace(end, reason=f"{of_all}.") if end.status == RunStatus.PARTIAL else end
        if cut is None:
            return End(RunStatus.PARTIAL, f"{of_all}.") if failed else End(RunStatus.COMPLETE)
        end = next(leg.end for leg in self._legs[cut] if leg.cut_short)
        if end.status == RunStatus.STOPPED:
            reason = f"{of_all}, which is the limit."
            return End(RunStatus.STOPPED, reason if self._too_many(failed) else end.reason)
        done = sum(row.status == TileStatus.DONE for row in self._tally.rows.values())
        return End(RunStatus.CANCELLED, f"{done} of {len(self._at)} tiles done.")

    def _too_many(self, failed: int) -> bool:
        limit = Policy(max_failures=self._settings.max_failures).failure_limit(len(self._at))
        return limit is not None and failed >= limit


@dataclass(slots=True)
class _PassSink:
    """Takes what `run_tiles` reports about a pass to the tally, the checkpoint and the user."""

    one: Pass
    tally: Tally
    control: Control
    checkpoint: Store
    remarks: set[str] = field(default_factory=set)
    asked_until: float = 0.0
    kinds: dict[str, str] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)  # of the arrays of each tile
    look_at: int = 16  # tiles after which the disk is looked at, and then at twice as many

    def commit(self, outcomes: list[TileOutcome]) -> dict[Tile, Failure]:
        """Store what arrived; a vector or map unlike those of the run's other tiles is refused."""
        odd: dict[Tile, Failure] = {}
        if any(outcome.payloads for outcome in outcomes):
            odd = self._odd(outcomes)
            outcomes = [outcome for outcome in outcomes if outcome.tile not in odd]
        refused = odd | commit(outcomes, self.one.keys, self.checkpoint, self.control)
        self.sizes += [_size(outcome) for outcome in outcomes if outcome.payloads]
        if len(self.sizes) >= self.look_at:
            self.look_at *= 2
            self._look_at_disk(len(outcomes))
        return refused

    def _look_at_disk(self, stored: int) -> None:
        """Say in good time where the disk is too small for the arrays of the tiles to come.

        Of the tiles that are open by the tally, `stored` were stored just now.
        """
        from tilevision.pipeline.storage import looked_up

        left = sum(TileStatus(row.status).open for row in self.tally.rows.values())
        needed = looked_up(max(left - stored, 0), self.sizes, self.checkpoint.folder)
        if needed.short:
            self.control.waiting(str(needed))

    def _odd(self, outcomes: list[TileOutcome]) -> dict[Tile, Failure]:
        """Return the tiles whose vectors or maps are of another kind than the run's first."""
        if not self.kinds:
            for seen in self.tally.found.values():  # a run has a few kinds: the first of each
                self.kinds = _kinds_of(seen) | self.kinds
        odd: dict[Tile, Failure] = {}
        for outcome in outcomes:
            for name, ref in arrays_of(outcome.records).items():
                kind, usual = kind_of(ref), self.kinds.setdefault(name, kind_of(ref))
                if kind != usual:
                    odd[outcome.tile] = Failure.of(
                        ModelError(
                            f"Model {self.one.label} returned {kind}, and other tiles of the run "
                            f"have {usual}; all tiles of a run have one kind."
                        )
                    )
        return odd

    def announce(self, change: Announce) -> None:
        """Enter a tile's new status; say how long a backend asks to wait, where that is long."""
        self.tally.announce(self.one, change)
        wait = 0.0 if change.failure is None else asked_for(change.failure)
        until = time.monotonic() + wait
        # Once, not for each of the tiles that meet the same answer.
        if wait >= LONG_WAIT_SECONDS and until > self.asked_until + LONG_WAIT_SECONDS:
            self.asked_until = until
            self.control.waiting(
                f"The backend of {self.one.label} asks to wait {duration(wait)} before the next "
                "request; run.cancel() ends the run, and what is done is kept."
            )

    def back(self, outcome: TileOutcome) -> None:
        """Charge what an attempt used, and show what its model has to say."""
        self.tally.back(self.one, outcome)
        for line in outcome.remarks:
            if line not in self.remarks:
                self.remarks.add(line)
                self.control.stage("model", time.perf_counter(), line)

    def keep(self, outcome: TileOutcome, attempt: int, worker: str) -> None:
        """Enter what a committed tile saw."""
        seen = found_in(outcome.tile, outcome.records, self.checkpoint)
        seen = replace(seen, saturated=outcome.saturated)
        self.tally.keep(self.one, outcome, seen, attempt, worker)

    def together(self) -> AbstractContextManager[None]:
        """Have the journal write what comes within at once."""
        return self.control.bus.together()

    def waiting(self, line: str) -> None:
        """Publish why the run stands still."""
        self.control.waiting(line)

    def hold(self, reason: str) -> None:
        """Pause until the user has fixed something."""
        self.control.stumble(RunError(reason))

    def model(self, line: str) -> None:
        """Publish on what the model runs."""
        self.control.stage("model", time.perf_counter(), line)


def _size(outcome: TileOutcome) -> int:
    """Return how many bytes a tile's arrays take."""
    arrays = [one for _, one in outcome.payloads]
    return sum(len(one.data if isinstance(one, PackedArray) else one) for one in arrays)


class RunCluster:
    """The cluster of a run: found when the first tile needs it, held until the last has passed.

    Parameters
    ----------
    settings : Settings
    control : Control
    models : sequence of ModelSpec
        They say how many workers a local cluster has: one for each GPU, for example.
    """

    def __init__(self, settings: Settings, control: Control, models: Sequence[ModelSpec]) -> None:
        self._settings = settings
        self._control = control
        self._models = models
        self._stack = ExitStack()
        self._cluster: Cluster | None = None

    def found(self) -> Cluster:
        """Return the cluster; find or start it where that has not happened yet.

        Raises
        ------
        ClusterError, RunError
            If there is none and none can be started.
        """
        from tilevision.cluster import find_cluster, reported

        if self._cluster is None:
            began = time.perf_counter()
            settings, control = self._settings, self._control
            usual = usual_workers(self._models)
            cluster, note = find_cluster(settings.client, settings.workers, usual)
            self._stack.enter_context(cluster)
            if settings.report is not None:
                self._stack.enter_context(reported(cluster, settings.report, control.waiting))
            self._cluster = cluster
            control.dashboard_link = cluster.dashboard_link or None
            # Followers of the run see this one: what comes after ? may be a key to the page.
            link = cluster.dashboard_link.partition("?")[0]
            control.stage("cluster", began, note, link=link)
        return self._cluster

    def __enter__(self) -> RunCluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _kinds_of(seen: TileFindings) -> dict[str, str]:
    """Return the kinds of what a tile has of arrays, as records call them."""
    found: dict[str, str] = {}
    if seen.vector is not None:
        found["embedding"] = kind_of(seen.vector.ref)
    if seen.raster is not None:
        found["raster"] = kind_of(seen.raster.ref)
    if (rows := seen.findings.embeddings) is not None:
        found["embeddings"] = kind_of(PayloadRef(b"", rows.dtype.name, rows.shape))
    return found


def commit(
    outcomes: Sequence[TileOutcome],
    keys: Mapping[Tile, str],
    checkpoint: Store,
    control: Control,
) -> dict[Tile, Failure]:
    """Store what arrived; where the disk refuses, pause until it takes it again.

    Returns
    -------
    dict of Tile to Failure
        Tiles whose findings the checkpoint cannot hold.

    Raises
    ------
    CheckpointCorrupt
        If the database is damaged.
    CheckpointError
        If the disk refuses, and the run is cancelled.
    """
    refused: dict[Tile, Failure] = {}
    entries: dict[str, tuple[bytes, ...]] = {}
    payloads: dict[bytes, bytes | PackedArray] = {}
    for outcome in outcomes:
        key = keys[outcome.tile]
        try:
            entries[key] = check_records(key, outcome.records)
            payloads.update(outcome.payloads)
        except CheckpointTooLarge as error:
            refused[outcome.tile] = Failure.of(error)
    ours: CheckpointError | None = None
    before = RunStatus.RUNNING
    while True:
        try:
            checkpoint.commit(entries, payloads)
        except CheckpointCorrupt:
            raise
        except CheckpointError as error:
            if control.cancelled.is_set():
                raise
            if control.fault is None:
                ours, before = error, control.status
                control.stumble(error)
            control.cancelled.wait(COMMIT_AGAIN_SECONDS)
        else:
            # Another reason to stand still (the user's pause, a backend that fails) stays.
            if ours is not None and control.fault is ours:
                control.fault = None
                control.tell(before, "The checkpoint can be written again.")
            return refused


# A cluster before the run has it. To import Dask and to start a cluster takes seconds: they go by
# beside the opening of the image, unless it may be that all its tiles are stored; then the plan
# decides.


# The cluster before the run has it --------------------------------------------------------


class _Beginning:
    """Starts a cluster on a thread of its own; whoever needs it meanwhile waits for that.

    Parameters
    ----------
    workers : int, optional
        As for `tilevision.cluster.find_cluster`.
    models : sequence of ModelSpec
        They say how many workers there are where `workers` does not.
    """

    def __init__(self, workers: int | None, models: Sequence[ModelSpec]) -> None:
        self._workers, self._models = workers, models
        self._lock = threading.Lock()
        self._over = self._done = False
        threading.Thread(target=self._run, name="tilevision-beginning", daemon=True).start()

    def end(self) -> None:
        """End the cluster, at the latest once it is up, unless a run uses it."""
        with self._lock:
            self._over, done = True, self._done
        if done:
            _end_unused()

    def _run(self) -> None:
        with suppress(Exception):  # a run that needs one starts it again, and is told
            import tilevision.fanout  # noqa: F401 what its workers need is imported by their host
            from tilevision.cluster import expect_cluster

            if not self._over:
                expect_cluster(workers=self._workers, usual=usual_workers(self._models))
        with self._lock:
            self._done, over = True, self._over
        if over:
            _end_unused()


_begun: list[_Beginning] = []  # of this process, one at most


def expect(image: Any, settings: Settings, stages: Stages) -> None:
    """Begin to start the run's cluster, unless these models have been over this image before."""
    marks = {spec.fingerprint for spec in stages.models}
    if not (settings.reuse and has_run(settings.checkpoint, image_name(image), marks)):
        _begin(settings, stages.models)


def expect_for(plan: Plan, settings: Settings) -> None:
    """Begin to start the run's cluster where the plan has tiles for it."""
    if plan.to_run:
        _begin(settings, plan.stages.models)


def stop_expecting() -> None:
    """End what was begun, unless a run uses it."""
    with suppress(IndexError):
        _begun.pop().end()


def _begin(settings: Settings, models: Sequence[ModelSpec]) -> None:
    if settings.client is not None or _begun:
        return
    if "distributed" in sys.modules:
        from tilevision.cluster import lacks_cluster

        if not lacks_cluster(settings.workers):
            return
    _begun.append(_Beginning(settings.workers, models))


def _end_unused() -> None:
    if "tilevision.cluster" in sys.modules:
        from tilevision.cluster import no_cluster_yet

        no_cluster_yet()
