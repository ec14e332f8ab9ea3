"""The passes of a run: each is one model over its tiles, one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, tile_keys
from tilevision.codec import decode
from tilevision.errors import ModelError, TilevisionError
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.infer import POLYGON_TOLERANCE
from tilevision.modelspec import ModelSpec
from tilevision.routing import Cascade, Route, tile_facts
from tilevision.sources import ImageSource, ReadOptions, read_options

__all__ = ["Pass", "Store", "labels", "make_passes", "outlook", "stored_findings"]

Store = Checkpoint | MemoryCheckpoint
SAMPLE = 200


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

    def seen(self, tile: Tile, records: tuple[bytes, ...]) -> TileFindings:
        """Return what the model saw in `tile`, from its records."""
        findings, most = decode(records), self.model.max_detections
        return TileFindings(tile, findings, most is not None and len(findings) >= most)


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
    first: dict[str, tuple[ModelSpec, dict[Tile, None]]] = {}
    for target, members in groups:
        spec = target.first if isinstance(target, Cascade) else target
        first.setdefault(spec.fingerprint, (spec, {}))[1].update(dict.fromkeys(members))
    make = _Maker(asked, source, checkpoint)
    position = {fingerprint: number for number, fingerprint in enumerate(first)}
    passes = [make(spec, [tile for tile in tiles if tile in mine]) for spec, mine in first.values()]
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

    Raises
    ------
    CheckpointCorrupt
        If the database itself is damaged.
    """
    named = {one.keys[tile]: tile for tile in sorted(tiles)}
    for key, records in checkpoint.load(list(named)):
        try:
            seen = one.seen(named[key], records)
        except (ValueError, KeyError, TypeError, TilevisionError):
            continue
        yield named[key], seen


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
        reading = asdict(options) | {"polygon_tolerance": POLYGON_TOLERANCE}
        names = tile_keys(self._source.fingerprint, reading, tiles, spec.fingerprint)
        keys = dict(zip(tiles, names, strict=True))
        known = self._checkpoint.done(names) if self._checkpoint is not None else set()
        stored = frozenset(tile for tile, key in keys.items() if key in known)
        label = self._labels[spec.fingerprint]
        return Pass(spec, label, options, keys, stored, after, cascade)
