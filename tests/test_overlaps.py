"""Overlap is that of the shapes there are: in suppression, merges, comparison and evaluation."""

import numpy as np
import pytest
import shapely
from exported import Picture

from tilevision.adapters.compaction import compact, suppress
from tilevision.evaluation import compare, evaluate
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.overlaps import Bodies, Outlines, meetings
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.seams import merge

SIZE = (400, 300)
TILE = Tile(0, 0, Box(0, 0, *SIZE))


def bar(angle: float, centre: float = 150.0) -> np.ndarray:
    """Return the corners of a bar of 120 × 10 px, turned by `angle` about `centre`."""
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    a, b = along * 60, across * 5
    return np.array([-a - b, a - b, a + b, b - a]) + centre


def crossing(column: str, labels: tuple[str, str] = ("ship", "ship")) -> Findings:
    """Return two bars that cross at right angles: equal upright boxes, IoU of the shapes 0.04."""
    rings = [bar(np.pi / 4), bar(-np.pi / 4)]
    boxes = [[*r.min(axis=0), *r.max(axis=0)] for r in rings]
    return Findings(boxes, [0.9, 0.8], labels, **{column: rings})


def result_of(findings: Findings, **settings) -> Result:
    rows, facts = [TileRow(0.0, TILE, "done")], RunFacts("r", "complete")
    seen = [TileFindings(TILE, findings)]
    return Result(Picture(), rows, seen, MergeSettings(**settings), facts, "a.tif")


@pytest.mark.parametrize("column", ["oriented", "polygons"])
@pytest.mark.parametrize("method", ["seam", "nms", "nmm", "wbf"])
def test_crossing_shapes_are_two_objects_in_every_merge(column, method) -> None:
    """Two bars share 4 % of their area, whatever their upright boxes share."""
    assert len(merge([TileFindings(TILE, crossing(column))], method)) == 2


@pytest.mark.parametrize("column", ["oriented", "polygons"])
def test_crossing_shapes_are_two_objects_for_a_model_with_nms(column) -> None:
    """`nms=` of a model measures the same."""
    assert suppress(crossing(column), 0.5).all()
    assert len(compact(crossing(column), SIZE, nms=0.5)) == 2


@pytest.mark.parametrize("column", ["oriented", "polygons"])
def test_crossing_shapes_do_not_match(column) -> None:
    """Neither `compare` nor `evaluate` (F1 and AP) takes one bar for the other."""
    both = crossing(column)
    one, other = result_of(both.take([0])), result_of(both.take([1]))
    assert len(compare(one, other).both_a) == 0
    seen = evaluate(other, one.findings)
    assert (seen.f1, seen.ap50, seen.ap) == (0, 0, 0)
    same = evaluate(one, one.findings)
    assert (same.f1, same.ap50, same.ap) == pytest.approx((1, 1, 1))


def test_outlines_are_compared_with_boxes_as_boxes() -> None:
    """Truth of boxes is no smaller for a detection's outline: a diamond fills half of its box."""
    ring = [[50, 0], [100, 50], [50, 100], [0, 50]]
    found = Findings([[0, 0, 100, 100]], [0.9], polygons=[ring])
    seen = evaluate(result_of(found), Findings([[0, 0, 100, 100]]))
    assert (seen.f1, seen.ap) == pytest.approx((1, 1))


def test_overlap_is_what_shapely_says() -> None:
    """IoU and IoS of outlines, of an outline with a box, and of boxes."""
    found = Findings(
        [[0, 0, 10, 10], [0, 0, 10, 10], [5, 0, 15, 10]],
        [0.9, 0.8, 0.7],
        polygons=[[[0, 0], [10, 0], [0, 10]], None, None],
    )
    bodies = Bodies.of(found)
    a, b = np.array([0, 0, 1]), np.array([1, 2, 2])
    triangle, square, other = (
        shapely.Polygon([(0, 0), (10, 0), (0, 10)]),
        shapely.box(0, 0, 10, 10),
        shapely.box(5, 0, 15, 10),
    )
    pairs = [(triangle, square), (triangle, other), (square, other)]
    shared = np.array([one.intersection(two).area for one, two in pairs])
    areas = np.array([(one.area, two.area) for one, two in pairs])
    assert bodies.overlap(a, bodies, b) == pytest.approx(shared / (areas.sum(axis=1) - shared))
    assert bodies.overlap(a, bodies, b, "ios") == pytest.approx(shared / areas.min(axis=1))


def test_points_are_alike_by_distance() -> None:
    """Points 2 px apart are one object, 30 px apart two, though none has an extent."""
    points = [(50, 50), (52, 50), (82, 50)]
    found = Findings([(*p, *p) for p in points], [0.9, 0.8, 0.7], points=points)
    assert suppress(found, 0.5).tolist() == [True, False, True]
    assert len(merge([TileFindings(TILE, found)], "nms")) == 2
    near = Findings([(51, 50, 51, 50)], points=[(51, 50)])
    assert evaluate(result_of(found.take([0])), near).f1 == 1
    far = Findings([(80, 50, 80, 50)], points=[(80, 50)])
    assert evaluate(result_of(found.take([0])), far).f1 == 0


