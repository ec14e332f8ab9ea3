"""Arrays over the pixels of a tile as answers: maps, and masks of numbered objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tilevision.adapters.classnames import class_name
from tilevision.adapters.foreignvalues import as_plain_array
from tilevision.adapters.outlines import outline
from tilevision.adapters.vectors import check_vectors, vector_of, vectors_of
from tilevision.errors import CheckpointTooLarge, ModelArgumentError, ModelError
from tilevision.findings import Findings
from tilevision.modelspec import ModelSpec
from tilevision.rasterspec import KINDS, Raster, RasterSpec

__all__ = [
    "ACTIVATIONS",
    "OF_MAPS",
    "RETURNS",
    "Declared",
    "check_activation",
    "check_numbers",
    "check_planes",
    "check_returns",
    "check_stride",
    "complete_map",
    "instances_of",
    "raster_of",
]

RETURNS = ("embedding", *KINDS, "instances")
ACTIVATIONS = ("softmax", "sigmoid", "none")
MOST_PLANES = 32  # of a tile of 1,024 pixels a side they take half of what a map may
OF_MAPS = ("classes", "unit", "activation", "keep")  # what describes maps, beside `returns`
_SLACK = 1e-3  # by which probabilities in half precision miss 0, 1 and their sum


def check_returns(name: str, params: dict[str, Any]) -> None:
    """Check what model `name` is declared to return; defaults are taken out of `params`.

    Raises
    ------
    ModelArgumentError
        If ``returns`` is unknown, or what belongs to it makes no sense.
    """
    returns = params.get("returns", "")
    if returns not in ("", *RETURNS):
        raise ModelArgumentError(
            f"returns of model {name} is {returns!r:.80}; give one of {', '.join(RETURNS)}, or "
            "leave it out where it returns detections."
        )
    _check_keep(name, params)
    if returns in KINDS:
        try:
            RasterSpec.declared(params)
        except ModelArgumentError as error:
            raise ModelArgumentError(f"Model {name}: {error}") from None
        return
    if returns == "instances":
        _object_name(params.get("classes"), name)
        return
    check_vectors(name, params)
    beside = [key for key in OF_MAPS if params.get(key)]
    if beside:
        raise ModelArgumentError(
            f"{beside[0]} of model {name} goes with returns='probabilities', 'classes' or "
            "'values'; give returns, or leave it out (names= has the classes of detections)."
        )


def _check_keep(name: str, params: dict[str, Any]) -> None:
    keep = params.get("keep")
    if not keep:  # so that a model which keeps all has the identity it always had
        params.pop("keep", None)
    elif keep != "classes":
        raise ModelArgumentError(
            f"keep of model {name} is {keep!r:.80}; give 'classes' (of each pixel only the number "
            "of its class), or leave it out."
        )
    elif params.get("returns") == "classes":
        raise ModelArgumentError(
            f"Model {name} returns class numbers, and nothing else can be kept; leave keep out, or "
            "give returns='probabilities'."
        )
    elif params.get("returns") != "probabilities":
        raise ModelArgumentError(
            f"keep='classes' of model {name} is for shares of classes; give "
            "returns='probabilities', or leave keep out."
        )


def check_activation(name: str, params: dict[str, Any]) -> None:
    """Check what makes probabilities of the numbers that model `name` gives.

    Raises
    ------
    ModelArgumentError
        If it is unknown, or the model gives no map.
    """
    asked = params.get("activation")
    if asked is None:
        params.pop("activation", None)
        return
    if asked not in ACTIVATIONS:
        raise ModelArgumentError(
            f"activation of model {name} is {asked!r:.80}; give 'softmax' where a pixel has one "
            "class, 'sigmoid' where it may have several, or 'none'."
        )
    if params.get("returns", "probabilities") not in ("probabilities", "classes"):
        raise ModelArgumentError(
            f"activation of model {name} makes probabilities, and it is declared with "
            f"returns={params['returns']!r}; leave activation out."
        )


def complete_map(name: str, params: dict[str, Any], planes: int | None, names: Any) -> None:
    """Enter into `params` which map model `name` gives, and its classes; check them.

    Where nobody says so, probabilities are kept, which blend without seams; of more than 32
    classes, of which they take many times the space, class numbers alone.

    Parameters
    ----------
    name : str
    params : dict
        Gains ``returns`` and ``classes``.
    planes : int or None
        How many the model gives; None of class numbers, or where it is not known.
    names : list, dict or None
        Class names, as far as the model states them.

    Raises
    ------
    ModelArgumentError
        If they make no sense together.
    """
    few = planes is not None and (planes <= MOST_PLANES or bool(params.get("keep")))
    returns = params.setdefault("returns", "probabilities" if few else "classes")
    if returns in ("probabilities", "classes"):
        given = params.get("classes") or names
        if given is None and planes is None:
            raise ModelArgumentError(
                f"Model {name} gives a map of classes that nobody names; give "
                "classes=('water', 'tree', …) or {number: name}."
            )
        params["classes"] = _class_list(name, given, planes, returns)
    check_returns(name, params)


def _class_list(name: str, given: Any, planes: int | None, returns: str) -> Any:
    """Return class names by number: a list, or what was given where nothing else is known."""
    if planes is None:  # plain JSON types, as a list by number
        return list(RasterSpec("classes", given).classes)
    if isinstance(given, Mapping):
        numbered = {str(number): label for number, label in given.items()}
        beyond = [n for n in numbered if not n.isdecimal() or int(n) >= planes]
        given = None if beyond else [class_name(n, numbered) for n in range(planes)]
    elif given is None:
        given = ["object"] if planes == 1 else [f"class_{n}" for n in range(planes)]
    if planes == 1 and returns == "classes" and given is not None and len(given) == 1:
        given = ["background", *given]  # a pixel is of the class, or is not
    wanted = 2 if planes == 1 and returns == "classes" else planes
    if given is None or isinstance(given, str) or len(given) != wanted:
        raise ModelArgumentError(
            f"Model {name} gives {planes} planes, and its class names are for "
            f"{'others' if given is None else len(given)}; give classes= with one for each."
        )
    return list(given)


def check_numbers(name: str, high: float) -> None:
    """Refuse what a model gives where the largest of its numbers is none: no class is best there.

    Raises
    ------
    ModelError
        If it is NaN.
    """
    if high != high:
        raise ModelError(
            f"Model {name} gives NaN, of which no class is the best; check its weights, half= and "
            "normalize=."
        )


def check_planes(
    name: str, activation: str, planes: int, low: float, high: float, total: float
) -> None:
    """Refuse numbers that cannot be what they are declared to be.

    Parameters
    ----------
    name : str
        The model.
    activation : str
        What will be made of them.
    planes : int
        How many there are.
    low, high : float
        The least and the largest number.
    total : float
        How far the sum over the planes of a pixel is from 1, at most.

    Raises
    ------
    ModelError
        If they are no probabilities and are declared so, or are so already.
    """
    check_numbers(name, high)
    between = low >= -_SLACK and high <= 1 + _SLACK
    if activation == "none" and not between:
        raise ModelError(
            f"Model {name} gives numbers from {low:.4g} to {high:.4g}, which are no "
            "probabilities; give activation='softmax' (a pixel has one class) or 'sigmoid' (it may "
            "have several), or returns='values'."
        )
    if activation != "softmax":
        return
    if planes == 1:
        raise ModelError(
            f"Model {name} gives one plane, of which softmax makes 1 everywhere; give "
            "activation='sigmoid', or 'none'."
        )
    if between and total <= _SLACK:
        raise ModelError(
            f"Model {name} gives shares that add up to 1 in each pixel, so softmax has been "
            "applied to them; give activation='none'."
        )


def check_stride(name: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    """Refuse a map that does not lie evenly over the picture.

    Parameters
    ----------
    name : str
        The model.
    shape : tuple of int
        Height and width of the map.
    size : tuple of int
        Height and width of the picture.

    Raises
    ------
    ModelError
        If it is not of the picture's size or of a whole stride of it.
    """
    stride = round(max(size) / shape[int(size[1] > size[0])])
    fits = stride >= 1 and all(
        side // stride <= have <= -(-side // stride) for have, side in zip(shape, size, strict=True)
    )
    if not fits:
        raise ModelError(
            f"Model {name} gives a map of {shape[1]}×{shape[0]} pixels for a picture of "
            f"{size[1]}×{size[0]}, which is no whole stride of it, so it may be cut off at the "
            "edges; pass a function that puts it in its place."
        )


class Declared:
    """Reads the answers of a model that says what its arrays are.

    Parameters
    ----------
    spec : ModelSpec
        With a parameter ``returns``.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._name = spec.name
        self._returns = spec.params["returns"]
        self._raster = spec.answered
        if self._returns == "instances":
            self._label = _object_name(spec.params.get("classes"), spec.name)

    def one(self, answer: Any) -> Findings:
        """Read what the model returned for one tile.

        Raises
        ------
        ModelError
            If it is something else.
        """
        if self._raster is not None:
            return raster_of(answer, self._raster, self._name)
        if self._returns == "instances":
            return instances_of(answer, self._label, self._name)
        return vector_of(answer, self._name)

    def rows(self, answers: Any, wanted: int | None) -> list[Any]:
        """Return one answer for each of the tiles of a batch: an array's rows, or a list's.

        Raises
        ------
        ModelError
            If it has another number of rows.
        """
        if self._returns == "embedding":
            return vectors_of(answers, wanted, self._name)
        if self._returns == "instances" and isinstance(answers, tuple):
            # Cellpose answers a list of pictures by lists of masks, of flows and of styles.
            masks = answers[0] if answers else None
            answers = masks if isinstance(masks, list) and len(masks) == wanted else answers
        value = as_plain_array(answers)
        rows = list(value) if isinstance(value, np.ndarray) and value.ndim > 2 else value
        if not isinstance(rows, (list, tuple)) or wanted not in (None, len(rows)):
            got = f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            tiles = "a batch" if wanted is None else f"{wanted} tiles"
            raise ModelError(
                f"Model {self._name} was called with {tiles} and returned {got}; return an array "
                "whose first axis is the tiles, or a list with one array for each tile."
            )
        return list(rows)


