"""The options of ``tilevision run``, and the arguments they stand for."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from tilevision import checks
from tilevision.cli.configuration import named_model
from tilevision.errors import ModelError

__all__ = [
    "analysis_options",
    "arguments",
    "checkpoint_option",
    "model_argument",
    "stated",
    "workers_option",
]

F = TypeVar("F", bound=Callable[..., Any])

checkpoint_option = click.option(
    "--checkpoint",
    envvar="TILEVISION_CHECKPOINT",
    default=".tilevision",
    show_default=True,
    help="Folder for finished tiles.",
)
workers_option = click.option(
    "--workers",
    type=int,
    envvar="TILEVISION_WORKERS",
    help="Number of local processes. [default: one per processor]",
)
_OPTIONS = (
    click.option(
        "--model",
        help="A name (`tilevision models` lists them), weights.onnx, hf:owner/repository, or "
        "FILE.py:FUNCTION.",
    ),
    click.option(
        "--model-arg",
        "model_args",
        metavar="KEY=VALUE",
        multiple=True,
        help="Parameter of the model: min_area=30, classes='[\"ship\"]'. Can be repeated.",
    ),
    click.option(
        "--recipe",
        metavar="FILE",
        help="Repeat what a .recipe.json or .json result says; other options replace parts of it.",
    ),
    click.option(
        "--grid",
        help="Rows and columns (8x8), tile size in pixels (640), or adaptive. [default: auto]",
    ),
    click.option("--overlap", help="Overlap of neighbouring tiles: 0.2 or 64px. Needs --grid."),
    click.option("--resolution", help="0.5mpp, 20x, a level of the file (1), or a scale (0.5)."),
    click.option(
        "--full-image", is_flag=True, help="Add the whole image, shrunk, as one more tile."
    ),
    click.option("--mpp", type=float, help="Microns per pixel, if the file does not say."),
    click.option(
        "--region",
        multiple=True,
        help="Analyse only x0,y0,x1,y1, a GeoJSON or mask file, or tissue. Can be repeated.",
    ),
    click.option("--moderation", help="Model that checks the image before any tile."),
    click.option(
        "--synthesis", default="summary", show_default=True, help="Model that writes the summary."
    ),
    click.option(
        "--merge",
        default="seam",
        show_default=True,
        help="How overlapping detections are joined: seam, nms, nmm, wbf or none.",
    ),
    click.option(
        "--class-agnostic", is_flag=True, help="Merge detections of different classes as well."
    ),
    click.option(
        "--merge-threshold",
        "match_threshold",
        type=float,
        default=0.5,
        show_default=True,
        help="Overlap from which two detections are one, for nms, nmm and wbf.",
    ),
    click.option(
        "--merge-metric",
        "match_metric",
        default="iou",
        show_default=True,
        help="How that overlap is measured: iou, or ios (of the smaller).",
    ),
    click.option("--min-score", type=float, help="Drop detections with a lower score, 0 to 1."),
    click.option("--max-score", type=float, help="Drop merged objects with a higher score."),
    click.option(
        "--min-area", type=float, help="Drop smaller objects, in µm², m² or px² as the image has."
    ),
    click.option("--max-area", type=float, help="Drop larger objects, in the same unit."),
    click.option(
        "--class", "classes", multiple=True, help="Keep only this class. Can be repeated."
    ),
    click.option("--blend", help="How maps of tiles become one: smooth, linear, core or mean."),
    click.option(
        "--margin",
        type=int,
        help="Pixels along inner edges of tiles' maps that count only where no other tile has any.",
    ),
    click.option(
        "--threshold",
        "thresholds",
        metavar="CLASS=SHARE",
        multiple=True,
        help="Share from which a class of a map counts: cloud=0.4. Can be repeated.",
    ),
    click.option("--unsure", type=float, help="Share below which the best class of a map is none."),
    checkpoint_option,
    click.option(
        "--no-checkpoint", is_flag=True, help="Store nothing: a stopped run starts again from zero."
    ),
    workers_option,
    click.option("--concurrency", type=int, help="Number of tiles in flight. [default: automatic]"),
    click.option("--batch-size", type=int, help="Number of tiles per task. [default: automatic]"),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Where the model runs: cpu, cuda:0, mps, …",
    ),
    click.option("--quota", type=int, help="Number of requests that a hosted model gets at once."),
    click.option("--per-minute", type=float, help="Number of requests that it gets in a minute."),
    click.option("--timeout", type=float, help="Seconds until a tile is given up."),
    click.option(
        "--retries", type=int, help="How often a failed tile is tried again. [default: 2]"
    ),
    click.option(
        "--max-failures",
        type=float,
        help="Number of failed tiles that stops the run: 10, or a share of all tiles (0.1).",
    ),
    click.option(
        "--budget", type=float, help="Maximum cost of all calls, at the prices of the models."
    ),
    click.option("--no-reuse", is_flag=True, help="Compute again, and replace stored tiles."),
    click.option("--strict", is_flag=True, help="Fail, and write nothing, if tiles failed."),
    click.option("--quiet", is_flag=True, help="Print nothing but errors."),
)


def model_argument(text: str | None, parameters: Mapping[str, Any] | None = None) -> Any:
    """Return the function, spec, route or cascade that ``FILE.py:NAME`` names.

    A name of ``tilevision.toml`` is the model that it describes there; other text stays. With
    `parameters` it is the spec of that model, and they replace those of the file.

    The file's folder joins ``sys.path``, as it does when a script is run, so that workers
    can import the file and what lies beside it.

    Raises
    ------
    ModelError
        If the file is missing, does not import, or has no such function.
    """
    match = re.fullmatch(r"(?P<file>.+\.py):(?P<name>\w+)", text or "")
    described = None if match else named_model(text, parameters or {})
    if described is not None:
        return described
    found = text if match is None else _in_file(text, match)
    if not parameters:
        return found
    from tilevision.catalogue import model

    return model(found, **parameters)


def _in_file(text: str | None, match: re.Match[str]) -> Any:
    path = checks.path("model", match["file"], ModelError).resolve()
    if not path.is_file():
        raise ModelError(f"Model {text}: there is no file {path}.")
    if not path.stem.isidentifier():
        raise ModelError(
            f"Model {text}: Python cannot import a file named {path.name}. "
            "Use letters, digits and underscores."
        )
    from tilevision.modelspec import ModelSpec
    from tilevision.routing import Cascade, Route

    function = getattr(_imported(path, str(text)), match["name"], None)
    if not callable(function) and not isinstance(function, (ModelSpec, Route, Cascade)):
        raise ModelError(f"Model {text}: {path.name} has no function {match['name']}.")
    return function


def _imported(path: Path, text: str) -> Any:
    sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    except Exception as error:
        raise ModelError(
            f"Model {text}: importing {path.name} failed: {type(error).__name__}: {error}."
        ) from error
    found = Path(getattr(module, "__file__", None) or "")
    if found.resolve() != path:
        raise ModelError(
            f"Model {text}: another module is named {path.stem} ({found}). Rename the file."
        )
    return module


def analysis_options(command: F) -> F:
    """Give a command the options that `arguments` understands."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def stated(ctx: click.Context) -> frozenset[str]:
    """Return the names of the options that somebody gave, in any way."""
    unsaid = (ParameterSource.DEFAULT, None)
    return frozenset(n for n in ctx.params if ctx.get_parameter_source(n) not in unsaid)


