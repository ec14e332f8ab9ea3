"""The digest and the sentences made of it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision.analysis.account import Ground, covered_area, describe, digest, remarks
from tilevision.analysis.units import units_of
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.sources import ImageMetadata

boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h),
    *[st.integers(0, 30)] * 2,
    *[st.integers(1, 20)] * 2,
)


@given(st.lists(boxes, max_size=8))
def test_covered_area_counts_overlaps_once(regions: list[Box]) -> None:
    """The union's area is what painting the tiles on paper gives."""
    paper = np.zeros((60, 60), dtype=bool)
    for box in regions:
        paper[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
    tiles = [Tile(0, i, box) for i, box in enumerate(regions)]
    assert covered_area(tiles) == paper.sum()


def _digest(statuses: list[str], n: int = 4, mpp: tuple[float, float] | None = None) -> str:
    tiles = Grid(rows=2, cols=2, overlap=0).tiles((2000, 1000))
    found = Findings(
        np.tile([0.0, 0, 10, 20], (n, 1)), scores=np.linspace(0.3, 0.9, n), labels=["cell"] * n
    )
    units = units_of(ImageMetadata(mpp=mpp))
    states = list(zip(tiles, statuses, strict=True))
    ground = Ground.of(states, size=(2000, 1000), units=units)
    facts = digest(found, ground, size=(2000, 1000), mpp=mpp, units=units)
    return describe(facts)


def test_a_complete_scene_says_counts_density_and_confidence() -> None:
    """Counts by class, density by megapixel, median score, and that all was analysed."""
    text = _digest(["done", "restored", "done", "done"])
    for part in ("4 detections (4 cell)", "2 per megapixel", "median score is 0.60", "All 4 tiles"):
        assert part in text


def test_density_divides_by_the_analysed_area() -> None:
    """Half of the tiles failed: density doubles, and what is missing is said."""
    text = _digest(["done", "done", "failed", "failed"])
    assert "4 per megapixel" in text
    assert "INCOMPLETE: 2 of 4 tiles, 50% of the area" in text


def test_density_is_per_square_millimetre_where_mpp_is_known() -> None:
    """2 megapixels at 0.5 µm are 0.5 mm²."""
    assert "8 per mm²" in _digest(["done"] * 4, mpp=(0.5, 0.5))


def test_nothing_found_is_said_plainly() -> None:
    """No density and no score of nothing."""
    text = _digest(["done"] * 4, n=0)
    assert "found nothing" in text
    assert "score" not in text
    assert "analysed nothing" in _digest(["failed"] * 4, n=0)


def test_a_digest_is_bounded() -> None:
    """Thousands of classes and detections stay 20 and 10."""
    n = 5000
    found = Findings(
        np.tile([0.0, 0, 1, 1], (n, 1)), scores=np.full(n, 0.5), labels=[f"c{i}" for i in range(n)]
    )
    tiles = [(Tile(0, 0, Box(0, 0, 9, 9)), "done")]
    units = units_of(ImageMetadata())
    facts = digest(found, Ground.of(tiles, size=(9, 9), units=units), size=(9, 9), units=units)
    assert (len(facts.counts), facts.n_classes, len(facts.strongest)) == (20, 5000, 10)


def test_remarks_of_tiles_are_counted_and_the_first_is_quoted() -> None:
    """What a model's adapter had to mend is not kept from the user."""
    tiles = Grid(rows=1, cols=3, overlap=0).tiles((30, 10))
    found = [
        TileFindings(tile, Findings(note=note))
        for tile, note in zip(tiles, ("", "2 boxes outside", "blurred."), strict=True)
    ]
    assert remarks(found[::-1]) == "2 tiles have remarks; r000c001: 2 boxes outside."
    assert remarks(found[2:]) == "1 tile has a remark; r000c002: blurred."
    assert remarks(found[:1]) == ""


def test_density_is_per_hectare_where_a_reference_system_is_known() -> None:
    """A map of 100 m by 200 m on the ground is two hectares, whatever its pixels are."""
    pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
    at = (0.1 * 0.9996, 0.0, 500_000.0, 0.0, -0.1 * 0.9996, 4_000_000.0)
    units = units_of(ImageMetadata(crs="EPSG:32617", transform=at))
    found = Findings(np.tile([0.0, 0, 10, 20], (6, 1)))
    tiles = [(tile, "done") for tile in Grid(rows=2, cols=2).tiles((2000, 1000))]
    ground = Ground.of(tiles, size=(2000, 1000), units=units)
    facts = digest(found, ground, size=(2000, 1000), units=units)
    assert facts.ground == (pytest.approx(20_000, rel=1e-4), "m²")
    assert "3 per hectare" in describe(facts)
    assert "0.0013 per km²" in describe(replace(facts, density=(1.3e-5, "hectare")))
