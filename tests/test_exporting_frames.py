"""Where exports say things lie: pixels from a corner, degrees, a map; and read back from there."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import geopandas
import numpy as np
import pytest
import rasterio.warp
import shapely
from exported import DIAMOND, partial, result_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shapely.geometry import shape

from tilevision.analysis.units import Georeference
from tilevision.errors import RunError, SourceError
from tilevision.evaluation import read_truth
from tilevision.findings import Findings
from tilevision.geometry import Box

UTM = {"crs": "EPSG:32617", "transform": (0.5, 0.0, 500000.0, 0.0, -0.5, 3400000.0)}
TURNED = {"crs": "EPSG:3857", "transform": (0.3, 0.1, -9e6, 0.1, -0.3, 3e6)}
DATELINE = {"crs": "EPSG:32760", "transform": (1.0, 0.0, 817500.0, 0.0, -1.0, 8007262.0)}
SLIDE = {"mpp": (0.25, 0.25), "bounds": Box(100, 40, 400, 300)}


def _read(path):
    return json.loads(path.read_text("utf-8"))


def _pixels(place, shapes):
    """Map shapes of the CRS back to pixels, by rasterio alone."""
    inverse = ~rasterio.Affine(*place["transform"])
    return shapely.transform(shapes, lambda xy: np.column_stack(inverse @ xy.T))


def _expected():
    return [
        shapely.box(10, 10, 80, 60),
        shapely.Polygon(DIAMOND),
        shapely.Point(5, 5),
        shapely.box(200, 100, 210.13, 104),
    ]


def _assert_bounds(shapes, tolerance):
    np.testing.assert_allclose(shapely.bounds(shapes), shapely.bounds(_expected()), atol=tolerance)


@pytest.mark.parametrize("place", [UTM, TURNED], ids=["north up", "rotated"])
def test_geojson_of_a_map_is_longitude_and_latitude(tmp_path, place):
    """RFC 7946: degrees that geopandas finds in WGS84 and brings back to the same pixels."""
    path = result_of(metadata=place).save(tmp_path / "out.geojson")
    assert _read(path)["coordinates_in"] == "degrees of longitude and latitude, WGS84"
    table = geopandas.read_file(path)
    assert table.crs == "OGC:CRS84" or table.crs == "EPSG:4326"
    assert table["label"].tolist() == ["nucleus, big", "ship", "point", 'say "µ"\n=1']
    assert table["area_px2"].tolist()[:2] == [2500, 50]
    back = table.to_crs(place["crs"]).geometry
    _assert_bounds(_pixels(place, back.to_numpy()), 0.01)
    assert sorted(len(part.interiors) for part in back.iloc[0].geoms) == [0, 1]


def test_rings_turn_as_rfc_7946_wants(tmp_path):
    """Exterior rings run counterclockwise, holes clockwise, seen with north up."""
    for feature in _read(result_of(metadata=UTM).save(tmp_path / "a.geojson"))["features"]:
        geometry = feature["geometry"]
        parts = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}
        for exterior, *holes in parts.get(geometry["type"], []):
            assert shapely.LinearRing(exterior).is_ccw
            assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)


def test_what_lies_across_the_antimeridian_is_cut_there(tmp_path):
    """An object on both sides of 180° is two parts, each within -180 to 180 and small."""
    edge = _dateline_column()
    found = Findings([[edge - 20, 10, edge + 20, 30]], [0.9], ["reef"])
    result = result_of(found, metadata=DATELINE)
    (feature,) = _read(result.save(tmp_path / "a.geojson"))["features"]
    parts = shape(feature["geometry"])
    assert parts.geom_type == "MultiPolygon"
    assert sorted(round(abs(x)) for p in parts.geoms for x in p.bounds[::2]) == [180] * 4
    assert all(part.bounds[2] - part.bounds[0] < 0.01 for part in parts.geoms)
    back = _pixels(
        DATELINE, np.array(geopandas.GeoSeries(parts.geoms, crs=4326).to_crs(DATELINE["crs"]))
    )
    np.testing.assert_allclose(shapely.total_bounds(back), found.boxes[0], atol=0.05)


def _dateline_column():
    xs = np.arange(0.0, 400)
    lon, _ = Georeference(**DATELINE).to_degrees(np.column_stack([xs, np.full(400, 20.0)])).T
    return int(np.flatnonzero(np.diff(lon) < -180)[0])


@pytest.mark.parametrize("place", [UTM, TURNED], ids=["north up", "rotated"])
def test_geopackage_is_in_the_images_own_system(tmp_path, place):
    """Read by geopandas: x, y of the CRS, columns with nulls where nothing was given."""
    path = result_of(metadata=place).save(tmp_path / "out.gpkg")
    table = geopandas.read_file(path, layer="detections")
    assert table.crs == place["crs"]
    _assert_bounds(_pixels(place, table.geometry.to_numpy()), 1e-6)
    assert list(table.columns[:4]) == ["label", "class_id", "score", "area_px2"]
    assert table["score"].isna().tolist() == [False, False, False, True]
    assert table["text"].tolist()[-1] == "Ünïcode"
    assert json.loads(table["attributes"][0]) == {"roundness": 0.5, "stain": "HE", "flags": [1]}
    assert len(geopandas.list_layers(path)) == 1


def test_geopackage_draws_what_was_not_analysed(tmp_path):
    """A partial result has a layer with the missing tiles where they lie, and says so in words."""
    path = partial(metadata=UTM).save(tmp_path / "out.gpkg")
    gaps = geopandas.read_file(path, layer="not_analysed")
    assert gaps["tile"].tolist() == ["r001c000"]
    assert _pixels(UTM, gaps.geometry.to_numpy())[0].bounds == (0, 150, 400, 300)
    with sqlite3.connect(path) as database:
        said = " ".join(row[0] for row in database.execute("SELECT metadata FROM gpkg_metadata"))
    assert "33% of the area, were not analysed" in said


def test_a_geopackage_without_detections_is_one(tmp_path):
    """Nothing found is an empty layer with its columns and its CRS."""
    path = result_of(Findings(), metadata=UTM).save(tmp_path / "out.gpkg")
    table = geopandas.read_file(path)
    assert len(table) == 0
    assert "label" in table.columns
    assert table.crs == UTM["crs"]


def test_a_picture_has_no_place_on_a_map(tmp_path):
    """GeoPackage of a plain picture is refused in one line that says what to save instead."""
    for metadata in ({}, {"crs": "EPSG:32617"}, {"transform": UTM["transform"]}):
        with pytest.raises(RunError, match=r"The image has no CRS and transform.*\.geojson"):
            result_of(metadata=metadata).save(tmp_path / "out.gpkg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg"])
def test_a_system_nobody_knows_is_one_line(tmp_path, suffix):
    """A CRS that makes no sense is refused, and says how to save pixels."""
    result = result_of(metadata=UTM | {"crs": "EPSG:99999999"})
    with pytest.raises(RunError, match=r"CRS EPSG:99999999 .*format='qupath'") as caught:
        result.save(tmp_path / f"out{suffix}")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_transform_that_leads_nowhere_is_one_line(tmp_path):
    """Positions that no map has are refused instead of written as infinity."""
    result = result_of(metadata=UTM | {"transform": (0.5, 0.0, 1e30, 0.0, -0.5, 1e30)})
    with pytest.raises(RunError, match=r"EPSG:32617 .*format='qupath'"):
        result.save(tmp_path / "out.geojson")


def test_pixels_can_be_had_of_a_map_too(tmp_path):
    """``format="qupath"`` and ``.qupath.geojson`` are pixels whatever the image knows."""
    result = result_of(metadata=UTM)
    for path, name in (("a.geojson", "qupath"), ("b.qupath.geojson", None)):
        document = _read(result.save(tmp_path / path, format=name))
        assert document["coordinates_in"].startswith("pixels of the full-resolution image")
        assert shape(document["features"][0]["geometry"]).bounds == (10, 10, 80, 60)


def test_options_of_qupath_are_refused_on_a_map(tmp_path):
    """What only QuPath understands is not ignored."""
    with pytest.raises(RunError, match="give format='qupath'"):
        result_of(metadata=UTM).save(tmp_path / "a.geojson", origin=(0, 0))


def test_slides_count_from_where_qupath_crops(tmp_path):
    """OpenSlide bounds are subtracted, said in the file, and `origin` overrides them."""
    result = result_of(metadata=SLIDE)
    for options, corner in (({}, (100, 40)), ({"origin": (0, 0)}, (0, 0))):
        document = _read(result.save(tmp_path / "a.geojson", **options))
        assert document["origin"] == list(corner)
        assert document["coordinates_in"].endswith("100, 40" if any(corner) else "left corner")
        shapes = np.array([shape(f["geometry"]) for f in document["features"]])
        _assert_bounds(shapely.transform(shapes, lambda xy, c=corner: xy + c), 0.001)


@given(
    st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
    st.lists(st.tuples(*[st.floats(0, 1e5)] * 2, *[st.floats(0, 500)] * 2), min_size=1, max_size=5),
)
def test_any_origin_is_found_again(tmp_path_factory, origin, corners):
    """What is saved from any origin is read back as truth within 0.01 px."""
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in corners])
    found = Findings(boxes, [1.0] * len(boxes))
    path = tmp_path_factory.getbasetemp() / "any.geojson"
    result = result_of(found).with_(merge="none")
    back = read_truth(result.save(path, origin=origin))
    expected = result.findings.boxes
    order = lambda b: b[np.lexsort(np.round(b, 1).T)]  # noqa: E731
    np.testing.assert_allclose(
        np.sort(order(back.boxes), axis=0), np.sort(order(expected), axis=0), atol=0.011
    )


@pytest.mark.parametrize("metadata", [None, SLIDE, UTM, TURNED], ids=["", "slide", "map", "turned"])
def test_our_geojson_is_truth_again(tmp_path, metadata):
    """What `save` writes in any frame, `read_truth` finds at the same pixels."""
    result = result_of(metadata=metadata)
    place = Georeference.of(result.source.metadata)
    back = read_truth(result.save(tmp_path / "a.geojson"), place=place)
    rows = np.argsort(back.labels.astype(str))
    mine = np.argsort(result.findings.labels.astype(str))
    labels = [" ".join(label.split()) for label in result.findings.labels[mine]]
    assert [" ".join(label.split()) for label in back.labels[rows]] == labels
    np.testing.assert_allclose(back.boxes[rows], result.findings.boxes[mine], atol=0.01)


def test_degrees_need_a_place(tmp_path):
    """Truth in degrees for an image without CRS is refused, not taken for pixels."""
    path = result_of(metadata=UTM).save(tmp_path / "a.geojson")
    with pytest.raises(SourceError, match="is in degrees, and the image has no CRS"):
        read_truth(path)


def test_pixels_that_do_not_say_so_are_not_taken_for_degrees():
    """GeoJSON of an image with a CRS is degrees; what cannot be that is refused."""
    ring = [[0, 0], [500, 0], [500, 500], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    data = {"type": "FeatureCollection", "features": [feature | {"properties": {}}]}
    with pytest.raises(SourceError, match='give it the member "coordinates_in": "pixels"'):
        read_truth(data, place=Georeference(**UTM))
    data["coordinates_in"] = "pixels"
    assert read_truth(data, place=Georeference(**UTM)).boxes.tolist() == [[0, 0, 500, 500]]


def test_origin_must_be_two_numbers(tmp_path):
    """An origin that is none is refused in one line."""
    for origin in (5, "a", (1, 2, 3), (None, 1)):
        with pytest.raises(RunError, match=r"origin is .*; give x, y"):
            result_of().save(tmp_path / "a.geojson", origin=origin)


def test_ids_depend_on_the_object_alone(tmp_path):
    """With `ids`, the same object has the same UUID in a result with fewer tiles."""
    whole = _read(result_of().save(tmp_path / "a.geojson", ids=True))["features"]
    few = _read(result_of().with_(classes=["ship"]).save(tmp_path / "b.geojson", ids=True))
    assert few["features"][0]["id"] == whole[1]["id"]
    assert len({feature["id"] for feature in whole}) == 4


@pytest.mark.slow
def test_the_command_refuses_a_map_of_a_picture_before_the_work(tmp_path):
    """`--out a.gpkg` for an image without CRS ends the run at its start, with exit 2."""
    Image.new("RGB", (600, 600), "white").save(tmp_path / "a.png")
    words = ["run", "a.png", "--model", "nuclei", "--workers", "1", "--grid", "9x9"]
    done = subprocess.run(
        [sys.executable, "-m", "tilevision", *words, "--out", "a.csv", "--out", "a.gpkg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 2
    assert "The image has no CRS and transform" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "a.csv").exists()
