"""The logbook of many images: they are one run, with one lock and one journal."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Any

from tilevision.batch.batch import ImageRow, status_of
from tilevision.checkpoint import RunLock, run_owner
from tilevision.errors import RunBusy, RunError
from tilevision.events import (
    ImageChanged,
    Journal,
    RunChanged,
    image_line,
    journal_path,
    read_manifest,
)

__all__ = ["Logbook"]


class Logbook:
    """Writes down how far many images are, and keeps others from the same work meanwhile.

    A context manager around the work; what is raised inside is written down as its end.

    Parameters
    ----------
    folder : path-like or None
        Of the checkpoint; None keeps nothing.
    manifest : mapping
        First line of the journal.
    rows : mapping of str to ImageRow
        What became of each image; read at the end.

    Raises
    ------
    RunBusy
        On entering, if another process is at work on the same run, or writes the files of
        another into the same folder.
    CheckpointError
        If the journal cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        manifest: Mapping[str, Any],
        rows: Mapping[str, ImageRow],
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._rows = rows
        self._journal: Journal | None = None
        self._stack = ExitStack()

    def begun(self, image: str, run_id: str) -> None:
        """Write down that an image's run has begun."""
        self._write(ImageChanged(time.time(), image, "running", run_id))

    def ended(self, row: ImageRow, run_id: str) -> None:
        """Write down what became of an image."""
        self._write(ImageChanged(time=time.time(), run=run_id, **asdict(row)))

    def _write(self, event: ImageChanged) -> None:
        if self._journal is not None:
            self._journal.write(image_line(event))

    def __enter__(self) -> Logbook:
        if self._folder is None:
            return self
        run_id = self._manifest["id"]
        with ExitStack() as stack:
            stack.enter_context(RunLock(self._folder, run_id))
            self._refuse_a_second()
            path = journal_path(self._folder, run_id)
            journal = Journal.reopen(path) if path.exists() else Journal(path, self._manifest)
            stack.callback(journal.close)
            self._stack = stack.pop_all()
        self._journal = journal
        journal(RunChanged(time.time(), "running"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._journal is not None:
            self._journal(RunChanged(time.time(), *self._end(error)))
        self._journal = None
        self._stack.close()

    def _end(self, error: BaseException | None) -> tuple[str, str]:
        if error is None:
            return status_of(self._rows.values())
        if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
            return "cancelled", "interrupted"
        return "stopped", str(error)

    def _refuse_a_second(self) -> None:
        """Refuse to write files into a folder that another process is writing to.

        The same line, typed a second time while it is at work, would be that.
        """
        mine, out = self._manifest["id"], self._manifest["out_dir"]
        for path in sorted(journal_path(self._folder or "", "*").parent.glob("*.jsonl")):
            if out is None or path.stem == mine:
                continue
            try:
                if read_manifest(path).get("out_dir") != out:
                    continue
                owner = run_owner(self._folder or "", path.stem)
            except RunError:  # no journal of ours
                continue
            if owner is not None:
                raise RunBusy(
                    f"run {path.stem} is writing to {out}, by process {owner.pid} on "
                    f"{owner.host}; wait for it, end that process, or give another out_dir"
                )
