"""Results as SpatialData: written, read, asked, transformed and plotted by spatialdata itself.

Its pins exclude Dask as other tests have it, so CI runs this file in an environment of its own.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import partial, result_of

import tilevision as tv
from tilevision.exporting.bridges import spatialdataset
from tilevision.findings import Findings

PIXELS = np.random.default_rng(3).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def spatialdata() -> Any:
    """The library, which CI must have where it runs this file for it."""
    if os.environ.get("SPATIALDATA"):
        return importlib.import_module("spatialdata")
    return pytest.importorskip("spatialdata", reason="needs an environment of its own")


def analysed(model: Any, image: Any = PIXELS, grid: str = "1x2", **options: Any) -> Any:
    given = {"workers": 1, "checkpoint": None, "progress": False, "merge": "none"}
    return tv.analyze(image, model, grid=grid, **(given | options))


def stored(result: Any, folder: Path, spatialdata: Any, **options: Any) -> Any:
    """What spatialdata reads of what was saved, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        path = result.save(folder / "out.spatialdata.zarr", **options)
        return spatialdata.read_zarr(path)


def test_shapes_and_their_table_are_the_detections(spatialdata: Any, tmp_path: Path) -> None:
    """Outlines, rotated boxes and boxes in one element, points in another, one table for both."""
    result = result_of()
    frame = result.to_dataframe("shapely")
    for made in (result.to_spatialdata(), stored(result, tmp_path, spatialdata)):
        assert set(made["detections"].geom_type) == {"Polygon", "MultiPolygon"}
        rows = made["detections"].index
        assert made["detections"].geometry.tolist() == frame.geometry[rows].tolist()
        points = made["points"].compute()
        assert points[["x", "y"]].to_numpy().tolist() == [[5, 5]]
        table = made["table"].obs
        assert table["label"].astype(str).tolist() == frame["label"].tolist()
        np.testing.assert_array_equal(table["score"], frame["score"])
        np.testing.assert_array_equal(table["area"], frame["area"])
        for name, element in (("detections", rows), ("points", points.index)):
            joined, told = spatialdata.join_spatialelement_table(
                sdata=made, spatial_element_names=[name], table_name="table", how="inner"
            )
            assert len(joined[name]) == len(element)
            assert told.obs["label"].astype(str).tolist() == list(frame["label"][element])
        sides = frame[["xmin", "ymin", "xmax", "ymax"]].to_numpy()
        centres = np.column_stack([sides[:, ::2].mean(axis=1), sides[:, 1::2].mean(axis=1)])
        np.testing.assert_allclose(made["table"].obsm["spatial"], centres)
        assert table["attributes.stain"].dropna().tolist() == ["HE"]


def test_coordinates_are_pixels_and_micrometres(spatialdata: Any) -> None:
    """The first as the result has them, the second by the image's own resolution."""
    made = result_of(metadata={"mpp": (0.25, 0.5)}).to_spatialdata()
    assert set(made.coordinate_systems) == {"global", "micrometres"}
    there = spatialdata.transform(made["detections"], to_coordinate_system="micrometres")
    here = made["detections"].total_bounds
    np.testing.assert_allclose(there.total_bounds, here * [0.25, 0.5, 0.25, 0.5])
    whole = spatialdata.transform(made["tiles"], to_coordinate_system="global")
    assert whole.total_bounds.tolist() == [0, 0, 400, 300]
    assert result_of().to_spatialdata().coordinate_systems == ["global"]


def test_what_was_not_analysed_is_said(spatialdata: Any, tmp_path: Path) -> None:
    """In the attributes and by the status of each tile, saved and read again."""
    made = stored(partial(), tmp_path, spatialdata)
    assert made["tiles"]["status"].tolist() == ["done", "failed"]
    said = made.attrs["tilevision"]
    assert "33% of the area, were not analysed" in said["coverage"]
    assert said["image"]["fingerprint"] == "ab12"


def test_nothing_found_leaves_the_tiles(spatialdata: Any, tmp_path: Path) -> None:
    """SpatialData has no empty shapes: the elements are left out, the account of tiles is there."""
    made = stored(result_of(Findings()), tmp_path, spatialdata)
    assert [name for _, name, _ in made.gen_elements()] == ["tiles"]


def test_points_alone_and_vectors_of_detections(spatialdata: Any, tmp_path: Path) -> None:
    """An element of points, and their vectors in X."""
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = Findings([[1, 1, 1, 1], [9, 8, 9, 8]], points=[[1, 1], [9, 8]], embeddings=vectors)
    made = stored(result_of(found), tmp_path, spatialdata)
    assert "detections" not in made
    assert made["points"].compute()[["x", "y"]].to_numpy().tolist() == [[1, 1], [9, 8]]
    np.testing.assert_array_equal(made["table"].X, vectors)


