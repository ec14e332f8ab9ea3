"""Boxes come back where they are, in whatever way a model writes them."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilevision.adapters.hosted.boxanswers import FAMILIES, ORDERS, UNITS, family_of, parse_format
from tilevision.adapters.hosted.imageencoding import encode
from tilevision.errors import ModelError

FORMATS = [f"{unit} {order}" for unit in UNITS for order in ORDERS]

sides = st.integers(1, 5000)
shares = st.floats(0, 1)


def written(box, form, sent, tile):
    """Write a box of the tile as a model would that sees the picture as sent."""
    x0, y0, x1, y1 = np.array(box) * np.array([sent[0] / tile[0], sent[1] / tile[1]] * 2)
    if form.unit != "pixels":
        full = float(form.unit.partition("-")[2])
        x0, x1 = x0 * full / sent[0], x1 * full / sent[0]
        y0, y1 = y0 * full / sent[1], y1 * full / sent[1]
    return {
        "xyxy": [x0, y0, x1, y1],
        "yxyx": [y0, x0, y1, x1],
        "cxcywh": [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0],
        "xywh": [x0, y0, x1 - x0, y1 - y0],
    }[form.order]


@given(
    st.sampled_from([*FORMATS, *FAMILIES]),
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.tuples(shares, shares, shares, shares),
)
def test_every_format_gives_back_the_box(name, sent, tile, box):
    """Unit and order, a shrunken picture and uneven sides included."""
    form = parse_format(name)
    x0, x1 = sorted((box[0] * tile[0], box[1] * tile[0]))
    y0, y1 = sorted((box[2] * tile[1], box[3] * tile[1]))
    row = np.array([written((x0, y0, x1, y1), form, sent, tile)])
    assert np.allclose(form.to_pixels(row, sent, tile), [[x0, y0, x1, y1]], atol=1e-6 * max(tile))


def test_swapped_corners_are_one_box():
    """Some models name the corners in any order."""
    row = np.array([[30.0, 40.0, 10.0, 20.0]])
    assert parse_format("pixels").to_pixels(row, (64, 64), (64, 64)).tolist() == [[10, 20, 30, 40]]


@pytest.mark.parametrize("name", [*FORMATS, *FAMILIES])
def test_a_format_explains_itself(name):
    """The words for the model have the key, the order and the scale."""
    form = parse_format(name)
    said = form.explain((320, 200))
    assert f'"{form.key}" is {ORDERS[form.order]}' in said
    full = UNITS[form.unit]
    assert ("320 pixels wide and 200 high" if full is None else f"to {full:g} across") in said


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gemini-2.5-flash", "gemini"),
        ("google/gemini-2.0-flash-001", "gemini"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl"),
        ("qwen2.5vl:7b", "qwen2.5-vl"),
        ("qwen2-vl-72b", "qwen2-vl"),
        ("Qwen/Qwen3-VL-30B-A3B", "qwen3-vl"),
        ("OpenGVLab/InternVL3-8B", "internvl"),
        ("zai-org/GLM-4.5V", "glm-4v"),
        ("moondream:latest", "moondream"),
        ("gpt-4.1-mini", "0-1000 xyxy"),
        ("llava", "0-1000 xyxy"),
    ],
)
def test_families_are_known_by_their_names(model, family):
    """Others are told a scale that no server's resizing changes."""
    assert family_of(model) == family
    assert parse_format(family).name == family


@pytest.mark.parametrize("text", ["", "pixel", "0-1000 xyxy extra", "xyxy", "gemini yxyx", None])
def test_unknown_formats_are_refused(text):
    """With everything that is known."""
    with pytest.raises(ModelError, match=r"0-1000.*yxyx.*gemini"):
        parse_format(text)


def picture(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.mark.parametrize(
    ("shape", "max_side", "multiple", "sent"),
    [
        ((100, 200, 3), 1024, 1, (200, 100)),
        ((100, 200, 3), 50, 1, (50, 25)),
        ((3, 2000, 3), 100, 1, (100, 1)),
        ((640, 640, 3), 1024, 28, (644, 644)),
        ((10, 640, 3), 1024, 28, (644, 28)),
        ((64, 32, 1), 1024, 1, (32, 64)),
    ],
)
def test_tiles_are_sent_no_larger_than_asked(shape, max_side, multiple, sent):
    """The aspect is kept, but where a family needs sides of its own."""
    made = encode(np.full(shape, 99, np.uint8), max_side, 90, multiple)
    assert made.sent == sent == picture(made.url).size
    assert made.tile == (shape[1], shape[0])
    assert "base64" not in repr(made)


def test_channels_stay_in_order():
    """Red is red on the other side, and grey stays grey."""
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250
    seen = np.asarray(picture(encode(red, 1024, 95).url)).mean(axis=(0, 1))
    assert seen[0] > 240 and seen[1:].max() < 10


def test_quality_is_the_callers():
    """A lower quality is fewer bytes."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert len(encode(noise, 64, 30).url) < len(encode(noise, 64, 95).url) / 2


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.uint16)])
def test_pixels_that_cannot_be_shown_are_refused(wrong):
    """Never stretched or cut behind the caller's back."""
    with pytest.raises(ModelError, match="1 or 3 bands of uint8"):
        encode(wrong, 64, 90)
