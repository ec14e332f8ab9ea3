"""Seams: what several tiles saw becomes one detection an object."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import scenes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tilevision.errors import GridError, RunError
from tilevision.findings import Findings, TileFindings, plain
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.seams import METHODS, Detections, Sightings, matching, merge
from tilevision.seams.detections import gather
from tilevision.seams.matching import assign, components, heaviest_first

LEFT, RIGHT = Tile(0, 0, Box(0, 0, 100, 100)), Tile(0, 1, Box(80, 0, 180, 100))
SIZE = (180, 100)


def two(left: list[list[float]], right: list[list[float]], **columns: object) -> list[TileFindings]:
    """Return findings of two tiles, given as boxes of the image."""
    return [
        TileFindings(tile, Findings(np.reshape(boxes, (-1, 4)) - [tile.box.x0, 0] * 2, **columns))  # type: ignore[arg-type]
        for tile, boxes in ((LEFT, left), (RIGHT, right))
    ]


@st.composite
def seen(draw: st.DrawFn) -> list[TileFindings]:
    """Draw a scene, a grid and an observer, and return what is seen."""
    name = draw(st.sampled_from(sorted(scenes.SCENES)))
    make = {"small": 60, "mixed": 40, "crowd": 120, "dense": 120, "elongated": 20, "nested": 12}
    scene = getattr(scenes, name)(draw(st.integers(0, 9)), (900, 800), make[name])
    tiles = scenes.grid_tiles(scene.size, draw(st.sampled_from([0.0, 0.1, 0.2, "7px"])), 260)
    observer = draw(st.sampled_from([scenes.PERFECT, scenes.NOISY]))
    return scenes.observe(scene, tiles, observer, draw(st.integers(0, 9)))


@settings(max_examples=30, deadline=None)
@given(
    tiles=seen(),
    seed=st.integers(0, 99),
    min_score=st.none() | st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    classes=st.none() | st.sets(st.sampled_from(["cell", "car", "dust"])),
    agnostic=st.booleans(),
)
def test_filtering_all_tiles_at_once_is_filtering_each(
    tiles: list[TileFindings],
    seed: int,
    min_score: float | None,
    classes: set[str] | None,
    agnostic: bool,
) -> None:
    """Sightings hold bit for bit what gathering the filtered findings of each tile gives."""
    rng = np.random.default_rng(seed)
    named = [replace(item, findings=_varied(item.findings, rng)) for item in tiles]
    sightings = Sightings(named, (900, 800))
    sightings.keep = True
    each = [replace(item, findings=item.findings.filter(min_score, classes)) for item in named]
    right = gather(each, agnostic, (900, 800))
    for _ in range(2):  # the second time from what was kept
        found = sightings.detections(min_score, classes, class_agnostic=agnostic)
        for field in fields(Detections):
            _check_same(getattr(found, field.name), getattr(right, field.name))


def _varied(found: Findings, rng: np.random.Generator) -> Findings:
    """Return findings with other classes and scores, some of none, and outlines in some tiles."""
    n = len(found)
    scores = np.where(rng.random(n) < 0.2, np.nan, np.round(rng.random(n), 1))
    columns = found.columns | {"labels": rng.choice(["cell", "car", "dust"], n), "scores": scores}
    if rng.random() < 0.5:
        columns["polygons"] = [
            [[x0, y0], [x1, y0], [x1, y1]] if rng.random() < 0.7 else None
            for x0, y0, x1, y1 in found.boxes
        ]
    if rng.random() < 0.5:
        columns["points"] = found.boxes[:, :2]
    return Findings(**columns)


def _check_same(one: object, other: object) -> None:
    if isinstance(other, dict):
        assert isinstance(one, dict)
        assert one.keys() == other.keys()
        for name in other:
            _check_same(one[name], other[name])
    elif isinstance(other, np.ndarray):
        assert isinstance(one, np.ndarray)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.dtype == object or one.tobytes() == other.tobytes()
        assert one.dtype != object or one.tolist() == other.tolist()
    else:
        assert plain(one) == plain(other)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=10, deadline=None)
@given(tiles=seen(), seed=st.integers(0, 99))
def test_order_changes_nothing(method: str, tiles: list[TileFindings], seed: int) -> None:
    """Tiles in any order, and findings in any order, merge to the same."""
    rng = np.random.default_rng(seed)
    shuffled = []
    for place in rng.permutation(len(tiles)):
        tile, found = tiles[place].tile, tiles[place].findings
        rows = rng.permutation(len(found))
        columns = {name: column[rows] for name, column in found.columns.items()}
        shuffled.append(TileFindings(tile, Findings(**columns)))
    assert merge(tiles, method) == merge(shuffled, method)


@settings(max_examples=15, deadline=None)
@given(tiles=seen())
def test_merging_twice_changes_nothing(tiles: list[TileFindings]) -> None:
    """What was merged, given as one tile over the whole image, stays as it is."""
    once = merge(tiles)
    whole = Tile(0, 0, Box(0, 0, 900, 800))
    assert merge([TileFindings(whole, once)]) == once


@settings(max_examples=15, deadline=None)
@given(tiles=seen())
def test_own_detections_are_never_joined(tiles: list[TileFindings]) -> None:
    """The result has at least as many detections as the fullest tile, and all of one tile's."""
    for item in tiles:
        assert merge([item], size=(900, 800)) == item.in_image()
    assert len(merge(tiles)) >= max(len(item.findings) for item in tiles)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), overlap=st.sampled_from([0.0, 0.1, 0.2]))
