"""``tilevision runs`` and ``tilevision models``: what is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from tilevision.cli.failing import printable

if TYPE_CHECKING:
    from tilevision.modelspec.registry import Registered

__all__ = ["models", "runs"]


@click.command()
@click.option(
    "--checkpoint", default=".tilevision", show_default=True, help="Folder of finished tiles."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per run.")
def runs(checkpoint: str, as_json: bool) -> None:
    """List the runs of a checkpoint folder, the latest first."""
    import tilevision as tv

    found = tv.runs(checkpoint)
    found["started"] = [f"{when:%Y-%m-%d %H:%M:%S%z}" for when in found["started"]]
    if found.empty:
        click.echo(f"no runs in {checkpoint}", err=as_json)
    else:
        _print(found.to_dict("records"), as_json=as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per model.")
def models(as_json: bool) -> None:
    """List the models that can be named, and the extra each needs."""
    import tilevision as tv

    _print([_model_row(known) for known in tv.models()], as_json=as_json)


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
