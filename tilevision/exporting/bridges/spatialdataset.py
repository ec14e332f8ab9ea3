"""A result as `spatialdata.SpatialData`: shapes in pixels and micrometres, and tables.

SpatialData keeps one kind of geometry in an element, none of which may be empty. So detections that
are points are an element of their own, and what there is none of is left out.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunArgumentError, RunError
from tilevision.exporting.folders import filling
from tilevision.exporting.statement import statement
from tilevision.exporting.vectorfiles import unasked, vectors_of
from tilevision.geometry import Box
from tilevision.rasterspec import MOST_CLASSES

if TYPE_CHECKING:
    import pandas as pd

    from tilevision.analysis.resultdata import ResultData

__all__ = ["to_spatialdata", "write"]

MICRONS = "micrometres"
_BLOCK = 2048  # pixels a side that are read of the picture at once
_INSTANCE, _REGION = "instance_id", "region"


def to_spatialdata(result: ResultData, *, picture: bool | float = False) -> Any:
    """Return a `spatialdata.SpatialData`.

    In its coordinate system ``global`` are pixels of the full-resolution image; where microns per
    pixel are known, ``micrometres`` is another.

    ====================  =====================================================================
    element               what it is
    ====================  =====================================================================
    ``detections``        outlines, rotated boxes or boxes, numbered as the rows of the result
    ``points``            detections that are points and nothing else
    ``table``             AnnData that describes both: columns of `Result.to_dataframe`, centres
                          in ``obsm["spatial"]``, vectors of detections in ``X``
    ``tiles``             boxes of all tiles, with id and status (``failed``, …)
    ``tile_table``        vectors of tiles, else their class probabilities, in ``X``
    ``region``            what was asked for
    ``map``               classes as labels, class number + 1, 0 where nothing is known; else
                          values as an image; computed as it is read
    ``map_table``         names of the classes of the map
    ``picture``           the image as it is shown; only if asked for
    ====================  =====================================================================

    What there is none of is left out. ``attrs["tilevision"]`` says what was not analysed, and which
    image it is: name, size and fingerprint. Characters that SpatialData allows in no name of a
    column are written ``_``.

    Parameters
    ----------
    result : Result
    picture : bool or float
        True, or a scale such as 0.25 (1 / a whole number), adds the picture, in colours, 8 bits.
        It is read as it is looked at; but **all of it is copied** where the object is written.
        False: no pixel is.

    Raises
    ------
    RunError
        If spatialdata is not installed, or `picture` is no scale.
    """
    try:
        import spatialdata
    except ImportError:
        raise RunError(
            "The package spatialdata is not installed: pip install 'tilevision[spatialdata]' in an "
            "environment of its own, since it takes an older Dask."
        ) from None
    elements = _detections(result) | _tiles(result) | _region(result) | _map(result)
    if picture is not False:
        elements["picture"] = _picture(result, _every(picture))
    return spatialdata.SpatialData.init_from_elements(
        elements, attrs={"tilevision": statement(result)}
    )


def write(result: ResultData, path: Path, *, picture: bool | float = False) -> None:
    """Write a folder that ``spatialdata.read_zarr`` reads; see `to_spatialdata`.

    Parameters
    ----------
    result : Result
    path : Path
        A folder.
    picture : bool or float
        True, or a scale such as 0.25, copies the picture into it.

    Raises
    ------
    RunError
        If spatialdata is not installed, or the folder holds anything else.
    """
    made = to_spatialdata(result, picture=picture)
    with filling(path, statement(result)) as draft, unasked():
        inner = draft / "spatialdata"  # it refuses a folder that is there
        made.write(inner)
        for part in list(inner.iterdir()):
            part.rename(draft / part.name)
        inner.rmdir()


def _every(picture: Any) -> int:
    """Return how many pixels of the image, a side, are one of the picture."""
    if not isinstance(picture, (int, float)) or not 0 < picture <= 1:
        raise RunArgumentError(f"picture is {picture!r}; give True, or a scale from 0 to 1.")
    return round(1 / picture)


def _placed(result: ResultData, step: tuple[float, float] = (1, 1)) -> dict[str, Any]:
    """Return the transformations of an element whose pixels are `step` of the image's wide."""
    from spatialdata.transformations import Identity, Scale

    def scale(x: float, y: float) -> Any:
        return Scale([x, y], axes=("x", "y"))

    x, y = step
    found: dict[str, Any] = {"global": Identity() if step == (1, 1) else scale(x, y)}
    if result.mpp is not None:
        found[MICRONS] = scale(x * result.mpp[0], y * result.mpp[1])
    return found


