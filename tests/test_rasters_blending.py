"""The map of an image: what each pixel is made of, in any order, and what is said of it.

The oracle blends whole arrays in double precision, from the definition of each way.
"""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilevision as tv
from tilevision.analysis.units import units_of
from tilevision.checkpoint.payloadstore import PayloadMemory
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.payloads import StoredArray, bytes_of, packed
from tilevision.rasters import BLENDS, MapSettings, RasterMap, map_of, tilecache
from tilevision.rasters.blending import Blender
from tilevision.rasters.regionmask import mask_within
from tilevision.rasters.weights import span_weights
from tilevision.rasterspec import STEPS
from tilevision.regions import read_region
from tilevision.sources import open_source

RNG = np.random.default_rng(180)
SMOOTH = MapSettings()
STAR = [(angle, 1 - 0.6 * (n % 2)) for n, angle in enumerate(np.arange(0, 6.2, 0.2))]
KINDS: dict[str, dict[str, Any]] = {
    "probabilities": {"classes": ("a", "b", "c")},
    "classes": {"classes": ("a", "b", "c")},
    "values": {"precision": 0.01},
    "floats": {"kind": "values"},
}


def map_from(
    tiles: Any,
    answers: dict[str, np.ndarray],
    size: tuple[int, int],
    how: MapSettings = SMOOTH,
    source: Any = None,
    region: Any = None,
    **kind: Any,
) -> RasterMap:
    """The map of tiles whose answers are given by id; tiles without one are missing."""
    store, found = PayloadMemory(), []
    for tile in tiles:
        if tile.id in answers:
            raster = tv.Raster(answers[tile.id], **kind)
            ref, raw = bytes_of(raster.kept)
            store.add({ref.digest: packed(raw, raster.kept.dtype.itemsize)})
            array = StoredArray(replace(ref, raster=raster.spec), store)
            found.append(TileFindings(tile, Findings(), raster=array))
    random.shuffle(found)
    image = open_source(np.zeros((size[1], size[0]), np.uint8)) if source is None else source
    made = map_of(tiles, found, image, how, units_of(image.metadata), region)
    assert made is not None
    return made


def cut(image: np.ndarray, tiles: Any) -> dict[str, np.ndarray]:
    """What a model that returns its own pixels (…, h, w) says of each tile."""
    return {t.id: image[..., t.box.y0 : t.box.y1, t.box.x0 : t.box.x1] for t in tiles}


def oracle_weights(tile: Any, size: tuple[int, int], overlap: int, blend: str) -> np.ndarray:
    """The weights of a tile of a grid with one overlap, from the definition: floats."""
    sides = []
    for start, stop, length in zip(
        tile.box.as_tuple()[:2], tile.box.as_tuple()[2:], size, strict=True
    ):
        n = stop - start
        at = (np.arange(n) + 0.5) / n
        if blend == "smooth":
            w = np.sin(np.pi * at) ** 2
            w = np.where((at <= 0.5) & (start == 0), 1, w)
            w = np.where((at >= 0.5) & (stop == length), 1, w)
        elif blend == "linear":
            left = np.ones(n) if start == 0 else (np.arange(n) + 0.5) / overlap
            right = np.ones(n) if stop == length else (n - np.arange(n) - 0.5) / overlap
            w = np.minimum(1, np.minimum(left, right))
        else:
            w = np.ones(n)
        sides.append(w)
    return np.outer(sides[1], sides[0])


