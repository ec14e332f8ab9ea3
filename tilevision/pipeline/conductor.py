"""Carries one plan out, on the run's own thread: restore, moderate, fan out, merge, synthesise."""

from __future__ import annotations

import time
from collections import Counter

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint
from tilevision.events import Bus
from tilevision.moderation import Verdict
from tilevision.pipeline.asking import Asking
from tilevision.pipeline.commands import Commands
from tilevision.pipeline.estimate import Estimate, Part, add_up, slots
from tilevision.pipeline.history import remember
from tilevision.pipeline.meter import Meter
from tilevision.pipeline.passage import Passage
from tilevision.pipeline.passes import labels
from tilevision.pipeline.planning import Plan
from tilevision.pipeline.recipes import recipe_of
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.spending import Spending
from tilevision.pipeline.state import ENDED, RunState
from tilevision.pipeline.tilebook import TileBook
from tilevision.result import Result, RunFacts
from tilevision.schedule.messages import End

__all__ = ["ENDED", "Conductor"]


class Conductor(RunState):
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
    commands : Commands
    result : Result or None
        Once the run has ended.
    """

    checkpoint: Checkpoint | MemoryCheckpoint

    def __init__(self, run_id: str, plan: Plan, settings: Settings, bus: Bus) -> None:
        super().__init__(bus)
        self.run_id = run_id
        self.plan = plan
        self.settings = settings
        self.commands = Commands()
        self.result: Result | None = None
        self._spending = Spending()
        self._book = TileBook(plan, bus, self._spending, settings.merging())
        self._passage = Passage(run_id, plan, settings, self, self._book, self.commands)
        self._meter = Meter()
        bus.subscribe(self._meter)
        self._verdict = Verdict(True)
        self._started = time.perf_counter()
        told = {"image": plan.name, "model": plan.stages.asked.name}
        self._manifest = told | remember(None, plan, settings)

    def conduct(self) -> None:
        """Run the whole flow, to one of `ENDED`."""
        self.tell("running")
        self._book.tell_skipped()
        self._verdict = self._asking().moderation()
        if self._verdict.allowed:
            self._finish(self._passage.first(self.checkpoint))
            return
        reason = f"{self._verdict.model} refused it: {self._verdict.reason}"
        self.result = self._result("blocked", reason)
        self.tell("blocked", reason)

    def go_on(self) -> None:
        """Fan out once more, after commands that gave failed tiles fresh attempts."""
        self._finish(self._passage.again(self.checkpoint))

    def so_far(self) -> Result:
        """Return the result of what is known by now; callable from any thread."""
        return self.result if self.status in ENDED and self.result else self._result(self.status)

    def estimate(self) -> Estimate:
        """Return what is left to do and what it will take, by how it went so far; any thread."""
        if self.status in ENDED:
            return add_up([])
        parts = []
        rows = list(self._book.rows.values())
        tried = Counter(row.model for row in rows if row.attempts and row.status != "running")
        for one, n in self._passage.left():
            pace = self.plan.paces.get(one.model.fingerprint)
            part = Part.of(one.model, one.label, n, pace, slots(self.settings, one.model))
            cost = self._spending.costs.get(one.label)
            a_tile = cost / tried[one.label] if cost is not None and tried[one.label] else None
            parts.append(part.measured(self._meter.rate(one.label, time.time()), a_tile))
        synthesis = self.plan.stages.synthesis
        price = None if synthesis is None else synthesis.price
        return add_up(parts, None if price is None else price.call)

    def _asking(self) -> Asking:
        reuse, budget = self.settings.reuse, self.settings.budget
        return Asking(self.plan, self, self._spending, self.checkpoint, reuse=reuse, budget=budget)

    def _finish(self, end: End) -> None:
        """Tell the end, unless fresh attempts were asked for while it was being prepared."""
        while True:
            result = self._wound_up(end)
            failed = any(row.status == "failed" for row in result.rows)
            with self.changed:  # who asks for attempts looks at the status in the same way
                if not (failed and self.commands.to_be_retried):
                    self.result, self.status = result, end.status
                    break
            self.cancelled.clear()
            end = self._passage.again(self.checkpoint)
        self.tell(end.status, end.reason)

    def _wound_up(self, end: End) -> Result:
        """Merge and synthesise."""
        began = time.perf_counter()
        result = self._result(end.status, end.reason)
        self.stage("merge", began, f"{len(result.findings):,} detections")
        text = self._asking().synthesis(result.digest)
        if text is not None:
            result = self._result(end.status, end.reason, text)
        return result

    def _result(self, status: str, reason: str = "", text: str | None = None) -> Result:
        # Copies that no other thread's change can come in between.
        rows, found = list(self._book.rows.values()), list(self._book.found.values())
        stages = self.plan.stages
        facts = RunFacts(
            recipe=recipe_of(self._manifest),
            run_id=self.run_id,
            status=status,
            reason=reason,
            model=stages.asked.name,
            model_fingerprint=stages.tile.fingerprint,
            models=tuple((name, mark) for mark, name in labels(stages.models).items()),
            grid=str(self.plan.tiling),
            scales=self.plan.tiling.scales,
            restored=sum(row.status == "restored" for row in rows),
            restored_at=self._book.restored_at,
            verdict=self._verdict,
            cost=self._spending.total if stages.priced else None,
            costs=self._spending.costs,
            synthesis=text,
            seconds=time.perf_counter() - self._started,
            region=self.plan.region,
        )
        return Result(self.plan.source, rows, found, self.settings.merging(), facts, self.plan.name)
