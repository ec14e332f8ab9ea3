"""A map as an OME-TIFF pyramid, as QuPath and Bio-Formats read it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from tilevision.exporting.maps.inorder import in_order
from tilevision.exporting.maps.mapfile import MapFile
from tilevision.files import draft_name, dumps, reserve

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["write"]

_TILE = 512
_QUICK, _LEVEL = 1, 6  # of deflate, of shares and classes: shares, as differences, want no more
_PACKING = 4  # threads
_NAMESPACE = UUID("0d6f5a0e-6f0c-4b52-9c1d-2f6b3a9e7c41")
_BIG = 2**31  # bytes before compression from which the file has 64-bit offsets


def write(result: ResultData, path: Path, *, layer: str | None = None) -> None:
    """Write a tiled pyramid, a channel a plane: names of channels, µm, and a map of class names.

    Probabilities are in 253 steps, 255 no data. Beside the draft, a file holds the planes as they
    are while it is written.

    Parameters
    ----------
    result : Result
    path : Path
    layer : str, optional
        ``"classes"``, ``"probabilities"`` or ``"values"``; default classes, or values.

    Raises
    ------
    RunError
        If there is no such map.
    """
    import tifffile

    made = MapFile(result, layer)
    sizes = list(made.levels())
    kept = [draft_name(path) for _ in sizes]
    pack = partial(_packed, level=_LEVEL if made.raster.layer == "classes" else _QUICK)
    try:
        planes = _level(made, kept[0], sizes[0], None)
        with tifffile.TiffWriter(path, bigtiff=planes.nbytes > _BIG, ome=True) as out:
            for number, (width, height) in enumerate(sizes):
                planes = planes if not number else _level(made, kept[number], sizes[number], planes)
                first: dict[str, Any] = {"metadata": _told(made), "subifds": len(sizes) - 1}
                out.write(
                    in_order(pack, _tiles(planes), _PACKING),
                    shape=(len(planes), height, width),
                    dtype=made.dtype,
                    tile=(_TILE, _TILE),
                    compression="zlib",
                    predictor=made.dtype.kind == "u",
                    photometric="minisblack",
                    subfiletype=1 if number else 0,
                    **({} if number else first),
                )
    finally:
        for one in kept:
            one.unlink(missing_ok=True)


def _level(
    made: MapFile, path: Path, size: tuple[int, int], larger: NDArray[Any] | None
) -> NDArray[Any]:
    """Return a level, on the disk: such a file wants the planes one after the other."""
    width, height = size
    planes = np.memmap(path, made.dtype, "w+", shape=(made.raster.bands, height, width))
    reserve(path)
    if larger is None:
        for (x0, y0, x1, y1), block in made.blocks():
            planes[:, y0:y1, x0:x1] = block
        return planes
    for y in range(0, height, _TILE):
        planes[:, y : y + _TILE] = made.halved(larger[:, 2 * y : 2 * (y + _TILE)])
    return planes


def _tiles(planes: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for plane in planes:
        for y in range(0, plane.shape[0], _TILE):
            for x in range(0, plane.shape[1], _TILE):
                yield plane[y : y + _TILE, x : x + _TILE]


def _packed(tile: NDArray[Any], level: int) -> bytes:
    """Return a tile as the file has it: whole numbers by what they differ from the one before."""
    from imagecodecs import deflate_encode, delta_encode

    high, wide = tile.shape
    whole = np.zeros((_TILE, _TILE), tile.dtype)
    whole[:high, :wide] = tile
    if tile.dtype.kind == "u":
        whole = delta_encode(whole, axis=-1)
    return bytes(deflate_encode(whole, level))  # type: ignore[arg-type]  # any buffer


def _told(made: MapFile) -> dict[str, Any]:
    """Return what tifffile makes OME-XML of."""
    values = {"tilevision": dumps(made.said)}
    classes = made.raster.classes if made.raster.layer == "classes" else {}
    values |= {str(number): name for name, number in classes.items()}
    told: dict[str, Any] = {
        # tifffile's own has time and network card in it: the same map would be another file.
        "UUID": str(uuid5(_NAMESPACE, made.raster.fingerprint + dumps(made.said))),
        "axes": "CYX",
        "Channel": {"Name": made.names, **_coloured(made)},
        "MapAnnotation": {"Namespace": "tilevision", **values},
    }
    if (mpp := made.raster.metadata.mpp) is not None:
        told |= {"PhysicalSizeX": mpp[0], "PhysicalSizeY": mpp[1]}
        told |= {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    return told


def _coloured(made: MapFile) -> dict[str, list[int]]:
    """Return the colour of each channel where channels are classes: OME has RGBA as an int32."""
    if made.raster.layer != "probabilities":
        return {}
    rgba = [int.from_bytes(colour.tobytes()) for colour in made.palette[: len(made.names)]]
    return {"Color": [value - 2**32 if value >= 2**31 else value for value in rgba]}
