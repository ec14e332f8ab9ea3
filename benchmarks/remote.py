"""Bytes and requests for tiles of a file on a web server, beside the bytes of their blocks.

    python benchmarks/remote.py [SIDE]

Serves a generated pyramid (SIDE × SIDE RGB, JPEG and deflate) on 127.0.0.1 and reads tiles of
1024 px, overlapping by 20 %.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from range_server import RangeServer, range_server

import tilevision as tv
from tilevision.geometry import Box
from tilevision.sources import open_source

TILE = 1024
TILES = 12


def write_cog(path: Path, side: int, compression: str) -> None:
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    waves = 127 + 90 * np.sin(rows / 37) * np.cos(columns / 53)
    noise = np.random.default_rng(0).integers(0, 24, (side, side, 3), np.uint8)
    pixels = noise + waves.astype(np.uint8)[..., None]
    options = {"tile": (256, 256), "photometric": "rgb", "compression": compression}
    levels = [pixels[:: 2**level, :: 2**level] for level in range(4)]
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(levels[0], subifds=0, **options)
        for level in levels[1:]:
            tif.write(level, subfiletype=1, **options)


def boxes(side: int) -> list[Box]:
    grid = tv.Grid.by_tile(TILE, overlap=0.2)
    return [tile.box for tile in grid.tiles((side, side))][:TILES]


def blocks(path: Path, wanted: list[Box]) -> tuple[int, int]:
    """Return the bytes of the blocks of all tiles, counted for each tile, and each once."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        counts, across = page.databytecounts, -(-page.imagewidth // 256)
    touched = [
        {row * across + column for row in span(box.y0, box.y1) for column in span(box.x0, box.x1)}
        for box in wanted
    ]
    once = set().union(*touched)
    return sum(counts[i] for part in touched for i in part), sum(counts[i] for i in once)


def span(start: float, stop: float) -> range:
    return range(int(start) // 256, -(-int(stop) // 256))


def measured(server: RangeServer, url: str, wanted: list[Box]):
    server.forget()
    began = time.perf_counter()
    read = open_source(url).read
    opened = (len(server.asked), server.sent, time.perf_counter() - began)
    server.forget()
    began = time.perf_counter()
    for box in wanted:
        read(box)
    return opened, (len(server.asked), server.sent, time.perf_counter() - began)


def main(side: int) -> None:
    wanted = boxes(side)
    with tempfile.TemporaryDirectory() as folder, range_server() as server:
        for compression in ("jpeg", "zlib"):
            path = Path(folder) / f"{compression}.tif"
            write_cog(path, side, compression)
            url = server.put(path.name, path)
            each, once = blocks(path, wanted)
            print(f"{compression}, {path.stat().st_size / 1e6:,.0f} MB, {len(wanted)} tiles:")
            print(f"  blocks of a tile {each / len(wanted) / 1e3:,.0f} kB; each block once:")
            print(f"  {once / len(wanted) / 1e3:,.0f} kB a tile")
            (requests, sent, seconds), (n, bytes_, took) = measured(server, url, wanted)
            print(
                f"  open: {requests} requests, {sent / 1e3:,.0f} kB, {seconds * 1e3:,.0f} ms;  "
                f"a tile: {n / len(wanted):.1f} requests, {bytes_ / len(wanted) / 1e3:,.0f} kB, "
                f"{took / len(wanted) * 1e3:,.0f} ms;  {bytes_ / once:.3f} of its blocks"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8192)
