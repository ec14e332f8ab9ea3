"""``xarray.DataArray``: axes by their names, and the place on Earth that comes with it.

The place is read as rioxarray, stackstac and GDAL's netCDF driver write it, without any of them:
the system from the grid mapping (``spatial_ref``), where pixels lie from the coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.sources.formats.arrays.daskarray import open_dask
from tilevision.sources.staging.staged import StagedSource, open_array

__all__ = ["is_data_array", "open_data_array"]

_ROWS = ("y", "lat", "latitude", "northing")
_COLUMNS = ("x", "lon", "longitude", "easting")
_EVEN = 1e-3  # of a pixel, by which the steps of coordinates may differ


def is_data_array(image: Any) -> bool:
    """Return True if `image` is a DataArray, without importing xarray."""
    kind = type(image)
    return kind.__name__ == "DataArray" and kind.__module__.startswith("xarray")


def open_data_array(array: Any, *, mpp: tuple[float, float] | None = None) -> StagedSource:
    """Stage a DataArray so that workers can read it; one of Dask is computed block by block.

    Parameters
    ----------
    array : xarray.DataArray
        Axes y and x (or lat and lon, northing and easting), in any order, and at most one more:
        the bands. Axes of length 1 are dropped.
    mpp : tuple of float, optional
        Microns per pixel in x and y.

    Raises
    ------
    SourceError
        If its axes are no image's, or its values cannot be computed.
    """
    across, down = _axis(array, _COLUMNS), _axis(array, _ROWS)
    if across is None or down is None:
        raise SourceError(
            f"The DataArray has the axes {', '.join(map(str, array.dims)) or 'none'}; name two of "
            "them y and x: array.rename({'dim_0': 'y', 'dim_1': 'x'})."
        )
    more = [name for name in array.dims if name not in (across, down)]
    bands = [name for name in more if array.sizes[name] != 1]
    if len(bands) > 1:
        first = bands[0]
        raise SourceError(
            f"The DataArray has {' and '.join(f'{n} ({array.sizes[n]})' for n in bands)} beside "
            f"{down} and {across}, and an image has bands alone; choose: array.isel({first}=0)."
        )
    drop = {name: 0 for name in more if name not in bands}
    turned = array.isel(drop).transpose(down, across, *bands)
    facts = _facts(turned, across, down, bands[0] if bands else None)
    if turned.chunks is not None:
        return open_dask(turned.data, mpp=mpp, facts=facts)
    return open_array(np.asarray(turned.values), mpp=mpp, file_format="DataArray", facts=facts)


def _axis(array: Any, names: tuple[str, ...]) -> Any:
    found = [name for name in array.dims if str(name).lower() in names]
    return found[0] if len(found) == 1 else None


def _facts(array: Any, across: Any, down: Any, bands: Any) -> dict[str, Any]:
    """Return what the array says of itself, as fields of `ImageMetadata` in plain types."""
    mapping = _grid_mapping(array)
    crs = _system(array, mapping)
    transform, note = _place(array, mapping, across, down)
    facts: dict[str, Any] = {}
    if crs and transform:
        facts = {"crs": crs, "transform": list(transform)}
        if transform[4] > 0 and not transform[1]:
            note = f"{down} grows downwards: rows run from south to north."
    elif crs and not note:
        note = "The DataArray has a reference system and no coordinates, so it has no place."
    elif transform and not note:
        note = (
            "The DataArray has coordinates and no reference system, so it has no place; "
            "array.rio.write_crs('EPSG:…') of rioxarray names one."
        )
    count = array.sizes[bands] if bands is not None else 1
    nodata = _number(_first(array.attrs, ("_FillValue", "nodata", "missing_value")))
    if nodata is None and array.dtype.kind == "f" and "_FillValue" in array.encoding:
        nodata = float("nan")  # masked: no-data was replaced when it was opened
    if nodata is not None:
        facts["nodata"] = nodata
    scale = _number(array.attrs.get("scale_factor"))
    told = [1.0 if scale is None else scale, _number(array.attrs.get("add_offset")) or 0.0]
    if told != [1.0, 0.0]:
        facts["scaling"] = [told] * count
    names = _band_names(array, bands, count)
    if names:
        facts["channels"] = names
    return facts | ({"notes": [note]} if note else {})


def _grid_mapping(array: Any) -> Mapping[str, Any]:
    """Return the attributes of the coordinate that says where an array lies; empty for none."""
    named = array.encoding.get("grid_mapping") or array.attrs.get("grid_mapping")
    for name in (named, "spatial_ref", "crs"):
        if name in array.coords:
            attributes: Mapping[str, Any] = array.coords[name].attrs
            return attributes
    return {}


def _system(array: Any, mapping: Mapping[str, Any]) -> str | None:
    told = _first(mapping, ("crs_wkt", "spatial_ref")) or array.attrs.get("crs")
    if told is None and "epsg" in array.coords and array.coords["epsg"].ndim == 0:
        code = _number(array.coords["epsg"].values)  # as stackstac writes it: None if it is mixed
        told = f"{code:.0f}" if code is not None and np.isfinite(code) else None
    if told is None:
        return None
    text = str(told.to_wkt() if hasattr(told, "to_wkt") else told).strip()
    text = text.removeprefix("+init=")
    if text.isdecimal():
        return f"EPSG:{text}"
    return text.upper() if text.lower().startswith("epsg:") else text


def _place(
    array: Any, mapping: Mapping[str, Any], across: Any, down: Any
) -> tuple[tuple[float, ...] | None, str]:
    """Return the affine transform of pixels, and what is to be said where there is none.

    Coordinates are those of the pixels' middles. They count before the stored transform, which
    is not changed when a part is cut out of an array; it has the exact size of the pixels, and a
    rotation, which coordinates do not.
    """
    stored = _stored(array, mapping)
    if stored is not None and (stored[1] or stored[3]):
        return stored, ""
    columns, rows = (_line(array, name) for name in (across, down))
    if columns is None or rows is None:
        return stored, ""
    steps = []
    for name, line, size in ((across, columns, 0), (down, rows, 4)):
        step = _step(*line)
        if step is None and len(line[0]) > 1:
            return None, f"Coordinates {name} are not evenly spaced, so the image has no place."
        exact = None if stored is None else stored[size]
        close = step is None or (exact is not None and abs(exact - step) < _EVEN * abs(step))
        chosen = exact if close else step
        if chosen is None:  # a single pixel, and nothing says how large it is
            return None, f"Axis {name} has a single pixel of unknown size, so there is no place."
        steps.append(chosen)
    wide, high = steps
    left, top = columns[0][0] - wide / 2, rows[0][0] - high / 2
    return (wide, 0.0, left, 0.0, high, top), ""


def _stored(array: Any, mapping: Mapping[str, Any]) -> tuple[float, ...] | None:
    told = mapping.get("GeoTransform")
    try:
        if told is not None:
            c, a, b, f, d, e = map(float, str(told).split())
            return a, b, c, d, e, f
        given = array.attrs.get("transform")
        return None if given is None else tuple(float(value) for value in tuple(given)[:6])
    except (TypeError, ValueError):
        return None


def _line(array: Any, name: Any) -> tuple[list[float], float] | None:
    """Return the coordinates of an axis, and by how much its type rounds them."""
    if name not in array.coords:
        return None
    values = np.asarray(array.coords[name].values)
    if values.dtype.kind not in "iuf" or values.ndim != 1 or not np.isfinite(values).all():
        return None
    kind = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    rounding = float(np.finfo(kind).eps) * float(np.abs(values).max(initial=0))
    return values.astype(np.float64).tolist(), rounding


def _step(line: list[float], rounding: float) -> float | None:
    """Return the distance of neighbours; None for a single one, or if they differ."""
    if len(line) < 2:
        return None
    step = (line[-1] - line[0]) / (len(line) - 1)
    slack = max(_EVEN * abs(step), rounding, 1e-9 * abs(line[0]))
    even = np.abs(np.diff(line) - step).max() <= slack
    return step if step and even and abs(step) > rounding else None


def _band_names(array: Any, bands: Any, count: int) -> list[str]:
    told: Any = array.attrs.get("long_name")
    if bands is not None and bands in array.coords:
        values = array.coords[bands].values
        told = values.tolist() if values.dtype.kind in "OUS" else told
    good = isinstance(told, (list, tuple)) and len(told) == count
    return [str(name) for name in told] if good else []


def _first(told: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((told[name] for name in names if told.get(name) is not None), None)


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(np.asarray(value).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        return None
