"""The public calls for many images: `analyze_many`, and `resume` for runs of either kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

from tilevision.batch.batch import Batch
from tilevision.batch.batchjournal import recall_many
from tilevision.batch.many import Many
from tilevision.errors import TilevisionError
from tilevision.pipeline.api import launch
from tilevision.pipeline.manifest import (
    check_free,
    check_same_model,
    find_manifest,
    legible,
    recall,
)
from tilevision.pipeline.run import Run
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT, Settings
from tilevision.result import Result

__all__ = ["analyze_many", "collect", "resume", "resume_run"]


def analyze_many(
    images: Any,
    model: Any = None,
    *,
    out_dir: str | os.PathLike[str] | None = None,
    out_format: str = "geojson",
    **arguments: Any,
) -> Batch:
    """Analyse many images with the same settings: one run, one cluster, one checkpoint.

    While the last tiles of an image are analysed, the next image starts, unless a budget, a
    quota, a concurrency or a hosted model requires one at a time. The same call again continues
    where the last one ended, however it ended: finished work is restored from the checkpoint.

    Parameters
    ----------
    images : folder, glob pattern, or iterable of what `tilevision.start` takes
        A folder stands for the images in it, ``"scan.tif#pages"`` for the pages of a file
        (`tilevision.pages` lists them), in an iterable as well.
    model
        As for `tilevision.start`, like all other arguments; the budget is for all images.
    out_dir : path-like, optional
        Folder for a file per image, written as soon as the image is done, and for
        ``summary.csv``, the table of all images, which is updated on the way.
    out_format : str
        Format of the files, as for `Result.save`.

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
        If the model is unknown, or the grid is invalid: that would fail for every image.
    ClusterError, CheckpointError
        If the cluster is lost, or the checkpoint cannot be written: so would this.
    KeyboardInterrupt
        Finished work is kept; the same call continues.
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


def resume(
    run_id: str,
    checkpoint: str | os.PathLike[str] = DEFAULT_CHECKPOINT,
    *,
    image: Any = None,
    model: Any = None,
    client: Any = None,
    **overrides: Any,
) -> Run | Batch:
    """Resume a run that was stopped, under its own id.

    Finished tiles are restored; failed ones get fresh attempts.

    Parameters
    ----------
    run_id : str
        As `tilevision.runs` lists it.
    checkpoint : path-like
        Its folder.
    image, model : optional
        What the run cannot know: an image that was in memory, a file that has moved, a
        function.
    client : distributed.Client, optional
    **overrides
        Arguments of `tilevision.start` that replace those of the first call.

    Returns
    -------
    Run or Batch
        For a single image its `Run`, immediately; for many their `Batch`, when all are done.

    Raises
    ------
    RunError
        If there is no such run, another process is working on it (`RunBusy`), or something
        has to be given again.
    SourceError, ModelError
        If image or model are not those of the run.
    """
    if "images" in find_manifest(run_id, checkpoint) and image is None:
        return collect(many_again(run_id, checkpoint, model, client, **overrides))
    return resume_run(run_id, checkpoint, image=image, model=model, client=client, **overrides)


def resume_run(
    run_id: str, checkpoint: str | os.PathLike[str] = DEFAULT_CHECKPOINT, **given: Any
) -> Run:
    """Resume a run of a single image; as `resume`."""
    manifest = find_manifest(run_id, checkpoint)
    image, settings = recall(
        manifest, checkpoint, given.pop("image", None), given.pop("model", None), **given
    )
    return launch(image, settings, manifest=manifest)


def many_again(
    run_id: str,
    checkpoint: str | os.PathLike[str],
    model: Any = None,
    client: Any = None,
    **overrides: Any,
) -> Many:
    """Return a run of many images to go on with; arguments and errors are those of `resume`."""
    manifest = find_manifest(run_id, checkpoint)
    check_free(run_id, checkpoint)
    images, arguments = recall_many(manifest, model, overrides)
    with legible(run_id):
        out = manifest["out_dir"], manifest["out_format"]
    if client is not None:
        arguments |= {"client": client, "workers": None}
    settings = Settings(**(arguments | {"checkpoint": checkpoint} | overrides))
    many = Many(images, settings, *out, manifest=manifest)
    check_same_model(manifest, many.stages)
    return many
