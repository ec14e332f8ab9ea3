"""Corrections as a layer over findings: what became of each object, and how it is applied.

Pure: nothing here reads or writes a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.corrections.handobject import HandObject, Key, geometry_columns
from tilevision.findings import Findings, assembled
from tilevision.geometry import Box
from tilevision.overlaps import Bodies, bodies, geometries, meetings

__all__ = [
    "BY_HAND",
    "Applied",
    "CorrectionCounts",
    "CorrectionLayer",
    "HandEntry",
    "alike",
    "origins",
]

ALIKE = 0.5  # IoU from which an object of the same class is the one that was corrected
BY_HAND = "by_hand"  # the attribute that says what a person did to an object
WORDS = {"relabel": "re-labelled", "reshape": "reshaped", "accept": "accepted"}

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class HandEntry:
    """What became of one object.

    Parameters
    ----------
    id : str
    was : HandObject or None
        As the model gave it; None for an object that a person added.
    now : HandObject or None
        As the person wants it; None for one that was deleted.
    verbs : frozenset of str
        Of ``"relabel"``, ``"reshape"``, ``"accept"``: what was done to it.
    beside : bool
        Of an added object: whether one of its class that the model had found covered it then, so
        that the two are two.
    """

    id: str
    was: HandObject | None
    now: HandObject | None
    verbs: frozenset[str] = frozenset()
    beside: bool = False

    @property
    def said(self) -> str:
        """What a person did to it, in words."""
        if self.was is None:
            return "added"
        return " and ".join(words for verb, words in WORDS.items() if verb in self.verbs)

    @property
    def counted(self) -> list[str]:
        """Where it counts in `CorrectionCounts`."""
        if self.was is None:
            return ["added"]
        if self.now is None:
            return ["deleted"]
        changed = {"relabel": "relabelled", "reshape": "reshaped"}
        return [name for verb, name in changed.items() if verb in self.verbs] or ["accepted"]


@dataclass(frozen=True, slots=True)
class CorrectionCounts:
    """How many objects were corrected, in what is shown.

    Parameters
    ----------
    added, deleted, relabelled, reshaped, accepted : int
        One that was re-labelled and reshaped is in both; accepted are those left as they were.
    lost : int
        Corrections that no longer find their object: another model, or another merge, gives none
        of its class that overlaps it by half (IoU). They change nothing.
    elsewhere : int
        Corrections outside of what is shown: the region, the classes, the tiles analysed so far.
    unreadable : int
        Damaged lines of the file, which say nothing.
    """

    added: int = 0
    deleted: int = 0
    relabelled: int = 0
    reshaped: int = 0
    accepted: int = 0
    lost: int = 0
    elsewhere: int = 0
    unreadable: int = 0

    def __str__(self) -> str:
        named = {
            "added": self.added,
            "deleted": self.deleted,
            "re-labelled": self.relabelled,
            "reshaped": self.reshaped,
            "accepted": self.accepted,
        }
        told = [f"{n:,} {name}" for name, n in named.items() if n]
        text = f"Corrected by hand: {', '.join(told)}." if told else ""
        if self.lost == 1:
            text = f"{text} 1 correction no longer finds its object and changes nothing."
        elif self.lost:
            lost = f"{self.lost:,} corrections no longer find their objects"
            text = f"{text} {lost} and change nothing."
        if self.unreadable:
            lines = "1 line" if self.unreadable == 1 else f"{self.unreadable:,} lines"
            text = f"{text} {lines} of the file of corrections cannot be read."
        return text.strip()

    @property
    def made(self) -> int:
        """How many corrections had an effect on what is shown, or confirmed it."""
        return self.added + self.deleted + self.relabelled + self.reshaped + self.accepted

    def to_dict(self) -> dict[str, int]:
        """Return plain JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """Findings as a person corrected them.

    Parameters
    ----------
    findings : Findings
        What a person had a hand in says so in its attribute ``by_hand``.
    counts : CorrectionCounts
    """

    findings: Findings
    counts: CorrectionCounts


@dataclass(frozen=True, slots=True)
class Shown:
    """What is looked at: corrections outside of it are neither applied nor missed.

    Parameters
    ----------
    tiles : array (k, 4), optional
        Boxes of the tiles that were analysed; None: everything was.
    within : callable, optional
        ``within(points)`` returns which points ``(n, 2)`` lie in the region.
    min_score : float, optional
    classes : tuple of str, optional
        The limits below which the model's objects were left out before.
    """

    tiles: Floats | None = None
    within: Callable[[Floats], Mask] | None = None
    min_score: float | None = None
    classes: tuple[str, ...] | None = None

    def leaves_out(self, was: HandObject) -> bool:
        """Return True if score or class leave an object of the model's out."""
        low = self.min_score is not None and was.score is not None and was.score < self.min_score
        return low or not self.has(was.label)

    def has(self, label: str) -> bool:
        """Return True if a class is among those asked for."""
        return self.classes is None or label in self.classes

    def looked_at(self, points: Floats) -> Mask:
        """Return which points ``(n, 2)`` lie in a tile that was analysed."""
        seen = np.ones(len(points), dtype=bool)
        if self.tiles is not None:
            seen[:] = False
            seen[meetings(np.hstack([points, points]), self.tiles)[0]] = True
        return seen

    def asked_for(self, points: Floats) -> Mask:
        """Return which points ``(n, 2)`` lie in the region."""
        return np.ones(len(points), dtype=bool) if self.within is None else self.within(points)


