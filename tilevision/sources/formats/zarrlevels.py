"""The resolutions of an image in a Zarr store, wherever that lies, read by the chunk.

OME-Zarr is read as its specification (versions 0.4 and 0.5) lays it down: the first of the
``multiscales``, whose datasets are the levels and whose axes say which is which. Of further
axes, such as time and depth, the first plane is the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilevision.errors import SourceError, TilevisionError
from tilevision.sources.source import ImageMetadata, Pixels
from tilevision.sources.staging.staged import check_image_shape

__all__ = ["ZarrLevel", "lay_out", "opened"]

_MICRONS = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
}
_FEW = 16  # an axis of at most this many, of an array that names no axes, are its bands


class ZarrLevel:
    """One array of a store as ``(h, w, c)``.

    Parameters
    ----------
    array : zarr.Array
    axes : str
        One letter an axis, as ``"tczyx"``; y and x are among them.
    name : str
        For errors.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    bands : int
    dtype : numpy.dtype
    array : zarr.Array
    """

    def __init__(self, array: Any, axes: str, name: str) -> None:
        self.array = array
        self._axes = axes
        self._name = name
        self.size = (int(array.shape[axes.index("x")]), int(array.shape[axes.index("y")]))
        self.chunk = (int(array.chunks[axes.index("x")]), int(array.chunks[axes.index("y")]))
        self.bands = int(array.shape[axes.index("c")]) if "c" in axes else 1
        self.dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("=")

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        place: dict[str, Any] = {"x": slice(x0, x1), "y": slice(y0, y1), "c": slice(None)}
        if bands is not None and len(bands) == 1:
            place["c"] = slice(bands[0], bands[0] + 1)
        try:
            found = np.asarray(self.array[tuple(place.get(axis, 0) for axis in self._axes)])
        except TilevisionError:  # a store elsewhere says itself what is wrong
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SourceError(
                f"{self._name} is damaged: a chunk cannot be read ({reason}); get the store again"
            ) from error
        kept = [axis for axis in self._axes if axis in "yxc"]
        if "c" not in kept:
            found, kept = found[..., np.newaxis], [*kept, "c"]
        pixels = found.transpose([kept.index(axis) for axis in "yxc"]).astype(
            self.dtype, copy=False
        )
        return pixels if bands is None or len(bands) == 1 else np.take(pixels, bands, axis=2)


def opened(store: Any, name: str) -> Any:
    """Have zarr open a store, or one at a path; `name` is for errors."""
    try:
        import zarr
    except ImportError:
        raise SourceError(
            f"{name} is a Zarr store, which needs zarr: pip install 'tilevision[zarr]'"
        ) from None
    try:
        from zarr.storage import LocalStore

        from tilevision.sources.formats.zarrchunks import CheckedStore

        plain = LocalStore(store, read_only=True) if isinstance(store, str) else store
        return zarr.open(CheckedStore(plain), mode="r")
    except TilevisionError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def lay_out(
    store: Any, name: str, mpp: tuple[float, float] | None
) -> tuple[list[ZarrLevel], ImageMetadata]:
    """Return the resolutions of the image in a store, finest first, and what is said of it.

    Parameters
    ----------
    store : zarr.Array or zarr.Group
    name : str
        For errors.
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the store says.
    """
    try:
        arrays, axes, stored_mpp = _image(store, name)
        arrays[0].store.watch(arrays)
        first, *others = (ZarrLevel(array, axes, name) for array in arrays)
    except TilevisionError:
        raise
    except Exception as error:  # zarr raises what its decoders do
        raise _damaged(name, error) from error
    check_image_shape((first.size[1], first.size[0], first.bands), first.dtype, name)
    if min(first.chunk) < 1:
        raise SourceError(f"{name} is damaged: it says its chunks are empty")
    levels = [first, *(level for level in others if _belongs(level, first))]
    metadata = ImageMetadata(
        format="OME-Zarr" if stored_mpp is not None or len(levels) > 1 else "Zarr",
        mpp=mpp or stored_mpp or None,
        frames=int(
            np.prod(
                [n for n, axis in zip(arrays[0].shape, axes, strict=True) if axis not in "yxc"],
                dtype=int,
            )
        ),
        levels=tuple(level.size for level in levels),
    )
    return levels, metadata


def _damaged(path: str, error: Exception) -> SourceError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return SourceError(f"{path} is a damaged Zarr store ({reason}); get it again")


def _image(store: Any, path: str) -> tuple[list[Any], str, tuple[float, float] | tuple[()] | None]:
    """Return the arrays of all levels, their axes, and µm per pixel (x, y): () if unknown."""
    if hasattr(store, "shape"):
        return [store], _usual_axes(store.shape, path), None
    try:
        attributes: Mapping[str, Any] = dict(store.attrs)
        attributes = attributes.get("ome", attributes)
        image = attributes["multiscales"][0]
        datasets = image["datasets"]
        arrays = [store[dataset["path"]] for dataset in datasets]
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]
        names = "".join(str(axis["name"])[:1].lower() for axis in axes)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        inside = _listed(store)
        raise SourceError(
            f"{path} is a Zarr group without an OME-Zarr image (multiscales); give the path of an "
            f"array in it (it holds {inside})"
        ) from error
    if not {"x", "y"} <= set(names) or len(set(names)) != len(names):
        raise SourceError(f"{path} has the axes {names!r}; an image has x and y, once each")
    if any(len(array.shape) != len(names) for array in arrays):
        raise SourceError(f"{path} is damaged: its arrays do not have its {len(names)} axes")
    return arrays, names, _microns(image, axes, names)


def _listed(group: Any) -> str:
    try:
        return ", ".join(sorted(map(str, group))[:5]) or "nothing"
    except Exception:  # noqa: BLE001 - one of them is broken
        return "what cannot be read"


def _belongs(level: ZarrLevel, first: ZarrLevel) -> bool:
    same = level.bands == first.bands and level.dtype == first.dtype
    return same and all(0 < a <= b for a, b in zip(level.size, first.size, strict=True))


def _usual_axes(shape: tuple[int, ...], path: str) -> str:
    if len(shape) == 2:
        return "yx"
    if len(shape) == 3:
        return "cyx" if shape[0] <= _FEW < min(shape[1:]) else "yxc"
    raise SourceError(
        f"{path} is an array of shape {tuple(shape)} that does not name its axes; give (h, w), "
        "(h, w, c) or (c, h, w), or an OME-Zarr image"
    )


def _microns(
    image: Mapping[str, Any], axes: Sequence[Mapping[str, Any]], names: str
) -> tuple[float, float] | tuple[()]:
    """Return microns per pixel of the first level: its scale times that of the whole image."""
    scale = np.ones(len(names))
    for one in (image["datasets"][0], image):
        for transformation in one.get("coordinateTransformations") or ():
            if transformation.get("type") == "scale":
                scale = scale * np.asarray(transformation["scale"], float)
    both = tuple(
        float(scale[names.index(axis)])
        * _MICRONS.get(str(axes[names.index(axis)].get("unit")), np.nan)
        for axis in "xy"
    )
    return (both[0], both[1]) if all(np.isfinite(v) and v > 0 for v in both) else ()
