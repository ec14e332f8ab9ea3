"""Tiles that look like the open one, labels by hand, and a probe that paints the map from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from tilevision.analysis.probing import Probe
from tilevision.errors import RunError
from tilevision.plot import class_colours, shown
from tilevision.result import Result
from tilevision.view.jobs import JobQueue
from tilevision.view.panel.inspector import tile_picture
from tilevision.view.picture.heatlayer import TileGroups, TileHeat
from tilevision.view.picture.subject import Watched
from tilevision.view.picture.viewstate import ViewState

__all__ = ["LookAlikes", "LookAlikesView"]

_FOLDER = Path(__file__).parent
NEAREST = 20
CLUSTERS = 8
THUMBNAIL = 256  # px, of a tile's longer side at most
LONGEST_NAME = 60  # characters of a class
_NONE, _ALIKE, _CLUSTER, _PROBE = "none", "alike", "cluster", "probe "


class LookAlikesView(anywidget.AnyWidget):
    """The widget below the inspector; empty where the open tile has no vector.

    Attributes
    ----------
    tile : str
        Id of the open tile; empty hides all.
    near : list of (int, str, float)
        The nearest tiles: number in the run, id, similarity.
    pictures : list of bytes
        A JPEG of each.
    labels : list of (str, int, str)
        Classes given by hand: name, how many tiles, colour.
    own : str
        The class of the open tile; empty for none.
    modes : list of (str, str)
        What tiles can be coloured by: value and words.
    mode : str
        Which it is now.
    words : str
        What was found out, or why not.
    asked : list
        The user's latest request: ``"similar"``, ``"go"``, ``"label"``, ``"unlabel"``, ``"probe"``
        or ``"colour"``, its argument, and how many requests there were. Set by the page.
    """

    _esm = (_FOLDER / "lookalikes.js").read_text(encoding="utf-8")
    _css = (_FOLDER / "lookalikes.css").read_text(encoding="utf-8")

    tile = traitlets.Unicode("").tag(sync=True)
    near: Any = traitlets.List([]).tag(sync=True)
    pictures: Any = traitlets.List([]).tag(sync=True)
    labels: Any = traitlets.List([]).tag(sync=True)
    own = traitlets.Unicode("").tag(sync=True)
    modes: Any = traitlets.List([]).tag(sync=True)
    mode = traitlets.Unicode(_NONE).tag(sync=True)
    words = traitlets.Unicode("").tag(sync=True)
    asked: Any = traitlets.List([]).tag(sync=True)


class LookAlikes:
    """Finds what looks like the open tile, keeps labels, and colours the tiles of the picture.

    No model is run.

    Parameters
    ----------
    jobs : JobQueue
        Looks things up in the background.
    result : callable
        Returns the result of what is shown, or None.
    go : callable
        ``go(run, number)`` opens a tile, and brings it into the picture.
    recount : callable
        Draws the picture again.
    """

    def __init__(
        self,
        jobs: JobQueue,
        result: Callable[[], Result | None],
        go: Callable[[Watched, int], None],
        recount: Callable[[], None],
    ) -> None:
        self.widget: Any = LookAlikesView()
        self.labels: dict[str, list[str]] = {}
        self.probe: Probe | None = None
        self._jobs = jobs
        self._result = result
        self._go = go
        self._recount = recount
        self._run: Watched | None = None
        self._number = 0
        self._values: Mapping[str, float] = {}
        self._ends: tuple[float, float] | None = None
        self.widget.observe(lambda change: self._asked(change["new"]), names="asked")

    def show(self, run: Watched, number: int | None) -> None:
        """Take notice of the tile that is open now; None: no tile."""
        if run is not self._run:
            self._forget(labels=self._run is not None and run.tiles != self._run.tiles)
        self._run = run
        if number is None:
            self.widget.tile = ""
            return
        tile = run.tiles[number]
        if tile.id == self.widget.tile:
            return
        self._number = number
        result = self._result()
        found = () if result is None else result.tile_findings
        there = any(one.tile == tile and one.vector is not None for one in found)
        with self.widget.hold_sync():
            self.widget.near, self.widget.pictures = [], []
            self.widget.tile = tile.id if there else ""
            self.widget.words = ""
            self._tell()

    def close(self) -> None:
        """Close the widget."""
        self.widget.close()

    def layer(self, state: ViewState) -> TileHeat | TileGroups | None:
        """Return the colours of the tiles of the picture; None where the user wants none."""
        mode, known = self.widget.mode, self._values
        if mode == _NONE or not known:
            return None
        values = np.full(len(state.tiles), np.nan, dtype=np.float32)
        for tile, at in state.index.items():
            values[at] = known.get(tile.id, np.nan)
        if mode == _CLUSTER:
            return TileGroups("cluster", values)
        label = "similarity" if mode == _ALIKE else mode.removeprefix(_PROBE)
        return TileHeat(label, (label,), values, self._ends)

    def _forget(self, *, labels: bool) -> None:
        """Drop what another run said of its tiles; and the `labels`, if these are other tiles."""
        if labels:
            self.labels.clear()
        self.probe, self._values = None, {}
        with self.widget.hold_sync():
            self.widget.mode, self.widget.tile = _NONE, ""
            self.widget.near, self.widget.pictures = [], []

    def _asked(self, asked: list[Any]) -> None:
        if len(asked) != 3 or self._run is None:
            return
        what, argument, _ = asked
        if what == "go" and isinstance(argument, int) and 0 <= argument < len(self._run.tiles):
            self._go(self._run, argument)
        elif what == "label":
            self._label(str(argument).strip()[:LONGEST_NAME])
        elif what == "unlabel":
            self._label("")
        elif what == "similar":
            self._jobs.put("alike", lambda: self._trying(self._find))
        elif what == "probe":
            self._jobs.put("alike", lambda: self._trying(self._fit))
        elif what == "colour":
            self._jobs.put("alike", lambda: self._trying(lambda: self._colour(str(argument))))

    def _trying(self, work: Callable[[], None]) -> None:
        """Do `work`, and say beside the buttons why it cannot be done."""
        try:
            work()
        except RunError as error:
            self.widget.words = str(error)

    def _of(self) -> Result:
        result = self._result()
        if result is None:
            raise RunError("The result of this run is not available here.")
        return result

    def _find(self) -> None:
        run = self._run
        assert run is not None  # asked for a tile of it
        found = self._of().similar(self.widget.tile, NEAREST)
        places = {tile.id: number for number, tile in enumerate(run.tiles)}
        numbers = [places[one] for one in found["id"]]
        pictures = [tile_picture(run.source, run.tiles[number], THUMBNAIL) for number in numbers]
        rows = zip(numbers, found["id"], found["similarity"].round(3).tolist(), strict=True)
        with self.widget.hold_sync():
            self.widget.near = [list(row) for row in rows]
            self.widget.pictures = pictures
            self.widget.words = f"The {len(numbers)} tiles that look most like {self.widget.tile}."

    def _label(self, name: str) -> None:
        """Put the open tile into a class; with an empty name, into none."""
        tile = self.widget.tile
        if not tile:
            return
        for ids in self.labels.values():
            if tile in ids:
                ids.remove(tile)
        if name:
            self.labels.setdefault(name, []).append(tile)
        for empty in [each for each, ids in self.labels.items() if not ids]:
            del self.labels[empty]
        self._tell()

    def _fit(self) -> None:
        if len(self.labels) < 2:
            raise RunError("Label tiles of two classes or more, then press Probe.")
        self.probe = self._of().probe(self.labels)
        self.widget.words = self.probe.summary
        self._tell()
        self._colour(_PROBE + self.probe.labels[0])

    def _colour(self, mode: str) -> None:
        self._ends = None
        if mode == _ALIKE:
            found = self._of().similar(self.widget.tile, len(self._of().rows))
            values = dict(zip(found["id"], found["similarity"].tolist(), strict=True))
            low = min(values.values(), default=0.0)
            scale = max(1.0 - low, 1e-9)
            self._values = {name: (value - low) / scale for name, value in values.items()}
            self._values[self.widget.tile] = 1.0
            self._ends = (low, 1.0)
        elif mode == _CLUSTER:
            tiles = len(self._of().tile_findings)
            found = self._of().cluster(min(CLUSTERS, max(2, tiles // 2)))
            self._values = dict(zip(found["id"], found["cluster"].tolist(), strict=True))
        elif self.probe is not None and mode.removeprefix(_PROBE) in self.probe.labels:
            table = self.probe.probabilities
            said = table[mode.removeprefix(_PROBE)].tolist()
            self._values = dict(zip(table["id"], said, strict=True))
        else:
            mode, self._values = _NONE, {}
        self.widget.mode = mode
        self._recount()

    def _tell(self) -> None:
        """Send the page classes and modes as they are now."""
        colours = class_colours(self.labels)
        modes = [[_NONE, "nothing"], [_ALIKE, "similarity to this tile"], [_CLUSTER, "clusters"]]
        if self.probe is not None:
            modes += [[_PROBE + name, f"probe: {shown(name, 40)}"] for name in self.probe.labels]
        own = next((name for name, ids in self.labels.items() if self.widget.tile in ids), "")
        with self.widget.hold_sync():
            self.widget.labels = [[n, len(ids), colours[n]] for n, ids in self.labels.items()]
            self.widget.own, self.widget.modes = own, modes