EVERYTHING = Shown()


@dataclass(frozen=True, eq=False)
class CorrectionLayer:
    """The corrections of one image, each object once.

    Parameters
    ----------
    entries : tuple of HandEntry
        In the order in which they were first touched.
    position : int
        Changes with every correction, undo and redo.
    unreadable : int
        Damaged lines of the file.
    """

    entries: tuple[HandEntry, ...] = ()
    position: int = 0
    unreadable: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def labels(self) -> set[str]:
        """The classes that a person gave."""
        return {entry.now.label for entry in self.entries if entry.now is not None}

    @cached_property
    def _by_was(self) -> Mapping[Key, HandEntry]:
        return {entry.was.key: entry for entry in self.entries if entry.was is not None}

    @cached_property
    def _by_now(self) -> Mapping[Key, HandEntry]:
        return {entry.now.key: entry for entry in self.entries if entry.now is not None}

    def entry_of(self, one: HandObject, *, by_hand: bool) -> HandEntry | None:
        """Return the entry of an object of a result; None if nobody corrected it.

        `by_hand` says whether the result has it from a person, and not as the model gave it.
        """
        return (self._by_now if by_hand else self._by_was).get(one.key)

    def apply(self, found: Findings, shown: Shown = EVERYTHING) -> Applied:
        """Return `found` as it was corrected.

        An object is the one that was corrected if it has the same class and overlaps it by half or
        more (IoU of outlines or rotated boxes where both have them, else of boxes), one to one,
        the most alike first. So corrections survive another run and another merge.

        What was accepted, re-labelled or reshaped is there as the person left it, whatever limit
        of score `shown` has: a person outweighs a score. Where the model now finds an added object
        itself, that counts once.

        Parameters
        ----------
        found : Findings
            The model's, merged, in pixels of the image.
        shown : Shown
            What is looked at.
        """
        if not self.entries:
            return Applied(found, CorrectionCounts(unreadable=self.unreadable))
        places = self._places(shown)
        live = [entry for entry, here in zip(self.entries, places, strict=True) if here]
        known = [entry for entry in live if entry.was is not None]
        rows = _matches([entry.was for entry in known], found, None)
        taken = np.zeros(len(found), dtype=bool)
        taken[rows[rows >= 0]] = True
        added = [entry for entry in live if entry.was is None]
        twins = _matches([None if one.beside else one.now for one in added], found, taken)
        pairs = [*zip(known, rows.tolist(), strict=True), *zip(added, twins.tolist(), strict=True)]
        counts = Counter(elsewhere=len(self.entries) - len(live), unreadable=self.unreadable)
        return _corrected(found, pairs, shown, counts)

    def changed_since(self, before: CorrectionLayer) -> HandObject | None:
        """Return an object whose corrections differ, as it is now; None where it is gone."""
        old = {entry.id: entry for entry in before.entries}
        new = {entry.id: entry for entry in self.entries}
        for name in [*new, *old]:
            if old.get(name) is not new.get(name):
                return new[name].now if name in new else old[name].was
        return None

    def within(self, box: Box) -> CorrectionLayer:
        """Return the corrections of objects that reach into `box`, cut to it."""
        cut = [
            replace(
                entry,
                was=entry.was and entry.was.within(box),
                now=entry.now and entry.now.within(box),
            )
            for entry in self.entries
        ]
        here = tuple(entry for entry in cut if entry.was is not None or entry.now is not None)
        return CorrectionLayer(here, self.position, self.unreadable)

    def _places(self, shown: Shown) -> list[bool]:
        """Return which entries are within what is shown."""
        here = [entry.now or entry.was for entry in self.entries]
        first = [entry.was or entry.now for entry in self.entries]
        added = np.array([entry.was is None for entry in self.entries])
        keep = shown.asked_for(_centres(here)) & (shown.looked_at(_centres(first)) | added)
        named = [
            any(shown.has(one.label) for one in (entry.was, entry.now) if one is not None)
            for entry in self.entries
        ]
        places: list[bool] = (keep & np.array(named)).tolist()
        return places


def _centres(objects: Iterable[HandObject | None]) -> Floats:
    return np.array([one.centre for one in objects if one is not None]).reshape(-1, 2)


