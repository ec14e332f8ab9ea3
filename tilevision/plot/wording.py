"""The text of a result's figure: its heading and the entries of its legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tilevision.colouring import class_colours
from tilevision.findings import Findings
from tilevision.grid import Tile
from tilevision.plot.labels import drawable
from tilevision.plot.palette import STATUSES, STYLES
from tilevision.status import TileStatus

__all__ = [
    "MAX_CLASSES",
    "OUTLINE",
    "Heading",
    "Key",
    "class_keys",
    "colours_of",
    "heading_for",
    "region_keys",
    "status_keys",
]

OUTLINE = "#FFFFFF"

MAX_CLASSES = 8


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of the legend: a line for a class or a region, a patch for a tile status."""

    words: str
    colour: str
    hatch: str = ""
    fill: float = 0.0
    line: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """The lines above the picture; `warning` sets the note apart."""

    title: str = ""
    note: str = ""
    warning: bool = False

    @property
    def n_lines(self) -> int:
        """Number of lines to draw."""
        return bool(self.title) + bool(self.note)


def heading_for(title: str, note: str, tiles: Sequence[tuple[Tile, str]]) -> Heading:
    """Return the heading; if tiles are missing and there is no note, it says so."""
    missing = sum(not TileStatus(status).finished for _, status in tiles)
    if missing and not note:
        note = f"INCOMPLETE: {missing:,} of {len(tiles):,} tiles were not analysed."
    return Heading(title, note, warning=missing > 0)


def colours_of(findings: Findings) -> dict[str, str]:
    """Return the colour of each class, the most frequent class first, ties by name."""
    counts = _counts(findings)
    return class_colours(sorted(counts, key=lambda label: (-counts[label], label)))


def status_keys(tiles: Sequence[tuple[Tile, str]]) -> list[Key]:
    """Return a legend entry with the count of each tile status."""
    counts = Counter(status for _, status in tiles)
    keys = []
    for status in filter(counts.get, STATUSES):
        style, noun = STYLES[status], "tile" if counts[status] == 1 else "tiles"
        words = f"{counts[status]:,} {noun} {status}"
        keys.append(Key(words, style.colour, style.hatch, style.fill))
    return keys


def region_keys(outline: Sequence[object]) -> list[Key]:
    """Return a legend entry for the outline of a region, if there is one."""
    return [Key("region", OUTLINE, line=True, dashed=True)] if outline else []


def class_keys(findings: Findings) -> list[Key]:
    """Return a legend entry for each of the most frequent classes, and one for the rest."""
    counts, colours = _counts(findings), list(colours_of(findings).items())
    keys = [
        Key(f"{counts[label]:,} {drawable(label, 24)}", colour, line=True)
        for label, colour in colours[:MAX_CLASSES]
    ]
    if len(colours) > MAX_CLASSES:
        rest = sum(counts[label] for label, _ in colours[MAX_CLASSES:])
        keys.append(Key(f"{rest:,} in {len(colours) - MAX_CLASSES} more classes", "#999999"))
    return keys


def _counts(findings: Findings) -> Counter[str]:
    return Counter(str(label) for label in findings.labels)
