"""What a run holds while it works: its lock, its checkpoint, its journal."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, RunLock
from tilevision.errors import ClusterError
from tilevision.events import Bus, Journal, journal_path
from tilevision.pipeline.conductor import Conductor
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT

__all__ = ["Session", "new_run_id", "open_checkpoint"]


def new_run_id() -> str:
    """Return an id that sorts by time and is unique: ``20261122-131500-3fa9c1``."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def open_checkpoint(folder: str | os.PathLike[str] | None) -> Checkpoint | MemoryCheckpoint:
    """Open the checkpoint in `folder`; None keeps nothing beyond this object."""
    return MemoryCheckpoint() if folder is None else Checkpoint.open(folder)


class Session:
    """Opens what a run needs for as long as it works, and closes it in any case.

    Parameters
    ----------
    folder : path-like or None
        Of the checkpoint.
    run_id : str
    manifest : dict
        First line of the journal: what the run is about.
    bus : Bus
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, run_id: str, manifest: dict[str, Any], bus: Bus
    ) -> None:
        self._folder = folder
        self._run_id = run_id
        self._manifest = manifest
        self._bus = bus

    def hold(self, conductor: Conductor, flow: Callable[[], None]) -> None:
        """Call `flow` with the conductor's checkpoint open and its events journaled.

        Raises
        ------
        RunBusy
            If another process works on this run.
        CheckpointError
            If the checkpoint cannot be opened.
        """
        with ExitStack() as stack:
            if self._folder is not None:
                stack.enter_context(RunLock(self._folder, self._run_id))
            checkpoint = open_checkpoint(self._folder)
            stack.callback(checkpoint.close)
            conductor.checkpoint = checkpoint
            if checkpoint.folder is not None:
                journal = self._journal(journal_path(checkpoint.folder, self._run_id))
                stack.callback(journal.close)
                stack.callback(self._bus.subscribe(journal))
            # The end is told inside, so that the journal has it.
            conductor.guard(lambda: self._saying_how_to_go_on(conductor, flow))

    def _saying_how_to_go_on(self, conductor: Conductor, flow: Callable[[], None]) -> None:
        """Call `flow`; where the cluster fails it, the error says which line goes on."""
        try:
            flow()
        except ClusterError as error:
            if self._folder is None:
                raise
            words = [repr(self._run_id)]
            if os.fspath(self._folder) != DEFAULT_CHECKPOINT:
                words.append(repr(os.fspath(self._folder)))
            if conductor.settings.client is not None:
                words.append("client=client")
            line = f"tv.resume({', '.join(words)})"
            raise ClusterError(f"{error}. What is done is kept; {line} goes on") from error

    def _journal(self, path: Path) -> Journal:
        return Journal.reopen(path) if path.exists() else Journal(path, self._manifest)
