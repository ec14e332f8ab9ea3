"""Truth as tools and people really write it: read as what it is, or refused in one line.

Each row is one way to write the same box (40, 30, 80, 60) of class "a" in an image of 400×300 px.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from tilevision.errors import SourceError
from tilevision.evaluation import evaluate, read_truth
from tilevision.evaluation.annotated import Pictured
from tilevision.evaluation.truth import truth_of

SIZE, BOX = (400, 300), [40.0, 30.0, 80.0, 60.0]
RING = [[40, 30], [80, 30], [80, 60], [40, 60]]
COCO_BOX = [40, 30, 40, 30]
SHARES = "0.15 0.15 0.1 0.1"
STUDIO = {"x": 10, "y": 10, "width": 10, "height": 10, "rotation": 0}


def coco(row: dict[str, Any], image: Any = 1, name: str = "scan.tif", **more: Any) -> dict:
    return {
        "images": [{"id": image, "file_name": name} | more, {"id": "other", "file_name": "b.tif"}],
        "categories": [{"id": 7, "name": "a"}],
        "annotations": [{"id": 0, "image_id": 1, "category_id": 7, "bbox": COCO_BOX} | row],
    }


def task(rows: list[dict], name: str = "scan.tif", **more: Any) -> dict[str, Any]:
    sides = {"original_width": 400, "original_height": 300}
    answer = {"result": [{"id": "r", "value": STUDIO} | sides | row for row in rows]}
    return {"data": {"image": name}, "annotations": [answer | more]}


def labelled(**more: Any) -> dict[str, Any]:
    return {"type": "rectanglelabels", "value": STUDIO | {"rectanglelabels": ["a"]}} | more


def feature(kind: str, coordinates: Any) -> dict[str, Any]:
    shape = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "properties": {"label": "a"}, "geometry": shape}


def shapes(drawn: list[tuple[str, Any]], **more: Any) -> dict[str, Any]:
    """A file of LabelMe."""
    rows = [{"label": "a", "shape_type": kind, "points": at} | more for kind, at in drawn]
    return {"version": "5.5.0", "shapes": rows, "imagePath": "scan.tif", "imageWidth": 400,
            "imageHeight": 300}  # fmt: skip


def via_project(regions: Any) -> dict[str, Any]:
    """A project of VIA 2 with two images."""
    images = {"scan.tif1": {"filename": "scan.tif", "size": 1, "regions": regions},
              "b.tif1": {"filename": "b.tif", "size": 1, "regions": []}}  # fmt: skip
    return {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}}


VIA_BOX = {
    "shape_attributes": {"name": "rect", "x": 40, "y": 30, "width": 40, "height": 30},
    "region_attributes": {"name": "a"},
}
VOC = (
    "<annotation><object><name>a</name><difficult>{}</difficult><bndbox><xmin>40</xmin>"
    "<ymin>30</ymin><xmax>80</xmax><ymax>60</ymax></bndbox>{}</object></annotation>"
)
SQUARE = feature("Polygon", [[*RING, RING[0]]])
SPELLINGS: dict[str, Any] = {
    # COCO: an outline without a box; ids as numbers here and as texts there; paths of Windows.
    "no box": coco({"bbox": [], "segmentation": [[x for at in RING for x in at]]}),
    "null box": coco({"bbox": None, "segmentation": [[x for at in RING for x in at]]}),
    "text category": coco({"category_id": "7"}),
    "text image": coco({}, image="1"),
    "float image": coco({"image_id": 1.0, "category_id": 7.0}),  # as pandas writes columns
    "windows": coco({}, name="C:\\data\\scan.tif"),
    "address": coco({}, name="https://host/scan.tif"),
    # Label Studio: uploads get a prefix; <Rectangle> with <Labels>; skipped annotations.
    "upload": [task([labelled()], "/data/1/0123abcd-scan.tif"), task([], "/x/fedc9876-b.tif")],
    "bare": [
        task([{"type": "rectangle"}, {"type": "labels", "value": STUDIO | {"labels": ["a"]}}]),
    ],
    "skipped": [
        {"data": {"image": "scan.tif"}, "annotations": [
            {"was_cancelled": True, "result": []}, task([labelled()])["annotations"][0]]},
    ],
    # Label Studio's JSON-MIN: regions stand in a list under the name of their control.
    "json-min": [
        {"image": "/data/upload/1/0123abcd-scan.tif", "id": 1, "annotator": 1, "annotation_id": 1,
         "label": [STUDIO | {"rectanglelabels": ["a"], "original_width": 400,
                             "original_height": 300}]},
    ],
    # LabelMe: corners in any order; VIA 2, a whole project or its annotations, and VIA 1.
    "labelme": shapes([("rectangle", [[80, 60], [40, 30]])]),
    "labelme polygon": shapes([("polygon", RING)]),
    "labelme turned": shapes([("rotation", RING)]),  # of X-AnyLabeling
    "labelme parts": shapes([("rectangle", [[40, 30], [50, 60]]),
                             ("rectangle", [[80, 60], [70, 30]])], group_id=1),
    "via": via_project([VIA_BOX]),
    "via annotations": via_project([VIA_BOX])["_via_img_metadata"],
    "via 1": via_project({"0": VIA_BOX}),
    "via polygon": via_project([{"region_attributes": {"kind": "a"}, "shape_attributes": {
        "name": "polygon", "all_points_x": [40, 80, 80, 40], "all_points_y": [30, 30, 60, 60]}}]),
    "via ticked": via_project([VIA_BOX | {"region_attributes": {
        "type": {"a": True, "b": False}, "note": "small"}}]),
    # GeoJSON: one feature, the list of features that QuPath exports, a third coordinate, a class
    # as a number or that is null under another name, and collections, of which areas count.
    "feature": SQUARE,
    "features": [SQUARE],
    "heights": feature("MultiPolygon", [[[[x, y, 5] for x, y in [*RING, RING[0]]]]]),
    "number": SQUARE | {"properties": {"class_id": 0, "label": None}},
    "collection": SQUARE | {"geometry": {"type": "GeometryCollection", "geometries": [
        SQUARE["geometry"], {"type": "LineString", "coordinates": RING}]}},
    # Pascal VOC with an outline, as Roboflow exports it, and without a box around text.
    "a.xml": VOC.format(0, "<polygon><x1>40</x1><y1>30</y1><x2>80</x2><y2>30</y2><x3>80</x3>"
                        "<y3>60</y3><x4>40</x4><y4>60</y4></polygon>"),
    # Tables: other separators, a byte order mark, numbers of classes, outlines as WKT.
    "a.csv": "xmin;ymin;xmax;ymax;label\n40;30;80;60;a\n",
    "b.csv": "\ufeffxmin\txmax\tymin\tymax\tlabel\n40\t80\t30\t60\ta\n",
    "c.csv": "xmin,ymin,xmax,ymax,class_id\n40,30,80,60,0\n",
    "d.csv": "xmin,ymin,xmax,ymax,label\n40,30,80,60,0\n",
    "e.csv": f'label,geometry,xmin,ymin,xmax,ymax\na,"{shapely.Polygon(RING).wkt}",40,30,80,60\n',
    # YOLO: a score, key points, whole numbers written with a point, commas.
    "a.txt": f"0 {SHARES} 0.9\n",
    "b.txt": f"0 {SHARES} 0.15 0.15 2 0.14 0.14 0\n",
    "e.txt": f"0 {SHARES} {'0.15 0.15 1 ' * 17}\n",  # all hidden
    "f.txt": f"0 {SHARES} {'0.15 0.15 1 ' * 17} 0.9\n",
    "c.txt": f"0.0 {SHARES}\n",
    "d.txt": f"0,{SHARES.replace(' ', ',')}\n",
    "a.json": "\ufeff" + json.dumps(coco({})),
}  # fmt: skip


def written(given: Any, name: str, folder: Path) -> Any:
    """Return the file of a text, named as its spelling is; anything else as it is."""
    if not isinstance(given, str):
        return given
    path = folder / f"scan{name[1:]}"
    path.write_text(given, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_same_box_in_each_spelling(name: str, tmp_path: Path) -> None:
    """One object of class "a" at the same place."""
    given = written(SPELLINGS[name], name, tmp_path)
    found = read_truth(given, "scan.tif", size=SIZE, names=("a",))
    assert found.labels.tolist() == ["a"]
    assert found.boxes[0] == pytest.approx(BOX)


REFUSED = {
    "labelme size": (shapes([]) | {"imageWidth": 800}, "of an image of 800×300 px"),
    "labelme line": (shapes([("linestrip", RING)]), "no area and no point .linestrip of 4 points"),
    "via line": (
        via_project([{"shape_attributes": {"name": "polyline"}, "region_attributes": {}}]),
        "no area and no point .polyline",
    ),
    "via attributes": (
        via_project([VIA_BOX | {"region_attributes": {"colour": "red", "size": "small"}}]),
        "attributes colour, size; name that of the class 'label'",
    ),
    "size": (coco({}, width=800, height=600), "of an image of 800×600 px"),
    "unnamed": (coco({"category_id": 9}), "category 9, which it does not name"),
    "line": ({"type": "FeatureCollection", "features": [feature("LineString", RING)]}, "LineStr"),
    "mask": (np.zeros((10, 10), bool), "of an image of 10×10 px"),
    "a.txt": ("0 60 45 40 30\n", "shares of the sides"),
    "b.txt": ("40 30 80 30 80 60 40 60 a 0\n", "no file of YOLO labels"),
    "b.csv": ("ImageID,XMin,XMax,YMin,YMax\nscan,0.1,0.2,0.1,0.2\n", "shares of the sides"),
    "strange": (coco({"image_id": "scan.tif"}), "image 'scan.tif', which it does not list"),
    "a.csv": ("xmin,ymin,xmax,ymax\n80,60,40,30\n", "scan.csv cannot be read .* inverted"),
    "a.xml": (
        "<annotation><size><width>9</width><height>9</height></size></annotation>",
        "of an image of 9×9 px",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_read_wrongly_is_refused(name: str, tmp_path: Path) -> None:
    """Pixels of another size, classes without names, lines, DOTA in a YOLO file: one line each."""
    given, said = REFUSED[name]
    with pytest.raises(SourceError, match=said) as error:
        read_truth(written(given, name, tmp_path), "scan.tif", size=SIZE)
    assert "\n" not in str(error.value)


def test_a_missing_class_is_no_class_of_its_own(tmp_path: Path) -> None:
    """An empty cell is "object", as where there is no column, and not "nan"."""
    path = tmp_path / "a.csv"
    path.write_text("xmin,ymin,xmax,ymax,label\n1,1,5,5,\n2,2,6,6,b\n")
    assert read_truth(path).labels.tolist() == ["object", "b"]


def test_points_of_a_multipoint_are_objects_each() -> None:
    """QuPath keeps many counted cells as one MultiPoint."""
    found = read_truth([feature("MultiPoint", [[5, 5], [9, 9]])], size=SIZE)
    assert found.points.tolist() == [[5, 5], [9, 9]] and found.labels.tolist() == ["a", "a"]


def test_a_mask_of_one_value_is_what_is_there_and_what_is_not() -> None:
    """0 and 255 as 0 and 1: patches are objects. Several values are numbers; below 0 is none."""
    values = np.zeros((300, 400), np.int16)
    values[10:20, 10:20] = values[50:60, 50:60] = 255
    for kind in (values, values > 0, values // 255):
        assert len(read_truth(kind, size=SIZE)) == 2
    values[100:110, 100:110] = 3
    assert len(read_truth(values, size=SIZE)) == 2
    assert len(read_truth(values - 1, size=SIZE)) == 2


@pytest.mark.parametrize("word", ["1", "True", "yes"])
def test_difficult_objects_of_pascal_voc_are_neither_right_nor_wrong(
    tmp_path: Path, word: str
) -> None:
    """VOC 2012 development kit, section 4.4.2: objects marked as difficult are ignored.

    The mark belongs to its object, in whatever order they stand.
    """
    path = tmp_path / "a.xml"
    easy = VOC.format(0, "").replace(">40<", ">10<").partition("</annotation>")[0]
    difficult = VOC.format(word, "").partition("<annotation>")[2]
    for text in (easy + difficult, "<annotation>" + difficult.replace("</annotation>", "")
                 + easy.partition("<annotation>")[2] + "</annotation>"):  # fmt: skip
        path.write_text(text)
        truth = truth_of(path, Pictured("scan.tif", SIZE))
        assert truth.crowd.boxes.tolist() == [BOX]
        assert truth.objects.boxes.tolist() == [[10, 30, 80, 60]]


def test_numbers_of_map_files_are_named_by_the_model(tmp_path: Path) -> None:
    """A whole column ``class`` of a Shapefile, and a GeoDataFrame, as of any table."""
    geopandas = pytest.importorskip("geopandas")
    shapes = [shapely.Polygon(RING), shapely.box(100, 100, 110, 120)]
    table = geopandas.GeoDataFrame({"class": [1, 0]}, geometry=shapes)
    table.to_file(tmp_path / "a.shp")
    for given in (tmp_path / "a.shp", table):
        found = read_truth(given, size=SIZE, names=("a", "b"))
        assert sorted(found.labels) == ["a", "b"]
        assert read_truth(given, size=SIZE).labels.tolist() == ["1", "0"]


def test_two_hidden_key_points_are_told_from_an_outline_or_refused(tmp_path: Path) -> None:
    """By a line of the same file where one is visible, or by data.yaml; else in one line."""
    path, hidden = tmp_path / "scan.txt", f"0 {SHARES} 0.14 0.14 1 0.16 0.15 1\n"
    path.write_text(hidden)
    with pytest.raises(SourceError, match="may be a box with two key points or an outline"):
        read_truth(path, "scan.tif", size=SIZE)
    unlabelled, visible = f"0 {SHARES} 0 0 0 0 0 0\n", f"0 {SHARES} 0.14 0.14 2 0.16 0.15 1\n"
    for text in (hidden + visible, visible + hidden, unlabelled):
        path.write_text(text)
        assert read_truth(path, "scan.tif", size=SIZE).boxes[0] == pytest.approx(BOX)
    path.write_text(hidden)
    (tmp_path / "data.yaml").write_text("names: [a]\nkpt_shape: [2, 3]\n")
    assert read_truth(path, "scan.tif", size=SIZE).boxes[0] == pytest.approx(BOX)


def test_an_outline_that_touches_the_edges_is_no_pose(tmp_path: Path) -> None:
    """Corners of an outline may be exactly 0 or 1, where visibilities of key points would stand."""
    path = tmp_path / "scan.txt"
    along = "0.5 0 1 0 1 1 0.5 1 0 0.5"
    for corners in (
        "0.2 0.2 0.9 0.9 0.5 0.5 1 0.3",
        "0 0 1 0 1 1 0 1",
        along,
    ):
        path.write_text(f"0 {corners}\n")
        pairs = np.reshape([float(one) for one in corners.split()], (-1, 2)) * SIZE
        found = read_truth(path, "scan.tif", size=SIZE)
        assert found.boxes[0] == pytest.approx([*pairs.min(axis=0), *pairs.max(axis=0)])


@pytest.mark.parametrize("kind", ["float32", "uint32", "int64"])
def test_object_numbers_of_any_type_are_read(tmp_path: Path, kind: str) -> None:
    """Of an array, in ``.npy`` and TIFF; floats are numbers where they are whole, NaN is none."""
    values = np.zeros((300, 400), kind)
    values[30:60, 40:80], values[100:120, 100:110] = 70000, 3
    if kind == "float32":
        values[200:210, 200:210] = np.nan
    np.save(tmp_path / "mask.npy", values)
    given = [values, tmp_path / "mask.npy"]
    if kind != "int64":
        tifffile.imwrite(tmp_path / "mask.tif", values)
        given.append(tmp_path / "mask.tif")
    for one in given:
        assert sorted(read_truth(one, size=SIZE).boxes.tolist()) == [BOX, [100, 100, 110, 120]]
    with pytest.raises(SourceError, match="object numbers"):
        read_truth(values.astype(float) / 2 + 0.25, size=SIZE)


CVAT = """<annotations>{}</annotations>"""
IMAGE = '<image name="{}" width="400" height="300"><box label="a" xtl="40" ytl="30" xbr="80" ybr="60"/></image>'  # noqa: E501


@pytest.mark.parametrize("tool", ["cvat", "label studio"])
def test_a_file_of_many_images_is_parsed_once_a_run(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image of a batch is looked up in what was parsed, and scored as if it were alone."""
    from test_truth import batch_of

    from tilevision.findings import Findings

    names = [f"plot_{number}" for number in range(4)]
    if tool == "cvat":
        path = tmp_path / "truth.xml"
        path.write_text(CVAT.format("".join(IMAGE.format(f"{name}.tif") for name in names)))
    else:
        path = tmp_path / "truth.json"
        path.write_text(
            json.dumps([task([labelled()], f"/data/upload/7/0123abc{i}-{name}.tif")
                        for i, name in enumerate(names)])
        )  # fmt: skip
    reads = []
    plainly = Path.open

    def counted(at: Path, *args: Any, **more: Any) -> str:
        reads.append(at)
        return plainly(at, *args, **more)

    monkeypatch.setattr(Path, "open", counted)
    found = Findings([BOX], [0.9], ["a"])
    seen = evaluate(batch_of(**dict.fromkeys([*names, "plot_9"], found)), path)
    assert reads.count(path) == 1
    assert seen.f1 == 1 and seen.per_image["n_true"].tolist() == [1] * 4
    assert "plot_9" in seen.coverage


