"""The vectors of tiles: NumPy's archive, a table, AnnData, and HDF5 as slide-level tools read it.

All hold the tiles that have a vector, in the order of the grid, and which tile each row is. They
are written block by block.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.tables import NO_VECTOR, lacking
from tilevision.errors import RunError
from tilevision.exporting.folders import filling
from tilevision.exporting.statement import statement
from tilevision.grid import Tile

if TYPE_CHECKING:
    from tilevision.analysis.embeddings import Embeddings
    from tilevision.analysis.resultdata import ResultData

__all__ = [
    "unasked",
    "vectors_of",
    "write_anndata",
    "write_anndata_zarr",
    "write_hdf5",
    "write_npz",
    "write_parquet",
]

_HDF5_ROWS = 512  # of a chunk: with one, reading takes several times as long
_SINGLES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
_STAMP = (1980, 1, 1, 0, 0, 0)  # an export carries no time


def write_npz(result: ResultData, path: Path) -> None:
    """Write ``embeddings (n, d)``, ``ids (n,)`` and ``boxes (n, 4)`` of the tiles.

    Boxes are xmin, ymin, xmax, ymax in pixels of the full-resolution image. A text
    ``tilevision`` (JSON) says what was not analysed.

    Parameters
    ----------
    result : Result
    path : Path
        A file that is not yet there.
    """
    embeddings, rows, tiles = _present(result)
    with zipfile.ZipFile(path, "w") as archive:
        shape = (len(rows), embeddings.shape[1])
        with archive.open(zipfile.ZipInfo("embeddings.npy", _STAMP), "w", force_zip64=True) as out:
            kind = np.lib.format.dtype_to_descr(embeddings.dtype)
            header = {"descr": kind, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(out, header)
            for _, vectors in _blocks(embeddings, rows):
                out.write(np.ascontiguousarray(vectors).tobytes())
        said = json.dumps(statement(result), ensure_ascii=False)
        columns = {
            "ids": np.array([tile.id for tile in tiles]),
            "boxes": _boxes(tiles),
            "tilevision": np.array(said),
        }
        for name, column in columns.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _STAMP), "w") as out:
                np.lib.format.write_array(out, column, allow_pickle=False)


def write_parquet(result: ResultData, path: Path) -> None:
    """Write a row for each tile: id, xmin, ymin, xmax, ymax, and ``embedding``.

    The vectors are lists of one length of float32, which every reader has; those that were
    float16 take no more room so. The file's metadata say under ``tilevision`` what was not
    analysed.

    Parameters
    ----------
    result : Result
    path : Path
        A file that is not yet there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    embeddings, rows, tiles = _present(result)
    sides = [(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")]
    vector = pa.list_(pa.float32(), embeddings.shape[1])
    said = json.dumps(statement(result), ensure_ascii=False)
    schema = pa.schema([("id", pa.string()), *sides, ("embedding", vector)]).with_metadata(
        {"tilevision": said}
    )
    split = {"embedding.list.element": "BYTE_STREAM_SPLIT"}
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=False, column_encoding=split
    ) as file:
        for start, vectors in _blocks(embeddings, rows, wide=True):
            few = tiles[start : start + len(vectors)]
            flat = pa.array(vectors.reshape(-1))
            columns = [
                pa.array([tile.id for tile in few]),
                *(pa.array(side) for side in _boxes(few).T),
                pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]),
            ]
            file.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def write_hdf5(result: ResultData, path: Path) -> None:
    """Write the HDF5 file of a slide, as TRIDENT and CLAM read it.

    ``features (n, d)`` float32; ``coords (n, 2)`` int64, the top left corners of the tiles in
    pixels of the full-resolution image, x and y. Attributes of `coords` are those of TRIDENT:
    patch_size, patch_size_level0, level0_width, level0_height, name, savetodir (empty), overlap (in
    pixels of a patch), and level0_magnification and target_magnification where microns per pixel
    are known; beside them level0_mpp and mpp, and, of tiles at full resolution, patch_level (0)
    for CLAM. In a folder of many images, each has its slide's name: ``slide.h5``.

    Parameters
    ----------
    result : Result
    path : Path
        A file that is not yet there.

    Raises
    ------
    RunError
        If the tiles differ in size, for which there is no place.
    """
    import h5py

    embeddings, rows, tiles = _present(result)
    said = _patches(result, tiles)
    name = Path(result.name).stem
    width = embeddings.shape[1]
    with h5py.File(path, "w") as file:
        chunks = (min(_HDF5_ROWS, len(rows)), width)
        features = file.create_dataset(
            "features", (len(rows), width), dtype=np.float32, chunks=chunks
        )
        features.attrs.update({"name": name, "savetodir": "", "encoder": result.facts.model})
        # Made float32 here: HDF5 would take several times as long. A whole chunk is its own bytes.
        for start, vectors in _blocks(embeddings, rows, chunks[0], wide=True):
            if len(vectors) == chunks[0]:
                features.id.write_direct_chunk((start, 0), vectors)
            else:
                features[start:] = vectors
        coords = file.create_dataset("coords", data=_boxes(tiles)[:, :2].astype(np.int64))
        coords.attrs.update({"name": name, "savetodir": "", **said})
        file.attrs["tilevision"] = json.dumps(statement(result), ensure_ascii=False)


