"""Where the image is in a Zarr store, what its levels and axes are, and what is said of it.

OME-Zarr is read as its specification lays it down (versions 0.1 to 0.6): the first entry of
``multiscales``, whose datasets are the levels, whose axes say which is which, and whose scales
and translations say where each level lies. A plate, and a folder that bioformats2raw wrote, are
opened as the first image in them. Of axes such as time and depth one plane is the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np

from tilevision.errors import SourceError, TilevisionError
from tilevision.sources.depth import declared_scaling
from tilevision.sources.formats.arrays.zarraxes import axes_of_array, axes_of_multiscale
from tilevision.sources.formats.arrays.zarrlevels import ZarrLevel
from tilevision.sources.formats.spatial import microns_per_unit, pixel_size
from tilevision.sources.levels import LevelPlacement
from tilevision.sources.source import ImageMetadata, check_image_shape

__all__ = ["ZarrLayout", "lay_out", "unreadable"]

_NOTICED = 0.01  # full-resolution pixels: levels that lie off by less are where their sizes say
_LEVEL_ROUNDING = 0.01
_LISTED = 5


@dataclass(frozen=True, slots=True)
class ZarrLayout:
    """The image in a store.

    Parameters
    ----------
    levels : tuple of ZarrLevel
        Finest first.
    metadata : ImageMetadata
    revisions : tuple of str
        What earlier releases read wrongly in such a store: part of its fingerprint.
    """

    levels: tuple[ZarrLevel, ...]
    metadata: ImageMetadata
    revisions: tuple[str, ...]

    def fingerprint(self, content: str, frame: int) -> str:
        """Return the identity of a plane in a store whose content has this fingerprint."""
        told = f" frame {frame}" * bool(frame)
        told += "".join(f" revised: {fact}" for fact in self.revisions)
        return sha256(f"{content}{told}".encode()).hexdigest() if told else content


@dataclass(frozen=True, slots=True)
class _Image:
    """Arrays of all levels, what their axes are, and what the store says of them."""

    arrays: tuple[Any, ...]
    axes: tuple[str, ...]
    kind: str = "Zarr"
    mpp: tuple[float, float] | None = None
    placements: tuple[LevelPlacement | None, ...] = ()
    channels: tuple[str, ...] = ()
    note: str = ""
    guessed: bool = False


def lay_out(store: Any, name: str, mpp: tuple[float, float] | None, frame: int = 0) -> ZarrLayout:
    """Return the image in a store.

    Parameters
    ----------
    store : zarr.Array or zarr.Group
    name : str
        For errors.
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the store says.
    frame : int
        Which plane of the further axes, from 0, the last axis fastest.

    Raises
    ------
    SourceError
        If the store is damaged, or holds no image or no such plane.
    """
    try:
        image = _image(store, name)
        image.arrays[0].store.watch(image.arrays)
        others = [n for n, axis in enumerate(image.axes) if axis not in ("y", "x", "c")]
        counts = [int(image.arrays[0].shape[n]) for n in others]
        plane = _plane(counts, frame, name)
        levels = [
            ZarrLevel(array, image.axes, name, dict(zip(others, plane, strict=True)), placement)
            for array, placement in zip(
                image.arrays, image.placements or (None,) * len(image.arrays), strict=True
            )
        ]
    except TilevisionError:
        raise
    except Exception as error:  # zarr raises what its decoders do
        raise unreadable(name, error) from error
    first = levels[0]
    check_image_shape((first.size[1], first.size[0], first.bands), first.dtype, name)
    if min(first.chunk) < 1:
        raise SourceError(f"{name} is damaged: it says that its chunks are empty.")
    levels = [first, *(level for level in levels[1:] if _belongs(level, first))]
    metadata = ImageMetadata(
        format=image.kind,
        mpp=mpp or image.mpp,
        nodata=_nodata(image.arrays[0]),
        scaling=_scaling(image.arrays[0], first.bands),
        frames=math.prod(counts),
        levels=tuple(level.size for level in levels),
        notes=(image.note,) if image.note else (),
        planes=tuple(zip((image.axes[n] for n in others), counts, strict=True)),
        channels=image.channels,
    )
    return ZarrLayout(tuple(levels), metadata, _revisions(image, levels))


def unreadable(name: str, error: Exception) -> SourceError:
    """Return the error for a store that zarr cannot read."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return SourceError(f"Zarr cannot read {name} ({reason}); get the store again.")


def _image(store: Any, name: str) -> _Image:
    if hasattr(store, "shape"):
        axes, guessed = axes_of_array(store, name)
        return _Image((store,), axes, guessed=guessed)
    attributes = _attributes(store)
    if "multiscales" in attributes:
        return _multiscale(store, attributes, name)
    inner, note = _inside(store, attributes, name)
    found = _image(inner, f"{name}/{inner.path}")
    return replace(found, note=note or found.note)


