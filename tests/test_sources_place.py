"""Where an image lies on Earth: by its keys, by files beside it, in any container, as in GDAL."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import tilevision as tv
from tilevision.analysis.units import Georeference, units_of
from tilevision.geometry import Box
from tilevision.sources import open_source

rasterio = pytest.importorskip("rasterio")
copy = pytest.importorskip("rasterio.shutil").copy
CRS = rasterio.crs.CRS

SINUSOIDAL = "+proj=sinu +R=6371007.181 +units=m +no_defs"
MOLLWEIDE = "+proj=moll +lon_0=10 +datum=WGS84"
OWN_ALBERS = "+proj=aea +lat_1=21 +lat_2=58 +lat_0=41 +lon_0=-96 +datum=NAD83 +units=m"
OWN_LAEA = "+proj=laea +lat_0=12.5 +lon_0=7.25 +datum=WGS84 +units=us-ft"
SYSTEMS = {
    "EPSG:32633": (500_000, 4_000_000, 2),
    "EPSG:4326": (12.0, 50.0, 1e-4),
    "EPSG:4267": (-90.0, 40.0, 1e-4),
    "EPSG:2263": (980_000, 200_000, 3),
    "EPSG:3857": (1_000_000, 6_000_000, 5),
    "EPSG:5070": (100_000, 1_900_000, 10),
    "EPSG:6933": (1_000_000, 3_000_000, 30),
    "EPSG:32633+5773": (500_000, 4_000_000, 2),
    "ESRI:102001": (500_000, 2_000_000, 10),
    "ESRI:54009": (1_000_000, 4_000_000, 100),
    SINUSOIDAL: (1_111_950, 5_559_752, 463.3),
    MOLLWEIDE: (300_000, 4_500_000, 100),
    OWN_ALBERS: (200_000, 300_000, 10),
    OWN_LAEA: (1_000, 2_000, 3),
}
PIXELS = np.zeros((3, 40, 60), np.uint8)
CORNERS = np.array([[0, 0], [60, 0], [60, 40], [0, 40], [13.5, 7.25]])


def save(path: Path, crs: Any, place: Any, driver: str = "GTiff", **options: Any) -> Path:
    profile = {"width": 60, "height": 40, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        path, "w", driver=driver, crs=crs, transform=place, **profile, **options
    ) as to:
        to.write(PIXELS)
    return path


def by_gdal(path: Path) -> np.ndarray:
    """Return the longitude and latitude of `CORNERS` as GDAL and PROJ have them."""
    with rasterio.open(path) as dataset:
        x, y = placed(dataset, CORNERS).T
        return np.column_stack(rasterio.warp.transform(dataset.crs, "EPSG:4326", x, y))


def placed(dataset: Any, points: np.ndarray) -> np.ndarray:
    a, b, c, d, e, f = dataset.transform[:6]
    return points @ np.array([[a, d], [b, e]]) + (c, f)


def by_us(path: Path) -> np.ndarray:
    place = Georeference.of(open_source(path).metadata)
    assert place is not None
    return place.to_degrees(CORNERS)


@pytest.mark.parametrize("driver", ["GTiff", "COG", "VRT", "HFA", "JP2OpenJPEG"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_one_raster_has_one_place(tmp_path: Path, system: str, driver: str) -> None:
    """By code, by parameters, compound, in feet: the same longitude and latitude everywhere."""
    west, north, step = SYSTEMS[system]
    crs = CRS.from_user_input(system)
    tif = save(tmp_path / "a.tif", crs, rasterio.transform.from_origin(west, north, step, step))
    path = tif
    if driver != "GTiff":
        path = tmp_path / f"b.{ {'COG': 'tif', 'VRT': 'vrt', 'HFA': 'img'}.get(driver, 'jp2') }"
        copy(tif, path, driver=driver)
    np.testing.assert_allclose(by_us(path), by_gdal(path), atol=1e-9)
    if (driver, system) != ("HFA", SINUSOIDAL):  # which does not keep the sphere
        np.testing.assert_allclose(by_us(path), by_gdal(tif), atol=1e-6)
    if system in ("EPSG:32633", "EPSG:4326", "EPSG:3857"):
        assert open_source(path).metadata.crs == system


@pytest.mark.parametrize("driver", ["GTiff", "COG", "VRT", "HFA"])
@pytest.mark.parametrize("system", ["EPSG:7415", "EPSG:4979", "EPSG:4326+5773", "LOCAL"])
def test_heights_and_local_systems_are_kept(tmp_path: Path, system: str, driver: str) -> None:
    """The system that GDAL has of every container (GeoTIFF 1.1, VerticalGeoKey)."""
    crs = CRS.from_user_input('LOCAL_CS["site",UNIT["metre",1]]' if system == "LOCAL" else system)
    first = save(tmp_path / "a.tif", crs, rasterio.Affine(1, 0, 5, 0, -1, 52))
    path = tmp_path / {"COG": "b.tif", "VRT": "b.vrt", "HFA": "b.img"}.get(driver, "a.tif")
    if path != first:
        copy(first, path, driver=driver)
    with rasterio.open(path) as dataset:
        found = open_source(path).metadata.crs
        assert (None if found is None else CRS.from_user_input(found)) == dataset.crs


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("scale", [(2.0, -3.0, 0.0), (0.0, 0.0, 0.0), (2.0, 3.0), None])
@pytest.mark.parametrize("matrix", [False, True])
def test_tags_that_contradict_each_other_place_as_gdal_does(
    tmp_path: Path, kind: int, scale: tuple[float, ...] | None, matrix: bool
) -> None:
    """GDAL 3.10: the scale goes before the matrix, its sign says nothing, and nor does a 0."""
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, kind, 3072, 0, 1, 32617)
    tags: list[Any] = [(34735, "H", len(keys), keys, True)]
    if scale is not None:
        tags.append((33550, "d", len(scale), scale, True))
        tags.append((33922, "d", 6, (10.0, 20.0, 0.0, 500_000.0, 4_000_000.0, 0.0), True))
    if matrix:
        values = (4.0, 1.0, 0.0, 6e5, 1.0, -4.0, 0.0, 5e6, *[0.0] * 7, 1.0)
        tags.append((34264, "d", 16, values, True))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS[0], extratags=sorted(tags))
    found = open_source(path).metadata.transform
    with rasterio.open(path) as dataset:
        right = dataset.transform
    assert (found is None) == right.is_identity
    if found is not None:
        np.testing.assert_allclose(found, right[:6], rtol=1e-12)


def test_an_authority_s_code_is_kept_and_else_the_definition(tmp_path: Path) -> None:
    """ESRI's codes are codes, too; what has none is WKT, never another system's code."""
    place = rasterio.transform.from_origin(500_000, 2_000_000, 10, 10)
    coded = open_source(save(tmp_path / "a.tif", "ESRI:102001", place)).metadata.crs
    assert coded is not None
    assert CRS.from_user_input(coded) == CRS.from_user_input("ESRI:102001")
    defined = open_source(save(tmp_path / "b.tif", OWN_ALBERS, place)).metadata.crs
    assert defined is not None and defined.startswith("PROJCRS[")


@pytest.mark.parametrize("turned", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("name", ["a.tif", "a.jpg", "a.png"])
def test_files_beside_an_image_place_it(tmp_path: Path, name: str, turned: int) -> None:
    """A world file and a CRS beside it; a picture that is turned upright keeps its place.

    GDAL places the pixels as stored: the corner where the red square is stored is the corner
    where it is shown.
    """
    pixels = np.full((48, 64, 3), 90, np.uint8)
    pixels[:16, :16] = (250, 0, 0)
    path = tmp_path / name
    exif = Image.Exif()
    exif[0x0112] = turned
    jpeg = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    Image.fromarray(pixels).save(path, exif=exif, **jpeg)
    world = {"a.tif": "a.tfw", "a.jpg": "a.jgw", "a.png": "a.pgw"}[name]
    (tmp_path / world).write_text("2.0\n0.5\n0.25\n-2.0\n500001.0\n3999999.0\n")
    (tmp_path / f"{name}.aux.xml").write_text("<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>")
    source = open_source(path)
    shown = source.read(Box(0, 0, *source.size))
    red = (shown[..., 0] > 200) & (shown[..., 1] < 60)
    rows, columns = np.nonzero(red)
    middle = np.array([[columns.mean() + 0.5, rows.mean() + 0.5]])
    place = Georeference.of(source.metadata)
    assert place is not None and place.crs == "EPSG:32633"
    with rasterio.open(path) as dataset:
        expected = placed(dataset, np.array([[8, 8]]))
        np.testing.assert_allclose(place.to_crs(middle), expected, atol=1e-6)


def test_the_place_of_statistics_is_not_asked_for(tmp_path: Path) -> None:
    """A file beside an image that holds other things says nothing of its place."""
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text("<PAMDataset><PAMRasterBand/></PAMDataset>")
    metadata = open_source(tmp_path / "a.png").metadata
    assert (metadata.crs, metadata.transform) == (None, None)
    assert len(metadata.notes) == 1  # of the staging


def _with_points(path: Path, bend: float) -> Path:
    point = rasterio.control.GroundControlPoint
    points = [
        point(row, column, 500_000 + 2 * column + bend * row * column, 4_000_000 - 2 * row)
        for row in (0, 40)
        for column in (0, 60)
    ]
    profile = {"width": 60, "height": 40, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **profile, gcps=points, crs="EPSG:32633") as to:
        to.write(PIXELS)
    return path


def test_control_points_place_an_image_where_a_transform_meets_them(tmp_path: Path) -> None:
    """Points that lie straight are a place; of others one line says what to do."""
    straight = open_source(_with_points(tmp_path / "a.tif", 0.0)).metadata
    assert straight.crs == "EPSG:32633"
    np.testing.assert_allclose(straight.transform, (2, 0, 500_000, 0, -2, 4_000_000), atol=1e-6)
    bent = open_source(_with_points(tmp_path / "b.tif", 0.1)).metadata
    assert bent.transform is None
    assert any("4 ground control points" in note and "gdalwarp" in note for note in bent.notes)


def test_rational_polynomials_are_named(tmp_path: Path) -> None:
    """An image as the satellite saw it has no place before it is orthorectified."""
    one = " ".join(["1"] + ["0"] * 19)
    tags = {
        f"{axis}_{kind}": one for axis in ("LINE", "SAMP") for kind in ("NUM_COEFF", "DEN_COEFF")
    }
    for name in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT"):
        tags |= {f"{name}_OFF": "10", f"{name}_SCALE": "5"}
    profile = {"width": 60, "height": 40, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **profile) as to:
        to.write(PIXELS)
        to.update_tags(ns="RPC", **tags)
    metadata = open_source(tmp_path / "a.tif").metadata
    assert metadata.transform is None
    assert any("RPC" in note for note in metadata.notes)


@pytest.mark.parametrize("where", ["in the file", "beside it"])
def test_without_rasterio_nothing_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A place that only PROJ knows is not another place, and a note names the extra."""
    place = rasterio.transform.from_origin(500_000, 2_000_000, 10, 10)
    if where == "in the file":
        path = save(tmp_path / "a.tif", OWN_ALBERS, place)
    else:
        path = tmp_path / "a.jpg"
        Image.fromarray(np.moveaxis(PIXELS, 0, -1)).save(path)
        (tmp_path / "a.jgw").write_text("2.0\n0\n0\n-2.0\n500001.0\n3999999.0\n")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setitem(sys.modules, "rasterio.io", None)
    metadata = open_source(path).metadata
    assert metadata.crs is None
    assert sum("tilevision[geo]" in note for note in metadata.notes) == 1


def test_a_place_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """Metres that are taken for degrees have no longitude and latitude: nothing is written."""
    place = rasterio.transform.from_origin(500_000, 2_000_000, 10, 10)
    metadata = open_source(save(tmp_path / "a.tif", "EPSG:4326", place)).metadata
    wrong = Georeference.of(metadata)
    assert wrong is not None
    with pytest.raises(tv.RunError, match="transform is wrong"):
        wrong.to_degrees(CORNERS)
    units = units_of(metadata)
    assert units.area == "px²" and "no place on Earth" in units.note
