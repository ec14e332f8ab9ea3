"""A map for each tile: what may be returned, what is kept, and how it comes back."""

from __future__ import annotations

import errno
import json
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_tiles import SIDE, Inline, inline_runs  # noqa: F401 - fixtures

import tilevision as tv
from tilevision.checkpoint import Checkpoint, payloadstore, segmentfile
from tilevision.checkpoint.payloadstore import PayloadStore
from tilevision.modelspec import build
from tilevision.payloads import PackedArray, arrays_of, bytes_of, packed, unpack
from tilevision.rasterspec import STEPS, RasterSpec

Make = Callable[..., Inline]
TILE = np.full((4, 6, 3), 50, np.uint8)
NAMES = ("water", "tree", "road")
RNG = np.random.default_rng(18)


def shares(height: int, width: int, k: int = 3) -> np.ndarray:
    """Probabilities that add up to 1 in each pixel."""
    raw = RNG.random((k, height, width))
    return raw / raw.sum(axis=0)


def one(answer: Any, **declared: Any) -> tv.Raster:
    """The map that a model which returns `answer` gives of a tile."""
    spec = tv.model(lambda _: answer, fingerprint="x", **declared)
    return build(spec).predict([TILE])[0].raster


# What may be returned -----------------------------------------------------------------------


