"""Corrections on the picture: what the user does to an object is kept, applied and told."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.analysis.doubt import doubts
from tilevision.corrections import (
    CorrectionLayer,
    CorrectionLog,
    Corrections,
    log_path,
    origins,
)
from tilevision.corrections.handobject import named
from tilevision.errors import TilevisionError
from tilevision.findings import Findings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.plot import shown
from tilevision.result import Result
from tilevision.view.jobs import JobQueue
from tilevision.view.outcome.outcome import Outcome
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.viewstate import ViewState

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Correcting"]

MOST_CLASSES = 50
MOST_CORNERS = 200  # of an object that is reshaped by its corners
COARSEST = 64.0  # px by which an outline is simplified at most, to have so few
MOST_IN_DOUBT = 50  # tiles that are listed
NAME_LIMIT = 60
UNKEPT = "There is no checkpoint folder: corrections end with this kernel."


class Correcting:
    """Corrects the object that is selected, and gives the result of what is shown so.

    Parameters
    ----------
    screen : Screen
    outcome : Outcome
        Knows the selected object.
    checkpoint : path-like or None
        Folder in which corrections are kept; None: they end with the kernel.
    jobs : JobQueue
        For what takes a while.
    on_change : callable
        Called after a correction: count again.
    """

    def __init__(
        self,
        screen: Screen,
        outcome: Outcome,
        checkpoint: str | os.PathLike[str] | None,
        jobs: JobQueue,
        on_change: Callable[[], None],
    ) -> None:
        self._screen = screen
        self._outcome = outcome
        self._checkpoint = checkpoint
        self._jobs = jobs
        self._on_change = on_change
        self._logs: dict[tuple[str, str], CorrectionLog] = {}
        self._log: CorrectionLog | None = None
        self._cut: tuple[Result | None, dict[str, Any], Result | None] = (None, {}, None)
        self._names: list[str] = []  # of classes; a name keeps its key
        self._named = ""  # the model whose classes they are
        self._label = ""  # of what is added
        self._doubt: tuple[Any, Any, pd.DataFrame] | None = None
        self._place = -1  # in the order of tiles in doubt
        self._words: tuple[str, bool] = ("", False)
        self._told = ""  # of where the user is taken
        screen.canvas.on_msg(self._heard)
        screen.canvas.observe(lambda _: self._tell(), names="chosen")

    def applied(self, known: Result, settings: dict[str, Any]) -> Result:
        """Return `known` under `settings` of `Result.with_`, as it was corrected.

        What tiles saw is merged once for many corrections.
        """
        before, how, cut = self._cut
        if cut is None or before is not known or how != settings:
            cut = known.with_(**settings)
            self._cut = (known, settings, cut)
        try:
            self._log = self._log_of(known)
            self._log.refresh()
        except TilevisionError as error:
            self._log = None
            self._say(str(error), alarm=True)
            return cut
        layer = self._log.layer
        return cut.corrected(layer) if layer.entries or layer.unreadable else cut

    @property
    def in_use(self) -> bool:
        """Whether what is shown has corrections."""
        return self._log is not None and len(self._log.layer) > 0

    def follow(self) -> None:
        """Say what can be done with the result that is shown now."""
        result = self._outcome.result
        if result is not None:
            if result.facts.model != self._named:
                self._named, self._names, self._label = result.facts.model, [], ""
            common = [label for label, _ in Counter(map(str, result.findings.labels)).most_common()]
            for name in (*common, *result.classes):
                if name not in self._names and len(self._names) < MOST_CLASSES:
                    self._names.append(name)
        self._tell()

    def in_doubt(self, state: ViewState) -> list[tuple[Tile, str]]:
        """Return the most uncertain tiles, and their doubt; none while the run is going."""
        if not state.at_rest or self._outcome.result is None:
            return []
        tiles = {tile.id: tile for tile in state.tiles}
        table = self._doubts().head(MOST_IN_DOUBT).query("uncertainty > 0")
        return [(tiles[row.id], _doubt_words(row)) for row in table.itertuples() if row.id in tiles]

    def _doubts(self) -> pd.DataFrame:
        """Return the tiles of what is shown, the most uncertain first."""
        cut = self._cut[2]
        assert cut is not None
        key = cut.settings.min_score, cut.tile_findings
        if self._doubt is None or self._doubt[0] != key[0] or self._doubt[1] is not key[1]:
            before = [] if self._doubt is None else self._doubt[2]["id"].tolist()
            self._doubt = (*key, cut.uncertain())
            if self._place >= 0:  # the user stays at the tile, where there is one
                order = self._doubt[2]["id"].tolist()
                here = before[self._place]
                self._place = order.index(here) if here in order else -1
        return self._doubt[2]

    def _log_of(self, result: Result) -> CorrectionLog:
        key = (result.source.fingerprint, result.facts.model)
        if key not in self._logs:
            path = None if self._checkpoint is None else log_path(self._checkpoint, *key)
            about = {"image": result.name, "image_fingerprint": key[0], "model": key[1]}
            self._logs[key] = CorrectionLog(path, about, lambda: self._heard_elsewhere(key))
        return self._logs[key]

    def _heard_elsewhere(self, key: tuple[str, str]) -> None:
        """Show what was corrected in another panel, or in a cell."""
        if self._log is self._logs[key]:
            self._words = ("", False)
            self._on_change()

    def close(self) -> None:
        """Follow the corrections no longer."""
        for log in self._logs.values():
            log.close()

    # What the page asks for ---------------------------------------------------------------

    def _heard(self, _: object, content: Any, __: object) -> None:
        try:
            match content:
                case {"correct": ("accept" | "delete") as verb}:
                    self._decide(verb)
                case {"correct": ("undo" | "redo") as verb}:
                    self._turn(verb)
                case {"relabel": str(label)}:
                    self._relabel(label)
                case {"class": int(number)} if 0 <= number < len(self._names):
                    self._relabel(self._names[number])
                case {"reshape": dict(shape)}:
                    self._on_selected(lambda hand, row: self._reshape(hand, row, shape))
                case {"add": dict(shape)}:
                    self._add(shape)
                case {"uncertain": True}:
                    self._jobs.put("uncertain", self._next_uncertain)
        except TilevisionError as error:
            self._say(str(error), alarm=True)

    def _hand(self) -> Corrections | None:
        result, log = self._outcome.result, self._log
        return None if result is None or log is None else Corrections(result, log)

    def _on_selected(self, act: Callable[[Corrections, int], None]) -> None:
        hand, row = self._hand(), self._outcome.table.selected
        if hand is None or row < 0:
            self._say("Select an object first: click it, or press n.")
            return
        act(hand, row)
        self._changed()

    def _decide(self, verb: str) -> None:
        def act(hand: Corrections, row: int) -> None:
            following = self._following(row)
            if following is None:
                self._told = self._told or "That was the last object that nobody had decided on."
            (hand.accept if verb == "accept" else hand.delete)(row)
            self._outcome.go_on(row, following)

        if not self._outcome.awaits:  # a key that is held down decides on nothing unseen
            self._on_selected(act)

    def _following(self, row: int) -> int | None:
        """Return the next object that nobody has decided on; None after the last.

        By doubt in a tile that the user went to, then in the next; else as the table is sorted.
        """
        found = self._shown_findings()
        undecided = origins(found) == "model"
        undecided[row] = False
        table = self._doubts() if self._place >= 0 else None
        if table is not None and self._place >= 0:
            here = _within(found, table.iloc[self._place])
            if here[row]:
                following = self._most_in_doubt(found, here & undecided)
                if following is None and self._place + 1 < len(table):
                    following = self._go_to_tile(self._place + 1, undecided)
                return following
        rest = self._outcome.table.order()[self._outcome.place_of(row) + 1 :]
        rest = rest[undecided[rest]]
        return int(rest[0]) if len(rest) else None

    def _shown_findings(self) -> Findings:
        result = self._outcome.result
        return Findings() if result is None else result.findings

    def _most_in_doubt(self, found: Findings, among: NDArray[np.bool_]) -> int | None:
        """Return the object most in doubt among those marked; None where none is."""
        cut = self._cut[2]
        assert cut is not None
        doubt = np.where(among, doubts(found.scores, cut.settings.min_score), 0.0)
        return int(doubt.argmax()) if doubt.any() else None

    def _go_to_tile(self, place: int, undecided: NDArray[np.bool_]) -> int | None:
        """Look at a tile by its place in the order of doubt; return its object most in doubt."""
        table, found = self._doubts(), self._shown_findings()
        row, self._place = table.iloc[place], place
        box = Box(row.xmin, row.ymin, row.xmax, row.ymax)
        self._screen.look_at(box, 1.05 * max(box.width, box.height))
        where = f"Tile {row.id}, {place + 1:,} of {len(table):,} by doubt"
        self._told = f"{where}: {_doubt_words(row)}."
        return self._most_in_doubt(found, _within(found, row) & undecided)

    def _relabel(self, label: str) -> None:
        self._label = named(label)
        if label not in self._names and len(self._names) < MOST_CLASSES:
            self._names.append(label)
        if self._outcome.table.selected < 0:
            self._say(f"What you add is: {label}.")
            return

        def act(hand: Corrections, row: int) -> None:
            hand.relabel(row, label)
            self._outcome.return_to(row)

        self._on_selected(act)

    def _reshape(self, hand: Corrections, row: int, shape: dict[str, Any]) -> None:
        drawn = _drawn(shape)
        hand.reshape(row, **drawn)
        self._outcome.return_to(row, drawn.get("box"))

    def _add(self, shape: dict[str, Any]) -> None:
        hand = self._hand()
        if hand is not None:
            hand.add(self._label or next(iter(self._names), ""), **_drawn(shape))
            self._changed()

    def _turn(self, verb: str) -> None:
        log = self._log
        before = CorrectionLayer() if log is None else log.layer
        if log is not None and (log.undo() if verb == "undo" else log.redo()):
            one = log.layer.changed_since(before)
            self._outcome.come_back(None if one is None else one.box)
            self._changed()
        else:
            self._say(f"There is nothing to {verb}.")

    def _changed(self) -> None:
        told, self._told = self._told, ""
        self._words = (told if self._checkpoint is not None else UNKEPT, False)
        self._on_change()

    def _next_uncertain(self) -> None:
        if self._outcome.result is None or not len(table := self._doubts()):
            return
        undecided = origins(self._shown_findings()) == "model"
        row = self._go_to_tile((self._place + 1) % len(table), undecided)
        told, self._told = self._told, ""
        self._outcome.select(row)
        self._say(told)

    # What the page is told ----------------------------------------------------------------

    def _say(self, words: str, *, alarm: bool = False) -> None:
        self._words = (shown(words, 300), alarm)
        self._tell()

    def _tell(self) -> None:
        result, log, row = self._outcome.result, self._log, self._outcome.table.selected
        words, alarm = self._words
        if result is None or log is None:
            self._screen.canvas.correcting = {"on": alarm, "words": words, "alarm": alarm}
            return
        selected = 0 <= row < len(result.findings)
        label = str(result.findings.labels[row]) if selected else self._label
        self._screen.canvas.correcting = {
            "on": True,
            "selected": selected,
            "object": _corners(result.findings, row) if selected else None,
            "label": shown(label, NAME_LIMIT),
            "classes": [shown(name, NAME_LIMIT) or "(no name)" for name in self._names],
            "undo": log.can_undo,
            "redo": log.can_redo,
            "words": words or str(result.correction_counts or ""),
            "alarm": alarm,
        }


def _within(found: Findings, row: Any) -> NDArray[np.bool_]:
    """Return which objects have their centre in a tile, which is a row of the table of doubt."""
    x, y = (found.boxes[:, :2] + found.boxes[:, 2:]).T / 2
    within: NDArray[np.bool_] = (row.xmin <= x) & (x < row.xmax) & (row.ymin <= y) & (y < row.ymax)
    return within


def _doubt_words(row: Any) -> str:
    digits = 1 if row.doubtful < 10 else 0
    return f"{row.doubtful:,.{digits}f} doubtful, {row.disagreements:,} where tiles disagree"


def _drawn(shape: dict[str, Any]) -> dict[str, Any]:
    """Return what was drawn as `Corrections.add` takes it, which checks it."""
    return {"box": shape["box"]} if "box" in shape else {"outline": shape.get("parts")}


def _corners(found: Findings, row: int) -> dict[str, Any] | None:
    """Return the corners of an object that can be moved, and whether it is an upright box."""
    shape = None if found.polygons is None else found.polygons[row]
    if shape is not None:
        few = _fewer([[ring.tolist() for ring in part] for part in shape])
        return None if few is None else {"parts": few, "box": False}
    if found.oriented is not None and (found.oriented[row] == found.oriented[row]).all():
        return {"parts": [[found.oriented[row].tolist()]], "box": False}
    x0, y0, x1, y1 = found.boxes[row].tolist()
    if x0 == x1 or y0 == y1:  # a point
        return None
    return {"parts": [[[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]]], "box": True}


def _fewer(parts: list[Any]) -> list[Any] | None:
    """Return parts of rings with few enough corners to take hold of; None where there are none."""
    fewer, tolerance = parts, 0.25
    while sum(len(ring) for part in fewer for ring in part) > MOST_CORNERS:
        if tolerance > COARSEST:
            return None
        fewer = [[_simple(ring, tolerance) for ring in part] for part in parts]
        tolerance *= 2
    return fewer


def _simple(ring: list[Any], tolerance: float) -> list[Any]:
    kept = shapely.Polygon(ring).simplify(tolerance).exterior.coords[:-1]
    return [list(point) for point in kept] if len(kept) >= 3 else ring
