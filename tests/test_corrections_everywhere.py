"""What a person corrected is corrected everywhere: in every file, bridge, count and comparison."""

from __future__ import annotations

import gzip
import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

import tilevision as tv
from tilevision.exporting.bridges import qupathgateway
from tilevision.exporting.geojson import qupath_features
from tilevision.exporting.saving import FORMATS
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.sources import open_source

WORDS = "2 added, 1 deleted, 1 re-labelled, 1 reshaped, 1 accepted"
LABELS = {"cell": 4, "mitosis": 1}
ORIGINS = {"re-labelled": 1, "accepted": 1, "reshaped": 1, "added": 2}
BOXES = [(10, 10, 40, 40), (100, 50, 140, 90), (200, 60, 230, 90), (300, 60, 330, 90)]
TILE = Tile(0, 0, Box(0, 0, 400, 300))

# Formats that hold no detections, so that nothing in them can be corrected.
NO_OBJECTS = {
    *("heatmap", "heatmap-png", "embeddings", "embeddings-parquet", "embeddings-hdf5"),
    *("anndata", "anndata-zarr", "map", "map-ome-tiff", "map-ome-zarr", "map-npy", "recipe"),
}
# COCO's list of results has no place for a statement, and scores alone, which an object by hand
# has not; the folder of key points has those alone.
OTHERS = {"coco-results", "yolo-pose"}
ON_MAP = {"gpkg", "flatgeobuf"}
PLACE: dict[str, Any] = {"crs": "EPSG:32632", "transform": (0.5, 0, 691_000, 0, -0.5, 5_334_000)}


def result_in(folder: Path, place: dict[str, Any] | None = None) -> Result:
    """A result of four cells with corrections of every kind beside it, of a grey picture."""
    path = folder / "scan.tif"
    if place is None:
        tifffile.imwrite(path, np.full((300, 400, 3), 128, np.uint8), photometric="rgb")
    else:
        rasterio = pytest.importorskip("rasterio")
        affine = rasterio.Affine(*place["transform"])
        about = {"width": 400, "height": 300, "count": 3, "dtype": "uint8", "transform": affine}
        with rasterio.open(path, "w", driver="GTiff", crs=place["crs"], **about) as file:
            file.write(np.full((3, 300, 400), 128, np.uint8))
    found = Findings(BOXES, [0.9, 0.8, 0.7, 0.3], ["cell"] * 4)
    facts = RunFacts("r", "complete", model="m", checkpoint=str(folder / "kept"))
    rows, seen = [TileRow(0.0, TILE, "done")], [TileFindings(TILE, found)]
    result = Result(open_source(path), rows, seen, MergeSettings(), facts, "scan.tif")
    hand = result.corrections
    hand.delete(0)
    hand.relabel(1, "mitosis")
    hand.accept(2)
    hand.reshape(3, box=(300, 60, 335, 95))
    hand.add("cell", box=(50, 200, 90, 240))
    hand.add("cell", box=(150, 200, 190, 240))
    return result


@pytest.fixture
def result(tmp_path: Path) -> Result:
    return result_in(tmp_path)


def content(path: Path) -> bytes:
    """All bytes of a file or folder, uncompressed."""
    if path.is_dir():
        return b"".join(content(one) for one in sorted(path.rglob("*")) if one.is_file())
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def objects(result: Result, path: Path) -> Counter[str]:
    """The classes of the objects that a file holds, as truth is read from it."""
    (image,) = tv.evaluate(result, path).images
    return Counter(image.true.labels.tolist())


def test_every_format_is_accounted_for() -> None:
    """A new format holds detections, and is tried below; or it is said why not."""
    assert FORMATS.keys() >= NO_OBJECTS | OTHERS | ON_MAP


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in NO_OBJECTS | OTHERS])
def test_every_file_is_as_a_person_corrected_it(tmp_path: Path, name: str) -> None:
    """The corrected objects and no others, and how many corrections there are."""
    form = FORMATS[name]
    if form.needs:
        pytest.importorskip(form.needs)
    result = result_in(tmp_path, PLACE if name in ON_MAP else None)
    corrected = result.corrected()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = corrected.save(tmp_path / f"out{form.suffix}", name)
        plain = result.save(tmp_path / f"plain{form.suffix}", name)
    if name != "spatialdata":  # no truth: read below, by its own library
        assert objects(result, path) == LABELS
        assert objects(result, plain) == {"cell": 4}
    assert WORDS.encode() in content(path)
    assert WORDS.encode() not in content(plain)


def test_a_table_says_in_each_row_what_was_corrected(tmp_path: Path) -> None:
    """Of the row itself as `to_dataframe` does, and of all, as of what was not analysed."""
    corrected = result_in(tmp_path).corrected()
    read = pd.read_csv(corrected.save(tmp_path / "out.csv"))
    table = corrected.to_dataframe()
    assert read["origin"].tolist() == table["origin"].tolist()
    assert [name for name in read.columns if name in table.columns] == list(table.columns)
    assert set(read["corrected"]) == {f"Corrected by hand: {WORDS}."}
    corrected.corrections.delete(list(range(len(corrected.findings))))
    empty = pd.read_csv(corrected.corrected().save(tmp_path / "none.csv"))
    assert empty.empty and {"origin", "corrected"} <= set(empty.columns)


