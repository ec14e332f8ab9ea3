"""Findings are columns, immutable and in one order."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision.codec import RECORD_LIMIT, canonical_json, decode, encode
from tilevision.errors import CheckpointTooLarge, ModelError
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile

coordinate = st.floats(0, 1000, width=32)
rows = st.tuples(
    coordinate,
    coordinate,
    st.floats(0, 100, width=32),
    st.floats(0, 100, width=32),
    st.one_of(st.just(float("nan")), st.floats(0, 1)),
    st.sampled_from(
        ["car", "ship", "Ü 漢字 🚗", "", '"<b>'],
    ),
    st.one_of(st.none(), st.just([[0, 0], [3.5, 0], [3, 7]])),
)


@st.composite
def findings(draw: Any) -> Findings:
    return _findings(draw(st.lists(rows, max_size=12)))


def _findings(table: list[Any]) -> Findings:
    return Findings(
        boxes=[(x, y, x + w, y + h) for x, y, w, h, *_ in table],
        scores=[row[4] for row in table],
        labels=[row[5] for row in table],
        polygons=[row[6] for row in table],
    )


@given(st.lists(rows, max_size=12), st.randoms())
def test_order_of_rows_does_not_matter(table: list[Any], random: Any) -> None:
    """The same rows in any order are equal findings, and the same bytes."""
    shuffled = random.sample(table, len(table))
    assert _findings(table) == _findings(shuffled)
    assert encode(_findings(table)) == encode(_findings(shuffled))


@given(findings())
def test_record_round_trips_to_the_same_bytes(found: Findings) -> None:
    """Decoding a record gives the findings to 0.01 px and 1e-5, and encodes to the same bytes."""
    again = decode(encode(found))
    assert again == found.rounded()
    assert encode(again) == encode(found)


@given(findings())
def test_rounding_twice_changes_nothing(found: Findings) -> None:
    """What a restored tile holds is what the fresh one held."""
    assert found.rounded().rounded() == found.rounded()


@given(st.lists(findings(), max_size=4))
def test_concat_keeps_every_row(parts: list[Findings]) -> None:
    """Rows of all parts, columns of any part, missing values as NaN or None."""
    whole = Findings.concat(parts)
    assert len(whole) == sum(map(len, parts))
    assert sorted(whole.labels) == sorted(label for part in parts for label in part.labels)


def test_concat_fills_columns_that_a_part_lacks() -> None:
    """A part without points contributes NaN, one without texts None."""
    a = Findings([[0, 0, 1, 1]], scores=[0.9], points=[[5, 5]], texts=["hi"])
    whole = Findings.concat([a, Findings([[0, 0, 1, 1]], scores=[0.1])])
    assert whole.points is not None
    assert np.isnan(whole.points[1]).all()
    assert whole.texts == ("hi", None)


def test_scores_are_nan_where_the_model_gives_none() -> None:
    """No score is never dressed as certainty, and sorts last."""
    found = Findings([[0, 0, 1, 1], [0, 0, 2, 2]], scores=[np.nan, 0.1])
    assert np.isnan(Findings([[0, 0, 1, 1]]).scores).all()
    assert found.scores[0] == 0.1
    assert b"null" in encode(found)[0]


def test_filter_keeps_unscored_rows() -> None:
    """A threshold cannot judge what has no score; classes may be one name or several."""
    found = Findings([[0, 0, 1, 1]] * 3, scores=[0.9, 0.2, np.nan], labels=["a", "a", "b"])
    assert len(found.filter(0.5)) == 2
    assert len(found.filter(classes="b")) == 1
    assert len(found.filter(0.5, ["a"])) == 1
    assert found.filter() is found


def test_columns_cannot_be_written_to() -> None:
    """Arrays are read-only, and the caller's own arrays stay writable and apart."""
    mine = np.zeros((1, 4))
    found = Findings(mine)
    with pytest.raises(ValueError, match="read-only"):
        found.boxes[0, 0] = 1
    mine[0, 2] = 9
    assert found.boxes[0, 2] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"boxes": [[0, 0, 1]]}, "shape"),
        ({"boxes": [["a", 0, 1, 1]]}, "shape"),
        ({"boxes": [[0, 0, np.nan, 1]]}, "not finite"),
        ({"boxes": [[5, 0, 1, 1]]}, "inverted"),
        ({"boxes": [[0, 0, 1, 1]], "scores": [1.5]}, "0 to 1"),
        ({"boxes": [[0, 0, 1, 1]], "scores": [0.5, 0.5]}, "2 rows"),
        ({"boxes": [[0, 0, 1, 1]], "labels": []}, "0 rows"),
        ({"boxes": [[0, 0, 1, 1]], "class_ids": ["car"]}, "labels"),
        ({"boxes": [[0, 0, 1, 1]], "polygons": [[[0, 0], [1, 1]]]}, "ring"),
    ],
)
def test_nonsense_is_one_clear_line(arguments: dict[str, Any], says: str) -> None:
    """What is wrong and what is expected, never a NumPy traceback."""
    with pytest.raises(ModelError, match=says):
        Findings(**arguments)


