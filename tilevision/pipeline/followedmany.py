"""A run of many images that another process carries out, followed through its journal."""

from __future__ import annotations

import os

from tilevision.checkpoint import run_owner
from tilevision.errors import RunError
from tilevision.events import (
    ImageChanged,
    JournalTail,
    RunChanged,
    from_line,
    journal_path,
    read_image,
)
from tilevision.pipeline.history import find_manifest
from tilevision.pipeline.journaled import OVER
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT

__all__ = ["FollowedMany", "is_of_many", "latest_image"]


class FollowedMany:
    """A run of many images seen from elsewhere: what happened so far, then what happens.

    Parameters
    ----------
    run_id : str
        As `tilevision.runs` lists it.
    checkpoint : path-like
        Its folder.

    Attributes
    ----------
    id, name, model : str
        The run's, and what people call all images and the model.
    names : tuple of str
        Of the images, in order.
    images : dict of str to ImageChanged
        What was told of each image last, of those that were begun.
    status : str
        As a run's, or ``interrupted``; as of the last `news`.
    started : float
        Seconds since the epoch.

    Raises
    ------
    RunError
        If there is no such run.
    """

    def __init__(
        self, run_id: str, checkpoint: str | os.PathLike[str] = DEFAULT_CHECKPOINT
    ) -> None:
        manifest = find_manifest(run_id, checkpoint)
        try:
            self.names = tuple(map(str, manifest["images"]))
            self.name, self.model = str(manifest["image"]), str(manifest["model"])
            self.started = float(manifest["started"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"the journal of run {run_id} does not say which images it is of ({error!r}); it "
                "was written by another version, or is damaged"
            ) from error
        self.id = run_id
        self.images: dict[str, ImageChanged] = {}
        self.status = "running"
        self._checkpoint = checkpoint
        self._tail = JournalTail(journal_path(checkpoint, run_id))

    @property
    def over(self) -> bool:
        """Whether nothing more will come, as of the last `news`."""
        return self.status in OVER

    def news(self) -> list[RunChanged | ImageChanged]:
        """Return what was told since the last call."""
        held = run_owner(self._checkpoint, self.id) is not None
        told = self._read()  # what was told before it was let go of
        if not held and not self.over:
            self.status = "interrupted"
        return told

    def _read(self) -> list[RunChanged | ImageChanged]:
        told: list[RunChanged | ImageChanged] = []
        for line in self._tail.lines():
            try:
                image, event = read_image(line), from_line(line)
            except ValueError:  # torn by a crash or a full disk
                continue
            if image is not None:
                self.images[image.image] = image
                told.append(image)
            elif isinstance(event, RunChanged):
                self.status = event.status
                told.append(event)
        return told


def is_of_many(run_id: str, checkpoint: str | os.PathLike[str]) -> bool:
    """Say whether a run is of many images.

    Raises
    ------
    RunError
        If there is no such run.
    """
    return "images" in find_manifest(run_id, checkpoint)


def latest_image(run_id: str, checkpoint: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the run of one image to show for a run of many, and a line that says which it is.

    The first that is at work, else the one that ended last.

    Raises
    ------
    RunError
        If no image has been begun.
    """
    many = FollowedMany(run_id, checkpoint)
    many.news()
    begun = [image for image in many.images.values() if image.run]
    if not begun:
        raise RunError(
            f"no image of run {run_id} has been begun; tilevision runs --follow {run_id} waits"
        )
    working = [image for image in begun if image.status == "running"]
    image = working[0] if working else begun[-1]
    number = many.names.index(image.image) + 1
    line = f"run {run_id}, {many.status}: image {number} of {len(many.names)}, {image.image}"
    return image.run, line
