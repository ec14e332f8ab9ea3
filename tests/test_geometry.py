"""Boxes and overlap measures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision.errors import ModelError
from tilevision.geometry import Box, area, intersection, ios, iou, map_polygon, polygon

whole = st.integers(-50, 50)
boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h), whole, whole, st.integers(0, 40), st.integers(0, 40)
)


def _pixels(box: Box) -> set[tuple[int, int]]:
    xs = range(int(box.x0), int(box.x1))
    return {(x, y) for x in xs for y in range(int(box.y0), int(box.y1))}


@given(boxes, boxes)
def test_overlap_measures_count_pixels(a: Box, b: Box) -> None:
    """Intersection, IoU and IoS are what counting the half-open boxes' pixels gives."""
    left, right = np.array(a.as_tuple(), float), np.array(b.as_tuple(), float)
    shared, both = len(_pixels(a) & _pixels(b)), len(_pixels(a) | _pixels(b))
    smaller = min(len(_pixels(a)), len(_pixels(b)))
    assert intersection(left, right) == shared
    assert iou(left, right) == pytest.approx(shared / both if both else 0)
    assert ios(left, right) == pytest.approx(shared / smaller if smaller else 0)


@given(boxes, boxes)
def test_intersect_is_none_exactly_where_no_pixel_is_shared(a: Box, b: Box) -> None:
    """`Box.intersect` returns the shared box, or None where boxes only touch."""
    shared = a.intersect(b)
    assert (_pixels(shared) if shared else set()) == _pixels(a) & _pixels(b)


@given(boxes, boxes)
def test_contains_is_containment_of_edges(a: Box, b: Box) -> None:
    """A box contains another exactly where joining them changes nothing."""
    joined = Box(min(a.x0, b.x0), min(a.y0, b.y0), max(a.x1, b.x1), max(a.y1, b.y1))
    assert a.contains(b) == (joined == a)


def test_inverted_boxes_have_no_area() -> None:
    """A box whose right edge lies left of its left edge counts as empty."""
    assert area(np.array([[5.0, 5, 1, 1], [0, 0, 2, 3]])).tolist() == [0, 6]
    assert Box(5, 5, 1, 1).area == 0


def test_measures_broadcast() -> None:
    """(n, 1, 4) against (m, 4) gives (n, m)."""
    a = np.tile([0.0, 0, 2, 2], (3, 1))
    assert iou(a[:, None], a[None, :2]).tolist() == [[1, 1]] * 3


def test_polygon_takes_a_ring_or_parts_of_rings() -> None:
    """A bare ring is one part without holes; nested rings keep their holes; None stays None."""
    ring = [[0, 0], [4, 0], [4, 4]]
    assert polygon(None) is None
    bare, nested = polygon(ring), polygon([[ring, ring]])
    assert bare is not None
    assert nested is not None
    assert [len(part) for part in bare] == [1]
    assert [len(part) for part in nested] == [2]


@pytest.mark.parametrize(
    "bad", [[[0, 0], [1, 1]], [[0, 0], [1, 1], [np.nan, 2]], [[[[0, 1, 2]] * 3]]]
)
def test_a_ring_that_is_none_is_refused(bad: list[object]) -> None:
    """Fewer than 3 points, NaN, or 3 coordinates is one ModelError."""
    with pytest.raises(ModelError, match="ring"):
        polygon(bad)


def test_map_polygon_scales_then_shifts_a_copy() -> None:
    """Each coordinate becomes factor · x + offset, and the original stays."""
    shape = polygon([[0, 0], [4, 0], [4, 4]])
    moved = map_polygon(shape, np.array([2.0, 3.0]), np.array([1.0, 10.0]))
    assert shape is not None
    assert moved is not None
    assert moved[0][0].tolist() == [[1, 10], [9, 10], [9, 22]]
    assert shape[0][0].tolist() == [[0, 0], [4, 0], [4, 4]]
