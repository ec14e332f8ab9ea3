"""Carries one plan out, on the run's own thread: restore, moderate, fan out, merge, synthesise."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, check_records, stage_key
from tilevision.cluster import find_cluster, reported
from tilevision.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointTooLarge,
    Failure,
    RunError,
    TilevisionError,
)
from tilevision.events import Bus, RunChanged, StageDone
from tilevision.fanout import run_tiles
from tilevision.grid import Tile
from tilevision.infer import TileOutcome, Work
from tilevision.modelspec import Usage
from tilevision.moderation import Verdict, check_limits, moderate
from tilevision.pipeline.planning import Plan
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.tilebook import TileBook
from tilevision.result import Result, RunFacts
from tilevision.schedule import Policy, Quota, Scheduler
from tilevision.schedule.happenings import Announce, End, Happening
from tilevision.synthesis import synthesise

__all__ = ["ENDED", "Conductor"]

ENDED = frozenset({"complete", "partial", "stopped", "cancelled", "blocked"})
COMMIT_AGAIN_SECONDS = 1.0


class Conductor:
    """One run's state, touched by the run's thread only; others read `status` and `result`.

    Parameters
    ----------
    run_id : str
    plan : Plan
    settings : Settings
    bus : Bus
        Where every change is published.

    Attributes
    ----------
    checkpoint : Checkpoint or MemoryCheckpoint
        Set by the session that holds the run while it works.
    """

    checkpoint: Checkpoint | MemoryCheckpoint

    def __init__(self, run_id: str, plan: Plan, settings: Settings, bus: Bus) -> None:
        self.run_id = run_id
        self.plan = plan
        self.settings = settings
        self.bus = bus
        self.commands: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        self.status = "running"
        self.changed = threading.Condition()
        self.fault: TilevisionError | None = None
        self.result: Result | None = None
        self.dashboard_link: str | None = None
        self.cancelled = threading.Event()
        self._book = TileBook(plan, bus)
        self._verdict = Verdict(True)
        self._scheduler: Scheduler | None = None
        self._started = time.perf_counter()

    def conduct(self) -> None:
        """Run the whole flow, to one of `ENDED`."""
        self.tell("running")
        self._moderate()
        if not self._verdict.allowed:
            self._finish("blocked", f"{self._verdict.model} refused it: {self._verdict.reason}")
            return
        self._restore()
        todo = self._book.pending()
        self._scheduler = Scheduler(todo, self._policy())
        self._conclude(self._fan_out() if todo else End("complete"))

    def go_on(self) -> None:
        """Fan out once more, after commands that gave failed tiles fresh attempts."""
        self._conclude(self._fan_out())

    def so_far(self) -> Result:
        """Return the result of what is known by now; callable from any thread."""
        return self.result if self.status in ENDED and self.result else self._result(self.status)

    def tell(self, status: str, reason: str = "") -> None:
        """Publish the run's status; callable from any thread."""
        with self.changed:
            self.status = status
            self.changed.notify_all()
        self.bus.emit(RunChanged(time.time(), status, reason))

    def stumble(self, fault: TilevisionError) -> None:
        """Pause over something the user has to mend; whoever waits for the result hears of it."""
        self.fault = fault
        self.tell("paused", str(fault))

    def guard(self, flow: Callable[[], None]) -> None:
        """Call `flow`; whatever it raises becomes the run's `fault` and stops it."""
        try:
            flow()
        except TilevisionError as error:
            self.fault = error
            self.tell("stopped", str(error))
        except BaseException as error:  # noqa: BLE001 - a thread's error would be lost otherwise
            self.fault = RunError(f"the run stopped over a defect: {type(error).__name__}: {error}")
            self.fault.__cause__ = error
            self.tell("stopped", str(self.fault))

    # Moderation ---------------------------------------------------------------------------

    def _moderate(self) -> None:
        began = time.perf_counter()
        self._verdict = check_limits(self.plan.source)
        spec, restored = self.plan.stages.moderation, False
        if spec is not None:
            self._verdict, restored = self._remembered(
                "moderation",
                {"source": self.plan.source.fingerprint, "model": spec.fingerprint},
                lambda: moderate(spec, self.plan.source).to_dict(),
                lambda raw: Verdict(**raw),
            )
        self._stage("moderation", began, self._verdict.reason, restored)

    def _remembered(
        self,
        stage: str,
        facts: dict[str, Any],
        ask: Callable[[], dict[str, Any]],
        read: Callable[[dict[str, Any]], Any],
    ) -> tuple[Any, bool]:
        """Return a stage's answer from the checkpoint, or ask and keep it."""
        key = stage_key(stage, facts)
        stored = self.checkpoint.get_json(key) if self.settings.reuse else None
        if stored is not None:
            return read(stored), True
        answer = ask()
        with suppress(CheckpointTooLarge):  # then it is asked again next time
            self.checkpoint.put_json(key, answer)
        return read(answer), False

    # Tiles --------------------------------------------------------------------------------

    def _restore(self) -> None:
        if not self.plan.restored:
            return
        began = time.perf_counter()
        count = self._book.restore(self.checkpoint)
        self._stage("restore", began, f"{count:,} tiles restored", restored=True)

    def _fan_out(self) -> End:
        assert self._scheduler is not None
        plan = self.plan
        began = time.perf_counter()
        cluster, note = find_cluster(self.settings.client, self.settings.workers)
        with cluster, reported(cluster, self.settings.report, self._tell_wait):
            self.dashboard_link = cluster.dashboard_link or None
            self._stage("cluster", began, note)
            return run_tiles(
                cluster,
                Work(plan.source.reference, plan.options, plan.stages.tile),
                self._scheduler,
                run_id=self.run_id,
                commit=self._commit,
                announce=self._book.announce,
                commands=self.commands,
                on_outcome=self._book.keep,
                on_wait=self._tell_wait,
                on_hold=lambda reason: self.stumble(RunError(reason)),
                on_model=lambda line: self._stage("model", began, line),
            )

    def _tell_wait(self, line: str) -> None:
        self._stage("waiting", time.perf_counter(), line)

    def _policy(self) -> Policy:
        settings, spec = self.settings, self.plan.stages.tile
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
        # A fraction is one of the whole run: what was restored counts as well.
        return replace(policy, max_failures=policy.failure_limit(len(self.plan.tiles)))

    def _commit(self, outcomes: list[TileOutcome]) -> dict[Tile, Failure]:
        """Store what arrived; where the disk refuses, pause until it takes it again."""
        refused: dict[Tile, Failure] = {}
        entries: dict[str, tuple[bytes, ...]] = {}
        for outcome in outcomes:
            key = self.plan.keys[outcome.tile]
            try:
                entries[key] = check_records(key, outcome.records)
            except CheckpointTooLarge as error:
                refused[outcome.tile] = Failure.of(error)
        while True:
            try:
                self.checkpoint.commit(entries)
            except CheckpointCorrupt:
                raise
            except CheckpointError as error:
                if self.cancelled.is_set():
                    raise
                if self.fault is None:
                    self.stumble(error)
                self.cancelled.wait(COMMIT_AGAIN_SECONDS)
            else:
                if self.fault is not None:
                    self.fault = None
                    self.tell("running", "the checkpoint takes records again")
                return refused

    # The end ------------------------------------------------------------------------------

    def _conclude(self, end: End) -> None:
        for tile, (failure, attempts) in end.failures.items():
            if self._book.rows[tile].status != "failed":
                self._book.announce(Announce(tile, "failed", attempts, failure=failure))
        self._finish(end.status, end.reason)

    def _finish(self, status: str, reason: str) -> None:
        began = time.perf_counter()
        result = self._result(status, reason)
        if status != "blocked":
            self._stage("merge", began, f"{len(result.findings):,} detections")
            text = self._synthesise(result)
            if text is not None:
                result = self._result(status, reason, text)
        self.result = result
        self.tell(status, reason)

    def _synthesise(self, result: Result) -> str | None:
        """Ask the synthesis model; its failure must not cost the tiles that are done."""
        spec = self.plan.stages.synthesis
        if spec is None or spec.name == "summary":
            return None
        began = time.perf_counter()
        facts = result.digest
        try:
            answer, restored = self._remembered(
                "synthesis",
                {
                    "source": self.plan.source.fingerprint,
                    "model": spec.fingerprint,
                    "digest": facts.to_dict(),
                },
                lambda: {"text": synthesise(spec, facts, self.plan.source)},
                lambda raw: str(raw["text"]),
            )
        except Exception as error:  # noqa: BLE001 - any model's any error: reported, tiles kept
            answer, restored = f"Synthesis by {spec.name} failed: {Failure.of(error)}", False
        self._stage("synthesis", began, str(answer)[:200], restored)
        return str(answer)

    def _result(self, status: str, reason: str = "", text: str | None = None) -> Result:
        spec = self.plan.stages.tile
        # Copies that no other thread's change can come in between.
        rows, found = list(self._book.rows.values()), list(self._book.found.values())
        facts = RunFacts(
            run_id=self.run_id,
            status=status,
            reason=reason,
            model=spec.name,
            model_fingerprint=spec.fingerprint,
            grid=str(self.plan.tiling),
            scales=self.plan.tiling.scales,
            restored=sum(row.status == "restored" for row in rows),
            restored_at=self._book.restored_at,
            verdict=self._verdict,
            cost=None
            if spec.price is None
            else spec.price.of(Usage(calls=sum(row.attempts for row in rows))),
            synthesis=text,
            seconds=time.perf_counter() - self._started,
        )
        return Result(self.plan.source, rows, found, self.settings.merging(), facts, self.plan.name)

    def _stage(self, stage: str, began: float, message: str, restored: bool = False) -> None:
        seconds = time.perf_counter() - began
        self.bus.emit(StageDone(time.time(), stage, seconds, message, restored))
