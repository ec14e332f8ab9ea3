"""Outlines have the area of what they outline, in a tile and as they are stored."""

import numpy as np
import pytest
import shapely
from skimage.filters import gaussian
from skimage.measure import label

from tilevision import codec
from tilevision.adapters.compaction import POLYGON_TOLERANCE, compact
from tilevision.adapters.outlines import outline, ring
from tilevision.findings import Findings

SIDE = 200


def blob(rng, radius):
    """Return a mask (n, n) of a wavy ellipse, as nuclei are."""
    n = int(4 * radius) + 8
    y, x = np.mgrid[:n, :n] + 0.5
    (cx, cy), turn, long = n / 2 + rng.random(2), rng.uniform(0, np.pi), rng.uniform(0.8, 1.4)
    u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
    wave = 1 + 0.15 * np.sin(3 * np.arctan2(v, u) + rng.random() * 6)
    return (u / (radius * long)) ** 2 + (v * long / radius) ** 2 <= wave


def area(parts):
    return sum(shapely.Polygon(part[0], part[1:]).area for part in parts)


def stored(polygons):
    """Return outlines as a tile's record holds them."""
    boxes = [[0, 0, SIDE, SIDE]] * len(polygons)
    return compact(Findings(boxes, polygons=polygons), (SIDE, SIDE)).rounded()


def masks_of(seed, radius, n=40):
    rng = np.random.default_rng(seed)
    return [blob(rng, radius) for _ in range(n)]


@pytest.mark.parametrize("radius", [2, 4, 8, 20])
def test_an_outline_has_the_area_of_its_mask(radius):
    """Holes taken out, however small the object; rings are valid."""
    for mask in masks_of(radius, radius):
        holed = mask.copy()
        if radius > 4:
            middle = len(mask) // 2
            holed[middle - 2 : middle + 2, middle - 1 : middle + 2] = False
        parts = outline(holed)
        assert area(parts) == pytest.approx(holed.sum(), rel=1e-3)
        assert all(shapely.Polygon(part[0], part[1:]).is_valid for part in parts)


def test_rectangles_have_exact_corners_and_pieces_stay_apart():
    """A square of pixels is four points; pixels that touch in a corner only are two parts."""
    mask = np.zeros((20, 20), bool)
    mask[3:11, 5:13] = True
    (only,) = outline(mask, (100, 0))
    assert only[0].tolist() == [[105, 3], [113, 3], [113, 11], [105, 11]]
    mask[11:14, 13:15] = True
    assert sorted(area([part]) for part in outline(mask)) == pytest.approx([6, 64])
    assert outline(np.zeros((4, 4), bool)) is None


@pytest.mark.parametrize("side", [3, 5, 8, 16, 40])
def test_stored_squares_keep_their_area(side):
    """Simplified to half a pixel, a square of 8 px was stored an eighth too small."""
    mask = np.zeros((60, 60), bool)
    mask[10 : 10 + side, 7 : 7 + side] = True
    assert area(stored([outline(mask)]).polygons[0]) == pytest.approx(side**2, rel=0.01)


@pytest.mark.parametrize("radius", [4, 8, 16, 30])
def test_stored_outlines_keep_their_area_at_the_size_of_before(radius):
    """Within 2 % of each mask and 0.2 % of all, in records that are not a tenth larger.

    The size is compared with outlines as they were stored before: through the middles of pixels'
    edges, simplified and no more.
    """
    masks = masks_of(radius, radius)
    found = stored([outline(mask) for mask in masks])
    areas, right = np.array([area(p) for p in found.polygons]), np.array([m.sum() for m in masks])
    # Findings stand in an order of their own, so they are compared by size.
    assert np.abs(np.sort(areas) / np.sort(right) - 1).max() < 0.02
    assert areas.sum() == pytest.approx(right.sum(), rel=2e-3)
    rings = [shapely.simplify(shapely.Polygon(ring(mask)), POLYGON_TOLERANCE) for mask in masks]
    before = Findings(
        [[0, 0, SIDE, SIDE]] * len(rings),
        polygons=[shapely.get_coordinates(shape)[:-1] for shape in rings],
    )
    sizes = [sum(map(len, codec.encode(one))) for one in (found, before)]
    assert sizes[0] <= 1.1 * sizes[1]


def test_stored_outlines_stay_within_the_tolerance():
    """No point of the mask's outline is farther than half a pixel and a tenth from the stored."""
    masks = masks_of(1, 10)
    for mask in masks:
        whole = shapely.Polygon(outline(mask)[0][0])
        kept = shapely.Polygon(stored([outline(mask)]).polygons[0][0][0])
        assert kept.is_valid
        assert shapely.hausdorff_distance(whole, kept.exterior) < POLYGON_TOLERANCE + 0.6


def test_outlines_that_lose_no_point_are_stored_as_they_are():
    """A user's own polygons, holes and parts keep every coordinate."""
    given = [
        [np.array([[1.23, 2.34], [30.45, 3.21], [28.76, 40.12], [2.11, 39.87]]),
         np.array([[10.01, 10.02], [20.03, 10.04], [15.05, 20.06]])],
        [np.array([[50.5, 50.5], [60.25, 51.75], [55.55, 62.22]])],
    ]  # fmt: skip
    kept = stored([given]).polygons[0]
    assert [[r.tolist() for r in part] for part in kept] == [
        [r.tolist() for r in part] for part in given
    ]


@pytest.mark.parametrize("seed", range(4))
def test_masks_that_reach_the_edges_of_a_tile_keep_their_area(seed):
    """Within 1 %, and within the tile: where an outline cannot go out, its other sides do.

    Patches of smooth noise in tiles of 6 to 40 px, each of which touches an edge or several.
    """
    rng = np.random.default_rng(seed)
    for _ in range(40):
        n = int(rng.integers(6, 40))
        patches = label(gaussian(rng.random((n, n)), rng.uniform(0.6, 3)) > 0.5, connectivity=1)
        if not patches.any():
            continue
        mask = patches == 1 + np.argmax(np.bincount(patches.ravel())[1:])
        found = compact(Findings([[0, 0, n, n]], polygons=[outline(mask)]), (n, n)).rounded()
        assert area(found.polygons[0]) == pytest.approx(mask.sum(), rel=0.01)
        points = np.concatenate([ring for part in found.polygons[0] for ring in part])
        assert points.min() >= 0 and points.max() <= n


def test_an_outline_that_cannot_be_simplified_is_stored_as_it_is():
    """A comb with gaps of one pixel would cross itself: it keeps its points, and its area."""
    mask = np.zeros((60, 60), bool)
    mask[5:50:2, 5:50] = mask[5:50, 5] = True
    assert area(stored([outline(mask)]).polygons[0]) == pytest.approx(mask.sum(), rel=0.01)


def test_what_reaches_out_of_a_tile_is_cut_there():
    """An outline given by a model may go on outside: its area is that of what is inside."""
    disk = np.asarray(shapely.Point(0, 50).buffer(20, quad_segs=40).exterior.coords)[:-1]
    found = compact(Findings([[0, 30, 20, 70]], polygons=[disk]), (100, 100))
    assert area(found.polygons[0]) == pytest.approx(np.pi * 200, rel=0.01)
