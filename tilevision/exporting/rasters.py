"""A heatmap as a raster: GeoTIFF of every class, or a PNG of one with its world file.

Both say where they lie: in the image's reference system where it has one, else in pixels
of the full-resolution image, y down.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilevision.exporting.statement import statement
from tilevision.files import drafting, dumps

if TYPE_CHECKING:
    from tilevision.analysis.heatmap import Heatmap
    from tilevision.analysis.resultdata import ResultData
    from tilevision.sources import ImageMetadata

__all__ = ["write_png", "write_tiff"]

_FULL = 255


def write_tiff(result: ResultData, path: Path, *, cell: float | None = None) -> None:
    """Write a band of float32 probabilities per class, NaN where nothing was analysed.

    Bands are described by their class; the statement of what was analysed is in the tag
    ``TILEVISION``.

    Parameters
    ----------
    result : Result
    path : Path
    cell : float, optional
        Side of a cell in image pixels; default an eighth of the smallest tile.

    Raises
    ------
    RunError
        If the model classifies no tiles.
    """
    import rasterio
    from rasterio.transform import Affine

    heat, metadata = result.heatmap(cell), result.source.metadata
    count, height, width = heat.values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=count,
        dtype="float32",
        nodata=float("nan"),
        crs=metadata.crs if metadata.transform else None,
        transform=Affine(*_place(heat, metadata)),
        compress="deflate",
    ) as raster:
        raster.write(heat.values)
        for band, label in enumerate(heat.labels, 1):
            raster.set_band_description(band, label)
        raster.update_tags(TILEVISION=dumps(statement(result)))


def write_png(
    result: ResultData, path: Path, *, label: str | None = None, cell: float | None = None
) -> None:
    """Write a grey picture, 0 to 255 for probability 0 to 1, clear where nothing was analysed.

    Beside it stands the world file (``.pgw``) that GIS programs look for.

    Parameters
    ----------
    result : Result
    path : Path
    label : str, optional
        The class; default the one that varies most over the image.
    cell : float, optional
        As `write_tiff` takes it.

    Raises
    ------
    RunError
        If the model classifies no tiles, or not so.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    heat = result.heatmap(cell)
    chosen = heat.most_varied if label is None else label
    values = heat.of(chosen)
    known = np.isfinite(values)
    grey = np.where(known, np.round(values * _FULL), 0).astype(np.uint8)
    said = PngInfo()
    said.add_itxt("Title", f"Probability of {chosen}")
    said.add_itxt("Description", dumps(statement(result)))
    picture = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(known * np.uint8(_FULL))])
    a, b, c, d, e, f = _place(heat, result.source.metadata)
    # A world file names the centre of the first cell, in the order of its six lines.
    centre = (c + (a + b) / 2, f + (d + e) / 2)
    with drafting(path) as draft, draft.open("xb") as file:
        picture.save(file, "PNG", pnginfo=said)
    with drafting(path.with_suffix(".pgw")) as draft:
        draft.write_text("".join(f"{value!r}\n" for value in (a, d, b, e, *centre)))


def _place(heat: Heatmap, metadata: ImageMetadata) -> tuple[float, ...]:
    """Return the affine transform of the cells."""
    a, b, c, d, e, f = metadata.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    cell = heat.cell
    return (a * cell, b * cell, c, d * cell, e * cell, f)
