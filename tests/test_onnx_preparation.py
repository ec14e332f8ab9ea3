"""A tile goes into a model's input, and what was found comes back to where it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_onnx import finding_red, means

from tilevision.adapters.onnx.preparation import FITS, Placement, Preparation, scaling
from tilevision.catalogue import model
from tilevision.errors import ModelError
from tilevision.modelspec import build

SIDES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
INPUTS = st.tuples(st.integers(1, 1500), st.integers(1, 1500))


@given(SIDES, INPUTS, st.sampled_from(["letterbox", "stretch", "corner", None]))
def test_a_tile_lies_within_the_input(tile, size, fit):
    """It is never larger, never beside it, and fills it in one direction at least."""
    place = Placement.fit(tile, None if fit is None else size, fit or "letterbox", 32)
    low, high = place.to_input(np.array([[0.0, 0.0], tile], dtype=float))
    assert (low >= 0).all() and (high <= np.array(place.input) + 1e-6).all()
    if fit is None:
        assert place.shown == tile and all(side % 32 == 0 for side in place.input)
        assert all(a - b < 32 for a, b in zip(place.input, tile, strict=True))
    elif fit == "stretch":
        assert place.shown == size
    else:
        assert place.shown[0] == size[0] or place.shown[1] == size[1]


@given(SIDES, INPUTS, st.sampled_from(list(FITS.values())), st.data())
def test_positions_come_back(tile, size, fit, data):
    """What lies at a point of the tile is found there again, to far less than half a pixel."""
    place = Placement.fit(tile, size, fit, 32)
    share = data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1)))
    point = np.array(share) * np.array(tile)
    np.testing.assert_allclose(place.to_tile(place.to_input(point)), point, atol=1e-6)


@given(SIDES, st.integers(1, 600))
def test_the_middle_fills_the_input(tile, side):
    """The shorter side is the input's, and as much is left out on one side as on the other."""
    place = Placement.fit(tile, (side, side), "middle", 32)
    assert min(place.shown) == side
    for shown, offset in zip(place.shown, place.offset, strict=True):
        assert abs(shown - side + 2 * offset) <= 1 and offset <= 0


@pytest.mark.parametrize("size", [(320, 320), (400, 240), (240, 401), (9, 300), (3, 2000)])
@pytest.mark.parametrize("wanted", [224, 97])
def test_classifiers_see_what_torchvision_would_show_them(size, wanted):
    """Resize of the shorter side and CenterCrop, byte by byte; strips to a tenth of a pixel."""
    torchvision = pytest.importorskip("torchvision")
    from PIL import Image

    tile = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    transforms = torchvision.transforms
    shown = transforms.CenterCrop(wanted)(transforms.Resize(wanted)(Image.fromarray(tile)))
    prepared = Preparation(
        (wanted, wanted), "middle", 1, "rgb", "0..255", np.dtype("float32"), True
    )
    fed = prepared.prepare([tile], prepared.place(tile))[0].transpose(1, 2, 0)
    limit = 0 if max(size) <= 8 * min(size) else 25.5
    assert np.abs(fed - np.asarray(shown)).max() <= limit


@given(SIDES, INPUTS)
def test_a_letterbox_keeps_proportions(tile, size):
    """Both sides shrink alike, to the pixel that whole numbers of pixels cost."""
    place = Placement.fit(tile, size, "letterbox", 32)
    ratio = min(size[0] / tile[0], size[1] / tile[1])
    for side in (0, 1):
        assert abs(place.shown[side] - max(1, tile[side] * ratio)) <= 0.5 + 1e-6
        margin = size[side] - place.shown[side]
        assert place.offset[side] == margin // 2


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    """A detector that finds the red rectangle."""
    return str(finding_red(tmp_path_factory.mktemp("models") / "red.onnx"))


@pytest.mark.parametrize("letterbox", [True, False, "corner"])
@pytest.mark.parametrize("size", [(96, 96), (192, 96), (60, 90), (40, 40), (500, 301), (97, 1000)])
def test_a_rectangle_is_found_where_it_is(red, size, letterbox):
    """Through a real model: to half a pixel of its input, however the tile was laid into it."""
    width, height = size
    tile = np.full((height, width, 3), 60, dtype=np.uint8)
    box = [round(width * 0.25), round(height * 0.5), round(width * 0.75), round(height * 0.75)]
    tile[box[1] : box[3], box[0] : box[2]] = (255, 0, 0)
    spec = model(red, letterbox=letterbox)
    (found,) = build(spec).predict([tile])
    place = Placement.fit(size, (96, 96), FITS[letterbox], 32)
    pixel = 1 / np.tile(place.scale, 2)  # of the input, in pixels of the tile
    # An edge that falls inside a pixel of the input is found at one of the pixel's sides, and
    # resampling mixes it with the pixel beside it.
    inside = place.to_input(np.array(box, float).reshape(2, 2)).reshape(4)
    whole = np.abs(inside - inside.round()) < 1e-9
    limit = np.where(whole & np.isin(place.scale, (1.0, 0.5)).all(), 1e-6, 1.0 * pixel + 1e-6)
    assert (np.abs(found.boxes[0] - box) <= limit).all()


