"""The account of a run: what became of each tile, and how the result came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.checks import names, share
from tilevision.events import TileChanged
from tilevision.findings import Findings, TileFindings
from tilevision.seams import merge
from tilevision.status import TileStatus

if TYPE_CHECKING:
    from tilevision.regions import Region

__all__ = [
    "MergeSettings",
    "RunFacts",
    "TileRow",
    "categories",
    "class_numbers",
    "class_table",
    "classes_seen",
    "numbered",
    "positions",
    "tiles_by_model",
]


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """What turns tile findings into findings of the image; changing it costs no inference.

    Parameters
    ----------
    method : str
        ``"seam"``, ``"nms"``, ``"nmm"``, ``"wbf"`` or ``"none"``.
    class_agnostic : bool
        True if detections of different classes may be one object.
    match_metric : str
        ``"iou"`` or ``"ios"``.
    match_threshold : float
        From which two detections are one object, above 0, up to 1.
    min_score : float, optional
        Lower scores are dropped before the merge; rows without a score stay.
    classes : tuple of str, optional
        Other classes are dropped before the merge.

    Raises
    ------
    RunError
        If a name is unknown or a number lies outside 0 to 1.
    """

    method: str = "seam"
    class_agnostic: bool = False
    match_metric: str = "iou"
    match_threshold: float = 0.5
    min_score: float | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        # What the merge refuses is refused before any tile is run.
        merge([], self.method, self.class_agnostic, self.match_metric, self.match_threshold)
        if self.min_score is not None:
            object.__setattr__(self, "min_score", float(share("min_score", self.min_score)))
        if self.classes is not None:
            object.__setattr__(self, "classes", names("classes", self.classes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, in the order of the fields."""
        return {
            "method": self.method,
            "class_agnostic": self.class_agnostic,
            "match_metric": self.match_metric,
            "match_threshold": self.match_threshold,
            "min_score": self.min_score,
            "classes": None if self.classes is None else list(self.classes),
        }


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


def tiles_by_model(facts: RunFacts, rows: Iterable[TileRow]) -> dict[str, int]:
    """Return of how many tiles each model's findings are, in the order of ``facts.models``."""
    counts = Counter(row.model for row in rows if TileStatus(row.status).analysed)
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
    stated: dict[str, int] = {}
    for number, name in enumerate(names):
        if name is not None:
            stated.setdefault(name, number)
    found = {pair for pair in classes_seen(tile_findings) if pair[0] not in stated}
    first = max(stated.values(), default=-1) + 1
    return dict(sorted((stated | numbered(found, first)).items(), key=lambda item: item[1]))


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


def numbered(pairs: set[tuple[str, int]], first: int = 0) -> dict[str, int]:
    """Return label to number, `first` or higher: the model's, as far as those tell labels apart."""
    known = {label: number for label, number in sorted(pairs) if number >= first}
    ambiguous = len(set(known.values())) < len(known)
    several = len({pair for pair in pairs if pair[1] != -1}) > len(known)
    if ambiguous or several:
        known = {}
    following = max(known.values(), default=first - 1) + 1
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
