"""Past runs, and those in progress, as a table. Reads journals, never the cache."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from tilevision.checkpoint import run_owner
from tilevision.display import readable
from tilevision.errors import RunError
from tilevision.events import ImageChanged, KnownRuns, RunSummary, list_runs, together
from tilevision.pipeline.manifest import find_manifest
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT
from tilevision.status import ImageStatus, RunStatus, TileStatus

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ListedRun", "image_runs", "run_status", "runs"]

Folder = str | os.PathLike[str]

_IMAGE_COLUMNS = ["image", "status", "detections", "tiles", "failed", "seconds", "error", "id"]


class ListedRun(NamedTuple):
    """A row of the list; see `runs` for what its columns hold."""

    id: str
    started: datetime
    image: str
    images: str
    model: str
    status: str
    tiles: int
    done: int
    failed: int


def runs(checkpoint: Folder = DEFAULT_CHECKPOINT, *, images: str | None = None) -> pd.DataFrame:
    """List the runs of a checkpoint folder, the latest first; a multi-image run is one row.

    Parameters
    ----------
    checkpoint : path-like
    images : str, optional
        Id of a multi-image run: list its images instead, in their order.

    Returns
    -------
    DataFrame
        id, started, image, images (``"28/30"``: complete and all; empty for a single image),
        model, status, tiles, done (restored ones included), failed. In a multi-image run, the
        tiles of the images started so far are counted. A run that was killed is
        ``interrupted``; `tilevision.resume` continues it. With `images`: image, status,
        detections, tiles, failed, seconds, error, and id, that of the image's own run.

    Raises
    ------
    RunError
        If `images` is not the id of a multi-image run.
    """
    import pandas as pd

    if images is not None:
        return _images(checkpoint, images)
    rows = [_listed(checkpoint, run) for run in together(list_runs(checkpoint))]
    return pd.DataFrame(rows, columns=list(ListedRun._fields))


def image_runs(
    checkpoint: Folder = DEFAULT_CHECKPOINT, most: int | None = None, known: KnownRuns | None = None
) -> list[ListedRun]:
    """Return the run of every image as `runs` does, also those of multi-image runs.

    No table is made of them: the panel lists runs while it draws its first pictures, and a library
    of tables takes as long to load as all else there.

    Parameters
    ----------
    checkpoint : path-like
    most : int, optional
        So many, the latest. Default: all.
    known : KnownRuns, optional
        What was read before: of those, journals that have not changed are not read again.
    """
    found = list_runs(checkpoint, most, known, of_one=True)
    return [_listed(checkpoint, run) for run in found]


def _listed(checkpoint: Folder, run: RunSummary) -> ListedRun:
    whole = ""
    if run.images is not None:
        complete = sum(image.complete for image in run.images.values())
        whole = f"{complete}/{len(run.manifest['images'])}"
    return ListedRun(
        run.id,
        datetime.fromtimestamp(run.started).astimezone(),
        readable(run.image),
        whole,
        readable(run.model),
        run_status(checkpoint, run),
        sum(run.counts.values()),
        sum(run.counts.get(status, 0) for status in TileStatus if status.analysed),
        run.counts.get(TileStatus.FAILED, 0),
    )


def run_status(checkpoint: Folder, run: RunSummary) -> str:
    """Return the status of a run; one that no process holds, yet has not ended, was cut off."""
    if run.status not in (RunStatus.RUNNING, RunStatus.PAUSED):
        return run.status
    try:
        owner = run_owner(checkpoint, run.id)
    except RunError:  # a file in the folder that no run would be named like
        return "unreadable"
    return RunStatus.INTERRUPTED if owner is None else run.status


def _images(checkpoint: Folder, run_id: str) -> pd.DataFrame:
    import pandas as pd

    manifest = find_manifest(run_id, checkpoint)
    if "images" not in manifest:
        raise RunError(f"Run {run_id} has a single image, {manifest['image']}. tv.runs() lists it.")
    told = next(run.images for run in list_runs(checkpoint) if run.id == run_id) or {}
    cut_off = run_owner(checkpoint, run_id) is None
    rows = []
    for name in manifest["images"]:
        image = told.get(name, ImageChanged(0.0, name, ImageStatus.PENDING))
        words = {"image": readable(name), "error": readable(image.error)}
        row = asdict(image) | words | {"id": image.run}
        if image.status == ImageStatus.RUNNING and cut_off:
            row["status"] = RunStatus.INTERRUPTED
        rows.append(row)
    return pd.DataFrame(rows, columns=_IMAGE_COLUMNS)
