"""The recipe of a result: a file from which the run can be repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from tilevision.errors import RunError
from tilevision.files import dumps

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["recipe", "write"]


def recipe(result: ResultData) -> dict[str, Any] | None:
    """Return how `result` came about, under the thresholds it has now; None if nobody knows."""
    told = dict(result.facts.recipe)
    if not told:
        return None
    how = result.settings.to_dict()
    changed = {"merge": how.pop("method"), **how}
    settings = told["settings"] | changed
    if result.blending is not None:
        of_maps = ("blend", "margin", "thresholds", "unsure")
        settings = {name: settings[name] for name in settings if name not in of_maps}
        settings |= result.blending.to_dict()
    return told | {"settings": settings}


def write(result: ResultData, stream: TextIO) -> None:
    """Write what `tilevision.recipe` reads; no detections.

    Raises
    ------
    RunError
        If the result was not made by a run.
    """
    told = recipe(result)
    if told is None:
        raise RunError("This result was not made by a run, so there is nothing to repeat.")
    lines = ",\n".join(f"{dumps(name)}: {dumps(value)}" for name, value in told.items())
    stream.write(f"{{\n{lines}\n}}\n")
