"""Zarr and OME-Zarr: any axes, any level, as the zarr library itself reads them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source

zarr = pytest.importorskip("zarr", reason="zarr (extra zarr) is not installed")
RNG = np.random.default_rng(3)


def _save(path: Path, array: np.ndarray, version: int = 3, **attributes: object) -> Path:
    store = zarr.create_array(
        path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=tuple(min(16, n) for n in array.shape),
        zarr_format=version,
    )
    store[...] = array
    store.attrs.update(attributes)
    return path


def _ome(path: Path, levels: list[np.ndarray], axes: str, version: str = "0.5") -> Path:
    zarr_format = 3 if version == "0.5" else 2
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    units = {"x": "micrometer", "y": "nanometer"}
    image = {
        "axes": [{"name": a, **({"unit": units[a]} if a in units else {})} for a in axes],
        "datasets": [
            {
                "path": f"s{n}",
                "coordinateTransformations": [
                    {
                        "type": "scale",
                        "scale": [{"x": 0.5, "y": 250.0}.get(a, 1.0) * 2**n for a in axes],
                    }
                ],
            }
            for n in range(len(levels))
        ],
    }
    for n, level in enumerate(levels):
        _save(path / f"s{n}", level, zarr_format)
    group.attrs.update(
        {"ome": {"multiscales": [image]}} if version == "0.5" else {"multiscales": [image]}
    )
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("shape", "move"), [((50, 70), None), ((50, 70, 3), None), ((3, 50, 70), (0, -1))]
)
def test_array_windows_are_the_array_s(tmp_path, version, shape, move) -> None:
    """Two axes, bands last or bands first, in both formats, here and as a worker opens it."""
    array = RNG.integers(0, 60_000, shape).astype("u2")
    source = open_source(_save(tmp_path / "a.zarr", array, version))
    whole = (np.moveaxis(array, *move) if move else array).reshape(50, 70, -1)
    assert (source.size, source.bands, source.dtype) == ((70, 50), whole.shape[2], np.uint16)
    for one in (source, open_reference(source.reference)):
        assert np.array_equal(one.read(Box(3, 5, 61, 44)), whole[5:44, 3:61])
        last = whole.shape[2] - 1
        assert np.array_equal(one.read(Box(0, 0, 9, 9), bands=[last]), whole[:9, :9, [last]])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx"])
def test_ome_zarr_knows_its_levels_and_microns(tmp_path, version, axes) -> None:
    """Axes are found by name, the first plane is the image, and a coarse read uses a level."""
    big = RNG.integers(0, 255, (96, 128), dtype=np.uint8)
    small = big.reshape(48, 2, 64, 2).mean(axis=(1, 3)).astype(np.uint8)
    shape = tuple({"t": 2, "z": 3, "c": 2}.get(axis, -1) for axis in axes[:-2])
    levels = [np.broadcast_to(a, (*shape, *a.shape)).copy() for a in (big, small)]
    source = open_source(_ome(tmp_path / "o.zarr", levels, axes, version))
    assert source.metadata.levels == ((128, 96), (64, 48))
    assert source.metadata.mpp == pytest.approx((0.5, 0.25))
    assert source.metadata.frames == (6 if "t" in axes else 1)
    assert np.array_equal(source.read(Box(10, 20, 100, 90))[..., 0], big[20:90, 10:100])
    assert np.array_equal(source.read(Box(0, 0, 128, 96), 0.5)[..., -1], small)


def test_a_store_has_the_identity_of_its_content(tmp_path) -> None:
    """A copy is the same work; a changed chunk is not, and a worker refuses it."""
    array = RNG.integers(0, 255, (40, 40), dtype=np.uint8)
    source = open_source(_save(tmp_path / "a.zarr", array))
    shutil.copytree(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert open_source(tmp_path / "b.zarr").fingerprint == source.fingerprint
    zarr.open(tmp_path / "a.zarr", mode="r+")[0, 0] = array[0, 0] + 1
    with pytest.raises(SourceError, match="changed"):
        open_reference(source.reference)


def test_what_is_no_image_is_refused_in_one_line(tmp_path) -> None:
    """A group without an image, four nameless axes, a damaged store, text."""
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("cells", shape=(4,), dtype="u1")
    _save(tmp_path / "four.zarr", np.zeros((2, 2, 9, 9), np.uint8))
    (tmp_path / "torn.zarr").mkdir()
    (tmp_path / "torn.zarr" / "zarr.json").write_text("{")
    for name, words in {
        "g.zarr": "it holds cells",
        "four.zarr": "does not name its axes",
        "torn.zarr": "Zarr cannot read .*get the store again",
    }.items():
        with pytest.raises(SourceError, match=words) as caught:
            open_source(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_damaged_chunk_is_one_clear_line(tmp_path) -> None:
    """The store opens; the window over the broken chunk says what to do."""
    path = _save(tmp_path / "a.zarr", RNG.integers(0, 255, (40, 40), dtype=np.uint8))
    chunk = next(file for file in path.rglob("*") if file.name == "1" and file.is_file())
    chunk.write_bytes(b"no chunk")
    source = open_source(path)
    with pytest.raises(SourceError, match="chunk cannot be read"):
        source.read(Box(0, 0, 40, 40))


def test_without_zarr_the_message_names_the_extra(tmp_path, monkeypatch) -> None:
    """One line with the pip command."""
    path = _save(tmp_path / "a.zarr", np.zeros((9, 9), np.uint8))
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(SourceError, match=r"pip install 'tilevision\[zarr\]'"):
        open_source(path)
