"""Carries one plan out, on the run's own thread: restore, moderate, fan out, merge, synthesise."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tilevision.checkpoint import stage_key
from tilevision.errors import CheckpointTooLarge, Failure, RunError
from tilevision.modelspec import ModelSpec, Usage, counting
from tilevision.moderation import Verdict, moderate
from tilevision.pipeline.control import Control
from tilevision.pipeline.estimate import Estimate, Flow, Part, Spending, TimeLeft, add_up, slots
from tilevision.pipeline.manifest import run_facts
from tilevision.pipeline.planning import Pass, Plan, Store
from tilevision.pipeline.runner import Runner
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.tally import Tally
from tilevision.result import Result, TileRow
from tilevision.schedule.messages import End
from tilevision.sources import check_readable
from tilevision.status import RunStatus, TileStatus
from tilevision.synthesis import synthesise

__all__ = ["Conductor", "ImageStages"]


class Conductor:
    """Carries a run out. Its methods are called on the run's thread.

    `so_far` and `estimate` are the exceptions: they read copies, and any thread gets them
    through the `Control`.

    Parameters
    ----------
    plan : Plan
    settings : Settings
    manifest : mapping
        Of the run.
    control : Control
    """

    def __init__(
        self, plan: Plan, settings: Settings, manifest: Mapping[str, Any], control: Control
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._manifest = manifest
        self._control = control
        self._spending = Spending()
        self._tally = Tally(plan, control.bus, self._spending, settings.merging())
        self._runner = Runner(manifest["id"], plan, settings, control, self._tally)
        self._flow = Flow()
        control.bus.subscribe(self._flow)
        control.so_far, control.estimate = self.so_far, self.estimate
        self._verdict = Verdict(True)
        self._started = time.perf_counter()

    def conduct(self, checkpoint: Store) -> None:
        """Carry the whole flow out, to the end."""
        self._control.tell(RunStatus.RUNNING)
        self._tally.publish_skipped()
        self._verdict = self._image_stages(checkpoint).moderation()
        if not self._verdict.allowed:
            reason = f"{self._verdict.model} refused the image: {self._verdict.reason.rstrip('.')}."
            blocked = self._result(RunStatus.BLOCKED, reason)
            self._control.finish(blocked, RunStatus.BLOCKED, reason, failed=False)
            return
        self._finish(self._runner.first(checkpoint), checkpoint)

    def conduct_again(self, checkpoint: Store) -> None:
        """Fan out once more, after commands that gave failed tiles fresh attempts."""
        self._finish(self._runner.again(checkpoint), checkpoint)

    def _finish(self, end: End, checkpoint: Store) -> None:
        """Merge, synthesise and publish the end, unless fresh attempts were asked for meanwhile."""
        while True:
            result = self._merged(end, checkpoint)
            failed = any(row.status == TileStatus.FAILED for row in result.rows)
            if self._control.finish(result, end.status, end.reason, failed=failed):
                return
            self._control.cancelled.clear()
            end = self._runner.again(checkpoint)

    def _merged(self, end: End, checkpoint: Store) -> Result:
        """Merge what the tiles saw, and synthesise."""
        began = time.perf_counter()
        result = self._result(end.status, end.reason)
        if self._control.terminated:
            return result
        self._control.stage("merge", began, f"{len(result.findings):,} detections")
        text = self._image_stages(checkpoint).synthesis(result)
        return result if text is None else self._result(end.status, end.reason, text)

    def so_far(self) -> Result:
        """Return the result of what is known by now; on any thread."""
        control = self._control
        if control.status.ended and control.result is not None:
            return control.result
        return self._result(control.status)

    def estimate(self) -> Estimate:
        """Return what is left to do and what it will take, by how it went so far; on any thread."""
        if self._control.status.ended:
            return add_up([])
        rows, left = list(self._tally.rows.values()), self._runner.left()
        costs = self._spending.costs
        done = Counter(row.model for row in rows if row.status == TileStatus.DONE)
        tried = Counter(
            row.model for row in rows if row.attempts and row.status != TileStatus.RUNNING
        )
        parts = []
        for one, n in left:
            pace = self._plan.paces.get(one.model.fingerprint)
            part = Part.of(one.model, one.label, n, pace, slots(self._settings, one.model))
            cost = costs.get(one.label)
            a_tile = cost / tried[one.label] if cost is not None and tried[one.label] else None
            seen = done[one.label]
            part = part.measured(seen, a_tile) if seen else part
            parts.append(replace(part, seconds=None) if done else part)
        synthesis = self._plan.stages.synthesis
        price = None if synthesis is None else synthesis.price
        whole = add_up(parts, None if price is None else price.call)
        return self._timed(whole, rows, left) if done else whole

    def _timed(
        self, whole: Estimate, rows: list[TileRow], left: list[tuple[Pass, float | None]]
    ) -> Estimate:
        """Return an estimate with the time that the tiles of this run foretell, or why none is."""
        at_work = [one for one, n in left if n is None or n > 0]
        label = at_work[-1].label if at_work else ""
        flow, now = self._flow, time.time()
        time_left = TimeLeft.of(rows, label, flow.since, flow.at_once, more=len(at_work) > 1)
        doubt = time_left.doubt(now)
        basis = f"{whole.basis}; no time can be given: {doubt}" if doubt else whole.basis
        return replace(whole, seconds=time_left.seconds(now), basis=basis)

    def _image_stages(self, checkpoint: Store) -> ImageStages:
        return ImageStages(
            self._plan,
            self._control,
            self._spending,
            checkpoint,
            reuse=self._settings.reuse,
            budget=self._settings.budget,
        )

    def _result(self, status: str, reason: str = "", text: str | None = None) -> Result:
        # Copies that no other thread's change can come in between.
        rows, found = list(self._tally.rows.values()), list(self._tally.found.values())
        facts = replace(
            run_facts(self._manifest["id"], status, self._plan, self._manifest),
            reason=reason,
            restored=sum(row.status == TileStatus.RESTORED for row in rows),
            restored_at=self._tally.restored_at,
            verdict=self._verdict,
            cost=self._spending.total if self._plan.stages.priced else None,
            costs=self._spending.costs,
            uncounted=self._spending.uncounted,
            synthesis=text,
            seconds=time.perf_counter() - self._started,
            checkpoint=self._settings.checkpoint_folder,
        )
        how = self._settings.merging(), facts, self._plan.name, self._settings.blending()
        return Result(self._plan.source, rows, found, *how)


class ImageStages:
    """Asks the models that see the image as a whole, once; what they answered is kept.

    Parameters
    ----------
    plan : Plan
    control : Control
    spending : Spending
    checkpoint : Checkpoint or MemoryCheckpoint
    reuse : bool
        Whether answers in the checkpoint are used.
    budget : float, optional
        A stage whose price per call would exceed it is not asked.
    """

    def __init__(
        self,
        plan: Plan,
        control: Control,
        spending: Spending,
        checkpoint: Store,
        *,
        reuse: bool,
        budget: float | None = None,
    ) -> None:
        self._plan = plan
        self._control = control
        self._spending = spending
        self._checkpoint = checkpoint
        self._reuse = reuse
        self._budget = budget

    def moderation(self) -> Verdict:
        """Return whether the image may be analysed; the built-in limits always come first.

        Raises
        ------
        SourceError, ModelError, RunError
            If the image is damaged, the model fails, or the budget does not cover it.
        """
        began = time.perf_counter()
        verdict = Verdict(True, check_readable(self._plan.source), "limits")
        restored = False
        spec = self._plan.stages.moderation
        if spec is not None:
            source = self._plan.source
            answer, restored = self._remembered(
                "moderation",
                spec,
                {"source": source.fingerprint, "model": spec.fingerprint},
                lambda: moderate(spec, source).to_dict(),
            )
            verdict = Verdict(**answer)
        self._control.stage("moderation", began, verdict.reason, restored)
        return verdict

    def synthesis(self, result: Result) -> str | None:
        """Return the synthesis model's text; its failure must not cost the tiles that are done."""
        spec = self._plan.stages.synthesis
        if spec is None or spec.name == "summary":
            return None
        began = time.perf_counter()
        source, facts = self._plan.source, result.digest
        reading = {
            "source": source.fingerprint,
            "model": spec.fingerprint,
            "digest": facts.to_dict(),
        }
        try:
            answer, restored = self._remembered(
                "synthesis", spec, reading, lambda: {"text": synthesise(spec, facts, source)}
            )
            text = str(answer["text"])
        except Exception as error:  # noqa: BLE001 - any model's any error: reported, tiles kept
            text, restored = f"Synthesis by {spec.name} failed: {Failure.of(error)}", False
        self._control.stage("synthesis", began, text[:200], restored)
        return text

    def _remembered(
        self,
        stage: str,
        spec: ModelSpec,
        facts: dict[str, Any],
        ask: Callable[[], dict[str, Any]],
    ) -> tuple[dict[str, Any], bool]:
        """Return a stage's answer from the checkpoint, or ask, pay and keep it."""
        key = stage_key(stage, facts)
        stored = self._checkpoint.get_json(key) if self._reuse else None
        if stored is not None:
            return stored, True
        price = 0.0 if spec.price is None else spec.price.call
        if self._budget is not None and self._spending.total + price > self._budget and price:
            raise RunError(
                f"The budget of {self._budget:g} does not cover {stage} by {spec.name}: "
                f"{self._spending.total:.4g} is spent. Give a larger budget=."
            )
        with counting() as used:
            try:
                answer = ask()
            finally:
                usage = sum(used, Usage()) if used else Usage(calls=1)
                self._spending.charge(spec, spec.name, usage)
        with suppress(CheckpointTooLarge):  # then it is asked again next time
            self._checkpoint.put_json(key, answer)
        return answer, False
