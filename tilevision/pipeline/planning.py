"""The decision what to do: which tiles, under which keys, and which are there already."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from tilevision.catalogue import resolve
from tilevision.checkpoint import Checkpoint, MemoryCheckpoint
from tilevision.errors import ModelError
from tilevision.grid import Tile
from tilevision.modelspec import ModelSpec, on_device
from tilevision.pipeline.estimate import Estimate, Pace, Part, add_up, earlier_paces, slots
from tilevision.pipeline.passes import Pass, make_passes, outlook
from tilevision.pipeline.preparing import shown
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.tiling import Tiling, decide, misfits, outside
from tilevision.regions import Region, read_region
from tilevision.routing import Cascade, Route
from tilevision.sources import ImageSource, open_source, remembering, sweep
from tilevision.sources.addresses import file_name

__all__ = ["Plan", "Stages", "make_plan", "resolve_stages"]


@dataclass(frozen=True, slots=True)
class Stages:
    """The model of each stage; None where the stage only runs its built-in.

    Attributes
    ----------
    asked : ModelSpec, Route or Cascade
        What the tiles go through, its models resolved.
    moderation, synthesis : ModelSpec or None
    """

    asked: ModelSpec | Route | Cascade
    moderation: ModelSpec | None
    synthesis: ModelSpec | None

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """Every model that tiles may go to, each once; the first decides the default grid."""
        found: dict[str, ModelSpec] = {}
        for spec in (self.asked,) if isinstance(self.asked, ModelSpec) else self.asked.models:
            found.setdefault(spec.fingerprint, spec)
        return tuple(found.values())

    @property
    def tile(self) -> ModelSpec:
        """The model of the tiles; the first where there are several."""
        return self.models[0]

    @property
    def min_score(self) -> float | None:
        """The score from which detections are shown where the user names none.

        Of several models the least: what one of them wants hidden hides nothing of another's.
        """
        scores = [spec.min_score or 0.0 for spec in self.models]
        return min(scores) or None

    @property
    def priced(self) -> bool:
        """Whether any model has a price."""
        models = (*self.models, self.moderation, self.synthesis)
        return any(spec is not None and spec.price is not None for spec in models)

    @property
    def price_of_others(self) -> float | None:
        """What moderation and synthesis cost at their prices per call; None: they have none."""
        others = (self.moderation, self.synthesis)
        prices = [spec.price.call for spec in others if spec is not None and spec.price]
        return sum(prices) if prices else None


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
    passes : tuple of Pass
        Which model goes over which tiles, and what is stored of that; in the order of the run.
    restored : frozenset of Tile
        Tiles whose findings are stored already.
    paces : mapping of str to Pace
        What the models took in earlier runs, by fingerprint.
    estimate : Estimate
        Of time and cost.
    region : Region or None
        The part of the image that was asked for, its ``geometry`` in pixels; None: all of it.
    skipped : frozenset of Tile
        Tiles that lie outside it.
    notes : tuple of str
        What the user should know before pressing Run, one line each.
    """

    name: str
    source: ImageSource
    stages: Stages
    tiling: Tiling
    tiles: tuple[Tile, ...]
    passes: tuple[Pass, ...]
    restored: frozenset[Tile]
    paces: Mapping[str, Pace]
    estimate: Estimate
    region: Region | None
    skipped: frozenset[Tile]
    notes: tuple[str, ...]

    @property
    def to_run(self) -> tuple[Tile, ...]:
        """Tiles that need the model, row by row."""
        settled = self.restored | self.skipped
        return tuple(tile for tile in self.tiles if tile not in settled)

    def __repr__(self) -> str:
        width, height = self.source.size
        lines = [
            f"Plan for {self.name}: {width:,} × {height:,} px, model {self.stages.asked.name}",
            f"  {len(self.tiles):,} tiles ({self.tiling})",
            *self._outside(),
            f"  {len(self.restored):,} stored already, {len(self.to_run):,} to run",
            *(f"  {one}" for one in self.passes if len(self.passes) > 1),
            f"  {self.estimate}",
            *(f"  {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _outside(self) -> tuple[str, ...]:
        if self.region is None:
            return ()
        share = self.region.area / (self.source.size[0] * self.source.size[1])
        count = f"{len(self.skipped):,} tiles lie outside and are skipped"
        return (f"  {count}: region ({self.region.name}), {share:.2g} of the image's area",)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def resolve_stages(settings: Settings) -> Stages:
    """Find the model of every stage before the image is opened.

    Raises
    ------
    ModelError
        If one is unknown or cannot serve its stage, or a budget meets models without a price.
    """
    if settings.model is None:
        raise ModelError("no model was given; pass model='nuclei' (tv.models() lists them)")
    moderation, synthesis = settings.moderation, settings.synthesis
    asked = settings.model
    routed = isinstance(asked, (Route, Cascade))

    def of_tiles(model: Any) -> ModelSpec:
        return on_device(resolve(model, "tile"), settings.device)

    stages = Stages(
        asked=asked.resolved(of_tiles) if routed else of_tiles(asked),
        moderation=None if moderation is None else resolve(moderation, "moderation"),
        synthesis=None if synthesis is None else resolve(synthesis, "synthesis"),
    )
    if settings.budget is not None and not stages.priced:
        raise ModelError(
            f"a budget needs a price, and {stages.asked.name} has none; give it one, as "
            "tv.model(model, price=0.002) for each call"
        )
    return stages


def make_plan(
    image: Any, settings: Settings, stages: Stages, checkpoint: Checkpoint | MemoryCheckpoint
) -> Plan:
    """Open the image and decide what there is to do.

    Raises
    ------
    SourceError, GridError, ModelError, CheckpointError
        Whatever is wrong with what was asked for.
    """
    drawn = shown(image_name(image), wanted=settings.progress is not False)
    with remembering(checkpoint.file_fingerprint), drawn:
        sweep()  # after a kill, no image may come that is staged and would have it done
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
    others = [note for model in stages.models[1:] for note in misfits(tiling, source, model)]
    others += _floor_notes(settings, stages)
    tiles = tiling.tiles(source.size)
    region = None if settings.region is None else read_region(settings.region, source)
    skipped = outside(region, tiles)
    wanted = [tile for tile in tiles if tile not in skipped]
    passes = make_passes(stages.asked, source, wanted, checkpoint if settings.reuse else None)
    restored, todo = outlook(passes, checkpoint)
    paces = earlier_paces(settings.checkpoint, {one.model.fingerprint for one in passes})
    parts = [
        Part.of(
            one.model, one.label, n, paces.get(one.model.fingerprint), slots(settings, one.model)
        )
        for one, n in zip(passes, todo, strict=True)
    ]
    return Plan(
        name=image_name(image),
        source=source,
        stages=stages,
        tiling=tiling,
        tiles=tiles,
        passes=passes,
        restored=restored,
        paces=paces,
        estimate=add_up(parts, stages.price_of_others),
        region=region,
        skipped=skipped,
        notes=(*source.metadata.notes, *notes, *others, *(region.notes if region else ())),
    )


def _floor_notes(settings: Settings, stages: Stages) -> list[str]:
    """Say where detections are to be shown that a model does not record."""
    wanted = settings.min_score or 0.0
    floors = {spec.name: spec.params.get("score_floor") or 0.0 for spec in stages.models}
    return [
        f"model {name} records detections from score {floor:g}, so min_score={wanted:g} shows no "
        f"more; declare score_floor={wanted:g} with tv.model"
        for name, floor in floors.items()
        if 0 < wanted < floor
    ]


def image_name(image: Any) -> str:
    """Return what people call the image: its file name, or its kind."""
    if isinstance(image, ImageSource):
        image = image.reference.path
    path = image if isinstance(image, (str, os.PathLike)) else getattr(image, "filename", "")
    return file_name(path) if path else "image" if hasattr(image, "mode") else "array"
