"""Images whose pixels lie decoded in a staging file, and the sources made from arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.identity import fingerprint_of_array, row_blocks
from tilevision.sources.levels import Level, LevelReader
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef, check_image_shape
from tilevision.sources.staging.maskedarray import unmasked
from tilevision.sources.staging.stagingfile import StagedPixels, open_staged, stage

__all__ = [
    "MappedLevel",
    "StagedSource",
    "as_image",
    "open_array",
    "open_staged_array",
    "staged_note",
    "staged_source",
]


class StagedSource(LevelReader):
    """An image read from a memory-mapped staging file.

    Parameters
    ----------
    name : str
        What errors call the image.
    staged : StagedPixels
    metadata : ImageMetadata
    reference : SourceRef
    mask : callable, optional
        ``mask(level)`` returns the level that is 0 where this image has no data.
    alpha : int, optional
        The band that says itself where the image has no data.
    """

    def __init__(
        self,
        name: str,
        staged: StagedPixels,
        metadata: ImageMetadata,
        reference: SourceRef,
        mask: Callable[[Level], Level] | None = None,
        alpha: int | None = None,
    ) -> None:
        height, width, bands = staged.shape
        metadata = replace(metadata, levels=((width, height),))
        level = MappedLevel(name, staged)
        masks = [] if mask is None else [mask(level)]
        super().__init__(name, [level], bands, staged.dtype, metadata, masks, alpha)
        self._staged = staged
        self._reference = reference

    @property
    def is_staged(self) -> bool:
        """Always."""
        return True

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this image again from."""
        return self._reference

    def close(self) -> None:
        """Give up the staging file; it is removed when nobody else reads it."""
        self._staged.close()


class MappedLevel:
    """The pixels of a staging file as a level.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, name: str, staged: StagedPixels) -> None:
        self._name = name
        self._staged = staged
        self.size = (staged.shape[1], staged.shape[0])
        self.chunk = (1, 1)

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the image."""
        if self._staged.closed:
            raise SourceError(f"{self._name} is closed; open it again to read it.")
        pixels = self._staged.window(x0, y0, x1, y1)
        return pixels if bands is None else np.take(pixels, bands, axis=2)


def open_array(
    array: Pixels,
    *,
    mpp: tuple[float, float] | None = None,
    file_format: str = "array",
    orientation: int = 1,
    facts: Mapping[str, Any] | None = None,
) -> StagedSource:
    """Stage an array so that workers in other processes can map it.

    Parameters
    ----------
    array : ndarray, ``(h, w)`` or ``(h, w, c)``
        Booleans, integers or floats. What is masked is no data.
    mpp : tuple of float, optional
        Microns per pixel in x and y.
    file_format : str
        For the metadata: where the array came from.
    orientation : int
        EXIF orientation that was applied to it.
    facts : mapping, optional
        Further fields of the metadata, in plain types: place, no-data, names of bands.

    Raises
    ------
    SourceError
        If the array is no image: empty, of objects, of another number of axes.
    """
    array, clear = unmasked(array)
    facts = {**(facts or {}), **clear} or None
    array = as_image(array)
    fingerprint = fingerprint_of_array(array)

    def write(out: Pixels) -> Iterator[int]:
        for start, stop in row_blocks(array.shape[0], array.nbytes):
            out[start:stop] = array[start:stop]
            yield stop

    height, width, bands = array.shape
    key = f"{fingerprint}-array"
    staged = stage(key, (height, width, bands), array.dtype.newbyteorder("="), write)
    options = {"mpp": mpp, "file_format": file_format, "orientation": orientation}
    return staged_source(staged, fingerprint, options, facts)


def open_staged_array(
    path: str,
    *,
    fingerprint: str,
    mpp: tuple[float, float] | None = None,
    file_format: str = "array",
    orientation: int = 1,
    facts: Mapping[str, Any] | None = None,
) -> StagedSource:
    """Open on a worker what `open_array` staged.

    Raises
    ------
    SourceError
        If the staging file is gone, or was never on this host.
    """
    staged = open_staged(Path(path))
    if staged is None:
        raise SourceError(
            f"The {file_format} image staged in {path} is not there: it was closed, or this worker "
            "runs on another host; save it as a tiled TIFF that all workers see, pass the path."
        )
    options = {"mpp": mpp, "file_format": file_format, "orientation": orientation}
    return staged_source(staged, fingerprint, options, facts)


def staged_source(
    staged: StagedPixels,
    fingerprint: str,
    options: dict[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> StagedSource:
    """Return the source of pixels that `open_staged_array` can open elsewhere.

    Parameters
    ----------
    staged : StagedPixels
    fingerprint : str
    options : dict
        ``mpp``, ``file_format`` and ``orientation`` as `open_array` takes them.
    facts : mapping, optional
        As there.
    """
    told = {name: _tuples(value) for name, value in (facts or {}).items()}
    notes = (*told.pop("notes", ()), staged_note(staged))
    metadata = ImageMetadata(
        format=options["file_format"],
        mpp=options["mpp"],
        orientation=options["orientation"],
        notes=notes,
        **told,
    )
    reference = SourceRef(
        opener="tilevision.sources.staging.staged:open_staged_array",
        path=str(staged.path),
        options={**options, "fingerprint": fingerprint, **({"facts": facts} if facts else {})},
        fingerprint=fingerprint,
    )
    name = f"the {metadata.format}{'' if metadata.format.endswith('array') else ' image'}"
    return StagedSource(name, staged, metadata, reference)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, (list, tuple)) else value


def staged_note(staged: StagedPixels) -> str:
    """Say how much of the temp folder the staged image takes."""
    return (
        f"decoded once into {staged.nbytes / 1e6:,.1f} MB of {staged.path.parent}; "
        "removed when no longer in use"
    )


def as_image(array: Pixels, name: str = "the array") -> Pixels:
    """Return `array` as ``(h, w, c)``.

    Raises
    ------
    SourceError
        If it is no image.
    """
    if array.ndim == 2:
        array = array[..., np.newaxis]
    check_image_shape(array.shape, array.dtype, name)
    return array