def _attributes(group: Any) -> Mapping[str, Any]:
    every: Mapping[str, Any] = dict(group.attrs)
    inner = every.get("ome")  # from 0.5 on
    return {**every, **inner} if isinstance(inner, Mapping) else every


def _multiscale(store: Any, attributes: Mapping[str, Any], name: str) -> _Image:
    try:
        image = attributes["multiscales"][0]
        datasets = image["datasets"]
        arrays = tuple(store[str(dataset["path"])] for dataset in datasets)
        if not arrays:
            raise ValueError("no datasets")  # noqa: TRY301 - told with the others
        axes, described = axes_of_multiscale(image)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(
            f"{name}: its OME-Zarr image (multiscales) is not described as the specification asks "
            f"({reason}); give the path of an array in it (it holds {_listed(store)})."
        ) from error
    if any(len(array.shape) != len(axes) for array in arrays):
        raise SourceError(
            f"{name}: its arrays do not have the {len(axes)} axes that it describes; give the path "
            f"of an array in it (it holds {_listed(store)})."
        )
    scales = [_transformed(image, dataset, len(axes)) for dataset in datasets]
    mpp = _microns(scales[0][0], described, axes)
    return _Image(
        arrays,
        axes,
        "OME-Zarr",
        mpp,
        _placements(scales, arrays, axes),
        _channel_names(attributes, arrays[0], axes),
    )


def _inside(group: Any, attributes: Mapping[str, Any], name: str) -> tuple[Any, str]:
    """Return the first image in a group that is none itself, and a note if there are several.

    Raises
    ------
    SourceError
        If there is none.
    """
    paths = _image_paths(group, attributes)
    for path in paths:
        inner = _member(group, path)
        if inner is None:
            continue
        note = ""
        if len(paths) > 1:
            more = ", ".join(paths[1 : 1 + _LISTED]) + ", …" * (len(paths) > 1 + _LISTED)
            note = (
                f"{name} holds {len(paths):,} images; this is {path}. Others are {more}: give the "
                f"path of one, for example {name}/{paths[1]}."
            )
        return inner, note
    raise SourceError(
        f"{name} is a Zarr group without an OME-Zarr image (multiscales); give the path of an "
        f"array in it (it holds {_listed(group)})."
    )


def _image_paths(group: Any, attributes: Mapping[str, Any]) -> list[str]:
    if "plate" in attributes:
        wells = [str(well["path"]) for well in attributes["plate"].get("wells", ())]
        first = _member(group, wells[0]) if wells else None
        fields = _fields(_attributes(first)) if first is not None else ["0"]
        return [f"{well}/{field}" for well in wells for field in fields]
    if "well" in attributes:
        return _fields(attributes)
    if "bioformats2raw.layout" in attributes:
        described = _member(group, "OME")
        series = _attributes(described).get("series") if described is not None else None
        return [str(one) for one in series] if isinstance(series, (list, tuple)) else ["0"]
    try:
        members = [(name, one) for name, one in group.arrays() if len(one.shape) >= 2]
    except Exception:  # noqa: BLE001 - web servers list nothing
        members = []
    return [members[0][0]] if len(members) == 1 else []  # one of xarray's, beside its coordinates


def _fields(attributes: Mapping[str, Any]) -> list[str]:
    well = attributes.get("well")
    images = well.get("images", ()) if isinstance(well, Mapping) else ()
    return [str(image["path"]) for image in images] or ["0"]


def _member(group: Any, path: str) -> Any:
    try:
        return group[path]
    except (KeyError, ValueError):
        return None


def _listed(group: Any) -> str:
    try:
        return ", ".join(sorted(map(str, group))[:_LISTED]) or "nothing"
    except Exception:  # noqa: BLE001 - one of them is broken
        return "what cannot be read"


def _plane(counts: Sequence[int], frame: int, name: str) -> tuple[int, ...]:
    count = math.prod(counts)
    if not 0 <= frame < count:
        raise SourceError(f"{name} has {count} planes, counted from 1; there is no {frame + 1}.")
    return tuple(int(n) for n in np.unravel_index(frame, counts)) if counts else ()


def _belongs(level: ZarrLevel, first: ZarrLevel) -> bool:
    same = level.bands == first.bands and level.dtype == first.dtype
    return same and all(0 < a <= b for a, b in zip(level.size, first.size, strict=True))


