"""`tilevision.analyze_many`: all images of a run of many, gathered into a `Batch`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

from tilevision.batch.batch import Batch
from tilevision.batch.many import Many
from tilevision.errors import TilevisionError
from tilevision.pipeline.settings import Settings
from tilevision.result import Result

__all__ = ["analyze_many", "collect"]


def analyze_many(
    images: Any,
    model: Any = None,
    *,
    out_dir: str | os.PathLike[str] | None = None,
    out_format: str = "geojson",
    **arguments: Any,
) -> Batch:
    """Analyse many images with the same settings: one run, one cluster, one checkpoint.

    While the last tiles of an image are worked on, the next is begun, unless a budget, a quota,
    a concurrency or a hosted model asks for one at a time. The same call again goes on where
    the last one ended, however it ended: what is done is restored from the checkpoint.

    Parameters
    ----------
    images : folder, glob pattern, or iterable of what `tilevision.start` takes
        A folder stands for the images in it, ``"scan.tif#pages"`` for the pages of a file
        (`tilevision.pages` lists them), in an iterable as well.
    model
        As for `tilevision.start`, and so all other arguments; the budget is for all images.
    out_dir : path-like, optional
        Folder for a file per image, written as soon as that is done, and for ``summary.csv``,
        the table of all images, which is renewed as they are done.
    out_format : str
        Name of the files' format, as `Result.save` knows it.

    Returns
    -------
    Batch
        An image that cannot be analysed is in ``errors`` and stops nothing. Results are read
        from the checkpoint when they are asked for; with ``checkpoint=None`` the findings of
        all images stay in memory.

    Raises
    ------
    RunError
        If there is no image, two would have the same name or be written to the same file, or
        the format or the folder cannot be used; `RunBusy` if another process is writing to
        that folder.
    ModelError, GridError
        If the model is unknown, or the grid not understood: that would fail for every image.
    ClusterError, CheckpointError
        If the cluster is lost, or the checkpoint cannot be written: so would these.
    KeyboardInterrupt
        What is done is kept; the same call goes on.
    """
    return collect(Many(images, Settings(model=model, **arguments), out_dir, out_format))


def collect(many: Many) -> Batch:
    """Analyse all images, and return their results by name; as `analyze_many`."""
    results: dict[str, Callable[[], Result]] = {}
    errors: dict[str, TilevisionError] = {}
    with closing(iter(many)) as analysed:
        for one in analysed:
            if one.again is not None:
                results[one.row.image] = one.again
            elif one.error is not None:
                errors[one.row.image] = one.error
    return Batch(many.rows.values(), results, errors, many.id)
