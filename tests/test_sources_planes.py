"""Channels by the names that files give them, and planes by their place along z and t."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import tilevision as tv
from tilevision.errors import ModelError, SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source, read_options, read_pixels

RNG = np.random.default_rng(5)
STACK = RNG.integers(0, 60_000, (2, 3, 4, 48, 64)).astype("u2")  # t, z, c, y, x
NAMES = ("DAPI", "CD3", "CD8", "Pan-CK")


def _ome_tiff(path: Path, axes: str = "TZCYX") -> Path:
    data = STACK.transpose(["TZCYX".index(axis) for axis in axes])
    metadata: dict[str, Any] = {"axes": axes, "Channel": {"Name": list(NAMES)}}
    tifffile.imwrite(path, data, ome=True, metadata=metadata, photometric="minisblack")
    return path


def _ome_zarr(path: Path) -> Path:
    zarr = pytest.importorskip("zarr", reason="zarr (extra zarr) is not installed")
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    group.create_array("0", data=STACK, chunks=(1, 1, 1, 48, 64))
    axes = [{"name": "t", "type": "time"}, {"name": "z", "type": "space"}]
    axes += [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space"} for name in "yx"]
    scale = [{"type": "scale", "scale": [1.0] * 5}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    channels = [{"label": name, "color": "FFFFFF"} for name in NAMES]
    said = {"version": "0.5", "multiscales": [image], "omero": {"channels": channels}}
    group.attrs["ome"] = said
    return path


WRITERS = {
    "OME-TIFF": lambda folder: _ome_tiff(folder / "stack.ome.tif"),
    "OME-TIFF, channels first": lambda folder: _ome_tiff(folder / "stack.ome.tif", "TCZYX"),
    "OME-Zarr": lambda folder: _ome_zarr(folder / "stack.zarr"),
}


@pytest.fixture(params=list(WRITERS))
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same stack in each format that names its axes."""
    return WRITERS[request.param](tmp_path)


def _seen(source: tv.ImageSource, *bands: int | str) -> np.ndarray:
    options = read_options(source, bands, "raw")
    return read_pixels(source, Box(0, 0, 64, 48), 1.0, options)


@pytest.mark.parametrize(("z", "t"), [(None, None), (2, None), (None, 1), (1, 1), (0, 0)])
def test_planes_by_place(stack: Path, z: int | None, t: int | None) -> None:
    """``z=`` and ``t=`` are places along these axes, from 0, whichever the file changes first."""
    source = open_source(stack, z=z, t=t)
    assert dict(source.metadata.planes) == {"t": 2, "z": 3}
    right = STACK[t or 0, z or 0].transpose(1, 2, 0)
    np.testing.assert_array_equal(source.read(Box(0, 0, 64, 48)), right)
    again = open_reference(source.reference)
    np.testing.assert_array_equal(again.read(Box(0, 0, 64, 48)), right)


def test_channels_by_name(stack: Path) -> None:
    """A band may be given by its name, in any order and case; its number stays what keys hold."""
    source = open_source(stack, z=1)
    assert source.metadata.channels == NAMES
    np.testing.assert_array_equal(
        _seen(source, "CD8", "DAPI"), STACK[0, 1, [2, 0]].transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(
        _seen(source, "pan-ck", 1), STACK[0, 1, [3, 1]].transpose(1, 2, 0)
    )
    assert read_options(source, ["CD3"], "raw") == read_options(source, [1], "raw")


def test_what_is_not_there_is_named(stack: Path) -> None:
    """An unknown name lists those there are; a place outside its axis says how long that is."""
    source = open_source(stack)
    with pytest.raises(SourceError, match=r"no band called 'CD4' .*DAPI, CD3, CD8, Pan-CK"):
        read_options(source, ["CD4"], "raw")
    with pytest.raises(SourceError, match=r"has 3 planes along z, counted from 0; there is no 3"):
        open_source(stack, z=3)
    with pytest.raises(SourceError, match=r"give either page= or the place along its axes"):
        open_source(stack, z=1, page=2)


def test_files_without_names_or_axes_say_so(tmp_path: Path) -> None:
    """A plain picture has no z and no names, and says what to give instead."""
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, STACK[0, 0, 0])
    with pytest.raises(SourceError, match=r"has no axis z \(its planes lie along: none\)"):
        open_source(path, z=2)
    with pytest.raises(SourceError, match="gives them no names"):
        read_options(open_source(path), ["DAPI"], "raw")
    with pytest.raises(SourceError, match=r"z= and t= only apply to files"):
        open_source(STACK[0, 0, 0], z=0)


def test_imagej_hyperstack(tmp_path: Path) -> None:
    """ImageJ's hyperstacks have z and t as well; their channels are bands without names."""
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX"})
    source = open_source(path, z=2, t=1)
    right = STACK[1, 2].transpose(1, 2, 0)
    np.testing.assert_array_equal(source.read(Box(0, 0, 64, 48)), right)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gdal_descriptions_are_names(tmp_path: Path) -> None:
    """What GDAL keeps as descriptions of the bands of a GeoTIFF are their names.

    Oracle: rasterio, which wrote them.
    """
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "scene.tif"
    size: dict[str, Any] = {"width": 64, "height": 48, "count": 3, "dtype": "uint16"}
    with rasterio.open(path, "w", **size) as file:
        file.write(STACK[0, 0, :3])
        file.descriptions = ("B02", "B03 & more", "B04")
    with rasterio.open(path) as file:
        right = file.descriptions
    source = open_source(path)
    assert source.metadata.channels == right
    np.testing.assert_array_equal(_seen(source, "B04")[..., 0], STACK[0, 0, 2])


def test_a_model_declares_names(tmp_path: Path) -> None:
    """``bands=("DAPI", "CD3")`` of a model are what it is given of each image."""
    given: list[np.ndarray] = []

    def keep(pixels: np.ndarray) -> list[Any]:
        given.append(pixels)
        return []

    model = tv.model(keep, bands=("CD3", "DAPI"), dtype="raw", fingerprint="names")
    plan = tv.plan(_ome_tiff(tmp_path / "stack.ome.tif"), model, checkpoint=None)
    assert plan.passes[0].options.bands == (1, 0)
    with pytest.raises(ModelError, match="or names"):
        tv.model(keep, bands=("",))
