"""Runs of the past in the panel: opened as they were, and gone on with where that can be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilevision.batch import resume_run
from tilevision.errors import RunBusy, RunError, SourceError, TilevisionError
from tilevision.history import FollowedRun, ReplayedRun
from tilevision.pipeline import Run
from tilevision.pipeline.history import find_manifest, recall
from tilevision.view.panel.settingsform import Choices

__all__ = ["Revival"]

DONE_WITH = {
    "complete": "all its tiles are done",
    "blocked": "moderation refused its image",
}


class Revival:
    """Finds what a past run needs to be shown or gone on with, among what the panel has.

    A journal keeps neither code nor pixels: functions and images in memory come from the panel.

    Parameters
    ----------
    checkpoint : path-like or None
        Folder of the runs.
    choices : Choices
        The image and the models there are.
    """

    def __init__(self, checkpoint: str | os.PathLike[str] | None, choices: Choices) -> None:
        self._checkpoint = checkpoint or ""
        self._choices = choices

    def open(self, run_id: str) -> ReplayedRun | FollowedRun:
        """Return a run that is over, at its end; or one that another process works on."""
        image = self._image(find_manifest(run_id, self._checkpoint))
        try:
            return ReplayedRun(run_id, self._checkpoint, seconds=0, image=image)
        except RunError:
            followed = FollowedRun(run_id, self._checkpoint, image=image)
            if followed.status in ("running", "paused"):
                return followed
            raise

    def resume(self, run_id: str) -> Run:
        """Go on with a run: what is done is restored, failed tiles get fresh attempts.

        Raises
        ------
        TilevisionError
            If something is missing here; one line that says what.
        """
        return resume_run(run_id, self._checkpoint, **self._needs(run_id))

    def model_of(self, run_id: str, name: str) -> Any:
        """Return a run's model where the panel has one of its name, else None."""
        manifest = find_manifest(run_id, self._checkpoint)
        return self._choices.model.called(name, manifest.get("routing"))

    def why_not(self, run_id: str, status: str) -> str:
        """Say why `resume` would be refused, in one line; empty where it would not."""
        if status in DONE_WITH:
            return DONE_WITH[status]
        try:
            self._needs(run_id)
        except TilevisionError as error:
            return str(error)
        return ""

    def _needs(self, run_id: str) -> dict[str, Any]:
        """Return the arguments of `tilevision.resume` that the journal alone does not give."""
        manifest = find_manifest(run_id, self._checkpoint)
        image = self._image(manifest)
        needs = {"image": image, **self._stages(manifest)}
        if image is None and manifest["path"] is None:
            raise RunError(
                f"it analysed a {manifest['image']} in memory; open the panel on that, as in "
                "tv.explore(image)"
            )
        path = str(manifest["path"])
        if image is None and "://" not in path and not Path(path).exists():
            raise SourceError(
                f"its image is not at {path} any more; in code, "
                f"tv.resume({run_id!r}, image=...) takes it from elsewhere"
            )
        own = self._choices.model.called(manifest["model"], manifest.get("routing"))
        try:
            recall(manifest, self._checkpoint, model_=None, **needs)
        except RunBusy:
            raise
        except RunError as error:
            if own is None:
                raise RunError(f"{error}; in the panel: Setup, Add a model") from error
            return needs | {"model": own}
        return needs

    def _image(self, manifest: Mapping[str, Any]) -> Any:
        """Return the panel's own image for a run on pixels in memory; others have a path."""
        return self._choices.in_memory if manifest["path"] is None else None

    def _stages(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return the functions that served the stages besides the tiles, where they are here."""
        menus = {"moderation": self._choices.moderation, "synthesis": self._choices.synthesis}
        kept = {stage: manifest[stage] for stage in menus}
        found = {
            stage: menus[stage].called(told["name"])
            for stage, told in kept.items()
            if told is not None and told["params"] is None
        }
        return {stage: value for stage, value in found.items() if value is not None}