@pytest.mark.parametrize("blend", ["smooth", "linear", "mean"])
def test_a_blend_is_the_weighted_mean_of_what_tiles_say(blend: str) -> None:
    """To half a step of the shares and what whole weights leave; argmax of the same."""
    size, overlap = (112, 112), 16  # starts 0, 48, and 64 as 48 + 64 reaches the border
    tiles = tv.Grid.by_tile(64, 0.25).tiles(size)
    answers = {}
    sums, total = np.zeros((3, 112, 112)), np.zeros((112, 112))
    for tile in tiles:
        raw = RNG.random((3, 64, 64))
        p = raw / raw.sum(axis=0)
        answers[tile.id] = p
        weights = oracle_weights(tile, size, overlap, blend)
        b = tile.box
        sums[:, b.y0 : b.y1, b.x0 : b.x1] += p * weights
        total[b.y0 : b.y1, b.x0 : b.x1] += weights
    right = np.moveaxis(sums / total, 0, -1)
    made = map_from(tiles, answers, size, MapSettings(blend), classes=("a", "b", "c"))
    assert np.abs(np.asarray(made.probabilities) - right).max() < 3 / STEPS
    best = np.sort(right, axis=-1)
    sure = best[..., -1] - best[..., -2] > 6 / STEPS
    assert (np.asarray(made) == right.argmax(axis=-1))[sure].all() and sure.mean() > 0.8


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 130),
    height=st.integers(1, 130),
    side=st.integers(4, 50),
    overlap=st.integers(0, 50),
    margin=st.integers(0, 6),
    blend=st.sampled_from(BLENDS),
    by_count=st.booleans(),
    kind=st.sampled_from(list(KINDS)),
)
def test_tiles_that_agree_give_back_what_they_say(
    width: int,
    height: int,
    side: int,
    overlap: int,
    margin: int,
    blend: str,
    by_count: bool,
    kind: str,
) -> None:
    """Byte for byte on every pixel, border and corners included, whatever the grid and the way."""
    rows = min(3, height), min(4, width)
    share = overlap / 100
    grid = tv.Grid(*rows, overlap=share) if by_count else tv.Grid.by_tile(side, share)
    try:
        tiles = grid.tiles((width, height))
    except tv.GridError:
        return
    rng = np.random.default_rng(width * 131 + height)
    if kind == "probabilities":
        image: np.ndarray = rng.integers(0, STEPS + 1, (3, height, width)) / STEPS
    elif kind == "classes":
        image = rng.integers(0, 3, (height, width))
    elif kind == "values":
        image = rng.integers(-500, 4700, (height, width)) / 100
    else:
        image = rng.integers(-500, 4700, (height, width)).astype(np.float32)
    how = MapSettings(blend, margin)
    made = map_from(tiles, cut(image, tiles), (width, height), how, **KINDS[kind])
    if kind == "probabilities":
        steps = made.probabilities.steps(0, 0, width, height)
        np.testing.assert_array_equal(steps, np.rint(image * STEPS))
        np.testing.assert_array_equal(np.asarray(made), np.rint(image * STEPS).argmax(axis=0))
    else:
        np.testing.assert_array_equal(np.asarray(made), image.astype(made.dtype))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("blend", BLENDS)
def test_order_of_arrival_and_blocks_change_no_byte(kind: str, blend: str) -> None:
    """Tiles that disagree, in six orders, read whole, in odd windows and as a Dask array."""
    size = (150, 131)
    tiles = tv.Grid.by_tile(40, 0.4).tiles(size)
    answers = {}
    for tile in tiles:
        h, w = tile.box.height, tile.box.width
        answers[tile.id] = {
            "probabilities": RNG.random((3, h, w)),
            "classes": RNG.integers(0, 3, (h, w)),
            "values": RNG.normal(size=(h, w)) * 20,
            "floats": RNG.normal(size=(h, w)).astype(np.float32) * 20,
        }[kind]
    how = MapSettings(blend)
    made = [map_from(tiles, answers, size, how, **KINDS[kind]) for _ in range(6)]
    first = np.asarray(made[0])
    assert len({np.asarray(one).tobytes() for one in made}) == 1
    assert len({one.fingerprint for one in made}) == 1
    pieces = np.concatenate([made[0][y : y + 17] for y in range(0, 131, 17)])
    np.testing.assert_array_equal(pieces, first)
    np.testing.assert_array_equal(made[0].dask.compute(scheduler="threads"), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made[0].dask)).compute(), first)


