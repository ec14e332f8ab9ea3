"""Evaluation: truth from every format, scores by hand, and what two results disagree on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scenes
from matplotlib.figure import Figure

from tilevision.analysis.account import RunFacts, TileRow
from tilevision.errors import RunError, SourceError
from tilevision.evaluation import compare, evaluate, read_truth
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Grid
from tilevision.result import Result
from tilevision.seams import MergeSettings
from tilevision.sources import open_source

BOXES = [[10.0, 10, 30, 40], [50.0, 60, 90, 80]]
LABELS = ["car", "tree"]


def coco(images: int = 1) -> dict[str, object]:
    """Return BOXES as COCO, in the last of `images`."""
    return {
        "images": [{"id": i, "file_name": f"scene{i}.png"} for i in range(images)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "tree"}],
        "annotations": [
            {"image_id": images - 1, "category_id": 1, "bbox": [10, 10, 20, 30]},
            {"image_id": images - 1, "category_id": 2, "bbox": [50, 60, 40, 20], "iscrowd": 0},
            {"image_id": images - 1, "category_id": 2, "bbox": [0, 0, 100, 100], "iscrowd": 1},
        ],
    }


def voc() -> str:
    """Return BOXES as Pascal VOC."""
    rows = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for (x0, y0, x1, y1), label in zip(BOXES, LABELS, strict=True)
    )
    return f"<annotation>{rows}</annotation>"


def geojson() -> dict[str, object]:
    """Return BOXES as GeoJSON, named once plainly and once as QuPath does."""
    names = [{"label": "car"}, {"classification": {"name": "tree"}}]
    features = [
        {
            "type": "Feature",
            "properties": name,
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
            },
        }
        for (x0, y0, x1, y1), name in zip(BOXES, names, strict=True)
    ]
    return {"type": "FeatureCollection", "features": features}


def table() -> pd.DataFrame:
    """Return BOXES as a table."""
    return pd.DataFrame(BOXES, columns=["xmin", "ymin", "xmax", "ymax"]).assign(label=LABELS)


def test_truth_is_read_from_every_format(tmp_path: Path) -> None:
    """COCO, GeoJSON, VOC, CSV, a table and findings say the same."""
    (tmp_path / "a.json").write_text(json.dumps(coco()))
    (tmp_path / "b.geojson").write_text(json.dumps(geojson()))
    (tmp_path / "c.xml").write_text(voc())
    table().to_csv(tmp_path / "d.csv", index=False)
    given = [coco(), geojson(), table(), Findings(BOXES, labels=LABELS), *tmp_path.iterdir()]
    assert len(given) == 8
    for truth in given:
        read = read_truth(truth)
        assert read.boxes.tolist() == BOXES
        assert read.labels.tolist() == LABELS


def test_the_image_is_chosen_by_name() -> None:
    """A COCO file of several images needs the image's name, with any folder and suffix."""
    assert len(read_truth(coco(3), "/data/scene2.tif")) == 2
    assert len(read_truth(coco(3), "scene0.png")) == 0
    with pytest.raises(SourceError, match="3 images"):
        read_truth(coco(3), "other.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "There is no file"),
        ("a.docx", "x", "no known kind of truth"),
        ("a.json", "{", "cannot be read as truth"),
        ("a.json", "{}", "neither COCO"),
        ("a.csv", "a,b\n1,2\n", "lacks the column xmin"),
        ("a.xml", "<annotation><object/></annotation>", "an object without bndbox"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', "XML entities"),
    ],
)
def test_bad_truth_is_one_line(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    """A truth that is missing, unknown, broken or hostile says which and what to do."""
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message) as caught:
        read_truth(tmp_path / name)
    assert "\n" not in str(caught.value)


