"""What the Results tab says: areas and densities as people read them, and advice that fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely

from tilevision.analysis.account import RunFacts, TileRow
from tilevision.events import RunChanged, TileChanged
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Grid
from tilevision.result import Result
from tilevision.seams import MergeSettings
from tilevision.seams.diagnostics import SeamBias
from tilevision.sources import ImageMetadata, open_source
from tilevision.status import RunStatus, TileStatus
from tilevision.view.outcome.report import _bias, report_of
from tilevision.view.picture.caption import region_words
from tilevision.view.picture.viewstate import ViewState, fold, initial

SIDE = 300
TILES = Grid(3, 3, overlap=0).tiles((SIDE, SIDE))


def scene(metres: float, boxes: Any = ()) -> tuple[Result, ViewState]:
    """Return a finished run over a map whose pixels have sides of `metres`."""
    at = (metres, 0.0, 400_000.0, 0.0, -metres, 5_000_000.0)
    source = open_source(np.zeros((SIDE, SIDE, 3), np.uint8))
    source.metadata = ImageMetadata(crs="EPSG:32617", transform=at, levels=((SIDE, SIDE),))
    found = Findings(boxes, [0.9] * len(boxes), ["tree"] * len(boxes))
    rows = [TileRow(1.0, tile, TileStatus.DONE) for tile in TILES]
    seen = [TileFindings(tile, found if not i else Findings()) for i, tile in enumerate(TILES)]
    result = Result(source, rows, seen, MergeSettings(), RunFacts("r", "complete"), "x.tif")
    ended = [TileChanged(1.0, tile, TileStatus.DONE) for tile in TILES]
    return result, fold(initial(TILES), [*ended, RunChanged(2.0, RunStatus.COMPLETE)])


ONE = [[10.0, 10, 20, 20]]


@pytest.mark.parametrize(
    ("metres", "area", "per", "density", "unit"),
    [
        (0.5, "2.25 ha", "ha", 1 / 2.25, "ha"),
        (10.0, "900 ha", "km²", 1 / 9, "ha"),
        (100.0, "900 km²", "km²", 1 / 900, "km²"),
        (1000.0, "90,000 km²", "km²", 1 / 90_000, "km²"),
    ],
)
def test_scenes_of_any_size_are_told_in_numbers_that_can_be_read(
    metres: float, area: str, per: str, density: float, unit: str
) -> None:
    """Neither in powers of ten nor in thousandths; as the summary has it, and by region too."""
    pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
    whole, state = scene(metres, boxes=ONE)
    inside = whole.with_(region=shapely.box(0, 0, SIDE, SIDE))
    for result in (whole, inside):
        told = report_of(result, state, "run r")
        assert _about(told["area"]) == pytest.approx(_about(area), rel=0.01)
        assert told["area"].split()[-1] == area.rsplit(maxsplit=1)[-1]
        assert (told["per"], told["unit"]) == (per, unit)
        assert told["density"] == pytest.approx(density, rel=0.01)
        assert told["classes"][0][3] == pytest.approx(density, rel=0.01)
        assert f" per {'hectare' if per == 'ha' else per} " in told["summary"]
    (row,) = told["regions"]
    assert row[2] == pytest.approx(_about(area), rel=0.01)
    assert row[3] == pytest.approx(density, rel=0.01)
    assert area.rsplit(maxsplit=1)[-1] in region_words(inside.facts.region, inside.source)


def _about(words: str) -> float:
    return float(words.split(maxsplit=1)[0].replace(",", ""))


def test_tiles_outside_a_region_are_skipped_only_where_they_were() -> None:
    """A region that is drawn once the run has ended skips nothing."""
    result, state = scene(0.5, boxes=ONE)
    inside = result.with_(region=shapely.box(0, 0, 90, 90))
    told = report_of(inside, state, "")["missing"]
    assert told == ["8 tiles lie outside the region: not counted."]
    skipped = [TileChanged(3.0, tile, TileStatus.SKIPPED) for tile in TILES[1:]]
    told = report_of(inside, fold(state, skipped), "")["missing"]
    assert told == ["8 tiles lie outside the region: skipped, as was asked."]


@pytest.mark.parametrize(("method", "merge"), [("seam", False), ("nms", True), ("none", True)])
def test_the_merge_that_is_used_is_not_advised(method: str, merge: bool) -> None:
    """What counts twice in spite of it is a matter of the overlap."""
    seen = SeamBias(0.3, 0.1, 0.5, near=100, far=100, area_near=0.4)
    result: Any = SimpleNamespace(seam_bias=seen, settings=MergeSettings(method))
    well, title, _, advice = _bias(result)
    assert (well, title) == (False, "Seam bias")
    assert ("use the merge 'seam'" in advice) is merge
    assert "raise the overlap in Setup" in advice
