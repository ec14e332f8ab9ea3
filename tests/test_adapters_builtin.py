"""The detectors without weights: right on real pictures, silent on empty ones."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from tilevision.catalogue import model
from tilevision.findings import Findings
from tilevision.geometry import iou
from tilevision.modelspec import build

RNG = np.random.default_rng(7)
NOISY = np.clip(RNG.normal(200, 5, (256, 256, 3)), 0, 255).astype(np.uint8)
EMPTY = {
    "grey": np.full((256, 256, 3), 128, np.uint8),
    "white": np.full((256, 256, 3), 255, np.uint8),
    "black": np.zeros((256, 256, 3), np.uint8),
    "noise": NOISY,
    "pixel": np.full((1, 1, 3), 99, np.uint8),
    "sliver": np.full((3, 200, 3), 99, np.uint8),
}


def find(name: str, picture: np.ndarray, **parameters) -> Findings:
    return build(model(name, **parameters)).predict([picture])[0]


def spots(centres, radius=5, high=200, low=20, size=200) -> np.ndarray:
    """Draw Gaussian spots, brighter than the ground where `high` is, darker otherwise."""
    y, x = np.mgrid[:size, :size] + 0.5
    ground = np.full((size, size), float(low))
    for cx, cy in centres:
        ground += (high - low) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (radius**2))
    return np.repeat(np.clip(ground, 0, 255).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("name", ["blobs", "nuclei", "textlines"])
@pytest.mark.parametrize("kind", EMPTY)
def test_empty_tiles_have_nothing(name, kind):
    """No threshold adapts to the tile, so noise and blank glass are not turned into objects."""
    assert len(find(name, EMPTY[kind])) == 0


@pytest.mark.parametrize(("high", "low", "label"), [(200, 20, "bright"), (40, 220, "dark")])
def test_blobs_of_either_polarity_are_found_where_they_are(high, low, label):
    """Centres to half a pixel, sizes to a third; nothing in the gaps between them."""
    centres = [(40.0, 50.0), (120.5, 60.0), (60.0, 150.0), (78.0, 150.0)]
    found = find("blobs", spots(centres, high=high, low=low))
    assert list(found.labels) == [label] * 4
    middle = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    for centre in centres:
        assert np.abs(middle - centre).max(axis=1).min() < 0.5
    width = found.boxes[:, 2] - found.boxes[:, 0]
    assert (np.abs(width - 10) < 3.4).all()


def test_what_an_edge_cuts_off_is_not_taken_for_a_blob():
    """The flank of a spot whose centre lies outside the tile is left to the tile that sees it."""
    whole = spots([(100, 100), (40, 40)])
    assert len(find("blobs", whole[:, :98])) == 1
    assert len(find("blobs", whole[:97])) == 1
    assert len(find("blobs", whole[:, :104])) == 2


def test_blob_scores_grow_with_contrast():
    """0.5 at the threshold, towards 1 above."""
    faint = find("blobs", spots([(100, 100)], high=45))
    strong = find("blobs", spots([(100, 100)], high=250))
    assert 0.5 <= faint.scores[0] < 0.7 < 0.9 < strong.scores[0] <= 1


def test_sky_has_its_galaxies():
    """On the deep field: hundreds of bright blobs, none dark."""
    found = find("blobs", data.hubble_deep_field()[:512, :512])
    assert 200 < len(found) < 400 and set(found.labels) == {"bright"}


def test_nuclei_of_a_weak_counterstain_are_found():
    """On the bundled immunohistochemistry: plausible in number and size, with outlines."""
    found = find("nuclei", data.immunohistochemistry())
    assert 200 < len(found) < 450
    assert found.polygons is not None and all(found.polygons)
    side = np.sqrt(np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1))
    assert 8 < np.median(side) < 25
    assert found.scores.min() > 0.3 and found.scores.max() <= 1


def test_nuclei_of_a_real_slide_are_found(shared_data):
    """H&E needs no other setting; glass has no nuclei."""
    slide = tifffile.imread(shared_data / "cmu-1-small-region.svs")
    assert 200 < len(find("nuclei", slide[800:1312, 800:1312])) < 450
    assert len(find("nuclei", slide[300:700, 100:500])) == 0


def test_page_has_its_lines_and_words():
    """On the bundled photo of a page, shadow and all: 8 lines, about 50 words."""
    found = find("textlines", np.repeat(data.page()[..., None], 3, 2))
    counts = {label: int((found.labels == label).sum()) for label in ("line", "word")}
    assert counts["line"] == 8 and 48 <= counts["word"] <= 56


def test_every_word_is_one_word():
    """On a rendered page the words and lines are counted exactly; commas are neither."""
    from matplotlib import get_data_path

    page = Image.new("RGB", (900, 400), "white")
    draw = ImageDraw.Draw(page)
    font = f"{get_data_path()}/fonts/ttf/DejaVuSerif.ttf"
    draw.text((20, 20), "A heading of this page", font=ImageFont.truetype(font, 48), fill=0)
    for i in range(12):
        at = (20 + (i > 5) * 450, 100 + (i % 6) * 40)
        text = "The quick brown fox, jumps; over"
        draw.text(at, text, font=ImageFont.truetype(font, 22), fill=(40, 40, 60))
    found = find("textlines", np.asarray(page))
    assert (found.labels == "line").sum() == 1 + 12
    assert (found.labels == "word").sum() == 5 + 12 * 6


SCENES = {
    "blobs": lambda: data.hubble_deep_field()[:400, :400],
    "nuclei": lambda: data.immunohistochemistry()[:400, :400],
}


@pytest.mark.parametrize("name", SCENES)
def test_objects_are_the_same_in_overlapping_tiles(name):
    """Two tiles that both see an object whole give nearly the same box."""
    picture = SCENES[name]()
    left = find(name, picture[:, :300])
    right = find(name, picture[:, 100:]).mapped((1, 1), (100, 0))
    margin = 30  # whole, and its surroundings too
    seen = [
        f.boxes[(f.boxes[:, 0] > 100 + margin) & (f.boxes[:, 2] < 300 - margin)]
        for f in (left, right)
    ]
    assert min(map(len, seen)) > 20
    best = iou(seen[0][:, None], right.boxes[None]).max(axis=1)
    assert (best > 0.9).mean() > 0.95


@pytest.mark.parametrize("name", ["blobs", "nuclei", "textlines"])
def test_bands_and_depths_are_taken_as_they_come(name):
    """One band, four bands, 16 bits and floats do not break a detector."""
    base = data.immunohistochemistry()[:64, :80]
    for tile in (
        base[..., :1],
        np.dstack([base, base[..., :1]]),
        base.astype(np.uint16) * 257,
        base / 255,
    ):
        assert isinstance(find(name, tile), Findings)


@pytest.mark.parametrize("name", ["blobs", "nuclei", "textlines"])
def test_detectors_leave_the_tile_alone(name):
    """A detector neither writes on its tile nor answers differently the second time."""
    tile = data.immunohistochemistry()[:128, :128].copy()
    before = tile.copy()
    assert find(name, tile) == find(name, tile)
    assert (tile == before).all()