def test_probabilities_are_kept_in_253_steps() -> None:
    """The nearest of an odd number of steps, so half against half is no tie with another share."""
    given = shares(4, 6)
    kept = one(given, returns="probabilities", classes=NAMES).kept
    assert kept.dtype == np.uint8 and kept.max() <= STEPS
    assert np.abs(kept / STEPS - given).max() <= 0.5 / STEPS + 1e-7
    ends = one(np.array([[[0.0, 1.0, 1.0005, -0.0005]]]), returns="probabilities", classes=("a",))
    assert ends.kept.tolist() == [[[0, STEPS, STEPS, 0]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_classes_are_kept_as_they_are(dtype: Any) -> None:
    """Numbers of any whole type, by names in a list or by number; 255 is no data."""
    given = RNG.integers(0, 2, (4, 6)).astype(dtype)
    named = one(given, returns="classes", classes={0: "ground", 1: "tree"})
    assert np.array_equal(named.kept[0], given) and named.kept.dtype == np.uint8
    assert named.spec.classes == ("ground", "tree")
    gap = one(np.full((4, 6), 7), returns="classes", classes={7: "tree"})
    assert gap.spec.numbers == {"tree": 7} and len(gap.spec.classes) == 8
    assert (one(np.full((4, 6), 255), returns="classes", classes=["a"]).kept == 255).all()


@pytest.mark.parametrize(("precision", "off"), [(0.01, 0.005), (None, 0.0)])
def test_values_are_kept_to_the_step_declared(precision: float | None, off: float) -> None:
    """As whole steps, or as float32; NaN stays unknown."""
    given = (RNG.random((4, 6)) * 47 - 5).astype(np.float32)
    given[0, 0] = np.nan
    raster = one(given, returns="values", unit="m", precision=precision)
    there = raster.spec.there(raster.kept)
    assert np.array_equal(there[0], ~np.isnan(given))
    back = raster.kept[0] * (precision or 1)
    assert np.abs(back - given)[there[0]].max() <= off + 1e-6


def test_maps_come_in_any_form() -> None:
    """Tensors, batches of one, findings and `tv.Raster` give the same."""
    torch = pytest.importorskip("torch")
    given = shares(4, 6)
    same = tv.Raster(given, classes=NAMES)
    for answer in (given[None], torch.tensor(given), same, tv.Findings(raster=same)):
        assert one(answer, returns="probabilities", classes=NAMES) == same
    batched = tv.model(
        lambda batch: np.stack([given] * len(batch)),
        fingerprint="b",
        batched=True,
        returns="probabilities",
        classes=NAMES,
    )
    assert [each.raster for each in build(batched).predict([TILE, TILE])] == [same, same]


def half_known() -> np.ndarray:
    """Shares of which the first plane is NaN."""
    return np.stack([np.full((4, 6), np.nan), np.full((4, 6), 0.5)])


@pytest.mark.parametrize(
    ("answer", "declared", "said"),
    [
        (np.full((2, 4, 6), 3.5), "p", r"values from 3\.5 to 3\.5; give 0 to 1 \(apply softmax"),
        (
            np.full((2, 4, 6), np.nan),
            "p",
            r"holds NaN \(1 of its numbers\); give 0 to 1 for each pixel",
        ),
        (np.full((4, 6, 2), 0.5), "p", r"2 classes; classes come first: np.moveaxis\(p, -1, 0\)"),
        (np.full((3, 4, 6), 0.5), "p", "there are 2 classes; one plane a class"),
        (np.zeros((2, 4, 6), int), "p", "of int64; give floats from 0 to 1, or declare"),
        (np.full((4, 6), 2), "c", "holds 2, which is none of the 2 classes"),
        (np.full((4, 6), -1), "c", "holds -1"),
        (np.full((4, 6), 0.5), "c", "give whole numbers"),
        (np.full((4, 6), np.inf), "v", "holds infinity"),
        (np.full((4, 6), 1e9), "s", "too large for steps of 0.01; raise precision"),
        (None, "v", "declared to return a map of values, and returned None; return the array"),
        (half_known(), "p", r"holds NaN \(0.5 of its numbers\)"),
        (["a", "b"], "v", "A map has shape"),
        (tv.Findings(), "v", "declared to return a map of values, and returned findings with none"),
    ],
)
def test_what_is_no_such_map_is_refused(answer: Any, declared: str, said: str) -> None:
    """In one line that says what came and what is wanted."""
    declared_as = {
        "p": {"returns": "probabilities", "classes": ("a", "b")},
        "c": {"returns": "classes", "classes": ("a", "b")},
        "v": {"returns": "values"},
        "s": {"returns": "values", "precision": 0.01},
    }[declared]
    with pytest.raises(tv.ModelError, match=said) as caught:
        one(answer, **declared_as)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"returns": "mask"}, "give one of embedding, probabilities, classes, values, instances"),
        ({"returns": "probabilities"}, "needs its classes"),
        ({"returns": "classes", "classes": "ab"}, "give names"),
        ({"returns": "classes", "classes": ["a", "a"]}, "same name"),
        ({"returns": "classes", "classes": [str(n) for n in range(300)]}, "numbers 0 to 253"),
        ({"returns": "values", "classes": ["a"]}, "has no classes"),
        ({"returns": "values", "precision": -1}, "give the step"),
        ({"returns": "classes", "classes": ["a"], "unit": "m"}, "has no unit or precision"),
        ({"classes": ["a"]}, "goes with returns="),
    ],
)
def test_declarations_are_checked_at_once(declared: dict[str, Any], said: str) -> None:
    """Before any tile is run."""
    with pytest.raises(tv.ModelError, match=said):
        tv.model(lambda p: p, fingerprint="x", **declared)


@pytest.mark.parametrize(
    "answer", [np.zeros((40, 60)), np.zeros((3, 40, 60)), np.ones((9, 9), int)]
)
def test_an_undeclared_mask_is_an_error_that_lists_the_declarations(answer: Any) -> None:
    """A mask may be classes, objects or values: nobody guesses."""
    with pytest.raises(tv.ModelError, match=r"returns='probabilities'.*classes.*instances.*embed"):
        build(tv.model(lambda _: answer, fingerprint="x")).predict([TILE])


def test_a_map_of_64_mib_is_the_largest() -> None:
    """More is refused with the three ways out."""
    big = np.broadcast_to(np.float16(0.5), (65, 1024, 1024))
    names = [str(n) for n in range(65)]
    with pytest.raises(
        tv.CheckpointTooLarge, match=r"65 MiB.*smaller tiles, fewer classes, or ret"
    ):
        tv.Raster(big, classes=names)


