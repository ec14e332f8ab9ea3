"""How to do a run again: its arguments as a file, without a path, a time or a machine."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilevision.errors import GridError, RunError
from tilevision.pipeline.history import arguments_again
from tilevision.pipeline.settings import Subject

__all__ = ["FORMAT_VERSION", "recipe", "recipe_of"]

FORMAT_VERSION = 1
_FACTS = (
    *("image", "model", "source", "model_params", "model_declared", "model_fingerprint"),
    *("model_price", "models", "routing", "tiling", "region", "moderation", "synthesis"),
)


def recipe_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a run's manifest what `recipe` reads back, the same for every run of the kind."""
    return {
        "format": "tilevision recipe",
        "version": FORMAT_VERSION,
        **{name: manifest.get(name) for name in _FACTS},
        "settings": {name: manifest["settings"][name] for name in Subject.RECORDED},
    }


def recipe(path: str | os.PathLike[str], model: Any = None) -> dict[str, Any]:
    """Read how a result came about, as arguments that do it again.

    ``result.save("found.recipe.json")`` writes such a file, and ``.json`` exports have it too.

    Parameters
    ----------
    path : path-like
    model : optional
        Where the run used a function, which no file holds.

    Returns
    -------
    dict
        For ``tv.analyze(image, **tv.recipe("found.recipe.json"))``.

    Raises
    ------
    RunError
        If it is no such file, or the model has to be given.
    ModelError
        If its model is not known here.
    """
    name = os.fspath(path)
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        told = told.get("recipe", told)
        if told["format"] != "tilevision recipe" or told["version"] != FORMAT_VERSION:
            raise RunError(f"{name} is a recipe of another version of tilevision")
        arguments = arguments_again(
            {"retry": {}, "quota": None, **told}, f"the result of {name}", model
        )
    except OSError as error:
        raise RunError(f"{name} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, GridError) as error:
        raise RunError(
            f"{name} is no recipe; result.save('found.recipe.json') writes one"
        ) from error
    return {key: value for key, value in arguments.items() if key not in ("retry", "quota")}
