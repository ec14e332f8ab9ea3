"""What a classifier said of the tiles, as colours over the live picture."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tilevision.analysis.account import RunFacts, TileRow
from tilevision.events import RunChanged, TileChanged
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Grid
from tilevision.result import Result
from tilevision.seams import MergeSettings
from tilevision.sources import open_source
from tilevision.view.panel.filters import OFF, Filters
from tilevision.view.picture.caption import caption
from tilevision.view.picture.heatlayer import tile_heat
from tilevision.view.picture.overlay import Overlay
from tilevision.view.picture.viewstate import ViewState, fold, initial

HOSTILE = "<script>x</script>\u202e" + "y" * 10_000


def _classified(scores: list[float | None]) -> tuple[list[TileFindings], ViewState, Result]:
    tiles = Grid(1, len(scores), overlap=0).tiles((40 * len(scores), 40))
    seen = [
        TileFindings(tile, Findings(tile_scores={HOSTILE: score, "dull": 0.5}))
        for tile, score in zip(tiles, scores, strict=True)
        if score is not None
    ]
    done = [TileChanged(1.0, found.tile, "done") for found in seen]
    state = fold(initial(tiles), [RunChanged(0.0, "complete"), *done])
    source = open_source(np.zeros((40, 40 * len(scores), 3), np.uint8))
    rows = [TileRow(0.0, found.tile, "done", n_findings=0) for found in seen]
    facts = RunFacts(run_id="r", status="complete")
    return seen, state, Result(source, rows, seen, MergeSettings(), facts, "x")


@settings(deadline=None)  # the first colour loads matplotlib
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=12))
def test_each_tile_has_its_own_probability(scores) -> None:
    """Tiles that were not classified have none, and are clear."""
    seen, state, _ = _classified(scores)
    heat = tile_heat(seen, state.index, HOSTILE)
    if all(score is None for score in scores):
        assert heat is None
        return
    assert heat is not None and heat.n_known == len(seen)
    told = [None if np.isnan(value) else float(value) for value in heat.values]
    assert told == [None if s is None else float(np.float32(s)) for s in scores]
    painted = heat.paint(np.arange(-1, len(scores), dtype=np.int32)[None])
    assert (painted[0, :, 3] > 0).tolist() == [False, *(s is not None for s in scores)]


def test_the_class_that_varies_most_is_shown_first() -> None:
    """A class that is the same everywhere tells nothing."""
    seen, state, _ = _classified([0.0, 1.0])
    heat = tile_heat(seen, state.index)
    assert heat is not None and heat.labels == (HOSTILE, "dull")
    assert tile_heat(seen, state.index, "dull").label == "dull"


def test_the_panel_shows_a_classification_as_heat() -> None:
    """Colours on the picture, their key in the legend, a class to choose, and no wrong count."""
    _, state, result = _classified([0.0, 1.0, None])
    filters = Filters(None, None, "seam", lambda: None)
    assert filters.heat.layout.display == "none"
    counted = filters.apply(result, result, state)
    assert filters.heat.layout.display is None
    said = caption(state, "x", 2.0, counted)
    assert "2 tiles classified" in said["headline"]
    legend = [entry["words"] for entry in said["legend"]]
    assert sum("%" in words for words in legend) == 3
    assert max(map(len, legend)) < 60 and "\u202e" not in "".join(legend)
    assert max(len(words) for words, _ in filters.heat.options) <= 60

    def frame(heat: object) -> bytes:
        overlay = Overlay((120, 40), lambda box, scale: np.full((40, 120, 3), 90, np.uint8))
        return overlay.frame(state, heat=heat).jpeg

    assert frame(counted.heat) != frame(None)
    filters.heat.value = OFF
    assert filters.apply(result, result, state).heat is None
