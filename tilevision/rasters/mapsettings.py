"""How maps of tiles become one, and classes become of shares: changing it costs no inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilevision.checks import one_of, share
from tilevision.errors import RunArgumentError
from tilevision.rasterspec import EVEN, RasterSpec

__all__ = ["BLENDS", "MapSettings"]

BLENDS = ("smooth", "linear", "core", "mean")


@dataclass(frozen=True, slots=True)
class MapSettings:
    """How maps of tiles become one.

    Parameters
    ----------
    blend : str
        ``"smooth"``: weights fall towards the edges of a tile, but not towards the border of the
        image; ``"linear"``: they fall within the overlap; ``"core"``: of two tiles the one whose
        edge is farther counts; ``"mean"``: all count alike.
    margin : int
        Pixels of the map along inner edges of tiles that count only where no other tile has any.
    thresholds : mapping of str to float
        Of probabilities: a class counts from its own share on. Default for a single class: 0.5.
    unsure : float, optional
        Of probabilities: pixels whose best class has less are none of them (254).
    classes : tuple of str, optional
        Pixels of other classes are none of them; names that the map does not have are passed over.

    Raises
    ------
    RunArgumentError
        If a name is unknown or a number out of range.
    """

    blend: str = "smooth"
    margin: int = 0
    thresholds: tuple[tuple[str, float], ...] = ()
    unsure: float | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        one_of("blend", self.blend, BLENDS)
        margin = self.margin
        if not isinstance(margin, int) or isinstance(margin, bool) or margin < 0:
            raise RunArgumentError(f"margin is {margin!r:.40}; give pixels of the map, from 0.")
        object.__setattr__(self, "thresholds", _checked(self.thresholds))
        if self.unsure is not None:
            object.__setattr__(self, "unsure", float(share("unsure", self.unsure)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: what a run takes for the same map, without its classes."""
        told: dict[str, Any] = {"blend": self.blend, "margin": self.margin}
        told |= {"thresholds": dict(self.thresholds)} if self.thresholds else {}
        return told | ({} if self.unsure is None else {"unsure": self.unsure})

    def check(self, spec: RasterSpec) -> None:
        """Make sure that they suit a map.

        Raises
        ------
        RunArgumentError
            If there is no such class, or the map has no probabilities.
        """
        if (self.thresholds or self.unsure is not None) and spec.kind != "probabilities":
            raise RunArgumentError(
                f"This map has {spec.kind}, and thresholds and unsure need probabilities; leave "
                "them out, or keep the shares (returns='probabilities' without keep=)."
            )
        for name, _ in self.thresholds:
            if name not in spec.numbers:
                raise RunArgumentError(
                    f"There is no class {name!r:.40} in the map, which has "
                    f"{', '.join(list(spec.numbers)[:10])}; change thresholds."
                )

    def shown(self, spec: RasterSpec) -> list[int] | None:
        """Return the numbers of the classes that are shown; None: all."""
        if self.classes is None:
            return None
        return [number for name, number in spec.numbers.items() if name in self.classes]

    def least(self, spec: RasterSpec) -> list[float]:
        """Return the share from which each class counts."""
        default = EVEN if len(spec.classes) == 1 else 0.0
        given = dict(self.thresholds)
        return [given.get(str(name), default) for name in spec.classes]


def _checked(given: Any) -> tuple[tuple[str, float], ...]:
    """Return thresholds by class, sorted; a mapping, or the pairs of one that was checked."""
    pairs = given.items() if isinstance(given, Mapping) else given
    try:
        return tuple(sorted((str(k), float(share(f"threshold of {k}", v))) for k, v in pairs))
    except RunArgumentError:
        raise
    except (TypeError, ValueError):
        raise RunArgumentError(
            f"thresholds is {given!r:.80}; give {{class: share}}, as {{'cloud': 0.4}}."
        ) from None