@pytest.mark.parametrize("kind", list(KINDS))
def test_threads_that_push_each_others_tiles_out_read_the_same_map(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is used again for other tiles, and never while somebody still looks at it."""
    size = (300, 260)
    tiles = tv.Grid.by_tile(50, 0.4).tiles(size)
    answers = {}
    for tile in tiles:
        h, w = tile.box.height, tile.box.width
        shares = RNG.integers(0, STEPS + 1, (3, h, w)) / STEPS
        single = RNG.integers(0, 3, (h, w))
        answers[tile.id] = {"probabilities": shares, "classes": single}.get(kind, single * 1.5)
    whole = np.asarray(map_from(tiles, answers, size, **KINDS[kind]))
    kept = {"probabilities": 3, "values": 4, "floats": 4, "classes": 1}[kind] * 50 * 50
    monkeypatch.setattr(tilecache, "KEPT", 4 * kept)
    monkeypatch.setattr(tilecache, "SPARE", 3 * kept)
    made = map_from(tiles, answers, size, **KINDS[kind])
    windows = [(x, y, x + 60, y + 52) for x in range(0, 300, 60) for y in range(0, 260, 52)] * 2
    random.shuffle(windows)

    def read(window: tuple[int, int, int, int]) -> bool:
        x0, y0, x1, y1 = window
        return bool((made.window(*window)[0] == whole[y0:y1, x0:x1]).all())

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, windows))
    for window in windows:
        assert read(window)


def test_it_is_indexed_as_an_array() -> None:
    """Numbers, slices with any step, dots, lists: as NumPy does it on the whole."""
    tiles = tv.Grid.by_tile(32, 0.25).tiles((70, 50))
    answers = {t.id: RNG.random((3, t.box.height, t.box.width)) for t in tiles}
    made = map_from(tiles, answers, (70, 50), classes=("a", "b", "c"))
    for lazy in (made, made.probabilities, made.probability("b")):
        whole = np.asarray(lazy)
        assert lazy.shape == whole.shape and lazy.dtype == whole.dtype and len(lazy) == 50
        for key in (
            3,
            -1,
            (slice(4, 9), slice(60, 70)),
            (slice(None, None, -3), 7),
            (..., 1),
            (slice(40, 4, -5), slice(2, 60, 7)),
            (slice(9, 3), slice(None)),
            [4, 30, 4],
        ):
            np.testing.assert_array_equal(lazy[key], whole[key])
        with pytest.raises(IndexError):
            lazy[50]
        with pytest.raises(IndexError):
            lazy[0, 0, 0, 0]


def test_a_missing_tile_is_no_data_where_no_neighbour_reaches() -> None:
    """And is counted; what neighbours reach is theirs, in every way of blending."""
    size = (100, 100)
    tiles = tv.Grid.by_tile(40, 0.25).tiles(size)
    image = RNG.integers(0, 3, (100, 100))
    lost = next(t for t in tiles if (t.row, t.col) == (1, 1))
    covered = np.zeros((100, 100), bool)
    for tile in tiles:
        if tile != lost:
            covered[tile.box.y0 : tile.box.y1, tile.box.x0 : tile.box.x1] = True
    answers = {k: v for k, v in cut(image, tiles).items() if k != lost.id}
    for blend in BLENDS:
        made = map_from(tiles, answers, size, MapSettings(blend, 3), classes=("a", "b", "c"))
        whole = np.asarray(made)
        assert (whole[~covered] == 255).all() and (~covered).sum() == 400
        np.testing.assert_array_equal(whole[covered], image[covered])
        assert made.missing == 1 and "1 tiles without a map" in repr(made)
        table = made.areas()
        assert table["pixels"].sum() == 100 * 100
        assert int(table.loc[table["class"] == "(no data)", "pixels"].iloc[0]) == 400


def plainly_blended(made: RasterMap, answers: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """Sums ``(k, h, w)`` and weights ``(h, w)`` of shares, tile after tile, in whole numbers."""
    layout, how = made._blender.layout, made.settings
    width, height = layout.size
    sums = np.zeros((layout.planes, height, width), np.int64)
    total = np.zeros((height, width), np.int64)
    for round_ in (how, SMOOTH):
        open_ = total == 0
        for one in layout.placed:
            here = (
                slice(one.down.start, one.down.stop),
                slice(one.across.start, one.across.stop),
            )
            by_row, by_column = (
                span_weights(span, round_.blend, round_.margin).astype(np.int64)
                for span in (one.down, one.across)
            )
            weights = by_row[:, None] * by_column * open_[here]
            sums[:, *here] += np.rint(answers[one.tile.id] * STEPS).astype(np.int64) * weights
            total[here] += weights
    return sums, total


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    side=st.integers(12, 60),
    overlap=st.integers(0, 70),
    margin=st.sampled_from([0, 0, 3]),
    blend=st.sampled_from(BLENDS),
    lost=st.integers(0, 3),
    planes=st.sampled_from([1, 2, 5, 17]),
    unsure=st.sampled_from([None, 0.4]),
    threshold=st.sampled_from([None, 0.3]),
)
def test_shares_and_classes_are_those_of_the_plain_sums(
    width: int,
    height: int,
    side: int,
    overlap: int,
    margin: int,
    blend: str,
    lost: int,
    planes: int,
    unsure: float | None,
    threshold: float | None,
) -> None:
    """Byte for byte: whatever the sums leave out or do at once, for tiles that disagree."""
    try:
        tiles = tv.Grid.by_tile(side, overlap / 100).tiles((width, height))
    except tv.GridError:
        return
    rng = np.random.default_rng(width * 131 + height)
    answers = {
        t.id: rng.integers(0, STEPS + 1, (planes, t.box.height, t.box.width)) / STEPS for t in tiles
    }
    for one in rng.permutation(list(answers))[: min(lost, len(answers) - 1)].tolist():
        del answers[one]
    names = tuple("abcdefghijklmnopq"[:planes])
    thresholds = () if threshold is None else (("a", threshold),)
    how = MapSettings(blend, margin, thresholds=thresholds, unsure=unsure)
    made = map_from(tiles, answers, (width, height), how, classes=names)
    sums, total = plainly_blended(made, answers)
    whole = np.maximum(total, 1)
    steps = np.where(total > 0, (2 * sums + whole) // (2 * whole), 255)
    np.testing.assert_array_equal(made.probabilities.steps(0, 0, width, height), steps)
    least = np.rint(np.array(how.least(made.spec)) * STEPS).astype(np.int64)[:, None, None]
    reached = sums >= least * total
    best = np.where(reached, sums, -1).argmax(axis=0)
    best[~reached.any(axis=0)] = 254
    if unsure is not None:
        best[sums.max(axis=0) < round(unsure * STEPS) * total] = 254
    np.testing.assert_array_equal(np.asarray(made), np.where(total > 0, best, 255))


def test_of_two_tiles_the_core_is_that_whose_edge_is_farther() -> None:
    """Cut in the middle of what they share."""
    tiles = tv.Grid(rows=1, cols=2, overlap="20px").tiles((100, 10))
    answers = {t.id: np.full((10, t.box.width), n) for n, t in enumerate(tiles)}
    made = map_from(tiles, answers, (100, 10), MapSettings("core"), classes=("a", "b"))
    assert [tile.box.width for tile in tiles] == [60, 60]
    np.testing.assert_array_equal(np.asarray(made)[0], [0] * 50 + [1] * 50)


def test_a_margin_counts_only_where_no_other_tile_has_any() -> None:
    """Garbage within it disappears, except where nobody else saw the place."""
    size = (100, 40)
    tiles = tv.Grid.by_tile(40, 0.25).tiles(size)
    answers = {}
    for tile in tiles:
        answer = np.zeros((tile.box.height, tile.box.width), int)
        inner = [slice(0 if tile.box.x0 == 0 else 4, None if tile.box.x1 == 100 else -4)]
        bad = np.ones(tile.box.width, bool)
        bad[inner[0]] = False
        answer[:, bad] = 1
        answers[tile.id] = answer
    plain = map_from(tiles, answers, size, classes=("good", "bad"))
    kept = map_from(tiles, answers, size, MapSettings(margin=4), classes=("good", "bad"))
    assert not np.asarray(kept).any()
    assert plain.areas()["pixels"].sum() == 4000


def test_classes_are_decided_by_thresholds_and_doubt() -> None:
    """The best of those that reach their own; of too small a share none (254)."""
    p = np.array([[0.5, 0.35, 0.15], [0.4, 0.2, 0.4], [0.34, 0.33, 0.33]]).T[:, None]
    tiles = tv.Grid(1, 1).tiles((3, 1))
    answers = {tiles[0].id: p}

    def decided(**how: Any) -> list[int]:
        made = map_from(tiles, answers, (3, 1), MapSettings(**how), classes=("a", "b", "c"))
        return np.asarray(made)[0].tolist()

    assert decided() == [0, 0, 0]  # of equal shares the lower number
    assert decided(thresholds={"a": 0.45}) == [0, 2, 1]
    assert decided(thresholds={"a": 0.6, "b": 0.6, "c": 0.6}) == [254, 254, 254]
    assert decided(unsure=0.38) == [0, 0, 254]
    assert decided(classes=("b", "c")) == [254, 254, 254]
    with pytest.raises(
        tv.RunError, match="There is no class 'd' in the map, which has a, b, c; change thr"
    ):
        decided(thresholds={"d": 0.5})
    one = map_from(tiles, {tiles[0].id: p[:1]}, (3, 1), classes=("a",))
    assert np.asarray(one)[0].tolist() == [0, 254, 254]  # a single class counts from a half


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"blend": "best"}, "give one of smooth, linear, core, mean"),
        ({"margin": -1}, "give pixels of the map"),
        ({"thresholds": {"a": 1.5}}, "threshold of a"),
        ({"unsure": 2}, "unsure"),
    ],
)
def test_settings_are_checked(how: dict[str, Any], said: str) -> None:
    with pytest.raises(tv.RunError, match=said):
        MapSettings(**how)
    with pytest.raises(ValueError, match=said):  # as any wrong argument
        MapSettings(**how)


def test_thresholds_need_probabilities() -> None:
    tiles = tv.Grid(1, 1).tiles((4, 4))
    with pytest.raises(tv.RunError, match="This map has classes, and thresholds and unsure need"):
        map_from(
            tiles,
            {tiles[0].id: np.zeros((4, 4), int)},
            (4, 4),
            MapSettings(unsure=0.5),
            classes="a"[:0] or ("a",),
        )


# As an image, and what it says ----------------------------------------------------------------


def test_it_is_an_image() -> None:
    """Read by the window, at scales, as a thumbnail; and opened again elsewhere."""
    tiles = tv.Grid.by_tile(40, 0.25).tiles((90, 60))
    image = RNG.integers(0, 3, (60, 90))
    made = map_from(tiles, cut(image, tiles), (90, 60), classes=("a", "b", "c"))
    assert isinstance(made, tv.ImageSource) and made.size == (90, 60) and made.bands == 1
    np.testing.assert_array_equal(made.read(Box(10, 5, 50, 45))[..., 0], image[5:45, 10:50])
    assert made.read(Box(0, 0, 90, 60), 0.5).shape == (30, 45, 1)
    assert set(np.unique(made.read(Box(0, 0, 90, 60), 0.3))) <= {0, 1, 2}
    np.testing.assert_array_equal(made.thumbnail(45)[..., 0], image[::2, ::2])
    from tilevision.sources import open_reference

    again = open_reference(made.reference)
    np.testing.assert_array_equal(again.read(Box(0, 0, 90, 60))[..., 0], image)
    made.close()
    assert "<img src='data:image/png;base64," in made._repr_html_()


def test_overlapping_zones_are_counted_each_by_itself() -> None:
    """Pixels whose middle lies in a zone, also those that another has; half-open at borders."""
    size = (100, 80)
    tiles = tv.Grid.by_tile(40, 0.25).tiles(size)
    image = RNG.integers(0, 2, (80, 100))
    made = map_from(tiles, cut(image, tiles), size, classes=("a", "b"))
    boxes = {"left": (0, 0, 50, 80), "right": (50, 0, 100, 80), "all": (10, 10, 90, 70)}
    features = [
        {
            "type": "Feature",
            "properties": {"name": name},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
            },
        }
        for name, (x0, y0, x1, y1) in boxes.items()
    ]
    table = made.areas({"type": "FeatureCollection", "features": features})
    for name, (x0, y0, x1, y1) in boxes.items():
        counts = np.bincount(image[y0:y1, x0:x1].ravel(), minlength=2)
        assert table[table["region"] == name]["pixels"].tolist() == counts.tolist()


@pytest.mark.parametrize("window", [(0, 0, 400, 300), (37, 5, 251, 300), (199, 100, 200, 101)])
@pytest.mark.parametrize(("scale", "step"), [(1.0, 1), (0.5, 3), (1.3, 2)])
def test_a_region_has_the_pixels_whose_middle_it_holds(
    window: tuple[int, int, int, int], scale: float, step: int
) -> None:
    """However they are found: blocks wholly within or without are not looked at pixel by pixel."""
    source = open_source(np.zeros((400, 500), np.uint8))
    star = [(200 + 150 * r * np.cos(a), 160 + 150 * r * np.sin(a)) for a, r in STAR]
    shape = {"type": "Polygon", "coordinates": [[*star, star[0]]]}
    for zone in ((37, 20, 301, 251), {"type": "Feature", "properties": {}, "geometry": shape}):
        region = read_region(zone, source)
        x, y = np.meshgrid(
            np.arange(window[0], window[2], step), np.arange(window[1], window[3], step)
        )
        middles = (np.column_stack([x.ravel(), y.ravel()]) + 0.5) / scale
        found = mask_within(region, window, scale, step)
        right = region.holds(middles).reshape(x.shape)
        np.testing.assert_array_equal(np.zeros_like(right) if found is None else found, right)


def test_a_small_zone_blends_no_more_than_it_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a map of a hundred blocks one or two are read, not all of them."""
    size = (10_240, 10_240)
    tiles = [t for t in tv.Grid.by_tile(1024, 0).tiles(size) if (t.row, t.col) == (4, 4)]
    answers = {tiles[0].id: np.zeros((1024, 1024), int)}
    wide = SimpleNamespace(size=size, metadata=open_source(np.zeros((2, 2), np.uint8)).metadata)
    made = map_from(tiles, answers, size, source=wide, classes=("a",))
    blended = []
    classes = Blender.classes
    monkeypatch.setattr(
        Blender, "classes", lambda self, *w: (blended.append(w), classes(self, *w))[1]
    )
    table = made.areas((4096, 4096, 5130, 4100))
    assert len(blended) == 2
    assert table.set_index("class")["pixels"].to_dict() == {"a": 4096, "(no data)": 40}


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857"])
def test_a_square_kilometre_is_one_on_the_ground(crs: str) -> None:
    """Geodesic, whatever the reference system; the oracle is the polygon's own, by pyproj."""
    pyproj = pytest.importorskip("pyproj")
    from tilevision.sources import ImageMetadata

    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(15.4, 50.2)
    step = 10 / 111_000 if crs == "EPSG:4326" else 10.0
    place = (step, 0.0, x, 0.0, -step, y)
    corners = [(0, 0), (100, 0), (100, 100), (0, 100)]
    edge = [
        (x + step * (i + s * (k - i)), y - step * (j + s * (m - j)))
        for (i, j), (k, m) in zip(corners, corners[1:] + corners[:1], strict=True)
        for s in np.linspace(0, 1, 50, endpoint=False)
    ]
    degrees = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    lon, lat = degrees.transform(*zip(*edge, strict=True))
    right = abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])
    tiles = tv.Grid.by_tile(40, 0.25).tiles((100, 100))
    metadata = ImageMetadata(crs=crs, transform=place, levels=((100, 100),))
    stand = SimpleNamespace(size=(100, 100), metadata=metadata)
    answers = cut(np.zeros((100, 100), int), tiles)
    made = map_from(tiles, answers, (100, 100), source=stand, classes=("a",))
    row = made.areas().iloc[0]
    assert row["area_m2"] == pytest.approx(right, rel=1e-3)
    assert row["area_ha"] == pytest.approx(right / 1e4, rel=1e-3)