def test_a_geopackage_is_objects_with_an_area_or_points(tmp_path: Path) -> None:
    """Points of a MultiPoint are objects each, nothing is none, a line is refused (OGC 12-128)."""
    geopandas = pytest.importorskip("geopandas")
    square = shapely.Polygon(RING)
    shapes = [square, shapely.MultiPoint([(5, 5), (9, 9)]), None]
    table = geopandas.GeoDataFrame({"label": ["a", None, "c"]}, geometry=shapes)
    table.to_file(tmp_path / "a.gpkg", layer="detections")
    found = read_truth(tmp_path / "a.gpkg", size=SIZE)
    assert sorted(found.labels) == ["a", "object", "object"]
    line = geopandas.GeoDataFrame({"label": ["a"]}, geometry=[shapely.LineString(RING)])
    line.to_file(tmp_path / "b.gpkg", layer="detections")
    with pytest.raises(SourceError, match="LineString, which has no area"):
        read_truth(tmp_path / "b.gpkg", size=SIZE)


def test_group_0_of_cvat_is_no_group(tmp_path: Path) -> None:
    """CVAT for images 1.1: shapes outside of groups may say ``group_id="0"``; others are one."""
    path = tmp_path / "a.xml"
    for group, count in (("0", 2), ("3", 1)):
        shapes = "".join(
            f'<polygon label="a" group_id="{group}" points="{x},1;{x + 8},1;{x + 8},9"/>'
            for x in (1, 21)
        )
        path.write_text(CVAT.format(f'<image name="scan.tif">{shapes}</image>'))
        assert len(read_truth(path, "scan.tif", size=SIZE)) == count


