"""Arrays in files and in graphs: .npy by the window, Dask arrays computed once."""

from __future__ import annotations

import os
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source
from tilevision.sources.identity import fingerprint_of_array

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32", "bool"])
@pytest.mark.parametrize("shape", [(50, 70), (50, 70, 4)])
def test_npy_windows_are_the_array_s(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """Any window, any depth and byte order, here and as a worker opens it."""
    array = RNG.integers(0, 200, shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    source = open_source(tmp_path / "a.npy", mpp=0.5)
    assert (source.size, source.dtype.byteorder) == (
        (70, 50),
        np.dtype(dtype).newbyteorder("=").byteorder,
    )
    assert source.metadata.mpp == (0.5, 0.5)
    whole = array.reshape(50, 70, -1)
    for one in (source, open_reference(source.reference)):
        assert np.array_equal(one.read(Box(3, 5, 61, 44)), whole[5:44, 3:61])
        assert np.array_equal(one.read(Box(69, 49, 70, 50)), whole[49:, 69:])


def test_npy_in_fortran_order_is_staged_once(tmp_path: Path) -> None:
    """Its rows are not together, so it becomes a staged array with the same pixels."""
    array = RNG.integers(0, 200, (40, 30, 3), dtype=np.uint8)
    np.save(tmp_path / "f.npy", np.asfortranarray(array))
    source = open_source(tmp_path / "f.npy")
    assert np.array_equal(source.read(Box(2, 3, 20, 30)), array[3:30, 2:20])
    assert "decoded once" in source.metadata.notes[0]


def test_npy_without_its_end_or_with_objects_is_refused(tmp_path: Path) -> None:
    """A cut file and a pickle are one line each; nothing in the pickle runs."""
    np.save(tmp_path / "cut.npy", np.zeros((100, 100)))
    with (tmp_path / "cut.npy").open("r+b") as file:
        file.truncate(5000)
    np.save(tmp_path / "objects.npy", np.array([[object()]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.zeros(10))
    for name in ("cut.npy", "objects.npy"):
        with pytest.raises(SourceError, match=rf"NumPy cannot read a plain array from .*{name}"):
            open_source(tmp_path / name)
    with pytest.raises(SourceError, match=r"line\.npy has shape"):
        open_source(tmp_path / "line.npy")


def test_an_npy_that_changes_under_the_run_is_refused(tmp_path: Path) -> None:
    """The worker sees that the content is another."""
    np.save(tmp_path / "a.npy", np.zeros((9, 9), np.uint8))
    reference = open_source(tmp_path / "a.npy").reference
    np.save(tmp_path / "a.npy", np.ones((9, 9), np.uint8))
    os.utime(tmp_path / "a.npy", ns=(1, 1))
    with pytest.raises(SourceError, match="changed"):
        open_reference(reference)


@pytest.mark.parametrize("chunks", [(7, 9, 3), (40, 30, 1), (1, 30, 3)])
def test_a_dask_array_is_the_array_it_computes(chunks: tuple[int, ...]) -> None:
    """Same pixels and same identity as the NumPy array: its tiles are the same work."""
    array = RNG.integers(0, 200, (40, 30, 3), dtype=np.uint8)
    source = open_source(da.from_array(array, chunks=chunks), mpp=2.0)
    assert source.fingerprint == fingerprint_of_array(array)
    again = open_reference(source.reference)
    assert np.array_equal(again.read(Box(1, 2, 29, 33)), array[2:33, 1:29])
    path = Path(source.reference.path)
    source.close()
    again.close()
    assert not path.exists()


def test_a_dask_array_that_fails_says_where() -> None:
    """One line with the rows and the reason; nothing stays behind."""

    def fail(block: np.ndarray) -> np.ndarray:
        raise ValueError("no such band")

    array = da.zeros((20, 20), chunks=10).map_blocks(fail, dtype=float, meta=np.zeros((0, 0)))
    with pytest.raises(SourceError, match=r"Rows 0 to 20 of the Dask array .*no such band"):
        open_source(array)


def test_a_dask_array_of_unknown_shape_is_refused() -> None:
    """What is not known before it is computed cannot be cut into tiles."""
    array = da.arange(100, chunks=10)
    with pytest.raises(SourceError, match="compute_chunk_sizes"):
        open_source(array[array > 5][:, None])
