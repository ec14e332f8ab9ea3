"""Files that results leave in: read back, right, whole, and honest about what is missing."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from exported import DIAMOND, HOLE, OTHER, PART, RING, TILE, partial, result_of
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from shapely.geometry import shape

from tilevision import exporting
from tilevision.errors import RunError
from tilevision.exporting import FORMATS, SUFFIXES, destination, geojson, save, saving
from tilevision.exporting.coco import _signed_area, bridged
from tilevision.exporting.detectionrows import detections
from tilevision.exporting.saving import Format
from tilevision.findings import Findings
from tilevision.result import TileRow

# Of detections; poses are refused where there are no key points.
OTHERS = (
    "heatmap",
    "embeddings",
    ".h5ad",
    ".anndata.zarr",
    ".spatialdata.zarr",
    ".recipe.json",
    ".yolo-pose",
    ".tif",
    ".ome.zarr",
    ".npy",
)
HOLDING = [s for s in SUFFIXES if not any(other in s for other in OTHERS)]


def _read(path):
    return json.loads(path.read_text(encoding="utf-8"))


# Something every format takes: a place on Earth for GeoPackage, a score for COCO results.
PLACED = {"crs": "EPSG:32617", "transform": (0.5, 0.0, 500000.0, 0.0, -0.5, 3400000.0)}
OPTIONS = {".coco-results.json": {"score": 0.5}}


def _placed(suffix):
    return PLACED if suffix in (".gpkg", ".fgb") else None


def _bytes(path):
    """Return what a file holds, or the files of a folder one after another, with their names."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if not path.is_dir():
        return path.read_bytes()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return b"".join(str(file.relative_to(path)).encode() + file.read_bytes() for file in files)


def _saved(result, folder, name, suffix):
    return result.save(folder / f"{name}{suffix}", **OPTIONS.get(suffix, {}))


def test_json_says_everything(tmp_path):
    """JSON holds each detection with all its columns, in full-resolution pixels."""
    document = _read(result_of(metadata={"mpp": (0.5, 0.5)}).save(tmp_path / "out.json"))
    assert document["image"] == {
        "name": "scan.tif",
        "width": 400,
        "height": 300,
        "mpp": [0.5, 0.5],
        "crs": None,
        "transform": None,
        "fingerprint": "ab12",
    }
    assert document["complete"] is True
    assert document["not_analysed"] == []
    assert document["counts"] == {"nucleus, big": 1, "point": 1, 'say "µ"\n=1': 1, "ship": 1}
    first, second, point, unscored = document["detections"]
    assert first["polygon"] == [[RING, HOLE], [PART]]
    assert first["area"] == 50 * 50 - 100 + 100
    assert first["attributes"] == {"roundness": 0.5, "stain": "HE", "flags": [1]}
    assert second["oriented"] == DIAMOND
    assert second["area"] == 50
    assert point["point"] == [5, 5]
    assert point["score"] == 0.12346
    assert unscored["score"] is None
    assert unscored["text"] == "Ünïcode"
    assert unscored["box"] == [200, 100, 210.13, 104]


def test_geojson_is_what_qupath_reads(tmp_path):
    """Each feature is a detection with classification, numeric measurements and its outline."""
    document = _read(result_of(metadata={"mpp": (0.5, 0.5)}).save(tmp_path / "out.geojson"))
    assert document["type"] == "FeatureCollection"
    first, second, point, last = document["features"]
    assert {feature["type"] for feature in document["features"]} == {"Feature"}
    assert first["properties"] == {
        "objectType": "detection",
        "classification": {"name": "nucleus, big", "color": [195, 204, 31]},
        "measurements": {"roundness": 0.5, "Area px^2": 2500, "Area µm^2": 625, "Score": 0.9},
        "metadata": {"stain": "HE"},
    }
    assert last["properties"]["name"] == "Ünïcode"
    assert "Score" not in last["properties"]["measurements"]
    assert first["geometry"]["type"] == "MultiPolygon"
    assert shape(first["geometry"]).area == 2500
    assert shape(second["geometry"]).equals(shapely.Polygon(DIAMOND))
    assert point["geometry"] == {"type": "Point", "coordinates": [5, 5]}
    assert shape(last["geometry"]).bounds == (200, 100, 210.13, 104)
    assert all(shape(feature["geometry"]).is_valid for feature in document["features"])