@pytest.mark.parametrize("kind", ["P", "L", "few bits"])
def test_a_picture_of_object_numbers_is_read_as_it_is_stored(tmp_path: Path, kind: str) -> None:
    """Numbers behind a colour table (as in VOC), or of four bits, are numbers (PNG by Pillow)."""
    values = np.zeros((300, 400), np.uint8)
    values[30:60, 40:80], values[30:60, 80:120] = 1, 2  # side by side: two objects, not one patch
    picture = Image.fromarray(values)
    if kind != "L":
        picture = picture.convert("P")
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(tmp_path / "mask.png", **({"bits": 4} if kind == "few bits" else {}))
    found = read_truth(tmp_path / "mask.png", "scan.tif", size=SIZE)
    assert sorted(found.boxes.tolist()) == [BOX, [80.0, 30.0, 120.0, 60.0]]


def test_round_shapes_and_points_of_labelme_and_via_are_where_they_are() -> None:
    """Circles by their radius, ellipses turned by radians, points, masks by their pixels."""
    drawn = np.zeros((20, 30), bool)
    drawn[5:15, 3:] = True
    stream = io.BytesIO()
    Image.fromarray(drawn).save(stream, "PNG")
    mask = {"label": "a", "shape_type": "mask", "points": [[50, 60], [79, 79]],
            "mask": base64.b64encode(stream.getvalue()).decode()}  # fmt: skip
    file = shapes([("circle", [[100, 100], [103, 104]]), ("point", [[7, 9]])])
    found = read_truth(file | {"shapes": [*file["shapes"], mask]}, "scan.tif", size=SIZE)
    assert sorted(found.boxes.round(2).tolist()) == [
        [7, 9, 7, 9], [53, 65, 80, 75], [95, 95, 105, 105],
    ]  # fmt: skip
    circle = {"name": "circle", "cx": 100, "cy": 100, "r": 5}
    ellipse = {"name": "ellipse", "cx": 200, "cy": 100, "rx": 30, "ry": 10, "theta": np.pi / 2}
    point = {"name": "point", "cx": 7, "cy": 9}
    regions = [
        {"shape_attributes": one, "region_attributes": {}} for one in (circle, ellipse, point)
    ]
    found = read_truth(via_project(regions), "scan.tif", size=SIZE)
    assert sorted(found.boxes.round(2).tolist()) == [
        [7, 9, 7, 9], [95, 95, 105, 105], [190, 70, 210, 130],
    ]  # fmt: skip
    areas = [shapely.Polygon(one[0][0]).area for one in found.polygons if one is not None]
    assert sorted(areas) == pytest.approx([np.pi * 25, np.pi * 300], rel=0.002)


@pytest.mark.parametrize(
    "damaged",
    [
        {"shapes": [3], "imagePath": "scan.tif"},
        {"a.png1": {"filename": "scan.tif", "regions": [{"shape_attributes": 7}]}},
        {"images": [{"id": 1, "file_name": "scan.tif"}], "categories": [], "annotations": [5]},
    ],
    ids=["LabelMe", "VIA", "COCO"],
)
def test_a_damaged_file_is_refused_in_our_words(tmp_path: Path, damaged: dict[str, Any]) -> None:
    """Python's own say nothing to the one who has the file."""
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(damaged))
    with pytest.raises(SourceError) as caught:
        read_truth(path)
    line = str(caught.value)
    assert "truth.json" in line and "\n" not in line
    assert "object" not in line and "attribute" not in line and "subscript" not in line
