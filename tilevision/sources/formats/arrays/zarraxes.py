"""What the axes of a Zarr array are: by the names they have in the store, else by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tilevision.errors import SourceError

__all__ = ["axes_of_array", "axes_of_multiscale"]

# By lower-case name: OME-Zarr's own, and those that xarray, GDAL and climate data use.
_ROLES = {
    **dict.fromkeys(("x", "lon", "longitude", "easting", "col", "cols", "column", "width"), "x"),
    **dict.fromkeys(("y", "lat", "latitude", "northing", "row", "rows", "line", "height"), "y"),
    **dict.fromkeys(("c", "band", "bands", "channel", "channels", "ch", "wavelength"), "c"),
    **dict.fromkeys(("rgb", "rgba", "color", "colour", "s", "sample", "samples", "feature"), "c"),
    **dict.fromkeys(("z", "depth", "slice", "plane", "level", "altitude"), "z"),
    **dict.fromkeys(("t", "time", "frame", "date"), "t"),
}
_TYPES = {"channel": "c", "time": "t"}
_FEW = 16  # an axis of at most this many, of an array that names no axes, are its bands
_BEFORE_AXES = "tczyx"  # OME-Zarr 0.1 and 0.2 name no axes: they are these


def axes_of_array(array: Any, name: str) -> tuple[tuple[str, ...], bool]:
    """Return what each axis of an array is, and whether that differs from a guess by length.

    Parameters
    ----------
    array : zarr.Array
    name : str
        For errors.

    Returns
    -------
    tuple of str
        ``"x"``, ``"y"``, ``"c"`` (bands), ``"z"``, ``"t"``, or the axis' own name.
    bool
        Return True if earlier releases, which guessed, read the array otherwise.
    """
    shape = tuple(array.shape)
    guess = _by_length(shape)
    named = _names(array)
    if not named:
        if guess is None:
            raise SourceError(
                f"{name} is an array of shape {shape} that does not name its axes; give (h, w), "
                "(h, w, c) or (c, h, w), name its dimensions, or give an OME-Zarr image."
            )
        return guess, False
    roles = _unique([_ROLES.get(one.lower(), one) for one in named])
    others = [role for role in roles if role not in ("x", "y", "c", "z", "t")]
    if "c" not in roles and len(others) == 1:  # as "variable": what a pixel has several of
        roles = tuple("c" if role == others[0] else role for role in roles)
    if not {"x", "y"} <= set(roles):
        if guess is not None and not {"x", "y"} & set(roles):
            return guess, False
        raise SourceError(
            f"{name} has the dimensions {', '.join(named)}, none of which is called x or y; "
            "rename two of them x and y."
        )
    return roles, guess is not None and roles != guess


def axes_of_multiscale(image: Mapping[str, Any]) -> tuple[tuple[str, ...], list[Mapping[str, Any]]]:
    """Return what each axis of an OME-Zarr image is, and the axes as it describes them.

    Parameters
    ----------
    image : mapping
        An entry of ``multiscales``, of version 0.1 to 0.6.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it does not describe two axes of space.
    """
    listed = _listed_axes(image)
    roles: list[str] = []
    for axis in listed:
        called = str(axis["name"])
        role = _TYPES.get(str(axis.get("type")), _ROLES.get(called.lower(), called))
        roles.append(role)
    space = [n for n, axis in enumerate(listed) if axis.get("type") == "space"]
    if not {"x", "y"} <= set(roles) and len(space) >= 2:
        roles[space[-2]], roles[space[-1]] = "y", "x"  # their order in the specification
    if not {"x", "y"} <= set(roles) or len(set(roles)) != len(roles):
        raise ValueError(f"the axes {', '.join(str(axis['name']) for axis in listed)}")
    return tuple(roles), listed


def _listed_axes(image: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "axes" in image:
        given = image["axes"]
    elif "coordinateSystems" in image:  # from 0.6 on
        given = _coordinate_system(image)["axes"]
    else:
        given = list(_BEFORE_AXES)
    return [axis if isinstance(axis, Mapping) else {"name": axis} for axis in given]


def _coordinate_system(image: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the coordinate system that the first level is turned into."""
    systems = image["coordinateSystems"]
    transformations = image["datasets"][0].get("coordinateTransformations") or [{}]
    wanted = transformations[-1].get("output")
    wanted = wanted.get("name") if isinstance(wanted, Mapping) else wanted
    found: Mapping[str, Any] = next(
        (one for one in systems if one.get("name") == wanted), systems[0]
    )
    return found


def _names(array: Any) -> tuple[str, ...]:
    """Return the names of all dimensions, of Zarr 3 or as xarray writes them; none if one lacks."""
    named = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(named, (list, tuple)) or len(named) != len(array.shape):
        return ()
    return tuple(named) if all(isinstance(one, str) and one for one in named) else ()


def _unique(roles: Sequence[str]) -> tuple[str, ...]:
    """Return the roles, with a second axis of one role under a name of its own."""
    return tuple(
        role if roles.index(role) == number else f"{role}{number}"
        for number, role in enumerate(roles)
    )


def _by_length(shape: tuple[int, ...]) -> tuple[str, ...] | None:
    if len(shape) == 2:
        return ("y", "x")
    if len(shape) == 3:
        return ("c", "y", "x") if shape[0] <= _FEW < min(shape[1:]) else ("y", "x", "c")
    return None
