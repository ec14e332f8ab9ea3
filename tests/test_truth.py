"""Truth is read as what it is, or refused by name; scores equal those of pycocotools."""

import contextlib
import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest
from exported import Picture
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tilevision.batch import Batch
from tilevision.errors import SourceError
from tilevision.evaluation import evaluate, read_truth
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.regions import read_region
from tilevision.result import MergeSettings, Result, RunFacts, TileRow

TILE = Tile(0, 0, Box(0, 0, 400, 300))
BOXES = [(10.0, 10.0, 40.0, 40.0), (100.0, 50.0, 140.0, 90.0)]


def result_of(findings: Findings, name: str = "plot_1.png", **facts) -> Result:
    rows, about = [TileRow(0.0, TILE, "done")], RunFacts("r", "complete", **facts)
    seen = [TileFindings(TILE, findings)]
    return Result(Picture(), rows, seen, MergeSettings("none"), about, name)


def trees(boxes=BOXES, scores=None) -> Findings:
    scores = [0.9] * len(boxes) if scores is None else scores
    return Findings(boxes, scores, ["tree"] * len(boxes))


def by_pycocotools(truth: dict, rows: list[dict]) -> tuple[float, float]:
    """Return AP50 and AP as pycocotools' own summary has them."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = json.loads(json.dumps(truth))
        known.createIndex()
        scored = COCOeval(known, known.loadRes(rows), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return float(scored.stats[1]), float(scored.stats[0])


def dataset(annotations: list[dict]) -> dict:
    return {
        "info": {},
        "images": [{"id": 1, "file_name": "plot_1.png"}],
        "categories": [{"id": 1, "name": "tree"}, {"id": 2, "name": "car"}],
        "annotations": annotations,
    }


def annotation(number, box, crowd=0, category=1) -> dict:
    x0, y0, x1, y1 = box
    side = [x1 - x0, y1 - y0]
    return {
        "id": number,
        "image_id": 1,
        "category_id": category,
        "bbox": [x0, y0, *side],
        "area": side[0] * side[1],
        "iscrowd": crowd,
    }


def test_what_lies_in_a_crowd_region_is_neither_right_nor_wrong() -> None:
    """Pycocotools 2.0.8: a detection within an ``iscrowd`` region is ignored."""
    truth = dataset([annotation(1, BOXES[0]), annotation(2, (90, 40, 200, 150), crowd=1)])
    seen = evaluate(result_of(trees(scores=[0.8, 0.9])), truth)
    assert (seen.precision, seen.recall, seen.f1) == (1, 1, 1)
    assert (seen.ap50, seen.ap) == pytest.approx((1, 1))
    assert (seen.n_found, seen.n_true) == (1, 1)


corner = st.integers(0, 60)
side = st.integers(5, 40)


@settings(max_examples=25, deadline=None)
@given(
    true=st.lists(
        st.tuples(corner, corner, side, side, st.sampled_from([0, 0, 0, 1]), st.integers(1, 2)),
        min_size=1,
        max_size=8,
    ),
    found=st.lists(
        st.tuples(corner, corner, side, side, st.integers(1, 99), st.integers(1, 2)),
        min_size=1,
        max_size=12,
    ),
)
def test_average_precision_is_that_of_pycocotools(true, found) -> None:
    """On the same boxes, crowd regions included; it gives -1 where there is no object at all."""
    rows = [
        annotation(i, (x, y, x + w, y + h), crowd, kind)
        for i, (x, y, w, h, crowd, kind) in enumerate(true, start=1)
    ]
    names = {1: "tree", 2: "car"}
    boxes = [(x, y, x + w, y + h) for x, y, w, h, _, _ in found]
    labels = [names[kind] for *_, kind in found]
    # No two scores alike: pycocotools orders those by place, Findings by box.
    scores = [(score + i / 100) / 100 for i, (*_, score, _) in enumerate(found)]
    listed = [
        {"image_id": 1, "category_id": kind, "bbox": [x, y, w, h], "score": score}
        for (x, y, w, h, _, kind), score in zip(found, scores, strict=True)
    ]
    expected = by_pycocotools(dataset(rows), listed)
    seen = evaluate(result_of(Findings(boxes, scores, labels)), dataset(rows))
    if min(expected) < 0:
        assert np.isnan(seen.ap50)
    else:
        assert (seen.ap50, seen.ap) == pytest.approx(expected, abs=1e-9)


def test_nothing_found_is_an_average_precision_of_zero() -> None:
    """Recall is 0 at every score; NaN would drop out of a mean and flatter a blind detector."""
    seen = evaluate(result_of(Findings()), trees())
    assert (seen.recall, seen.f1, seen.ap50, seen.ap) == (0, 0, 0, 0)


def test_only_the_truth_in_the_region_counts() -> None:
    """Found and true are of the same place: centres in the region, for both."""
    region = read_region((0, 0, 60, 300), Picture())
    seen = evaluate(result_of(trees(BOXES[:1]), region=region), trees())
    assert (seen.n_found, seen.n_true, seen.recall, seen.count_error) == (1, 1, 1, 0)


@pytest.mark.parametrize("column", ["image_path", "file_name", "filename", "image"])
def test_only_the_rows_of_the_image_are_its_truth(column) -> None:
    """A table of several images is read for this one, by name or stem; else it is refused."""
    rows = [("plot_1.png", *box, "tree") for box in BOXES] + [("b/plot_2.png", 0, 0, 9, 9, "tree")]
    table = pd.DataFrame(rows, columns=[column, "xmin", "ymin", "xmax", "ymax", "label"])
    assert evaluate(result_of(trees()), table).f1 == 1
    with pytest.raises(SourceError, match="describes 2 images"):
        evaluate(result_of(trees(), "plot_9.png"), table)


@pytest.mark.parametrize("ids", [[0, 1], ["a", "b"], [7, 7]])
def test_annotation_and_class_numbers_may_be_anything(ids) -> None:
    """Numbers from 0 (which pycocotools takes for no match), text, or the same twice."""
    truth = dataset([annotation(i, box) for i, box in zip(ids, BOXES, strict=True)])
    truth["categories"] = [{"id": "t", "name": "tree"}]
    for row in truth["annotations"]:
        row["category_id"] = "t"
    seen = evaluate(result_of(trees()), truth)
    assert (seen.f1, seen.ap) == pytest.approx((1, 1))


CVAT = (
    '<annotations><version>1.1</version><image id="0" name="plot_2.png" width="1" height="1">'
    '<box label="tree" xtl="0" ytl="0" xbr="9" ybr="9"/></image>'
    '<image id="1" name="plot_1.png" width="400" height="300">{}</image></annotations>'
)


def test_cvat_for_images_is_read(tmp_path) -> None:
    """Boxes (turned ones too), polygons, points, ellipses and masks of CVAT for images 1.1."""
    shapes = (
        '<box label="a" xtl="10" ytl="10" xbr="50" ybr="30" rotation="90"/>'
        '<polygon label="b" points="0,0;10,0;0,10"/>'
        '<points label="c" points="7,8"/>'
        '<ellipse label="d" cx="50" cy="60" rx="20" ry="10"/>'
        '<mask label="e" left="5" top="6" width="3" height="2" rle="1, 2, 1, 2"/>'
    )
    (tmp_path / "t.xml").write_text(CVAT.format(shapes))
    found = read_truth(tmp_path / "t.xml", "plot_1.png")
    boxes = {name: box.tolist() for name, box in zip(found.labels, found.boxes, strict=True)}
    assert boxes["a"] == pytest.approx([20, 0, 40, 40])
    assert boxes["b"] == [0, 0, 10, 10] and boxes["c"] == [7, 8, 7, 8]
    assert boxes["d"] == pytest.approx([30, 50, 70, 70])
    assert boxes["e"] == [6, 6, 8, 8]
    outlines = dict(zip(found.labels, found.polygons, strict=True))
    assert outlines["b"] is not None and outlines["a"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CVAT.format('<polyline label="a" points="0,0;1,1"/>'), "polyline"),
        ("<annotations><track/></annotations>", "tracks of a video"),
        ("<svg/>", "neither Pascal VOC"),
    ],
)
def test_xml_that_is_not_read_is_named(tmp_path, text, message) -> None:
    """No file with objects is read as an image without any."""
    (tmp_path / "t.xml").write_text(text)
    with pytest.raises(SourceError, match=message):
        read_truth(tmp_path / "t.xml", "plot_1.png")


def test_yolo_labels_are_shares_of_the_sides(tmp_path) -> None:
    """Boxes, with or without score, and corners; names are of ``data.yaml``, else the model's."""
    folder = tmp_path / "set"
    (folder / "labels").mkdir(parents=True)
    (folder / "data.yaml").write_text('names:\n  0: "tree"\n  1: car\n')
    lines = ["0 0.25 0.5 0.1 0.2", "1 0.25 0.5 0.1 0.2 0.9", "0 0 0 0.1 0 0 0.1"]
    (folder / "labels" / "plot_1.txt").write_text("\n".join(lines) + "\n")
    found = read_truth(folder, "plot_1.png", size=(400, 300))
    assert sorted(found.labels) == ["car", "tree", "tree"]
    assert [80, 120, 120, 180] in found.boxes.tolist()
    named = read_truth(folder / "labels" / "plot_1.txt", size=(400, 300), names=["x", "y"])
    assert sorted(named.labels) == ["car", "tree", "tree"]
    with pytest.raises(SourceError, match="size of the image"):
        read_truth(folder, "plot_1.png")


