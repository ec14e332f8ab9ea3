"""A map as OME-Zarr 0.5: a pyramid of sharded arrays, and a map as a plain NumPy file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.exporting.folders import filling
from tilevision.exporting.maps.inorder import in_order
from tilevision.exporting.maps.mapfile import MapFile
from tilevision.files import draft_name, reserve
from tilevision.rasters import hexadecimal
from tilevision.rasters.rastermap import BLOCK
from tilevision.rasters.regionmask import Window

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["write", "write_npy"]

_CHUNK = 512
_SHARD = 4 * _CHUNK  # written whole: a part would read and write it again
_TILE_ROWS = 1.5  # at hand: a block is blended at a time


def write(result: ResultData, path: Path, *, layer: str | None = None) -> None:
    """Write a group of OME-Zarr 0.5 (Zarr 3), compressed with zstd.

    Beside the draft, files hold the smaller levels as they are while it is written: a third of
    the map.

    Parameters
    ----------
    result : Result
    path : Path
        A folder.
    layer : str, optional
        ``"classes"``, ``"probabilities"`` or ``"values"``; default classes, or values.

    Raises
    ------
    RunError
        If there is no such map, or the folder holds anything else.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    made = MapFile(result, layer)
    sizes = list(made.levels())
    said: dict[str, Any] = {}
    with filling(path, said) as draft, _kept(made, path, sizes) as levels:
        group = zarr.open_group(str(draft), mode="w", zarr_format=3)
        for number, size in enumerate(sizes):
            width, height = size
            array = group.create_array(
                str(number),
                shape=(made.raster.bands, height, width),
                dtype=made.dtype,
                chunks=(1, _CHUNK, _CHUNK),
                shards=(1, _SHARD, _SHARD),
                compressors=ZstdCodec(level=3),
                fill_value=made.nodata if made.dtype.kind == "f" else int(made.nodata),
                dimension_names=("c", "y", "x"),
            )
            with _planned(made, size, first=not number) as (shards, blocks):
                # Blended here and written by another thread: memory of this one is used again.
                level = partial(_level, made, levels[number], levels[number + 1], blocks)
                for _ in in_order(partial(_put, array), map(level, shards), 1):
                    pass
        said |= made.said  # once the map was blended, which tells much of it
        group.attrs["ome"] = _ome(made, len(sizes))
        group.attrs["tilevision"] = said


@contextmanager
def _planned(
    made: MapFile, size: tuple[int, int], *, first: bool
) -> Iterator[tuple[list[Window], Iterator[Window]]]:
    """Yield the windows of a level that are written together, and the blocks of all of them.

    Those of the map are in its order, and their tiles are decoded by a thread that is ahead.
    """
    raster = made.raster
    shards = list(raster.path(_SHARD, _TILE_ROWS) if first else _blocks((0, 0, *size), _SHARD))
    blocks = [block for shard in shards for block in _blocks(shard, BLOCK)]
    if not first:
        yield shards, iter(blocks)
        return

    def fetched(window: Window) -> Window:
        raster.fetch(window)
        return window

    with raster.expecting(blocks), closing(in_order(fetched, blocks, 1)) as ahead:
        yield shards, ahead


def _blocks(window: Window, side: int) -> Iterator[Window]:
    """Yield the parts of a window, of up to `side` pixels each way."""
    x0, y0, x1, y1 = window
    for y in range(y0, y1, side):
        for x in range(x0, x1, side):
            yield x, y, min(x + side, x1), min(y + side, y1)


@contextmanager
def _kept(
    made: MapFile, path: Path, sizes: list[tuple[int, int]]
) -> Iterator[list[NDArray[Any] | None]]:
    """Yield what levels are made in, on the disk, from the ones above; None for the first."""
    names = [draft_name(path) for _ in sizes[1:]]
    levels: list[NDArray[Any] | None] = [None]  # and None for what follows the last
    try:
        for name, (width, height) in zip(names, sizes[1:], strict=True):
            shape = made.raster.bands, height, width
            levels.append(np.memmap(name, made.dtype, "w+", shape=shape))
            reserve(name)
        yield [*levels, None]
    finally:
        for name in names:
            name.unlink(missing_ok=True)