def test_objects_of_a_mask_have_outlines_of_their_area() -> None:
    """Numbers with gaps, holes kept; tuples as Cellpose and StarDist return them."""
    mask = np.zeros((20, 20), np.int32)
    mask[2:8, 2:9] = 5
    mask[4:6, 4:6] = 0
    mask[12:18, 3:6] = 900
    spec = tv.model(
        lambda _: (mask, "flows"), fingerprint="x", returns="instances", classes=["cell"]
    )
    found = build(spec).predict([TILE])[0]
    assert sorted(map(tuple, found.boxes.tolist())) == [(2, 2, 9, 8), (3, 12, 6, 18)]
    assert set(found.labels) == {"cell"}
    from tilevision.analysis.units import areas

    assert sorted(areas(found)) == pytest.approx([18, 38], abs=0.01)
    with pytest.raises(tv.ModelError, match="a mask of instances is"):
        build(tv.model(lambda _: mask / 2, fingerprint="x", returns="instances")).predict([TILE])


def test_cellpose_answers_many_pictures_by_lists() -> None:
    """Of masks, flows and styles; and StarDist one picture by a mask and details."""
    masks = [np.zeros((20, 10), np.int32) for _ in range(3)]
    masks[1][2:5, 2:6] = 4
    spec = tv.model(
        lambda batch: (masks[: len(batch)], ["flows"] * 3, ["styles"] * 3),
        fingerprint="cellpose",
        batched=True,
        returns="instances",
        classes=["cell"],
    )
    for tiles in (1, 2, 3):
        assert [len(one) for one in build(spec).predict([TILE] * tiles)] == [0, 1, 0][:tiles]
    alone = tv.model(lambda _: (masks[1], {"coord": []}), fingerprint="s", returns="instances")
    assert build(alone).predict([TILE])[0].boxes.tolist() == [[2, 2, 6, 5]]


# Who one is ---------------------------------------------------------------------------------


def test_what_a_map_means_is_part_of_the_model() -> None:
    """Other names or steps make another model; a plain function keeps its fingerprint."""

    def f(pixels: np.ndarray) -> np.ndarray:
        return pixels[..., 0] / 255

    prints = {
        tv.model(f, **declared).fingerprint
        for declared in (
            {},
            {"returns": "values"},
            {"returns": "values", "precision": 0.1},
            {"returns": "values", "unit": "m"},
            {"returns": "probabilities", "classes": ["a"]},
            {"returns": "probabilities", "classes": ["b"]},
        )
    }
    assert len(prints) == 6
    assert tv.model(f, returns="", classes=None, unit="").fingerprint == tv.model(f).fingerprint


@pytest.mark.parametrize(
    "spec",
    [
        RasterSpec("probabilities", NAMES),
        RasterSpec("classes", ("a", None, "b")),
        RasterSpec("values", unit="m", precision=0.01),
        RasterSpec("values"),
    ],
)
def test_a_spec_is_read_back_from_json(spec: RasterSpec) -> None:
    assert RasterSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


# What is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int32", "float32"])
def test_packed_bytes_come_back(dtype: str) -> None:
    """Of every type; what is anything else is refused, without taking more memory than asked."""
    array = RNG.integers(0, 100, (3, 7, 11)).astype(dtype)
    raw = bytes_of(array)[1]
    data, kind = packed(raw, array.dtype.itemsize)
    out = np.empty(len(raw), np.uint8)
    assert unpack(data, kind, out) and out.tobytes() == raw
    assert not unpack(data, kind, np.empty(len(raw) - array.dtype.itemsize, np.uint8))
    assert not unpack(data, kind, np.empty(len(raw) + array.dtype.itemsize, np.uint8))
    assert not unpack(data[:-3], kind, out)
    assert not unpack(b"no zstd at all", kind, out)
    assert not unpack(data, 99, out)