def write_anndata(result: ResultData, path: Path) -> None:
    """Write an AnnData file: a row of ``X (n, d)`` float32 for each tile.

    ``obs`` is indexed by the tile's id and has xmin, ymin, xmax, ymax; ``obsm["spatial"]`` ``(n,
    2)`` are the centres of the tiles, x and y in pixels of the full-resolution image.
    ``uns["tilevision"]`` (JSON) says what was not analysed.

    Parameters
    ----------
    result : Result
    path : Path
        A file that is not yet there.
    """
    import dask

    table = vectors_of(result)
    with dask.config.set(scheduler="synchronous"):
        table.write_h5ad(path)


def write_anndata_zarr(result: ResultData, path: Path) -> None:
    """Write the same as `write_anndata` as a group of Zarr 3, which ``anndata.read_zarr`` reads.

    Parameters
    ----------
    result : Result
    path : Path
        A folder.
    """
    import anndata
    import dask

    table = vectors_of(result)
    with (
        filling(path, statement(result)) as draft,
        dask.config.set(scheduler="synchronous"),
        anndata.settings.override(zarr_write_format=3),
        unasked(),
    ):
        table.write_zarr(draft)


@contextmanager
def unasked() -> Iterator[None]:
    """Keep quiet what AnnData says of its own use of Zarr: users can do nothing about it."""
    with warnings.catch_warnings():
        for message in ("Consolidated metadata", "zarr v3 autosharding"):
            warnings.filterwarnings("ignore", message=message)
        yield


def vectors_of(result: ResultData) -> Any:
    """Return the vectors as an `anndata.AnnData`, read block by block as it is written."""
    import anndata
    import dask.array
    import pandas as pd

    embeddings, rows, tiles = _present(result)
    boxes = _boxes(tiles)
    chunk = max(1, embeddings.step)
    parts = [
        dask.array.from_delayed(
            dask.delayed(_wide)(embeddings, rows[start : start + chunk]),
            (len(rows[start : start + chunk]), embeddings.shape[1]),
            np.float32,
        )
        for start in range(0, len(rows), chunk)
    ]
    return anndata.AnnData(
        X=dask.array.concatenate(parts),
        obs=pd.DataFrame(
            dict(zip(("xmin", "ymin", "xmax", "ymax"), boxes.T, strict=True)),
            index=pd.Index([tile.id for tile in tiles], name="id"),
        ),
        obsm={"spatial": (boxes[:, :2] + boxes[:, 2:]) / 2},
        uns={"tilevision": json.dumps(statement(result), ensure_ascii=False)},
    )


def _wide(embeddings: Embeddings, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return embeddings[rows].astype(np.float32)


def _present(result: ResultData) -> tuple[Embeddings, NDArray[np.int64], list[Tile]]:
    embeddings = result.embeddings
    if embeddings is None:
        raise lacking(result.rows, NO_VECTOR)
    rows = np.flatnonzero(embeddings.present)
    return embeddings, rows, [result.rows[row].tile for row in rows.tolist()]


def _blocks(
    embeddings: Embeddings, rows: NDArray[np.int64], step: int = 0, wide: bool = False
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the vectors of `rows` in their order, and where among them each block begins.

    The next block is read while the caller writes this one, which lasts until the next but one.

    Parameters
    ----------
    wide : bool
        Make them float32.
    """
    step = step or embeddings.step
    # Made once: fresh memory for each block would cost as much as the conversion.
    shape = (2, min(step, len(rows)), embeddings.shape[1])
    spare = np.empty(shape, dtype=np.float32) if wide else None

    def read(start: int) -> NDArray[Any]:
        found = embeddings[rows[start : start + step]]
        if spare is None:
            return found
        out = spare[start // step % 2, : len(found)]
        if found.dtype == np.float16:
            # By a table of all 65,536 numbers: half the time of a conversion.
            np.take(_SINGLES, found.view(np.uint16), out=out, mode="clip")
        else:
            out[:] = found
        return out

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, 0)
        for start in range(0, len(rows), step):
            vectors = ahead.result()
            ahead = pool.submit(read, start + step)  # of none, past the last
            yield start, vectors


def _boxes(tiles: list[Tile]) -> NDArray[np.float64]:
    sides = [(tile.box.x0, tile.box.y0, tile.box.x1, tile.box.y1) for tile in tiles]
    return np.array(sides, dtype=np.float64).reshape(-1, 4)


def _patches(result: ResultData, tiles: list[Tile]) -> dict[str, Any]:
    """Return what TRIDENT's attributes say of the tiles."""
    boxes = _boxes(tiles)
    spans = np.round(boxes[:, 2:] - boxes[:, :2])
    if np.ptp(spans) > 1:
        raise RunError(
            "The tiles differ in size, and this layout has one for all; use tiles of one size "
            "(grid=224), or save .embeddings.parquet."
        )
    span, size = int(spans.max()), max(tiles[0].output_size)
    starts = np.unique(boxes[:, 0])
    steps, times = np.unique(np.diff(starts), return_counts=True)
    step = steps[times.argmax()] if len(steps) else span  # not that of the last, moved inwards
    said: dict[str, Any] = {
        "patch_size": size,
        "patch_size_level0": span,
        "overlap": max(0, round((span - step) * size / span)),
        "level0_width": result.source.size[0],
        "level0_height": result.source.size[1],
    }
    if size == span:
        said["patch_level"] = 0
    if result.mpp is not None:
        said["level0_mpp"], said["mpp"] = result.mpp[0], result.mpp[0] * span / size
        magnification = 10 / result.mpp[0]
        said["level0_magnification"] = round(magnification)
        said["target_magnification"] = round(magnification * size / span)
    return said