def _level(
    made: MapFile,
    level: NDArray[Any] | None,
    smaller: NDArray[Any] | None,
    blocks: Iterator[Window],
    window: Window,
) -> tuple[Window, NDArray[Any]]:
    """Return a window of a level, and its planes: blocks of the map, or of the level as made.

    What they have of the next level is entered there.
    """
    x0, y0, x1, y1 = window
    planes = np.empty((made.raster.bands, y1 - y0, x1 - x0), made.dtype)
    for left, top, right, bottom in islice(blocks, len(list(_blocks(window, BLOCK)))):
        if level is None:
            block = made.planes(left, top, right, bottom)
        else:
            block = level[:, top:bottom, left:right]
        planes[:, top - y0 : bottom - y0, left - x0 : right - x0] = block
        if smaller is not None:
            half = slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2)
            smaller[(slice(None), *half)] = made.halved(block)
    return window, planes


def _put(array: Any, block: tuple[Window, NDArray[Any]]) -> None:
    (x0, y0, x1, y1), planes = block
    array[:, y0:y1, x0:x1] = planes


def _ome(made: MapFile, levels: int) -> dict[str, Any]:
    """Return the metadata of OME-NGFF 0.5."""
    mpp = made.raster.metadata.mpp
    unit = {} if mpp is None else {"unit": "micrometer"}
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", **unit} for name in ("y", "x")]
    x, y = mpp or (1.0, 1.0)
    datasets = []
    for number in range(levels):
        step = float(2**number)
        place: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0, y * step, x * step]}]
        datasets.append({"path": str(number), "coordinateTransformations": place})
    name = f"map of {made.raster.layer}"
    top = {"start": 0, "end": 255, "min": 0, "max": 255}
    shares = made.raster.layer == "probabilities"  # a channel is a class
    channels = [
        {
            "label": label,
            "color": hexadecimal(made.palette[n])[1:].upper() if shares else "FFFFFF",
            "window": top,
            "active": not n,
        }
        for n, label in enumerate(made.names)
    ]
    omero = {"omero": {"channels": channels}} if made.dtype == np.uint8 else {}
    multiscale = {"name": name, "axes": axes, "datasets": datasets}
    return {"version": "0.5", "multiscales": [multiscale], **omero, **_labels(made)}


def _labels(made: MapFile) -> dict[str, Any]:
    """Return what OME-NGFF says of an image of labels: colour and name of each class."""
    if made.raster.layer != "classes":
        return {}
    classes = made.raster.classes
    colours = [{"label-value": n, "rgba": made.palette[n].tolist()} for n in classes.values()]
    names = [{"label-value": number, "class": name} for name, number in classes.items()]
    return {"image-label": {"version": "0.5", "colors": colours, "properties": names}}


def write_npy(result: ResultData, path: Path, *, layer: str | None = None) -> None:
    """Write the array as `Result.raster` has it: ``numpy.load(path, mmap_mode="r")`` reads it.

    Parameters
    ----------
    result : Result
    path : Path
    layer : str, optional
        ``"classes"`` (uint8), ``"probabilities"`` or ``"values"`` (float32).

    Raises
    ------
    RunError
        If there is no such map.
    """
    raster = MapFile(result, layer).raster
    out = np.lib.format.open_memmap(path, "w+", raster.dtype, raster.shape)
    reserve(path)

    def put(window: Window) -> None:
        x0, y0, x1, y1 = window
        raster.put(window, out[y0:y1, x0:x1])
        raster.passed(window)

    windows = list(raster.path())
    with raster.expecting(windows):
        for _ in in_order(put, windows):
            pass
    out.flush()