def raster_of(answer: Any, spec: RasterSpec, name: str) -> Findings:
    """Read a map that a model returned for one tile.

    Parameters
    ----------
    answer : array or tensor (k, h, w) or (h, w), Raster, or Findings with a map
    spec : RasterSpec
        As declared.
    name : str
        The model, for errors.

    Raises
    ------
    ModelError
        If it is no such map.
    CheckpointTooLarge
        If it takes more than 64 MiB.
    """
    if isinstance(answer, Findings):
        if answer.raster is not None and answer.raster.spec == replace(spec, keep=""):
            return answer.with_raster(answer.raster.reduced(spec)) if spec.keep else answer
        if answer.raster is None or answer.raster.spec != spec.stored:
            what = "none" if answer.raster is None else "one of another kind or other classes"
            raise ModelError(
                f"Model {name} is declared to return a map of {spec.kind}, and returned findings "
                f"with {what}; return the array, or leave returns out."
            )
        return answer
    if isinstance(answer, Raster):
        return raster_of(Findings(raster=answer), spec, name)
    if answer is None:
        raise ModelError(
            f"Model {name} is declared to return a map of {spec.kind}, and returned None; return "
            "the array (does a branch lack its return?)."
        )
    value = as_plain_array(answer)
    try:
        return Findings(raster=Raster.of(value, spec))
    except CheckpointTooLarge as error:
        raise CheckpointTooLarge(f"Model {name}: {error}") from None
    except ModelError as error:
        raise ModelError(f"Model {name}: {error}") from None


