"""Exports in the hands of those who read them: positions, classes and scores arrive."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import yaml
from exported import DIAMOND, RING, SIZE, partial, result_of
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tilevision.errors import RunError
from tilevision.evaluation import read_truth
from tilevision.exporting.detectionrows import turned_box
from tilevision.findings import Findings

HOSTILE = "<b>&amp;\"'</name>\x00\x1b]]>\ud800 😀"


def _read(path):
    return json.loads(path.read_text("utf-8"))


def _turned(x, y, width, height, degrees):
    """Return the corners of a box turned clockwise (y down) about its centre."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    halves = [(-width / 2, -height / 2), (width / 2, -height / 2)]
    halves += [(-a, -b) for a, b in halves]
    return [[x + a * c - b * s, y + a * s + b * c] for a, b in halves]


def _same_corners(a, b):
    return all(min(math.dist(p, q) for q in b) < 0.01 for p in a)


def test_pycocotools_reads_the_dataset(tmp_path):
    """COCO knows image, classes and boxes; the mask of an outline leaves its hole out."""
    coco = COCO(result_of().save(tmp_path / "a.coco.json"))
    assert coco.loadImgs(1)[0]["width"] == SIZE[0]
    names = {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())}
    assert min(names) == 1  # 0 is the background to some
    first, turned = coco.loadAnns([1, 2])
    assert names[first["category_id"]] == "nucleus, big"
    assert first["bbox"] == [10, 10, 70, 50]
    mask = coco.annToMask(first)
    assert mask[40, 12]
    assert not mask[25, 25]
    assert mask[15, 75]
    assert mask.sum() == pytest.approx(first["area"], rel=0.02)
    assert rle.area(coco.annToRLE(turned)) == pytest.approx(50, abs=8)
    text = coco.loadAnns([4])[0]["attributes"]["text"]
    assert text == "Ünïcode"


def test_pycocotools_scores_the_results_list(tmp_path, capsys):
    """Results of a dataset against itself are all right: same image, classes, boxes."""
    boxes = [[10, 10, 60, 60], [100, 100, 160.5, 150.25]]
    result = result_of(Findings(boxes, [0.9, 0.8], ["b", "a"], polygons=[RING, None]))
    truth = COCO(result.save(tmp_path / "truth.coco.json"))
    for kind in ("bbox", "segm"):
        found = truth.loadRes(str(result.save(tmp_path / "found.coco-results.json")))
        for row in truth.dataset["annotations"]:  # a dataset of boxes has no masks to compare
            x, y, w, h = row["bbox"]
            row["segmentation"] = row["segmentation"] or [[x, y, x + w, y, x + w, y + h, x, y + h]]
        score = COCOeval(truth, found, kind)
        score.evaluate()
        score.accumulate()
        score.summarize()
        assert score.stats[0] == pytest.approx(1)
    capsys.readouterr()


def test_results_take_the_numbers_of_another_dataset(tmp_path):
    """Image and class numbers are the caller's where given; a class without one is refused."""
    result = result_of().with_(classes=["ship"])
    path = tmp_path / "a.coco-results.json"
    (row,) = _read(result.save(path, image_id=7, category_ids={"ship": 9, "car": 3}))
    assert (row["image_id"], row["category_id"], row["bbox"]) == (7, 9, [120, 20, 10, 10])
    with pytest.raises(RunError, match="category_ids lacks the class 'ship'"):
        result.save(path, category_ids={"car": 3})


def test_results_need_scores(tmp_path):
    """A detection without a score is refused unless one is given: nobody invents it."""
    path = tmp_path / "a.coco-results.json"
    with pytest.raises(RunError, match="1 detections have no score"):
        result_of().save(path)
    assert _read(result_of().save(path, score=0.25))[-1]["score"] == 0.25


