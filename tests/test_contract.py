"""Every column through every merge into every export, read back by that export's own reader.

What a format has no place for is named in `LACKS`: all else comes back as it went in.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import yaml
from exported import Picture
from pycocotools.coco import COCO

from tilevision.evaluation import read_truth
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.seams import METHODS
from tilevision.sources import ImageMetadata

SIZE = (400, 300)
TILES = (Tile(0, 0, Box(0, 0, 220, 300)), Tile(0, 1, Box(180, 0, 400, 300), scale=0.5))
NAMES = ("car", "ship")

# Two objects apart from each other, each seen by one tile: no merge has anything to join.
BOXES = np.array([[10.0, 20, 50, 60], [300.0, 100, 360, 180]])
RINGS = [[[10, 20], [50, 20], [10, 60]], [[300, 100], [360, 100], [330, 180]]]
TURNED = [
    [[30, 20], [50, 40], [30, 60], [10, 40]],
    [[337.5, 100], [360, 167.5], [322.5, 180], [300, 112.5]],
]
POSES = [[[20, 30, 0.9], [40, 50, 0.8]], [[310, 120, 0.7], [350, 160, 0.0]]]
POINTS = np.array([[30.0, 40], [330.0, 140]])
COLUMNS: dict[str, Any] = {
    "scores": [0.9, 0.75],
    "labels": ["ship", "car"],
    "class_ids": [1, 0],
    "polygons": RINGS,
    "oriented": TURNED,
    "points": POINTS,
    "keypoints": POSES,
    "texts": ["AB 12", "=1+1"],
    "attributes": [{"age": 3}, {"age": 4}],
}


# Columns that can stand beside each other: a detection has one shape.
BASIS = ("scores", "labels", "class_ids")
GROUPS = ((*BASIS, "polygons", "keypoints", "texts", "attributes"), ("oriented",), ("points",))


def findings(columns: tuple[str, ...]) -> Findings:
    """Return both objects with labels, scores, numbers and some columns more."""
    boxes = np.hstack([POINTS, POINTS]) if "points" in columns else BOXES
    return Findings(boxes, **{name: COLUMNS[name] for name in {*BASIS, *columns}})


def result_of(columns: tuple[str, ...], merge: str) -> Result:
    seen = []
    for row, tile in enumerate(TILES):
        mine = findings(columns)
        wanted = mine.take([i for i in (0, 1) if (mine.boxes[i, 0] > 200) == bool(row)])
        x, y = tile.box.x0, tile.box.y0
        moved = wanted.mapped((tile.scale, tile.scale), (-x * tile.scale, -y * tile.scale))
        seen.append(TileFindings(tile, moved))
    rows = [TileRow(0.0, tile, "done") for tile in TILES]
    facts = RunFacts("r", "complete", model="m", classes=NAMES)
    return Result(Picture(), rows, seen, MergeSettings(merge), facts, "scan.tif")


def by_label(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values("label", ascending=False).reset_index(drop=True)


# Readers: what comes back of a column, the ship before the car; None where the format has none.


def of_json(result: Result, path: Path) -> dict[str, Any]:
    rows = json.loads(result.save(path / "a.json").read_text())["detections"]
    rows = sorted(rows, key=lambda row: row["label"], reverse=True)
    return {
        "boxes": [row["box"] for row in rows],
        "scores": [row["score"] for row in rows],
        "labels": [row["label"] for row in rows],
        "class_ids": [row["class_id"] for row in rows],
        "polygons": [row.get("polygon", [[None]])[0][0] for row in rows],
        "oriented": [row.get("oriented") for row in rows],
        "points": [row.get("point") for row in rows],
        "keypoints": [row.get("keypoints") for row in rows],
        "texts": [row.get("text") for row in rows],
        "attributes": [row.get("attributes") for row in rows],
    }


def of_table(table: pd.DataFrame, parsed: bool = True) -> dict[str, Any]:
    table = by_label(table)
    found: dict[str, Any] = {
        "boxes": table[["xmin", "ymin", "xmax", "ymax"]].to_numpy(),
        "scores": table["score"].tolist(),
        "labels": table["label"].tolist(),
        "class_ids": table["class_id"].tolist(),
    }
    if "text" in table:
        found["texts"] = table["text"].tolist()
    for name in ("attributes", "keypoints"):
        if name in table and parsed:
            found[name] = [json.loads(one) for one in table[name]]
    return found


def of_csv(result: Result, path: Path) -> dict[str, Any]:
    return of_table(pd.read_csv(result.save(path / "a.csv", guard=False)))


def of_parquet(result: Result, path: Path) -> dict[str, Any]:
    table = by_label(geopandas.read_parquet(result.save(path / "a.parquet")))
    return of_table(table) | of_shapes(table.geometry)


def of_shapes(shapes: Any) -> dict[str, Any]:
    """Return one geometry a row as what each column would have it."""
    corners = [shapely.get_coordinates(shape) for shape in shapes]
    return {
        "polygons": [ring[:-1] for ring in corners],
        "oriented": [ring[:-1] for ring in corners],
        "points": [ring[0] for ring in corners],
    }


def of_dataframe(result: Result, _path: Path) -> dict[str, Any]:
    table = by_label(result.to_dataframe("shapely"))
    found = of_table(table, parsed=False) | of_shapes(table.pop("geometry"))
    if "attributes.age" in table:
        found["attributes"] = [{"age": age} for age in table["attributes.age"]]
    if "keypoint0_x" in table:
        names = [f"keypoint{i}_{what}" for i in (0, 1) for what in ("x", "y", "score")]
        found["keypoints"] = table[names].to_numpy().reshape(-1, 2, 3)
    if "corner0_x" in table:
        names = [f"corner{i}_{axis}" for i in range(4) for axis in "xy"]
        found["oriented"] = table[names].to_numpy().reshape(-1, 4, 2)
    return found


def of_geodataframe(result: Result, _path: Path) -> dict[str, Any]:
    table = by_label(result.to_geodataframe())
    return of_dataframe(result, _path) | of_shapes(table.geometry)


def of_qupath(result: Result, path: Path) -> dict[str, Any]:
    file = result.save(path / "a.qupath.geojson")
    rows = json.loads(file.read_text())["features"]
    rows = sorted(rows, key=lambda r: r["properties"]["classification"]["name"], reverse=True)
    found = of_shapes([shapely.from_geojson(json.dumps(row["geometry"])) for row in rows])
    said = [row["properties"] for row in rows]
    return found | {
        "boxes": [shapely.bounds(shapely.from_geojson(json.dumps(r["geometry"]))) for r in rows],
        "scores": [one["measurements"]["Score"] for one in said],
        "labels": [one["classification"]["name"] for one in said],
        "texts": [one.get("name") for one in said],
        "attributes": [{"age": one["measurements"].get("age")} for one in said],
        "keypoints": [
            [[one["measurements"].get(f"Key point {i} {what}") for what in ("x", "y", "score")]
             for i in (0, 1)]
            for one in said
        ],
    }  # fmt: skip


def of_cvat(result: Result, path: Path) -> dict[str, Any]:
    """Read score, text and key points from the XML; the shapes as truth."""
    found = of_truth("a.cvat.xml")(result, path)
    rows = list(ElementTree.parse(path / "a.cvat.xml").getroot().find("image"))
    rows = sorted(rows, key=lambda row: row.get("label"), reverse=True)
    said = [{one.get("name"): one.text for one in row.findall("attribute")} for row in rows]
    return found | {
        "scores": [float(one["score"]) for one in said],
        "texts": [one.get("text") for one in said],
        "keypoints": [json.loads(one.get("keypoints", "null")) for one in said],
    }


def of_label_studio(result: Result, path: Path) -> dict[str, Any]:
    """Read score, text and key points from the task; the shapes as truth."""
    found = of_truth("a.label-studio.json")(result, path)
    task = json.loads((path / "a.label-studio.json").read_text())[0]
    rows = task["predictions"][0]["result"]
    objects = sorted(
        (row for row in rows if "parentID" not in row),
        key=lambda row: row["value"][row["type"]][0],
        reverse=True,
    )
    poses = [[[0.0, 0.0, 0.0], [350.0, 160.0, 0.0]] for _ in objects]
    for row in rows:
        if "parentID" in row:
            pose = poses[[one["id"] for one in objects].index(row["parentID"])]
            number = int(row["value"]["keypointlabels"][0].removeprefix("keypoint"))
            x, y = row["value"]["x"] / 100 * SIZE[0], row["value"]["y"] / 100 * SIZE[1]
            pose[number] = [x, y, row["score"]]
    return found | {
        "scores": [row["score"] for row in objects],
        "texts": [row.get("meta", {}).get("text", [None])[0] for row in objects],
        "keypoints": poses,
    }


def of_voc(result: Result, path: Path) -> dict[str, Any]:
    found = of_truth("a.voc.xml")(result, path)
    rows = ElementTree.parse(path / "a.voc.xml").getroot().findall("object")
    rows = sorted(rows, key=lambda row: row.findtext("name"), reverse=True)
    return found | {"scores": [float(row.findtext("confidence")) for row in rows]}


def of_coco_results(result: Result, path: Path) -> dict[str, Any]:
    """Read the list beside the dataset that it is of, by pycocotools."""
    truth = COCO(str(result.save(path / "truth.coco.json")))
    names = {one["id"]: one["name"] for one in truth.loadCats(truth.getCatIds())}
    file = result.save(path / "a.coco-results.json")
    rows = truth.loadRes(str(file)).dataset["annotations"]
    rows = sorted(rows, key=lambda row: names[row["category_id"]], reverse=True)
    given = json.loads(file.read_text())
    given = sorted(given, key=lambda row: names[row["category_id"]], reverse=True)
    corner = np.array([row["bbox"] for row in given])
    rings = [np.reshape(one["segmentation"][0], (-1, 2)) if one.get("segmentation") else None
             for one in given]  # fmt: skip
    return {
        "boxes": np.hstack([corner[:, :2], corner[:, :2] + corner[:, 2:]]),
        "scores": [row["score"] for row in rows],
        "labels": [names[row["category_id"]] for row in rows],
        "class_ids": [row["category_id"] - 1 for row in rows],
        "polygons": rings,
        "oriented": rings,
        "keypoints": [np.reshape(row.get("keypoints", []), (-1, 3)) for row in given],
    }


def of_geojson(result: Result, path: Path) -> dict[str, Any]:
    """Read degrees by GDAL, and take them back to pixels by way of the image's metres (PROJ)."""
    placed = on_earth(result)
    table = by_label(geopandas.read_file(placed.save(path / "a.geojson")))
    shapes = in_pixels(table.geometry.to_crs("EPSG:32633").to_numpy())
    found: dict[str, Any] = of_shapes(shapes) | {
        "scores": table["score"].tolist(),
        "labels": table["label"].tolist(),
        "class_ids": table["class_id"].tolist(),
    }
    if "text" in table:
        found["texts"] = table["text"].tolist()
    for name, column in (("attributes", "attributes"), ("keypoints", "keypoints_px")):
        if column in table:
            given = table[column]
            found[name] = [json.loads(one) if isinstance(one, str) else one for one in given]
    return found


