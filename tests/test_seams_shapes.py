"""Seams of polygons, rotated boxes and points."""

from __future__ import annotations

import itertools
import random

import numpy as np
import outlined
import pytest
import shapely
from shapely import affinity

from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box, MultiPolygon
from tilevision.grid import Grid, Tile
from tilevision.seams import merge

SIZE = (500, 400)


def polygon_of(geometry: shapely.Geometry) -> list[list[np.ndarray]]:
    """Return a shapely geometry as parts of rings."""
    return [
        [np.array(ring.coords)[:-1] for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(geometry)
        if part.geom_type == "Polygon"
    ]


def look(shapes: list[shapely.Geometry], overlap: float | str = 0.2) -> list[TileFindings]:
    """Return what tiles of 200 px see of `shapes`, each as the polygon clipped to the tile."""
    out = []
    for tile in Grid.by_tile(200, overlap).tiles(SIZE):
        seen = [shapely.intersection(shape, shapely.box(*tile.box.as_tuple())) for shape in shapes]
        corner = (tile.box.x0, tile.box.y0)
        moved = [affinity.translate(part, -corner[0], -corner[1]) for part in seen if part.area > 1]
        boxes = np.array([part.bounds for part in moved]).reshape(-1, 4)
        out.append(TileFindings(tile, Findings(boxes, polygons=list(map(polygon_of, moved)))))
    return out


def shape(row: MultiPolygon | None) -> shapely.Geometry:
    """Return a polygon of `Findings` as a shapely geometry."""
    assert row is not None
    return shapely.union_all([shapely.Polygon(part[0], part[1:]) for part in row])


@pytest.mark.parametrize("overlap", [0.2, 0.1, 0.0])
def test_a_polygon_across_seams_is_put_together(overlap: float) -> None:
    """A ring-shaped object over four tiles comes back with its hole, at any overlap."""
    ring = shapely.Point(180, 170).buffer(90) - shapely.Point(180, 170).buffer(40)
    found = merge(look([ring], overlap), size=SIZE)
    assert len(found) == 1
    assert found.polygons is not None
    whole = shape(found.polygons[0])
    assert whole.symmetric_difference(ring).area < 0.01 * ring.area


@pytest.mark.parametrize("overlap", [0.2, 0.1])
def test_slanting_neighbours_are_told_apart_by_their_polygons(overlap: float) -> None:
    """Thin parallel diagonals, whose boxes overlap almost wholly, stay as many as they are."""
    lines = [
        shapely.LineString([(20 + shift, 20), (300 + shift, 330)]).buffer(5)
        for shift in (0, 25, 50, 75)
    ]
    found = merge(look(lines, overlap), size=SIZE)
    assert len(found) == 4
    assert found.polygons is not None
    areas = sorted(shape(row).area for row in found.polygons)
    assert np.allclose(areas, sorted(line.area for line in lines), rtol=0.02)


def test_a_broken_polygon_is_repaired_not_fatal() -> None:
    """A bow tie cut by a seam is joined as well as it can be, without an error."""
    left, right = Tile(0, 0, Box(0, 0, 100, 100)), Tile(0, 1, Box(80, 0, 180, 100))
    bow = [[60, 20], [99, 60], [60, 60], [99, 20]]
    tie = [[0, 20], [30, 60], [0, 60], [30, 20]]
    tiles = [
        TileFindings(left, Findings([[60, 20, 100, 60]], polygons=[bow])),
        TileFindings(right, Findings([[0, 20, 30, 60]], polygons=[tie])),
    ]
    found = merge(tiles, size=(180, 100))
    assert len(found) == 1
    assert found.boxes.tolist() == [[60, 20, 110, 60]]


def corners(centre: tuple[float, float], length: float, width: float, degrees: float) -> np.ndarray:
    """Return the corners of a rotated box."""
    turn = np.radians(degrees)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    signs = [(1, 1), (1, -1), (-1, -1), (-1, 1)]
    return np.array([centre + a * along * length / 2 + b * across * width / 2 for a, b in signs])


def test_rotated_boxes_are_matched_by_their_own_outline() -> None:
    """Two crossing ships seen by two tiles stay two, and a cut one becomes its tightest box."""
    left, right = Tile(0, 0, Box(0, 0, 100, 100)), Tile(0, 1, Box(60, 0, 160, 100))
    ships = [corners((80, 40), 34, 8, 45), corners((80, 40), 34, 8, 135)]
    long = [corners((70, 80), 60, 10, 0), corners((90, 80), 60, 10, 0)]  # x 40..100 and 60..120
    tiles = []
    for tile, cut in ((left, long[0]), (right, long[1])):
        seen = np.array([*ships, cut]) - [tile.box.x0, 0]
        boxes = np.hstack([seen.min(axis=1), seen.max(axis=1)])
        tiles.append(TileFindings(tile, Findings(boxes, oriented=seen)))
    found = merge(tiles, size=(160, 100))
    assert len(found) == 3
    assert found.oriented is not None
    outlines = [shapely.Polygon(row) for row in found.oriented]
    whole = shapely.box(40, 75, 120, 85)
    assert min(outline.symmetric_difference(whole).area for outline in outlines) < 1e-6


def test_points_are_matched_by_distance() -> None:
    """The same point seen a little apart is one; two points apart are two."""
    left, right = Tile(0, 0, Box(0, 0, 100, 100)), Tile(0, 1, Box(80, 0, 180, 100))
    there = np.array([[90.0, 50.0], [90.0, 80.0], [20.0, 20.0]])
    again = np.array([[91.5, 51.0], [170.0, 20.0]]) - [80, 0]
    tiles = [
        TileFindings(tile, Findings(np.hstack([xy, xy]), points=xy))
        for tile, xy in ((left, there), (right, again))
    ]
    found = merge(tiles, size=(180, 100))
    assert len(found) == 4
    assert found.points is not None


def test_other_columns_come_from_the_best_view() -> None:
    """Texts, attributes and class numbers of the joined object are those of its best view."""
    left, right = Tile(0, 0, Box(0, 0, 100, 100)), Tile(0, 1, Box(80, 0, 180, 100))
    tiles = [
        TileFindings(
            left, Findings([[40, 20, 100, 40]], [0.4], ["line"], [7], texts=["The quick"])
        ),
        TileFindings(
            right,
            Findings([[0, 20, 60, 40]], [0.8], ["line"], [7], attributes=[{"language": "en"}]),
        ),
    ]
    found = merge(tiles, size=(180, 100))
    assert found.boxes.tolist() == [[40, 20, 140, 40]]
    assert (found.scores.tolist(), found.class_ids.tolist()) == ([0.8], [7])
    assert found.attributes == ({"language": "en"},)


# Of 30 scenes, how many may be off: pieces of a winding shape that several tiles saw parts of are
# not always told from another's.
OFF = {"worms": 1}


@pytest.mark.parametrize("name", sorted(outlined.SCENES))
def test_outlines_are_counted_as_they_are(name: str) -> None:
    """Discs, worms, rings, horseshoes, cells: the untiled count, in any order of tiles."""
    off = 0
    for seed, overlap in itertools.product(range(10), (0.1, 0.25, 0.5)):
        shapes = outlined.SCENES[name](np.random.default_rng(seed), (450, 400), 8)
        tiles = outlined.look(shapes, Grid.by_tile(200, overlap).tiles((450, 400)))
        found = merge(tiles, size=(450, 400))
        counts = outlined.compare(shapes, outlined.outlines(found))
        assert abs(counts["found"] - len(shapes)) + counts["missed"] + counts["doubled"] <= 2
        off += (counts["found"], counts["missed"]) != (len(shapes), 0)
        random.Random(seed).shuffle(tiles)
        assert merge(tiles, size=(450, 400)) == found
    assert off <= OFF.get(name, 0)


def test_a_tile_that_borders_on_a_piece_does_not_take_it_from_one_that_looked_over_the_edge() -> (
    None
):
    """Cells that share walls: the neighbour across the edge is not what the piece is part of."""
    shapes = outlined.touching(np.random.default_rng(200), (450, 400), 8)
    tiles = outlined.look(shapes, Grid.by_tile(200, 0.25).tiles((450, 400)))
    assert len(merge(tiles, size=(450, 400))) == len(shapes)


LEFT, RIGHT = Tile(0, 0, Box(0, 0, 100, 100)), Tile(0, 1, Box(80, 0, 180, 100))


def seen_by(left: list[shapely.Geometry], right: list[shapely.Geometry]) -> list[shapely.Geometry]:
    """Return what becomes of the outlines that two tiles report, each as it is given."""
    tiles = [
        TileFindings(tile, outlined.findings(shapes, ["cell"] * len(shapes), tile))
        for tile, shapes in ((LEFT, left), (RIGHT, right))
    ]
    return list(outlined.outlines(merge(tiles, size=(180, 100))))


def test_a_cut_piece_is_part_of_the_object_that_another_tile_saw_whole() -> None:
    """An object that its tile's edge cut in two there is the one that the other tile saw."""
    whole = shapely.box(84, 20, 130, 60)
    upper, lower = shapely.box(84, 20, 100, 44), shapely.box(84, 46, 100, 60)
    found = seen_by([upper, lower], [whole])
    assert len(found) == 1
    assert found[0].equals(whole)


def test_two_pieces_of_one_tile_are_one_where_the_other_tile_saw_them_hang_together() -> None:
    """A horseshoe too long for the overlap is put together from its bend and its arms."""
    arms = [shapely.box(40, 20, 100, 30), shapely.box(40, 50, 100, 60)]
    bend = shapely.union_all(
        [shapely.box(80, 20, 130, 30), shapely.box(80, 50, 130, 60), shapely.box(120, 20, 130, 60)]
    )
    found = seen_by(arms, [bend])
    assert len(found) == 1
    assert found[0].symmetric_difference(shapely.union_all([*arms, bend])).area < 1e-6


def test_a_whole_object_within_a_whole_object_stays() -> None:
    """What ends before its tile's edge is not a piece, even if the other tile did not see it."""
    assert len(seen_by([shapely.box(86, 30, 92, 36)], [shapely.box(84, 20, 130, 60)])) == 2


def test_a_cut_thing_in_a_cut_thing_stays() -> None:
    """Where the tile that cut it saw it within the object as well, it is a thing of its own."""
    within, cut = shapely.box(90, 30, 100, 40), shapely.box(84, 20, 100, 60)
    assert len(seen_by([within, cut], [shapely.box(84, 20, 130, 60)])) == 2


def test_a_piece_of_another_class_stays() -> None:
    """A nucleus that an edge cuts is not part of the cell around it, unless classes may join."""
    tiles = [
        TileFindings(LEFT, outlined.findings([shapely.box(90, 30, 100, 40)], ["nucleus"], LEFT)),
        TileFindings(RIGHT, outlined.findings([shapely.box(84, 20, 130, 60)], ["cell"], RIGHT)),
    ]
    assert len(merge(tiles, size=(180, 100))) == 2
    assert merge(tiles, class_agnostic=True, size=(180, 100)).labels.tolist() == ["cell"]


def test_the_border_of_the_image_cuts_nothing() -> None:
    """What lies on the image's own border is whole, within another object or not."""
    assert len(seen_by([shapely.box(84, 0, 96, 10)], [shapely.box(82, 0, 130, 60)])) == 2


@pytest.mark.parametrize(("misled", "missing"), [(True, 0.0), (False, 0.2)])
def test_tiles_that_looked_further_are_believed_where_edges_mislead(
    misled: bool, missing: float
) -> None:
    """Reports near an edge that others deny are left out, not where tiles miss as many anyway."""
    rng = np.random.default_rng(3)
    corner = np.stack(np.meshgrid(np.arange(8, 980, 21), np.arange(8, 980, 21)), -1).reshape(-1, 2)
    real = shapely.box(*(corner + rng.integers(0, 3, corner.shape)).T, *(corner + 12).T)
    bounds, seen, reported = shapely.bounds(real), [], np.zeros(len(real), dtype=bool)
    for tile in Grid.by_tile(200, 0.5).tiles((1000, 1000)):
        frame = np.array(tile.box.as_tuple())
        room = np.minimum(bounds[:, :2] - frame[:2], frame[2:] - bounds[:, 2:]).min(axis=1)
        there = (room >= 0) & (rng.random(len(real)) >= missing)
        reported |= there
        shown = list(real[there])
        if misled and frame[2] < 1000:  # what this tile's right edge alone makes
            shown.append(shapely.box(frame[2] - 8, frame[1] + 60, frame[2], frame[1] + 63))
        seen.append(TileFindings(tile, outlined.findings(shown, ["cell"] * len(shown), tile)))
    assert len(merge(seen, size=(1000, 1000))) == reported.sum()