def test_parquet_is_a_table_with_shapes(tmp_path):
    """Pandas reads columns and nulls, geopandas the shapes, and no CRS is claimed of pixels."""
    path = partial(metadata={"mpp": (0.5, 0.5)}).save(tmp_path / "a.parquet")
    table, shapes = pd.read_parquet(path), geopandas.read_parquet(path)
    assert table["label"].tolist()[0] == "nucleus, big"
    assert table["score"].isna().tolist() == [False, False, False, True]
    assert table["area_um2"].tolist()[0] == 625
    assert json.loads(table["attributes"][0])["stain"] == "HE"
    assert shapes.crs is None
    assert shapes.geometry.iloc[1].equals(shapely.Polygon(DIAMOND))
    assert shapes.geometry.iloc[0].area == 2500
    said = json.loads(pq.read_metadata(path).metadata[b"tilevision"])
    assert said["coordinates_in"].startswith("pixels")
    assert said["not_analysed"] == [{"tile": "r001c000", "box": [0, 150, 400, 300]}]


def test_parquet_without_detections_is_a_table(tmp_path):
    """Nothing found is a table with its columns."""
    table = pd.read_parquet(result_of(Findings()).save(tmp_path / "a.parquet"))
    assert table.empty
    assert {"xmin", "label", "score", "geometry"} <= set(table.columns)


def test_yolo_is_what_ultralytics_reads(tmp_path):
    """Five columns a line, shares of the sides, class numbers into the names of data.yaml."""
    folder = result_of().save(tmp_path / "a.yolo")
    names = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))["names"]
    rows = np.loadtxt(folder / "labels" / "scan.txt")
    assert [names[int(c)] for c in rows[:, 0]] == ["nucleus, big", "ship", "point", 'say "µ"\n=1']
    centre, size = rows[:, 1:3] * SIZE, rows[:, 3:5] * SIZE
    expected = result_of().findings.boxes
    np.testing.assert_allclose(
        np.hstack([centre - size / 2, centre + size / 2]), expected, atol=0.01
    )


def test_yolo_obb_keeps_the_corners(tmp_path):
    """Nine columns a line: four corners, of the box where nothing was turned."""
    folder = result_of().save(tmp_path / "a", format="yolo-obb")
    rows = np.loadtxt(folder / "labels" / "scan.txt")
    corners = rows[:, 1:].reshape(-1, 4, 2) * SIZE
    assert _same_corners(corners[1], DIAMOND)
    assert _same_corners(corners[0], [[10, 10], [80, 10], [80, 60], [10, 60]])


def test_yolo_cuts_what_lies_beyond_the_image(tmp_path):
    """No share is below 0 or above 1, which makes Ultralytics throw the picture away."""
    found = Findings([[-5, 280, 20, 310]], [0.9], ["a"])
    (row,) = np.loadtxt(result_of(found).save(tmp_path / "a.yolo") / "labels" / "scan.txt", ndmin=2)
    np.testing.assert_allclose(row[1:], [0.025, 290 / 300, 0.05, 20 / 300], atol=1e-8)


@pytest.mark.slow
def test_ultralytics_reads_yolo(tmp_path, monkeypatch):
    """The dataset reader of Ultralytics finds the boxes and the turned ones."""
    pytest.importorskip("ultralytics", reason="ultralytics is no test dependency: too heavy")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    from PIL import Image
    from ultralytics.data.utils import verify_image_label

    for name, wide in (("yolo", 4), ("yolo-obb", 8)):
        folder = result_of().save(tmp_path / name, format=name)
        (folder / "images").mkdir()
        Image.new("RGB", SIZE).save(folder / "images" / "scan.tif")
        labels = str(folder / "labels" / "scan.txt")
        read = verify_image_label((str(folder / "images/scan.tif"), labels, "", False, 4, 0, 0, 0))
        assert read[9] == ""
        assert len(read[1]) == 4
        assert len(read[3]) == (4 if wide == 8 else 0)
        again = result_of().save(tmp_path / name, format=name)
        assert (again / "images" / "scan.tif").exists()  # the user's picture stays


def test_voc_is_truth_again(tmp_path):
    """VOC boxes and names are read back to 0.01 px; the partial result says so."""
    path = partial().save(tmp_path / "a.voc.xml")
    back, mine = read_truth(tmp_path / "a.voc.xml"), partial().findings
    order = np.argsort(back.labels.astype(str)), np.argsort(mine.labels.astype(str))
    assert back.labels[order[0]].tolist() == mine.labels[order[1]].tolist()
    np.testing.assert_allclose(back.boxes[order[0]], mine.boxes[order[1]], atol=0.01)
    tree = ElementTree.parse(path).getroot()
    assert "33% of the area" in tree.findtext("source/annotation")
    assert tree.findtext("size/width") == "400"
    assert [o.findtext("confidence") for o in tree.findall("object")][:2] == ["0.9", "0.8"]