def result_of(found: Findings, size: tuple[int, int] = (200, 100)) -> Result:
    """Return a result of one row of two tiles without overlap, holding `found`."""
    tiles = Grid(rows=1, cols=2, overlap=0).tiles(size)
    middle = (found.boxes[:, 0] + found.boxes[:, 2]) / 2
    seen = []
    for tile in tiles:
        mine = found.take((middle >= tile.box.x0) & (middle < tile.box.x1))
        seen.append(TileFindings(tile, mine.mapped((1, 1), (-tile.box.x0, -tile.box.y0))))
    source = open_source(np.zeros((size[1], size[0], 3), np.uint8))
    facts = RunFacts("r1", "complete")
    rows = [
        TileRow(0.0, tile, "done", n_findings=len(one.findings))
        for tile, one in zip(tiles, seen, strict=True)
    ]
    return Result(source, rows, seen, MergeSettings("none"), facts, "scene0.png")


FOUND = Findings(
    [[10, 10, 30, 38], [12, 10, 30, 40], [51, 60, 90, 80], [150, 10, 170, 30]],
    [0.9, 0.5, 0.8, 0.4],
    ["car", "car", "tree", "tree"],
)


def test_scores_are_what_one_counts_by_hand() -> None:
    """Two of four are right and none is missed: precision a half, recall one."""
    score = evaluate(result_of(FOUND), coco())
    assert (score.n_true, score.n_found, score.n_matched) == (2, 4, 2)
    assert (score.precision, score.recall) == (0.5, 1.0)
    assert math.isclose(score.f1, 2 / 3)
    assert score.count_error == 1.0
    assert score.per_class.set_index("label").loc["car", "precision"] == 0.5
    assert score.by_distance["n_true"].sum() == 2
    assert score.by_distance["n_found"].sum() == 4


def test_average_precision_is_by_score() -> None:
    """The right ones come first, so AP50 is 1; at higher IoU it is less."""
    pytest.importorskip("pycocotools")
    score = evaluate(result_of(FOUND), coco())
    assert math.isclose(score.ap50, 1.0)
    assert 0.6 < score.ap < 1.0


@pytest.mark.slow
def test_more_than_a_hundred_objects_count_in_average_precision() -> None:
    """No limit of detections an image bends the AP of a crowd."""
    pytest.importorskip("pycocotools")
    scene = scenes.small(1)
    found = Findings(scene.boxes, np.linspace(0.1, 0.9, len(scene.boxes)), scene.labels)
    score = evaluate(result_of(found, scene.size), Findings(scene.boxes, labels=scene.labels))
    assert len(found) > 300
    assert (score.ap50, score.f1) == (1.0, 1.0)


def test_without_scores_there_is_no_average_precision() -> None:
    """AP needs a ranking; without one it is NaN, and the rest still stands."""
    score = evaluate(result_of(Findings(BOXES, labels=LABELS)), coco())
    assert math.isnan(score.ap)
    assert score.f1 == 1.0


def test_classes_count_unless_agnostic() -> None:
    """A right box with a wrong label is wrong, unless labels do not matter."""
    swapped = result_of(Findings(BOXES, labels=LABELS[::-1]))
    assert evaluate(swapped, coco()).f1 == 0
    assert evaluate(swapped, coco(), class_agnostic=True).f1 == 1


def test_labels_that_never_match_are_named() -> None:
    """A score of 0 is then no detector's fault; where one class is shared, nothing is said."""
    found = Findings(BOXES, labels=["object"] * len(BOXES))
    trees = Findings(BOXES, labels=["Tree"] * len(BOXES))
    said = str(evaluate(result_of(found), trees))
    assert "No class is in both: found 'object', truth has 'Tree'." in said
    for score in (
        evaluate(result_of(found), trees, class_agnostic=True),
        evaluate(result_of(Findings()), trees),
        evaluate(result_of(found), found),
    ):
        assert "No class" not in str(score)


