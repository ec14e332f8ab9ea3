"""The journal of a multi-image run: its manifest, its lines, and how it leads to the same work."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
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
from tilevision.grid import Grid
from tilevision.pipeline.manifest import begin_manifest, legible, remember_work, work_again
from tilevision.pipeline.planning import Stages
from tilevision.pipeline.settings import Settings
from tilevision.sources.addresses import check_kept, lasting
from tilevision.status import ImageStatus, RunStatus

__all__ = ["Logbook", "describe_many", "recall_many"]


_KEPT = ("resolution", "full_image", "reuse")


def describe_many(
    run_id: str,
    label: str,
    images: Mapping[str, Any],
    settings: Settings,
    stages: Stages,
    out: tuple[str | os.PathLike[str] | None, str],
) -> dict[str, Any]:
    """Return what another process needs to list, follow or resume a multi-image run.

    Parameters
    ----------
    run_id : str
    label : str
        What users call all of them.
    images : mapping of str to image
        By name, in order.
    settings : Settings
    stages : Stages
    out : (path-like or None, str)
        The folder of the files, and their format.
    """
    region = _region(settings.region)
    return {
        **begin_manifest(run_id, label, stages),
        "images": list(images),
        "paths": [lasting(image) for image in images.values()],
        "out_dir": None if out[0] is None else str(Path(out[0]).expanduser().absolute()),
        "out_format": out[1],
        "grid": None if settings.grid is None else Grid.parse(settings.grid).to_dict(),
        "region": region,
        "region_lost": settings.region is not None and region is None,
        "asked": {name: getattr(settings, name) for name in _KEPT},
        **remember_work(stages, settings),
    }


def recall_many(
    manifest: Mapping[str, Any], model: Any, overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the images by name, and the arguments of the first call.

    Raises
    ------
    RunError
        If something has to be given again, or cannot be.
    SourceError
        If an image's address lacks its secrets, which are not stored.
    """
    who = f"Run {manifest['id']}"
    with legible(manifest["id"]):
        images = dict(zip(manifest["images"], manifest["paths"], strict=True))
        in_memory = [name for name, path in images.items() if path is None]
        if in_memory:
            raise RunError(
                f"{who} analysed images that were in memory ({in_memory[0]}). Call tv.analyze_many "
                "with the same images: it restores what is stored."
            )
        for path in images.values():
            check_kept(path, who)
        if manifest["region_lost"] and "region" not in overrides:
            raise RunError(f"{who} had a region that is not stored. Give region=.")
        arguments = work_again(manifest, who, model, overrides) | manifest["asked"]
        grid = manifest["grid"]
        arguments["grid"] = None if grid is None else Grid.from_dict(grid)
        arguments["region"] = manifest["region"]
    return images, arguments


def _region(region: Any) -> Any:
    """Return a region as plain JSON types, a file by its full path; None where it is neither."""
    if isinstance(region, (str, os.PathLike)) and Path(region).expanduser().exists():
        return str(Path(region).expanduser().absolute())
    try:
        json.dumps(region)
    except (TypeError, ValueError):
        return None
    return region


class Logbook:
    """Writes what becomes of each image, and keeps other processes from the same run meanwhile.

    A context manager around the work; an exception inside is written as the end of the run.

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
        self._lost = ""
        self._stack = ExitStack()

    def begun(self, image: str, run_id: str) -> None:
        """Write that the run of an image has started."""
        self._write(ImageChanged(time.time(), image, ImageStatus.RUNNING, run_id))

    def ended(self, row: ImageRow, run_id: str) -> None:
        """Write what became of an image."""
        self._write(ImageChanged(time=time.time(), run=run_id, **asdict(row)))

    def _give_up(self, reason: str) -> None:
        """Write no more, and stop at the next image: another process has taken the run over."""
        self._lost = reason
        if self._journal is not None:
            self._journal.close()

    def _write(self, event: ImageChanged) -> None:
        if self._lost:
            raise RunBusy(self._lost)
        if self._journal is not None:
            self._journal.write(image_line(event))

    def __enter__(self) -> Logbook:
        if self._folder is None:
            return self
        run_id = self._manifest["id"]
        with ExitStack() as stack:
            lock = stack.enter_context(RunLock(self._folder, run_id, self._give_up))
            self._refuse_a_second()
            path = journal_path(self._folder, run_id)
            journal = Journal.begin(path, self._manifest, lock.epoch)
            stack.callback(journal.close)
            self._stack = stack.pop_all()
        self._journal = journal
        journal(RunChanged(time.time(), RunStatus.RUNNING))
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
            return RunStatus.CANCELLED, "interrupted"
        return RunStatus.STOPPED, str(error)

    def _refuse_a_second(self) -> None:
        """Refuse to write files into a folder that another process is writing to.

        The same command, entered a second time while the first is running, would do that.
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
                    f"Run {path.stem} is writing to {out}, in {owner}. Wait for it, end that "
                    "process, or give another out_dir."
                )