def test_csv_is_the_data_frame(tmp_path):
    """CSV read by pandas has to_dataframe's columns, but one for attributes, and no shapes."""
    result = result_of(metadata={"mpp": (0.5, 0.5)})
    read = pd.read_csv(result.save(tmp_path / "out.csv"))
    table = result.to_dataframe()
    shared = [name for name in table.columns if name in read.columns]
    assert list(read.columns) == [*shared, "attributes"]
    further = set(table.columns) - set(shared)
    assert all(name.startswith(("point", "corner", "keypoint", "attribute")) for name in further), (
        further
    )
    assert read["label"].tolist() == table["label"].tolist()
    for column in ("xmin", "xmax", "score", "area", "area_um2", "class_id"):
        np.testing.assert_allclose(read[column], table[column], atol=0.0051)
    assert read["text"].tolist()[-1] == "Ünïcode"
    assert json.loads(read["attributes"][0]) == {"roundness": 0.5, "stain": "HE", "flags": [1]}


def test_coco_is_consistent(tmp_path):
    """COCO ids refer to what is there; boxes are x, y, width, height; outlines keep holes out."""
    document = _read(result_of().save(tmp_path / "out.coco.json"))
    assert [image["id"] for image in document["images"]] == [1]
    categories = {category["id"]: category["name"] for category in document["categories"]}
    assert len(categories) == 4
    ids = [annotation["id"] for annotation in document["annotations"]]
    assert len(set(ids)) == len(ids) == 4
    first = document["annotations"][0]
    assert categories[first["category_id"]] == "nucleus, big"
    assert first["bbox"] == [10, 10, 70, 50]
    outline = Outline(np.reshape(first["segmentation"][0], (-1, 2)))
    inside, hole = outline.contains_points([[12, 40], [25, 25]])
    assert inside
    assert not hole


def test_coco_numbers_are_the_models_where_they_tell_labels_apart(tmp_path):
    """Class numbers of the model are category ids, from 1 on, unless one stands for two labels."""
    boxes = [[0, 0, 5, 5], [20, 0, 25, 5]]
    for numbers, expected in (([17, 3], [3, 17]), ([1, 0], [1, 2]), ([1, 1], [1, 2])):
        found = Findings(boxes, [0.9, 0.8], ["a", "b"], class_ids=numbers)
        document = _read(result_of(found).save(tmp_path / "out.coco.json"))
        assert sorted(category["id"] for category in document["categories"]) == expected


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4, unique=True),
    st.booleans(),
)
def testbridged_outline_encloses_what_the_part_does(cells, turned):
    """One ring for an exterior and its holes has the exterior's area less the holes'."""
    exterior = [[0.0, 0.0], [100.0, 0.0], [100.0, 100.0], [0.0, 100.0]]
    holes = [
        [[x * 10 + 2, y * 10 + 2], [x * 10 + 8, y * 10 + 2], [x * 10 + 8, y * 10 + 8.0]]
        for x, y in cells
    ]
    if turned:
        holes = [hole[::-1] for hole in holes]
    assert abs(_signed_area(bridged([exterior, *holes]))) == pytest.approx(1e4 - 18 * len(holes))


@pytest.mark.parametrize("suffix", HOLDING)
def test_every_file_says_what_was_not_analysed(tmp_path, suffix):
    """A partial result says how much is missing in every format, with detections or without."""
    missing = b"1 of 2 tiles, 33% of the area, were not analysed"
    for findings in (None, Findings()):
        result = partial(findings, metadata=_placed(suffix))
        said = _bytes(_saved(result, tmp_path, "out", suffix))
        if suffix == ".csv":
            assert said.splitlines()[0].endswith(b",incomplete")
        # A list of results has no place for it but its rows.
        if findings is None or suffix not in (".csv", ".coco-results.json"):
            assert missing in said
    whole = _bytes(_saved(result_of(metadata=_placed(suffix)), tmp_path, "whole", suffix))
    assert b"not analysed" not in whole
    assert b"incomplete" not in whole


@pytest.mark.parametrize("suffix", [".json", ".geojson"])
def test_missing_tiles_are_named_with_their_region(tmp_path, suffix):
    """`not_analysed` holds each missing tile's id and box; `analysed` counts."""
    document = _read(partial().save(tmp_path / f"out{suffix}"))
    assert document["complete"] is False
    assert document["not_analysed"] == [{"tile": "r001c000", "box": [0, 150, 400, 300]}]
    assert document["analysed"]["failed"] == 1
    assert document["analysed"]["area_share"] == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize("suffix", HOLDING)
