"""Scores and counts as tables, in text and for a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from tilevision.plot import shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SHOWN_ROWS", "html_table", "no_class_in_both", "text_table"]

SHOWN_ROWS = 20
_NAMED = 5


def text_table(table: pd.DataFrame) -> str:
    """Return a table with one row a class for a terminal; labels may be untrusted text."""
    told, more = _told(table)
    lines: str = told.to_string(index=False)
    return f"{lines}\n{more}" if more else lines


def html_table(title: str, lines: Iterable[str], table: pd.DataFrame) -> str:
    """Return a title, sentences and a table for a notebook; all text may be untrusted."""
    told, more = _told(table)
    head = "".join(f"<th{_left(i)}>{escape(str(name))}</th>" for i, name in enumerate(told))
    rows = "".join(
        f"<tr>{''.join(f'<td{_left(i)}><bdi>{escape(cell)}</bdi></td>' for i, cell in line)}</tr>"
        for line in (list(enumerate(row)) for row in told.to_numpy().tolist())
    )
    words = "".join(f"<p>{escape(line)}</p>" for line in lines)
    rest = f"<p>{escape(more)}</p>" if more else ""
    return (
        f"<div><p><strong>{escape(title)}</strong></p>{words}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}</div>"
    )


def no_class_in_both(found: Iterable[str], other: Iterable[str], whose: tuple[str, str]) -> str:
    """Return a sentence where no class is on both sides, though there are classes on either.

    Parameters
    ----------
    found, other : iterable of str
        The classes of either side.
    whose : tuple of str
        What each has, as in ``("found", "truth has")``.
    """
    sides = list(dict.fromkeys(found)), list(dict.fromkeys(other))
    if not all(sides) or set(sides[0]) & set(sides[1]):
        return ""
    told = map(_listed, sides)
    each = ", ".join(f"{words} {names}" for words, names in zip(whose, told, strict=True))
    return f"No class is in both: {each}."


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(repr(shown(name)) for name in names[:_NAMED])
    more = len(names) - _NAMED
    return f"{told} and {more:,} more" if more > 0 else told


def _told(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the first rows and the last, as text, and how many are left out."""
    import pandas as pd

    more = len(table) - SHOWN_ROWS - 1
    if more > 0:
        table = pd.concat([table.head(SHOWN_ROWS), table.tail(1)])
    told = pd.DataFrame({name: [_cell(name, x) for x in table[name]] for name in table})
    return told, f"{more:,} more classes are in to_frame()." if more > 0 else ""


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return shown(value) or "(no name)"
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        return f"{value:+.1%}" if name == "count_error" else f"{value:.3f}"
    return f"{value:,}"


def _left(column: int) -> str:
    return ' style="text-align:left"' if column == 0 else ""