def smooth(rows: int, width: int) -> np.ndarray:
    """Steps that change little from row to row, as shares do."""
    down, across = np.mgrid[:rows, :width]
    return (120 + 100 * np.sin(down / 31 + across / 17) + RNG.integers(0, 3, (rows, width))).astype(
        np.uint8
    )


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 64), (128, 64), (129, 7), (2000, 301)])
def test_shares_come_back_however_their_rows_are_told(rows: int, width: int) -> None:
    """As they are, or as differences from the row above; other bytes of the latter are refused."""
    raw = smooth(rows, width).tobytes()
    for given in (raw, RNG.integers(0, 254, rows * width, np.uint8).tobytes(), bytes(len(raw))):
        data, kind = packed(given, 1, width)
        out = np.empty(len(given), np.uint8)
        assert unpack(data, kind, out) and out.tobytes() == given
    data = struct.pack("<I", width) + packed(raw, 1).data
    out = np.empty(len(raw), np.uint8)
    for wrong in (0, len(raw) + 1, 2**32 - 1):
        assert not unpack(struct.pack("<I", wrong) + data[4:], 33, out)
    assert not unpack(data[:3], 33, out) and not unpack(data[:-2], 33, out)
    assert not unpack(data, 33, np.empty(len(raw) + width, np.uint8))


def test_the_quick_way_to_pack_takes_hardly_more_room() -> None:
    """A tenth at most, also of what repeats; and what was packed before it is still read."""
    noise = RNG.integers(0, 254, (1024, 512)).astype(np.uint8)
    for map_ in (smooth(1024, 1024), noise, noise.repeat(2, axis=0).repeat(2, axis=1)):
        raw, (width,) = map_.tobytes(), map_.shape[1:]
        slow = packed(raw, 1)  # by zstd at level 3 alone, kind 17
        assert slow.kind == 17 and len(packed(raw, 1, width).data) <= 1.1 * len(slow.data)
        out = np.empty(len(raw), np.uint8)
        assert unpack(*slow, out) and out.tobytes() == raw
    assert packed(smooth(1024, 1024).tobytes(), 1, 1024).kind == 33


def brightness(pixels: np.ndarray) -> np.ndarray:
    """A share that differs from tile to tile, and from pixel to pixel."""
    share = pixels[..., 0] / 255 + np.linspace(0, 0.5, pixels.shape[1])
    return np.stack([share, 1 - share])


MODEL = tv.model(brightness, returns="probabilities", classes=("bright", "dark"))


def kept_of(result: Any) -> list[Any]:
    return [seen.raster.load() for seen in result.tile_findings]


def expected() -> list[np.ndarray]:
    tiles = [np.full((SIDE, SIDE, 3), 10 * n, np.uint8) for n in range(1, 7)]
    return [np.rint(brightness(tile).astype(np.float32) * STEPS) for tile in tiles]


@pytest.mark.parametrize("kept", ["folder", "memory"])
def test_maps_are_kept_beside_the_record(inline: Make, tmp_path: Path, kept: str) -> None:
    """The record has digest, shape and meaning; the map is read after the checkpoint is closed."""
    store = Checkpoint.open(tmp_path / "ck") if kept == "folder" else None
    run = inline(MODEL, store=store)
    result = run.conduct()
    (one_pass,) = run.plan.passes
    records = [rows for _, rows in run.store.load(list(one_pass.keys.values()))]
    run.store.close()
    ref = arrays_of(records[0])["raster"]
    assert ref.shape == (2, SIDE, SIDE) and ref.raster == RasterSpec.declared(MODEL.params)
    assert all(len(row) < 1000 for rows in records for row in rows)
    for mine, right in zip(kept_of(result), expected(), strict=True):
        np.testing.assert_array_equal(mine, right)