def of_supervision(result: Result, _path: Path) -> dict[str, Any]:
    """Read supervision's own fields, and what it keeps beside them in ``data``."""
    pytest.importorskip("supervision", reason="supervision is no test dependency: too heavy")
    made = result.to_supervision()
    made = made[np.argsort(made.data["class_name"])[::-1]]
    found = {
        "boxes": made.xyxy,
        "scores": made.confidence.tolist(),
        "labels": made.data["class_name"].tolist(),
        "class_ids": made.class_id.tolist(),
    }
    names = {"xyxyxyxy": "oriented", "point": "points", "keypoints": "keypoints", "text": "texts"}
    found |= {ours: list(made.data[name]) for name, ours in names.items() if name in made.data}
    if "polygon" in made.data:
        found["polygons"] = [one[0][0] for one in made.data["polygon"]]
    if "age" in made.data:
        found["attributes"] = [{"age": age} for age in made.data["age"]]
    return found


def of_fiftyone(result: Result, _path: Path) -> dict[str, Any]:
    """Read FiftyOne's labels: detections, polylines and key points, in shares of the sides."""
    pytest.importorskip("fiftyone", reason="fiftyone is no test dependency: it brings a database")
    sample = result.to_fiftyone("scan.tif")

    def ordered(field: str, kind: str) -> list[Any]:
        listed = sample[field][kind] if field in sample.field_names else []
        return sorted(listed, key=lambda one: one.label, reverse=True)

    rows = ordered("detections", "detections")
    corner = np.array([row.bounding_box for row in rows]) * (*SIZE, *SIZE)
    found: dict[str, Any] = {
        "boxes": np.hstack([corner[:, :2], corner[:, :2] + corner[:, 2:]]),
        "scores": [row.confidence for row in rows],
        "labels": [row.label for row in rows],
        "class_ids": [row["class_id"] for row in rows],
    }
    rings = [np.array(one.points[0]) * SIZE for one in ordered("outlines", "polylines")]
    found |= {"polygons": rings, "oriented": rings} if rings else {}
    if poses := ordered("keypoints", "keypoints"):
        placed = np.array([one.points for one in poses]) * SIZE
        sure = np.array([one.confidence for one in poses])[..., None]
        found["keypoints"] = np.concatenate([placed, sure], axis=2)
    if points := ordered("points", "keypoints"):
        found["points"] = [np.array(one.points[0]) * SIZE for one in points]
    if "text" in rows[0].field_names:
        found["texts"] = [row["text"] for row in rows]
    if "age" in rows[0].field_names:
        found["attributes"] = [{"age": row["age"]} for row in rows]
    return found


