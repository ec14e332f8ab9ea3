"""What the journal of a run says about its image, its tiles and its model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from tilevision.errors import RunError, SourceError
from tilevision.events import journal_path
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.pipeline.manifest import find_manifest, legible
from tilevision.pipeline.tiling import Tiling, outside
from tilevision.regions import Region
from tilevision.sources import ImageMetadata, ImageSource, Pixels, SourceRef, file_of, open_source
from tilevision.sources.addresses import check_kept, is_address, lasting

__all__ = ["AbsentSource", "ModelName", "Recording"]


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model of which only the name is known here, and of several their names, in order."""

    name: str
    models: tuple[str, ...] = ()


def _names(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the models of a run in order; journals of earlier versions name one."""
    return tuple(str(one["name"]) for one in manifest.get("models", ()))


class AbsentSource:
    """An image that cannot be read here: its size is known, its pixels are not.

    Parameters
    ----------
    size : (int, int)
        Width and height, pixels.
    reason : str
        Why; `read` and `thumbnail` raise it as a `SourceError`.
    """

    bands = 3
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    fingerprint = ""
    reference = SourceRef("", "")

    def __init__(self, size: tuple[int, int], reason: str) -> None:
        self.size = size
        self.metadata = ImageMetadata(notes=(reason,))
        self._reason = reason

    def read(self, box: Box, scale: float = 1.0, bands: Sequence[int] | None = None) -> Pixels:
        """Raise `SourceError`: there are no pixels."""
        del box, scale, bands
        self._refuse()

    def thumbnail(self, max_side: int) -> Pixels:
        """Raise `SourceError`: there are no pixels."""
        del max_side
        self._refuse()

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _refuse(self) -> NoReturn:
        raise SourceError(self._reason)


class Recording:
    """A run as its manifest describes it. The image is opened when it is first needed.

    Parameters
    ----------
    run_id : str
    checkpoint : path-like
        The folder it keeps its tiles and its journal in.
    image : optional
        Where the run's image is now; default: where it was.

    Attributes
    ----------
    id, name : str
        Id of the run, name of its image.
    model : ModelName
    routing : mapping or None
        Which tiles went to which model, where there are several.
    tiles : tuple of Tile
    region : Region or None
        The part of the image that was asked for; None: all of it.
    skipped : frozenset of Tile
        Those that lie outside it.
    started : float
        Seconds since the epoch.
    path : Path
        Of the journal.

    Raises
    ------
    RunError
        If there is no such run, or its journal does not say what it analysed.
    """

    def __init__(self, run_id: str, checkpoint: str | os.PathLike[str], image: Any = None) -> None:
        manifest = find_manifest(run_id, checkpoint)
        if "images" in manifest:
            raise RunError(
                f"Run {run_id} has {len(manifest['images'])} images, each with a run of its own. "
                f"tv.runs(images={run_id!r}) lists them."
            )
        self.id = run_id
        self.checkpoint = checkpoint
        self.path = journal_path(checkpoint, run_id)
        with legible(run_id):
            width, height = manifest["size"]
            self.size = (int(width), int(height))
            self.tiles: tuple[Tile, ...] = Tiling.from_dict(manifest["tiling"]).tiles(self.size)
            region = manifest.get("region")  # journals of earlier versions have none
            self.region = None if region is None else Region.from_dict(region)
            self.skipped = outside(self.region, self.tiles)
            self.started = float(manifest["started"])
            self.name = str(manifest["image"])
            self.model = ModelName(str(manifest["model"]), _names(manifest))
            self.routing = manifest.get("routing")
            self._mpp = manifest["settings"]["mpp"]
            self._path, self._fingerprint = manifest["path"], str(manifest["source"])
        self._image = image

    @cached_property
    def source(self) -> ImageSource:
        """The image; an `AbsentSource` where it is not what or where it was.

        Raises
        ------
        SourceError
            If the image that was given cannot be opened, or is another one.
        """
        if self._image is not None:
            return self._opened(self._image, sure=True)
        if self._path is None:
            reason = "The image was in memory where the run was started. Give image= here."
            return AbsentSource(self.size, reason)
        try:
            return self._opened(self._path, sure=False)
        except SourceError as error:
            return AbsentSource(self.size, str(error))

    def _opened(self, image: Any, *, sure: bool) -> ImageSource:
        """Open `image`; unless it has to be `sure`, an older file of the size is taken for it."""
        check_kept(image, f"run {self.id}")
        source = open_source(image, mpp=self._mpp)
        sure = sure or is_address(image)
        sure = sure or file_of(os.fspath(image)).stat().st_mtime > self.started
        if source.size != self.size or (sure and source.fingerprint != self._fingerprint):
            source.close()
            raise SourceError(
                f"{lasting(image) or type(image).__name__} is not the image that run {self.id} "
                "analysed, or it has changed since. Give image=."
            )
        return source