def seen_in_tiles(column: str | None) -> list[TileFindings]:
    """Return what two tiles see of a bar of 260 × 20 px, each its own part."""
    seen = []
    for tile in Grid.by_tile(200, overlap=0.2).tiles((360, 200)):
        x0, x1 = max(50, tile.box.x0) - tile.box.x0, min(310, tile.box.x1) - tile.box.x0
        box = [x0, 90, x1, 110]
        ring = [[x0, 90], [x1, 90], [x1, 110], [x0, 110]]
        columns = {} if column is None else {column: [ring]}
        seen.append(TileFindings(tile, Findings([box], [0.9], **columns)))
    return seen


@pytest.mark.parametrize("column", ["oriented", "polygons"])
@pytest.mark.parametrize("method", ["seam", "nmm", "wbf"])
def test_box_and_shape_of_what_is_merged_are_one_object(column, method) -> None:
    """The shape reaches as far as the box; what "wbf" averages has no outline."""
    more = {} if method == "seam" else {"match_metric": "ios", "match_threshold": 0.1}
    found = merge(seen_in_tiles(column), method, **more)
    assert len(found) == 1
    if method != "wbf":
        assert found.boxes[0] == pytest.approx([50, 90, 310, 110])
    if column == "polygons" and method == "wbf":
        assert found.polygons == (None,)
        return
    shape = found.oriented[0] if column == "oriented" else found.polygons[0][0][0]
    assert [*shape.min(axis=0), *shape.max(axis=0)] == pytest.approx(found.boxes[0])


def test_a_view_without_outline_lends_its_box_to_the_union() -> None:
    """One tile gives an outline, the other a box alone: the union holds both."""
    with_shape, bare = seen_in_tiles("polygons")[0], seen_in_tiles(None)[1]
    for order in ([with_shape, bare], [bare, with_shape]):
        found = merge(order, "nmm", match_metric="ios", match_threshold=0.1)
        ring = found.polygons[0][0][0]
        assert [*ring.min(axis=0), *ring.max(axis=0)] == pytest.approx(found.boxes[0])


def test_averaged_rotated_boxes_ignore_where_corners_begin() -> None:
    """The mean of two equal rotated boxes is that box, from whichever corner each is told."""
    ring = bar(0.3)
    rings = [ring, np.roll(ring, 2, axis=0)[::-1]]
    boxes = [[*r.min(axis=0), *r.max(axis=0)] for r in rings]
    found = Findings(boxes, [0.9, 0.8], oriented=rings)
    merged = merge([TileFindings(TILE, found)], "wbf")
    assert (
        shapely.Polygon(merged.oriented[0]).equals_exact(shapely.Polygon(ring).normalize(), 1e-6)
        or shapely.Polygon(merged.oriented[0]).symmetric_difference(shapely.Polygon(ring)).area
        < 1e-6
    )


VEHICLE = Findings([(50, 90, 90, 110), (51, 90, 90, 110)], [0.9, 0.6], ["car", "truck"])


@pytest.mark.parametrize("method", ["seam", "nms", "nmm", "wbf"])
def test_class_agnostic_holds_within_a_tile(method) -> None:
    """One vehicle under two names is one object, the better one, in every merge."""
    seen = [TileFindings(TILE, VEHICLE)]
    assert merge(seen, method).labels.tolist() == ["car", "truck"]
    assert merge(seen, method, class_agnostic=True).labels.tolist() == ["car"]


def test_class_agnostic_leaves_two_objects_of_one_name() -> None:
    """What a tile gives twice under one name stays two, as without `class_agnostic`."""
    seen = [TileFindings(TILE, Findings(VEHICLE.boxes, VEHICLE.scores, ["car", "car"]))]
    assert len(merge(seen, class_agnostic=True)) == 2


def test_a_model_suppresses_across_names_if_it_is_asked_to() -> None:
    """`nms=` works within each name; with `class_agnostic` across names."""
    assert suppress(VEHICLE, 0.5).tolist() == [True, True]
    assert suppress(VEHICLE, 0.5, class_agnostic=True).tolist() == [True, False]


def test_key_points_travel_with_their_box() -> None:
    """Key points are placed in the image and stay with the detection that is kept."""
    pose = [[[10, 20, 0.9], [30, 40, 0.0]]]
    tile = Tile(0, 1, Box(100, 50, 300, 250), scale=0.5)
    found = merge([TileFindings(tile, Findings([(5, 5, 40, 45)], [0.9], keypoints=pose))])
    assert found.keypoints.tolist() == [[[120, 90, 0.9], [160, 130, 0.0]]]


