"""``tilevision run``: one image or many, from the shell."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilevision import checks
from tilevision.cli.failing import ExitCode, resumable, warn
from tilevision.cli.options import (
    analysis_options,
    arguments,
    checkpoint_option,
    model_argument,
    stated,
    workers_option,
)
from tilevision.cli.reporting import Printer
from tilevision.errors import ModelError, RunError, SourceError
from tilevision.status import RunStatus, TileStatus

if TYPE_CHECKING:
    from tilevision.batch.many import Many
    from tilevision.pipeline import Run
    from tilevision.result import Result

__all__ = ["resume", "run", "wait"]

CLOSING_SECONDS = 15.0


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@analysis_options
@click.option(
    "--out",
    "outs",
    multiple=True,
    help="File to write; its suffix is the format: .geojson, .csv, .json, .coco.json, .gpkg, "
    ".parquet, .cvat.xml, .voc.xml, .label-studio.json, .yolo (a folder), … Can be repeated.",
)
@click.option(
    "--out-dir", help="Folder for one file per image; for many images also a summary table."
)
@click.option(
    "--format",
    "out_format",
    help="Format of the files in --out-dir: csv, coco, qupath, parquet, … [default: geojson]",
)
@click.option("--report", help="HTML file for the Dask performance report (single image only).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    images: tuple[str, ...],
    outs: tuple[str, ...],
    out_dir: str | None,
    out_format: str | None,
    report: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Analyse one image or many.

    An IMAGE can be a folder, a pattern in quotes, one page (scan.tif#page=3) or all pages
    (scan.tif#pages) of a file. The same command again continues where the last one stopped.
    """
    import tilevision as tv
    from tilevision.batch.imagenames import stands_for_many
    from tilevision.batch.many import Many
    from tilevision.pipeline.settings import Settings

    if out_format is not None and out_dir is None:
        raise click.UsageError("--format only applies together with --out-dir.")
    form = out_format or "geojson"
    printed = Printer(as_json=as_json, quiet=options["quiet"])
    folder = _folder(out_dir)
    asked = arguments(options, stated(ctx))
    if len(images) == 1 and not stands_for_many(images[0]):
        targets = _targets(images[0], outs, folder, form)
        started = tv.start(images[0], **asked, report=report)
        ctx.exit(_one(ctx, started, targets, printed, keeps=asked["checkpoint"] is not None))
    if outs:
        raise click.UsageError("--out names a single file. Give --out-dir for many images.")
    if report is not None:
        raise click.UsageError("--report only works for a single image. Leave it out for many.")
    keeps = not options["no_checkpoint"]
    several = images[0] if len(images) == 1 else images
    many = Many(several, Settings(**asked), folder, form)
    ctx.exit(_many(ctx, many, printed, keeps=keeps))


@click.command()
@click.argument("run_id", metavar="ID")
@checkpoint_option
@click.option("--image", help="The image, where its file has moved.")
@click.option("--model", help="FILE.py:FUNCTION, where the run used a function.")
@workers_option
@click.option("--out", "outs", multiple=True, help="File to write. Can be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def resume(
    ctx: click.Context,
    run_id: str,
    checkpoint: str,
    image: str | None,
    model: str | None,
    workers: int | None,
    outs: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Continue a run of one image or of many by the ID that `tilevision runs` lists.

    Finished tiles are restored, failed ones tried again. Many images are written where the run
    began to write them.
    """
    from tilevision.batch.collection import many_again, resume_run
    from tilevision.exporting import destination
    from tilevision.pipeline.manifest import find_manifest

    printer = Printer(as_json=as_json, quiet=quiet)
    given: dict[str, Any] = {"model": model_argument(model), "progress": not quiet}
    if workers is not None:
        given["workers"] = workers
    if "images" not in find_manifest(run_id, checkpoint):
        targets = [destination(Path(out)) for out in outs]
        again = resume_run(run_id, checkpoint, image=image, **given)
        ctx.exit(_one(ctx, again, targets, printer, keeps=True))
    for name in ("image", "outs"):
        if ctx.params[name]:
            raise click.UsageError(f"--{name.removesuffix('s')} names one image. Leave it out.")
    ctx.exit(_many(ctx, many_again(run_id, checkpoint, **given), printer, keeps=True))


def wait(ctx: click.Context, run: Run, *, keeps: bool) -> Result:
    """Return the result of `run`; if it ends early, exit with the line that resumes it."""
    with resumable(ctx, keeps=keeps):
        try:
            return run.result()
        except BaseException:
            run.cancel()  # tiles in flight are still kept, and the cluster stays in order
            run.wait(CLOSING_SECONDS)
            raise


def _one(
    ctx: click.Context, run: Run, targets: Sequence[Path], printer: Printer, *, keeps: bool
) -> ExitCode:
    _check_formats(run, targets)
    result = wait(ctx, run, keeps=keeps)
    _refuse_nothing(result)
    printer.result(result, [_saved(result, target) for target in targets])
    if ctx.params.get("report") and result.facts.restored == len(result.rows):
        warn("Every tile was stored already, so there is no performance report.")
    whole = result.complete and result.status == RunStatus.COMPLETE
    return ExitCode.COMPLETE if whole else ExitCode.MISSING


def _saved(result: Result, target: Path) -> Path:
    """Save a result, and say in a line what the format has no place for."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        path = result.save(target)
    for one in said:
        warn(str(one.message))
    return path


def _check_formats(run: Run, targets: Sequence[Path]) -> None:
    """End a run now whose image cannot be saved in a requested format, not after hours of work."""
    from tilevision.exporting import destination

    try:
        for target in targets:
            destination(target, metadata=run.source.metadata)
    except RunError:
        run.cancel()
        run.wait(CLOSING_SECONDS)
        raise


def _refuse_nothing(result: Result) -> None:
    """Raise if no tile at all could be analysed: then the model or the image is bad.

    Raises
    ------
    ModelError, SourceError
        With the first tile's reason.
    """
    reasons = [row.error.partition(": ") for row in result.rows if row.status == TileStatus.FAILED]
    kinds = {kind for kind, _, _ in reasons}
    if len(reasons) == len(result.rows) and len(kinds) == 1:
        for error in (ModelError, SourceError):
            if kinds == {error.__name__}:
                raise error(f"{result.name}: {reasons[0][2]}")


def _many(ctx: click.Context, many: Many, printer: Printer, *, keeps: bool) -> ExitCode:
    with resumable(ctx, keeps=keeps), closing(iter(many)) as analysed:
        try:
            for one in analysed:
                printer.one(one)
        except BaseException:
            analysed.close()
            printer.cut_short(many)
            raise
    printer.many(many)
    return ExitCode.COMPLETE if many.complete else ExitCode.MISSING


def _folder(out_dir: str | None) -> Path | None:
    if out_dir is None:
        return None
    from tilevision.files import check_folder, refusing

    folder = checks.path("--out-dir", out_dir)
    with refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder)
    return folder


def _targets(image: str, outs: Sequence[str], folder: Path | None, form: str) -> list[Path]:
    """Return the files to write; a misspelt suffix fails here, not after hours of work."""
    from tilevision.batch.imagenames import targets
    from tilevision.exporting import destination
    from tilevision.sources.addresses import file_name

    wanted = [destination(Path(path)) for path in outs]
    if folder is not None:
        wanted.extend(targets(folder, [file_name(image)], form).values())
    return wanted