def test_a_truth_that_is_not_of_this_image_is_said() -> None:
    """A score of nothing names its cause: no truth, truth elsewhere, truth in degrees."""
    boxes = np.asarray(BOXES, float)
    cases = (
        (Findings(), "no true object where the image was analysed"),
        (Findings(boxes + 5000, labels=LABELS), "2 of 2 true objects lie outside their image (x 5"),
        (Findings([boxes[0], boxes[1] + 5000], labels=LABELS), "1 of 2 true objects lie outside"),
        (Findings(boxes / 1000 + 5, labels=LABELS), "smaller than a pixel"),
    )
    for truth, said in cases:
        score = evaluate(result_of(FOUND), truth)
        assert said in str(score)
        assert said in score._repr_html_()
        assert "nan%" not in str(score)
    well = evaluate(result_of(FOUND), Findings(boxes, labels=LABELS))
    assert str(well).endswith(well.coverage)


def test_compare_takes_results_only() -> None:
    """Anything else is named, with what to do."""
    with pytest.raises(RunError, match=r"b is a Findings; give what tv.analyze returned"):
        compare(result_of(FOUND), FOUND)


def test_compare_says_what_only_one_found() -> None:
    """Two results share what overlaps in class, and the rest is told apart by side."""
    a, b = result_of(FOUND), result_of(Findings(BOXES, labels=LABELS))
    both = compare(a, b)
    assert (len(both.both_a), len(both.only_a), len(both.only_b)) == (2, 2, 0)
    assert both.agreement == 0.5
    assert both.to_dataframe()["in"].value_counts().to_dict() == {"both": 2, "only a": 2}
    assert both.plot().axes[0].get_legend() is not None
    assert compare(a, a).agreement == 1


def test_a_comparison_prints_as_a_table() -> None:
    """Counts by class and for all, in text and in a notebook, where labels stay text."""
    hostile = "<script>x</script>"
    found = Findings(FOUND.boxes, FOUND.scores, [hostile, hostile, "tree", "tree"])
    both = compare(result_of(found), result_of(found.take([0, 2])))
    table = both.to_frame()
    assert table.to_dict("list") == {
        "label": [hostile, "tree", "all"],
        "n_a": [2, 2, 4],
        "n_b": [1, 1, 2],
        "both": [1, 1, 2],
        "only_a": [1, 1, 2],
        "only_b": [0, 0, 0],
        "agreement": [0.5, 0.5, 0.5],
    }
    assert repr(both).splitlines()[-1].split() == ["all", "4", "2", "2", "2", "0", "0.500"]
    html = both._repr_html_()
    assert "<td>0.500</td>" in html.replace("<bdi>", "").replace("</bdi>", "")
    assert "<script>" not in html
    many = Findings(np.repeat([BOXES[0]], 60, axis=0), labels=[f"c{i}" for i in range(60)])
    told = repr(compare(result_of(many), result_of(many)))
    assert "40 more classes" in told and len(told.splitlines()) < 26
    assert repr(compare(result_of(Findings()), result_of(Findings()))).endswith("–")


def test_a_comparison_says_what_makes_its_numbers_doubtful() -> None:
    """Labels that never match, tiles that were not analysed, regions that differ: all are said."""
    a, b = result_of(FOUND), result_of(Findings(FOUND.boxes, labels=["object"] * 4))
    said = str(compare(a, b))
    assert "No class is in both: A has 'car', 'tree', B has 'object'." in said
    assert "\n" not in said
    many = Findings(np.repeat([BOXES[0]], 31, axis=0), labels=[f"class_{i}" for i in range(31)])
    said = str(compare(a, result_of(many)))
    assert "A has 'car', 'tree', B has 'class_" in said
    assert "' and 26 more." in said
    assert "No class" not in str(compare(a, a))
    cut = compare(a, a.with_(region=(0, 0, 100, 100)))
    assert "A is of the whole image, B of the region" in str(cut)
    rows = [TileRow(0.0, row.tile, "pending") for row in a.rows[1:]]
    part = Result(a.source, [a.rows[0], *rows], a.tile_findings[:1], a.settings, a.facts, a.name)
    assert "B is INCOMPLETE: 1 of 2 tiles" in str(compare(a, part))