def test_label_studio_is_read_in_per_cent() -> None:
    """Tasks name their images; rectangles turn about their top left corner."""
    size = {"original_width": 400, "original_height": 300}
    value = {"x": 25, "y": 50, "width": 10, "height": 20, "rectanglelabels": ["tree"]}
    turned = value | {"rotation": 90, "rectanglelabels": ["car"]}
    result = [
        {"id": "1", "type": "rectanglelabels", "value": value} | size,
        {"id": "2", "type": "rectanglelabels", "value": turned} | size,
    ]
    tasks = [
        {"data": {"image": "/data/up/plot_1.png"}, "annotations": [{"result": result}]},
        {"data": {"image": "/data/up/plot_2.png"}, "annotations": []},
    ]
    found = read_truth(tasks, "plot_1.png")
    boxes = {name: box.tolist() for name, box in zip(found.labels, found.boxes, strict=True)}
    assert boxes["tree"] == pytest.approx([100, 150, 140, 210])
    assert boxes["car"] == pytest.approx([40, 150, 100, 190])


def test_compressed_truth_is_read(tmp_path) -> None:
    """What `save` compressed is truth: by its path, in a folder by the image's name."""
    result = result_of(trees())
    for suffix in (".geojson.gz", ".qupath.geojson.gz"):
        written = result.save(tmp_path / f"{suffix[1:3]}{suffix}")
        assert evaluate(result, written).f1 == 1
    folder = tmp_path / "truth"
    folder.mkdir()
    written.rename(folder / "plot_1.geojson.gz")
    assert evaluate(result, folder).f1 == 1


