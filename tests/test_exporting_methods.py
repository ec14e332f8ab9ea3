"""The paragraph for a paper says what a reader must know, and files carry it."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version

import exported
import geopandas
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tilevision as tv
from tilevision.findings import Findings

SLIDE = {"mpp": (0.5, 0.5)}


def test_methods_name_versions_resolution_model_and_merge() -> None:
    """What one needs to do it again: image, scale, grid, model and its hash, thresholds, merge."""
    result = exported.result_of(
        metadata=SLIDE, model_fingerprint="0123456789abcdef", grid="640 px tiles", scales=(0.25,)
    )
    text = result.with_(min_score=0.5, classes=["ship"]).methods()
    for part in (
        f"tilevision {version('tilevision')}",
        "scan.tif (400 × 300 pixels, 0.5 × 0.5 µm per pixel, content fingerprint ab12)",
        "2 tiles (640 px tiles) at 2 µm per pixel",
        "m (fingerprint 0123456789ab)",
        "a score below 0.5 were dropped",
        "classes other than ship were dropped",
        "joined across the seams, within each class.",
        "per mm² of the analysed area (30,000 µm²)",
        "not calibrated",
    ):
        assert part in text


def test_methods_give_a_threshold_only_to_merges_that_have_one() -> None:
    """The seam merge heeds no overlap threshold; a paper must not claim one."""
    result = exported.result_of()
    assert "IoU" not in result.methods()
    told = "within each class, from IoU 0.5 on."
    assert all(told in result.with_(merge=name).methods() for name in ("nms", "nmm", "wbf"))


def test_methods_of_classified_tiles_speak_of_no_detections() -> None:
    """Where tiles have probabilities and no detections, nothing was matched or joined."""
    text = exported.result_of(Findings(tile_scores={"veg": 0.75})).methods()
    assert "probabilities averaged where they overlap" in text
    assert "Detections" not in text


def test_methods_name_every_model_that_took_part() -> None:
    """Of several models each has its fingerprint."""
    models = (("fast", "aaaa"), ("slow", "bbbb"))
    text = exported.result_of(model="fast then slow", models=models).methods()
    assert "fast (fingerprint aaaa) and slow (fingerprint bbbb) (fast then slow)" in text


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            tv.Cascade("blobs", "nuclei", when=(0.2, 0.7)),
            "(blobs, then nuclei where any of its scores lies from 0.2 to 0.7)",
        ),
        (
            tv.Cascade("blobs", "nuclei", when=bool),
            "(blobs, then nuclei where a function of its findings says so)",
        ),
        (
            tv.Route("blobs", [(tv.Detailed(0.05), "nuclei"), (bool, "textlines")]),
            "(nuclei where edges are 0.05 or more of the tile, else textlines where a function "
            "of the tile says so, else blobs)",
        ),
        (
            tv.Route("blobs", [(tv.Within(0, 0, 9.5, 8), tv.Cascade("blobs", "nuclei"))]),
            "([blobs, then nuclei where any of its scores lies from 0.25 to 0.6] where the tile "
            "touches (0, 0, 9.5, 8) px, else blobs)",
        ),
    ],
)
def test_methods_say_which_tiles_went_to_which_model(asked, told) -> None:
    """Nobody can repeat a cascade or a route without its rule."""
    routing = asked.resolved(tv.model).to_dict(lambda spec: {"name": spec.name})
    models = [(spec.name, "aaaa") for spec in asked.resolved(tv.model).models]
    text = exported.result_of(model="m", models=models, recipe={"routing": routing}).methods()
    assert told in text


@pytest.mark.parametrize("page", ["", "#page=2"])
def test_a_sha256_in_methods_is_the_files(tmp_path, page) -> None:
    """What the paragraph calls a SHA-256 is what anybody computes of the file, also of a page."""
    scan = Image.new("L", exported.SIZE)
    scan.save(tmp_path / "scan.tif", save_all=True, append_images=[scan])
    digest = hashlib.sha256((tmp_path / "scan.tif").read_bytes()).hexdigest()
    result = exported.result_of()
    result.source = tv.open_source(f"{tmp_path}/scan.tif{page}")
    assert f"SHA-256 {digest[:12]})" in result.methods()


def test_methods_claim_no_sha256_of_pixels_without_a_file() -> None:
    """The fingerprint of an array is no checksum that others could compute."""
    result = exported.result_of()
    result.source = tv.open_source(np.zeros(exported.SIZE[::-1], np.uint8))
    text = result.methods()
    assert "SHA-256" not in text
    assert f"content fingerprint {result.source.fingerprint[:12]}" in text


def test_methods_give_large_areas_in_plain_digits() -> None:
    """A million square microns is no power of ten in a paper."""
    text = exported.result_of(metadata={"mpp": (5.0, 5.0)}).methods()
    assert "of the analysed area (3,000,000 µm²)" in text


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
