"""The account of a run: what became of each tile, and how the result came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tilevision.checks import names, share
from tilevision.events import TileChanged
from tilevision.seams import merge
from tilevision.status import TileStatus

if TYPE_CHECKING:
    from tilevision.regions import Region

__all__ = ["MergeSettings", "RunFacts", "TileRow", "tiles_by_model"]


TileRow = TileChanged  # what is published about a tile is what its row holds, without the boxes


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
