"""The tile inspector: one tile at full resolution, and everything known about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

from tilevision.errors import TilevisionError
from tilevision.events import TileChanged
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Tile
from tilevision.pipeline import Run
from tilevision.plot import STYLES, class_colours, shown
from tilevision.sources import ImageSource, display_options, read_pixels
from tilevision.status import TileStatus
from tilevision.view.jobs import JobQueue
from tilevision.view.panel.tiletrials import Trials
from tilevision.view.picture.screen import Screen
from tilevision.view.picture.subject import Watched

__all__ = ["Inspector", "InspectorView", "tile_at", "tile_facts", "tile_picture", "tile_rows"]

_FOLDER = Path(__file__).parent
LONGEST_SIDE = 1600  # px sent of a tile
MOST_DETECTIONS = 1000
QUALITY = 88


class InspectorView(anywidget.AnyWidget):
    """The widget that shows one tile.

    Attributes
    ----------
    facts : dict
        See `tile_facts`; empty while no tile is open.
    picture : bytes
        The tile's pixels, a JPEG.
    rows : dict
        See `tile_rows`.
    other : dict
        The same for another model, with ``model`` and ``words``; empty without one.
    chosen : list of float
        The object that is selected in the picture: x0, y0, x1, y1 as shares of the tile; empty if
        none is, or it lies elsewhere.
    models : list of str
        Models that the tile can be run with.
    asked : list
        The user's latest request: ``"retry"``, ``"run"`` or ``"close"``, the number of
        the model, and how many requests there were. Set by the page.
    """

    _esm = (_FOLDER / "inspector.js").read_text(encoding="utf-8")
    _css = "\n".join(  # the inspector is part of every panel
        (_FOLDER / name).read_text(encoding="utf-8") for name in ("inspector.css", "panel.css")
    )

    facts = traitlets.Dict({}).tag(sync=True)
    picture = traitlets.Bytes(b"").tag(sync=True)
    rows = traitlets.Dict({}).tag(sync=True)
    other = traitlets.Dict({}).tag(sync=True)
    chosen = traitlets.List(traitlets.Float(), []).tag(sync=True)
    models = traitlets.List(traitlets.Unicode(), []).tag(sync=True)
    asked: Any = traitlets.List([]).tag(sync=True)

    def clear(self) -> None:
        """Show no tile."""
        with self.hold_sync():
            self.facts, self.picture, self.rows, self.other = {}, b"", {}, {}


class Inspector:
    """Opens tiles in the inspector, and does what the user asks for there.

    Parameters
    ----------
    screen : Screen
        Its picture marks the tile.
    jobs : JobQueue
        Reads pixels in the background.
    known : callable
        Returns the findings of a tile, or None.
    retry : callable
        ``retry(tile)`` tries the tile again.
    trials : Trials
        Run it with other models.
    opened : callable
        ``opened(run, number)`` is called once a tile is shown; ``number`` is None for none.
    """

    def __init__(
        self,
        screen: Screen,
        jobs: JobQueue,
        known: Callable[[Tile], TileFindings | None],
        retry: Callable[[Tile], None],
        trials: Trials,
        opened: Callable[[Watched, int | None], None],
    ) -> None:
        self.widget: Any = InspectorView()
        self._screen = screen
        self._jobs = jobs
        self._known = known
        self._retry = retry
        self._trials = trials
        self._opened = opened
        self._number: int | None = None
        self._run: Watched | None = None
        self._shown: tuple[Any, ...] = ()
        self.widget.observe(lambda change: self._asked(change["new"]), names="asked")
        screen.canvas.observe(lambda _: self._mark(), names="chosen")

    def pick(self, run: Watched, x: float, y: float) -> None:
        """Open the tile of `run` at a point of the image; outside of them, close the inspector."""
        self._jobs.put("inspect", lambda: self._open(run, tile_at(run.tiles, x, y)))

    def open(self, run: Watched, number: int) -> None:
        """Open a tile by its number in the run."""
        self._jobs.put("inspect", lambda: self._open(run, number))

    def close(self) -> None:
        """Close the inspector, and cancel the running trial."""
        self._trials.close()
        self.widget.close()

    def clear(self) -> None:
        """Show no tile."""
        self._number = None
        self._screen.canvas.outline_of(None)
        self.widget.clear()
        if self._run is not None:
            self._opened(self._run, None)

    def recolour(self) -> None:
        """Draw the open tile again: classes have other colours."""
        run, number = self._run, self._number
        if run is not None and number is not None:
            self._jobs.put("inspect", lambda: self._open(run, number))

    def follow(self, run: Watched) -> None:
        """Update the shown tile if it has changed; close it if `run` is another run."""
        number, state = self._number, self._screen.state
        if number is None or state is None:
            return
        if run is not self._run:
            self._jobs.put("inspect", self.clear)
        elif self._shown != (state.status[number], state.times[number]):
            self._jobs.put("inspect", lambda: self._open(run, number))

    def _mark(self) -> None:
        """Mark the object that is selected in the picture, where the open tile has it."""
        number, run, chosen = self._number, self._run, self._screen.canvas.chosen
        if number is None or run is None or len(chosen) != 4:
            self.widget.chosen = []
            return
        tile, (x, y, width, height) = run.tiles[number].box, chosen
        seen = x < tile.x1 and y < tile.y1 and x + width > tile.x0 and y + height > tile.y0
        corners = [[x - tile.x0, y - tile.y0], [x + width - tile.x0, y + height - tile.y0]]
        shares = _shares(corners, tile.width, tile.height).reshape(-1).tolist()
        self.widget.chosen = shares if seen else []

    def _compare(self, tile: Tile, name: str, seen: TileFindings | None, words: str) -> None:
        """Show what another model found in the tile, if that tile is still open."""
        if self._number is not None and self._run and self._run.tiles[self._number] == tile:
            rows = {} if seen is None else tile_rows(seen)
            self.widget.other = rows | {"model": name, "words": words}

    def _open(self, run: Watched, number: int | None) -> None:
        if number is None or number >= len(run.tiles):
            self.clear()
            return
        tile, state = run.tiles[number], self._screen.state
        fresh = number != self._number or run is not self._run
        self._number, self._run = number, run
        self._screen.canvas.outline_of(tile.box)
        if state is not None and number < len(state.status):
            self._shown = (state.status[number], state.times[number])
        event = _latest(run, tile)
        seen = self._known(tile)
        facts = tile_facts(event, seen)
        steered = isinstance(run, Run)
        facts |= {"can_retry": steered and event.status == TileStatus.FAILED, "can_run": steered}
        picture = tile_picture(run.source, tile, LONGEST_SIDE) if fresh else None
        with self.widget.hold_sync():
            self.widget.facts = facts
            self.widget.rows = {} if seen is None else tile_rows(seen)
            if picture is not None:
                self.widget.picture, self.widget.other = picture, {}
            self._mark()
        self._opened(run, number)

    def _asked(self, asked: list[Any]) -> None:
        number, run = self._number, self._run
        if len(asked) != 3 or number is None or run is None:
            return
        tile = run.tiles[number]
        what, which, _ = asked
        if what == "close":
            self._jobs.put("inspect", self.clear)
        elif what == "retry":
            self._retry(tile)
        elif what == "run" and which in range(len(self.widget.models)):
            self._trials.put(which, tile, self._compare)


def tile_picture(source: ImageSource, tile: Tile, longest: int) -> bytes:
    """Return a tile's pixels as a JPEG, as the model sees them, but no side over `longest`.

    Empty where they cannot be read.
    """
    scale = min(tile.scale, longest / max(tile.box.width, tile.box.height))
    try:
        pixels: NDArray[np.uint8] = read_pixels(source, tile.box, scale, display_options(source))
    except (TilevisionError, OSError, ValueError):
        return b""
    return _encoded(pixels)


def tile_at(tiles: Sequence[Tile], x: float, y: float) -> int | None:
    """Return the number of the tile at a point of the image; of several, the nearest centre.

    A tile that contains a smaller one comes after it.
    """
    boxes = np.array([tile.box.as_tuple() for tile in tiles], dtype=np.float64).reshape(-1, 4)
    inside = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
    at = np.flatnonzero(inside)
    if not len(at):
        return None
    sides = boxes[at, 2:] - boxes[at, :2]
    away = np.abs((boxes[at, :2] + boxes[at, 2:]) / 2 - (x, y)).max(axis=1)
    return int(at[np.lexsort((away, sides.prod(axis=1)))[0]])


def tile_rows(seen: TileFindings, limit: int = MOST_DETECTIONS) -> dict[str, Any]:
    """Return the strongest detections of a tile in its own frame, in plain JSON types.

    Returns
    -------
    dict
        ``boxes``: x0, y0, x1, y1 as shares of the tile's width and height; ``labels``,
        ``scores`` (None for none), ``colours``; ``outlines``: rings of such points, empty
        without a polygon; ``total``: how many there are.
    """
    findings = seen.findings.take(range(min(limit, len(seen.findings))))
    width, height = seen.tile.output_size
    colours = class_colours(map(str, seen.findings.labels))
    return {
        "boxes": _shares(findings.boxes.reshape(-1, 2), width, height).reshape(-1, 4).tolist(),
        "labels": [shown(label, 80) for label in findings.labels],
        "scores": [None if np.isnan(s) else round(float(s), 3) for s in findings.scores],
        "colours": [colours[str(label)] for label in findings.labels],
        "outlines": _outlines(findings, width, height),
        "total": len(seen.findings),
    }


def tile_facts(event: TileChanged, seen: TileFindings | None) -> dict[str, Any]:
    """Return what is known about a tile, in plain JSON types.

    Parameters
    ----------
    event : TileChanged
        The tile's latest event.
    seen : TileFindings or None

    Returns
    -------
    dict
        Its ``id``, ``status``, ``colour`` and ``glyph``; ``lines``: pairs of text;
        ``error``; ``note``; ``scores``: names and values for the tile as a whole.
    """
    tile, style = event.tile, STYLES[TileStatus(event.status)]
    box, (width, height) = tile.box, tile.output_size
    lines = {
        "Region": f"x {box.x0:,.0f}–{box.x1:,.0f}, y {box.y0:,.0f}–{box.y1:,.0f} px",
        "Model sees": f"{width:,} × {height:,} px, scale {tile.scale:.3g}",
        "Detections": f"{event.n_findings:,}" + (" (saturated)" if event.saturated else ""),
        "Attempts": str(event.attempt or "–"),
        "Reading": _seconds(event.read_seconds),
        "Inference": _seconds(event.infer_seconds),
        "Model": event.model or "–",
        "Worker": event.worker or "–",
    }
    findings = seen.findings if seen is not None else Findings()
    scores = sorted(findings.tile_scores.items(), key=lambda pair: -pair[1])[:10]
    return {
        "id": tile.id,
        "status": event.status,
        "colour": style.colour,
        "glyph": style.glyph,
        "lines": [[what, shown(value, 120)] for what, value in lines.items() if value != "–"],
        "error": shown(event.error, 500),
        "note": shown(findings.note, 1000),
        "scores": [[shown(name, 60), round(value, 3)] for name, value in scores],
    }


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels (h, w, 3) as a JPEG."""
    from PIL import Image

    out = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _outlines(findings: Findings, width: int, height: int) -> list[list[list[list[float]]]]:
    if findings.polygons is None:
        return []
    return [
        [_shares(ring, width, height).tolist() for part in shape or () for ring in part]
        for shape in findings.polygons
    ]


def _shares(points: Any, width: float, height: float) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.round(np.asarray(points) / (width, height), 5)
    return shares


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.1f} s"


def _latest(run: Watched, tile: Tile) -> TileChanged:
    """Return the tile's latest event; a pending one if there was none."""
    for event in run.events():
        if isinstance(event, TileChanged) and event.tile == tile:
            return event
    return TileChanged(0.0, tile, TileStatus.PENDING)