def on_earth(result: Result) -> Result:
    """Return the result of an image whose pixels of 2 m begin at (500000, 5000000)."""
    metadata = ImageMetadata(crs="EPSG:32633", transform=(2.0, 0, 500_000, 0, -2.0, 5_000_000))
    return Result(Picture(**vars_of(metadata)), result.rows, result.tile_findings,
                  result.settings, result.facts, result.name)  # fmt: skip


def in_pixels(shapes: Any) -> Any:
    """Return shapes in that image's metres in its pixels."""
    return shapely.transform(shapes, lambda p: (p - (500_000, 5_000_000)) / (2.0, -2.0))


def of_geopackage(result: Result, path: Path) -> dict[str, Any]:
    """Read the layer by GDAL, and take metres back to pixels."""
    file = on_earth(result).save(path / "a.gpkg")
    table = by_label(geopandas.read_file(file, layer="detections"))
    shapes = in_pixels(table.geometry.to_numpy())
    found: dict[str, Any] = of_shapes(shapes) | {
        "scores": table["score"].tolist(),
        "labels": table["label"].tolist(),
        "class_ids": table["class_id"].tolist(),
    }
    if "text" in table:
        found["texts"] = table["text"].tolist()
    for name in ("attributes", "keypoints"):
        if name in table:
            found[name] = [json.loads(one) for one in table[name]]
    return found