def test_an_object_seen_whole_keeps_that_box(seed: int, overlap: float) -> None:
    """Where a tile holds an object with room to spare, exactly that box is in the result."""
    scene = scenes.mixed(seed, (900, 800), 40)
    tiles = scenes.grid_tiles(scene.size, overlap, 260)
    merged = merge(scenes.observe(scene, tiles), size=scene.size)
    for box in scene.boxes:
        inside = Box(*(box + np.array([-4, -4, 4, 4])))
        if any(tile.box.contains(inside) for tile in tiles):
            assert (np.abs(merged.boxes - box).max(axis=1) < 1e-9).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overlap"),
    [(name, overlap) for name in scenes.SCENES for overlap in (0.1, 0.2)],
)
def test_perfect_observers_are_counted_right(name: str, overlap: float) -> None:
    """With overlap and perfect tiles, F1 is 0.99 or more and the count within 1 %."""
    scene = scenes.SCENES[name](7)
    found = merge(scenes.observe(scene, scenes.grid_tiles(scene.size, overlap)), size=scene.size)
    assert scenes.f1(scene, found) >= 0.99
    assert abs(scenes.count_error(scene, found)) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(scenes.SCENES))
def test_without_overlap_the_seam_line_joins(name: str) -> None:
    """With no overlap at all, F1 is 0.95 or more and the count within 3 %."""
    scene = scenes.SCENES[name](7)
    found = merge(scenes.observe(scene, scenes.grid_tiles(scene.size, 0.0)), size=scene.size)
    assert scenes.f1(scene, found) >= 0.95
    assert abs(scenes.count_error(scene, found)) <= 0.03


@pytest.mark.parametrize("overlap", [0.2, 0.0])
def test_boxes_that_stop_short_of_the_edge_still_join(overlap: float) -> None:
    """A detector whose boxes end 2 px before every tile edge is counted right all the same."""
    scene = scenes.elongated(7)
    seen = []
    for item in scenes.observe(scene, scenes.grid_tiles(scene.size, overlap)):
        width, height = item.tile.output_size
        boxes = np.clip(item.findings.boxes, 2, [width - 2, height - 2] * 2)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        seen.append(TileFindings(item.tile, Findings(boxes[kept], item.findings.scores[kept])))
    found = merge(seen, size=scene.size)
    assert scenes.f1(scene, found) >= 0.99


@pytest.mark.slow
def test_a_crowd_keeps_what_is_confirmed_and_drops_what_is_contradicted() -> None:
    """Noise upon the objects of a crowd goes, by the other tiles' testimony; the crowd stays."""
    kept, false = {}, {}
    for name in ("crowd", "nested"):
        scene = scenes.SCENES[name](7)
        tiles = scenes.grid_tiles(scene.size, 0.2)
        observer = scenes.Observer(misses=0.05, jitter=0.02, spurious=0.15)
        seen = scenes.observe(scene, tiles, observer, 4)
        found, every = merge(seen, size=scene.size), merge(seen, "none", size=scene.size)
        real, noise = every.class_ids >= 0, every.class_ids < 0
        kept[name] = len(set(found.class_ids.tolist()) - {-1}) / len(set(every.class_ids[real]))
        false[name] = (found.class_ids < 0).sum() / noise.sum()
    assert min(kept.values()) > 0.98
    assert false["crowd"] < 0.65