def test_names_of_columns_are_what_spatialdata_allows(spatialdata: Any, tmp_path: Path) -> None:
    """Blanks, slashes and names that differ in case alone; values of any kind; any class."""
    rows = [{"Größe µm²": 1.5, "a/b": [1, 2], "A b": True, "a b": None, "__x": "y"}, {"a b": "z"}]
    labels = ["細胞 / cell", "größe"]
    found = Findings([[0, 0, 5, 5], [9, 9, 20, 20]], labels=labels, attributes=rows)
    made = stored(result_of(found), tmp_path, spatialdata)
    obs = made["table"].obs
    assert sorted(obs["label"].astype(str)) == sorted(labels)
    told = {name.lower() for name in obs}
    assert {f"attributes.{name}" for name in ("größe_µm²", "a_b", "a_b_2", "a_b_3")} <= told
    assert len(told) == len(obs.columns)


@pytest.mark.slow
def test_a_map_of_classes_is_labels_with_names(spatialdata: Any, tmp_path: Path) -> None:
    """0 is nothing known; each label's class stands in the table."""

    def bright(pixels: np.ndarray) -> Any:
        return (pixels[..., 0] > 128).astype(np.float32)

    model = tv.model(bright, returns="probabilities", classes=("bright µ",))
    result = analysed(model)
    made = stored(result, tmp_path, spatialdata)
    labels = made["map"].to_numpy()
    assert np.array_equal(labels == 1, np.asarray(result.raster) == 0)
    assert set(np.unique(labels)) == {0, 1}
    assert made["map_table"].obs["label"].astype(str).tolist() == ["bright µ"]
    values = analysed(tv.model(lambda p: p[..., 0] / 2, returns="values", precision=0.5))
    image = stored(values, tmp_path, spatialdata)["map"].to_numpy()
    np.testing.assert_array_equal(image[0], np.asarray(values.raster))


@pytest.mark.slow
def test_the_picture_is_copied_only_if_asked_for(
    spatialdata: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Whole or smaller, block by block; without it no pixel is read."""
    monkeypatch.setattr(spatialdataset, "_BLOCK", 16)
    result = analysed(lambda pixels: [{"box": (2, 4, 8, 6), "label": "a"}])
    assert "picture" not in stored(result, tmp_path, spatialdata)
    whole = stored(result, tmp_path, spatialdata, picture=True)["picture"]
    np.testing.assert_array_equal(np.moveaxis(whole.to_numpy(), 0, -1), PIXELS)
    half = stored(result, tmp_path, spatialdata, picture=0.5)
    assert half["picture"].shape == (3, 20, 30)
    extent = spatialdata.get_extent(half["picture"], coordinate_system="global")
    assert extent == {"x": (0, 60), "y": (0, 40)}
    with pytest.raises(tv.RunError, match="picture is 3; give True"):
        result.to_spatialdata(picture=3)


@pytest.mark.slow
def test_vectors_and_probabilities_of_tiles_are_a_table(spatialdata: Any, tmp_path: Path) -> None:
    """It describes the tiles that have them; classes name the columns of probabilities."""
    model = tv.model(lambda pixels: pixels[:2, :2, 0].ravel(), returns="embedding")
    result = analysed(model)
    made = stored(result, tmp_path, spatialdata)
    np.testing.assert_array_equal(made["tile_table"].X, result.embeddings[:].astype(np.float32))
    scored = analysed(lambda pixels: tv.Findings(tile_scores={"a b": 0.25, "c": 0.75}))
    table = stored(scored, tmp_path, spatialdata)["tile_table"]
    assert list(table.var_names) == ["a b", "c"] and table.X.tolist() == [[0.25, 0.75]] * 2


@pytest.mark.slow
def test_regions_are_shapes_with_their_names(spatialdata: Any, tmp_path: Path) -> None:
    """Of a box, one; detections outside are no part of the result."""
    result = analysed(lambda pixels: [{"box": (2, 4, 8, 6), "label": "a"}], region=(0, 0, 20, 40))
    made = stored(result, tmp_path, spatialdata)
    assert made["region"].total_bounds.tolist() == [0, 0, 20, 40]
    assert len(made["detections"]) == len(result.findings) == 1


@pytest.mark.slow
def test_spatialdata_plots_it(spatialdata: Any, tmp_path: Path) -> None:
    """Shapes coloured by class over the picture, in either coordinate system."""
    pytest.importorskip("spatialdata_plot", reason="no part of spatialdata")
    from matplotlib.figure import Figure

    made = result_of(metadata={"mpp": (0.5, 0.5)}).to_spatialdata()
    for system, right in (("global", 400), ("micrometres", 200)):
        axes = Figure().subplots()
        shown = made.pl.render_shapes("tiles", fill_alpha=0.2)
        shown = shown.pl.render_shapes("detections", color="label", table_name="table")
        shown.pl.show(coordinate_systems=system, ax=axes)
        assert axes.get_xlim()[1] == pytest.approx(right, rel=0.1)
        assert axes.collections or axes.patches


def test_without_spatialdata_it_is_one_line(monkeypatch: Any, tmp_path: Path) -> None:
    """Which extra brings it."""
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(tv.RunError, match=r"tilevision\[spatialdata\]' in an environment of its"):
        result_of().to_spatialdata()
