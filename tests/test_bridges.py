"""Bridges to other tools: what goes in from xarray, what goes out to napari, the web and plots."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
from exported import DIAMOND, RING, partial, result_of
from matplotlib.figure import Figure

import tilevision as tv
from tilevision.analysis.units import Georeference
from tilevision.exporting.bridges import handover
from tilevision.findings import Findings
from tilevision.sources import open_reference, open_source

UTM = {"crs": "EPSG:32617", "transform": (0.5, 0.0, 500000.0, 0.0, -0.5, 3400000.0)}
RANDOM = np.random.default_rng(3)
PIXELS = RANDOM.integers(0, 255, (40, 60, 3), dtype=np.uint8)


# Files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".geojson", ".qupath.geojson"])
def test_compressed_geojson_is_the_plain_file(tmp_path: Path, suffix: str) -> None:
    """On the map or in QuPath's pixels; GDAL reads it, and no time changes its bytes."""
    result = partial(metadata=UTM)
    plain = result.save(tmp_path / f"out{suffix}")
    zipped = result.save(tmp_path / f"out{suffix}.gz")
    assert gzip.decompress(zipped.read_bytes()) == plain.read_bytes()
    assert result.save(tmp_path / f"again{suffix}.gz").read_bytes() == zipped.read_bytes()
    assert len(geopandas.read_file(f"/vsigzip/{zipped}")) == len(geopandas.read_file(plain))


def test_flatgeobuf_is_read_on_the_map_and_by_its_parts(tmp_path: Path) -> None:
    """The rows of the GeoPackage; the layer's description says what was not analysed."""
    result = partial(metadata=UTM)
    path = result.save(tmp_path / "out.fgb")
    table = geopandas.read_file(path)
    beside = geopandas.read_file(result.save(tmp_path / "out.gpkg"), layer="detections")
    assert table.crs == beside.crs == UTM["crs"]
    order = [table.sort_values("label").reset_index(drop=True) for table in (table, beside)]
    assert order[0].drop(columns="geometry").equals(order[1].drop(columns="geometry"))
    assert all(order[0].geometry.geom_equals(order[1].geometry))
    x, y = beside.geometry[0].centroid.coords[0]
    near = geopandas.read_file(path, bbox=(x - 1, y - 1, x + 1, y + 1))
    assert 0 < len(near) < len(table)
    said = str(pyogrio.read_info(path)["layer_metadata"])
    assert "33% of the area, were not analysed" in said
    assert result.save(tmp_path / "again.fgb").read_bytes() == path.read_bytes()
    empty = result_of(Findings(), metadata=UTM).save(tmp_path / "empty.fgb")
    assert list(geopandas.read_file(empty).columns[:2]) == ["label", "class_id"]
    with pytest.raises(tv.RunError, match="has no CRS and transform, so this file has no place"):
        result_of().save(tmp_path / "none.fgb")


# Objects ------------------------------------------------------------------------------------


def small(**declared: Any) -> Any:
    """The result of a model that finds a square in each tile, or says what is declared."""

    def square(pixels: np.ndarray) -> Any:
        if declared:
            return (pixels[..., 0] > 128).astype(np.float32)
        return [{"box": (2, 4, 8, 6), "label": "a", "score": 0.5}]

    model = tv.model(square, **declared)
    return tv.analyze(
        PIXELS, model, grid="1x2", workers=1, checkpoint=None, progress=False, merge="none"
    )


@pytest.mark.slow
def test_a_result_opens_in_napari() -> None:
    """Picture, map and detections lie over each other; napari makes layers of the tuples."""
    result = small()
    picture, shapes = result.to_napari()
    assert picture[2] == "image" and np.array_equal(picture[0], PIXELS)
    assert picture[1]["metadata"]["coverage"] == result.coverage
    first = min(range(len(shapes[0])), key=lambda at: shapes[0][at][:, 1].min())
    np.testing.assert_array_equal(shapes[0][first].min(axis=0), [3.5, 1.5])
    assert set(shapes[1]["features"]["label"]) == {"a"}
    outlined = handover.shapes_of(result_of())
    assert len(outlined[0]) == len(outlined[1]["features"]["detection"]) == 4, "a part is a shape"
    assert outlined[0][0].tolist() == [[y - 0.5, x - 0.5] for x, y in RING]
    mapped = small(returns="probabilities", classes=("bright",))
    picture, labels, shapes = mapped.to_napari()
    assert labels[2] == "labels" and labels[1]["metadata"]["classes"] == {1: "bright"}
    numbers = np.asarray(labels[0])
    assert numbers.shape == PIXELS.shape[:2]
    assert np.array_equal(numbers == 1, np.asarray(mapped.raster) == 0)
    napari = pytest.importorskip("napari", reason="a plugin's job: no part of the tests' extra")
    for layer in (picture, labels, shapes):
        made = napari.layers.Layer.create(*layer)
        assert made.name == layer[1]["name"]
        if layer is not shapes:
            np.testing.assert_allclose(made.extent.world[1] + 0.5, PIXELS.shape[:2], atol=1)