def test_tiles_that_are_the_same_are_kept_once(inline: Make, tmp_path: Path) -> None:
    """Whatever the tile: bytes are named by what they are."""
    model = tv.model(
        lambda p: np.zeros(p.shape[:2], int), fingerprint="z", returns="classes", classes=["a"]
    )
    with Checkpoint.open(tmp_path / "ck") as store:
        result = inline(model, store=store).conduct()
        assert len({seen.raster.ref.digest for seen in result.tile_findings}) == 1
    pack = next((tmp_path / "ck" / "payloads").iterdir())
    assert pack.stat().st_size < 400  # of six tiles of 1,024 bytes


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_map_runs_its_tile_again(
    inline: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    """That tile, and those only; it is said once, and the map is right again."""
    with Checkpoint.open(tmp_path / "ck") as store:
        first = kept_of(inline(MODEL, store=store).conduct())
    packs = sorted((tmp_path / "ck" / "payloads").iterdir())
    whole = packs[-1].read_bytes()
    if harm == "gone":
        packs[-1].unlink()
    else:
        packs[-1].write_bytes(whole[:-1] + (b"" if harm == "cut" else bytes([whole[-1] ^ 1])))
    with Checkpoint.open(tmp_path / "ck") as store:
        result = inline(MODEL, store=store).conduct()
    statuses = list(result.tiles["status"])
    assert statuses.count("done") == (6 if harm == "gone" else 1)
    assert sum("damaged or missing" in line for line in caplog.messages) == 1
    for mine, right in zip(kept_of(result), first, strict=True):
        np.testing.assert_array_equal(mine, right)
    with Checkpoint.open(tmp_path / "ck") as store:
        again = inline(MODEL, store=store).conduct()
    assert set(again.tiles["status"]) == {"restored"}


def test_a_large_map_that_is_found_damaged_runs_its_tile_next_time(
    inline: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large arrays are not read when tiles are restored: reading says it, and notes it."""
    monkeypatch.setattr(payloadstore, "WHOLE_PACKED", 0)
    folder = tmp_path / "ck" / "payloads"
    with Checkpoint.open(tmp_path / "ck") as store:
        first = np.asarray(inline(MODEL, store=store).conduct().raster.probabilities)
    (pack,) = folder.iterdir()
    whole = pack.read_bytes()
    pack.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with Checkpoint.open(tmp_path / "ck") as store:
        result = inline(MODEL, store=store).conduct()
    assert set(result.tiles["status"]) == {"restored"}
    for _ in range(2):  # it stays damaged for whoever reads on
        with pytest.raises(tv.CheckpointCorrupt, match="computed again, and nothing else"):
            np.asarray(result.raster)
    assert len(list(folder.iterdir())) == 2
    with Checkpoint.open(tmp_path / "ck") as store:
        again = inline(MODEL, store=store).conduct()
    assert sorted(again.tiles["status"]) == ["done"] + ["restored"] * 5
    np.testing.assert_array_equal(np.asarray(again.raster.probabilities), first)
    np.testing.assert_array_equal(np.asarray(result.raster.probabilities), first)


def test_damage_that_cannot_be_noted_says_what_to_do(
    inline: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that refuses: nothing is promised of the next run."""
    monkeypatch.setattr(payloadstore, "WHOLE_PACKED", 0)
    with Checkpoint.open(tmp_path / "ck") as store:
        result = inline(MODEL, store=store).conduct()
    (pack,) = (tmp_path / "ck" / "payloads").iterdir()
    pack.write_bytes(pack.read_bytes()[:-1])

    def refused(*_: Any) -> Any:
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(payloadstore, "SegmentWriter", refused)
    with pytest.raises(tv.CheckpointCorrupt, match="Make the folder writable and read them"):
        np.asarray(result.raster)


def test_a_table_that_claims_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    """Sound checksums, a size of 3 GiB: refused before anything is read."""
    ref, raw = bytes_of(np.ones((1, 8, 8), np.uint8))
    frame = bytearray(segmentfile.frame_of([(ref.digest, 1.0, 17, raw)]))
    row = struct.pack("<32sdIII", ref.digest, 1.0, 17, 3 * 2**30, zlib.crc32(raw))
    head = struct.pack("<8sIQI", segmentfile.FRAME, 1, len(raw), zlib.crc32(row))
    frame[:] = head + struct.pack("<I", zlib.crc32(head)) + row + raw
    (tmp_path / "payloads").mkdir()
    name = segmentfile.segment_name(1)
    (tmp_path / "payloads" / name).write_bytes(segmentfile.MAGIC + frame)
    store = PayloadStore(tmp_path)
    tracemalloc.start()
    with pytest.raises(tv.CheckpointCorrupt):
        store.gather([ref.digest], ref.size)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_pruning_gives_back_the_space_of_maps(inline: Make, tmp_path: Path) -> None:
    """What no record refers to goes; what one does stays readable."""
    other = tv.model(lambda p: 1 - brightness(p), fingerprint="o", **dict(MODEL.params))
    with Checkpoint.open(tmp_path / "ck") as store:
        run = inline(other, store=store)
        run.conduct()
        inline(MODEL, store=store).conduct()
        (one_pass,) = run.plan.passes
        store.delete(one_pass.keys.values())
        before = sum(pack.stat().st_size for pack in (tmp_path / "ck" / "payloads").iterdir())
        store.payloads.sweep({s.raster.ref.digest for s in planned(inline, store)}, 9e9)
    after = sum(pack.stat().st_size for pack in (tmp_path / "ck" / "payloads").iterdir())
    assert after <= before
    with Checkpoint.open(tmp_path / "ck") as store:
        result = inline(MODEL, store=store).conduct()
    assert set(result.tiles["status"]) == {"restored"}
    for mine, right in zip(kept_of(result), expected(), strict=True):
        np.testing.assert_array_equal(mine, right)


def planned(inline: Make, store: Any) -> Any:
    return inline(MODEL, store=store).conduct().tile_findings


def test_a_pack_that_claims_more_than_its_record_is_damage(tmp_path: Path) -> None:
    """A bomb of zstd decodes into the size that the record names, or not at all."""
    ref, _ = bytes_of(np.zeros((1, 8, 8), np.uint8))
    bomb = packed(bytes(64 * 2**20), 1)
    assert len(bomb.data) < 10_000
    with Checkpoint.open(tmp_path / "ck") as store:
        store.payloads.add({ref.digest: PackedArray(bomb.data, bomb.kind)})
        with pytest.raises(tv.CheckpointCorrupt, match="damaged or missing"):
            store.payloads.gather([ref.digest], ref.size)


# What a run refuses -------------------------------------------------------------------------


def test_a_map_of_another_size_fails_its_tile(inline: Make) -> None:
    """One value a pixel of the tile."""
    model = tv.model(lambda p: np.zeros(p.shape[:2])[:-1], fingerprint="s", returns="values")
    result = inline(model).conduct()
    assert "a map of 32×31 pixels for a tile of 32×32" in result.first_failure


def test_maps_of_two_kinds_in_one_run_are_refused(inline: Make) -> None:
    """The tile that differs fails, and says what the others have."""

    def uneven(pixels: np.ndarray) -> tv.Findings:
        names = ("a", "b") if pixels[0, 0, 0] == 40 else ("a", "c")
        return tv.Findings(raster=tv.Raster(np.zeros(pixels.shape[:2], int), classes=names))

    result = inline(uneven, concurrency=1).conduct()
    assert list(result.tiles["status"]).count("failed") == 1
    assert "a map of classes (1 × uint8: a, b), and other tiles" in result.first_failure


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"grid": tv.Grid.adaptive()}, "not an adaptive grid"),
        ({"resolution": [1.0, 0.5]}, "not several resolutions"),
        ({"full_image": True}, "not full_image=True"),
    ],
)
def test_tiles_that_make_no_one_map_are_refused(
    inline: Make, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(tv.GridError, match=said):
        inline(MODEL, **asked)