def test_values_are_described() -> None:
    """Mean, deviation and range, of what has data."""
    tiles = tv.Grid.by_tile(40, 0.25).tiles((90, 60))
    image = RNG.normal(size=(60, 90)) * 5
    image[:5, :7] = np.nan
    made = map_from(tiles, cut(image, tiles), (90, 60), kind="values", unit="m")
    row = made.stats().iloc[0]
    there = image[np.isfinite(image)].astype(np.float32)
    assert row["pixels"] == there.size and row["mean"] == pytest.approx(there.mean(), abs=1e-5)
    assert row["std"] == pytest.approx(there.std(), rel=1e-4) and row["min"] == there.min()
    with pytest.raises(tv.RunError, match=r"raster.stats\(\) describes it"):
        made.areas()


def test_the_disagreement_of_tiles_shows_how_far_their_edges_reach() -> None:
    """Tiles that are wrong within 9 px of inner edges: the check says so, to the pixel."""
    size = (256, 64)
    tiles = tv.Grid.by_tile(64, 0.375).tiles(size)
    answers = {}
    for tile in tiles:
        p = np.full((2, 64, 64), 0.5)
        edge = np.minimum(np.arange(64), np.arange(64)[::-1])
        wrong = np.where(edge < 9, (9 - edge) / 20, 0)
        p[0] += wrong * (1 if tile.col % 2 else -1)
        p[1] = 1 - p[0]
        answers[tile.id] = p
    check = map_from(tiles, answers, size, classes=("a", "b")).agreement
    assert check is not None and check.overlap == 24 and check.reach == 9
    assert "not beyond 9 px, so the overlap of 24 px is enough" in str(check)
    # Of a small overlap the two tiles that were moved inward at the border share more, and tell.
    moved = tv.Grid.by_tile(64, "8px").tiles((208, 64))
    told = {t.id: answers[tiles[t.col % 2].id] for t in moved}
    inward = map_from(moved, told, (208, 64), classes=("a", "b")).agreement
    assert inward is not None and (inward.overlap, inward.reach) == (8, 9) and not inward.enough
    assert "of 18 px would end it" in str(inward)
    small = tv.Grid.by_tile(64, 8 / 64).tiles((232, 64))
    falling = 0.45 * np.exp(-np.minimum(np.arange(64), np.arange(64)[::-1]) / 3)
    few = {}
    for tile in small:
        p = np.full((64, 64), 0.5) + falling * (1 if tile.col % 2 else -1)
        few[tile.id] = np.stack([p, 1 - p])
    again = map_from(small, few, (232, 64), classes=("a", "b"))
    assert again.agreement is not None and again.agreement.reach is None
    assert "px would halve that" in str(again.agreement)