def test_napari_gets_rotated_boxes_turned_and_points_as_points() -> None:
    """A layer of points of their own, row before column, which is left out where there are none."""
    result = result_of()
    shapes = handover.shapes_of(result)
    turned = [row for row, name in enumerate(shapes[1]["features"]["label"]) if name == "ship"]
    assert shapes[0][turned[0]].tolist() == [[y - 0.5, x - 0.5] for x, y in DIAMOND]
    assert "point" not in shapes[1]["features"]["label"]
    places, settings, kind = handover._points(result)
    assert (places.tolist(), kind) == ([[4.5, 4.5]], "points")
    assert settings["features"]["label"].tolist() == ["point"]


@pytest.mark.slow
def test_a_plot_goes_where_ax_says() -> None:
    """By the name that pandas uses; to give both names is refused."""
    result = small()
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert result.plot(ax=right) is figure
    assert right.images and not left.images
    with pytest.raises(tv.RunError, match="target= or ax=, not both"):
        result.plot(left, ax=right)


# xarray -------------------------------------------------------------------------------------


def data_array(pixels: np.ndarray = PIXELS, **changes: Any) -> Any:
    """A DataArray as rioxarray writes it: bands first, a grid mapping, coordinates of middles."""
    xarray = pytest.importorskip("xarray")
    a, _, c, _, e, f = UTM["transform"]
    height, width = pixels.shape[:2]
    coordinates = {
        "band": ["red", "green", "blue"][: pixels.shape[2]],
        "y": f + e * (np.arange(height) + 0.5),
        "x": c + a * (np.arange(width) + 0.5),
    }
    made = xarray.DataArray(np.moveaxis(pixels, -1, 0), coordinates, ("band", "y", "x"))
    told = {"crs_wkt": "EPSG:32617", "GeoTransform": f"{c} {a} 0.0 {f} 0.0 {e}"}
    return made.assign_coords({"spatial_ref": ((), 0, told), **changes})


def test_a_data_array_is_an_image_with_its_place() -> None:
    """Axes by name in any order, the place by coordinates, bands by name."""
    made = data_array()
    for array in (made, made.transpose("x", "band", "y"), made.expand_dims("time")):
        source = open_source(array)
        assert (source.size, source.bands) == ((60, 40), 3)
        np.testing.assert_array_equal(source.thumbnail(60), PIXELS)
        assert source.metadata.crs == UTM["crs"]
        np.testing.assert_allclose(source.metadata.transform, UTM["transform"])
        assert source.metadata.channels == ("red", "green", "blue")
        assert Georeference.of(source.metadata) is not None
        again = open_reference(source.reference)
        assert again.metadata == source.metadata
        assert source.fingerprint == open_source(PIXELS).fingerprint


def test_a_part_of_a_data_array_lies_where_it_lies() -> None:
    """The stored transform is the whole's; coordinates are cut with the values."""
    part = data_array().isel(y=slice(10, 30), x=slice(20, 50))
    c, f = open_source(part).metadata.transform[2::3]
    assert (c, f) == (500000.0 + 20 * 0.5, 3400000.0 - 10 * 0.5)
    coarse = data_array()[:, ::2, ::2]
    np.testing.assert_allclose(open_source(coarse).metadata.transform[::4], (1.0, -1.0))
    row = data_array().isel(y=[7], x=[9])
    np.testing.assert_allclose(open_source(row).metadata.transform[2::3], (500004.5, 3399996.5))


