"""What a run did and found: the fate of its tiles, how the result came about, and the facts of it.

The facts (the digest) are bounded: the summary is written from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.units import Units, sparse
from tilevision.events import TileChanged
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Tile
from tilevision.status import TileStatus

if TYPE_CHECKING:
    from tilevision.regions import Region

__all__ = [
    "Digest",
    "Ground",
    "RunFacts",
    "TileRow",
    "categories",
    "class_numbers",
    "class_table",
    "classes_seen",
    "coverage",
    "covered_area",
    "describe",
    "digest",
    "labels_of",
    "most_probable",
    "numbered",
    "positions",
    "provenance",
    "remarks",
    "tabled",
    "tiles_by_model",
    "vectors_told",
]

_NO_CLASS = {"__background__", "N/A"}  # in tables of class names, as torchvision's


@dataclass(frozen=True, slots=True)
class RunFacts:
    """How a result came about.

    Parameters
    ----------
    run_id, status, reason : str
        Status as `Run.status` ends; reason is one line, empty where complete.
    model, model_fingerprint : str
        What the tiles went through; of several models the first's fingerprint.
    models : tuple of (str, str)
        Name and fingerprint of each model that tiles could go to.
    grid : str
        For people: ``"8x8, overlap 0.2"``.
    scales : tuple of float
        Output pixels per image pixel that the model saw.
    restored : int
        Tiles that came from the checkpoint.
    restored_at : float, optional
        Epoch seconds of the oldest restored record.
    verdict : object, optional
        What moderation said.
    cost : float, optional
        Of all calls made, failed ones included; None where no model has a price.
    costs : mapping of str to float
        The same for each model that has a price and was asked.
    uncounted : int
        Requests whose tokens the server did not count; `cost` has the most they can have cost.
    synthesis : str, optional
        Text of a synthesis model other than the built-in summary.
    seconds : float
        Wall time of the run.
    region : Region, optional
        The part of the image that was asked for; None: all of it.
    classes : tuple of (str or None)
        Class names of the models by class number, as the models state them; None for a number
        without a name. Empty where no model states any.
    recipe : mapping
        What `tilevision.recipe` reads back as the arguments of the run; plain JSON types.
    checkpoint : str, optional
        Folder that its tiles are stored in, and what a person corrects; None: nowhere.
    """

    run_id: str
    status: str
    reason: str = ""
    model: str = ""
    model_fingerprint: str = ""
    models: tuple[tuple[str, str], ...] = ()
    grid: str = ""
    scales: tuple[float, ...] = (1.0,)
    restored: int = 0
    restored_at: float | None = None
    verdict: Any = None
    cost: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    uncounted: int = 0
    synthesis: str | None = None
    seconds: float = 0.0
    region: Region | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str | None, ...] = ()
    checkpoint: str | None = None


def tiles_by_model(facts: RunFacts, rows: Iterable[TileRow]) -> dict[str, int]:
    """Return of how many tiles each model's findings are, in the order of ``facts.models``."""
    counts: Counter[str] = Counter()
    for (model, status), tiles in Counter((row.model, row.status) for row in rows).items():
        if TileStatus(status).analysed:
            counts[model] += tiles
    return {name: counts[name] for name, _ in facts.models if counts[name]}


def class_table(
    names: Sequence[str | None], tile_findings: Iterable[TileFindings]
) -> dict[str, int]:
    """Return class name to number, in the order of the numbers.

    The model's own table where it states one; names that it does not list follow behind. Without a
    table, the numbers that the model gave in any tile, or where those are ambiguous or missing the
    positions of the names in sorted order.

    Parameters
    ----------
    names : sequence of (str or None)
        The model's class names by number.
    tile_findings : iterable of TileFindings
        Of all tiles, before anything is filtered or merged.
    """
    return tabled(names, classes_seen(tile_findings))