def test_an_object_across_many_tiles_is_one() -> None:
    """An object longer than three tiles is the union of its views."""
    tiles = Grid.by_tile(100, 0.2).tiles((500, 100))
    box = np.array([[10.0, 30, 480, 60]])
    scene = scenes.Scene("long", (500, 100), box, np.array(["pipe"], dtype=object))
    found = merge(scenes.observe(scene, tiles), size=(500, 100))
    assert np.allclose(found.boxes, box)


def test_neighbours_in_a_crowd_stay_apart() -> None:
    """Two overlapping objects, both seen by both tiles, stay two."""
    pair = [[82.0, 20, 97, 50], [84.0, 24, 98, 56]]
    assert len(merge(two(pair, pair), size=SIZE)) == 2


def test_classes_stay_apart_unless_agnostic() -> None:
    """A wheel is not the car it lies on, unless classes do not count."""
    tiles = [
        TileFindings(LEFT, Findings([[60, 20, 95, 60]], [0.9], ["car"])),
        TileFindings(RIGHT, Findings([[0, 20, 15, 60]], [0.5], ["van"])),
    ]
    assert len(merge(tiles, size=SIZE)) == 2
    agnostic = merge(tiles, class_agnostic=True, size=SIZE)
    assert agnostic.labels.tolist() == ["car"]
    assert agnostic.boxes.tolist() == [[60, 20, 95, 60]]


def test_the_best_whole_view_is_kept_as_it_is() -> None:
    """Score and text come with the box of the best view that saw the object whole."""
    tiles = two([[70, 20, 95, 40]], [[85, 20, 105, 40]])
    tiles[0] = TileFindings(LEFT, Findings([[82, 20, 97, 40]], [0.6], texts=["whole"]))
    tiles[1] = TileFindings(RIGHT, Findings([[0, 20, 17, 40]], [0.9], texts=["cut"]))
    found = merge(tiles, size=SIZE)
    assert found.boxes.tolist() == [[82, 20, 97, 40]]
    assert found.texts == ("whole",)


def test_a_fine_grid_keeps_the_large_objects_of_a_coarse_one() -> None:
    """The whole image at low scale and tiles at full scale merge to each object once."""
    scene = scenes.mixed(3, (1200, 1000), 80)
    fine = scenes.grid_tiles(scene.size, 0.2, 200)
    whole = Tile(0, 0, Box(0, 0, 1200, 1000), 0.25, id="whole")
    found = merge(scenes.observe(scene, (*fine, whole)), size=scene.size)
    assert scenes.f1(scene, found) >= 0.99


def test_tiles_may_come_one_by_one() -> None:
    """Of anything that gives them, also once only."""
    tiles = two([[1, 1, 9, 9]], [[90, 1, 99, 9]])
    assert len(merge(tile for tile in tiles)) == len(merge(tiles)) == 2
    with pytest.raises(RunError, match="takes the TileFindings of each tile, not Findings"):
        merge(merge(tiles))


def test_a_tile_given_twice_is_named() -> None:
    """The same region at the same scale twice is an error that names the tile."""
    tiles = two([[1, 1, 9, 9]], [[90, 1, 99, 9]])
    with pytest.raises(GridError, match="r000c001 is there twice"):
        merge([*tiles, tiles[1]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "soft"}, "give one of seam, nms, nmm, wbf, none"),
        ({"match_metric": "giou"}, "give one of iou, ios"),
        ({"match_threshold": 0}, "above 0, up to 1"),
        ({"match_threshold": "0.5"}, "above 0, up to 1"),
    ],
)
def test_a_bad_argument_is_one_line_with_the_choices(
    arguments: dict[str, object], message: str
) -> None:
    """An unknown method, metric or threshold says what is allowed."""
    with pytest.raises(RunError, match=message):
        merge([], **arguments)  # type: ignore[arg-type]


