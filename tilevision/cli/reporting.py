"""How ``tilevision run`` prints results: text for people, or one line of JSON per image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilevision.cli.failing import warn
from tilevision.display import printable

if TYPE_CHECKING:
    from tilevision.batch.many import Analysed, Many
    from tilevision.result import Result

__all__ = ["Printer"]

SHOWN_FAILURES = 3
SHOWN_CLASSES = 20


class Printer:
    """Prints results on standard output.

    Parameters
    ----------
    as_json : bool
        One JSON object a line and image, instead of words.
    quiet : bool
        No words; JSON that was asked for is still printed.
    """

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self._as_json = as_json
        self._quiet = quiet

    def result(self, result: Result, saved: Sequence[Path]) -> None:
        """Print one result, and the files it was saved to."""
        if self._as_json:
            self._line(facts(result) | {"files": [str(path) for path in saved]})
        elif not self._quiet:
            self._say(f"{result.name}: {result.status}. {result.summary}")
            self._classes(result.classes)
            for path in saved:
                self._say(f"Wrote {path}.")
        _warn_of_failures(result)

    def one(self, one: Analysed) -> None:
        """Print one of many results as JSON, where that was asked for."""
        if not self._as_json:
            return
        if one.result is not None:
            files = [str(one.file)] if one.file is not None else []
            self._line(facts(one.result) | {"files": files})
        else:
            row = one.row
            self._line({"image": row.image, "status": row.status, "error": row.error})

    def many(self, many: Many) -> None:
        """Print a table with a row per image, and for each that is not complete the reason."""
        from tilevision.batch.batch import statement

        rows = list(many.rows.values())
        if not self._as_json and not self._quiet:
            import pandas as pd

            table = pd.DataFrame(map(asdict, rows)).drop(columns="error")
            self._say(table.to_string(index=False))
        for row in rows:
            if row.error:
                warn(f"{row.image}: {row.status}. {row.error}")
        line = f"Run {many.id}: {statement(rows)}"
        if not many.complete:
            warn(f"{line} The same command tries the others again.")
        elif not self._as_json and not self._quiet:
            self._say(line)
        if not self._as_json and not self._quiet:
            self._classes(many.classes)
        if many.summary is not None and not self._as_json and not self._quiet:
            self._say(f"Wrote {many.summary.parent} ({many.summary.name} is this table).")

    def cut_short(self, many: Many) -> None:
        """Print how many images were finished when the command was cut short."""
        from tilevision.batch.batch import statement

        warn(f"Run {many.id}: {statement(many.rows.values())}")

    def _classes(self, table: Mapping[str, int]) -> None:
        """Print the number of each class, which all files of the run have in common."""
        shown = [f"{number} {label}" for label, number in list(table.items())[:SHOWN_CLASSES]]
        more = len(table) - len(shown)
        if shown:
            rest = f" and {more:,} more" if more else ""
            self._say(f"Class numbers: {', '.join(shown)}{rest}.")

    def _line(self, facts: dict[str, Any]) -> None:
        click.echo(json.dumps(facts))

    def _say(self, text: str) -> None:
        click.echo(printable(text))


def facts(result: Result) -> dict[str, Any]:
    """Return the facts of a result that scripts need, as plain JSON types."""
    digest = result.digest
    return {
        "image": result.name,
        "status": result.status,
        "complete": result.complete,
        "detections": digest.n_findings,
        "counts": digest.counts,
        "classes": result.classes,
        "tiles": digest.n_tiles,
        "analysed": digest.n_analysed,
        "restored": result.facts.restored,
        "failed": digest.n_failed,
        "area_share": round(digest.analysed_share, 6),
        "seconds": round(result.facts.seconds, 3),
        "run": result.run_id,
        "summary": result.summary,
    }


def _warn_of_failures(result: Result) -> None:
    """Say why tiles failed: each reason once, the first few."""
    if result.complete:
        return
    failed = result.failed
    first = failed.drop_duplicates("error").head(SHOWN_FAILURES)
    for tile, attempts, error in zip(first["id"], first["attempts"], first["error"], strict=True):
        warn(f"{result.name}: tile {tile} failed after {attempts} attempts: {error}")
    reason = f" ({result.facts.reason})" if result.facts.reason else ""
    warn(f"{result.name}: {result.coverage}{reason} The same command tries these again.")