def vars_of(metadata: ImageMetadata) -> dict[str, Any]:
    return {"crs": metadata.crs, "transform": metadata.transform}


def of_coco(result: Result, path: Path) -> dict[str, Any]:
    dataset = COCO(str(result.save(path / "a.coco.json")))
    names = {one["id"]: one["name"] for one in dataset.loadCats(dataset.getCatIds())}
    rows = dataset.loadAnns(dataset.getAnnIds())
    rows = sorted(rows, key=lambda row: names[row["category_id"]], reverse=True)
    corner = np.array([row["bbox"] for row in rows])
    rings = [np.reshape(row["segmentation"][0], (-1, 2)) if row["segmentation"] else None
             for row in rows]  # fmt: skip
    poses = [np.reshape(row["keypoints"], (-1, 3)) for row in rows if "keypoints" in row]
    return {
        "boxes": np.hstack([corner[:, :2], corner[:, :2] + corner[:, 2:]]),
        "scores": [row["score"] for row in rows],
        "labels": [names[row["category_id"]] for row in rows],
        "class_ids": [row["category_id"] - 1 for row in rows],
        "polygons": rings,
        "oriented": rings,
        # Visibility, 0 or 2, in place of a confidence.
        "keypoints": [np.column_stack([p[:, :2], q[:, 2] * (p[:, 2] > 0)]) for p, q in zip(
            poses, np.array(POSES), strict=True)] if poses else None,
        "texts": [row.get("attributes", {}).get("text") for row in rows],
        "attributes": [
            {k: v for k, v in row.get("attributes", {}).items() if k != "text"} for row in rows
        ],
    }  # fmt: skip


def of_truth(name: str, **more: Any) -> Callable[[Result, Path], dict[str, Any]]:
    """Return a reader by way of our own reader of ground truth."""

    def read(result: Result, path: Path) -> dict[str, Any]:
        found = read_truth(result.save(path / name), "scan.tif", size=SIZE, **more)
        order = np.argsort(found.labels.astype(str))[::-1]
        rings = None if found.polygons is None else [
            None if found.polygons[i] is None else found.polygons[i][0][0] for i in order
        ]  # fmt: skip
        return {
            "boxes": found.boxes[order],
            "labels": found.labels[order].tolist(),
            "polygons": rings,
            "oriented": rings,
            "points": None if found.points is None else found.points[order],
        }

    return read


def of_pose(result: Result, path: Path) -> dict[str, Any]:
    folder = result.save(path / "a.yolo-pose")
    said = yaml.safe_load((folder / "data.yaml").read_text())
    rows = np.loadtxt(folder / "labels" / "scan.txt", ndmin=2)
    rows = rows[np.argsort(rows[:, 0])[::-1]]
    poses = rows[:, 5:].reshape(-1, *said["kpt_shape"])
    placed = np.concatenate([poses[..., :2] * SIZE, poses[..., 2:]], axis=2)
    score = np.array(POSES)[..., 2:] * (placed[..., 2:] > 0)
    return {
        "labels": [said["names"][int(row[0])] for row in rows],
        "keypoints": np.concatenate([placed[..., :2], score], axis=2),
    }


