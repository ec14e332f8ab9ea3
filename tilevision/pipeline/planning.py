"""The decision what to do: which model goes over which tiles, and which are stored already.

A run is a sequence of passes, one model each. Which tiles come to a pass is decided between
passes, so it depends on no order.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from tilevision.catalogue import resolve
from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, tile_keys
from tilevision.codec import decode
from tilevision.errors import ModelError, TilevisionError
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.infer import POLYGON_TOLERANCE
from tilevision.modelspec import ModelSpec, on_device
from tilevision.payloads import PayloadRef, StoredArray, arrays_of
from tilevision.pipeline.estimate import Estimate, Pace, Part, add_up, earlier_paces, slots
from tilevision.pipeline.progress import preparing
from tilevision.pipeline.settings import Settings
from tilevision.pipeline.tiling import Tiling, check_even, decide, misfits, outside, uncollected
from tilevision.regions import Region, read_region
from tilevision.routing import Cascade, Route, tile_facts
from tilevision.sources import (
    ImageSource,
    ReadOptions,
    open_source,
    read_options,
    remembering,
    sweep,
)
from tilevision.sources.addresses import file_name

__all__ = [
    "Pass",
    "Plan",
    "Stages",
    "Store",
    "found_in",
    "image_name",
    "labels",
    "make_passes",
    "make_plan",
    "outlook",
    "resolve_stages",
    "stored_findings",
]

Store = Checkpoint | MemoryCheckpoint
SAMPLE = 200
CHECKED_AT_ONCE = 5000  # vectors


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
        """Return True if any model has a price."""
        models = (*self.models, self.moderation, self.synthesis)
        return any(spec is not None and spec.price is not None for spec in models)

    @property
    def price_of_others(self) -> float | None:
        """What moderation and synthesis cost at their prices per call; None: they have none."""
        others = (self.moderation, self.synthesis)
        prices = [spec.price.call for spec in others if spec is not None and spec.price]
        return sum(prices) if prices else None


@dataclass(frozen=True, slots=True)
class Pass:
    """One model over its tiles.

    Parameters
    ----------
    model : ModelSpec
    label : str
        The model, for people; no two models of a run have the same.
    options : ReadOptions
        How this model wants the pixels.
    keys : mapping of Tile to str
        Under which its findings are stored, for every tile that may come to it.
    stored : frozenset of Tile
        Those whose findings were stored when the run was planned.
    after : int, optional
        Position of the pass whose findings decide which of the tiles come; None: all do.
    cascade : Cascade, optional
        That decides.
    """

    model: ModelSpec
    label: str
    options: ReadOptions
    keys: Mapping[Tile, str]
    stored: frozenset[Tile]
    after: int | None = None
    cascade: Cascade | None = None

    def __str__(self) -> str:
        n, stored = len(self.keys), f"{len(self.stored):,} stored" if self.stored else "none stored"
        tiles = f"{n:,} tile{'s' if n != 1 else ''}"
        which = tiles if self.cascade is None else f"those of {tiles} that need it"
        return f"{self.label}: {which}, {stored}"

    def wanted(self, found: Mapping[Tile, TileFindings]) -> list[Tile]:
        """Return the tiles that come to this pass, by what the one before has `found`.

        Raises
        ------
        ModelError
            If the user's ``when`` fails.
        """
        if self.cascade is None:
            return list(self.keys)
        asked = (tile for tile in self.keys if tile in found)
        return [tile for tile in asked if self.cascade.unsure(found[tile].findings)]

    def share(self, found: Sequence[TileFindings]) -> float | None:
        """Return which share of tiles comes to this pass, by a sample of what was `found`."""
        if self.cascade is None:
            return 1.0
        sample = found[:: max(1, len(found) // SAMPLE)]
        try:
            asked = [self.cascade.unsure(seen.findings) for seen in sample]
        except ModelError:  # the run will stop over it; this only looks ahead
            return None
        return sum(asked) / len(asked) if asked else None

    def seen(self, tile: Tile, records: tuple[bytes, ...], checkpoint: Store) -> TileFindings:
        """Return what the model saw in `tile`, from its records; `checkpoint` has its arrays."""
        seen = found_in(tile, records, checkpoint)
        most = self.model.max_detections
        full = most is not None and len(seen.findings) >= most
        return replace(seen, saturated=full)


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
        raise ModelError("No model was given; pass model='nuclei' (tv.models() lists the names).")
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
            f"A budget needs a price, and {stages.asked.name} has none; give it one, as "
            "tv.model(model, price=0.002) for each call."
        )
    return stages


def make_plan(image: Any, settings: Settings, stages: Stages, checkpoint: Store) -> Plan:
    """Open the image and decide what there is to do.

    Raises
    ------
    SourceError, GridError, ModelError, CheckpointError
        Whatever is wrong with what was asked for.
    """
    drawn = preparing(image_name(image), wanted=settings.progress is not False)
    with remembering(checkpoint.file_fingerprint), drawn:
        sweep()  # after a kill, no image may come that is staged and would have it done
        source = open_source(image, mpp=settings.mpp)
        try:
            return _plan(image, source, settings, stages, checkpoint)
        except BaseException:
            source.close()
            raise


@uncollected()
def _plan(
    image: Any, source: ImageSource, settings: Settings, stages: Stages, checkpoint: Store
) -> Plan:
    spec = stages.tile
    tiling, notes = decide(settings, source, spec)
    for model in stages.models[1:]:  # the first was asked already
        if model.raster is not None:
            check_even(settings, tiling.scales, model)
    others = [note for model in stages.models[1:] for note in misfits(tiling, source, model)]
    others += [note for model in stages.models for note in model.notes]
    others += [*_floor_notes(settings, stages), *_blend_notes(settings, stages)]
    tiles = tiling.tiles(source.size)
    region = None if settings.region is None else read_region(settings.region, source)
    skipped = outside(region, tiles)
    wanted = [tile for tile in tiles if tile not in skipped]
    passes = make_passes(stages.asked, source, wanted, checkpoint if settings.reuse else None)
    restored, todo = outlook(passes, checkpoint)
    others += _storage_notes(passes, checkpoint)
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
        f"Model {name} records detections from score {floor:g}, so min_score={wanted:g} shows no "
        f"more; declare score_floor={wanted:g} with tv.model."
        for name, floor in floors.items()
        if 0 < wanted < floor
    ]


def _blend_notes(settings: Settings, stages: Stages) -> list[str]:
    """Refuse a way of blending that does not suit a map; say where no model declares one.

    Raises
    ------
    RunArgumentError
    """
    how = settings.blending()
    if how is None:
        return []
    declared = [spec.raster for spec in stages.models if spec.raster is not None]
    for raster in declared:
        how.check(raster)
    if declared:
        return []
    name = stages.asked.name
    return [f"blend, margin, thresholds and unsure are of maps, and {name} declares none."]


def _storage_notes(passes: Sequence[Pass], checkpoint: Store) -> list[str]:
    """Say how much room the arrays of tiles that have yet to run will take."""
    if not any("returns" in one.model.params for one in passes):  # as of almost every plan
        return []
    from tilevision.pipeline.storage import storage_of

    found = storage_of(((one.model, one.keys, one.stored) for one in passes), checkpoint)
    return [] if found is None else [str(found)]


def image_name(image: Any) -> str:
    """Return what people call the image: its file name, or its kind."""
    if isinstance(image, ImageSource):
        image = image.reference.path
    path = image if isinstance(image, (str, os.PathLike)) else getattr(image, "filename", "")
    return file_name(path) if path else "image" if hasattr(image, "mode") else "array"


def labels(models: Sequence[ModelSpec]) -> dict[str, str]:
    """Return a label for each model by fingerprint: its name, numbered where others share it."""
    found: dict[str, str] = {}
    for spec in models:
        if spec.fingerprint not in found:
            label, number = spec.name, 1
            while label in found.values():
                number += 1
                label = f"{spec.name} ({number})"
            found[spec.fingerprint] = label
    return found


def make_passes(
    asked: ModelSpec | Route | Cascade,
    source: ImageSource,
    tiles: Sequence[Tile],
    checkpoint: Store | None,
) -> tuple[Pass, ...]:
    """Decide which model goes over which tiles; None as `checkpoint`: nothing is reused.

    Raises
    ------
    ModelError
        If a rule of a route fails.
    SourceError
        If the image cannot be read as a model wants it.
    """
    groups = _groups(asked, source, tiles)
    first: dict[str, tuple[ModelSpec, list[Tile]]] = {}
    for target, members in groups:
        spec = target.first if isinstance(target, Cascade) else target
        first.setdefault(spec.fingerprint, (spec, []))[1].extend(members)
    make = _Maker(asked, source, checkpoint)
    position = {fingerprint: number for number, fingerprint in enumerate(first)}
    passes = []
    for spec, mine in first.values():
        among = frozenset(mine) if len(mine) < len(tiles) else None
        passes.append(make(spec, [t for t in tiles if among is None or t in among]))
    passes += [
        make(target.second, members, position[target.first.fingerprint], target)
        for target, members in groups
        if isinstance(target, Cascade)
    ]
    return tuple(passes)


def outlook(
    passes: Sequence[Pass], checkpoint: Store
) -> tuple[frozenset[Tile], tuple[float | None, ...]]:
    """Return the tiles that need no model, and how many each pass will have to run.

    How many an undecided pass gets is judged by the tiles that are decided; where there are
    none, it is None.
    """
    settled: set[Tile] = set()
    todo: list[float | None] = []
    for one in passes:
        if one.after is None:
            settled |= one.stored
            todo.append(len(one.keys) - len(one.stored))
            continue
        before = passes[one.after]
        decided = before.stored & one.keys.keys()
        # One at a time: a million tiles' findings are not to be held for a plan.
        found = stored_findings(before, decided, checkpoint)
        further = {tile for tile, seen in found if one.wanted({tile: seen})}
        settled = (settled - further) | (further & one.stored)
        undecided = len(one.keys) - len(decided)
        due = len(further - one.stored)
        if undecided and not decided:
            todo.append(None)
        else:
            todo.append(due + (undecided * len(further) / len(decided) if undecided else 0))
    return frozenset(settled), tuple(todo)


def stored_findings(
    one: Pass, tiles: Collection[Tile], checkpoint: Store
) -> Iterator[tuple[Tile, TileFindings]]:
    """Yield what is stored of `tiles`; a record that cannot be read is passed over.

    So is one whose vector or map is missing or damaged.

    Raises
    ------
    CheckpointCorrupt
        If the database itself is damaged.
    """
    asked = frozenset(tiles)
    named = {key: tile for tile, key in one.keys.items() if tile in asked}
    unread: list[TileFindings] = []
    for key, records in checkpoint.load(list(named)):
        try:
            seen = one.seen(named[key], records, checkpoint)
        except (ValueError, KeyError, TypeError, TilevisionError):
            continue
        if not seen.arrays:
            yield seen.tile, seen
            continue
        unread.append(seen)
        if len(unread) == CHECKED_AT_ONCE:
            yield from _undamaged(unread, checkpoint)
            unread = []
    yield from _undamaged(unread, checkpoint)


def _undamaged(found: list[TileFindings], checkpoint: Store) -> Iterator[tuple[Tile, TileFindings]]:
    """Yield those of `found` whose arrays are there; the others run again."""
    if found:
        refs = [one.ref for seen in found for one in seen.arrays]
        owners = [seen.tile for seen in found for _ in seen.arrays]
        good = checkpoint.payloads.sound(refs)
        bad = {tile for tile, one in zip(owners, good, strict=True) if not one}
        yield from ((seen.tile, seen) for seen in found if seen.tile not in bad)


def found_in(tile: Tile, records: Sequence[bytes], checkpoint: Store) -> TileFindings:
    """Return what a tile's records say; its vector and its map are read when they are wanted.

    Vectors of detections are read now, and stand in the findings.

    Raises
    ------
    ValueError, KeyError, TypeError, ModelError
        If a record is damaged.
    CheckpointCorrupt
        If vectors of detections are damaged or missing.
    """
    findings = decode(records)
    if len(records) < 2:  # as of almost every tile of a run without arrays
        return TileFindings(tile, findings)
    refs = arrays_of(records)
    if (rows := refs.get("embeddings")) is not None:
        if len(rows.shape) != 2 or rows.shape[0] != len(findings):
            raise ValueError("It refers to other vectors than those of its detections.")
        findings = findings.with_embeddings(StoredArray(rows, checkpoint.payloads).load())
    later = {name: StoredArray(ref, checkpoint.payloads) for name, ref in refs.items()}
    if "raster" in refs:
        _check_map(refs["raster"], tile)
    return TileFindings(tile, findings, vector=later.get("embedding"), raster=later.get("raster"))


def _check_map(ref: PayloadRef, tile: Tile) -> None:
    """Raise ValueError where a record refers to a map of another tile's size."""
    if ref.raster is None or len(ref.shape) != 3 or ref.shape[:0:-1] != tile.output_size:
        raise ValueError("It refers to a map that is none of its tile.")


