"""What a user's model may return, and what is refused."""

import threading
from collections import deque, namedtuple
from dataclasses import make_dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import shapely
from framework_models import needs

from tilevision.adapters.answers import KEYS, findings_of
from tilevision.adapters.function import FunctionModel, ObjectModel
from tilevision.catalogue import model
from tilevision.codec import encode
from tilevision.errors import ModelError
from tilevision.findings import Findings

EDGES = ("xmin", "ymin", "xmax", "ymax")
BOX = [2.0, 3.0, 10.0, 12.0]


@pytest.mark.parametrize("answer", [None, [], (), np.empty((0, 6)), np.array([]), Findings()])
def test_nothing_is_an_answer(answer):
    """Empty results of any kind are no detections, and the same bytes in the checkpoint."""
    found = findings_of(answer, "m")
    assert len(found) == 0
    assert encode(found) == (b'{"boxes":[],"classes":[],"labels":[],"scores":[]}',)


@pytest.mark.parametrize(
    "answer",
    [
        np.array([[*BOX, 0.5, 1]]),
        [[*BOX, 0.5, 1]],
        [np.array([*BOX, 0.5, 1])],
        np.array([[*BOX, 0.5, 1]], dtype=np.float16),
        [{"box": BOX, "score": 0.5, "class_id": 1}],
        [{"bbox": np.array(BOX), "confidence": 0.5, "class_id": 1}],
        {"box": BOX, "score": 0.5, "class_id": 1},
        [dict(zip(EDGES, BOX, strict=True), score=0.5, class_id=1)],
        {"boxes": [BOX], "scores": [0.5], "labels": np.array([1])},
        pd.DataFrame(
            [[*BOX, 0.5, 1]], columns=["xmin", "ymin", "xmax", "ymax", "score", "class_id"]
        ),
        SimpleNamespace(
            xyxy=np.array([BOX]), confidence=np.array([0.5]), class_id=np.array([1]), mask=None
        ),
        Findings([BOX], [0.5], ["class_1"], [1]),
        iter([{"box": BOX, "score": 0.5, "class_id": 1}]),
        [{"x1": 2, "y1": 3, "x2": 10, "y2": 12, "conf": 0.5, "class_id": 1}],
        [{"box": dict(zip(EDGES, BOX, strict=True)), "score": 0.5, "class_id": 1}],
        [{"box": np.array([BOX]), "score": np.array([0.5]), "class_id": np.array(1)}],
        [pd.Series([*BOX, 0.5, 1], [*EDGES, "score", "class_id"])],
        np.ma.masked_array([[*BOX, 0.5, 1]], mask=[[False] * 6]),
        {"boxes": [BOX], "scores": [0.5], "class_ids": [1.0]},
        {"boxes": [BOX], "scores": [0.5], "labels": [1.0]},
        [{"predictions": [{"box": BOX, "score": 0.5, "class_id": 1}]}],
    ],
)
def test_every_documented_form_is_the_same_detection(answer):
    """Arrays, lists, dicts, frames and supervision's detections say the same."""
    assert findings_of(answer, "m") == Findings([BOX], [0.5], ["class_1"], [1])


def test_scores_may_be_missing():
    """Without a score it is NaN, never 1.0."""
    assert np.isnan(findings_of([[1, 2, 3, 4]], "m").scores).all()
    mixed = findings_of([{"box": BOX, "score": 0.5}, {"box": [0, 0, 1, 1]}], "m")
    assert mixed.scores[0] == 0.5 and np.isnan(mixed.scores[1])


def test_names_give_labels_to_class_numbers():
    """Names come as a list or by number; numbers without a name say so."""
    rows = [[*BOX, 0.9, 0], [*BOX, 0.8, 7]]
    assert list(findings_of(rows, "m", ["cat"]).labels) == ["cat", "class_7"]
    assert list(findings_of(rows, "m", {"7": "dog"}).labels) == ["class_0", "dog"]