def touching(a: np.ndarray, b: np.ndarray, kind_a: np.ndarray, kind_b: np.ndarray) -> set:
    """Return every pair of boxes that touch, compared one by one."""
    low, high = (
        np.maximum(a[:, None, :2], b[None, :, :2]),
        np.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    meet = (low <= high).all(axis=2) & (kind_a[:, None] == kind_b)
    return set(zip(*map(np.ndarray.tolist, np.nonzero(meet)), strict=True))


@pytest.mark.parametrize("sides", [0, 1e-6, 5, 80, "few large", "thin"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole numbers", "fractions"])
def test_boxes_that_touch_are_found_once_each(sides, whole) -> None:
    """Every pair that shares an edge or more, of one kind: as if all were compared with all."""
    rng = np.random.default_rng(3)
    parts = []
    for n in (300, 200):
        size = np.full((n, 2), 5.0 if isinstance(sides, str) else sides)
        if sides == "few large":
            size[::50] = 3000
        if sides == "thin":
            size[::2, 0], size[1::2, 1] = 150, 150
        low = rng.uniform(-1000, 1000, (n, 2)) / (4 if whole else 1)
        boxes = np.hstack([low, low + size])
        parts += [np.round(boxes) if whole else boxes, rng.integers(0, 3, n)]
    a, kind_a, b, kind_b = parts
    here, there = meetings(a, b, kind_a, kind_b)
    found = list(zip(here.tolist(), there.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == touching(a, b, kind_a, kind_b)


def test_boxes_that_touch_are_found_among_very_many_kinds() -> None:
    """Ten thousand classes times a million zones leave no pair out, and add none."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 50, (400, 2))
    boxes, kinds = np.hstack([low, low + 10]), rng.integers(0, 3, 400) * 5 * 10**9
    found = set(zip(*map(np.ndarray.tolist, meetings(boxes, boxes, kinds, kinds)), strict=True))
    assert found == touching(boxes, boxes, kinds, kinds)


def blobs(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return bumpy outlines near (1000, 1000); a third with a hole, some of two parts."""
    centre, corners = rng.uniform(1000, 1040, (n, 2)), rng.integers(3, 25, n)
    shapes = []
    for (x, y), k in zip(centre, corners, strict=True):
        angle = np.sort(rng.uniform(0, 2 * np.pi, k))
        far = rng.uniform(4, 20, k)
        shapes.append(shapely.Polygon(np.c_[x + far * np.cos(angle), y + far * np.sin(angle)]))
    found = shapely.make_valid(np.array(shapes, dtype=object))
    found[::3] = shapely.difference(found[::3], shapely.buffer(shapely.points(centre[::3]), 2))
    found[1::5] = shapely.union(found[1::5], shapely.box(1100, 1100, 1110, 1105))
    return found


@pytest.mark.parametrize("cut", [None, "across", "along", "corner"])
def test_shared_areas_are_those_of_geos(cut) -> None:
    """Area of two outlines and of what they share, within a box or at all: as GEOS computes it."""
    rng = np.random.default_rng(2)
    shapes = blobs(60, rng)
    a, b = rng.integers(0, 60, 400), rng.integers(0, 60, 400)
    sides = {"across": (1010, 0, 1025, 5000), "along": (0, 1010, 5000, 1025)}
    room = np.tile(sides.get(cut, (1010, 1010, 1025, 1025)), (400, 1)).astype(float)
    one, two = shapes[a], shapes[b]
    if cut:
        frame = shapely.box(*room.T)
        one, two = shapely.intersection(one, frame), shapely.intersection(two, frame)
    right = [shapely.area(one), shapely.area(two), shapely.area(shapely.intersection(one, two))]
    found = Outlines(shapes).shared(a, b, room if cut else None)
    np.testing.assert_allclose(found, right, atol=1e-6)


def test_shared_areas_of_outlines_of_many_points_are_those_of_geos() -> None:
    """Two rings of 500 points, which go to GEOS: the area they share."""
    rings = np.array([shapely.Point(x, 0).buffer(10, quad_segs=125) for x in (0, 7)], dtype=object)
    shared = Outlines(rings).shared(np.array([0]), np.array([1]))[2]
    assert shared[0] == pytest.approx(shapely.area(shapely.intersection(*rings)))


def test_outlines_that_only_touch_the_room_share_nothing_there() -> None:
    """An area and a line where a shape touches the room, against a shape that lies beyond it."""
    touching = shapely.multipolygons([shapely.box(-2, -2, 5, 12), shapely.box(10, 2, 14, 6)])
    outlines = Outlines(np.array([touching, shapely.box(20, 20, 30, 30)], dtype=object))
    one, two = np.array([0]), np.array([1])
    areas = outlines.shared(one, two, np.array([[0.0, 0.0, 10.0, 10.0]]))
    assert [area.tolist() for area in areas] == [[50.0], [0.0], [0.0]]