def test_tiles_that_disagree_at_any_depth_may_begin_off_a_stride() -> None:
    """The check says so unless they begin at multiples of 32, or agree further in."""
    size = (320, 64)
    said = {}
    for overlap in ("30px", "32px"):
        tiles = tv.Grid.by_tile(64, overlap).tiles(size)
        shares = {t.id: np.full((64, 64), 0.4 + 0.2 * (t.col % 2)) for t in tiles}
        answers = {name: np.stack([p, 1 - p]) for name, p in shares.items()}
        said[overlap] = str(map_from(tiles, answers, size, classes=("a", "b")).agreement)
    assert "a larger overlap would not change that" in said["32px"]
    assert "stride" not in said["32px"] and "declare the stride first, as stride=32" in said["30px"]


@pytest.mark.parametrize("overlap", [0.25, 0.375, 0.5])
def test_seams_are_a_fraction_of_those_of_a_plain_mean(overlap: float) -> None:
    """Of a model that sees zeros past its tile, against the same model on the whole image.

    The error near edges of tiles is at most half, the jump across them at most a fifth.
    """
    from scipy.ndimage import uniform_filter

    size, reach = (400, 300), 12
    image = RNG.random((300, 400))

    def model(pixels: np.ndarray) -> np.ndarray:
        seen = np.clip(uniform_filter(pixels, 2 * reach + 1, mode="constant") * 4 - 1.5, 0, 1)
        return np.stack([seen, 1 - seen])

    truth = model(image)
    tiles = tv.Grid.by_tile(128, overlap).tiles(size)
    answers = {t.id: model(image[t.box.y0 : t.box.y1, t.box.x0 : t.box.x1]) for t in tiles}
    edges = sorted({x for t in tiles for x in (t.box.x0, t.box.x1) if 0 < x < size[0]})
    near = np.zeros(size[0], bool)
    for edge in edges:
        near[edge - 8 : edge + 8] = True
    found = {}
    for blend in BLENDS:
        made = map_from(tiles, answers, size, MapSettings(blend), classes=("a", "b"))
        error = np.moveaxis(np.asarray(made.probabilities), -1, 0) - truth
        jumps = [np.abs(error[:, :, x] - error[:, :, x - 1]).mean() for x in edges]
        found[blend] = float((error[:, :, near] ** 2).mean()) ** 0.5, float(max(jumps))
    plain, jump = found["mean"]
    assert found["smooth"][0] <= plain / 2 and found["smooth"][1] <= jump / 5
    assert all(one[0] <= plain for one in found.values())
    assert made.agreement is not None and made.agreement.enough
    assert abs(made.agreement.reach - reach) <= 2  # type: ignore[operator]


def test_maps_of_several_scales_or_kinds_are_no_one_map() -> None:
    tiles = tv.Grid.by_tile(32, 0).tiles((64, 32))
    a = map_from(tiles, {tiles[0].id: np.zeros((32, 32))}, (64, 32))
    assert a.missing == 1
    odd = [tiles[0], replace(tiles[1], scale=0.5)]
    with pytest.raises(tv.RunError, match="have 2 scales"):
        map_from(odd, {tiles[0].id: np.zeros((32, 32))}, (64, 32))
