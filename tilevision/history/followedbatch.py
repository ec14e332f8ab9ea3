"""A multi-image run in another process, followed through its journal."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
from tilevision.history.followedrun import OVER
from tilevision.pipeline.manifest import find_manifest, legible
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT
from tilevision.status import ImageStatus, RunStatus

__all__ = ["FollowedMany", "is_of_many"]


class FollowedMany:
    """A multi-image run in another process: what has happened so far, then what happens.

    Parameters
    ----------
    run_id : str
        As `tilevision.runs` lists it.
    checkpoint : path-like
        Its folder.

    Attributes
    ----------
    id, name, model : str
        Id of the run, name of all images together, name of the model.
    names : tuple of str
        Of the images, in order.
    images : dict of str to ImageChanged
        The latest event of each image that was started.
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
        with legible(run_id):
            self.names = tuple(map(str, manifest["images"]))
            self.name, self.model = str(manifest["image"]), str(manifest["model"])
            self.started = float(manifest["started"])
        self.id = run_id
        self.images: dict[str, ImageChanged] = {}
        self.status: str = RunStatus.RUNNING
        self._checkpoint = checkpoint
        self._tail = JournalTail(journal_path(checkpoint, run_id))

    @property
    def over(self) -> bool:
        """Return True if nothing more will come, as of the last `news`."""
        return self.status in OVER

    def news(self) -> list[RunChanged | ImageChanged]:
        """Return what has happened since the last call."""
        held = run_owner(self._checkpoint, self.id) is not None
        told = self._read()  # what was told before it was let go of
        if not held and not self.over:
            self.status = RunStatus.INTERRUPTED
        return told

    def in_turn(self, run_id: str = "") -> ImageChanged | None:
        """Return the image to look at, as of the last `news`; None until one has started.

        Parameters
        ----------
        run_id : str
            The run of the image that is looked at: it stays while that is running. Then it is
            the first image that is running, or the one with the latest event.
        """
        begun = [image for image in self.images.values() if image.run]
        working = [image for image in begun if image.status == ImageStatus.RUNNING]
        stays = [image for image in working if image.run == run_id]
        last = sorted(begun, key=lambda image: image.time)[-1:]
        return next(iter(stays or working or last), None)

    def _read(self) -> list[RunChanged | ImageChanged]:
        told: list[RunChanged | ImageChanged] = []
        try:
            told.extend(self._events())
        except (RunError, OSError) as error:  # of one that is over, everything was told
            if not self.over:
                self.status = RunStatus.INTERRUPTED
                reason = f"it cannot be followed any more: {error}"
                told.append(RunChanged(self.started, self.status, reason))
        return told

    def _events(self) -> Iterator[RunChanged | ImageChanged]:
        for line in self._tail.lines():
            try:
                image, event = read_image(line), from_line(line)
            except ValueError:  # torn by a crash or a full disk
                continue
            if image is not None:
                self.images[image.image] = image
                yield image
            elif isinstance(event, RunChanged):
                self.status = event.status
                yield event


def is_of_many(run_id: str, checkpoint: str | os.PathLike[str]) -> bool:
    """Return True if a run has many images.

    Raises
    ------
    RunError
        If there is no such run.
    """
    return "images" in find_manifest(run_id, checkpoint)