def instances_of(answer: Any, label: str, name: str) -> Findings:
    """Read a mask of numbered objects, 0 where there is none: their outlines, holes kept.

    Parameters
    ----------
    answer : array or tensor (h, w) of int
        Or a tuple that begins with it, as Cellpose and StarDist return.
    label : str
        What the objects are.
    name : str
        The model, for errors.

    Raises
    ------
    ModelError
        If it is no such mask.
    """
    from skimage.measure import regionprops

    if isinstance(answer, Findings):
        return answer
    first = answer[0] if isinstance(answer, tuple) and answer else answer
    mask = np.asarray(as_plain_array([] if first is None else first))
    while mask.ndim > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim != 2 or mask.dtype.kind not in "iu" or (mask.size and int(mask.min()) < 0):
        raise ModelError(
            f"Model {name} returned shape {mask.shape} of {mask.dtype}; a mask of instances is "
            "(h, w) of whole numbers: 0 for none, a number for each object."
        )
    # Numbers may be anything up to 2**63: of those that are there, each gets a place.
    _, dense = np.unique(np.append(mask, 0), return_inverse=True)
    regions = regionprops(dense[:-1].reshape(mask.shape))
    if not regions:
        return Findings()
    boxes = [(r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]) for r in regions]
    shapes = [outline(r.image, (r.bbox[1], r.bbox[0])) for r in regions]
    return Findings(boxes, labels=[label] * len(regions), polygons=shapes)


def _object_name(classes: Any, name: str) -> str:
    """Return what all objects of a mask are called."""
    if not classes:
        return "object"
    if not isinstance(classes, (list, tuple)) or len(classes) != 1 or not classes[0]:
        raise ModelArgumentError(
            f"classes of model {name} is {classes!r:.80}; a mask of instances has objects of one "
            "class: give classes=('cell',)."
        )
    return str(classes[0])