# Shapes and tables ------------------------------------------------------------------------------


def _detections(result: ResultData) -> dict[str, Any]:
    from spatialdata.models import PointsModel, ShapesModel

    table = result.to_dataframe("shapely")
    if table.empty:
        return {}
    shapes = table.pop("geometry").to_numpy()
    alone = np.array([shape.geom_type == "Point" for shape in shapes])
    found: dict[str, Any] = {}
    if not alone.all():
        frame = _frame(shapes[~alone], np.flatnonzero(~alone))
        found["detections"] = ShapesModel.parse(frame, transformations=_placed(result))
    if alone.any():
        import pandas as pd
        import shapely

        rows = np.flatnonzero(alone)
        places = dict(zip("xy", shapely.get_coordinates(shapes[alone]).T, strict=True))
        points = pd.DataFrame(places, index=rows)
        found["points"] = PointsModel.parse(points, transformations=_placed(result))
    regions = np.where(alone, "points", "detections")
    vectors = result.findings.embeddings
    boxes = result.findings.boxes
    found["table"] = _table(
        *(regions, np.arange(len(table)), table),
        X=None if vectors is None else np.array(vectors),
        obsm={"spatial": (boxes[:, :2] + boxes[:, 2:]) / 2},
    )
    return found


def _frame(shapes: Any, index: Any, **columns: Any) -> Any:
    import geopandas

    return geopandas.GeoDataFrame(columns, geometry=list(shapes), index=index)


def _table(regions: Any, rows: Any, obs: pd.DataFrame, **parts: Any) -> Any:
    """Return the AnnData that describes, row by row, the element and the instance named."""
    import anndata
    import pandas as pd
    from spatialdata.models import TableModel

    columns = {
        name: _column(obs[given])
        for name, given in zip(_names(obs.columns), obs.columns, strict=True)
    }
    made = pd.DataFrame(columns).set_axis([str(row) for row in range(len(obs))], axis=0)
    made[_REGION], made[_INSTANCE] = pd.Categorical(regions), np.asarray(rows, np.int64)
    described = sorted(set(np.asarray(regions).tolist()))
    return TableModel.parse(
        anndata.AnnData(obs=made, **parts),
        region=described if len(described) > 1 else described[0],
        region_key=_REGION,
        instance_key=_INSTANCE,
    )


def _names(given: Iterable[Any]) -> list[str]:
    """Return names that SpatialData allows, each once whatever the case of its letters."""
    taken = {_REGION, _INSTANCE}
    found = []
    for said in map(str, given):
        plain = "".join(one if one.isalnum() or one in "_-." else "_" for one in said)
        name = plain if plain not in ("", ".", "..", "_index") else f"column{plain}"
        name = first = name.replace("__", "column__", 1) if name.startswith("__") else name
        count = 1
        while name.lower() in taken:
            count += 1
            name = f"{first}_{count}"
        taken.add(name.lower())
        found.append(name)
    return found


def _column(values: Any) -> Any:
    """Return a column that Zarr holds: numbers and texts as they are, all else as JSON."""
    if values.dtype != object:
        return values.to_numpy()
    listed = values.tolist()
    missing = [one is None or one != one for one in listed]
    texts = [
        None if gone else one if isinstance(one, str) else json.dumps(one, default=str)
        for one, gone in zip(listed, missing, strict=True)
    ]
    import pandas as pd

    return pd.Categorical(texts)


