"""The paragraph for a paper says what a reader must know, and files carry it."""

from __future__ import annotations

import json
from importlib.metadata import version

import exported
import geopandas
import pandas as pd
import pytest

SLIDE = {"mpp": (0.5, 0.5)}


def test_methods_name_versions_resolution_model_and_merge() -> None:
    """What one needs to do it again: image, scale, grid, model and its hash, thresholds, merge."""
    result = exported.result_of(
        metadata=SLIDE, model_fingerprint="0123456789abcdef", grid="640 px tiles", scales=(0.25,)
    )
    text = result.with_(min_score=0.5, classes=["ship"]).methods()
    for part in (
        f"tilevision {version('tilevision')}",
        "scan.tif (400 × 300 pixels, 0.5 × 0.5 µm per pixel, SHA-256 ab12)",
        "2 tiles (640 px tiles) at 2 µm per pixel",
        "m (fingerprint 0123456789ab)",
        "a score below 0.5 were dropped",
        "classes other than ship were dropped",
        "within each class, from IoU 0.5 on",
        "per mm² of the analysed area (30,000 µm²)",
        "not calibrated",
    ):
        assert part in text


def test_methods_name_every_model_that_took_part() -> None:
    """Of several models each has its fingerprint."""
    models = (("fast", "aaaa"), ("slow", "bbbb"))
    text = exported.result_of(model="fast then slow", models=models).methods()
    assert "fast (fingerprint aaaa) and slow (fingerprint bbbb) (fast then slow)" in text


def test_methods_of_a_partial_result_say_what_is_missing() -> None:
    """A paper must not hide that tiles failed."""
    assert "INCOMPLETE: 1 of 2 tiles" in exported.partial().methods()


def test_methods_are_in_the_files_that_can_hold_them(tmp_path) -> None:
    """JSON, GeoJSON and COCO have the paragraph word for word."""
    result = exported.result_of()
    for suffix in (".json", ".geojson", ".coco.json"):
        text = json.dumps(result.methods(), ensure_ascii=False)
        assert text in result.save(tmp_path / f"a{suffix}").read_text(encoding="utf-8")


def test_areas_on_a_map_are_square_metres_in_tables_and_measurements(tmp_path) -> None:
    """CSV, Parquet and GeoJSON say m², and the same as the data frame."""
    pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
    place = {"crs": "EPSG:32617", "transform": (0.5, 0.0, 5e5, 0.0, -0.5, 4e6)}
    result = exported.result_of(metadata=place)
    truth = result.to_dataframe()["area_m2"].round(4).tolist()
    assert truth[1] == pytest.approx(50 / 4 / 0.9996**2, rel=1e-4)  # the turned ship
    assert pd.read_csv(result.save(tmp_path / "a.csv"))["area_m2"].tolist() == truth
    assert pd.read_parquet(result.save(tmp_path / "a.parquet"))["area_m2"].tolist() == truth
    features = json.loads(result.save(tmp_path / "a.geojson").read_text())["features"]
    assert [one["properties"]["area_m2"] for one in features] == truth
    features = json.loads(result.save(tmp_path / "a.qupath.geojson").read_text())["features"]
    assert [one["properties"]["measurements"]["Area m^2"] for one in features] == truth
    gpkg = geopandas.read_file(result.save(tmp_path / "a.gpkg"), layer="detections")
    assert gpkg["area_m2"].tolist() == truth
