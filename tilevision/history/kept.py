"""How to have a result again that is not held: from the checkpoint, or from its bare findings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tilevision.events import JournalTail
from tilevision.history.journaled import JournaledRun
from tilevision.history.recording import Recording
from tilevision.history.stored import stored_result
from tilevision.pipeline.settings import Settings
from tilevision.result import Result
from tilevision.sources import open_source
from tilevision.sources.addresses import is_address

__all__ = ["keep"]


def keep(result: Result, image: Any, settings: Settings) -> Callable[[], Result]:
    """Return a function that makes `result` again; it holds neither pixels nor open files.

    Parameters
    ----------
    result : Result
    image
        That it is of.
    settings : Settings
        Of its run. Without a checkpoint the findings are held in memory.
    """
    facts, name, merging = result.facts, result.name, result.settings
    checkpoint = settings.checkpoint
    if isinstance(image, (str, os.PathLike)) and not is_address(image):
        image = Path(image).absolute()  # the working folder may be another by then
    if checkpoint is not None:

        def read() -> Result:
            run = _ReadRun(Recording(facts.run_id, checkpoint, image))
            found = stored_result(run, checkpoint, model=settings.model)
            return Result(found.source, found.rows, found.tile_findings, merging, facts, name)

        return read
    rows, findings = result.rows, result.tile_findings

    def again() -> Result:
        source = open_source(image, mpp=settings.mpp)
        return Result(source, rows, findings, merging, facts, name)

    return again


class _ReadRun(JournaledRun):
    """A run that is read from its journal at once; nobody listens."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        for event in JournalTail(recording.path).read():
            self._tell(event)

    def _step(self) -> float | None:
        return None