def test_shapes_and_points_stand_for_boxes():
    """A polygon, rotated box or point without a box gets the box around it."""
    ring = [[1, 1], [5, 2], [3, 9]]
    found = findings_of(
        [
            {"polygon": ring, "score": 0.9},
            {"oriented": [[0, 2], [2, 0], [4, 2], [2, 4]], "score": 0.8},
            {"point": (7, 8), "score": 0.7, "text": "here", "attributes": {"age": 3}},
        ],
        "m",
    )
    assert found.boxes.tolist() == [[1, 1, 5, 9], [0, 0, 4, 4], [7, 8, 7, 8]]
    assert found.points is not None and found.points[2].tolist() == [7, 8]
    assert found.texts == (None, None, "here") and found.attributes == (None, None, {"age": 3})


def test_masks_of_supervision_become_outlines():
    """A mask's outline runs along the edges of its pixels, holes included."""
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 4:14] = True
    mask[8:10, 8:10] = False
    answer = SimpleNamespace(
        xyxy=np.array([[4, 5, 14, 15]]),
        confidence=None,
        class_id=None,
        mask=mask[None],
        data={"class_name": np.array(["ring"])},
    )
    found = findings_of(answer, "m")
    assert list(found.labels) == ["ring"] and found.polygons is not None
    ((exterior, hole),) = found.polygons[0]
    assert (exterior.min(0).tolist(), exterior.max(0).tolist()) == ([4, 5], [14, 15])
    assert (hole.min(0).tolist(), hole.max(0).tolist()) == ([8, 8], [10, 10])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("boxes", "value of type str"),
        (7, "value of type int"),
        (True, "value of type bool"),
        ([1, 2, 3, 4], "list of int, length 4"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((3, 3)), r"shape \(3, 3\)"),
        (np.zeros((3, 7)), r"shape \(3, 7\)"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(8, 8, 3\)"),
        ([["a", "b", "c", "d"]], "an array|return"),
        ([None], "list of NoneType"),
        ((i for i in range(3)), "generator"),
        ([[0, 0, 1, float("nan")]], "not finite"),
        ([[0, 0, 1, 1, 7]], "Score 7 lies outside 0 to 1"),
        ([[5, 5, 1, 1]], "inverted"),
        ([[0, 0, 1, 1, 0.5, 1.5]], "Class 1.5 is no whole number"),
        ([{"bx": BOX}], "Key 'bx' is not known. Did you mean 'box'"),
        ([{"score": 0.5}], "no box"),
        ({}, "no box"),
        ([{"box": [1, 2, 3]}], r"shape \(n, 4\)"),
        ([{"box": BOX, "score": "high"}], "scores must be numbers"),
        ([{"box": BOX, "class_id": "cat"}], "cat"),
        ([{"box": BOX, "polygon": [[0, 0], [1, 1]]}], "3 points or more"),
        ({"boxes": [BOX], "scrs": [0.5]}, "Key 'scrs' is not known"),
        ({"boxes": [BOX], "scores": [0.5, 0.6]}, "scores has 2 rows"),
    ],
)
def test_nonsense_is_one_clear_line(answer, said):
    """What came and what is accepted, as an error that names the model."""
    with pytest.raises(ModelError, match=said) as error:
        findings_of(answer, "ships")
    assert str(error.value).startswith("Model ships returned ") and "\n" not in str(error.value)


def test_ultralytics_results_are_refused_with_the_fix():
    """Its models expect BGR: swapping silently or not at all would both be wrong."""
    result = type("Results", (), {"__module__": "ultralytics.engine.results"})()
    with pytest.raises(ModelError, match=r"pixels\[\.\.\., ::-1\].*BGR"):
        findings_of(result, "m")


