"""Going on with a run, of one image or of many, under its own id."""

from __future__ import annotations

import os
from typing import Any

from tilevision.batch.batch import Batch
from tilevision.batch.collection import collect
from tilevision.batch.many import Many
from tilevision.batch.manymanifest import recall_many
from tilevision.pipeline.history import check_free, check_same_model, find_manifest, recall
from tilevision.pipeline.launch import launch
from tilevision.pipeline.run import Run
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT, Settings

__all__ = ["resume", "resume_run"]


def resume(
    run_id: str,
    checkpoint: str | os.PathLike[str] = DEFAULT_CHECKPOINT,
    *,
    image: Any = None,
    model: Any = None,
    client: Any = None,
    **overrides: Any,
) -> Run | Batch:
    """Go on with a run that was stopped, under its own id.

    Finished tiles are restored; failed ones get fresh attempts.

    Parameters
    ----------
    run_id : str
        As `tilevision.runs` lists it.
    checkpoint : path-like
        Its folder.
    image, model : optional
        Where the run cannot know them: an image that was in memory, a file that has moved, a
        function.
    client : distributed.Client, optional
    **overrides
        Arguments of `tilevision.start` that shall differ from the first time.

    Returns
    -------
    Run or Batch
        Of one image: its `Run`, at once. Of many: their `Batch`, when all are done.

    Raises
    ------
    RunError
        If there is no such run, another process is at work on it (`RunBusy`), or something
        has to be passed again.
    SourceError, ModelError
        If image or model are not what the run was begun with.
    """
    if "images" in find_manifest(run_id, checkpoint) and image is None:
        return _resume_many(run_id, checkpoint, model, client, overrides)
    return resume_run(run_id, checkpoint, image=image, model=model, client=client, **overrides)


def resume_run(
    run_id: str, checkpoint: str | os.PathLike[str] = DEFAULT_CHECKPOINT, **given: Any
) -> Run:
    """Go on with a run of one image; as `resume`."""
    manifest = find_manifest(run_id, checkpoint)
    image, settings = recall(
        manifest, checkpoint, given.pop("image", None), given.pop("model", None), **given
    )
    return launch(image, settings, manifest=manifest)


def _resume_many(
    run_id: str,
    checkpoint: str | os.PathLike[str],
    model: Any,
    client: Any,
    overrides: dict[str, Any],
) -> Batch:
    manifest = find_manifest(run_id, checkpoint)
    check_free(run_id, checkpoint)
    images, arguments = recall_many(manifest, model, overrides)
    if client is not None:
        arguments |= {"client": client, "workers": None}
    settings = Settings(**(arguments | {"checkpoint": checkpoint} | overrides))
    many = Many(images, settings, manifest["out_dir"], manifest["out_format"], manifest=manifest)
    check_same_model(manifest, many.stages)
    return collect(many)
