"""Small files under the names that the pages use: a slide, a scene, pages, a film, weights."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import rasterio
import tifffile
import tiny_onnx
from PIL import Image

from tilevision import samples

__all__ = ["lay_out"]


def lay_out(folder: Path) -> Path:
    """Write all of them into a folder, and return it."""
    tissue, page = samples.tissue(), samples.page()
    about = "Aperio Image Library v12\n512x512 [0,0 512x512] |AppMag = 20|MPP = 0.5"
    options = {"tile": (256, 256), "compression": "zlib", "photometric": "rgb"}
    tifffile.imwrite(folder / "slide.svs", tissue, description=about, metadata=None, **options)
    _scene(folder / "scene.tif")
    (folder / "scans").mkdir()
    for name in ("first", "second"):
        Image.fromarray(page).save(folder / "scans" / f"{name}.png")
    with tifffile.TiffWriter(folder / "report.tif") as file:
        for picture in (page, page[::-1]):
            file.write(picture, photometric="minisblack", metadata=None)
    sheets = [Image.fromarray(page).convert("RGB")] * 2
    sheets[0].save(folder / "plans.pdf", save_all=True, append_images=sheets[1:])
    _film(folder / "clip.mp4")
    Image.fromarray(samples.sky()[:400, :400]).save(folder / "road.jpg")
    Image.fromarray(samples.sky()[400:, 400:]).save(folder / "harbour.tif")
    tiny_onnx.finding_red(folder / "boats.onnx")
    tiny_onnx.means(folder / "encoder.onnx")
    tiny_onnx.brighter(folder / "land.onnx", ["sky", "land", "cloud"])
    return folder


def _scene(path: Path) -> None:
    """Write a GeoTIFF of four bands, 16 bits, with bright squares, 0.5 m a pixel."""
    bands = np.full((4, 600, 800), 300, np.uint16)
    for y in range(40, 600, 130):
        for x in range(50, 800, 150):
            bands[:, y : y + 12, x : x + 18] = 3000
    place = rasterio.transform.from_origin(691_000, 5_334_000, 0.5, 0.5)
    with rasterio.open(
        *(path, "w"),
        driver="GTiff",
        width=800,
        height=600,
        count=4,
        dtype="uint16",
        tiled=True,
        crs="EPSG:32632",
        transform=place,
    ) as file:
        file.write(bands)
        file.colorinterp = [
            *(rasterio.enums.ColorInterp.red, rasterio.enums.ColorInterp.green),
            *(rasterio.enums.ColorInterp.blue, rasterio.enums.ColorInterp.undefined),
        ]


def _film(path: Path) -> None:
    """Write a film of 3 seconds, 10 pictures a second."""
    with av.open(path, "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(30):
            picture = np.zeros((240, 320, 3), np.uint8)
            picture[100:120, 10 * number : 10 * number + 20] = 255
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