def test_documented_keys_are_all_understood():
    """Every key in the table is read by itself or with the rest of its box."""
    values = {
        "box": BOX,
        "score": 0.5,
        "class": "a",
        "geometry": shapely.box(*BOX),
        "class_id": 1,
        "text": "t",
        "point": [1, 1],
    }
    values |= {"polygon": [[0, 0], [1, 0], [0, 1]], "oriented": np.zeros((4, 2)), "attributes": {}}
    values["embedding"] = [0.5, 1.5]
    values |= dict(zip(EDGES, BOX, strict=True)) | {"keypoints": [[1, 1]]}
    for key, meaning in KEYS.items():
        assert len(findings_of([{"box": BOX, key: values[meaning]}], "m")) == 1, key


def test_batched_functions_answer_for_each_tile():
    """A batched function gets a list of tiles, and must return as many answers."""
    tiles = [np.zeros((4, 5, 3), np.uint8)] * 3
    good = FunctionModel(lambda batch: [[[0, 0, len(batch), 1]]] * 3, "m", batched=True)
    assert [f.boxes[0, 2] for f in good.predict(tiles)] == [3, 3, 3]
    for wrong in ([], None, np.zeros((3, 4))):
        bad = FunctionModel(lambda batch, wrong=wrong: wrong, "m", batched=True)
        with pytest.raises(ModelError, match="one answer for each tile"):
            bad.predict(tiles)


def test_answers_of_objects_are_read_like_those_of_functions():
    """A model object may return arrays, too; no list at all is refused."""

    class Anything:
        def predict(self, batch):
            return [np.array([[0, 0, 1, 1]])] * len(batch) if len(batch) > 1 else "none"

    assert [len(f) for f in ObjectModel(Anything(), "m").predict([None, None])] == [1, 1]
    with pytest.raises(ModelError, match="returned a str; return a list"):
        ObjectModel(Anything(), "m").predict([None])


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "person", "class": 0},
        {"class": 0, "name": "person"},
        {"class_id": 0, "class_name": "person"},
        {"class": "person", "class_id": 0},
        {"label": "person", "class": 0.0},
    ],
)
def test_name_and_number_of_a_class_come_together(keys):
    """YOLOv5's tables have class and name, Roboflow's rows class and class_id: both are kept."""
    found = findings_of([{"box": BOX, **keys}], "m")
    assert (found.labels.tolist(), found.class_ids.tolist()) == (["person"], [0])


def test_a_class_number_alone_has_the_declared_name():
    """`names=` names a number under whatever key; without names its digits are the label."""
    for key in ("class", "label"):
        named = findings_of([{"box": BOX, key: 1}], "m", ["cat", "dog"])
        assert (named.labels.tolist(), named.class_ids.tolist()) == (["dog"], [1])
        assert findings_of([{"box": BOX, key: 1}], "m").labels.tolist() == ["1"]


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT])
@pytest.mark.parametrize("form", ["rows", "table"])
def test_what_is_missing_is_missing_in_every_column(missing, form):
    """None, NaN, NA and NaT are no label, no number, no text, no score and no shape."""
    full = {"score": 0.9, "label": "ship", "class_id": 3, "text": "A1", "attributes": {"a": 1}}
    full |= {"polygon": [[2, 3], [10, 3], [10, 12]], "point": [4, 5]}
    rows = [dict(zip(EDGES, BOX, strict=True), **full)]
    rows.append(dict(zip(EDGES, BOX, strict=True), **dict.fromkeys(full, missing)))
    found = findings_of(rows if form == "rows" else pd.DataFrame(rows), "m")
    assert found.labels.tolist() == ["ship", "object"]
    assert found.class_ids.tolist() == [3, -1]
    assert found.texts == ("A1", None) and found.attributes == ({"a": 1}, None)
    assert found.polygons[1] is None and np.isnan(found.points[1]).all()
    assert np.isnan(found.scores[1])