def test_lists_of_results_hold_what_has_a_score(tmp_path: Path) -> None:
    """COCO's list: relabelled and deleted as elsewhere; what a person drew is refused in a line."""
    result = result_in(tmp_path)
    with pytest.raises(tv.RunError, match="2 detections have no score"):
        result.corrected().save(tmp_path / "a.coco-results.json")
    for _ in range(2):
        result.corrections.undo()
    kept = json.loads(result.corrected().save(tmp_path / "b.coco-results.json").read_text())
    assert len(kept) == 3 and len({row["category_id"] for row in kept}) == 2


# Bridges -------------------------------------------------------------------------------------


def _napari(result: Result) -> tuple[Counter[str], str, Counter[str]]:
    _, (shapes, settings, _) = result.to_napari()
    columns = settings["features"]
    assert len(shapes) == len(columns["label"])
    said = settings["metadata"]["coverage"]
    return Counter(columns["label"].tolist()), said, Counter(columns["origin"].tolist())


def _supervision(result: Result) -> tuple[Counter[str], str, Counter[str]]:
    pytest.importorskip("supervision")
    made = result.to_supervision()
    hands = Counter(str(one) for one in made.data["by_hand"])
    return Counter(made.data["class_name"].tolist()), made.metadata["coverage"], hands


def _tables(result: Result) -> tuple[Counter[str], str, Counter[str]]:
    pytest.importorskip("geopandas")
    table, places = result.to_dataframe(), result.to_geodataframe()
    assert places["label"].tolist() == table["label"].tolist()
    assert places.geometry.bounds.to_numpy().tolist() == result.findings.boxes.tolist()
    return Counter(table["label"]), places.attrs["coverage"], Counter(table["origin"])


def _spatialdata(result: Result) -> tuple[Counter[str], str, Counter[str]]:
    pytest.importorskip("spatialdata")
    made = result.to_spatialdata()
    obs = made.tables["table"].obs
    assert len(made.shapes["detections"]) == len(obs)
    said = made.attrs["tilevision"]["coverage"]
    return Counter(obs["label"].astype(str)), said, Counter(obs["origin"].astype(str))


def _qupath(result: Result) -> tuple[Counter[str], str, Counter[str]]:
    rows = [one["properties"] for one in qupath_features(result, (0, 0), "annotation")]
    said = qupathgateway._said(result, "scan.tif", len(rows), 0)
    hands = Counter(str(row["metadata"]["by_hand"]) for row in rows)
    return Counter(row["classification"]["name"] for row in rows), said, hands


BRIDGES: dict[str, Callable[[Result], tuple[Counter[str], str, Counter[str]]]] = {
    "napari": _napari,
    "supervision": _supervision,
    "tables": _tables,
    "SpatialData": _spatialdata,
    "QuPath": _qupath,
}


@pytest.mark.parametrize("name", BRIDGES)
def test_every_bridge_hands_over_what_a_person_corrected(result: Result, name: str) -> None:
    """The same objects, how many corrections there are, and what was done to each."""
    labels, said, hands = BRIDGES[name](result.corrected())
    assert labels == LABELS and WORDS in said and hands == ORIGINS
    if name == "QuPath":
        assert qupathgateway._said(result, "scan.tif", 4, 0) == (
            "Sent 4 objects to scan.tif in QuPath."
        )


# Counts, areas, comparisons ------------------------------------------------------------------


def test_counts_areas_and_densities_are_of_corrected_objects(result: Result) -> None:
    """Of the image and of each region: what a person added or moved counts where it lies now."""
    corrected = result.corrected()
    assert corrected.areas.tolist() == [1600, 900, 35 * 35, 1600, 1600]
    assert corrected.digest.density == (pytest.approx(5 / 0.12), "megapixel")
    assert "found 5 detections (4 cell, 1 mitosis)" in corrected.summary
    lower = corrected.with_(region=(0, 150, 400, 300))
    assert result.with_(region=(0, 150, 400, 300)).regions["detections"].tolist() == [0]
    (row,) = lower.regions.itertuples()
    assert (row.detections, row.density) == (2, pytest.approx(2 / 0.06))
    assert "2 added" in lower.coverage and "deleted" not in lower.coverage
    upper = corrected.with_(region=(0, 0, 400, 150))
    assert upper.regions["detections"].tolist() == [3] and "1 deleted" in upper.coverage
    assert len(corrected.with_(max_area=1000.0).findings) == 1
    assert len(corrected.with_(classes=["mitosis"]).findings) == 1


def test_comparisons_are_of_corrected_objects_and_say_so(result: Result) -> None:
    """Scores and differences name the corrected side, and how many corrections it has."""
    corrected = result.corrected()
    score = tv.evaluate(corrected, corrected.findings)
    assert score.f1 == 1 and WORDS in str(score) and WORDS in score._repr_html_()
    assert WORDS not in str(tv.evaluate(result, corrected.findings))
    both = tv.compare(result, corrected)
    assert (both.name_a, both.name_b) == ("as the model found it", "corrected by hand")
    assert (len(both.both_a), len(both.only_a), len(both.only_b)) == (2, 2, 3)
    assert f"B: Corrected by hand: {WORDS}" in str(both) and "A: " not in str(both.notes)
    assert WORDS in both._repr_html_()
