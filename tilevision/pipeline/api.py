"""The front door: `start`, `analyze` and `plan`, and how a run is put together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from tilevision.display import loaded
from tilevision.events import Bus, Event, RunChanged
from tilevision.pipeline.conductor import Conductor
from tilevision.pipeline.control import Control, check_wait
from tilevision.pipeline.manifest import check_same_work, describe_run
from tilevision.pipeline.planning import Plan, Stages, Store, make_plan, resolve_stages
from tilevision.pipeline.progress import ProgressBar, log_events
from tilevision.pipeline.run import Run, Session, new_run_id, open_checkpoint, opened
from tilevision.pipeline.runner import expect, expect_for, stop_expecting
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT, Settings
from tilevision.pipeline.tiling import uncollected
from tilevision.result import Result
from tilevision.schedule import Quota, Retry
from tilevision.status import RunStatus

__all__ = ["analyze", "check_cluster", "launch", "plan", "start"]

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
    max_score: float | None = None,
    min_area: float | None = None,
    max_area: float | None = None,
    classes: Sequence[str] | None = None,
    moderation: Any = None,
    synthesis: Any = "summary",
    merge: str = "seam",
    class_agnostic: bool = False,
    match_metric: str = "iou",
    match_threshold: float = 0.5,
    blend: str | None = None,
    margin: int | None = None,
    thresholds: Mapping[str, float] | None = None,
    unsure: float | None = None,
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
    """Start a run and return immediately.

    The image is opened and the grid planned before this returns, so invalid arguments raise
    here; everything else happens on the run's own thread.

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
        Whether to add one tile: the whole image shrunk to the size of a tile, so that objects
        larger than a tile are seen whole.
    mpp : float or (float, float), optional
        Microns per pixel, for files that do not state them.
    region : optional
        The part of the image to analyse: ``(x0, y0, x1, y1)``, points ``(k, 2)`` of a polygon
        or a shapely one, in full-resolution pixels; GeoJSON, its text or its file (longitude and
        latitude where the image has map coordinates; features with names are counted one by one
        in `Result.regions`); a mask ``(h, w)`` over the whole image
        or its file; ``"tissue"``; a list of several. Tiles that do not touch it are skipped;
        a detection counts if the centre of its box lies in the region.
    min_score, classes : optional
        Applied before the merge, without inference. Without `min_score`, the model's own minimum
        applies where it has one; 0 shows everything that was recorded.
    max_score, min_area, max_area : float, optional
        Limits of the merged objects; areas in µm² where microns per pixel are known, in m² on a
        map, else in square pixels.
    moderation : str or callable, optional
        Model that is asked with an RGB thumbnail before any tile runs. The built-in limits always
        apply.
    synthesis : str or callable
        Model that is asked with a digest and a thumbnail after the merge.
    merge : str
        ``"seam"``, ``"nms"``, ``"nmm"``, ``"wbf"`` or ``"none"``.
    class_agnostic : bool
        True if detections of different classes may be one object, across tiles and within one.
    match_metric : str
        ``"iou"`` or ``"ios"`` (of the smaller): how overlap is measured for nms, nmm and wbf, and
        for several names of one object; ``"seam"`` compares what two tiles saw of their zone.
    match_threshold : float
        Overlap from which two are one there, above 0, up to 1.
    blend : str, optional
        Of maps: ``"smooth"`` (default), ``"linear"``, ``"core"`` or ``"mean"``; see
        `Result.with_`, which changes this and the next three without inference.
    margin : int, optional
        Of maps: pixels along inner edges of tiles that count only where no other tile has any.
    thresholds : mapping of str to float, optional
        Of maps of probabilities: the share from which a class counts.
    unsure : float, optional
        Of maps of probabilities: the share below which the best class is none.
    checkpoint : path-like or None
        Folder where each tile's findings are kept; None keeps nothing.
    client : distributed.Client, optional
        Default: the current one, else a local cluster.
    workers : int, optional
        Number of workers of the local cluster; default one per processor.
    concurrency : int, optional
        Tiles in flight; default automatic.
    batch_size : int, optional
        Tiles to a task; default automatic.
    device : str
        Where the model runs: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:0"``, ``"mps"``,
        ``"openvino"``, ``"tensorrt:0"``. A device that is not there is an error.
    retry : Retry
    quota : Quota, optional
    timeout : float, optional
        Seconds after which a tile is given up; loading the model is not counted.
    max_failures : int or float, optional
        Number of failed tiles that stops the run: a count, or a fraction below 1.
    budget : float, optional
        Maximum cost of all calls, in the currency of the models' prices; counted from 0 again
        when a run is resumed. No tile is started that would exceed it at the mean cost of an
        attempt so far; the run then stops, and tiles in flight are kept. The cost can exceed the
        budget only as far as tiles in flight cost more than the mean.
    reuse : bool
        False: compute every tile again, and replace what is stored.
    strict : bool
        True: `Run.result` raises `IncompleteRun` if tiles failed.
    progress : bool, optional
        Whether to draw a progress bar on standard error. Default: where the call waits
        (`analyze`), not where it returns immediately (`start`).
    report : path-like, optional
        HTML file for Dask's performance report about the tiles that ran.

    Returns
    -------
    Run

    Raises
    ------
    SourceError, GridError, ModelError, CheckpointError, RunError
        If an argument is invalid, or image or model cannot be used; one line that says why. Errors
        about an argument's value are `ValueError` as well.
    """
    settings = Settings(
        model=model, grid=grid, resolution=resolution, full_image=full_image, mpp=mpp,
        region=region, min_score=min_score, max_score=max_score, min_area=min_area,
        max_area=max_area, classes=classes, moderation=moderation,
        synthesis=synthesis, merge=merge, class_agnostic=class_agnostic,
        match_metric=match_metric, match_threshold=match_threshold,
        blend=blend, margin=margin, thresholds=thresholds, unsure=unsure,
        checkpoint=checkpoint, client=client, workers=workers, concurrency=concurrency,
        batch_size=batch_size, device=device, retry=retry, quota=quota, timeout=timeout,
        max_failures=max_failures, budget=budget, reuse=reuse, strict=strict,
        progress=progress, report=report,
    )  # fmt: skip
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
        One line: what is wrong, and the remedy. A run that fails half way has kept every
        finished tile; the same call continues from there.
    KeyboardInterrupt
        Likewise.
    """
    run = launch(image, settings, waits=True)
    try:
        result = run.result()
    except BaseException as error:
        # Nobody has this run to resume it; its commit keeps what is in flight.
        run.cancel()
        if isinstance(error, KeyboardInterrupt) and settings.checkpoint is not None:
            raise KeyboardInterrupt(
                f"Run {run.id} was interrupted. Its finished tiles are kept; the same call "
                "continues from there."
            ) from None
        raise
    if result.status in (RunStatus.PARTIAL, RunStatus.STOPPED):
        why = result.first_failure or result.facts.reason
        warnings.warn(f"{result.coverage} {why}", stacklevel=3)
    return result