def tabled(names: Sequence[str | None], seen: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return class name to number, in the order of the numbers; see `class_table`.

    Names that stand for no class (``__background__``, and ``N/A`` in the tables of COCO) are listed
    only where a model gave them: so person is 1 as in COCO, and not raised to 2.

    Parameters
    ----------
    names : sequence of (str or None)
    seen : iterable of (str, int)
        Class names with the numbers that a model gave them, as `classes_seen` returns them.
    """
    stated: dict[str, int] = {}
    for number, name in enumerate(names):
        nothing = name in _NO_CLASS or (number == 0 and name == "background")
        if name is not None and not nothing:
            stated.setdefault(name, number)
    found = {pair for pair in seen if pair[0] not in stated}
    every = stated | numbered(found, frozenset(stated.values()))
    return dict(sorted(every.items(), key=lambda item: item[1]))


def classes_seen(tile_findings: Iterable[TileFindings]) -> set[tuple[str, int]]:
    """Return every class name with every number that a model gave it; -1 for none."""
    pairs = {
        pair
        for seen in tile_findings
        for pair in zip(
            seen.findings.labels.tolist(), seen.findings.class_ids.tolist(), strict=True
        )
    }
    return {(str(label), number) for label, number in pairs}


def numbered(pairs: set[tuple[str, int]], taken: frozenset[int] = frozenset()) -> dict[str, int]:
    """Return label to number, none of those `taken`: the model's, where those tell labels apart."""
    known = {
        label: number for label, number in sorted(pairs) if number >= 0 and number not in taken
    }
    ambiguous = len(set(known.values())) < len(known)
    several = len({pair for pair in pairs if pair[1] != -1}) > len(known)
    if ambiguous or several:
        known = {}
    following = max([*known.values(), *taken], default=-1) + 1
    unknown = sorted({label for label, _ in pairs} - set(known))
    return known | {label: following + i for i, label in enumerate(unknown)}


def class_numbers(findings: Findings, table: Mapping[str, int]) -> NDArray[np.int64]:
    """Return a class number ``(n,)`` for each row: the model's own, else that of `table`."""
    numbers = np.array(findings.class_ids)
    missing = np.flatnonzero(numbers == -1)
    numbers[missing] = [table[str(findings.labels[i])] for i in missing]
    return numbers


def categories(table: Mapping[str, int]) -> dict[str, int]:
    """Return label to number for COCO: from 1 on, since some readers take 0 for the background.

    Numbers that begin with 0 are all raised by one.
    """
    raised = max(1 - min(table.values(), default=1), 0)
    return {label: number + raised for label, number in table.items()}


def positions(table: Mapping[str, int]) -> dict[str, int]:
    """Return label to position 0, 1, …, for formats that number without gaps."""
    return {label: i for i, label in enumerate(table)}


TileRow = TileChanged  # what is published about a tile is what its row holds, without the boxes


STRONGEST = 10
CLASSES = 20


@dataclass(frozen=True, slots=True)
class Digest:
    """What a result says, in a bounded number of facts; never raw tiles.

    Parameters
    ----------
    size : tuple of int
        Width and height of the image, pixels.
    mpp : tuple of float, optional
        Microns per pixel in x and y.
    model : str
    n_tiles, n_analysed, n_failed, n_skipped, n_saturated : int
        Tiles in the grid; analysed (done or restored); failed; outside the region; full.
    analysed_share : float
        Share of the area of the image, or of the region, that was analysed, 0 to 1.
    analysed_area : float
        Square pixels with data that were analysed, within the region where there is one.
    ground : tuple of (float, str)
        The same in µm² or m², where known; else in px².
    density : tuple of (float, str), optional
        Detections per mm², hectare or megapixel of the analysed area.
    n_findings : int
    counts : mapping of str to int
        Detections per class, most frequent first; at most 20 classes.
    n_classes : int
    median_score : float, optional
    low_score_share : float, optional
        Share of the scored detections below 0.5.
    median_size : tuple of float, optional
        Median width and height of the boxes, pixels.
    strongest : tuple
        Up to 10 detections with the highest score: label, score, box.
    classified : mapping of str to int
        Where the model classifies whole tiles: of how many each class is the most probable.
    region : str, optional
        What the region is, where one was asked for; findings are those within it.
    region_share : float
        Its share of the image's area, 0 to 1; 1 without a region.
    left_out : str
        In a sentence, where filters of class, score or area keep none of the tiles' detections.
    """

    size: tuple[int, int]
    mpp: tuple[float, float] | None
    model: str
    n_tiles: int
    n_analysed: int
    n_failed: int
    n_skipped: int
    n_saturated: int
    analysed_share: float
    analysed_area: float
    ground: tuple[float, str]
    density: tuple[float, str] | None
    n_findings: int
    counts: dict[str, int]
    n_classes: int
    median_score: float | None
    low_score_share: float | None
    median_size: tuple[float, float] | None
    strongest: tuple[dict[str, Any], ...]
    classified: dict[str, int] = field(default_factory=dict)
    region: str | None = None
    region_share: float = 1.0
    left_out: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def covered_area(tiles: Sequence[Tile]) -> float:
    """Return the area in square image pixels that `tiles` cover together, overlaps once."""
    if not tiles:
        return 0.0
    boxes = np.array([tile.box.as_tuple() for tile in tiles])
    xs, ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    # A difference array over the cells that the tiles' edges cut: linear in cells, not in pairs.
    count = np.zeros((len(ys), len(xs)), dtype=np.int32)
    x0, x1 = np.searchsorted(xs, boxes[:, 0]), np.searchsorted(xs, boxes[:, 2])
    y0, y1 = np.searchsorted(ys, boxes[:, 1]), np.searchsorted(ys, boxes[:, 3])
    for y, x, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
        np.add.at(count, (y, x), sign)
    covered = count.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return float(np.diff(ys) @ covered @ np.diff(xs))


@dataclass(frozen=True, slots=True)
class Ground:
    """What of an image was analysed, whatever was found there.

    Parameters
    ----------
    n_tiles, n_analysed, n_failed, n_skipped : int
    analysed_share, analysed_area : float
        As `Digest` has them.
    area : float
        The same in the unit ``units.area``.
    """

    n_tiles: int
    n_analysed: int
    n_failed: int
    n_skipped: int
    analysed_share: float
    analysed_area: float
    area: float

    @classmethod
    def of(
        cls,
        tiles: Sequence[tuple[Tile, str]],
        *,
        size: tuple[int, int],
        units: Units,
        region: Region | None = None,
        data_share: NDArray[np.float32] | None = None,
    ) -> Ground:
        """Return the ground of `tiles`, each with its status.

        `data_share` is the share that has data of each cell of the image, ``(h, w)``: what has
        none counts as no area. None: all of it has.
        """
        told = Counter(status for _, status in tiles)
        good = {status for status in told if TileStatus(status).analysed}
        analysed = [tile for tile, status in tiles if status in good]
        n_asked = len(tiles) - told[TileStatus.SKIPPED]
        whole, area = _areas(size, region, analysed, n_asked, data_share)
        return cls(
            n_tiles=len(tiles),
            n_analysed=len(analysed),
            n_failed=told[TileStatus.FAILED],
            n_skipped=told[TileStatus.SKIPPED],
            analysed_share=area / whole if whole else float(len(analysed) == n_asked),
            analysed_area=area,
            area=area * units.mean_pixel([tile.box.as_tuple() for tile in analysed]),
        )


def digest(
    findings: Findings,
    ground: Ground,
    *,
    size: tuple[int, int],
    units: Units,
    mpp: tuple[float, float] | None = None,
    model: str = "",
    n_saturated: int = 0,
    region: Region | None = None,
    classified: Mapping[str, int] | None = None,
    left_out: str = "",
) -> Digest:
    """Digest merged `findings` (image frame, within `region`) and the `ground` analysed."""
    area = ground.area
    names, counts = np.unique(findings.labels.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:CLASSES]
    scores = findings.scores[~np.isnan(findings.scores)]
    extent = findings.boxes[:, 2:] - findings.boxes[:, :2]
    median = np.median(extent, axis=0) if len(extent) else None
    return Digest(
        size=size,
        mpp=mpp,
        model=model,
        n_tiles=ground.n_tiles,
        n_analysed=ground.n_analysed,
        n_failed=ground.n_failed,
        n_skipped=ground.n_skipped,
        n_saturated=n_saturated,
        analysed_share=ground.analysed_share,
        analysed_area=ground.analysed_area,
        ground=(area, units.area),
        density=(len(findings) * units.areas_per / area, units.per) if area else None,
        n_findings=len(findings),
        counts={str(names[i]): int(counts[i]) for i in order},
        n_classes=len(names),
        median_score=float(np.median(scores)) if len(scores) else None,
        low_score_share=float((scores < 0.5).mean()) if len(scores) else None,
        median_size=(float(median[0]), float(median[1])) if median is not None else None,
        strongest=tuple(
            {
                "label": str(findings.labels[i]),
                "score": round(float(findings.scores[i]), 3),
                "box": [round(float(v), 1) for v in findings.boxes[i]],
            }
            for i in range(min(STRONGEST, len(scores)))
        ),
        classified=dict(classified or {}),
        region=None if region is None else region.name,
        region_share=1.0 if region is None else region.area / (size[0] * size[1]),
        left_out=left_out,
    )


def _areas(
    size: tuple[int, int],
    region: Region | None,
    analysed: Sequence[Tile],
    n_asked: int,
    data_share: NDArray[np.float32] | None,
) -> tuple[float, float]:
    """Return the area with data that was asked for, and that was analysed, in square pixels."""
    whole = float(size[0] * size[1] if region is None else region.area)
    if region is None:
        area = covered_area(analysed)
    else:
        # All tiles together cover the image, so nothing has to be cut out where none is missing.
        area = region.area_within(analysed) if n_asked > len(analysed) else region.area
    if data_share is None:
        return whole, area
    with_data, of_analysed = _shares_with_data(data_share, size, region, analysed)
    return whole * with_data, area * of_analysed


def _shares_with_data(
    share: NDArray[np.float32], size: tuple[int, int], region: Region | None, tiles: Sequence[Tile]
) -> tuple[float, float]:
    """Return the share with data of what was asked for, and of what of that lies in `tiles`.

    By the cells whose middle is in them.
    """
    height, width = share.shape
    x = (np.arange(width) + 0.5) * size[0] / width
    y = (np.arange(height) + 0.5) * size[1] / height
    asked = np.ones(share.shape, np.bool_)
    if region is not None:
        middles = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        asked = region.holds(middles).reshape(asked.shape)
    count = np.zeros((height + 1, width + 1), np.int32)
    boxes = np.array([tile.box.as_tuple() for tile in tiles]).reshape(-1, 4)
    x0, x1 = np.searchsorted(x, boxes[:, 0]), np.searchsorted(x, boxes[:, 2])
    y0, y1 = np.searchsorted(y, boxes[:, 1]), np.searchsorted(y, boxes[:, 3])
    for row, column, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
        np.add.at(count, (row, column), sign)
    analysed = asked & (count.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0)
    every = float(share[asked].mean(dtype=np.float64)) if asked.any() else 1.0
    return every, float(share[analysed].mean(dtype=np.float64)) if analysed.any() else every


def describe(facts: Digest, vectors: str = "") -> str:
    """Write the scene in sentences: counts, density, confidence, coverage, failures.

    Parameters
    ----------
    facts : Digest
    vectors : str
        What vectors and maps tiles have, as `vectors_told` says it; empty where they have none.
    """
    width, height = facts.size
    where = "in" if facts.region is None else f"within the region ({facts.region}) of"
    bare = vectors and not facts.n_findings and not facts.classified
    found = f"{facts.model or 'The model'} gave {vectors}" if bare else _found(facts)
    sentences = [f"{found} {where} an image of {width:,} × {height:,} pixels."]
    if vectors and not bare:
        sentences.append(f"It gave {vectors}.")
    sentences += filter(None, [facts.left_out])
    if facts.density and facts.n_findings:
        sentences.append(f"That is {_density(*facts.density)} of the analysed area.")
    if facts.median_size and facts.n_findings:
        w, h = facts.median_size
        sentences.append(f"The median detection is {w:.0f} × {h:.0f} pixels.")
    if facts.median_score is not None and facts.low_score_share is not None:
        sentences.append(
            f"The median score is {facts.median_score:.2f}; "
            f"{facts.low_score_share:.0%} of the scores are below 0.5."
        )
    sentences.append(coverage(facts))
    if facts.n_saturated:
        sentences.append(
            f"{facts.n_saturated} tiles are saturated: the model returned as many detections as it "
            "can, so some may be missing; use smaller tiles."
        )
    return " ".join(sentences)


def _found(facts: Digest) -> str:
    if facts.classified and not facts.n_findings:
        kinds = [f"{n:,} {label[:40]}" for label, n in list(facts.classified.items())[:5]]
        return (
            f"{facts.model or 'The model'} classified {sum(facts.classified.values()):,} tiles "
            f"(most probable: {', '.join(kinds)})"
        )
    if not facts.n_findings:
        did = "found" if facts.n_analysed else "analysed"
        kept = " that the filters keep" if facts.left_out else ""
        return f"{facts.model or 'The model'} {did} nothing{kept}"
    kinds = [f"{n:,} {label[:40]}" for label, n in list(facts.counts.items())[:5]]
    if facts.n_classes > 5:
        kinds.append(f"{facts.n_classes - 5} more classes")
    noun = "detection" if facts.n_findings == 1 else "detections"
    return f"{facts.model or 'The model'} found {facts.n_findings:,} {noun} ({', '.join(kinds)})"


def _density(value: float, unit: str) -> str:
    value, unit = sparse(value, unit)
    number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{number} per {unit}"


def coverage(facts: Digest) -> str:
    """Return in one sentence how much was analysed; what is missing comes first."""
    asked = facts.n_tiles - facts.n_skipped
    missing = asked - facts.n_analysed
    if missing:
        share, whole = 1 - facts.analysed_share, "area" if facts.region is None else "region"
        return (
            f"INCOMPLETE: {missing} of {asked} tiles, {_percent(share)} of the {whole}, "
            "were not analysed."
        )
    if facts.region is not None:
        which = "all" if asked == facts.n_tiles else f"{asked} of {facts.n_tiles}"
        return (
            f"The region ({facts.region}), {_percent(facts.region_share)} of the image, was "
            f"analysed: {which} tiles touch it."
        )
    if facts.n_tiles == 1:
        return "The one tile was analysed."
    return f"All {facts.n_tiles} tiles were analysed."


def _percent(share: float) -> str:
    """Never 0% for something missing, never 100% for something found."""
    return f"{100 * share:.2g}%" if 0 < share < 1 else f"{100 * share:.0f}%"


def most_probable(found: Sequence[TileFindings]) -> dict[str, int]:
    """Return of how many tiles each class is the most probable, most frequent first."""
    scores = [one.findings.tile_scores for one in found if one.findings.tile_scores]
    counts = Counter(max(sorted(each), key=lambda name: each[name]) for each in scores)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:CLASSES])


