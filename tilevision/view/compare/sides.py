"""Two results of one image as layers of one picture."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from tilevision.evaluation.comparison import PARTS, WORDS, Comparison
from tilevision.findings import Findings
from tilevision.plot import class_colours, shown
from tilevision.view.picture.boxes import BoxChunk, BoxLayer
from tilevision.view.picture.caption import MAX_CLASSES, key_of

__all__ = ["DIFFERENCES", "WAYS", "Sides"]

DIFFERENCES = "differences"
WAYS = (DIFFERENCES, "swipe", "blink")
NAME_LIMIT = 60


class Sides:
    """What two results have in common and what they do not, as it is drawn.

    Parameters
    ----------
    comparison : Comparison

    Attributes
    ----------
    names : tuple of str
        What tells A and B apart; safe to show.
    words : str
        The counts, for the headline.
    notes : str
        How far they agree, and what makes that doubtful.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.names = tuple(
            shown(name, NAME_LIMIT) for name in (comparison.name_a, comparison.name_b)
        )
        agree = f"{comparison.agreement:.1%} agree"
        self.notes = " · ".join(shown(note, 300) for note in (agree, *comparison.notes))
        found = {
            "both": comparison.both_a,
            "only a": comparison.only_a,
            "only b": comparison.only_b,
        }
        self._counts = {part: len(rows) for part, rows in found.items()}
        self.words = " · ".join(f"{n:,} {WORDS[part]}" for part, n in self._counts.items())
        self._layers = (BoxLayer.of(comparison.a.findings), BoxLayer.of(comparison.b.findings))
        self._classes = [
            Counter(map(str, result.findings.labels)) for result in (comparison.a, comparison.b)
        ]
        self._parts = _of_parts(found)
        self._drawn: dict[tuple[str, frozenset[str]], tuple[BoxLayer, BoxLayer | None]] = {}

    def layers(self, way: str, hidden: frozenset[str]) -> tuple[BoxLayer, BoxLayer | None]:
        """Return what is drawn, and what in a second picture beside it.

        The same objects for the same arguments, so that nothing is drawn twice.

        Parameters
        ----------
        way : str
            One of `WAYS`.
        hidden : frozenset of str
            Keys of the legend's entries that are switched off.
        """
        if (way, hidden) not in self._drawn:
            if way == DIFFERENCES:
                seen = [key_of(part) not in hidden for part in PARTS]
                labels = self._parts.labels
                names = {name for i, name in enumerate(labels) if seen[i % len(PARTS)]}
                first, second = self._parts.showing(names.__contains__), None
            else:
                first, second = (
                    layer.showing(lambda label: key_of(label) not in hidden)
                    for layer in self._layers
                )
            self._drawn = {(way, hidden): (first, second)}
        return self._drawn[way, hidden]

    def legend(self, way: str) -> list[dict[str, Any]]:
        """Return the entries of the legend, as `tilevision.view.picture.caption.caption` has."""
        if way == DIFFERENCES:
            return [
                {"words": f"{n:,} {WORDS[part]}", "colour": PARTS[part][0], "key": key_of(part)}
                for part, n in self._counts.items()
            ]
        a, b = self._classes
        common = [label for label, _ in (a + b).most_common()]
        colours = class_colours(common)
        entries: list[dict[str, Any]] = [
            {
                "words": f"{shown(label, 30)}: {a[label]:,} in A, {b[label]:,} in B",
                "colour": colours[label],
                "key": key_of(label),
            }
            for label in common[:MAX_CLASSES]
        ]
        if len(common) > MAX_CLASSES:
            words = f"{len(common) - MAX_CLASSES:,} more classes"
            entries.append({"words": words, "colour": "#999999"})
        return entries


def _of_parts(found: dict[str, Findings]) -> BoxLayer:
    """Return one layer of all parts, whose labels are classes of a part, three to a class.

    What both have comes first, so that differences are drawn over it.
    """
    names = list(dict.fromkeys(str(label) for rows in found.values() for label in rows.labels))
    numbers = {name: len(PARTS) * i for i, name in enumerate(names)}
    chunks: list[BoxChunk] = []
    totals = np.zeros(len(PARTS) * len(names), dtype=np.int64)
    for part, rows in enumerate(found.values()):
        for chunk in BoxLayer.of(rows, names).chunks:
            labels = (chunk.labels * len(PARTS) + part).astype(np.int32)
            totals += np.bincount(labels, minlength=len(totals))
            chunks.append(chunk.relabelled(labels))
    return BoxLayer(
        chunks=tuple(chunks),
        labels=tuple(f"{name} · {WORDS[part]}" for name in numbers for part in PARTS),
        totals=tuple(totals.tolist()),
        palette=tuple(colour for _ in numbers for colour, _ in PARTS.values()),
    )