def test_what_is_compared_is_named_by_what_differs() -> None:
    """Two runs of one image go by model, grid, setting or run, whichever tells them apart."""
    a = result_of(FOUND)
    assert compare(a, a.with_(min_score=0.7)).name_b == "min_score 0.7"
    facts = RunFacts("r2", "complete", model="other")
    b = Result(a.source, a.rows, a.tile_findings, a.settings, facts, a.name)
    c = Result(a.source, a.rows, a.tile_findings, a.settings, RunFacts("r3", "complete"), a.name)
    assert (compare(b, a).name_a, compare(a, c).name_b) == ("run r2", "run r3")


def test_an_evaluation_prints_as_a_table_and_tells_classes_apart() -> None:
    """What was taken for what, false alarms and misses add up to all that is true and found."""
    found = Findings(BOXES, [0.9, 0.8], ["tree", "tree"])
    truth = Findings(BOXES, labels=LABELS)
    score = evaluate(result_of(found), truth)
    table = score.confusion
    assert table.loc["car", "tree"] == 1 and table.loc["tree", "tree"] == 1
    assert table.to_numpy().sum() == 2
    last = repr(score).splitlines()[-1].split()
    assert last == ["all", "2", "2", "0.500", "0.500", "0.500", "+0.0%"]
    assert "<td" in score._repr_html_()
    nothing = evaluate(result_of(Findings()), coco()).confusion
    assert nothing.loc["car", "nothing"] == nothing.loc["tree", "nothing"] == 1


def test_an_evaluation_is_drawn_with_its_mistakes() -> None:
    """Hits, misses and false alarms stand in the legend; the curve ends at precision and recall."""
    score = evaluate(result_of(FOUND), Findings(BOXES, labels=LABELS))
    axes = score.plot().axes
    words = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert words == ["found and true: 2", "missed: 0", "false alarm: 2"]
    assert axes[1].lines[-1].get_xydata().tolist() == [[score.recall, score.precision]]
    bare = evaluate(result_of(Findings(BOXES, labels=LABELS)), coco())
    assert "no scores" in [text.get_text() for text in bare.plot().axes[1].texts]
    with pytest.raises(RunError, match=r"no image 'x' in this evaluation. It has scene0"):
        score.plot("x")


def test_an_evaluation_and_a_comparison_are_drawn_on_axes_of_the_users() -> None:
    """`ax=`, as of a result's plot: the image with its kinds of objects, and nothing beside it."""
    figure = Figure()
    left, right = figure.subplots(1, 2)
    truth = Findings(BOXES, labels=LABELS)
    score, both = evaluate(result_of(FOUND), truth), compare(result_of(FOUND), result_of(truth))
    assert score.plot(ax=left) is figure and both.plot(ax=right) is figure
    assert figure.axes == [left, right]
    for axes, words in (
        (left, ["found and true: 2", "missed: 0", "false alarm: 2"]),
        (right, ["in both: 2", "only in A: 2", "only in B: 0"]),
    ):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == words
        assert len(axes.images) == 1
    with pytest.raises(RunError, match="no image 'x' in this evaluation"):
        score.plot("x", ax=left)


def test_bad_arguments_are_one_line() -> None:
    """An IoU out of range, and images of different size, are refused."""
    one = result_of(FOUND)
    with pytest.raises(RunError, match="above 0, up to 1"):
        evaluate(one, coco(), iou=0)
    with pytest.raises(RunError, match="above 0, up to 1"):
        compare(one, one, iou=2)
    with pytest.raises(RunError, match="differ in size"):
        compare(one, result_of(FOUND, (300, 100)))
    with pytest.raises(SourceError, match="type int"):
        evaluate(one, 3)