def test_what_a_data_array_says_of_its_values_is_read() -> None:
    """No-data, scale and offset, latitudes that grow, a system without coordinates."""
    made = data_array(PIXELS.astype(np.int16))
    made.attrs.update(_FillValue=-1, scale_factor=0.5)
    told = open_source(made).metadata
    assert (told.nodata, told.scaling) == (-1, ((0.5, 0.0),) * 3)
    made.attrs.update(scale_factor=1.0, add_offset=0.0)  # as rioxarray always writes them
    assert open_source(made).metadata.scaling is None
    upward = open_source(data_array()[:, ::-1]).metadata
    assert upward.transform[4] == 0.5
    assert any("south to north" in note for note in upward.notes)
    lost = open_source(data_array().drop_vars(["x", "y"])).metadata
    np.testing.assert_allclose(lost.transform, UTM["transform"])
    y = np.geomspace(1, 2, 40)
    uneven = open_source(data_array(y=y)).metadata
    assert uneven.transform is None and uneven.crs is None
    assert any("not evenly spaced" in note for note in uneven.notes)


def test_coordinates_of_single_precision_are_even() -> None:
    """Steps of 0.005 degrees at 179 are rounded to 1.5e-5, as in many products of the sea."""
    fine = {"x": (179 + 0.005 * np.arange(60)).astype("f4"), "y": 60 - 0.005 * np.arange(40)}
    told = open_source(data_array(**fine)).metadata
    np.testing.assert_allclose(told.transform[::4], (0.005, -0.005), rtol=1e-3)
    rough = fine["x"] + np.float32(0.002) * (np.arange(60) % 2)
    assert open_source(data_array(x=rough)).metadata.transform is None


def test_a_reference_system_is_read_in_every_spelling_or_missed() -> None:
    """A number is a code of EPSG; none, or NaN where stackstac found several, is none at all."""
    bare = data_array().drop_vars("spatial_ref")
    for spelling in (32617, "32617", "epsg:32617", "+init=epsg:32617"):
        assert open_source(bare.assign_attrs(crs=spelling)).metadata.crs == "EPSG:32617"
    assert open_source(bare.assign_coords(epsg=32617)).metadata.crs == "EPSG:32617"
    for nothing in (bare, bare.assign_coords(epsg=None), bare.assign_coords(epsg=np.nan)):
        told = open_source(nothing).metadata
        assert told.crs is None and told.transform is None
        assert any("coordinates and no reference system" in note for note in told.notes)
    backwards = open_source(data_array()[:, :, ::-1]).metadata
    np.testing.assert_allclose(backwards.transform[:3:2], (-0.5, 500030))


def test_a_data_array_of_dask_is_computed_block_by_block() -> None:
    """Its place comes with it."""
    made = data_array().chunk({"y": 16})
    source = open_source(made)
    np.testing.assert_array_equal(source.thumbnail(60), PIXELS)
    assert source.metadata.crs == UTM["crs"]


def test_axes_that_are_no_images_are_one_line() -> None:
    """Which axes there are, and what to choose."""
    xarray = pytest.importorskip("xarray")
    cube = xarray.DataArray(np.zeros((2, 4, 5, 3)), dims=("time", "y", "x", "band"))
    with pytest.raises(tv.SourceError, match=r"time \(2\) and band \(3\) .*array.isel\(time=0\)"):
        open_source(cube)
    with pytest.raises(tv.SourceError, match=r"axes dim_0, dim_1; name two of them y and x"):
        open_source(xarray.DataArray(np.zeros((4, 5))))
    with pytest.raises(tv.SourceError, match="is of"):
        open_source(xarray.DataArray(np.zeros((4, 5), "datetime64[s]"), dims=("y", "x")))


@pytest.mark.slow
def test_detections_in_a_data_array_are_saved_on_the_map(tmp_path: Path) -> None:
    """As those of the GeoTIFF with the same pixels."""
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.Affine(*UTM["transform"])
    profile = {"width": 60, "height": 40, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", crs=UTM["crs"], transform=place, **profile) as file:
        file.write(np.moveaxis(PIXELS, -1, 0))

    def square(pixels: np.ndarray) -> Any:
        return [{"box": (2, 4, 8, 6), "label": "a", "score": 0.5}]

    def features(image: Any) -> Any:
        found = tv.analyze(image, square, grid="1x2", workers=1, checkpoint=None, progress=False)
        return json.loads(found.save(tmp_path / "out.geojson").read_text())["features"]

    assert features(data_array()) == features(tmp_path / "a.tif")