def _groups(
    asked: ModelSpec | Route | Cascade, source: ImageSource, tiles: Sequence[Tile]
) -> list[tuple[Any, list[Tile]]]:
    """Return each target that gets tiles, in the order of the route, with its tiles."""
    if not isinstance(asked, Route):
        return [(asked, list(tiles))]
    chosen: dict[int, list[Tile]] = {id(target): [] for target in asked.targets}
    for tile, facts in zip(tiles, tile_facts(source, tiles), strict=True):
        chosen[id(asked.choose(facts))].append(tile)
    by_id = {id(target): target for target in asked.targets}
    return [(by_id[key], members) for key, members in chosen.items() if members]


class _Maker:
    """Makes passes; what models share, such as how pixels are read, is worked out once."""

    def __init__(
        self, asked: ModelSpec | Route | Cascade, source: ImageSource, checkpoint: Store | None
    ) -> None:
        self._labels = labels([asked] if isinstance(asked, ModelSpec) else asked.models)
        self._source = source
        self._checkpoint = checkpoint
        self._options: dict[Any, ReadOptions] = {}

    def __call__(
        self,
        spec: ModelSpec,
        tiles: Sequence[Tile],
        after: int | None = None,
        cascade: Cascade | None = None,
    ) -> Pass:
        how = (spec.bands, spec.dtype)
        if how not in self._options:
            self._options[how] = read_options(self._source, spec.bands, spec.dtype)
        options = self._options[how]
        keys = self._keys(spec, options, tiles)
        names = list(keys.values())
        known = frozenset(self._checkpoint.done(names) if self._checkpoint is not None else ())
        stored = frozenset(tile for tile, key in keys.items() if key in known)
        label = self._labels[spec.fingerprint]
        return Pass(spec, label, options, keys, stored, after, cascade)

    def _keys(
        self, spec: ModelSpec, options: ReadOptions, tiles: Sequence[Tile]
    ) -> dict[Tile, str]:
        """Return the key of each tile, in order.

        A model may be another for tiles of some sizes, and their pixels for those of some scales.
        """
        same = "" if spec.shrinks else spec.fingerprint
        kinds = [(same or spec.fingerprint_for(tile.output_size), tile.scale) for tile in tiles]
        distinct = dict.fromkeys(kinds)
        found: dict[Tile, str] = {} if len(distinct) == 1 else dict.fromkeys(tiles, "")
        for kind in distinct:
            mine = [tile for tile, one in zip(tiles, kinds, strict=True) if one == kind]
            reading = options.identity(kind[1]) | {"polygon_tolerance": POLYGON_TOLERANCE}
            names = tile_keys(self._source.fingerprint, reading, mine, kind[0])
            found.update(zip(mine, names, strict=True))
        return found
