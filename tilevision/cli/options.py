"""The options of ``tilevision run``, and the arguments they stand for."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from tilevision.errors import ModelError

__all__ = ["analysis_options", "arguments", "model_argument"]

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--model",
        required=True,
        help="A name (`tilevision models` lists them), weights.onnx, or FILE.py:FUNCTION.",
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
    click.option("--region", help="Analyse only x0,y0,x1,y1, a GeoJSON or mask file, or tissue."),
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
    click.option("--min-score", type=float, help="Drop detections with a lower score, 0 to 1."),
    click.option(
        "--class", "classes", multiple=True, help="Keep only this class. Can be repeated."
    ),
    click.option(
        "--checkpoint", default=".tilevision", show_default=True, help="Folder for finished tiles."
    ),
    click.option(
        "--no-checkpoint", is_flag=True, help="Store nothing: a stopped run starts again from zero."
    ),
    click.option(
        "--workers", type=int, help="Number of local processes. [default: one per processor]"
    ),
    click.option("--concurrency", type=int, help="Number of tiles in flight. [default: automatic]"),
    click.option("--batch-size", type=int, help="Number of tiles per task. [default: automatic]"),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Where the model runs: cpu, cuda:0, mps, …",
    ),
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


def model_argument(text: str | None) -> Any:
    """Return the function, spec, route or cascade that ``FILE.py:NAME`` names; other text as it is.

    The file's folder joins ``sys.path``, as it does when a script is run, so that workers
    can import the file and what lies beside it.

    Raises
    ------
    ModelError
        If the file is missing, does not import, or has no such function.
    """
    match = re.fullmatch(r"(?P<file>.+\.py):(?P<name>\w+)", text or "")
    if match is None:
        return text
    path = Path(match["file"]).expanduser().resolve()
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


def arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `tilevision.start` that `options` stand for.

    Raises
    ------
    GridError, ModelError
        If the grid is not understood, or a model's file does not import.
    """
    given = dict(options)
    quiet, no_checkpoint = given.pop("quiet"), given.pop("no_checkpoint")
    given["grid"] = _grid(given["grid"], given.pop("overlap"))
    given["resolution"] = _resolution(given["resolution"])
    given["classes"] = given["classes"] or None
    given["reuse"] = not given.pop("no_reuse")
    retries = given.pop("retries")
    if retries is not None:
        given["retry"] = _retry(retries)
    given["progress"] = not quiet
    if no_checkpoint:
        given["checkpoint"] = None
    for stage in ("model", "moderation", "synthesis"):
        given[stage] = model_argument(given[stage])
    return given


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
