"""Result: what is found, what is missing, and other thresholds without inference."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tilevision.errors import RunError, TilevisionError
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile
from tilevision.regions import Region
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.sources import ImageMetadata

SIZE = (200, 100)
LEFT, RIGHT = Tile(0, 0, Box(0, 0, 120, 100)), Tile(0, 1, Box(80, 0, 200, 100))


class Picture:
    """A source that says what it is and is never read."""

    size = SIZE
    fingerprint = "ab12"

    def __init__(self, mpp=None):
        self.metadata = ImageMetadata(mpp=mpp)


def _seen(tile, boxes, scores, labels, **columns):
    return TileFindings(tile, Findings(boxes, scores, labels, **columns))


def _result(rows=None, seen=None, settings=None, mpp=None, **facts):
    rows = rows or [
        TileRow(0.0, LEFT, "done", 1, "", 0.1, 0.2, 2),
        TileRow(0.0, RIGHT, "done", 1, "", 0.1, 0.3, 1),
    ]
    if seen is None:
        seen = [
            _seen(LEFT, [[10, 10, 20, 30], [90, 40, 110, 60]], [0.9, 0.4], ["cell", "dust"]),
            _seen(RIGHT, [[10, 40, 30, 60]], [0.6], ["dust"]),
        ]
    about = {"run_id": "r1", "status": "complete", "model": "spots"} | facts
    return Result(Picture(mpp), rows, seen, settings or MergeSettings(), RunFacts(**about), "a.tif")


def _partial():
    rows = [
        TileRow(0.0, LEFT, "done", 1),
        TileRow(0.0, RIGHT, "failed", 3, worker="w", error="ModelError: x"),
    ]
    return _result(rows=rows, seen=[_seen(LEFT, [[1, 1, 5, 5]], [0.9], ["cell"])], status="partial")


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"classes": ("nosuch",)}, "(class nosuch)"),
        ({"min_score": 0.95}, "(min_score 0.95)"),
        ({"max_area": 1.0, "classes": ("cell", "dust")}, "(class cell or dust, max_area 1)"),
        ({"classes": ()}, "(class none)"),
    ],
)
def test_what_filters_leave_out_was_not_looked_for_in_vain(filters, told):
    """A model that found objects did not "find nothing": a misspelt class is seen at once."""
    text = _result(settings=MergeSettings(**filters)).summary
    assert "spots found nothing that the filters keep in an image" in text
    assert f"The filters {told} keep none of the 3 detections of its tiles: cell, dust." in text
    assert "filters" not in _result().summary
    nothing = [_seen(LEFT, [], [], []), _seen(RIGHT, [], [], [])]
    assert "filters" not in _result(seen=nothing, settings=MergeSettings(**filters)).summary


def test_findings_are_merged_across_tiles():
    """An object that two tiles saw is one detection of the image, with the better score."""
    found = _result().findings
    assert found == Findings([[10, 10, 20, 30], [90, 40, 110, 60]], [0.9, 0.6], ["cell", "dust"])


def test_result_does_not_depend_on_the_order_of_tiles():
    """Tiles that finished in another order give the same findings and the same table."""
    rows = [TileRow(0.0, LEFT, "done"), TileRow(0.0, RIGHT, "done")]
    seen = _result().tile_findings
    a, b = _result(rows, seen), _result(rows[::-1], seen[::-1])
    assert a.findings == b.findings
    assert a.tiles.equals(b.tiles)


def test_thresholds_apply_before_the_merge():
    """A view below min_score takes no part: it can neither join nor be joined."""
    kept = _result().with_(min_score=0.5).findings
    assert kept.boxes.tolist() == [[10, 10, 20, 30], [90, 40, 110, 60]]
    assert _result().with_(min_score=0.65).findings.labels.tolist() == ["cell"]


def test_with_keeps_what_is_not_given():
    """with_ changes the settings it is given, leaves the others, and None lifts a filter."""
    strict = _result().with_(min_score=0.95, classes=["cell"])
    assert strict.settings == MergeSettings(min_score=0.95, classes=("cell",))
    assert len(strict.findings) == 0
    lifted = strict.with_(min_score=None)
    assert lifted.settings == MergeSettings(classes=("cell",))
    assert lifted.findings.labels.tolist() == ["cell"]
    assert lifted.with_(merge="nms", match_metric="ios").settings == MergeSettings(
        "nms", match_metric="ios", classes=("cell",)
    )


def test_with_leaves_the_result_as_it_was():
    """with_ returns another result."""
    result = _result()
    result.with_(classes="cell")
    assert len(result.findings) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"merge": "seams"}, "merge is 'seams'; give one of seam, nms"),
        ({"match_metric": "giou"}, "match_metric is 'giou'; give one of"),
        ({"match_threshold": 1.5}, "match_threshold is 1.5"),
        ({"match_threshold": None}, "match_threshold is None"),
        ({"min_score": 50}, "min_score is 50"),
        ({"min_score": float("nan")}, "min_score is nan"),
        ({"min_score": True}, "min_score is True"),
        ({"min_score": "0.5"}, "min_score is '0.5'"),
        ({"classes": [3]}, "classes holds 3"),
        ({"classes": 3}, "classes is 3"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(arguments, says):
    """A bad name or number is a RunError that says which and what is allowed."""
    with pytest.raises(RunError, match="^" + says.replace("(", r"\(")) as caught:
        _result().with_(**arguments)
    assert "\n" not in str(caught.value)


def test_tiles_table_has_a_row_a_tile():
    """`tiles` has the columns of the contract, in order, sorted by tile."""
    tiles = _result().tiles
    assert list(tiles.columns) == [
        *("id", "row", "col", "xmin", "ymin", "xmax", "ymax", "scale", "status", "attempts"),
        *("seconds", "read_seconds", "infer_seconds", "n_findings", "saturated", "model"),
        *("worker", "error"),
    ]
    assert tiles["id"].tolist() == ["r000c000", "r000c001"]
    assert tiles["seconds"].tolist() == pytest.approx([0.3, 0.4])


def test_restored_tiles_have_no_times():
    """Times of a tile that was not run now are NaN, whatever its row says."""
    tiles = _result(
        rows=[TileRow(0.0, LEFT, "restored", 0, "", 0.1, 0.2), TileRow(0.0, RIGHT, "done", 1)]
    ).tiles
    assert tiles[["seconds", "read_seconds", "infer_seconds"]].isna().all(axis=None)


def test_partial_is_never_dressed_as_complete():
    """With a failed tile, each way of looking at the result says how much is missing."""
    result = _partial()
    assert not result.complete
    missing = "1 of 2 tiles, 40% of the area, were not analysed"
    for text in (repr(result), result.summary, result._repr_html_(), result.coverage):
        assert missing in text
    assert missing in result.to_dataframe().attrs["coverage"]
    assert not result.to_dataframe().attrs["complete"]


def test_a_synthesis_model_cannot_hide_what_is_missing():
    """The text of a synthesis model is followed by the coverage."""
    facts = RunFacts("r", "partial", synthesis="All is well.")
    result = Result(
        Picture(), _partial().rows, _partial().tile_findings, MergeSettings(), facts, "a"
    )
    assert result.summary.startswith("All is well. INCOMPLETE: 1 of 2 tiles")


@pytest.mark.parametrize("status", ["pending", "running", "retrying", "throttled", "failed"])
def test_a_run_that_ended_early_is_incomplete(status):
    """Whatever state a tile was left in, it counts as not analysed."""
    result = _result(rows=[TileRow(0.0, LEFT, "done"), TileRow(0.0, RIGHT, status)])
    assert not result.complete
    assert "1 of 2 tiles" in result.coverage


def test_a_result_without_tiles_is_incomplete():
    """Nothing analysed is not everything analysed."""
    assert not Result(Picture(), [], [], MergeSettings(), RunFacts("r", "blocked"), "a").complete


def test_failed_says_where_and_why():
    """`failed` lists the failed tiles alone, with region, error, attempts, worker and details."""
    assert _partial().failed.to_dict("records") == [
        {"id": "r000c001", "xmin": 80, "ymin": 0, "xmax": 200, "ymax": 100}
        | {"error": "ModelError: x", "attempts": 3, "worker": "w", "details": ""}
    ]
    assert _result().failed.empty


def test_summary_says_what_was_restored_and_when():
    """The summary has a sentence on how many tiles were restored and when they were computed."""
    told = _result(restored=1, restored_at=1_700_000_000.0).summary
    assert "1 of 2 tiles was restored from the checkpoint, the oldest computed 2023-11-1" in told
    assert "restored" not in _result().summary
    assert "restored" not in _result(restored=1).description


def test_labels_are_escaped_in_html():
    """A label is text from a model, never markup of the page."""
    nasty = "<img src=x onerror=alert(1)>"
    result = _result(seen=[_seen(LEFT, [[1, 1, 2, 2]], [0.5], [nasty])])
    assert nasty not in result._repr_html_()
    assert "&lt;img" in result._repr_html_()


def test_dataframe_of_detections():
    """to_dataframe has a row per detection, in pixels, NaN where there is no score."""
    seen = [_seen(LEFT, [[10, 10, 20, 30]], [np.nan], ["cell"])]
    table = _result(seen=seen).to_dataframe()
    assert list(table.columns) == [
        *("xmin", "ymin", "xmax", "ymax", "label", "class_id", "score", "area")
    ]
    assert table.loc[0, ["xmin", "ymin", "xmax", "ymax", "area"]].tolist() == [10, 10, 20, 30, 200]
    assert table["score"].isna().all()
    assert table.attrs["units"]["area"] == "px²"


def test_dataframe_of_nothing_has_the_columns():
    """No detection gives an empty table with the same columns."""
    table = _result(seen=[]).to_dataframe()
    assert len(table) == 0
    assert "label" in table.columns


def test_area_in_square_microns_where_known():
    """area_um2 is the area times the microns per pixel in x and in y."""
    table = _result(mpp=(0.5, 0.25)).to_dataframe()
    assert table["area_um2"].tolist() == (table["area"] * 0.125).tolist()
    assert table.attrs["units"]["area_um2"] == "µm²"


def test_area_is_that_of_the_outline():
    """A polygon's area leaves out its holes; a rotated box has its own; else the box's."""
    ring = [[0, 0], [10, 0], [10, 10], [0, 10]]
    hole = [[2, 2], [4, 2], [4, 4], [2, 4]]
    diamond = [[25, 20], [30, 25], [25, 30], [20, 25]]
    none = [[np.nan, np.nan]] * 4
    seen = _seen(
        LEFT,
        [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 44]],
        [0.9, 0.8, 0.7],
        ["a", "b", "c"],
        polygons=[[[np.array(ring), np.array(hole)]], None, None],
        oriented=[none, diamond, none],
    )
    assert _result(seen=[seen]).to_dataframe()["area"].tolist() == [96, 50, 40]


def test_class_numbers_are_filled_in():
    """Without numbers of the model, labels are numbered in sorted order; its own are kept."""
    boxes = [[i * 20, 0, i * 20 + 5, 5] for i in range(4)]
    scores, labels = [0.9, 0.8, 0.7, 0.6], ["dog", "cat", "dog", "ant"]
    plain = _result(seen=[_seen(LEFT, boxes, scores, labels)])
    assert plain.to_dataframe()["class_id"].tolist() == [2, 1, 2, 0]
    some = _result(seen=[_seen(LEFT, boxes, scores, labels, class_ids=[7, 3, -1, -1])])
    assert some.to_dataframe()["class_id"].tolist() == [7, 3, 7, 8]


def test_attributes_are_columns_however_deep_they_are():
    """As `pandas.json_normalize` names them; what a row lacks is None, lists stay lists."""
    rows = [{"size": {"width": 3, "parts": [1, 2]}, "kind": "a"}, {"size": 5}]
    boxes = [[1, 1, 5, 5], [10, 10, 15, 15]]
    seen = TileFindings(LEFT, Findings(boxes, [0.9, 0.8], attributes=rows))
    table = _result(seen=[seen]).to_dataframe()
    found = table.filter(like="attributes.")
    expected = pd.json_normalize(rows).add_prefix("attributes.")
    assert set(found) == set(expected)
    assert found["attributes.size.parts"].tolist() == [[1, 2], None]
    assert found["attributes.size.width"].tolist()[0] == 3
    assert found["attributes.size"].tolist()[1] == 5


def test_saturated_tiles_are_counted_from_the_findings():
    """A restored tile that was full is pointed out like a fresh one."""
    full = TileFindings(LEFT, Findings([[1, 1, 2, 2]]), saturated=True)
    result = _result(
        seen=[full], rows=[TileRow(0.0, LEFT, "restored"), TileRow(0.0, RIGHT, "done")]
    )
    assert "1 tiles are saturated" in result.summary


def test_errors_are_of_the_tree():
    """What result raises on purpose is a TilevisionError."""
    assert issubclass(RunError, TilevisionError)


def test_many_tiles_are_sorted_by_row_and_column():
    """The table stands row by row however large the grid."""
    tiles = Grid.parse("12x12").tiles((1000, 1000))
    rows = [TileRow(0.0, tile, "done") for tile in reversed(tiles)]
    table = Result(Picture(), rows, [], MergeSettings(), RunFacts("r", "complete"), "a").tiles
    assert table["id"].tolist() == [tile.id for tile in tiles]


def test_limits_apply_to_merged_objects():
    """An object is as large as its parts together, and as sure as the surest of its views."""
    whole = _result(mpp=(0.5, 0.5))
    assert whole.areas.tolist() == [50.0, 100.0]
    assert whole.with_(min_area=51).findings.labels.tolist() == ["dust"]
    assert whole.with_(max_area=99).findings.labels.tolist() == ["cell"]
    assert whole.with_(min_area=50, max_area=100).findings == whole.findings
    # One of the two views of the dust scores 0.4: it is the merged object that has 0.6.
    assert whole.with_(max_score=0.5).findings.labels.tolist() == []
    assert whole.with_(max_score=0.6).findings.labels.tolist() == ["dust"]
    assert "merged" not in whole.methods()
    assert (
        "merged objects of an area below 51 µm² were dropped" in whole.with_(min_area=51).methods()
    )


def test_limits_that_exclude_each_other_are_refused():
    """Nothing would be left, and the line says which two numbers do not go together."""
    with pytest.raises(RunError, match=r"min_area=5 is above max_area=4"):
        _result().with_(min_area=5, max_area=4)
    with pytest.raises(RunError, match=r"min_score=0.5 is above max_score=0.4"):
        _result().with_(min_score=0.5, max_score=0.4)


def test_another_region_needs_no_inference():
    """What lies in it is counted; a tile that it touches and that nobody analysed is missing."""
    left = _result().with_(region=(0, 0, 80, 100))
    assert left.findings.labels.tolist() == ["cell"]
    assert left.complete
    assert [row.status for row in left.rows] == ["done", "skipped"]
    back = left.with_(region=None)
    assert [row.status for row in back.rows] == ["done", "pending"]
    assert not back.complete
    assert "INCOMPLETE: 1 of 2 tiles" in back.coverage


NAMED = """{"type": "FeatureCollection", "features": [
  {"type": "Feature", "properties": {"name": "core"},
   "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [50, 0], [50, 100], [0, 100]]]}},
  {"type": "Feature", "properties": {"classification": {"name": "rim"}},
   "geometry": {"type": "Polygon", "coordinates": [[[40, 0], [140, 0], [140, 100], [40, 100]]]}}
]}"""


def test_each_named_region_has_a_row():
    """Names are those of the features; what two of them share counts in both."""
    table = _result().with_(region=NAMED).regions
    assert table["region"].tolist() == ["core", "rim"]
    assert table["detections"].tolist() == [1, 1]
    assert table["area"].tolist() == [5_000, 10_000]
    assert table["density"].tolist() == [200, 100]
    assert table.attrs["units"] == {"area": "px²", "density": "1/megapixel"}
    whole = _result().regions
    assert whole.values.tolist() == [["image", 2, 20_000, 100.0, 1.0]]


def test_names_of_regions_are_kept_with_the_run():
    """They come back from a manifest as they were."""
    region = _result().with_(region=NAMED).facts.region
    assert Region.from_dict(region.to_dict()) == region
    unnamed = _result().with_(region=(0, 0, 80, 100)).facts.region
    assert unnamed.to_dict().keys() == {"name", "geometry"}
