"""Maps as answers: an array over the pixels of a tile, what its numbers mean, how it is kept.

What is kept are whole numbers where it can be: they add up to the same sum in any order, so a map
that is blended of many tiles is the same whichever came first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilevision.checks import is_number, one_of
from tilevision.errors import CheckpointTooLarge, ModelArgumentError, ModelError

__all__ = [
    "EVEN",
    "KINDS",
    "MOST_CLASSES",
    "NODATA",
    "NONE",
    "STEPS",
    "Raster",
    "RasterSpec",
    "first_of_most",
]

KINDS = ("probabilities", "classes", "values")
# An odd number of steps: with an even one, 0.5 against 0.5 is a tie that no answer was.
STEPS = 253
NODATA = 255  # of classes and probabilities
NONE = NODATA - 1  # a pixel that has data, and is of no class
EVEN = 0.5  # share from which a pixel is of the one class of a map that has no other
MOST_CLASSES = 254  # numbers 0 to 253: 254 is "none of them", 255 no data
_MOST_BYTES = 64 * 2**20
_EMPTY = -(2**31)  # no data among whole numbers of `precision`
_SLACK = 1e-3  # by which a softmax in half precision passes 1
_AT_ONCE = 64 * 2**10  # numbers that are made steps together


@dataclass(frozen=True)
class RasterSpec:
    """What the numbers of a map mean.

    Parameters
    ----------
    kind : str
        ``"probabilities"``: a plane for each class; ``"classes"``: a plane of class numbers;
        ``"values"``: planes of measures.
    classes : tuple of (str or None)
        Class names by number; None for a number that no class has. Empty for values.
    unit : str
        Of values, for people.
    precision : float, optional
        Step of values, in which they are kept as whole numbers; None: as float32.
    keep : str
        ``"classes"``: of probabilities only the number of each pixel's class is kept; see `stored`.

    Raises
    ------
    ModelArgumentError
        If they make no sense together.
    """

    kind: str
    classes: tuple[str | None, ...] = ()
    unit: str = ""
    precision: float | None = None
    keep: str = field(default="", repr=False, metadata={"later": True})

    def __post_init__(self) -> None:
        one_of("kind of a map", self.kind, KINDS, ModelArgumentError)
        object.__setattr__(self, "classes", _names(self.classes))
        values = self.kind == "values"
        if values and self.classes:
            raise ModelArgumentError("A map of values has no classes; leave classes out.")
        if not values and (self.unit or self.precision is not None):
            raise ModelArgumentError(
                f"A map of {self.kind} has no unit or precision; leave them out (values have)."
            )
        if not values and not any(self.classes):
            raise ModelArgumentError(
                f"A map of {self.kind} needs its classes; give classes=('water', 'tree', …)."
            )
        if self.kind == "probabilities" and None in self.classes:
            raise ModelArgumentError(
                "A map of probabilities has a plane for each class; name them all, as "
                "classes=('water', 'tree', …)."
            )
        if self.keep and (self.keep != "classes" or self.kind != "probabilities"):
            raise ModelArgumentError(
                f"keep is {self.keep!r:.40} of a map of {self.kind}; give keep='classes' with "
                "probabilities, or leave it out."
            )
        step = self.precision
        if step is not None and not (is_number(step) and 0 < step < float("inf")):
            raise ModelArgumentError(
                f"precision is {step!r:.40}; give the step in which values are kept, as 0.01."
            )

    @classmethod
    def declared(cls, params: Mapping[str, Any]) -> RasterSpec | None:
        """Return what a model's parameters declare of maps; None where it returns none."""
        if params.get("returns") not in KINDS:
            return None
        precision = params.get("precision")
        return cls(
            params["returns"],
            params.get("classes") or (),
            str(params.get("unit") or ""),
            None if precision is None else precision,
            params.get("keep") or "",
        )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RasterSpec:
        """Read what `to_dict` wrote."""
        return cls(raw["kind"], tuple(raw.get("classes", ())), **_of_values(raw))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without what has its default."""
        told: dict[str, Any] = {"kind": self.kind}
        told |= {"classes": list(self.classes)} if self.classes else {}
        told |= {"unit": self.unit} if self.unit else {}
        told |= {"keep": self.keep} if self.keep else {}
        return told | ({} if self.precision is None else {"precision": self.precision})

    @property
    def stored(self) -> RasterSpec:
        """What the numbers mean that are kept: with `keep`, those of classes."""
        return replace(self, kind=self.keep, keep="") if self.keep else self

    @property
    def dtype(self) -> str:
        """In which it is kept: uint8, or for values int32 or float32."""
        if self.kind != "values":
            return "uint8"
        return "float32" if self.precision is None else "int32"

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Class name to number."""
        return {name: number for number, name in enumerate(self.classes) if name is not None}

    def kept(self, values: ArrayLike) -> NDArray[Any]:
        """Return a map as it is kept, ``(k, h, w)`` of `dtype`; with `keep` of class numbers.

        Parameters
        ----------
        values : array (k, h, w) or (h, w)
            Probabilities 0 to 1; class numbers, 255 where nothing is known; values, NaN where
            nothing is known.

        Raises
        ------
        ModelError
            If it has another shape or type, or holds what has no place in such a map.
        CheckpointTooLarge
            If it takes more than 64 MiB.
        """
        given = _planes(values)
        if self.kind == "probabilities":
            kept = self.reduced(self._probabilities(given))
        elif self.kind == "classes":
            kept = self._classes(given)
        else:
            kept = self._values(given)
        if kept.nbytes > _MOST_BYTES:
            k, h, w = kept.shape
            raise CheckpointTooLarge(
                f"A map of {k} × {h} × {w} pixels takes {kept.nbytes / 2**20:.0f} MiB, more than "
                "64; use smaller tiles, fewer classes, or returns='classes' (of shares "
                "keep='classes')."
            )
        return kept

    def reduced(self, steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what is kept of probabilities in steps ``(k, h, w)``.

        They themselves, or with `keep` the class of each pixel ``(1, h, w)``, as the map of the
        shares has it where one tile is alone: the largest, of equal ones that of the lower number;
        of a single class 254 below a half.
        """
        if not self.keep:
            return steps
        best = first_of_most(steps)
        if len(self.classes) == 1:
            best[steps[0] < round(EVEN * STEPS)] = NONE
        return best[None]

    def _probabilities(self, given: NDArray[Any]) -> NDArray[np.uint8]:
        if given.dtype.kind not in "fb":
            raise ModelError(
                f"A map of probabilities is of {given.dtype}; give floats from 0 to 1, or declare "
                "returns='classes'."
            )
        if len(given) != len(self.classes):
            last = given.shape[-1] == len(self.classes)
            hint = "classes come first: np.moveaxis(p, -1, 0)" if last else "one plane a class"
            raise ModelError(
                f"A map of probabilities has shape {given.shape}, and there are "
                f"{len(self.classes)} classes; {hint}."
            )
        kept = np.empty(given.shape, np.uint8)
        low, high = np.inf, -np.inf
        rows = max(1, _AT_ONCE // (given.shape[0] * given.shape[2]))
        for top in range(0, given.shape[1], rows):  # so few that they stay in the processor's cache
            few = given[:, top : top + rows]
            least, most = few.min(), few.max()
            low, high = float(np.minimum(low, least)), float(np.maximum(high, most))  # NaN stays
            if not (low >= -_SLACK and high <= 1 + _SLACK):
                continue  # no share; how far they reach is told of all
            few = few.astype(np.float32, copy=False) * np.float32(STEPS)
            np.rint(few, out=few)
            clip = least < 0 or most > 1
            kept[:, top : top + rows] = np.clip(few, 0, STEPS, out=few) if clip else few
        if np.isnan(low):
            raise ModelError(
                f"A map of probabilities holds NaN ({np.isnan(given).mean():.2g} of its numbers); "
                "give 0 to 1 for each pixel (half precision may overflow, and 0 / 0 is NaN)."
            )
        if not (low >= -_SLACK and high <= 1 + _SLACK):
            raise ModelError(
                f"A map of probabilities has values from {low:.4g} to {high:.4g}; give 0 to 1 "
                "(apply softmax or sigmoid to logits)."
            )
        return kept

    def _classes(self, given: NDArray[Any]) -> NDArray[np.uint8]:
        if given.dtype.kind not in "iub" or len(given) != 1:
            raise ModelError(
                f"A map of classes has shape {given.shape} of {given.dtype}; give whole numbers "
                "(h, w), or declare returns='probabilities'."
            )
        present = np.unique(given)
        unknown = [
            n
            for n in present.tolist()
            if n != NODATA and not (0 <= n < len(self.classes) and self.classes[n] is not None)
        ]
        if unknown:
            raise ModelError(
                f"A map of classes holds {int(unknown[0])}, which is none of the "
                f"{len(self.numbers)} classes; name it in classes=, or give 255 for no data."
            )
        return given.astype(np.uint8)

    def _values(self, given: NDArray[Any]) -> NDArray[Any]:
        if given.dtype.kind not in "iufb":
            raise ModelError(f"A map of values is of {given.dtype}; give numbers (h, w).")
        if self.precision is None:
            with np.errstate(over="ignore"):
                kept = given.astype(np.float32)
            bad = kept[np.isinf(kept)]
            if len(bad):
                raise ModelError("A map of values holds infinity; give NaN where nothing is known.")
            return kept
        steps = np.rint(given.astype(np.float64) / self.precision)
        with np.errstate(invalid="ignore"):
            beyond = np.abs(steps) >= -_EMPTY
        if beyond.any():
            raise ModelError(
                f"A map of values holds {float(given[beyond].flat[0]):.4g}, too large for steps of "
                f"{self.precision:g}; raise precision, or leave it out."
            )
        return np.where(np.isnan(steps), _EMPTY, steps).astype(np.int32)

    def there(self, kept: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where a map as it is kept has data: of the same shape."""
        if self.kind != "values":
            return np.asarray(kept != NODATA)
        return np.asarray(~np.isnan(kept) if self.precision is None else kept != _EMPTY)


class Raster:
    """A map that a model gives of a tile: probabilities, classes or values for its pixels.

    Parameters
    ----------
    values : array (k, h, w) or (h, w)
        Of the tile's own height and width. NaN (in classes 255) where nothing is known.
    kind : str, optional
        ``"probabilities"``, ``"classes"`` or ``"values"``. Default: whole numbers with `classes`
        are classes, floats with `classes` are probabilities, floats without are values.
    classes : sequence of str, or mapping of int to str, optional
        Class names by number.
    unit : str
        Of values: ``"m"``.
    precision : float, optional
        Step in which values are kept; default: as float32. Probabilities are kept in 253 steps.
    keep : str
        ``"classes"``: of probabilities only the number of each pixel's class is kept.

    Raises
    ------
    ModelError
        If it is no such map.
    CheckpointTooLarge
        If it takes more than 64 MiB.
    """

    __slots__ = ("kept", "spec")

    def __init__(
        self,
        values: ArrayLike,
        kind: str | None = None,
        classes: Sequence[str | None] | Mapping[Any, str] | None = None,
        unit: str = "",
        precision: float | None = None,
        keep: str = "",
    ) -> None:
        if kind is None:
            kind = _guessed(np.asarray(values), classes)
        spec = RasterSpec(kind, classes or (), unit, precision, keep)  # type: ignore[arg-type]  # the spec reads any form
        self.spec, self.kept = spec.stored, spec.kept(values)
        self.kept.setflags(write=False)

    @classmethod
    def of(cls, values: ArrayLike, spec: RasterSpec) -> Raster:
        """Return the map of a model that declares its meaning. Raises as the constructor does."""
        made = cls.__new__(cls)
        made.spec, made.kept = spec.stored, spec.kept(values)
        made.kept.setflags(write=False)
        return made

    def reduced(self, spec: RasterSpec) -> Raster:
        """Return what `spec` keeps of these probabilities, of its classes."""
        made = Raster.__new__(Raster)
        made.spec, made.kept = spec.stored, spec.reduced(self.kept)
        made.kept.setflags(write=False)
        return made

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.kept.shape[2], self.kept.shape[1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Raster):
            return NotImplemented
        return self.spec == other.spec and np.array_equal(
            self.kept, other.kept, equal_nan=self.kept.dtype.kind == "f"
        )

    __hash__ = None  # type: ignore[assignment]  # compared by content, too large to hash

    def __repr__(self) -> str:
        k, h, w = self.kept.shape
        return f"Raster({k} × {h} × {w} {self.spec.kind})"


def _guessed(values: NDArray[Any], classes: Any) -> str:
    """Return the kind of a map that says none; whole numbers without names may be anything."""
    whole = values.dtype.kind in "iub"
    if classes:
        return "classes" if whole else "probabilities"
    if whole:
        raise ModelArgumentError(
            "A map of whole numbers may hold classes, objects or values; give classes=, or "
            "kind='values'."
        )
    return "values"


def first_of_most(planes: Iterable[NDArray[Any]]) -> NDArray[np.uint8]:
    """Return ``argmax(axis=0)`` of planes, each of which is looked at once; a tenth of the time."""
    each = iter(planes)
    most = next(each).copy()
    best = np.zeros(most.shape, np.uint8)
    better = np.empty(most.shape, np.bool_)
    places = better.view(np.uint8)
    for number, plane in enumerate(each, 1):
        np.greater(plane, most, out=better)
        np.maximum(best, np.multiply(places, number, out=places, casting="unsafe"), out=best)
        np.maximum(most, plane, out=most)
    return best


def _of_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in ("unit", "precision", "keep") if key in raw}