def test_a_column_of_nothing_is_no_column():
    """A table whose texts and labels are all missing has none."""
    table = pd.DataFrame([[*BOX, None, None]], columns=[*EDGES, "label", "text"])
    found = findings_of(table, "m")
    assert (found.labels.tolist(), found.texts) == (["object"], None)


@pytest.mark.parametrize("library", ["polars", "polars lazily", "pyarrow", "pandas on pyarrow"])
def test_tables_of_other_libraries_are_read(library):
    """polars, pyarrow and pandas on pyarrow: a null is missing, and no class of its own."""
    columns = dict(zip(EDGES, ([one, one] for one in BOX), strict=True))
    columns |= {"score": [0.9, None], "label": ["ship", None], "class_id": [3, None]}
    if library.startswith("polars"):
        polars = pytest.importorskip("polars")
        table = polars.DataFrame(columns)
        table = table.lazy() if "lazily" in library else table
    else:
        pyarrow = pytest.importorskip("pyarrow")
        table = pyarrow.table(columns)
        table = table.to_pandas(types_mapper=pd.ArrowDtype) if "pandas" in library else table
    found = findings_of(table, "m")
    assert found.labels.tolist() == ["ship", "object"]
    assert found.class_ids.tolist() == [3, -1] and np.isnan(found.scores[1])


def test_tensors_anywhere_are_numbers():
    """A tensor of one number is that number, not its text; bfloat16 has no NumPy type."""
    (torch,) = needs("torch")
    rows = [{"box": torch.tensor(BOX), "score": torch.tensor(0.5), "label": torch.tensor(1)}]
    assert findings_of(rows, "m", ["a", "b"]) == Findings([BOX], [0.5], ["b"], [1])
    whole = torch.tensor([[*BOX, 0.5, 1]], dtype=torch.bfloat16)
    assert findings_of(whole, "m", ["a", "b"]) == Findings([BOX], [0.5], ["b"], [1])


def test_rows_may_end_with_the_name_of_a_class():
    """Lists, arrays of objects and arrays of texts: a box, a score, and a name."""
    right = Findings([BOX], [0.5], ["ship"], [-1])
    for kind in (list, object, str):
        rows = [[*BOX, 0.5, "ship"]]
        assert findings_of(rows if kind is list else np.array(rows, dtype=kind), "m") == right


def test_what_is_masked_is_missing():
    """A masked score or class of a masked array is none; a masked box makes no sense."""
    rows = np.ma.masked_array([[*BOX, 0.5, 1]], mask=[[0, 0, 0, 0, 1, 1]])
    found = findings_of(rows, "m")
    assert np.isnan(found.scores[0]) and found.class_ids.tolist() == [-1]
    with pytest.raises(ModelError, match=r"Detection 1 of 1: .* not finite"):
        findings_of(np.ma.masked_array([[*BOX, 0.5, 1]], mask=True), "m")


def test_attributes_are_what_json_has_or_the_row_is_bad():
    """NA is null; a date is refused by its name, and only its row is left out with "drop"."""
    rows = [{"box": BOX, "attributes": {"age": pd.NA, "count": np.int64(3)}}]
    assert findings_of(rows, "m").attributes == ({"age": None, "count": 3},)
    rows.append({"box": BOX, "attributes": {"when": pd.Timestamp("2020-01-01")}})
    with pytest.raises(ModelError, match="Detection 2 of 2: Attribute 'when' is Timestamp"):
        findings_of(rows, "m")
    kept = findings_of(rows, "m", on_bad="drop")
    assert len(kept) == 1 and "'when'" in kept.note


