"""Which family a model belongs to: known by names, notes and shapes, never guessed."""

from __future__ import annotations

import difflib

from tilevision.adapters.onnx.families import ALIASES, FAMILIES, Layout
from tilevision.adapters.onnx.families.pixelmaps import MAP, shows_map
from tilevision.adapters.onnx.ports import Facts, listed
from tilevision.errors import ModelError

__all__ = ["known_family", "recognise"]

_DECODE = (
    "decode=f, where f(outputs, info) gets the outputs by name as arrays for one tile and returns "
    "boxes in pixels of the input, as an (n, 6) array of xmin, ymin, xmax, ymax, score, class"
)


def known_family(name: str) -> str:
    """Return the family that goes by `name`.

    Raises
    ------
    ModelError
        If there is none.
    """
    found = ALIASES.get(name, name) if isinstance(name, str) else None
    if found not in FAMILIES:
        close = difflib.get_close_matches(str(name), [*FAMILIES, *ALIASES], 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ModelError(
            f"Family {name!r:.80} is not known.{hint} Known families: {', '.join(FAMILIES)}; "
            f"for others pass {_DECODE}."
        )
    return str(found)


def recognise(name: str, layout: Layout) -> str:
    """Return the family that model `name` belongs to.

    Raises
    ------
    ModelError
        If it is none or may be several, or does what is not supported: lists the outputs and
        says what to pass.
    """
    _refuse_tasks(name, layout)
    if shows_map(layout):
        return MAP
    found = [family.name for family in FAMILIES.values() if family.matches(layout)]
    if len(found) == 1:
        return found[0]
    seen = listed(_concrete(layout))
    if set(found) == {"detr", "rtdetr"}:
        columns = next(port.shape[-1] for port in layout.outputs if "logits" in port.name)
        raise ModelError(
            f"Model {name} may have {columns} classes (RT-DETR, Deformable DETR, D-FINE), or "
            f"{(columns or 1) - 1} and a column for 'nothing' (DETR, YOLOS) ({seen}): give "
            "family='rtdetr' or family='detr', or the names= of its classes as a list."
        )
    if found:
        raise ModelError(
            f"Model {name} may be {' or '.join(found)} ({seen}); say which with family=, as "
            f"family={found[0]!r}, or give names= as a list, one for each class."
        )
    raise ModelError(
        f"Model {name} has a layout that is not known ({seen}{_told(layout)}); pass family= "
        f"({', '.join(FAMILIES)}), or {_DECODE}."
    )


def _refuse_tasks(name: str, layout: Layout) -> None:
    task = layout.task
    if task == "depth" or (task == "pose" and layout.facts.keypoints is None):
        raise ModelError(
            f"Model {name} was exported for {task}, which is not read; pass {_DECODE}."
        )


def _told(layout: Layout) -> str:
    if layout.n_classes is None:
        return ""
    return f"; {layout.n_classes} class names"


def _concrete(layout: Layout) -> Facts:
    return Facts(layout.facts.inputs, layout.outputs, layout.facts.notes)