def _transformed(
    image: Mapping[str, Any], dataset: Mapping[str, Any], count: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """Return scale and translation of a level in units of its axes; None where none is given."""
    scale, shift, shifted = np.ones(count), np.zeros(count), False
    # Those of the whole image come after those of the level.
    for one in (*_flat(dataset), *_flat(image)):
        if one.get("type") == "scale":
            factor = np.asarray(one["scale"], float)
            scale, shift = scale * factor, shift * factor
        elif one.get("type") == "translation":
            shift, shifted = shift + np.asarray(one["translation"], float), True
    return scale, shift if shifted else None


def _flat(described: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the transformations of a level or image, those of a sequence one by one."""
    found: list[Mapping[str, Any]] = []
    for one in described.get("coordinateTransformations") or ():
        found += one.get("transformations") or () if one.get("type") == "sequence" else [one]
    return found


def _placements(
    scales: Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]],
    arrays: Sequence[Any],
    axes: Sequence[str],
) -> tuple[LevelPlacement | None, ...]:
    """Return where each level lies, None where its size says the same.

    A translation is that of the centre of the first pixel. Where a store gives none, its levels
    begin at the same edge, as those of all writers do that average pixels.
    """
    x, y = axes.index("x"), axes.index("y")
    base, base_shift = scales[0]
    translated = any(shift is not None for _, shift in scales)
    found: list[LevelPlacement | None] = [None]
    for (scale, shift), array in zip(scales[1:], arrays[1:], strict=True):
        ratio = scale / base
        moved = ((0 if shift is None else shift) - (0 if base_shift is None else base_shift)) / base
        offset = moved + 0.5 - ratio / 2 if translated else np.zeros(len(axes))
        placement = LevelPlacement(
            (float(ratio[x]), float(ratio[y])), (float(offset[x]), float(offset[y]))
        )
        wanted = [
            abs(ratio[n] * array.shape[n] - arrays[0].shape[n]) > _NOTICED
            or abs(offset[n]) > _NOTICED
            for n in (x, y)
        ]
        sensible = np.isfinite([*placement.scale, *placement.offset]).all() and all(
            value >= 1 - _LEVEL_ROUNDING and size * value >= 1  # a coarser level is no finer one
            for value, size in zip(placement.scale, (array.shape[x], array.shape[y]), strict=True)
        )
        changed = not np.allclose(ratio[[x, y]], 1)  # a store that declares no scales says 1
        found.append(placement if any(wanted) and sensible and changed else None)
    return tuple(found)


def _microns(
    scale: np.ndarray[Any, Any], described: Sequence[Mapping[str, Any]], axes: Sequence[str]
) -> tuple[float, float] | None:
    """Return microns per pixel of the first level."""
    x, y = (
        float(scale[axes.index(axis)]) * microns_per_unit(described[axes.index(axis)].get("unit"))
        for axis in "xy"
    )
    return pixel_size(x, y)


def _channel_names(
    attributes: Mapping[str, Any], array: Any, axes: Sequence[str]
) -> tuple[str, ...]:
    omero = attributes.get("omero")
    listed = omero.get("channels") if isinstance(omero, Mapping) else None
    count = array.shape[axes.index("c")] if "c" in axes else 1
    if not isinstance(listed, (list, tuple)) or len(listed) != count:
        return ()
    names = tuple(str(one.get("label", "")) if isinstance(one, Mapping) else "" for one in listed)
    return names if any(names) else ()


def _nodata(array: Any) -> float | None:
    """Return the value that means no data: as declared, else a fill value that is not 0.

    A fill value of 0 is every array's that declares none. That of 8-bit pictures is a background.
    """
    declared = array.attrs.get("_FillValue", array.attrs.get("missing_value"))
    if declared is None and np.dtype(array.dtype).itemsize > 1:
        declared = array.fill_value
    try:
        value = float(declared) if declared is not None else 0.0
    except (TypeError, ValueError):
        return None
    if "_FillValue" not in array.attrs and value == 0:
        return None
    return value if math.isfinite(value) else None  # NaN is left out anyway


def _scaling(array: Any, bands: int) -> tuple[tuple[float, float], ...] | None:
    """Return what the CF conventions declare (xarray), the same for all bands."""
    both = array.attrs.get("scale_factor", 1.0), array.attrs.get("add_offset", 0.0)
    if not all(isinstance(value, (int, float)) for value in both):
        return None
    return declared_scaling([both[0]] * bands, [both[1]] * bands)


def _revisions(image: _Image, levels: Sequence[ZarrLevel]) -> tuple[str, ...]:
    facts = {
        "axes by name": image.guessed,
        "declared scale": any(level.placement is not None for level in levels),
    }
    return tuple(fact for fact, holds in facts.items() if holds)
