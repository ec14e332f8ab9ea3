"""Tiled inference of others, each by its own code, for `rasters.py`: whichever are installed."""

from __future__ import annotations

import importlib.metadata
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Scene", "geoai", "monai", "peers_here", "terratorch"]


@dataclass(frozen=True)
class Scene:
    """An image as the networks are given it.

    Parameters
    ----------
    pixels : array (h, w, 3)
        0 to 255.
    batch : tensor (1, 3, h, w)
        The same, as the network takes it.
    tile : int
        Side of a tile.
    """

    pixels: np.ndarray
    batch: Any
    tile: int


def monai(net: Any, scene: Scene, overlap: float, mode: str) -> np.ndarray:
    """Return what MONAI's sliding window makes of a network ``(k, h, w)``."""
    import torch
    from monai.inferers import sliding_window_inference

    tile = (scene.tile, scene.tile)
    with torch.no_grad():
        found = sliding_window_inference(scene.batch, tile, 1, net, overlap=overlap, mode=mode)
    answer: np.ndarray = found[0].numpy()
    return answer


def geoai(net: Any, scene: Scene, overlap: float, mode: str) -> np.ndarray:
    """Return what geoai's `predict_geotiff` writes ``(k, h, w)``; its no-data counts as 0."""
    import rasterio
    from geoai.inference import predict_geotiff

    high, wide, bands = scene.pixels.shape
    kind = {"driver": "GTiff", "height": high, "width": wide, "count": bands, "dtype": "uint8"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the picture has no place on earth
        given, made = Path(folder, "image.tif"), Path(folder, "map.tif")
        with rasterio.open(given, "w", **kind) as out:
            out.write(np.moveaxis(scene.pixels, -1, 0))
        predict_geotiff(
            net,
            str(given),
            str(made),
            tile_size=scene.tile,
            overlap=round(overlap * scene.tile),
            batch_size=1,
            num_classes=5,
            blend_mode=mode,
            preprocess_fn=lambda tile: tile / np.float32(64) - np.float32(2),
            device="cpu",
            verbose=False,
        )
        with rasterio.open(made) as written:
            found: np.ndarray = written.read(masked=True).filled(0)
    return found


def terratorch(net: Any, scene: Scene, overlap: float, mode: str) -> np.ndarray:
    """Return what terratorch's `tiled_inference` makes of a network ``(k, h, w)``.

    As it comes it mirrors 8 px around the picture, and cuts 8 px off each tile; ``"no padding"``
    does neither.
    """
    from terratorch.tasks.tiled_inference import tiled_inference

    step = scene.tile - round(overlap * scene.tile)
    further: dict[str, Any] = {} if mode == "default" else {"padding": False, "delta": 0}
    found = tiled_inference(net, scene.batch, crop=scene.tile, stride=step, batch_size=1, **further)
    answer: np.ndarray = found[0].numpy()
    return answer


monai.modes = ("constant", "gaussian")  # type: ignore[attr-defined]
geoai.modes = ("spline", "linear", "cosine")  # type: ignore[attr-defined]
terratorch.modes = ("default", "no padding")  # type: ignore[attr-defined]
_KNOWN: dict[str, tuple[Callable[..., np.ndarray], str]] = {
    "monai": (monai, "monai"),
    "geoai": (geoai, "geoai-py"),
    "terratorch": (terratorch, "terratorch"),
}


def peers_here() -> dict[str, Callable[..., np.ndarray]]:
    """Return those that are installed, and say which, or that they are left out."""
    found = {}
    for name, (call, package) in _KNOWN.items():
        try:
            print(f"{name} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed (pip install {package}); its rows are left out")
        else:
            found[name] = call
    return found