def test_a_resumed_run_leaves_the_same_bytes(tmp_path, suffix):
    """Nothing in a file depends on when, where, by which run or in how many tries it was made."""
    clean = result_of(seconds=9.0, metadata=_placed(suffix))
    rows = [TileRow(0.0, OTHER, "restored"), TileRow(0.0, TILE, "done", 3, "tcp://y", 7.0, 8.0)]
    facts = {"run_id": "run-78", "restored": 1, "restored_at": 1.7e9, "seconds": 1.0}
    resumed = result_of(rows=rows, metadata=_placed(suffix), **facts)
    a = _bytes(_saved(clean, tmp_path, "a", suffix))
    b = _bytes(_saved(resumed, tmp_path, "b", suffix))
    assert a == b
    assert b"run-7" not in a
    assert b"tcp:" not in a


@pytest.mark.parametrize("suffix", [s for s in HOLDING if s.endswith("json")])
def test_json_without_detections_is_valid(tmp_path, suffix):
    """Nothing found is a file that readers open, with an empty list where detections stand."""
    text = _saved(result_of(Findings()), tmp_path, "out", suffix).read_text("utf-8")
    json.loads(text)
    assert "[\n]" in text


def test_csv_of_classified_tiles_is_the_table_of_their_probabilities(tmp_path):
    """Where nothing was detected a row is a tile, partial ones say so, no name is a formula."""
    found = Findings(tile_scores={"=veg": 0.75, "soil": 0.25})
    table = pd.read_csv(partial(found).save(tmp_path / "a.csv"))
    assert list(table.columns[:5]) == ["id", "xmin", "ymin", "xmax", "ymax"]
    assert table[["'=veg", "soil"]].to_numpy().tolist() == [[0.75, 0.25]]
    assert table["id"].tolist() == ["r000c000"]
    assert "INCOMPLETE: 1 of 2 tiles" in table["incomplete"][0]


def test_csv_without_detections_is_valid(tmp_path):
    """Nothing found is a table with a header."""
    assert pd.read_csv(result_of(Findings()).save(tmp_path / "out.csv")).empty