def test_cvat_has_each_kind_of_shape(tmp_path):
    """Boxes, turned boxes, polygons and points of CVAT 1.1, at their places, with attributes."""
    tree = ElementTree.parse(result_of().save(tmp_path / "a.cvat.xml")).getroot()
    assert tree.findtext("version") == "1.1"
    labels = [label.findtext("name") for label in tree.iter("label")]
    (image,) = tree.findall("image")
    assert [image.get(name) for name in ("name", "width", "height")] == ["scan.tif", "400", "300"]
    assert {shape.get("label") for shape in image} <= set(labels)
    outline, part = image.findall("polygon")
    assert outline.get("group_id") == part.get("group_id")
    areas = [shapely.Polygon(_cvat_points(p)).area for p in (outline, part)]
    assert areas == [2400, 100]
    turned, plain = image.findall("box")
    assert _same_corners(_turned(*_cvat_box(turned)), DIAMOND)
    assert _cvat_box(plain) == pytest.approx((205.065, 102, 10.13, 4, 0))
    assert _cvat_points(image.find("points")) == [[5, 5]]
    assert outline.find("attribute[@name='score']").text == "0.9"
    assert plain.find("attribute[@name='text']").text == "Ünïcode"


def _cvat_points(element):
    return [list(map(float, pair.split(","))) for pair in element.get("points").split(";")]


def _cvat_box(element):
    x0, y0, x1, y1 = (float(element.get(name)) for name in ("xtl", "ytl", "xbr", "ybr"))
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, float(element.get("rotation", 0))


def test_label_studio_gets_a_task_with_predictions(tmp_path):
    """Regions in per cent, turned about their first corner, with type, control and label."""
    path = partial().save(tmp_path / "a.label-studio.json", image="/data/scan.png", from_name="tag")
    (task,) = _read(path)
    assert task["data"] == {"image": "/data/scan.png"}
    assert "33% of the area" in task["meta"]["coverage"]
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "m"
    outline, part, turned, point, plain = prediction["result"]
    assert len({row["id"] for row in prediction["result"]}) == 5
    for row in prediction["result"]:
        assert row["to_name"] == "image"
        assert row["type"] in row["value"]
        assert (row["original_width"], row["original_height"]) == SIZE
    assert [outline["from_name"], turned["from_name"]] == ["tag-polygon", "tag"]
    ring = np.array(outline["value"]["points"]) / 100 * SIZE
    assert shapely.Polygon(ring).area == pytest.approx(2400, abs=0.01)
    assert shapely.Polygon(np.array(part["value"]["points"]) / 100 * SIZE).area == pytest.approx(
        100
    )
    assert _same_corners(_studio_corners(turned["value"]), DIAMOND)
    assert _same_corners(
        _studio_corners(plain["value"]), [[200, 100], [210.13, 100], [210.13, 104], [200, 104]]
    )
    assert [point["value"]["x"], point["value"]["y"]] == pytest.approx([1.25, 100 * 5 / 300])
    assert [outline["score"], plain["meta"]] == [0.9, {"text": ["Ünïcode"]}]


def _studio_corners(value):
    """Return the corners of a region as Label Studio draws it: turned about x, y."""
    x, y = value["x"] / 100 * SIZE[0], value["y"] / 100 * SIZE[1]
    w, h = value["width"] / 100 * SIZE[0], value["height"] / 100 * SIZE[1]
    c, s = math.cos(math.radians(value["rotation"])), math.sin(math.radians(value["rotation"]))
    return [[x + a * c - b * s, y + a * s + b * c] for a, b in ((0, 0), (w, 0), (w, h), (0, h))]


