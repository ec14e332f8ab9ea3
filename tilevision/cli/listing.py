"""``tilevision runs`` and ``tilevision models``: what is there."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from tilevision.cli.failing import printable

if TYPE_CHECKING:
    from tilevision.events import RunSummary
    from tilevision.modelspec.registry import Registered

__all__ = ["models", "runs"]


@click.command()
@click.option(
    "--checkpoint", default=".tilevision", show_default=True, help="Folder of finished tiles."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per run.")
def runs(checkpoint: str, as_json: bool) -> None:
    """List the runs of a checkpoint folder, the latest first."""
    from tilevision.events import list_runs

    found = list_runs(checkpoint)
    rows = [_run_row(run, _status(checkpoint, run)) for run in found]
    if as_json:
        _print_lines(rows)
    elif rows:
        _print_table(rows)
    else:
        click.echo(f"no runs in {checkpoint}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per model.")
def models(as_json: bool) -> None:
    """List the models that can be named, and the extra each needs."""
    import tilevision as tv

    rows = [_model_row(known) for known in tv.models()]
    if as_json:
        _print_lines(rows)
    else:
        _print_table(rows)


def _status(checkpoint: str, run: RunSummary) -> str:
    """Return the run's status; one that says it is going on though nobody holds it was cut off."""
    from tilevision.checkpoint import run_owner

    going_on = run.status in ("running", "paused")
    if going_on and run_owner(checkpoint, run.id) is None:
        return "interrupted"
    return run.status


def _run_row(run: RunSummary, status: str) -> dict[str, Any]:
    done = run.counts.get("done", 0) + run.counts.get("restored", 0)
    return {
        "run": run.id,
        "started": f"{datetime.fromtimestamp(run.started).astimezone():%Y-%m-%d %H:%M}",
        "image": run.image,
        "model": run.model,
        "status": status,
        "tiles": sum(run.counts.values()),
        "analysed": done,
        "failed": run.counts.get("failed", 0),
    }


def _model_row(known: Registered) -> dict[str, Any]:
    return {
        "model": known.name,
        "stages": ", ".join(known.stages),
        "summary": known.summary,
        "needs": f"tilevision[{known.extra}]" if known.extra else "",
        "installed": known.installed,
    }


def _print_lines(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        click.echo(json.dumps(row))


def _print_table(rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    click.echo(printable(pd.DataFrame(rows).to_string(index=False)))
