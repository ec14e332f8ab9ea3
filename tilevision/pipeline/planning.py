"""The decision what to do: which tiles, under which keys, and which are there already."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from html import escape
from pathlib import PurePath
from typing import Any

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, tile_keys
from tilevision.errors import GridError, ModelError
from tilevision.grid import DEFAULT_TILE, Grid, Tile
from tilevision.infer import POLYGON_TOLERANCE
from tilevision.modelspec import ModelSpec, resolve
from tilevision.pipeline.settings import Settings
from tilevision.sources import ImageSource, ReadOptions, open_source, read_options

__all__ = ["Plan", "Stages", "make_plan", "resolve_stages"]

MAGNIFICATION_MPP = 10.0  # a 10x objective is taken as 1 µm per pixel, as slide scanners do
SHRINK_LIMIT = 2.0
LARGEST_SCALE = 8.0


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
    grid : Grid
    scale : float
        Output pixels per image pixel.
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
    grid: Grid
    scale: float
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
            f"  {len(self.tiles):,} tiles ({self.grid})"
            + (f" at scale {self.scale:g}" if self.scale != 1 else ""),
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
    scale, notes = _scale(settings.resolution, source, spec)
    grid = _grid(settings.grid, spec)
    tiles = grid.tiles(source.size, scale)
    options = read_options(source, spec.bands, spec.dtype)
    reading = asdict(options) | {"polygon_tolerance": POLYGON_TOLERANCE}
    names = tile_keys(source.fingerprint, reading, tiles, spec.fingerprint)
    keys = dict(zip(tiles, names, strict=True))
    known = checkpoint.done(list(keys.values())) if settings.reuse else set()
    return Plan(
        name=image_name(image),
        source=source,
        stages=stages,
        grid=grid,
        scale=scale,
        tiles=tiles,
        options=options,
        keys=keys,
        restored=frozenset(tile for tile, key in keys.items() if key in known),
        notes=(*source.metadata.notes, *notes, *_shrink_note(tiles, spec)),
    )


def image_name(image: Any) -> str:
    """Return what people call the image: its file name, or its kind."""
    if isinstance(image, ImageSource):
        image = image.reference.path
    path = image if isinstance(image, (str, os.PathLike)) else getattr(image, "filename", "")
    return PurePath(path).name if path else "image" if hasattr(image, "mode") else "array"


def _grid(value: Any, spec: ModelSpec) -> Grid:
    if value is not None:
        return Grid.parse(value)
    return Grid.by_tile(spec.input_size or DEFAULT_TILE)


def _scale(value: Any, source: ImageSource, spec: ModelSpec) -> tuple[float, tuple[str, ...]]:
    """Turn a resolution into output pixels per image pixel, with what should be told."""
    mpp = source.metadata.mpp
    if value is None:
        if spec.mpp is None:
            return 1.0, ()
        return _by_mpp(spec.mpp, mpp, f"model {spec.name} works at {spec.mpp} µm per pixel"), ()
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*(mpp|x)\s*", value)
        try:
            number = float(match[1]) if match else 0.0
        except ValueError:
            number = 0.0
        if match and number > 0:
            if match[2] == "mpp":
                return _by_mpp(number, mpp, f"resolution {value!r}"), ()
            target = MAGNIFICATION_MPP / number
            note = f"resolution {value} is taken as {target:g} µm per pixel"
            return _by_mpp(target, mpp, f"resolution {value!r}"), (note,)
    elif isinstance(value, int) and not isinstance(value, bool):
        levels = source.metadata.levels or (source.size,)
        if 0 <= value < len(levels):
            return levels[value][0] / source.size[0], ()
        raise GridError(
            f"resolution level {value} is not in the file; it has 0 to {len(levels) - 1}"
        )
    elif isinstance(value, float) and 0 < value <= LARGEST_SCALE:
        return value, ()
    raise GridError(
        f"resolution {value!r} is not understood; give '0.5mpp', '20x', a level as 0, 1, …, "
        "or a scale as 0.5"
    )


def _by_mpp(target: float, mpp: tuple[float, float] | None, who: str) -> float:
    if mpp is None:
        raise GridError(f"{who}, but the image does not say its own; pass mpp=")
    scale = (mpp[0] + mpp[1]) / 2 / target
    if scale > LARGEST_SCALE:
        raise GridError(
            f"{who}, but the image has {mpp[0]:g} µm per pixel: it would be enlarged "
            f"{scale:.0f} times; give a coarser resolution"
        )
    return scale


def _shrink_note(tiles: tuple[Tile, ...], spec: ModelSpec) -> tuple[str, ...]:
    if spec.input_size is None:
        return ()
    width, height = tiles[0].output_size
    shrink = max(width / spec.input_size[0], height / spec.input_size[1])
    if shrink <= SHRINK_LIMIT:
        return ()
    return (
        f"model {spec.name} will shrink tiles of {width}×{height} px {shrink:.1f} times to "
        f"{spec.input_size[0]}×{spec.input_size[1]}; small objects may be lost: use smaller tiles",
    )