def test_a_tile_outside_the_image_is_named() -> None:
    """A size smaller than the tiles is an error that names the first tile outside."""
    with pytest.raises(GridError, match="r000c001"):
        merge(two([], []), size=(120, 100))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_merges_to_nothing(method: str) -> None:
    """No tiles, and tiles without findings, give no detections."""
    assert len(merge([], method)) == 0
    assert len(merge(two([], []), method)) == 0


def test_the_methods_of_others_do_what_they_say() -> None:
    """NMS keeps the best, NMM takes the union, WBF averages by score."""
    tiles = [
        TileFindings(LEFT, Findings([[80, 20, 100, 40]], [0.9])),
        TileFindings(RIGHT, Findings([[4, 20, 24, 40]], [0.3])),
    ]
    of = {m: merge(tiles, m, size=SIZE) for m in ("nms", "nmm", "wbf", "none")}
    assert of["nms"].boxes.tolist() == [[80, 20, 100, 40]]
    assert of["nmm"].boxes.tolist() == [[80, 20, 104, 40]]
    assert np.allclose(of["wbf"].boxes, [[81, 20, 101, 40]])
    assert np.allclose(of["wbf"].scores, [0.6])
    assert len(of["none"]) == 2
    assert len(merge(tiles, "nms", match_threshold=0.7, size=SIZE)) == 2
    assert len(merge(tiles, "nms", match_threshold=0.7, match_metric="ios", size=SIZE)) == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.25, 0.5, 1.0])),
        unique_by=lambda edge: edge[:2],
        max_size=12,
    )
)
@settings(deadline=None)
def test_matches_weigh_the_most_that_a_matching_can(edges: list[tuple[int, int, float]]) -> None:
    """Chosen edges share no end and weigh as much as scipy's best assignment."""
    left, right = np.array([edge[:2] for edge in edges], np.int64).reshape(-1, 2).T
    weight = np.array([edge[2] for edge in edges])
    chosen = assign(left, right + 5, weight)
    assert len(set(left[chosen].tolist())) == len(set(right[chosen].tolist())) == len(chosen)
    table = np.zeros((5, 5))
    table[left, right] = weight
    rows, columns = linear_sum_assignment(table, maximize=True)
    assert weight[chosen].sum() == pytest.approx(table[rows, columns].sum())


@given(st.lists(st.sampled_from([0.1, 0.5, 0.5000000000000001, 2.0]), max_size=30))
def test_equal_weights_are_taken_as_they_stand(weight: list[float]) -> None:
    """The order of edges is NumPy's stable one, so that results do not hang on the machine."""
    given = np.array(weight)
    assert heaviest_first(given).tolist() == np.argsort(-given, kind="stable").tolist()


@given(
    n=st.integers(1, 30),
    edges=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40),
)
def test_components_are_numbered_by_their_first_vertex(
    n: int, edges: list[tuple[int, int]]
) -> None:
    """Vertices share a number where scipy has them in one component; numbers begin in order."""
    a, b = (np.array([edge[end] % n for edge in edges], dtype=np.int64) for end in (0, 1))
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(n, n))
    theirs = connected_components(graph, directed=False)[1]
    first = {number: vertex for vertex, number in reversed(list(enumerate(theirs.tolist())))}
    order = {number: place for place, number in enumerate(sorted(first, key=first.__getitem__))}
    assert components(n, a, b).tolist() == [order[number] for number in theirs.tolist()]


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8), st.data())
def test_small_knots_are_solved_as_scipy_solves_them(
    edges: set[tuple[int, int]], data: st.DataObject
) -> None:
    """Whether all ways are tried or SciPy is asked, the same edges are chosen, ties included."""
    rows, columns = np.array(sorted(edges)).T
    weights = st.one_of(st.floats(0.03, 1), st.sampled_from([0.25, 0.5, 0.75]))
    weight = np.array(data.draw(st.lists(weights, min_size=len(rows), max_size=len(rows))))
    chosen = matching._enumerated(rows, columns, weight)
    if chosen is not None:
        assert chosen.tolist() == matching._by_table(rows, columns, weight).tolist()