@pytest.mark.parametrize("over", [1e-7, 9e-4])
def test_scores_a_hair_outside_are_clipped(over):
    """Half precision passes 1 by up to a thousandth; every form of answer is forgiven it."""
    low, high = [0, 0, 1, 1, -over, 0], [2, 2, 3, 3, 1 + over, 0]
    for answer in (
        np.array([low, high]),
        [{"box": row[:4], "score": row[4]} for row in (low, high)],
        {"boxes": [low[:4], high[:4]], "scores": [low[4], high[4]]},
    ):
        assert findings_of(answer, "m").scores.tolist() == [1.0, 0.0]
    assert Findings([BOX], [1 + over]).scores.tolist() == [1.0]
    with pytest.raises(ModelError, match=r"[Ss]core 1\.01 lies outside"):
        findings_of([[0, 0, 1, 1, 1.01]], "m")


def test_deepforests_table_is_read():
    """DeepForest 1.x returns xmin … ymax, label, score, image_path, and from 1.4 on a geometry."""
    table = pd.DataFrame(
        {"xmin": [2.0], "ymin": [3.0], "xmax": [10.0], "ymax": [12.0], "label": ["Tree"],
         "score": [0.5], "image_path": ["plot.tif"], "geometry": [shapely.box(*BOX)]}
    )  # fmt: skip
    assert findings_of(table, "m") == Findings([BOX], [0.5], ["Tree"])
    ring = shapely.Polygon([(2, 3), (10, 3), (10, 12)])
    outlined = findings_of(table.assign(geometry=[ring]), "m")
    assert outlined.polygons[0][0][0].tolist() == [[2, 3], [10, 3], [10, 12]]


def test_a_shape_of_shapely_may_stand_under_either_name():
    """As an outline and as a geometry it says the same; several parts stay one object."""
    parts = shapely.MultiPolygon([shapely.Point(20, 20).buffer(5), shapely.box(40, 40, 50, 50)])
    outlined = findings_of([{"polygon": parts, "score": 0.5}], "m")
    assert outlined == findings_of([{"geometry": parts, "score": 0.5}], "m")
    assert outlined.boxes.tolist() == [[15, 15, 50, 50]] and len(outlined.polygons[0]) == 2


def test_roboflows_predictions_are_read():
    """Roboflow's answer has boxes by centre and size, and outlines as points with x and y."""
    row = {"x": 6.0, "y": 7.5, "width": 8.0, "height": 9.0, "confidence": 0.5, "class": "ship",
           "class_id": 2, "detection_id": "a-b"}  # fmt: skip
    answer = {"predictions": [row], "image": {"width": 64, "height": 64}, "time": 0.1}
    assert findings_of(answer, "m") == Findings([BOX], [0.5], ["ship"], [2])
    corners = [{"x": 2, "y": 3}, {"x": 10, "y": 3}, {"x": 10, "y": 12}]
    outlined = findings_of([{**row, "points": corners}], "m")
    assert outlined.polygons[0][0][0].tolist() == [[2, 3], [10, 3], [10, 12]]


def test_rotated_boxes_and_trackers_of_supervision_are_kept():
    """Supervision keeps corners under data["xyxyxyxy"], and numbers of tracks beside."""
    corners = np.array([[[2, 3], [10, 5], [8, 12], [1, 9]]], dtype=np.float32)
    detections = SimpleNamespace(
        xyxy=np.array([[1, 3, 10, 12]]),
        confidence=np.array([0.5]),
        class_id=np.array([1]),
        mask=None,
        tracker_id=np.array([7]),
        data={"xyxyxyxy": corners, "class_name": np.array(["ship"])},
    )
    found = findings_of(detections, "m")
    assert found.oriented.tolist() == corners.tolist()
    assert found.labels.tolist() == ["ship"] and found.attributes == ({"tracker_id": 7},)


def test_what_a_result_hands_to_supervision_is_read_whole():
    """Outlines, points and texts beside the boxes come back as what they were (both ways)."""
    shape = [[[[[2, 3], [10, 3], [10, 12]]]]]
    answer = SimpleNamespace(
        xyxy=np.array([BOX]), confidence=np.array([0.5]), class_id=np.array([1]), mask=None,
        data={"class_name": ["ship"], "polygon": shape, "text": ["A1"], "age": [3]},
    )  # fmt: skip
    found = findings_of(answer, "m")
    assert found.texts == ("A1",) and found.attributes == ({"age": 3},)
    assert found.polygons[0][0][0].tolist() == shape[0][0][0]
    answer.data = {"point": np.array([[4.0, 5.0]])}
    assert findings_of(answer, "m").points.tolist() == [[4, 5]]