def _tiles(result: ResultData) -> dict[str, Any]:
    import shapely
    from spatialdata.models import ShapesModel

    tiles = [row.tile for row in result.rows]
    boxes = shapely.box(*np.array([tile.box.as_tuple() for tile in tiles]).T)
    said = {"id": [tile.id for tile in tiles], "status": [str(row.status) for row in result.rows]}
    frame = _frame(boxes, np.arange(len(tiles)), **said)
    found = {"tiles": ShapesModel.parse(frame, transformations=_placed(result))}
    numbers = {tile.id: row for row, tile in enumerate(tiles)}
    scores = result.tile_scores
    named = [name for name in scores.columns if name not in ("id", "xmin", "ymin", "xmax", "ymax")]
    if result.embeddings is not None:
        table = vectors_of(result)
        rows = [numbers[name] for name in table.obs_names]
        parts: dict[str, Any] = {"X": table.X, "obsm": dict(table.obsm)}
        if named:
            shares = scores.set_index("id")[named].reindex(table.obs_names)
            parts["obsm"]["probabilities"] = shares.to_numpy()
            parts["uns"] = {"probabilities": [str(name) for name in named]}
        obs = table.obs.assign(id=table.obs_names)
    elif named:
        rows, obs = [numbers[name] for name in scores["id"]], scores[["id"]]
        parts = {"X": scores[named].to_numpy(), "var": _index(named)}
    else:
        return found
    found["tile_table"] = _table(np.full(len(rows), "tiles"), rows, obs, **parts)
    return found


def _index(names: Iterable[Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(index=[str(name) for name in names])


def _region(result: ResultData) -> dict[str, Any]:
    from spatialdata.models import ShapesModel

    region = result.facts.region
    if region is None:
        return {}
    parts = region.each
    names = [part.name for part in parts]
    frame = _frame([part.geometry for part in parts], np.arange(len(parts)), name=names)
    return {"region": ShapesModel.parse(frame, transformations=_placed(result))}


# Rasters ----------------------------------------------------------------------------------------


def _map(result: ResultData) -> dict[str, Any]:
    from spatialdata.models import Image2DModel, Labels2DModel

    raster = result.raster
    if raster is None:
        return {}
    placed = _placed(result, (1 / raster.scale, 1 / raster.scale))
    array = raster.dask
    if raster.spec.kind == "values":
        planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return {"map": Image2DModel.parse(planes, ("c", "y", "x"), transformations=placed)}
    import pandas as pd

    labels = array.map_blocks(_labelled, dtype=np.uint16)
    known = [(number + 1, name) for number, name in enumerate(raster.spec.classes) if name]
    obs = pd.DataFrame({"label": [name for _, name in known]})
    numbers = [number for number, _ in known]
    return {
        "map": Labels2DModel.parse(labels, ("y", "x"), transformations=placed),
        "map_table": _table(np.full(len(known), "map"), numbers, obs),
    }


def _labelled(numbers: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return class numbers + 1, and 0 where no class is meant or nothing is known."""
    return np.where(numbers < MOST_CLASSES, numbers.astype(np.uint16) + 1, 0).astype(np.uint16)


def _picture(result: ResultData, every: int) -> Any:
    """Return the picture ``(c, y, x)``, one pixel for `every` pixels; blocks are read as needed."""
    import dask
    import dask.array
    from spatialdata.models import Image2DModel

    from tilevision.sources import display_options, read_pixels

    source, lock = result.source, threading.Lock()
    options = display_options(source)
    (width, height), side = source.size, _BLOCK * every

    def read(box: Box) -> NDArray[np.uint8]:
        with lock:
            return np.moveaxis(read_pixels(source, box, 1 / every, options), -1, 0)

    def block(left: int, top: int) -> Any:
        box = Box(left, top, min(left + side, width), min(top + side, height))
        shape = (3, *(max(1, round(one / every)) for one in (box.height, box.width)))
        return dask.array.from_delayed(dask.delayed(read, pure=False)(box), shape, np.uint8)

    rows = [[block(x, y) for x in range(0, width, side)] for y in range(0, height, side)]
    return Image2DModel.parse(
        dask.array.block(rows),
        ("c", "y", "x"),
        c_coords=("r", "g", "b"),
        transformations=_placed(result, (every, every)),
    )