@pytest.mark.parametrize(
    ("channels", "expected"), [("rgb", (1.0, 0.5, 0.0)), ("bgr", (0.0, 0.5, 1.0))]
)
def test_red_and_blue_go_where_the_model_expects_them(tmp_path, channels, expected):
    """An orange tile, by the mean of each channel as the model is fed."""
    path = means(tmp_path / "means.onnx")
    orange = np.full((32, 32, 3), (255, 127.5, 0)).astype(np.uint8)
    spec = model(str(path), channels=channels, normalize="0..1", family="classifier", score_floor=0)
    (found,) = build(spec).predict([orange])
    assert list(found.tile_scores.values()) == pytest.approx(expected, abs=0.003)


@given(st.integers(0, 255), st.sampled_from(["rgb", "bgr"]))
def test_normalisation_is_what_it_says(value, channels):
    """Each rule, by hand, on one pixel."""
    pixel = np.full((1, 1, 3), value, dtype=np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    turn = slice(None, None, -1 if channels == "bgr" else 1)
    rules = {
        "0..1": np.full(3, value / 255),
        "0..255": np.full(3, value),
        "-1..1": np.full(3, value / 127.5 - 1),
        "imagenet": ((value / 255 - mean) / std)[turn],
    }
    for rule, expected in rules.items():
        fed = preparation(channels, rule).prepare([pixel], Placement((1, 1), (1, 1), (1, 1)))
        np.testing.assert_allclose(fed[0, :, 0, 0], expected, atol=1e-4)


def preparation(channels="rgb", normalize="0..1", dtype="float32", channels_first=True):
    """Return a preparation for an input of any size."""
    return Preparation(None, "stretch", 1, channels, normalize, np.dtype(dtype), channels_first)


def test_mean_and_std_are_shares():
    """Numbers for 0 to 255 are refused with the remedy, and so are other words."""
    factor, offset = scaling({"mean": [0.5], "std": [0.25]}, "rgb")
    assert 255 * factor + offset == pytest.approx([2.0])
    for wrong in ({"mean": [103.5], "std": [57.1]}, {"mean": [0.5], "std": [0]}):
        with pytest.raises(ModelError, match="divide those meant for 0 to 255 by 255"):
            scaling(wrong, "rgb")
    for wrong in ("0-1", {"mean": [0.5]}, 255):
        with pytest.raises(ModelError, match=r"give one of 0\.\.1"):
            scaling(wrong, "rgb")


def test_layouts_and_types():
    """Channels last, bytes, half precision, grey, and bands beyond three."""
    place = Placement((4, 2), (4, 2), (4, 2))
    rgb = np.zeros((2, 4, 3), np.uint8)
    rgb[..., 0] = 100
    assert preparation(channels_first=False).prepare([rgb], place).shape == (1, 2, 4, 3)
    fed = preparation(normalize="0..255", dtype="uint8").prepare([rgb, rgb], place)
    assert fed.shape == (2, 3, 2, 4) and fed.dtype == np.uint8 and (fed[:, 0] == 100).all()
    assert preparation(dtype="float16").prepare([rgb], place).dtype == np.float16
    grey = preparation("grey", "0..255").prepare([rgb], place)
    assert grey.shape == (1, 1, 2, 4) and (grey == 30).all()
    bands = np.full((2, 4, 5), 40000, np.uint16)
    fed = preparation("bands", "0..255").prepare([bands], place)
    assert fed.shape == (1, 5, 2, 4) and (fed == 40000).all()


def test_other_depths_are_resized_without_loss():
    """Sixteen bits and floats keep their values where they are even."""
    place = Placement((4, 4), (9, 9), (9, 9))
    for dtype in (np.uint16, np.float32):
        tile = np.full((4, 4, 2), 40001, dtype)
        fed = preparation("bands", "0..255").prepare([tile], place)
        assert fed.shape == (1, 2, 9, 9) and (fed == 40001).all()
