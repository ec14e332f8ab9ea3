"""The classes of a model, and how formats number them.

A class has one number in all files of a model, whatever was found in an image, filtered or merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import Findings, TileFindings

__all__ = ["categories", "class_numbers", "class_table", "positions"]


def class_table(
    names: Sequence[str | None], tile_findings: Iterable[TileFindings]
) -> dict[str, int]:
    """Return class name to number, in the order of the numbers.

    The model's own table where it states one; names that it does not list follow behind. Without a
    table, the numbers that the model gave in any tile, or where those are ambiguous or missing the
    positions of the names in sorted order.

    Parameters
    ----------
    names : sequence of (str or None)
        The model's class names by number.
    tile_findings : iterable of TileFindings
        Of all tiles, before anything is filtered or merged.
    """
    stated: dict[str, int] = {}
    for number, name in enumerate(names):
        if name is not None:
            stated.setdefault(name, number)
    pairs = {
        pair
        for seen in tile_findings
        for pair in zip(
            seen.findings.labels.tolist(), seen.findings.class_ids.tolist(), strict=True
        )
    }
    found = {(str(label), number) for label, number in pairs if str(label) not in stated}
    first = max(stated.values(), default=-1) + 1
    return dict(sorted((stated | _numbered(found, first)).items(), key=lambda item: item[1]))


def _numbered(pairs: set[tuple[str, int]], first: int) -> dict[str, int]:
    """Return label to number, `first` or higher: the model's, as far as those tell labels apart."""
    known = {label: number for label, number in sorted(pairs) if number >= first}
    ambiguous = len(set(known.values())) < len(known)
    several = len({pair for pair in pairs if pair[1] != -1}) > len(known)
    if ambiguous or several:
        known = {}
    following = max(known.values(), default=first - 1) + 1
    unknown = sorted({label for label, _ in pairs} - set(known))
    return known | {label: following + i for i, label in enumerate(unknown)}


def class_numbers(findings: Findings, table: Mapping[str, int]) -> NDArray[np.int64]:
    """Return a class number ``(n,)`` for each row: the model's own, else that of `table`."""
    numbers = np.array(findings.class_ids)
    missing = np.flatnonzero(numbers == -1)
    numbers[missing] = [table[str(findings.labels[i])] for i in missing]
    return numbers


def categories(table: Mapping[str, int]) -> dict[str, int]:
    """Return label to number for COCO: from 1 on, since some readers take 0 for the background.

    Numbers that begin with 0 are all raised by one.
    """
    raised = max(1 - min(table.values(), default=1), 0)
    return {label: number + raised for label, number in table.items()}


def positions(table: Mapping[str, int]) -> dict[str, int]:
    """Return label to position 0, 1, …, for formats that number without gaps."""
    return {label: i for i, label in enumerate(table)}
