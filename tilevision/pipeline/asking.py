"""The stages before and after the tiles: asked once, then remembered."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tilevision.analysis.digest import Digest
from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, stage_key
from tilevision.errors import CheckpointTooLarge, Failure, RunError
from tilevision.modelspec import ModelSpec, Usage, counting
from tilevision.moderation import Verdict, check_limits, moderate
from tilevision.pipeline.planning import Plan
from tilevision.pipeline.spending import Spending
from tilevision.pipeline.state import RunState
from tilevision.synthesis import synthesise

__all__ = ["Asking"]


class Asking:
    """Asks the models of the stages that see the image as a whole.

    Parameters
    ----------
    plan : Plan
    state : RunState
    spending : Spending
    checkpoint : Checkpoint or MemoryCheckpoint
    reuse : bool
        Whether answers in the checkpoint count.
    budget : float, optional
        A stage whose price per call would pass it is not asked.
    """

    def __init__(
        self,
        plan: Plan,
        state: RunState,
        spending: Spending,
        checkpoint: Checkpoint | MemoryCheckpoint,
        *,
        reuse: bool,
        budget: float | None = None,
    ) -> None:
        self._plan = plan
        self._state = state
        self._spending = spending
        self._checkpoint = checkpoint
        self._reuse = reuse
        self._budget = budget

    def moderation(self) -> Verdict:
        """Return whether the image may be analysed; the built-in limits always speak first.

        Raises
        ------
        SourceError, ModelError, RunError
            If the image is damaged, the model fails, or the budget does not cover it.
        """
        began = time.perf_counter()
        verdict, restored = check_limits(self._plan.source), False
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
        self._state.stage("moderation", began, verdict.reason, restored)
        return verdict

    def synthesis(self, facts: Digest) -> str | None:
        """Return the synthesis model's text; its failure must not cost the tiles that are done."""
        spec = self._plan.stages.synthesis
        if spec is None or spec.name == "summary":
            return None
        began = time.perf_counter()
        source = self._plan.source
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
        self._state.stage("synthesis", began, text[:200], restored)
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
                f"the budget of {self._budget:g} does not cover {stage} by {spec.name}: "
                f"{self._spending.total:.4g} is spent"
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