def vectors_told(found: Sequence[TileFindings]) -> str:
    """Return what vectors the tiles have: "a vector of 768 numbers (float16) for 9 tiles"."""
    kinds = Counter(
        (seen.vector.ref.shape[0], seen.vector.ref.dtype)
        for seen in found
        if seen.vector is not None
    )
    return " and ".join(
        f"a vector of {width:,} numbers ({dtype}) for {n:,} tile{'' if n == 1 else 's'}"
        for (width, dtype), n in sorted(kinds.items())
    )


def remarks(found: Sequence[TileFindings]) -> str:
    """Return how many tiles have a note, and the first note; empty if none has one."""
    noted = [one for one in found if one.findings.note]
    if not noted:
        return ""
    tiles = "1 tile has a remark" if len(noted) == 1 else f"{len(noted):,} tiles have remarks"
    first = min(noted, key=lambda one: one.tile)
    return f"{tiles}; {first.tile.id}: {first.findings.note.rstrip('.')[:200]}."


def provenance(facts: RunFacts, n_tiles: int) -> str:
    """Say how many tiles were restored and from when; nothing where none was."""
    if not facts.restored:
        return ""
    were = "was" if facts.restored == 1 else "were"
    which = f"{facts.restored} of {n_tiles} tiles {were} restored from the checkpoint"
    if facts.restored_at is None:
        return f"{which}."
    when = datetime.fromtimestamp(facts.restored_at).astimezone()
    return f"{which}, the oldest computed {when:%Y-%m-%d %H:%M %Z}."


def labels_of(found: Iterable[TileFindings]) -> Counter[str]:
    """Return how many detections the tiles have of each class, before they are merged."""
    return Counter(str(label) for one in found for label in one.findings.labels)