def test_masks_of_torchvision_are_outlines():
    """A dict as torchvision's may have masks (n, 1, h, w) of probabilities."""
    masks = np.zeros((1, 1, 20, 20), np.float32)
    masks[0, 0, 3:12, 2:10] = 0.9
    found = findings_of({"boxes": [BOX], "masks": masks}, "m")
    assert shapely.Polygon(found.polygons[0][0][0]).area == pytest.approx(72, rel=0.01)


BAD = [[5, 5, 1, 1, 0.5, 0], [0, 0, 1, 1, 7, 0], [0, 0, float("nan"), 1, 0.5, 0]]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("form", ["array", "rows", "columns", "table"])
def test_a_bad_row_names_itself_and_is_dropped_where_that_is_asked(bad, form):
    """By default the tile fails with the row's number; with on_bad="drop" the others stay."""
    rows = [[*BOX, 0.5, 1], bad, [*BOX, 0.4, 1]]
    named = [{**dict(zip(EDGES, r, strict=False)), "score": r[4], "class_id": r[5]} for r in rows]
    columns = {"boxes": [r[:4] for r in rows], "scores": [r[4] for r in rows]}
    columns["labels"] = np.array([r[5] for r in rows])
    answer = {"array": np.array(rows), "rows": named, "columns": columns}.get(form)
    answer = pd.DataFrame(named) if form == "table" else answer
    if not (form in ("rows", "table") and np.isnan(bad[2])):  # there it has no box
        with pytest.raises(ModelError, match="Detection 2 of 3: "):
            findings_of(answer, "m")
    found = findings_of(answer, "m", on_bad="drop")
    assert found.scores.tolist() == [0.5, 0.4] and found.class_ids.tolist() == [1, 1]
    assert found.note.startswith("1 of 3 detections dropped; detection 2: ")


def test_dropping_is_declared_and_changes_the_identity():
    """`tv.model(f, on_bad="drop")` is another model; the default, spelled out, is the same."""

    def rows(pixels):
        return [{"box": [5, 5, 1, 1]}, {"box": [0, 0, 1, 1]}, {"score": 0.5}]

    plain, drop = model(rows), model(rows, on_bad="drop")
    assert model(rows, on_bad="raise").fingerprint == plain.fingerprint != drop.fingerprint
    assert model(rows, thread_safe=True).fingerprint == plain.fingerprint
    seen = FunctionModel(rows, "m", **drop.params).predict([None])[0]
    assert len(seen) == 1 and seen.note.startswith("2 of 3 detections dropped")
    with pytest.raises(ModelError, match="on_bad of model rows is 'skip'; give 'raise' or 'drop'"):
        model(rows, on_bad="skip")
    with pytest.raises(ModelError, match="Key 'bx' is not known"):
        findings_of([{"bx": BOX}], "m", on_bad="drop")  # a mistake in the code, not in a row