@given(
    *[st.floats(0, 1000)] * 2,
    *[st.floats(1, 300)] * 2,
    st.floats(0, 360, exclude_max=True),
    st.booleans(),
    st.integers(0, 3),
)
def test_a_turned_box_is_found_from_its_corners(x, y, width, height, degrees, mirrored, first):
    """Centre, sides and angle of any turned box give its corners again, however they are listed."""
    corners = _turned(x, y, width, height, degrees)
    listed = corners[first:] + corners[:first]
    box = turned_box(listed[::-1] if mirrored else listed)
    assert 0 <= box[4] <= 360
    assert _same_corners(_turned(*box), corners)


@pytest.mark.parametrize("suffix", [".voc.xml", ".cvat.xml"])
def test_words_of_a_model_cannot_break_xml(tmp_path, suffix):
    """Labels and texts with markup, quotes and forbidden characters stay text."""
    found = Findings([[1, 1, 9, 9]], [0.5], [HOSTILE], texts=[HOSTILE])
    tree = ElementTree.parse(result_of(found).save(tmp_path / f"a{suffix}")).getroot()
    (name,) = {e.text for e in tree.iter("name") if e.text and e.text.startswith("<b>")}
    assert name == "<b>&amp;\"'</name>\ufffd\ufffd]]>\ufffd 😀"


@pytest.mark.parametrize("suffix", [".json", ".geojson", ".coco.json", ".csv", ".yolo"])
def test_words_of_a_model_cannot_break_text(tmp_path, suffix):
    """The same words leave JSON, CSV and YAML readable."""
    found = Findings([[1, 1, 9, 9]], [0.5], [HOSTILE])
    path = result_of(found).save(tmp_path / f"a{suffix}")
    if suffix == ".yolo":
        (name,) = yaml.safe_load((path / "data.yaml").read_text("utf-8"))["names"].values()
        assert name.endswith("? 😀")
    elif suffix == ".csv":
        assert pd.read_csv(path)["label"][0].startswith("<b>")
    else:
        assert "😀" in json.dumps(_read(path), ensure_ascii=False)


@pytest.mark.parametrize("label", ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_runs_no_label(tmp_path, label):
    """Labels and texts that start like a formula get an apostrophe, and are truth again."""
    found = Findings([[1, 1, 9, 9]], [0.5], [label], texts=[label])
    path = result_of(found).save(tmp_path / "a.csv")
    table = pd.read_csv(path)
    assert table["label"][0] == table["text"][0] == f"'{label}"
    assert read_truth(path).labels.tolist() == [label]
    bare = pd.read_csv(result_of(found).save(tmp_path / "b.csv", guard=False), dtype=str)
    assert bare["label"][0] == label


def test_supervision_gets_what_it_knows():
    """Boxes, classes, scores with NaN, corners and what is missing, in supervision's own class."""
    pytest.importorskip("supervision", reason="supervision is no test dependency: too heavy")
    found = partial().to_supervision()
    np.testing.assert_array_equal(found.xyxy, partial().findings.boxes)
    assert found.data["class_name"].tolist()[:2] == ["nucleus, big", "ship"]
    assert np.isnan(found.confidence).tolist() == [False, False, False, True]
    assert found.data["xyxyxyxy"][1].tolist() == DIAMOND
    assert found.metadata["complete"] is False
    assert len(found[found.confidence > 0.85]) == 1
    assert result_of(Findings()).to_supervision().is_empty()


@pytest.mark.parametrize("name", ["supervision", "fiftyone"])
def test_a_library_that_is_not_there_is_one_line(monkeypatch, name):
    """Handing over to a library that is missing says which, and what to save instead."""
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(RunError, match=f"{name} is not installed: pip install {name}; or save"):
        getattr(result_of(), f"to_{name}")()


def test_fiftyone_gets_a_sample():
    """Boxes and outlines as shares of the sides, in FiftyOne's own classes."""
    pytest.importorskip("fiftyone", reason="fiftyone is no test dependency: it brings a database")
    sample = partial().to_fiftyone("scan.tif")
    assert sample["detections"].detections[0].bounding_box == pytest.approx(
        [0.025, 1 / 30, 0.175, 1 / 6]
    )
    assert len(sample["outlines"].polylines) == 2