def arguments(options: dict[str, Any], stated: Collection[str] = ()) -> dict[str, Any]:
    """Return the arguments of `tilevision.start` that `options` stand for.

    Parameters
    ----------
    options : dict
        Of `analysis_options`, by name.
    stated : collection of str
        Which of them somebody gave: these replace what a recipe says.

    Raises
    ------
    GridError, ModelError, RunError
        If the grid is not understood, a model's file does not import, or the recipe cannot be read.
    """
    given = dict(options)
    quiet, no_checkpoint = given.pop("quiet"), given.pop("no_checkpoint")
    given["grid"] = _grid(given["grid"], given.pop("overlap"))
    given["resolution"] = _resolution(given["resolution"])
    given["classes"] = given["classes"] or None
    regions = list(given["region"])
    given["region"] = regions if len(regions) > 1 else next(iter(regions), None)
    given["thresholds"] = dict(map(_threshold, given["thresholds"])) or None
    given["reuse"] = not given.pop("no_reuse")
    given["quota"] = _quota(given["quota"], given.pop("per_minute"))
    retries = given.pop("retries")
    if retries is not None:
        given["retry"] = _retry(retries)
    given["progress"] = not quiet
    if no_checkpoint:
        given["checkpoint"] = None
    parameters = dict(map(_parameter, given.pop("model_args")))
    if parameters and given["model"] is None:
        raise click.UsageError("--model-arg needs --model.")
    given["model"] = model_argument(given["model"], parameters)
    for stage in ("moderation", "synthesis"):
        given[stage] = model_argument(given[stage])
    return _with_model(given, given.pop("recipe"), stated)


def _with_model(given: dict[str, Any], path: str | None, stated: Collection[str]) -> dict[str, Any]:
    """Return `given` with its model, and with what a recipe says where nobody said otherwise."""
    if given["model"] is None and path is None:
        raise click.UsageError("Give --model, or a --recipe.")
    if path is None:
        return given
    from tilevision.pipeline import recipe

    told = recipe(path, given["model"])
    # `retry` and `progress` have other names in the shell; no recipe holds them.
    return given | {name: value for name, value in told.items() if name not in stated}


def _parameter(text: str) -> tuple[str, Any]:
    """Return name and value of ``KEY=VALUE``; a value that is no JSON is text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise click.UsageError(f"--model-arg {text!r} is not KEY=VALUE, for example min_area=30.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _threshold(text: str) -> tuple[str, float]:
    """Return class and share of ``CLASS=SHARE``."""
    name, equals, share = text.rpartition("=")
    try:
        return name, float(share) if equals and name else float("")
    except ValueError:
        raise click.UsageError(
            f"--threshold {text!r} is not CLASS=SHARE, such as cloud=0.4."
        ) from None


def _quota(concurrency: int | None, per_minute: float | None) -> Any:
    if concurrency is None and per_minute is None:
        return None
    from tilevision.schedule import Quota

    return Quota(concurrency=concurrency, per_minute=per_minute)


def _grid(grid: str | None, overlap: str | None) -> Any:
    from tilevision.grid import Grid

    if overlap is None:
        return grid
    if grid is None:
        raise click.UsageError("--overlap needs --grid, for example --grid 8x8 --overlap 0.1.")
    number = re.fullmatch(r"-?[\d.]+", overlap)
    try:
        share: float | str = float(overlap) if number else overlap
    except ValueError:
        share = overlap
    return replace(Grid.parse(grid), overlap=share)


def _retry(retries: int) -> Any:
    from tilevision.schedule import Retry

    if retries < 0:
        raise click.UsageError(f"--retries is {retries}. Give 0 or more.")
    return Retry(attempts=retries + 1)


def _resolution(text: str | None) -> Any:
    """Return a level as int and a scale as float; what carries a unit stays text."""
    if text is None:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
