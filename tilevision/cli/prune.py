"""``tilevision runs --prune``: old runs and tiles are removed, what is at work is kept."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from tilevision.errors import RunError

__all__ = ["days", "prune_checkpoint"]

DAY = 24 * 3600.0


def days(text: str) -> float:
    """Return the number that ``30`` or ``30d`` stands for."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*d?\s*", text)
    if match is None:
        raise click.UsageError(f"--prune {text!r} is not understood; give days, as 30 or 30d")
    return float(match[1])


def prune_checkpoint(folder: str, age: float, *, ask: bool) -> None:
    """Remove runs and stored tiles older than `age` days, and say what was removed.

    While a run is at work in the folder, stored tiles are kept: it may rely on any of them.

    Raises
    ------
    CheckpointError
        If what lies in the folder cannot be opened.
    """
    from tilevision.checkpoint import Checkpoint, prune_runs
    from tilevision.events import list_runs, together

    if not (Path(folder).expanduser() / "meta.json").is_file():
        click.echo(f"there is nothing to prune in {folder}")
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
    if ask and not click.confirm(question):
        click.echo("nothing was removed")
        return
    removed = set(prune_runs(folder, before, parts))
    gone = sum(run.id in removed for run in together(runs))
    if at_work:
        busy = ", ".join(run_id for run_id in at_work if run_id not in parts)
        tiles = f"stored tiles are kept while {busy} is at work"
    else:
        with Checkpoint.open(folder) as checkpoint:
            tiles = f"{checkpoint.prune(before):,} stored tiles and stages removed"
    click.echo(f"{_runs(gone)} removed; {tiles}")


def _is_at_work(folder: str, run_id: str) -> bool:
    from tilevision.checkpoint import run_owner

    try:
        return run_owner(folder, run_id) is not None
    except RunError:  # a file of another name than runs have; it is left alone
        return False


def _runs(n: int) -> str:
    return f"{n:,} run{'' if n == 1 else 's'}"