def test_compressed_truth_that_is_damaged_is_one_line(tmp_path) -> None:
    """It says what is damaged, and names the file."""
    path = tmp_path / "cut.geojson.gz"
    path.write_bytes(gzip.compress(b"{}" * 500)[:-9])
    with pytest.raises(SourceError, match=r"cut\.geojson\.gz.*compressed in it is damaged"):
        read_truth(path)


def test_a_mask_of_object_numbers_is_truth() -> None:
    """Each number is an object with its outline; bool patches are objects."""
    numbers = np.zeros((300, 400), np.uint16)
    numbers[10:20, 30:50], numbers[100:120, 30:40] = 7, 9
    for mask in (numbers, numbers > 0):
        found = read_truth(mask)
        assert sorted(found.boxes.tolist()) == [[30, 10, 50, 20], [30, 100, 40, 120]]
        assert all(shape is not None for shape in found.polygons)


def batch_of(**results) -> Batch:
    """Return a batch of images with these findings."""
    named = {f"{name}.png": result_of(found, f"{name}.png") for name, found in results.items()}
    return Batch([], {name: lambda one=one: one for name, one in named.items()}, {})


def test_a_batch_is_evaluated_per_image_and_in_all() -> None:
    """One COCO file of several images; AP is over all images, as pycocotools has it."""
    truth = dataset([annotation(1, BOXES[0]), annotation(2, BOXES[1]) | {"image_id": 2}])
    truth["images"].append({"id": 2, "file_name": "plot_2.png"})
    found = {"plot_1": trees(scores=[0.9, 0.6]), "plot_2": trees(scores=[0.8, 0.7])}
    listed = [
        {"image_id": i, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": float(score)}
        for i, one in enumerate(found.values(), start=1)
        for (x0, y0, x1, y1), score in zip(one.boxes.tolist(), one.scores, strict=True)
    ]
    seen = evaluate(batch_of(**found), truth)
    assert seen.per_image["n_true"].tolist() == [1, 1]
    assert (seen.n_found, seen.n_true, seen.precision, seen.recall) == (4, 2, 0.5, 1)
    assert (seen.ap50, seen.ap) == pytest.approx(by_pycocotools(truth, listed))
    for row, number in zip(seen.per_image.itertuples(), (1, 2), strict=True):
        of_one = [
            [r for r in rows if r["image_id"] == number] for rows in (truth["annotations"], listed)
        ]
        alone = by_pycocotools(truth | {"annotations": of_one[0]}, of_one[1])
        assert (row.ap50, row.ap) == pytest.approx(alone)


def test_a_batch_of_many_images_is_looked_up_in_a_coco_file_on_disk(tmp_path) -> None:
    """Images are found by name or stem, those that the file lists without objects have none."""
    truth = dataset([annotation(1, BOXES[0]), annotation(2, BOXES[1]) | {"image_id": 2}])
    truth["images"] = [
        {"id": 1, "file_name": "train/a.jpg"},
        {"id": 2, "file_name": "train/b.jpg"},
        {"id": 3, "file_name": "c.png"},
    ]
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    batch = batch_of(a=trees(BOXES[:1]), b=trees(), c=trees(), d=trees())
    seen = evaluate(batch, tmp_path / "instances.json")
    assert seen.per_image["image"].tolist() == ["a.png", "b.png", "c.png"]
    assert seen.per_image["n_true"].tolist() == [1, 1, 0]
    assert seen.per_image["n_found"].tolist() == [1, 2, 2]
    assert "No truth for 1 images: d.png" in seen.coverage
    truth["images"].append({"id": 4, "file_name": "test/a.jpg"})
    with pytest.raises(SourceError, match="2 of them are named"):
        evaluate(batch_of(a=trees()), truth)


def test_a_damaged_coco_file_of_a_batch_is_one_line() -> None:
    """Images without a number are refused by what is missing."""
    truth = dataset([annotation(1, BOXES[0])]) | {"images": [{"file_name": "a.png"}, {"id": 2}]}
    with pytest.raises(SourceError, match="is missing"):
        evaluate(batch_of(a=trees()), truth)


def test_images_of_a_batch_without_truth_are_left_out_and_named() -> None:
    """Truth by name of image, for some of them; none at all is an error."""
    batch = batch_of(a=trees(), b=trees())
    seen = evaluate(batch, {"a.png": trees()})
    assert seen.f1 == 1 and "No truth for 1 images: b.png" in seen.coverage
    table = pd.DataFrame([("z.png", 0, 0, 1, 1)], columns=["image", "xmin", "ymin", "xmax", "ymax"])
    with pytest.raises(SourceError, match="names none"):
        evaluate(batch, table)


def panoptic_by_pixels(true: np.ndarray, found: np.ndarray, classes: tuple[dict, dict]) -> tuple:
    """Return PQ, SQ and RQ of two maps of segment numbers, as their definition counts pixels."""
    sums: dict[str, list[float]] = {}
    taken: set[tuple[int, int]] = set()
    for i, name in classes[0].items():
        for j, other in classes[1].items():
            either = ((true == i) | (found == j)).sum()
            alike = ((true == i) & (found == j)).sum() / either
            if name == other and alike > 0.5:
                sums.setdefault(name, [0, 0, 0])[0] += alike
                sums[name][1] += 1
                taken |= {(0, i), (1, j)}
    for side in (0, 1):
        for number, name in classes[side].items():
            if (side, number) not in taken:
                sums.setdefault(name, [0, 0, 0])[2] += 0.5
    rows = [(a / (n + lone), a / max(n, 1), n / (n + lone)) for a, n, lone in sums.values()]
    return tuple(np.mean(rows, axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_is_that_of_its_definition(seed) -> None:
    """Kirillov et al. 2019: sum of IoU over TP + FP/2 + FN/2 at IoU above 0.5, mean of classes."""
    rng = np.random.default_rng(seed)
    true, found = np.zeros((300, 400), int), np.zeros((300, 400), int)
    classes: tuple[dict, dict] = ({}, {})
    for number in range(1, 13):
        y, x = 70 * ((number - 1) // 5) + 5, 75 * ((number - 1) % 5) + 5
        height, width = rng.integers(20, 55, 2)
        name = "tree" if number % 3 else "car"
        true[y : y + height, x : x + width] = number
        true[y : y + 4, x : x + 4] = 0  # no upright box
        dy, dx = rng.integers(0, 14, 2)
        found[y + dy : y + dy + height, x + dx : x + dx + width] = number
        classes[0][number] = name
        classes[1][number] = "car" if number == 5 else name
    given = [read_truth(one) for one in (true, found)]
    named = []
    for side, (one, values) in enumerate(zip(given, (true, found), strict=True)):
        middle = ((one.boxes[:, :2] + one.boxes[:, 2:]) / 2).astype(int)
        labels = [classes[side][int(values[y, x])] for x, y in middle]
        named.append(Findings(**one.columns | {"labels": labels}))
    scored = Findings(**named[1].columns | {"scores": np.full(len(named[1]), 0.5)})
    seen = evaluate(result_of(scored), named[0])
    assert (seen.pq, seen.sq, seen.rq) == pytest.approx(panoptic_by_pixels(true, found, classes))
    assert 0 < seen.pq < 1


def test_panoptic_quality_leaves_crowd_regions_out() -> None:
    """A detection that mostly lies in a crowd region is neither right nor wrong."""
    crowd = annotation(2, (200, 100, 300, 200)) | {"iscrowd": 1}
    found = trees([BOXES[0], (210, 110, 240, 140)])
    seen = evaluate(result_of(found), dataset([annotation(1, BOXES[0]), crowd]))
    assert (seen.pq, seen.sq, seen.rq) == (1, 1, 1)
    assert evaluate(result_of(found), dataset([annotation(1, BOXES[0])])).rq == pytest.approx(2 / 3)


def test_outlines_of_a_table_stay_with_their_rows():
    """A saved result is its own truth, whatever order its rows have beside that of the boxes."""
    corner = np.array([(0, 0), (20, 0), (0, 20)], dtype=float)
    places = [(60.0, 10.0), (10.0, 10.0), (110.0, 10.0)]
    boxes = [(x, y, x + 20, y + 20) for x, y in places]
    found = Findings(boxes, [0.9, 0.8, 0.7], polygons=[corner + place for place in places])
    table = result_of(found).to_dataframe(geometry="wkb")
    read = read_truth(table)
    assert [one[0][0].min(axis=0).tolist() for one in read.polygons] == read.boxes[:, :2].tolist()
    assert evaluate(result_of(found), table).f1 == 1
