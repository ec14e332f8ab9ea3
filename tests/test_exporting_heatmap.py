"""Tile classification leaves as a table, a map, a raster and QuPath's tiles."""

from __future__ import annotations

import json

import numpy as np
import pytest
from exported import OTHER, TILE, result_of
from matplotlib.figure import Figure
from PIL import Image

from tilevision.errors import RunError
from tilevision.findings import Findings, TileFindings
from tilevision.result import MergeSettings, Result, RunFacts, TileRow

PLACE = {"crs": "EPSG:32617", "transform": (0.5, 0.0, 500_000.0, 0.0, -0.5, 4_000_000.0)}


def _classified(metadata=None):
    source = result_of(metadata=metadata).source
    seen = [
        TileFindings(TILE, Findings(tile_scores={"tumour": 0.9, "other": 0.1})),
        TileFindings(OTHER, Findings(tile_scores={"tumour": 0.3, "other": 0.7})),
    ]
    rows = [TileRow(0.0, TILE, "done"), TileRow(0.0, OTHER, "done")]
    facts = RunFacts("r", "complete", model="grader")
    return Result(source, rows, seen, MergeSettings(), facts, "scan.tif")


def test_the_table_has_a_row_a_tile_and_a_column_a_class() -> None:
    """Ids and boxes of the tiles, probabilities as the model gave them."""
    table = _classified().tile_scores
    assert table.columns.tolist() == ["id", "xmin", "ymin", "xmax", "ymax", "other", "tumour"]
    assert table["tumour"].tolist() == [0.9, 0.3]
    assert result_of().tile_scores.empty


def test_the_summary_says_how_the_tiles_were_classified() -> None:
    """A classifier did not find nothing: it classified."""
    text = _classified().summary
    assert "grader classified 2 tiles (most probable: 1 other, 1 tumour)" in text
    assert "found nothing" not in text


def test_geotiff_has_a_band_a_class_where_the_image_lies(tmp_path) -> None:
    """Rasterio reads bands, names, transform and CRS; the overlap is the mean."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
    path = _classified(PLACE).save(tmp_path / "a.heatmap.tif", cell=50)
    with rasterio.open(path) as raster:
        assert raster.descriptions == ("other", "tumour")
        assert raster.crs.to_epsg() == 32617
        assert tuple(raster.transform)[:6] == (25.0, 0.0, 500_000.0, 0.0, -25.0, 4_000_000.0)
        assert raster.read(2)[:, 0].tolist() == np.float32([0.9, 0.9, 0.9, 0.6, 0.3, 0.3]).tolist()
        assert json.loads(raster.tags()["TILEVISION"])["complete"] is True


def test_png_has_a_world_file_that_places_it(tmp_path) -> None:
    """Grey is probability; without a reference system the world is the image's pixels."""
    path = _classified().save(tmp_path / "a.heatmap.png", label="tumour", cell=50)
    grey = np.asarray(Image.open(path))
    assert grey.shape == (6, 8, 2)
    assert grey[:, 0].tolist() == [[230, 255]] * 3 + [[153, 255]] + [[76, 255]] * 2
    world = [float(line) for line in (tmp_path / "a.heatmap.pgw").read_text().split()]
    assert world == [50.0, 0.0, 0.0, 50.0, 25.0, 25.0]


def test_qupath_gets_tiles_with_measurements(tmp_path) -> None:
    """Each classified tile is an object of QuPath's kind ``tile``."""
    path = _classified().save(tmp_path / "a.qupath.geojson", ids=True)
    tiles = json.loads(path.read_text())["features"]
    assert [one["properties"]["objectType"] for one in tiles] == ["tile", "tile"]
    assert tiles[0]["properties"]["measurements"] == {
        "Probability other": 0.1,
        "Probability tumour": 0.9,
    }
    assert tiles[0]["geometry"]["coordinates"][0][2] == [400, 200]


def test_the_plot_shows_the_heatmap_and_what_its_colours_mean() -> None:
    """Without detections the probabilities are drawn; the legend has three steps."""
    figure = Figure()
    result = _classified()
    result.source.read = lambda box, scale=1.0, bands=None: np.zeros((300, 400, 3), np.uint8)
    result.source.bands, result.source.dtype = 3, np.dtype(np.uint8)
    drawn = result.plot(figure, "tumour")
    words = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert [word for word in words if "tumour" in word] == [
        "tumour 0%",
        "tumour 50%",
        "tumour 100%",
    ]


def test_a_class_that_is_not_there_is_refused_by_name(tmp_path) -> None:
    """One line lists the classes; a model without probabilities is told so."""
    with pytest.raises(RunError, match="there are other, tumour"):
        _classified().save(tmp_path / "a.heatmap.png", label="cat")
    with pytest.raises(RunError, match="no heatmap"):
        result_of().save(tmp_path / "b.heatmap.png")
    assert list(tmp_path.iterdir()) == []