def test_tile_frame_becomes_image_frame_at_scale() -> None:
    """A tile read at half size: coordinates double, then shift; polygons and points too."""
    tile = Tile(0, 1, Box(100, 200, 300, 400), scale=0.5)
    found = Findings(
        [[10, 10, 20, 30]], points=[[10, 20]], polygons=[[[10, 10], [20, 10], [20, 30]]]
    )
    image = TileFindings(tile, found).in_image()
    assert image.boxes.tolist() == [[120, 220, 140, 260]]
    assert image.points is not None
    assert image.points.tolist() == [[120, 240]]
    assert image.polygons is not None
    assert image.polygons[0] is not None
    assert image.polygons[0][0][0][2].tolist() == [140, 260]


def test_image_frame_holds_a_hundredth_of_a_pixel_far_out() -> None:
    """Past 131,000 px, float32 could not."""
    tile = Tile(0, 0, Box(200_000, 200_000, 201_000, 201_000))
    image = TileFindings(tile, Findings([[0.01, 0.02, 1.03, 1.04]])).in_image()
    assert np.allclose(image.boxes, [[200_000.01, 200_000.02, 200_001.03, 200_001.04]], atol=1e-6)


def test_crowded_tiles_span_records_without_losing_a_row() -> None:
    """Each record keeps the limit; what belongs to the tile stands once; nothing is dropped."""
    n = 12_000
    boxes = np.arange(n)[:, None] + [0.0, 0, 1, 1]
    crowd = Findings(boxes, scores=np.linspace(0, 1, n), tile_scores={"a": 0.5}, note="full")
    records = encode(crowd)
    assert len(records) > 1
    assert max(map(len, records)) <= RECORD_LIMIT
    assert decode(records) == crowd.rounded()


def test_one_oversized_detection_is_too_large() -> None:
    """An attribute of 300 KB has no lean form: the size and the remedy are named."""
    big = Findings([[0, 0, 1, 1]], attributes=[{"blob": "x" * 300_000}])
    with pytest.raises(CheckpointTooLarge, match=r"300,\d+ bytes.*shorten"):
        encode(big)


def test_more_than_64_records_are_too_large() -> None:
    """A tile's findings may span 64 records, not more."""
    n = 80
    texts: list[str | None] = ["x" * 200_000] * n
    with pytest.raises(CheckpointTooLarge, match="64"):
        encode(Findings(np.tile([0.0, 0, 1, 1], (n, 1)), texts=texts))


@pytest.mark.parametrize("bad", [float("inf"), object(), b"bytes", "\ud800", {1, 2}])
def test_what_json_cannot_hold_is_refused(bad: Any) -> None:
    """Bytes (pixels!), sets, infinities and broken text never enter a record."""
    with pytest.raises(ModelError, match="cannot hold"):
        encode(Findings([[0, 0, 1, 1]], attributes=[{"value": bad}]))


def test_canonical_json_has_one_spelling() -> None:
    """Sorted keys, no spaces, UTF-8 as it is."""
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
