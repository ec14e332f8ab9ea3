"""What is set in the panel, as a line of Python and as a command of the shell."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from tilevision.grid import Grid
from tilevision.modelspec import ModelSpec
from tilevision.pipeline import start
from tilevision.routing import Cascade
from tilevision.schedule import Quota, Retry

__all__ = ["python_code", "shell_code", "with_own"]

_PLAIN = (str, int, float, bool, type(None))
# Arguments that have an option of another name, or none; the others are spelt alike.
_OPTIONS = {"match_metric": "merge-metric", "match_threshold": "merge-threshold"}
_NO_OPTION = ("client", "progress", "quota")
_WITHOUT = {"reuse": "--no-reuse"}


def python_code(
    image: Any, arguments: Mapping[str, Any], name_of: Callable[[Any], str | None]
) -> str:
    """Return the lines that run the same.

    Parameters
    ----------
    image : object
    arguments : mapping
        As `tilevision.start` takes them.
    name_of : callable
        Returns the name that an object has in the notebook; None if it has none there.
    """
    given = _changed(arguments)
    lines = ["import tilevision as tv", ""]
    region = given.get("region")
    drawn = any(isinstance(one, Mapping) for one in _each(region))
    if drawn:
        lines += [f"region = {_value(region, name_of, 'region')}", ""]
    told = [_value(image, name_of, "image")]
    for name, value in given.items():
        shown = "region" if drawn and name == "region" else None
        told.append(f"{name}={shown or _value(value, name_of, name)}")
    return "\n".join([*lines, "result = tv.analyze(", *(f"    {one}," for one in told), ")"])


def shell_code(
    image: Any, arguments: Mapping[str, Any], name_of: Callable[[Any], str | None]
) -> str:
    """Return the command that runs the same; comments before it say what has to be done first."""
    given = _changed(arguments)
    notes: list[str] = []
    words = ["tilevision", "run", _file(image, notes)]
    for name, value in given.items():
        option = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
        if name in ("model", "moderation", "synthesis"):
            words += [option, _model(value, name_of, notes)]
        elif name in _NO_OPTION:
            notes.append(f"{name}= has no option in the shell and is left out.")
        elif name in _WITHOUT:
            words.append(_WITHOUT[name])
        else:
            words += _option(name, option, value, notes)
    told = [f"# {note}" for note in dict.fromkeys(notes)]
    return "\n".join([*told, shlex.join([*words, "--out", "detections.geojson"])])


def with_own(
    python: str, shell: str, *, corrected: bool, colours: Mapping[str, str]
) -> dict[str, str]:
    """Return both texts by language, and in them what a person did to the result.

    Parameters
    ----------
    python, shell : str
    corrected : bool
        Whether there are corrections by hand.
    colours : mapping of str to str
        Colours that were chosen for classes.
    """
    if corrected:
        python += "\nresult = result.corrected()"
        shell = f"# Corrections by hand are applied in Python: result.corrected()\n{shell}"
    if colours:
        python += f"\nresult.set_colours({dict(colours)!r})"
    return {"python": python, "shell": shell}


def _changed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not what `start` has for them anyway, in its order."""
    known = signature(start).parameters
    given = {name: _named(arguments[name]) for name in known if name in arguments}
    return {
        name: value
        for name, value in given.items()
        if not (isinstance(value, _PLAIN) and value == known[name].default)
        and value is not known[name].default
        and value != known[name].default
    }


def _named(value: Any) -> Any:
    """Return the name of a model that needs no more than its name."""
    plain = isinstance(value, ModelSpec) and not value.payload and not value.params
    return value.name if plain else value


def _value(value: Any, name_of: Callable[[Any], str | None], what: str) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, Mapping):
        return repr(dict(value))
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_value(one, name_of, what) for one in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    if isinstance(value, Grid) and value.quadtree is None:
        return _grid(value)
    if isinstance(value, Cascade) and not callable(value.when):
        models = f"{_value(value.first, name_of, what)}, {_value(value.second, name_of, what)}"
        return f"tv.Cascade({models}, when={value.when!r})"
    if isinstance(value, ModelSpec) and not value.payload and name_of(value) is None:
        more = "".join(f", {name}={one!r}" for name, one in value.params.items())
        return f"tv.model({value.name!r}{more})" if more else repr(value.name)
    if isinstance(value, (Retry, Quota)):
        return f"tv.{value!r}"
    return name_of(value) or getattr(value, "__name__", None) or what


def _grid(grid: Grid) -> str:
    if grid.tile is None:
        return f"tv.Grid({grid.rows}, {grid.cols}, overlap={grid.overlap!r})"
    return f"tv.Grid(tile={grid.tile!r}, overlap={grid.overlap!r})"


def _file(image: Any, notes: list[str]) -> str:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    notes.append("The image is in memory: save it as image.tif first.")
    return "image.tif"


def _model(value: Any, name_of: Callable[[Any], str | None], notes: list[str]) -> str:
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if isinstance(value, ModelSpec) and not value.payload and name_of(value) is None:
        notes.append(f"Arguments of {value.name} are given with --model-arg.")
        return value.name
    name = name_of(value) or getattr(value, "__name__", None) or "model"
    notes.append(f"Put {name} into the file models.py first.")
    return f"models.py:{name}"


def _option(name: str, option: str, value: Any, notes: list[str]) -> list[str]:
    if name == "grid" and isinstance(value, Grid) and value.quadtree is None:
        side = f"{value.rows}x{value.cols}" if value.tile is None else str(value.tile[0])
        if value.tile is not None and value.tile[0] != value.tile[1]:
            notes.append(f"Tiles are {value.tile[0]} by {value.tile[1]} px; the shell has squares.")
        return ["--grid", side, "--overlap", str(value.overlap)]
    if name in ("classes", "thresholds"):
        return _repeated(name, value)
    if name == "checkpoint" and value is None:
        return ["--no-checkpoint"]
    if name == "region" and (words := _region_words(value)):
        return [word for one in words for word in (option, one)]
    if value is True:
        return [option]
    if isinstance(value, Retry):
        return ["--retries", str(value.attempts - 1)]
    if isinstance(value, (str, int, float, os.PathLike)):
        return [option, str(value)]
    notes.append(f"{name}= cannot be given in the shell and is left out.")
    return []


def _each(region: Any) -> list[Any]:
    """Return the regions of several; one alone as it is."""
    return list(region) if isinstance(region, (list, tuple)) else [region]


def _region_words(region: Any) -> list[str]:
    """Return what the option is given, once for each region; nothing where that cannot be said."""
    if isinstance(region, Mapping):
        return [json.dumps(region, ensure_ascii=False)]
    if not isinstance(region, (list, tuple)):
        return []
    if all(isinstance(one, (str, Mapping)) for one in region):
        return [
            one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in region
        ]
    return [",".join(str(number) for number in region)] if len(region) == 4 else []


def _repeated(name: str, value: Any) -> list[str]:
    """Return an option once for each class."""
    if name == "thresholds":
        each = [("--threshold", f"{label}={least}") for label, least in value.items()]
    else:
        each = [("--class", str(label)) for label in ([value] if isinstance(value, str) else value)]
    return [word for pair in each for word in pair]