@pytest.mark.parametrize("kind", ["function", "object"])
@pytest.mark.parametrize("thread_safe", [False, True])
def test_threads_of_a_worker_take_turns(kind, thread_safe):
    """A model that keeps the picture in itself is called by one thread at a time, unless declared.

    Two calls meet in a barrier if they may overlap, and it breaks if they may not.
    """
    meet = threading.Barrier(2)
    met = []

    def call(batch):
        try:
            meet.wait(5 if thread_safe else 0.2)
            met.append(True)
        except threading.BrokenBarrierError:
            met.append(False)
        return [None] * len(batch)

    value = SimpleNamespace(predict=call)
    made = (
        FunctionModel(call, "m", batched=True, thread_safe=thread_safe)
        if kind == "function"
        else ObjectModel(value, "m", thread_safe=thread_safe)
    )
    threads = [threading.Thread(target=made.predict, args=([None],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert met == [thread_safe, thread_safe]


def test_class_numbers_beyond_the_names_of_a_function_are_told():
    """Names for 0 to 1 and a class 5: the names may belong to other numbers."""
    numbered = FunctionModel(lambda pixels: [[*BOX, 0.5, 5]], "m", names=["car", "ship"])
    answers = numbered.predict([np.zeros((9, 9, 3), np.uint8)])
    assert answers[0].labels.tolist() == ["class_5"]
    assert "gave class number 5, and names are 2, for 0 to 1" in answers.remarks[0]


Located = namedtuple("Located", ("score", "xmin", "ymin", "xmax", "ymax", "label"))
Cells = namedtuple("Cells", ("left", "top", "right", "bottom", "sure", "kind"))
Record = make_dataclass("Record", ["box", "score", "class_id"])
Table = np.dtype([(name, float) for name in (*EDGES, "score")] + [("label", "U9")])


@pytest.mark.parametrize(
    "answer",
    [
        [Located(0.5, *BOX, "ship")],  # by its names, not by its order
        Located(0.5, *BOX, "ship"),
        [Cells(*BOX, 0.5, "ship")],  # names that nobody knows: by its order
        [Record(BOX, 0.5, 1)],
        Record(BOX, 0.5, 1),
        np.array([(*BOX, 0.5, "ship")], Table),
        np.rec.array([(*BOX, 0.5, "ship")], Table),
        {"a": {"box": BOX, "score": 0.5, "label": b"ship"}}.values(),
        deque([{"box": BOX, "score": 0.5, "label": "ship"}]),
        (np.array([BOX]), np.array([0.5]), np.array([1])),
        [{"boxes": np.array([BOX]), "scores": np.array([0.5]), "labels": np.array([1])}],
        {"boxes": np.array([BOX]), "scores": np.array([0.5]), "text_labels": ["ship"]},
        list(pd.DataFrame([[*BOX, 0.5, "ship"]], columns=[*EDGES, "score", "label"]).itertuples()),
    ],
)
def test_records_and_columns_of_any_kind_are_read(answer):
    """Named tuples, data classes, structured arrays, views, tuples of columns, a list of one."""
    found = findings_of(answer, "m", names=["car", "ship"])
    assert found.boxes.tolist() == [BOX]
    assert found.scores.tolist() == [0.5]
    assert found.labels.tolist() == ["ship"]


@pytest.mark.parametrize("parts", [2, 3])
def test_columns_of_nothing_are_nothing(parts):
    """Of a tuple of empty boxes, scores and classes, too."""
    assert len(findings_of((np.zeros((0, 4)), np.zeros(0), np.zeros(0))[:parts], "m")) == 0


def test_shapes_alone_are_detections():
    """A list of shapely's geometries, or a GeoSeries, is one detection each."""
    triangle = shapely.Polygon([(0, 0), (4, 0), (2, 5)])
    found = findings_of([triangle, shapely.box(1, 1, 3, 3)], "m")
    assert sorted(found.boxes.tolist()) == [[0, 0, 4, 5], [1, 1, 3, 3]]


def test_a_map_of_segments_is_read_as_transformers_makes_it():
    """``post_process_instance_segmentation`` of transformers 5: a map, and what its numbers are."""
    numbered = np.full((20, 20), -1)
    numbered[2:10, 3:12], numbered[12:18, 1:5] = 0, 7
    listed = [
        {"id": 0, "label_id": 1, "was_fused": False, "score": 0.9},
        {"id": 7, "label_id": 0, "was_fused": False, "score": 0.8},
        {"id": 9, "label_id": 0, "was_fused": False, "score": 0.7},  # covered by others
    ]
    answer = {"segmentation": numbered, "segments_info": listed}
    found = findings_of(answer, "m", names=["car", "ship"])
    assert found.labels.tolist() == ["ship", "car"]
    assert found.boxes.tolist() == [[3, 2, 12, 10], [1, 12, 5, 18]]
    areas = [shapely.Polygon(parts[0][0]).area for parts in found.polygons]
    assert areas == pytest.approx([72, 24])


def test_scores_of_key_points_are_kept():
    """Keypoint R-CNN's ``keypoints_scores`` are no probabilities: they become attributes."""
    answer = {"boxes": [BOX], "keypoints": np.ones((1, 2, 3)), "keypoints_scores": [[3.5, -1.0]]}
    assert findings_of(answer, "m").attributes == ({"keypoints_scores": [3.5, -1.0]},)


@pytest.mark.filterwarnings("ignore")
def test_all_of_supervision_is_kept_or_named():
    """Columns of any shape that JSON has are attributes; the note names the others."""
    (sv,) = needs("supervision")
    seen = sv.Detections(
        xyxy=np.array([BOX]), confidence=np.array([0.5]), tracker_id=np.array([7]),
        data={"embedding": np.ones((1, 3)), "more": np.array([{"a": 1}], dtype=object),
              "handle": np.array([object()])},
        metadata={"camera": "north"},
    )  # fmt: skip
    found = findings_of(seen, "m")
    assert found.attributes == ({"embedding": [1, 1, 1], "more": {"a": 1}, "tracker_id": 7},)
    assert found.note == "Not read of supervision's Detections: handle, metadata camera."
    ours = sv.Detections(np.array([BOX]), metadata={"coverage": "All.", "complete": True})
    assert findings_of(ours, "m").note == ""
    poses = sv.KeyPoints(
        xy=np.array([[[1.0, 2], [3, 4]]]), detection_confidence=np.array([0.7]),
        keypoint_confidence=np.array([[0.5, 0.6]]), visible=np.array([[True, False]]),
        data={"zone": np.array(["north"])},
    )  # fmt: skip
    found = findings_of(poses, "m")
    assert found.scores.tolist() == [0.7]
    assert found.keypoints.tolist() == [[[1, 2, 0.5], [3, 4, 0]]]
    assert found.attributes == ({"zone": "north"},)


def test_what_sahi_predicts_is_read():
    """A `PredictionResult`, and the list of `ObjectPrediction` in it (sahi 0.12), with masks."""
    needs("sahi")
    from sahi.prediction import ObjectPrediction

    square = [10.0, 10.0, 20.0, 10.0, 20.0, 30.0, 10.0, 30.0]
    listed = [
        ObjectPrediction(bbox=[1, 2, 9, 8], category_id=0, category_name="car", score=0.5),
        ObjectPrediction(
            bbox=[10, 10, 20, 30], category_id=3, category_name="ship", score=0.9,
            segmentation=[square], full_shape=[40, 40],
        ),
    ]  # fmt: skip
    for answer in (listed, SimpleNamespace(object_prediction_list=listed)):
        found = findings_of(answer, "m")
        assert found.labels.tolist() == ["ship", "car"]
        assert found.class_ids.tolist() == [3, 0]
        assert found.boxes.tolist() == [[10, 10, 20, 30], [1, 2, 9, 8]]
        outline = shapely.Polygon(found.polygons[0][0][0])
        assert outline.area == pytest.approx(231, abs=1) and found.polygons[1] is None


def test_a_list_of_results_of_ultralytics_is_told_from_others():
    """`model(pixels)` gives a list of one: what to return is said as for the one itself."""
    kind = type("Results", (), {"__module__": "ultralytics.engine.results"})
    with pytest.raises(ModelError, match=r"Return result\.boxes\.data"):
        findings_of([kind()], "m")
