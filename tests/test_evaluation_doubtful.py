"""Truth that is none, or not of this image: refused, or named as what makes a score mean little."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from exported import Picture, found, result_of
from inline_tiles import Inline, inline_runs  # noqa: F401 - fixtures

import tilevision as tv
from tilevision.errors import TilevisionError
from tilevision.evaluation import compare, evaluate
from tilevision.findings import Findings

BOXES = np.array([[10, 10, 80, 60], [120, 20, 130, 30]])
CORNERS = ["xmin", "ymin", "xmax", "ymax"]
UTM = {"crs": "EPSG:32632", "transform": (0.5, 0, 691_000, 0, -0.5, 5_334_000)}
SQUARE = [[10, 10], [80, 10], [80, 60], [10, 60], [10, 10]]


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture of `exported` is not read."""
    monkeypatch.setattr(Picture, "thumbnail", None, raising=False)


def collection(ring: Any = SQUARE, label: str | None = "ship", **more: Any) -> dict[str, Any]:
    named = {} if label is None else {"label": label}
    shape = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": named, "geometry": shape}
    return {"type": "FeatureCollection", "features": [feature], **more}


def coco(image: str, size: tuple[int, int] = (400, 300), **row: Any) -> dict[str, Any]:
    about = {"id": 1, "file_name": image, "width": size[0], "height": size[1]}
    rows = [{"id": 1, "image_id": 1, "bbox": [300, 200, 20, 20], **row}]
    return {"images": [about], "annotations": rows, "categories": [{"id": 1, "name": "ship"}]}


def system(name: str) -> dict[str, Any]:
    return {"crs": {"type": "name", "properties": {"name": name}}}


