"""What a caller may declare of a model, checked before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from tilevision.checks import flag, positive, share, whole
from tilevision.errors import ModelArgumentError
from tilevision.modelspec.price import Price
from tilevision.modelspec.spec import Stage

__all__ = ["DECLARABLE", "DEVICES", "split", "stages"]

DEVICES = re.compile(r"auto|cpu|mps|openvino|(cuda|tensorrt)(:\d+)?")


def split(name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort what was given for model `name` into fields of `ModelSpec` and parameters.

    Returns
    -------
    declared, params : dict
        Fields of the spec, checked; everything else, plain JSON values.

    Raises
    ------
    ModelError
        If a value makes no sense, or a parameter is not plain JSON.
    """
    declared, params = {}, {}
    for key, value in given.items():
        if key in _CHECKS:
            declared[key] = _CHECKS[key](f"{key} of model {name}", value)
        else:
            params[key] = _json(f"{key} of model {name}", value)
    return declared, params


def _json(what: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give text, numbers, true or false, lists and dicts of them."
        ) from None


def _whole(what: str, value: Any) -> int:
    return whole(what, value, ModelArgumentError)


def _maybe(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda what, value: None if value is None else check(what, value)


def _positive(what: str, value: Any) -> float:
    return float(positive(what, value, ModelArgumentError, what="a number"))


def _overlap(what: str, value: Any) -> float:
    advice = "give an IoU above 0 and up to 1, as 0.5"
    return float(share(what, value, ModelArgumentError, zero=False, advice=advice))


def _share(what: str, value: Any) -> float:
    return float(share(what, value, ModelArgumentError))


def _size(what: str, value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give (width, height) in pixels, or one side."
        )
    return _whole(what, pair[0]), _whole(what, pair[1])


def _bands(what: str, value: Any) -> tuple[int | str, ...]:
    items = tuple(value) if isinstance(value, (tuple, list, range)) else ()
    known = (b >= 0 if isinstance(b, int) else isinstance(b, str) and bool(b) for b in items)
    if not items or not all(known):
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give band numbers from 0, as (3, 2, 1), or names, as "
            '("DAPI", "CD3").'
        )
    return items


def _dtype(what: str, value: Any) -> str:
    if value not in ("uint8", "raw", "scaled"):
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give 'uint8' (as displayed), 'raw' (as stored) or 'scaled' "
            "(by the scale and offset of the file)."
        )
    return str(value)


def _flag(what: str, value: Any) -> bool:
    return flag(what, value, ModelArgumentError)


def _device(what: str, value: Any) -> str:
    if not isinstance(value, str) or not DEVICES.fullmatch(value):
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give 'auto', 'cpu', 'cuda:0', 'mps', 'openvino' or "
            "'tensorrt:0'."
        )
    return value


def stages(what: str, value: Any) -> tuple[Stage, ...]:
    """Check a stage, or several."""
    items = (value,) if isinstance(value, str) else tuple(value)
    wrong = [item for item in items if item not in get_args(Stage)]
    if wrong or not items:
        raise ModelArgumentError(
            f"{what} is {value!r:.80}; give some of {', '.join(get_args(Stage))}."
        )
    return items


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "stages": stages,
    "batch_size": _whole,
    "input_size": _maybe(_size),
    "mpp": _maybe(_positive),
    "bands": _maybe(_bands),
    "dtype": _dtype,
    "max_detections": _maybe(_whole),
    "nms": _maybe(_overlap),
    "class_agnostic": _flag,
    "min_score": _maybe(_share),
    "hosted": _flag,
    "device": _device,
    "price": _maybe(lambda _, value: Price.parse(value)),
}

DECLARABLE = tuple(_CHECKS)
