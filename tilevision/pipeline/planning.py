"""The decision what to do: which tiles, under which keys, and which are there already."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from html import escape
from pathlib import PurePath
from typing import Any

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, tile_keys
from tilevision.errors import ModelError
from tilevision.grid import Tile
from tilevision.infer import POLYGON_TOLERANCE
from tilevision.modelspec import ModelSpec, resolve
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.tiling import Tiling, decide
from tilevision.sources import ImageSource, ReadOptions, open_source, read_options

__all__ = ["Plan", "Stages", "make_plan", "resolve_stages"]


@dataclass(frozen=True, slots=True)
class Stages:
    """The model of each stage; None where the stage only runs its built-in."""

    tile: ModelSpec
    moderation: ModelSpec | None
    synthesis: ModelSpec | None


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """What a run would do; nothing has run.

    Attributes
    ----------
    name : str
        The image, for people.
    source : ImageSource
    stages : Stages
    tiling : Tiling
        Grid and scales.
    tiles : tuple of Tile
    options : ReadOptions
    keys : dict of Tile to str
        Under which each tile's findings are stored.
    restored : frozenset of Tile
        Tiles whose findings are stored already.
    notes : tuple of str
        What the user should know before pressing Run, one line each.
    """

    name: str
    source: ImageSource
    stages: Stages
    tiling: Tiling
    tiles: tuple[Tile, ...]
    options: ReadOptions
    keys: dict[Tile, str]
    restored: frozenset[Tile]
    notes: tuple[str, ...]

    @property
    def to_run(self) -> tuple[Tile, ...]:
        """Tiles that need the model, row by row."""
        return tuple(tile for tile in self.tiles if tile not in self.restored)

    def __repr__(self) -> str:
        width, height = self.source.size
        lines = [
            f"Plan for {self.name}: {width:,} × {height:,} px, model {self.stages.tile.name}",
            f"  {len(self.tiles):,} tiles ({self.tiling})",
            f"  {len(self.restored):,} stored already, {len(self.to_run):,} to run",
            *(f"  {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def resolve_stages(settings: Settings) -> Stages:
    """Find the model of every stage before the image is opened.

    Raises
    ------
    ModelError
        If one is unknown or cannot serve its stage.
    """
    if settings.model is None:
        raise ModelError("no model was given; pass model='nuclei' (tv.models() lists them)")
    moderation, synthesis = settings.moderation, settings.synthesis
    return Stages(
        tile=resolve(settings.model, "tile"),
        moderation=None if moderation is None else resolve(moderation, "moderation"),
        synthesis=None if synthesis is None else resolve(synthesis, "synthesis"),
    )


def make_plan(
    image: Any, settings: Settings, stages: Stages, checkpoint: Checkpoint | MemoryCheckpoint
) -> Plan:
    """Open the image and decide what there is to do.

    Raises
    ------
    SourceError, GridError, ModelError, CheckpointError
        Whatever is wrong with what was asked for.
    """
    source = open_source(image, mpp=settings.mpp)
    try:
        return _plan(image, source, settings, stages, checkpoint)
    except BaseException:
        source.close()
        raise


def _plan(
    image: Any,
    source: ImageSource,
    settings: Settings,
    stages: Stages,
    checkpoint: Checkpoint | MemoryCheckpoint,
) -> Plan:
    spec = stages.tile
    tiling, notes = decide(settings, source, spec)
    tiles = tiling.tiles(source.size)
    options = read_options(source, spec.bands, spec.dtype)
    reading = asdict(options) | {"polygon_tolerance": POLYGON_TOLERANCE}
    names = tile_keys(source.fingerprint, reading, tiles, spec.fingerprint)
    keys = dict(zip(tiles, names, strict=True))
    known = checkpoint.done(list(keys.values())) if settings.reuse else set()
    return Plan(
        name=image_name(image),
        source=source,
        stages=stages,
        tiling=tiling,
        tiles=tiles,
        options=options,
        keys=keys,
        restored=frozenset(tile for tile, key in keys.items() if key in known),
        notes=(*source.metadata.notes, *notes),
    )


def image_name(image: Any) -> str:
    """Return what people call the image: its file name, or its kind."""
    if isinstance(image, ImageSource):
        image = image.reference.path
    path = image if isinstance(image, (str, os.PathLike)) else getattr(image, "filename", "")
    return PurePath(path).name if path else "image" if hasattr(image, "mode") else "array"