TABLE = "give a DataFrame with the columns xmin, ymin, xmax, ymax and label"
REFUSED: dict[str, tuple[Any, str]] = {
    "boxes as an array": (BOXES, rf"shape \(2, 4\), as boxes have; .*{TABLE}"),
    "boxes and scores": (np.c_[BOXES, [0.5, 0.7]], r"shape \(2, 5\), as boxes have"),
    "no boxes": (np.zeros((0, 4)), r"shape \(0, 4\), as boxes have"),
    "an array without a pixel": (np.zeros((0, 300), int), "no pixel"),
    "boxes as a list": (BOXES.tolist(), f"is a list of boxes; {TABLE}"),
    "boxes as mappings": ([{"box": [1, 2, 3, 4], "label": "a"}], f"list of boxes; {TABLE}"),
    "a mask of another shape": (np.zeros((10, 12), int), "of 12×10 px, and scan.tif has 400×300"),
    "a mask turned": (np.zeros((400, 300), int), "of 300×400 px"),
    "a picture for a mask": (np.zeros((300, 400, 3), np.uint8), r"give \(h, w\) of object numbers"),
    "a result": (result_of(), r"is a Result; tv\.compare\(a, b\) .* its \.findings"),
    "nothing": (None, "NoneType is not understood; give a file"),
    "an empty path": ("", "path of the truth is empty; give"),
    "a box without an end": (
        pd.DataFrame([[1, 2, np.inf, 5]], columns=CORNERS),
        "not finite .*; correct it there",
    ),
    "a box turned round": (
        pd.DataFrame([[10, 10, 5, 20]], columns=CORNERS),
        "inverted; correct it there",
    ),
    "another size": (coco("scan.tif", (40, 30), category_id=1), "of 40×30 px, and scan.tif has"),
    "a class without a name": (coco("scan.tif", category_id=7), "category 7, which it does not"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_truth_is_refused_in_one_line(name: str) -> None:
    """It says what was given, where, and what to give instead."""
    truth, said = REFUSED[name]
    with pytest.raises(TilevisionError, match=said) as caught:
        evaluate(result_of(), truth)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


FILES: dict[str, tuple[str | None, str]] = {
    "folder.json": (None, "is a folder that holds no labels named like 'scan.tif'; give the file"),
    "empty.json": ("", r"is empty \(0 bytes\); write the truth again"),
    "empty.csv": ("", r"is empty \(0 bytes\)"),
    "empty.xml": ("", r"is empty \(0 bytes\)"),
    "nan.csv": ("xmin,ymin,xmax,ymax\n1,2,nan,5\n", "not finite .*; correct it there"),
    "corners.csv": ("x,y,w,h\n1,2,3,4\n", "lacks the column xmin"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_truth_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """With their path."""
    text, said = FILES[name]
    path = tmp_path / name
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(TilevisionError, match=said) as caught:
        evaluate(result_of(), path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_our_own_file_of_another_image_is_refused(tmp_path: Path) -> None:
    """It states the size of its image as well as any other format."""
    path = result_of().save(tmp_path / "a.json")
    assert evaluate(result_of(), path).f1 == 1
    kept = json.loads(path.read_text())
    kept["image"]["width"] = 9
    with pytest.raises(TilevisionError, match="of an image of 9×300 px"):
        evaluate(result_of(), kept)


DOUBTFUL: dict[str, tuple[Any, str]] = {
    "no classes": (
        pd.DataFrame(BOXES, columns=CORNERS),
        "2 of 2 true objects have no class but 'object'",
    ),
    "some without a class": (
        pd.DataFrame([[*BOXES[0], "ship"], [*BOXES[1], None]], columns=[*CORNERS, "label"]),
        "1 of 2 true objects have no class but 'object', which nothing was found as",
    ),
    "GeoJSON without a class": (collection(label=None), "1 of 1 true objects have no class"),
    "COCO without a class": (coco("scan.tif"), "1 of 1 true objects have no class"),
    "a mask": (np.pad([[1]], ((9, 290), (9, 390))), "1 of 1 true objects have no class"),
    "other classes": (Findings(BOXES, labels=["Tree"] * 2), "truth has 'Tree'"),
    "of another picture": (
        coco("other.tif", category_id=1),
        "Nothing matches, and the truth is of 'other.tif': is it that of scan.tif?",
    ),
    "a table of another picture": (
        pd.DataFrame([["b.tif", 300, 200, 320, 220, "ship"]], columns=["image", *CORNERS, "label"]),
        "the truth is of 'b.tif'",
    ),
    "elsewhere": (Findings([[900, 10, 910, 20]], labels=["ship"]), "1 of 1 true objects lie out"),
    "no object": (np.zeros((300, 400), bool), "There is no true object"),
    "no number": (np.full((300, 400), np.nan), "There is no true object"),
    "an empty list": ([], "There is no true object"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_makes_a_score_mean_little_is_said_beside_it(name: str) -> None:
    """In text and in a notebook: the model is not to blame for it."""
    truth, said = DOUBTFUL[name]
    score = evaluate(result_of(), truth)
    assert said in str(score)
    assert "There is" in said or said.split("'")[0] in score._repr_html_()


def test_nothing_is_said_where_all_is_well() -> None:
    """Another name of a truth that matches, or classes that do not matter, are no doubt."""
    result = result_of()
    renamed = {**coco("other.tif", category_id=1, bbox=[120, 20, 10, 10])}
    plain = pd.DataFrame(BOXES, columns=CORNERS)
    for score in (
        evaluate(result, renamed),
        evaluate(result, result.findings),
        evaluate(result, plain, class_agnostic=True),
        evaluate(result_of(Findings(BOXES, labels=["object"] * 2)), plain),
    ):
        assert str(score).endswith(score.coverage)


ON_EARTH: dict[str, tuple[Any, str]] = {
    "a system that nobody knows": (
        collection(**system("EPSG:99999999")),
        r"in EPSG:99999999, which cannot be turned into EPSG:32632, the image's; give the truth",
    ),
    "no number": (
        collection([[11, 48], [float("nan"), 48], [11.1, 48.1], [11, 48]]),
        "a coordinate that is no number",
    ),
    "metres without a system": (
        collection([[691_000, 5_333_000], [691_010, 5_333_000], [691_010, 5_333_010]] * 2),
        "not in longitude and latitude",
    ),
    "another zone": (
        collection([[691_001, 5_333_990], [691_009, 5_333_990], [691_009, 5_333_980]] * 2,
                   **system("EPSG:32633")),
        "1 of 1 true objects lie outside their image",
    ),
    "pixels, unsaid": (collection(), "1 of 1 true objects are larger than their image: give"),
    "nothing": ({"type": "FeatureCollection", "features": []}, "There is no true object"),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_EARTH)
def test_truth_on_earth_is_of_the_image_or_says_why_not(name: str) -> None:
    """Another reference system is turned into the image's, or refused; never read as its own."""
    pytest.importorskip("rasterio")
    truth, said = ON_EARTH[name]
    try:
        words = str(evaluate(result_of(metadata=UTM), truth))
    except TilevisionError as error:
        words = str(error)
    assert re.search(said, words), words
    assert "\n" not in words


# Sides that are no results -------------------------------------------------------------------


def shares(pixels: np.ndarray) -> np.ndarray:
    return np.full((1, *pixels.shape[:2]), 0.9)


def test_what_is_no_result_is_refused_in_one_line(inline: Callable[..., Inline]) -> None:
    """With what to give, or what to call instead."""
    result, none = result_of(), result_of(Findings())
    model = tv.model(shares, returns="probabilities", classes=("a",))
    mapped = inline(model, checkpoint=None).conduct()
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: evaluate(result.findings, result), "Findings; give what tv.analyze returned. The"),
        (lambda: evaluate({}, found()), "There are no results to compare"),
        (lambda: evaluate({"a": 3}, {"a": 3}), "The result of a is a int; give what tv.analyze_m"),
        (lambda: evaluate({"a": result}, {"a": result}), r"is a Result; tv\.compare"),
        (lambda: compare({"a": result}, result), "a is a dict; give one of its results"),
        (lambda: compare(result, result.findings), "b is a Findings; give what tv.analyze"),
        (lambda: compare(mapped, mapped), r"both .* maps .*tv\.evaluate\(a, b\)|Both results are"),
    ]
    for act, said in cases:
        with pytest.raises(TilevisionError, match=said) as caught:
            act()
        assert "\n" not in str(caught.value)
    told = str(compare(none, none))
    assert "neither has an object" in told and "nan" not in told