@_takes_what_start_takes(start)
def plan(image: Any, settings: Settings) -> Plan:
    """Return what `tilevision.start` would do with the same arguments; nothing runs.

    Returns
    -------
    Plan
        The tiles, which of them are stored already, and what to know before starting.
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
    store: Store | None = None,
) -> Run:
    """Plan, put the run together, and start its thread.

    Parameters
    ----------
    image, settings
    waits : bool
        Whether the caller will wait for the run.
    manifest : dict, optional
        Of the run to resume; None: a new run.
    show : callable, optional
        Shows the progress in place of the run's own bar.
    stages : Stages, optional
        As `resolve_stages` found them for another image; None: they are found now.
    batch : str
        Id of the multi-image run that this one is part of.
    store : Checkpoint, optional
        The checkpoint, opened by the caller, who closes it; None: the run opens and closes it.
    """
    check_cluster(settings, waits=waits)
    stages = stages or resolve_stages(settings)
    if settings.min_score is None:
        settings = replace(settings, min_score=stages.min_score)
    expect(image, settings, stages)
    try:
        with opened(settings.checkpoint, store) as checkpoint:
            decided = make_plan(image, settings, stages, checkpoint)
        if manifest is not None:
            check_same_work(manifest, decided)
        expect_for(decided, settings)
    except BaseException:
        stop_expecting()
        raise
    loaded()
    run_id, control = manifest["id"] if manifest else new_run_id(), Control(Bus())
    if waits if settings.progress is None else settings.progress:
        (show or partial(_show_progress, left=lambda: control.estimate().seconds))(
            decided, control.bus
        )
    control.bus.subscribe(log_events(run_id, decided.name))
    described = describe_run(run_id, image, decided, settings, batch=batch)
    with uncollected():
        conductor = Conductor(decided, settings, described, control)
    session = Session(conductor, settings, described, control, store)
    return Run(run_id, decided, settings, control, session)


def check_cluster(settings: Settings, *, waits: bool) -> None:
    """Refuse a Dask client that the run could not use, or not while its caller waits for it.

    Raises
    ------
    ClusterError
    """
    if settings.client is not None:
        from tilevision.cluster import check_client

        check_client(settings.client)
    if waits:
        check_wait(settings.client, settings.workers)


def _show_progress(decided: Plan, bus: Bus, left: Callable[[], float | None]) -> None:
    bar = ProgressBar(decided.name, len(decided.tiles) - len(decided.skipped), left)
    for note in decided.notes:
        bar.note(note)

    def listen(event: Event) -> None:
        bar(event)
        if isinstance(event, RunChanged) and RunStatus(event.status).ended:
            bar.close()

    bus.subscribe(listen)
