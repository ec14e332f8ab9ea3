"""How much room the arrays of a run take, maps and vectors, beside what its disk has."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, free_space
from tilevision.grid import Tile
from tilevision.modelspec import ModelSpec
from tilevision.payloads import arrays_of

__all__ = ["ENOUGH", "Storage", "looked_up", "storage_of"]

Store = Checkpoint | MemoryCheckpoint
Stored = tuple[ModelSpec, Mapping[Tile, str], Collection[Tile]]

ENOUGH = 16  # tiles: from so many on, what they took is known well enough
SAMPLE = 64
_UNITS = ("B", "KB", "MB", "GB", "TB")
_THOUSAND = 1000


@dataclass(frozen=True, slots=True)
class Storage:
    """What tiles will take on the disk.

    Parameters
    ----------
    tiles : int
        That have yet to run.
    each : float
        Bytes of a tile, as a mean.
    measured : int
        How many tiles that rests on; 0: it is the most they can take, before compression.
    folder : Path, optional
        The checkpoint's; None: they are kept in memory.
    """

    tiles: int
    each: float
    measured: int
    folder: Path | None

    @property
    def free(self) -> int | None:
        """Bytes that the disk of the checkpoint has by now; None where it is not known."""
        try:
            return None if self.folder is None else free_space(self.folder)
        except OSError:
            return None

    @property
    def needed(self) -> int:
        """Bytes for all tiles."""
        return math.ceil(self.tiles * self.each)

    @property
    def short(self) -> bool:
        """Return True if the disk has less than what is needed, as far as that is measured."""
        free = self.free
        return free is not None and self.needed > free

    def __str__(self) -> str:
        basis = (
            f"by {self.measured:,} tiles that are stored" if self.measured else "before compression"
        )
        about = "about" if self.measured else "at most"
        one = self.tiles == 1
        text = f"Arrays of {self.tiles:,} {'tile takes' if one else 'tiles take'} {about} "
        text = f"{text}{in_words(self.needed)} ({basis})"
        free = self.free
        if self.folder is None:
            return f"{text}; they are kept in memory."
        if free is None:
            return f"{text}."
        has = f"the disk of the checkpoint has {in_words(free)} free"
        if self.needed <= free:
            return f"{text}; {has}."
        return (
            f"{text}, and {has}. The run pauses when it is full and continues when there is space: "
            "free some, or give a checkpoint= elsewhere."
        )


def storage_of(works: Iterable[Stored], checkpoint: Store) -> Storage | None:
    """Return what the arrays of tiles that have yet to run will take; None for none, or unknown.

    From `ENOUGH` stored tiles of a model on, what those took; before, the bytes of the maps that
    it declares, which compression makes less.

    Parameters
    ----------
    works : iterable of (ModelSpec, mapping of Tile to str, set of Tile)
        Each model, the keys of its tiles, and which of them are stored.
    checkpoint : Checkpoint or MemoryCheckpoint
    """
    tiles, needed, measured = 0, 0.0, 0
    rough = False
    for spec, keys, stored in works:
        todo = [tile for tile in keys if tile not in stored]
        sizes = _stored_sizes(keys, stored, checkpoint) if todo else []
        most = _most(spec, todo)
        if len(sizes) >= ENOUGH:
            needed, measured = needed + fmean(sizes) * len(todo), measured + len(sizes)
        elif most is not None:
            needed, rough = needed + most, True
        else:
            continue
        tiles += len(todo)
    if not tiles or not needed:
        return None
    return Storage(tiles, needed / tiles, 0 if rough else measured, checkpoint.folder)


def looked_up(tiles: int, sizes: Iterable[int], folder: str | os.PathLike[str] | None) -> Storage:
    """Return what `tiles` that are left will take, by the `sizes` of those that are stored."""
    known = list(sizes)
    return Storage(tiles, fmean(known), len(known), None if folder is None else Path(folder))


def _stored_sizes(
    keys: Mapping[Tile, str], stored: Collection[Tile], checkpoint: Store
) -> list[int]:
    """Return how many bytes the arrays of some stored tiles take on the disk."""
    if len(stored) < ENOUGH:
        return []
    known = [key for tile, key in keys.items() if tile in stored]
    found = []
    for _, records in checkpoint.load(known[:: max(1, len(known) // SAMPLE)]):
        try:
            refs = arrays_of(records).values()
        except (ValueError, KeyError, TypeError):  # damaged: its tile runs again
            continue
        if refs:
            found.append(sum(checkpoint.payloads.sizes([ref.digest for ref in refs])))
    return found


def _most(spec: ModelSpec, tiles: Sequence[Tile]) -> int | None:
    """Return the bytes of the maps that a model declares; None where it declares none."""
    raster = spec.raster
    if raster is None:
        return None
    planes = len(raster.classes) if raster.kind == "probabilities" else 1
    item = np.dtype(raster.dtype).itemsize
    return sum(math.prod(tile.output_size) for tile in tiles) * planes * item


def in_words(size: float) -> str:
    """Return bytes in the unit that people would use."""
    for unit in _UNITS:
        if size < _THOUSAND or unit == _UNITS[-1]:
            break
        size /= _THOUSAND
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
