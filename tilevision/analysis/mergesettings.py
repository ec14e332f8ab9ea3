"""What turns the findings of tiles into those of the image: thresholds, limits and the merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.checks import is_number, names, share
from tilevision.errors import RunArgumentError
from tilevision.seams import check_merge

__all__ = ["LIMITS", "MergeSettings"]

# Limits of merged objects: they came later than the others, and are named only where they are set.
LIMITS = ("max_score", "min_area", "max_area")


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
    max_score : float, optional
        Higher scores are dropped after the merge; rows without a score stay.
    min_area, max_area : float, optional
        Smaller and larger objects are dropped after the merge, when they are whole; in the units
        of the image's areas: µm², m² or px².

    Raises
    ------
    RunError
        If a name is unknown, a number lies outside 0 to 1, or limits exclude each other.
    """

    method: str = "seam"
    class_agnostic: bool = False
    match_metric: str = "iou"
    match_threshold: float = 0.5
    min_score: float | None = None
    classes: tuple[str, ...] | None = None
    max_score: float | None = None
    min_area: float | None = None
    max_area: float | None = None

    def __post_init__(self) -> None:
        # What the merge refuses is refused before any tile is run.
        check_merge(self.method, self.match_metric, self.match_threshold)
        for name in ("min_score", "max_score"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(share(name, getattr(self, name))))
        if self.classes is not None:
            object.__setattr__(self, "classes", names("classes", self.classes))
        for name in ("min_area", "max_area"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _area(name, value))
        for low, high in (("min_score", "max_score"), ("min_area", "max_area")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise RunArgumentError(
                    f"{low}={least:g} is above {high}={most:g}, so nothing is left; swap them."
                )

    @property
    def limits(self) -> dict[str, float]:
        """The limits of merged objects that are set."""
        values = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in values.items() if value is not None}

    def within(self, scores: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which merged objects ``(n,)`` keep the limits, by their scores and areas."""
        keep = np.ones(len(scores), dtype=bool)
        if self.max_score is not None:
            keep &= ~(scores > self.max_score)
        if self.min_area is not None:
            keep &= areas >= self.min_area
        if self.max_area is not None:
            keep &= areas <= self.max_area
        return keep

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, in the order of the fields; limits only where they are set."""
        return {
            "method": self.method,
            "class_agnostic": self.class_agnostic,
            "match_metric": self.match_metric,
            "match_threshold": self.match_threshold,
            "min_score": self.min_score,
            "classes": None if self.classes is None else list(self.classes),
            **self.limits,
        }


def _area(name: str, value: Any) -> float:
    if not is_number(value) or value < 0:
        raise RunArgumentError(f"{name} is {value!r:.80}; give an area of 0 or more.")
    return float(value)
