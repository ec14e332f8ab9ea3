"""The front door: plan, start, analyze."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from importlib.metadata import version
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from tilevision.events import Bus, Event, RunChanged
from tilevision.pipeline.conductor import ENDED, Conductor
from tilevision.pipeline.history import check_same_work, remember
from tilevision.pipeline.planning import Plan, Stages, make_plan, resolve_stages
from tilevision.pipeline.progress import ProgressBar
from tilevision.pipeline.run import Run
from tilevision.pipeline.session import Session, new_run_id, open_checkpoint
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT, Settings
from tilevision.result import Result
from tilevision.schedule import Quota, Retry

__all__ = ["analyze", "launch", "plan", "start"]

P = ParamSpec("P")
R = TypeVar("R")


def start(
    image: Any,
    model: Any = None,
    *,
    grid: Any = None,
    resolution: Any = None,
    full_image: bool = False,
    mpp: float | tuple[float, float] | None = None,
    region: Any = None,
    min_score: float | None = None,
    classes: Sequence[str] | None = None,
    moderation: Any = None,
    synthesis: Any = "summary",
    merge: str = "seam",
    checkpoint: str | os.PathLike[str] | None = DEFAULT_CHECKPOINT,
    client: Any = None,
    workers: int | None = None,
    concurrency: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    retry: Retry = Retry(),  # noqa: B008 - frozen
    quota: Quota | None = None,
    timeout: float | None = None,
    max_failures: float | None = None,
    budget: float | None = None,
    reuse: bool = True,
    strict: bool = False,
    progress: bool | None = None,
    report: str | os.PathLike[str] | None = None,
) -> Run:
    """Start a run and return at once.

    The image is opened and the grid planned before this returns, so that mistakes are
    heard of here; everything else happens on the run's own thread.

    Parameters
    ----------
    image : path, URL, PIL image, array, Dask array or ImageSource
        As `tilevision.open_source` takes it. An array is ``(h, w)`` or ``(h, w, c)``.
    model : str, callable, model object, ModelSpec, Cascade or Route
        A registered name (`tilevision.models` lists them), a file of weights, or a function
        ``f(pixels) -> findings`` on ``(h, w, 3)`` uint8 RGB; see `tilevision.model`.
    grid : optional
        ``"8x8"`` or ``(8, 8)`` (ROWSxCOLS), ``640`` (tile pixels), ``"adaptive"`` or a `Grid`.
        Default: the model's input size, else 1024 pixels.
    resolution : optional
        ``"0.5mpp"``, ``"20x"``, a level (int) or a scale (float), or a list of
        these: the grid is laid at each. Default: as stored, or what the model was made for.
    full_image : bool
        Whether the whole image, shrunk to the size of a tile, is one tile more, so that
        objects larger than a tile are seen whole.
    mpp : float or (float, float), optional
        Microns per pixel, where the file does not say.
    region : optional
        The part of the image to analyse: ``(x0, y0, x1, y1)``, points ``(k, 2)`` of a polygon
        or a shapely one, in full-resolution pixels; GeoJSON or its file (longitude and
        latitude where the image has map coordinates); a mask ``(h, w)`` over the whole image
        or its file; ``"tissue"``; a list of several. Tiles that do not touch it are skipped;
        what is found counts where the centre of its box lies in it.
    min_score, classes : optional
        Applied before the merge, without inference. A model may say the score from which its
        detections are shown where none is given; 0 shows all that were recorded.
    moderation : str or callable, optional
        Asked before any tile, with an RGB thumbnail. The built-in limits always run.
    synthesis : str or callable
        Asked after the merge, with a digest and a thumbnail.
    merge : str
        ``"seam"``, ``"nms"``, ``"nmm"``, ``"wbf"`` or ``"none"``.
    checkpoint : path-like or None
        Folder where each tile's findings are kept; None keeps nothing.
    client : distributed.Client, optional
        Default: the current one, else a local cluster.
    workers : int, optional
        Of the local cluster; default one per processor.
    concurrency : int, optional
        Tiles in flight; default automatic.
    batch_size : int, optional
        Tiles to a task; default automatic.
    device : str
        Where the model runs: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:0"``, ``"mps"``,
        ``"openvino"``, ``"tensorrt:0"``. One that is asked for and not there is an error.
    retry : Retry
    quota : Quota, optional
    timeout : float, optional
        Seconds a tile may take before it is given up; loading the model is not counted.
    max_failures : int or float, optional
        Failed tiles that stop the run: a count, or a fraction below 1.
    budget : float, optional
        Most that the calls may cost, in the currency of the models' prices; counted anew when a
        run is resumed. No tile is started that would pass it at the mean cost of an attempt so
        far; the run then stops, and what is in flight is kept. It can be passed only by as much
        as tiles in flight cost more than the mean.
    reuse : bool
        False: recompute, and replace what is stored.
    strict : bool
        True: the result raises `IncompleteRun` when tiles failed.
    progress : bool, optional
        Whether to draw a progress bar on standard error. Default: where the call waits
        (`analyze`), not where it returns at once (`start`).
    report : path-like, optional
        HTML file for Dask's performance report of the tiles that are run.

    Returns
    -------
    Run

    Raises
    ------
    SourceError, GridError, ModelError, CheckpointError, RunError
        Whatever is wrong with what was asked for, in one line.
    """
    settings = Settings(
        model=model,
        grid=grid,
        resolution=resolution,
        full_image=full_image,
        mpp=mpp,
        region=region,
        min_score=min_score,
        classes=classes,
        moderation=moderation,
        synthesis=synthesis,
        merge=merge,
        checkpoint=checkpoint,
        client=client,
        workers=workers,
        concurrency=concurrency,
        batch_size=batch_size,
        device=device,
        retry=retry,
        quota=quota,
        timeout=timeout,
        max_failures=max_failures,
        budget=budget,
        reuse=reuse,
        strict=strict,
        progress=progress,
        report=report,
    )
    return launch(image, settings)


def _takes_what_start_takes(
    like: Callable[P, Run],
) -> Callable[[Callable[[Any, Settings], R]], Callable[P, R]]:
    """Give a function of an image and its settings the arguments of `start`."""

    def decorate(function: Callable[[Any, Settings], R]) -> Callable[P, R]:
        asked = signature(like)

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = asked.bind(*args, **kwargs)
            bound.apply_defaults()
            image = bound.arguments.pop("image")
            return function(image, Settings(**bound.arguments))

        # Read by `inspect.signature`, and with it by help() and by notebooks.
        returned = signature(function).return_annotation
        wrapper.__signature__ = asked.replace(return_annotation=returned)  # type: ignore[attr-defined] # any function has room for it
        wrapper.__annotations__ = like.__annotations__ | {"return": returned}
        return wrapper

    return decorate


@_takes_what_start_takes(start)
def analyze(image: Any, settings: Settings) -> Result:
    """Analyse one image and wait for the result; arguments as for `tilevision.start`.

    Returns
    -------
    Result

    Raises
    ------
    TilevisionError
        One line that says what is wrong and the remedy. A run that fails half way has kept
        every finished tile: the same call goes on from there.
    KeyboardInterrupt
        Likewise.
    """
    run = launch(image, settings, waits=True)
    try:
        result = run.result()
    except BaseException as error:
        # Nobody holds this run to resume it; what is in flight is kept by its commit.
        run.cancel()
        if isinstance(error, KeyboardInterrupt) and settings.checkpoint is not None:
            raise KeyboardInterrupt(
                f"run {run.id} was interrupted; its finished tiles are kept, and the same call "
                "goes on from there"
            ) from None
        raise
    if result.status in ("partial", "stopped"):
        why = result.first_failure or f"{result.facts.reason}."
        warnings.warn(f"{result.coverage} {why}", stacklevel=3)
    return result


@_takes_what_start_takes(start)
def plan(image: Any, settings: Settings) -> Plan:
    """Say what `tilevision.start` would do with the same arguments; nothing runs.

    Returns
    -------
    Plan
        The tiles, which of them are stored already, and what should be known before.
    """
    with open_checkpoint(settings.checkpoint) as checkpoint:
        return make_plan(image, settings, resolve_stages(settings), checkpoint)


def launch(
    image: Any,
    settings: Settings,
    *,
    waits: bool = False,
    manifest: dict[str, Any] | None = None,
    show: Callable[[Plan, Bus], None] | None = None,
    stages: Stages | None = None,
    batch: str = "",
) -> Run:
    """Plan, then start the run's thread.

    Parameters
    ----------
    image, settings
    waits : bool
        Whether the caller will wait for the run.
    manifest : dict, optional
        Of the run to go on with; None: a new one.
    show : callable, optional
        Shows the progress, of which several runs have one.
    stages : Stages, optional
        As `resolve_stages` found them for another image; None: they are found now.
    batch : str
        Id of the run of many images that this one is part of.
    """
    stages = stages or resolve_stages(settings)
    if settings.min_score is None:
        settings = replace(settings, min_score=stages.min_score)
    with open_checkpoint(settings.checkpoint) as checkpoint:
        decided = make_plan(image, settings, stages, checkpoint)
    if manifest is not None:
        check_same_work(manifest, decided)
    run_id, bus = manifest["id"] if manifest else new_run_id(), Bus()
    if waits if settings.progress is None else settings.progress:
        (show or _show_progress)(decided, bus)
    conductor = Conductor(run_id, decided, settings, bus)
    told = manifest or _manifest(run_id, image, decided, settings)
    told |= {"batch": batch} if batch else {}
    return Run(conductor, bus, Session(settings.checkpoint, run_id, told, bus))


def _show_progress(decided: Plan, bus: Bus) -> None:
    bar = ProgressBar(decided.name, len(decided.tiles) - len(decided.skipped))
    for note in decided.notes:
        bar.note(note)

    def listen(event: Event) -> None:
        bar(event)
        if isinstance(event, RunChanged) and event.status in ENDED:
            bar.close()

    bus.subscribe(listen)


def _manifest(run_id: str, image: Any, decided: Plan, settings: Settings) -> dict[str, Any]:
    """Return what another process needs to list, follow or go on with the run."""
    return {
        "id": run_id,
        "started": time.time(),
        "image": decided.name,
        "size": list(decided.source.size),
        "model": decided.stages.asked.name,
        "n_tiles": len(decided.tiles),
        "versions": {"tilevision": version("tilevision"), "python": platform.python_version()},
        **remember(image, decided, settings),
    }