@pytest.mark.parametrize("name", ["out", "out.xml", "out.geo", ".json", "out.json.bak"])
def test_an_unknown_suffix_names_those_known(tmp_path, name):
    """A suffix nobody knows is one line that lists the formats, before anything is written."""
    with pytest.raises(RunError, match=r"the suffix decides .*\.coco\.json, \.csv, .*\.geojson"):
        save(result_of(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_format_can_be_asked_for_by_name(tmp_path):
    """Where suffixes collide the name decides; a name nobody knows lists those known."""
    assert "<annotation>" in result_of().save(tmp_path / "a.xml", format="voc").read_text("utf-8")
    assert "<image " in result_of().save(tmp_path / "b.xml", format="cvat").read_text("utf-8")
    with pytest.raises(RunError, match=r"format is 'pascal'; give one of csv, .* voc"):
        destination(tmp_path / "c.xml", "pascal")
    with pytest.raises(RunError, match=r"format is \['voc'\]; give one of csv"):
        destination(tmp_path / "c.xml", ["voc"])


def test_an_option_nobody_knows_is_refused(tmp_path):
    """A misspelt option is one line with those the format knows, and nothing is written."""
    for name, says in (("a.voc.xml", "it has none"), ("a.qupath.geojson", "it knows origin, obj")):
        with pytest.raises(RunError, match=f"has no option 'orgin'; {says}"):
            result_of().save(tmp_path / name, orgin=(0, 0))
    with pytest.raises(RunError, match="object_type is 'cell'"):
        result_of().save(tmp_path / "a.geojson", object_type="cell")
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_is_said_before_any_work(tmp_path, monkeypatch):
    """A format whose library is not installed names the extra, in one line."""
    monkeypatch.setattr(saving, "find_spec", lambda name: None)
    for suffix, library, extra in ((".gpkg", "pyogrio", "geo"), (".parquet", "pyarrow", "parquet")):
        says = rf"{suffix} needs {library}, .*: pip install 'tilevision\[{extra}\]'"
        with pytest.raises(RunError, match=says):
            destination(tmp_path / f"a{suffix}")


_AS_QUPATH = (geojson.write, geojson.write_zipped, geojson.write_qupath_zipped)


@pytest.mark.parametrize("name", FORMATS)
def test_every_option_is_described(name):
    """Each format's writer says what its options do."""
    write = FORMATS[name].write
    for option in inspect.signature(write).parameters:
        told = geojson.write_qupath.__doc__ if write in _AS_QUPATH else write.__doc__
        assert re.search(rf"\b{option}\b.* : ", told) or option in ("result", "stream", "path")


def test_suffixes_are_read_in_any_case(tmp_path):
    """`.GeoJSON` and `.COCO.json` are what they look like."""
    assert _read(result_of().save(tmp_path / "a.GeoJSON"))["type"] == "FeatureCollection"
    assert "annotations" in _read(result_of().save(tmp_path / "a.COCO.json"))
    assert "detections" in _read(result_of().save(tmp_path / "a.b.json"))


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    """A missing folder, a file in its place, a folder as the file: each says what to do."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    for path, says in (
        (tmp_path / "nowhere" / "a.json", "no such folder; create it first"),
        (tmp_path / "file" / "a.json", "it is a file, not a folder"),
        (tmp_path / "folder.json", "it is a folder; give the name of a file"),
    ):
        with pytest.raises(RunError, match=says) as caught:
            destination(path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_one_clear_line(tmp_path):
    """A read-only folder is refused before any work."""
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="permission denied; choose another folder"):
        destination(tmp_path / "a.json")


def test_a_system_error_while_writing_is_one_clear_line(tmp_path):
    """What the system refuses (here a name too long) is a RunError, and leaves nothing."""
    with pytest.raises(RunError, match=r"^path is '/.*…x+\.json', which is no path \(File name"):
        result_of().save(tmp_path / f"{'x' * 300}.json")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """Files appear whole or not at all: what was there before stays, and no draft remains."""

    def break_off(result, stream):
        stream.write("half")
        raise OSError(28, "No space left on device")

    path = result_of().save(tmp_path / "out.csv")
    before = path.read_bytes()
    monkeypatch.setitem(exporting.FORMATS, "csv", Format(".csv", break_off))
    with pytest.raises(RunError, match=r"Cannot write .*out\.csv: No space left on device"):
        result_of().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_get_the_permissions_of_any_other(tmp_path):
    """A saved file is as readable as the user's umask says, not private."""
    other = tmp_path / "other"
    other.write_text("")
    assert result_of().save(tmp_path / "a.csv").stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("suffix", HOLDING)
def test_detections_are_written_one_by_one(tmp_path, suffix):
    """Text is written in a part of the memory that the detections take as objects.

    Tables are handed over whole, and take little more than the objects would.
    """
    n = 3_000
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 190, (n, 2))
    crowd = Findings(np.hstack([corner, corner + 4]), rng.random(n), ["a"] * n)
    result = result_of(crowd, metadata=_placed(suffix)).with_(merge="none")
    assert len(result.digest.counts) == 1  # merged and digested, so that only writing is measured
    _saved(result_of(metadata=_placed(suffix)), tmp_path, "warm", suffix)  # libraries imported
    tracemalloc.start()
    objects = list(detections(result))
    whole = tracemalloc.get_traced_memory()[0]
    del objects
    tracemalloc.reset_peak()
    _saved(result, tmp_path, "out", suffix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    window = 2**19 if suffix.endswith(".gz") else 0  # of the compressor, for a crowd of any size
    assert peak < window + whole * (1.75 if suffix in {".gpkg", ".fgb", ".parquet"} else 0.75)


_MEASURE = """
import re, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from exported import result_of
from tilevision.findings import Findings

def memory(what):  # getrusage would tell the peak of the process that started this one
    return int(re.search(what + r":\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024

formats = (".gpkg", ".parquet")  # what libraries write: Python's own memory is traced above
place = {"crs": "EPSG:32617", "transform": (0.5, 0.0, 5e5, 0.0, -0.5, 3.4e6)}
for suffix in formats:
    result_of(metadata=place).save(sys.argv[2] + "/warm" + suffix)
rng = np.random.default_rng(0)
n = 40_000
corner = rng.uniform(0, 190, (n, 2))
rings = list(corner[:, None] + rng.uniform(0, 4, (n, 40, 2)))
before = memory('VmRSS')
found = Findings(np.hstack([corner, corner + 4]), rng.random(n), ["a"] * n, polygons=rings)
del rings
result = result_of(found, metadata=place).with_(merge="none")
result.digest
held, peak = memory('VmRSS'), memory('VmHWM')
for suffix in formats:
    result.save(sys.argv[2] + "/out" + suffix)
print(held - before, memory('VmHWM') - peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells memory there")
def test_saving_a_crowd_does_not_double_the_memory(tmp_path):
    """The memory of a process that saves 40,000 outlines grows by a fraction of what they take."""
    words = [sys.executable, "-c", _MEASURE, str(Path(__file__).parent), str(tmp_path)]
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=240)
    held, grown = map(float, out.stdout.split())
    assert held > 50  # megabytes, or nothing is measured
    assert grown < held / 2
