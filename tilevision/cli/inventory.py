"""``tilevision runs`` and ``tilevision models``: what is there, and what may go."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from tilevision import checks
from tilevision.cli.following import follow_run
from tilevision.cli.options import checkpoint_option
from tilevision.display import printable
from tilevision.errors import RunError

if TYPE_CHECKING:
    from tilevision.catalogue import Registered

__all__ = ["days", "models", "prune_checkpoint", "runs"]


DAY = 24 * 3600.0


def days(text: str) -> float:
    """Return the number that ``30`` or ``30d`` stands for."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*d?\s*", text)
    if match is None:
        raise click.UsageError(
            f"--prune {text!r} is not a number of days. Give 30 or 30d, for example."
        )
    return float(match[1])


def _agreed(question: str) -> bool:
    try:
        return click.confirm(question)
    except click.Abort as left:
        if not isinstance(left.__context__, EOFError):
            raise
        click.echo("")
        raise click.UsageError(
            "Nothing was removed, since nobody is there to answer. Give --yes to remove without "
            "asking."
        ) from None


def prune_checkpoint(folder: str, age: float, *, ask: bool) -> None:
    """Remove runs and stored tiles older than `age` days, and say what was removed.

    While a run is in progress in the folder, stored tiles are kept: it may need any of them.

    Raises
    ------
    CheckpointError
        If the checkpoint in the folder cannot be opened.
    """
    from tilevision.checkpoint import Checkpoint, prune_runs
    from tilevision.events import list_runs, together

    if not (checks.path("checkpoint", folder) / "meta.json").is_file():
        click.echo(f"There is nothing to remove in {folder}.")
        return
    before = max(0.0, time.time() - age * DAY)
    runs = list_runs(folder)
    at_work = [run.id for run in runs if _is_at_work(folder, run.id)]
    # Many images are one run: each of them stays as long as that does.
    young = {run.id for run in runs if run.changed >= before or run.id in at_work}
    parts = {run.id for run in runs if run.batch in young}
    old = [run.id for run in together(runs) if run.id not in young]
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(before))
    question = f"Remove {_runs(len(old))} and every stored tile from before {day} in {folder}?"
    if ask and not _agreed(question):
        click.echo("Nothing was removed.")
        return
    removed = set(prune_runs(folder, before, parts))
    gone = sum(run.id in removed for run in together(runs))
    if at_work:
        busy = ", ".join(run_id for run_id in at_work if run_id not in parts)
        tiles = f"stored tiles are kept while {busy} is running"
    else:
        with Checkpoint.open(folder) as checkpoint:
            tiles = f"{checkpoint.prune(before):,} stored tiles and stages removed"
    click.echo(f"{_runs(gone)} removed; {tiles}.")


def _is_at_work(folder: str, run_id: str) -> bool:
    from tilevision.checkpoint import run_owner

    try:
        return run_owner(folder, run_id) is not None
    except RunError:  # a file of another name than runs have; it is left alone
        return False


def _runs(n: int) -> str:
    return f"{n:,} run{'' if n == 1 else 's'}"


@click.command()
@checkpoint_option
@click.option(
    "--follow",
    metavar="ID",
    help="Follow a run until it ends. Ctrl-C stops following; the run continues.",
)
@click.option("--images", "of", metavar="ID", help="List the images in a multi-image run.")
@click.option(
    "--prune",
    metavar="DAYS",
    help="Remove runs and stored tiles older than this many days (30 or 30d).",
)
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per run, image or event."
)
@click.pass_context
def runs(
    ctx: click.Context,
    /,
    checkpoint: str,
    follow: str | None,
    of: str | None,
    prune: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """List the runs in a checkpoint folder, the latest first; follow one, or remove old ones."""
    if sum(asked is not None for asked in (follow, of, prune)) > 1:
        raise click.UsageError(
            "--follow, --images and --prune exclude each other. Give only one of them."
        )
    if follow is not None:
        ctx.exit(follow_run(follow, checkpoint, as_json=as_json))
    elif prune is not None:
        prune_checkpoint(checkpoint, days(prune), ask=not yes)
    elif of is not None:
        _list_images(of, checkpoint, as_json=as_json)
    else:
        _list(checkpoint, as_json=as_json)


def _list_images(run_id: str, checkpoint: str, *, as_json: bool) -> None:
    import tilevision as tv

    rows = tv.runs(checkpoint, images=run_id)
    if as_json:
        _print(rows.to_dict("records"), as_json=True)
        return
    _print(rows.drop(columns="error").to_dict("records"), as_json=False)
    for image, error in zip(rows["image"], rows["error"], strict=True):
        if error:
            click.echo(printable(f"{image}: {error}"))


def _list(checkpoint: str, *, as_json: bool) -> None:
    import tilevision as tv

    found = tv.runs(checkpoint)
    found["started"] = [f"{when:%Y-%m-%d %H:%M:%S%z}" for when in found["started"]]
    if found.empty:
        click.echo(f"There are no runs in {checkpoint}.", err=as_json)
    else:
        _print(found.to_dict("records"), as_json=as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per model.")
def models(as_json: bool) -> None:
    """List the models that --model knows by name, and the extra each one needs."""
    import tilevision as tv

    _print([_model_row(known) for known in tv.models()], as_json=as_json)
    if not as_json:
        click.echo(
            "\nA model can also be weights.onnx, a .pt file of Ultralytics or PyTorch, a folder "
            "saved by transformers, hf:owner/repository[/FILE.onnx][@REVISION] of the Hugging Face "
            "Hub, or FILE.py:FUNCTION."
        )


def _model_row(known: Registered) -> dict[str, Any]:
    return {
        "model": known.name,
        "stages": ", ".join(known.stages),
        "summary": known.summary,
        "needs": f"tilevision[{known.extra}]" if known.extra else "",
        "installed": known.installed,
    }


def _print(rows: Sequence[Mapping[Any, Any]], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    import pandas as pd

    click.echo(printable(pd.DataFrame(rows).to_string(index=False)))