def _matches(objects: list[HandObject | None], found: Findings, taken: Mask | None) -> Index:
    """Return the row that is each of `objects`, or -1, one to one, the most alike first."""
    rows = np.full(len(objects), -1, dtype=np.int64)
    there = [place for place, one in enumerate(objects) if one is not None]
    here, row, overlap = alike([one for one in objects if one is not None], found)
    good = overlap >= ALIKE
    if taken is not None:
        good &= ~taken[row]
    here, row, overlap = here[good], row[good], overlap[good]
    used: set[int] = set()
    for i in np.lexsort((row, here, -overlap)).tolist():
        place, at = there[int(here[i])], int(row[i])
        if rows[place] < 0 and at not in used:
            rows[place] = at
            used.add(at)
    return rows


def alike(objects: list[HandObject], found: Findings) -> tuple[Index, Index, Floats]:
    """Return objects and rows of one class that meet, and their IoU, pair by pair."""
    if not objects or not len(found):
        none = np.empty(0, np.int64)
        return none, none, np.empty(0)
    columns = geometry_columns(objects)
    corners, outlines = columns.get("oriented"), columns.get("polygons")

    def shapes(rows: Index) -> NDArray[np.object_]:
        return geometries(
            len(rows),
            None if corners is None else corners[rows],
            None if outlines is None else [outlines[row] for row in rows.tolist()],
        )

    bare = corners is None and outlines is None
    mine = Bodies(bodies(columns["boxes"]), None if bare else shapes)
    theirs = Bodies.of(found)
    here, there = meetings(mine.boxes, theirs.boxes)
    names = np.array([one.label for one in objects], dtype=object)
    same = names[here] == found.labels[there]
    here, there = here[same], there[same]
    return here, there, mine.overlap(here, theirs, there, both=True)


def _corrected(
    found: Findings, pairs: list[tuple[HandEntry, int]], shown: Shown, counts: Counter[str]
) -> Applied:
    """Return findings in which each entry takes the place of its row; -1 is none."""
    gone: list[int] = []
    changed: list[tuple[HandEntry, int]] = []
    fresh: list[HandEntry] = []
    for entry, row in pairs:
        if row < 0 and entry.was is not None:  # the model's object is not there
            missed = not shown.leaves_out(entry.was)
            if missed or entry.now is None:
                counts["lost" if missed else "elsewhere"] += 1
                continue
        counts.update(entry.counted)
        if row >= 0:
            gone.append(row)
        if entry.now is None or not shown.has(entry.now.label):
            continue
        if row >= 0:
            changed.append((entry, row))
        else:
            fresh.append(entry)
    keep = np.ones(len(found), dtype=bool)
    keep[gone] = False
    parts = [found.take(keep)]
    if changed:
        parts.append(_replaced(found, changed))
    if fresh:
        parts.append(_made(fresh))
    return Applied(
        parts[0] if len(parts) == 1 else Findings.concat(parts), CorrectionCounts(**counts)
    )


def _replaced(found: Findings, changed: list[tuple[HandEntry, int]]) -> Findings:
    """Return rows as a person left them: geometry and class are theirs, the rest the model's."""
    rows = np.array([row for _, row in changed])
    columns = {
        name: column[rows]
        if isinstance(column, np.ndarray)
        else tuple(column[row] for row in rows.tolist())
        for name, column in found.columns.items()
        if name not in ("polygons", "oriented", "points")
    }
    given = columns.get("attributes") or (None,) * len(rows)
    entries = [entry for entry, _ in changed]
    columns |= _hand_columns([_now(entry) for entry in entries])
    columns["attributes"] = tuple(
        dict(row or {}) | {BY_HAND: entry.said} for row, entry in zip(given, entries, strict=True)
    )
    same = columns["labels"] == found.labels[rows]
    columns["class_ids"] = np.where(same, columns["class_ids"], -1)
    return assembled(columns)


def _made(entries: list[HandEntry]) -> Findings:
    """Return objects that no row stands for."""
    objects = [_now(entry) for entry in entries]
    scores = [np.nan if one.score is None else one.score for one in objects]
    columns = _hand_columns(objects) | {"scores": np.array(scores)}
    columns["class_ids"] = np.full(len(entries), -1)
    columns["attributes"] = tuple({BY_HAND: entry.said} for entry in entries)
    return assembled(columns)


def _hand_columns(objects: list[HandObject]) -> dict[str, Any]:
    labels = np.empty(len(objects), dtype=object)
    labels[:] = [one.label for one in objects]
    return geometry_columns(objects) | {"labels": labels}


def _now(entry: HandEntry) -> HandObject:
    assert entry.now is not None
    return entry.now


def origins(found: Findings) -> NDArray[np.object_]:
    """Return of each row ``(n,)`` what a person did to it; ``"model"`` where nobody did."""
    said = np.full(len(found), "model", dtype=object)
    for row, values in enumerate(found.attributes or ()):
        if values and BY_HAND in values:
            said[row] = str(values[BY_HAND])
    return said