def _names(given: Any) -> tuple[str | None, ...]:
    """Return class names by number, from a sequence or a mapping of number to name."""
    if isinstance(given, Mapping):
        try:
            numbered = {int(number): str(name) for number, name in given.items()}
        except (TypeError, ValueError):
            numbered = {-1: ""}
        if min(numbered, default=0) < 0:
            raise ModelArgumentError(
                f"classes is {dict(given)!r:.80}; give {{number: name}}, numbers from 0."
            )
        most = max(numbered, default=-1)
        names: Any = [numbered.get(n) for n in range(min(most, MOST_CLASSES) + 1)]
    else:
        names = given
    texts = not isinstance(names, str) and all(isinstance(one, str | None) for one in names)
    if not texts:
        raise ModelArgumentError(
            f"classes is {given!r:.80}; give names, as ('water', 'tree'), or {{number: name}}."
        )
    if len(names) > MOST_CLASSES:
        raise ModelArgumentError(
            f"There are classes up to number {len(names) - 1}; a map holds numbers 0 to "
            f"{MOST_CLASSES - 1}."
        )
    known = [name for name in names if name is not None]
    if len(set(known)) < len(known):
        raise ModelArgumentError("Two classes have the same name; give each its own.")
    return tuple(names)


def _planes(values: ArrayLike) -> NDArray[Any]:
    """Return a map as planes ``(k, h, w)``; leading axes of length 1 are dropped."""
    try:
        given = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged; a tensor that is not detached
        given = np.empty(0, dtype=object)
    while given.ndim > 3 and given.shape[0] == 1:
        given = given[0]
    if given.ndim == 2:
        given = given[None]
    if given.ndim != 3 or not given.size or given.dtype.kind not in "iufb":
        raise ModelError(
            f"A map has shape {given.shape} of {given.dtype}; give numbers (h, w), or (k, h, w) "
            "with the planes first."
        )
    return given
