"""Arrays over the pixels of a tile as answers: maps, and masks of numbered objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilevision.adapters.foreignvalues import as_plain_array
from tilevision.adapters.outlines import outline
from tilevision.adapters.vectors import check_vectors, vector_of, vectors_of
from tilevision.errors import CheckpointTooLarge, ModelArgumentError, ModelError
from tilevision.findings import Findings
from tilevision.modelspec import ModelSpec
from tilevision.rasterspec import KINDS, Raster, RasterSpec

__all__ = ["RETURNS", "Declared", "check_returns", "instances_of", "raster_of"]

RETURNS = ("embedding", *KINDS, "instances")
_OF_MAPS = ("classes", "unit")


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
    beside = [key for key in _OF_MAPS if params.get(key)]
    if beside:
        raise ModelArgumentError(
            f"{beside[0]} of model {name} goes with returns='probabilities', 'classes' or "
            "'values'; give returns, or leave it out (names= has the classes of detections)."
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
        self._raster = spec.raster
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
        if answer.raster is None or answer.raster.spec != spec:
            what = "none" if answer.raster is None else "one of another kind or other classes"
            raise ModelError(
                f"Model {name} is declared to return a map of {spec.kind}, and returned findings "
                f"with {what}; return the array, or leave returns out."
            )
        return answer
    if isinstance(answer, Raster):
        return raster_of(Findings(raster=answer), spec, name)
    value = as_plain_array([] if answer is None else answer)
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
