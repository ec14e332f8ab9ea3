"""Maps of whole runs: what costs no inference, what failures leave, what damage costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_tiles import SIDE, Inline, inline_runs  # noqa: F401 - fixtures

import tilevision as tv
from tilevision import infer
from tilevision.checkpoint import Checkpoint
from tilevision.checkpoint.payloadstore import PayloadStore
from tilevision.payloads import PayloadRef, bytes_of, packed

Make = Callable[..., Inline]
OVERLAPPING = tv.Grid.by_tile(SIDE, 0.25)
CLASSES = {"returns": "probabilities", "classes": ("bright", "dark")}


@pytest.mark.slow
def test_deciding_anew_and_every_file_take_no_model_and_no_pixel(
    inline: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other blends, margins, thresholds, classes, tables and formats are made of what is kept."""
    pytest.importorskip("rasterio")
    log = tmp_path / "calls"

    def share(pixels: np.ndarray) -> np.ndarray:
        with log.open("a") as file:
            file.write("a tile\n")
        part = pixels[..., 0] / 255 + np.linspace(0, 0.7, pixels.shape[1])
        return np.stack([part, 1 - part])

    result = inline(
        tv.model(share, fingerprint="s", **CLASSES), grid=OVERLAPPING, concurrency=1
    ).conduct()
    calls = log.read_text()
    assert calls.count("\n") == len(result.rows) == 12

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("A tile was read.")

    monkeypatch.setattr(type(result.source), "read", refused)
    monkeypatch.setattr(infer, "infer", refused)
    zarr = [".ome.zarr"] if pytest.importorskip("zarr") else []
    made = [result]
    made += [result.with_(blend=blend, margin=2) for blend in ("core", "linear", "mean")]
    made.append(result.with_(thresholds={"bright": 0.4}, unsure=0.6, classes=["bright"]))
    maps = [np.asarray(one.raster) for one in made]
    assert any((maps[0] != one).any() for one in maps[1:])
    for number, one in enumerate(made):
        one.raster.areas()
        one.summary  # noqa: B018 - computed
        for suffix in (".tif", ".ome.tif", ".npy", *zarr):
            one.save(tmp_path / f"{number}{suffix}")
            one.save(tmp_path / f"{number}-shares{suffix}", layer="probabilities")
        one.to_polygons().save(tmp_path / f"{number}.geojson")
    assert log.read_text() == calls


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_failed_tile_leaves_no_data_and_the_next_run_fills_it(
    inline: Make, tmp_path: Path
) -> None:
    """No data exactly where no neighbour reaches; the file says how many tiles lack."""
    rasterio = pytest.importorskip("rasterio")
    broken = tmp_path / "broken"
    broken.touch()

    def share(pixels: np.ndarray) -> np.ndarray:
        if broken.exists() and (pixels == 50).any() and not (pixels < 40).any():
            raise ValueError("not yet")
        return np.stack([pixels[..., 0] / 255, 1 - pixels[..., 0] / 255])

    model = tv.model(share, fingerprint="s", **CLASSES)
    how: dict[str, Any] = {"grid": OVERLAPPING, "max_failures": None}
    with Checkpoint.open(tmp_path / "ck") as store:
        result = inline(model, store=store, **how).conduct()
    covered = np.zeros(result.raster.shape, bool)
    for row in result.tile_findings:
        b = row.tile.box
        covered[b.y0 : b.y1, b.x0 : b.x1] = True
    failed = list(result.tiles["status"]).count("failed")
    assert failed and not covered.all()
    np.testing.assert_array_equal(np.asarray(result.raster) == 255, ~covered)
    table = result.raster.areas()
    assert table["pixels"].sum() == covered.size
    assert set(table["analysed"]) == {covered.mean()}
    with rasterio.open(result.save(tmp_path / "part.tif")) as read:
        told = json.loads(read.tags()["TILEVISION"])
        np.testing.assert_array_equal(read.read_masks(1) > 0, covered)
    assert told["tiles_without_map"] == failed
    assert f"of {len(result.rows)} tiles" in json.dumps(told)
    broken.unlink()
    with Checkpoint.open(tmp_path / "ck") as store:
        again = inline(model, store=store, **how).conduct()
    assert list(again.tiles["status"]).count("done") == failed
    assert (np.asarray(again.raster) != 255).all() and not again.raster.missing
    assert set(again.raster.areas()["analysed"]) == {1.0}


@pytest.mark.slow
def test_two_runs_at_once_in_one_folder_leave_one_map(inline: Make, tmp_path: Path) -> None:
    """Each appends to side files of its own; both are right, and a third restores every tile."""

    def share(pixels: np.ndarray) -> np.ndarray:
        return np.stack([pixels[..., 0] / 255, 1 - pixels[..., 0] / 255])

    model = tv.model(share, fingerprint="s", **CLASSES)
    right = np.asarray(inline(model, grid=OVERLAPPING).conduct().raster)

    def run(_: int) -> Any:
        with Checkpoint.open(tmp_path / "ck") as store:
            return inline(model, store=store, grid=OVERLAPPING).conduct()

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(run, range(2)))
    for one in (*both, run(2)):
        np.testing.assert_array_equal(np.asarray(one.raster), right)
    assert set(run(3).tiles["status"]) == {"restored"}


def maps(number: int) -> tuple[PayloadRef, Any]:
    """A map that no other is like, as it is stored."""
    kept = np.random.default_rng(number).integers(0, 4, (1, 16, 16)).astype(np.uint8)
    ref, raw = bytes_of(kept)
    return ref, packed(raw, 1)


@pytest.fixture(name="packs", scope="module")
def packs_of_three(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[int]]:
    """The bytes of a pack of three maps, and its length after each sync."""
    folder = tmp_path_factory.mktemp("packs")
    store, lengths = PayloadStore(folder), []
    for number in range(3):
        ref, data = maps(number)
        store.add({ref.digest: data})
        (pack,) = (folder / "payloads").iterdir()
        lengths.append(pack.stat().st_size)
    store.close()
    return pack.read_bytes(), lengths


@pytest.mark.slow
@given(data=st.data())
def test_a_pack_that_is_cut_after_a_sync_has_what_was_synced(
    packs: tuple[bytes, list[int]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """At any byte, with whatever a crash left behind it; the rest is missing, and stored anew."""
    whole, lengths = packs
    done = data.draw(st.integers(0, 3))
    low = ([0, *lengths])[done]
    high = len(whole) if done == 3 else lengths[done] - 1
    cut = data.draw(st.integers(low, high))
    left = data.draw(st.sampled_from([b"", bytes(40), b"\xf1tvframe", b"\xff" * 70]))
    folder = tmp_path_factory.mktemp("cut")
    (folder / "payloads").mkdir()
    (folder / "payloads" / "00000001-host-1-00000000.seg").write_bytes(whole[:cut] + left)
    refs = [maps(number)[0] for number in range(3)]
    store = PayloadStore(folder)
    assert store.sound(refs) == [number < done for number in range(3)]
    store.add({ref.digest: kept for ref, kept in map(maps, range(3))})
    store.close()
    again = PayloadStore(folder)
    assert again.sound(refs) == [True] * 3
    for number, ref in enumerate(refs):
        right = np.random.default_rng(number).integers(0, 4, 256).astype(np.uint8)
        np.testing.assert_array_equal(again.gather([ref.digest], ref.size)[0], right)