EXPORTS: dict[str, Callable[[Result, Path], dict[str, Any]]] = {
    "json": of_json,
    "csv": of_csv,
    "parquet": of_parquet,
    "dataframe": of_dataframe,
    "geodataframe": of_geodataframe,
    "qupath": of_qupath,
    "geojson": of_geojson,
    "supervision": of_supervision,
    "fiftyone": of_fiftyone,
    "coco": of_coco,
    "coco-results": of_coco_results,
    "gpkg": of_geopackage,
    "cvat": of_cvat,
    "label-studio": of_label_studio,
    "voc": of_voc,
    "yolo": of_truth("a.yolo"),
    "yolo-obb": of_truth("a.yolo-obb"),
}
# Columns that a format, or the way back from it, has no place for.
TRAINING = {"scores", "class_ids", "keypoints", "texts", "attributes"}
LACKS = {
    "csv": {"polygons", "oriented", "points"},
    "qupath": {"class_ids"},
    "coco": {"points"},
    "coco-results": {"points", "texts", "attributes"},
    "cvat": {"class_ids", "attributes"},
    "label-studio": {"class_ids", "attributes"},
    "voc": (TRAINING | {"polygons", "oriented", "points"}) - {"scores"},
    "yolo": TRAINING | {"polygons", "oriented", "points"},
    "yolo-obb": TRAINING | {"polygons", "points"},
}


def same(got: Any, expected: Any, column: str) -> bool:
    """Return True if values agree; rings wherever they begin and whichever way they run."""
    if column in ("labels", "texts", "attributes"):
        return list(got) == list(expected)
    if column in ("polygons", "oriented"):
        return all(
            shapely.Polygon(one).symmetric_difference(shapely.Polygon(two)).area < 0.5
            for one, two in zip(got, expected, strict=True)
        )
    return np.allclose(np.asarray(got, float), np.asarray(expected, float), atol=0.01)


# The quick subset has one merge that joins views and one that suppresses.
MERGES = [
    name if name in ("seam", "nms") else pytest.param(name, marks=pytest.mark.slow)
    for name in METHODS
]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("export", EXPORTS)
def test_every_column_comes_back(export: str, merge: str, tmp_path: Path) -> None:
    """Each column that the format has a place for, through a merge and back."""
    for columns in GROUPS:
        kept = [column for column in columns if column not in LACKS.get(export, ())]
        (tmp_path / columns[-1]).mkdir()
        found = EXPORTS[export](result_of(columns, merge), tmp_path / columns[-1])
        assert found["labels"] == ["ship", "car"], columns
        for column in kept:
            assert found.get(column) is not None, column
            assert same(found[column], COLUMNS[column], column), (column, found[column])
        if "boxes" in found and "points" not in columns:
            assert same(found["boxes"], BOXES, "boxes"), columns


# What is handed over in memory, whole.
OBJECTS = {"dataframe", "geodataframe", "supervision", "fiftyone"}
WORDS = {
    "polygons": "outlines",
    "oriented": "rotated boxes",
    "keypoints": "key points",
    "texts": "texts",
    "attributes": "attributes",
}


@pytest.mark.parametrize("export", sorted(set(EXPORTS) - OBJECTS))
def test_what_a_format_has_no_place_for_is_said_once(export: str, tmp_path: Path) -> None:
    """One line names all that is left out; nothing is said of a result that is kept whole.

    Nor of outlines in a CSV file: nobody expects them in a table of numbers.
    """
    lost = LACKS.get(export, set()) & set(WORDS) - ({"polygons"} if export == "csv" else set())
    for columns in GROUPS:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            (tmp_path / columns[-1]).mkdir()
            EXPORTS[export](result_of(columns, "none"), tmp_path / columns[-1])
        words = [WORDS[name] for name in WORDS if name in lost and name in columns]
        assert len(said) == bool(words), [str(one.message) for one in said]
        assert all(word in str(said[0].message) for word in words)


@pytest.mark.parametrize("merge", MERGES)
def test_key_points_are_a_pose_for_yolo(merge: str, tmp_path: Path) -> None:
    """YOLO-pose: the box, then x, y and visibility of each key point; ``kpt_shape`` says so."""
    found = of_pose(result_of(("keypoints",), merge), tmp_path)
    assert found["labels"] == ["ship", "car"]
    assert same(found["keypoints"], POSES, "keypoints")
