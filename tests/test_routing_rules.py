"""Which model a tile goes to: facts, rules and doubts, without running anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilevision as tv
from tilevision.findings import Findings
from tilevision.routing import sent_on, tile_facts

GRID = tv.Grid(2, 2, overlap=0)


def _facts(pixels: np.ndarray, grid: tv.Grid = GRID) -> list[tv.TileFacts]:
    source = tv.open_source(pixels)
    return tile_facts(source, grid.tiles(source.size))


def _found(*scores: float) -> Findings:
    return Findings([[0, 0, 5, 5]] * len(scores), scores, ["a"] * len(scores))


def _halves() -> np.ndarray:
    """Left half grey; top right red stripes a pixel wide, bottom right plain green."""
    pixels = np.full((100, 200, 3), 100, dtype=np.uint8)
    pixels[:50, 100:] = 0
    pixels[:50, 100::2, 0] = 200
    pixels[50:, 100:] = (0, 80, 0)
    return pixels


def test_facts_tell_tiles_apart():
    """Edges, brightness, contrast and saturation are those of the tile's own pixels."""
    grey, striped, _, green = _facts(_halves())
    assert grey.edge_density <= 0.01  # of its last column, beside the stripes
    assert (grey.brightness, grey.contrast, grey.saturation) == ((100, 100, 100), (0, 0, 0), 0)
    assert striped.edge_density > 0.98
    assert striped.brightness == (100, 0, 0) and striped.contrast == (100, 0, 0)
    assert green.saturation == 1 and green.brightness == (0, 80, 0)
    assert (green.id, green.row, green.col) == ("r001c001", 1, 1)
    assert green.box == tv.Box(100, 50, 200, 100) and green.image_size == (200, 100)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 7))
def test_facts_agree_with_the_pixels(seed, rows, cols):
    """The table of sums gives the means and deviations that NumPy gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    for facts in _facts(pixels, tv.Grid(rows, cols)):
        box = facts.box
        seen = pixels[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)].reshape(-1, 3)
        assert facts.brightness == pytest.approx(seen.mean(axis=0), abs=1e-4)
        assert facts.contrast == pytest.approx(seen.std(axis=0), abs=1e-3)


def test_facts_of_a_large_image_come_from_a_bounded_thumbnail():
    """Tiles finer than the thumbnail's pixels still have facts, each from at least one pixel."""

    class Big:
        size = (400_000, 300_000)
        asked: list[int] = []  # noqa: RUF012 - one instance
        bands = 3
        dtype = np.dtype("uint8")
        fingerprint = "big"
        metadata = tv.open_source(_halves()).metadata
        reference = tv.open_source(_halves()).reference

        def read(self, box, scale=1.0, bands=None):
            raise AssertionError("no window is read")

        def thumbnail(self, max_side):
            self.asked.append(max_side)
            return np.full((6, 8, 3), 50, dtype=np.uint8)

        def close(self):
            """Hold nothing."""

    facts = tile_facts(Big(), tv.Grid(40, 40).tiles(Big.size))
    assert Big.asked == [2048] and len(facts) == 1600
    assert {fact.brightness for fact in facts} == {(50, 50, 50)}


def test_facts_do_not_depend_on_depth_or_bands():
    """A grey 16-bit image has three equal channels of 8 bits."""
    pixels = (np.arange(100 * 100).reshape(100, 100) * 6).astype(np.uint16)
    for facts in _facts(pixels):
        assert facts.brightness[0] == facts.brightness[1] == facts.brightness[2]
        assert 0 <= facts.brightness[0] <= 255 and facts.saturation == 0


def test_the_first_true_rule_names_the_model():
    """Rules are tried in order; where none is true it is the default."""
    route = tv.Route("d", [(tv.Within(0, 0, 120, 10), "a"), (lambda facts: facts.row == 0, "b")])
    facts = _facts(_halves())
    assert [route.choose(fact) for fact in facts] == ["a", "a", "d", "d"]
    route = tv.Route("d", [(tv.Detailed(0.5), "a")])
    assert [route.choose(fact) for fact in facts] == ["d", "a", "d", "d"]
    assert tv.Route("d").choose(facts[0]) == "d"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda facts: 1 / 0, "Rule 1 of the route failed on tile r000c000: ZeroDivisionError"),
        (lambda facts: facts.edges, "Rule 1 of the route failed on tile r000c000: AttributeError"),
        (lambda facts: None, "Rule 1 of the route returned NoneType for tile r000c000"),
        (lambda facts: 0.3, "returned float"),
    ],
)
def test_a_rule_that_does_not_answer_is_named(answer, says):
    """Neither an error nor anything but True or False passes for an answer."""
    with pytest.raises(tv.ModelError, match=says):
        tv.Route("d", [(answer, "a")]).choose(_facts(_halves())[0])


def test_numpy_booleans_are_answers():
    """What a comparison with an array's number gives is as good as Python's."""
    facts = _facts(_halves())[0]
    assert tv.Route("d", [(lambda f: np.float64(1) > 0, "a")]).choose(facts) == "a"
    assert tv.Cascade("a", "b", when=lambda f: np.bool_(True)).unsure(_found())


@given(st.lists(st.floats(0, 1), max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_a_band_of_scores_decides_by_any_score_in_it(scores, one, other):
    """Both ends belong to the band."""
    low, high = sorted((one, other))
    cascade = tv.Cascade("a", "b", when=(low, high))
    seen = _found(*scores).scores  # as records hold them
    assert cascade.unsure(_found(*scores)) == any(low <= score <= high for score in seen)


def test_detections_without_a_score_are_no_doubt():
    """A model that gives no scores is never unsure by a band."""
    assert not tv.Cascade("a", "b", when=(0, 1)).unsure(_found(float("nan")))
    assert not tv.Cascade("a", "b", when=(0, 1)).unsure(_found())
    assert tv.Cascade("a", "b").when == (0.25, 0.6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: tv.Cascade("a", "b", when=(0.6, 0.2)),
            r"when is \(0.6, 0.2\); give \(low, high\)",
        ),
        (lambda: tv.Cascade("a", "b", when=0.5), "when is 0.5"),
        (lambda: tv.Cascade("a", "b", when=None), "when is None"),
        (lambda: tv.Cascade("a", "b", when=(0, float("nan"))), "when is"),
        (
            lambda: tv.Cascade("a", tv.Cascade("b", "c")),
            "a cascade's|models of a cascade are plain",
        ),
        (lambda: tv.Cascade(tv.Route("a"), "b"), "not the other way round"),
        (lambda: tv.Route(tv.Route("a")), "cannot lead to a route"),
        (lambda: tv.Route("a", [(tv.Detailed(), tv.Route("a"))]), "cannot lead to a route"),
        (lambda: tv.Route("a", [("b", tv.Detailed())]), "Rule 1 of the route begins with 'b'"),
        (lambda: tv.Route("a", ["b"]), "rules is"),
        (lambda: tv.Route("a", [(tv.Detailed(),)]), "rules is"),
        (lambda: tv.Route("a", tv.Detailed()), "rules is"),
        (lambda: tv.Detailed(5), "min_edge_density is 5"),
        (lambda: tv.Detailed("a lot"), "min_edge_density is 'a lot'"),
        (lambda: tv.Within(5, 0, 5, 9), "is no box"),
        (lambda: tv.Within(0, 0, "1", 9), "is no box"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_written(make, says):
    """One line that says what to give instead."""
    with pytest.raises(tv.ModelError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_when_that_fails_is_named():
    """The error says whose it is and what it got."""
    with pytest.raises(tv.ModelError, match="when= of the cascade failed: ZeroDivisionError"):
        tv.Cascade("a", "b", when=lambda found: 1 / 0).unsure(_found())
    with pytest.raises(tv.ModelError, match="when= of the cascade returned str"):
        tv.Cascade("a", "b", when=lambda found: "yes").unsure(_found())


def test_what_holds_no_function_can_be_told_and_read_again():
    """Ready-made rules and bands survive a journal; functions are missing there."""
    route = tv.Route("d", [(tv.Detailed(0.2), tv.Cascade("a", "b")), (tv.Within(0, 1, 2, 3), "c")])
    told = route.to_dict(str)
    assert tv.Route.from_dict(told, str) == route
    odd = tv.Route("d", [(lambda facts: True, tv.Cascade("a", "b", when=lambda found: True))])
    told = odd.to_dict(str)
    assert told["rules"][0][0] is None and told["rules"][0][1]["when"] is None


def picture(folder: Path) -> Path:
    """A file of which the right half has edges."""
    from PIL import Image

    path = folder / "picture.png"
    Image.fromarray(_halves()).save(path)
    return path


def test_a_plan_counts_what_each_model_gets(elsewhere: Path):
    """Nothing runs: a route's share by model, a cascade's second with what is not known yet."""
    plan = tv.plan(picture(elsewhere), tv.Route("blobs", [(tv.Detailed(0.5), "nuclei")]), grid=GRID)
    assert [(one.label, len(one.keys)) for one in plan.passes] == [("blobs", 3), ("nuclei", 1)]
    assert "blobs or nuclei" in repr(plan) and "nuclei: 1 tile, none stored" in repr(plan)
    plan = tv.plan(picture(elsewhere), tv.Cascade("blobs", "nuclei"), grid=GRID)
    assert [(one.label, one.after) for one in plan.passes] == [("blobs", None), ("nuclei", 0)]
    assert "nuclei is not counted: how many tiles need it is not known yet" in repr(plan)


def test_models_of_one_name_are_told_apart(elsewhere: Path):
    """The second of two `blobs` with other parameters is `blobs (2)`."""
    other = tv.model("blobs", contrast=0.3)
    plan = tv.plan(picture(elsewhere), tv.Route("blobs", [(tv.Detailed(0.5), other)]), grid=GRID)
    assert [one.label for one in plan.passes] == ["blobs", "blobs (2)"]
    same = tv.plan(picture(elsewhere), tv.Route("blobs", [(tv.Detailed(0.5), "blobs")]), grid=GRID)
    assert [one.label for one in same.passes] == ["blobs"]


def test_an_unknown_model_in_a_route_is_found_before_anything_is_opened():
    """The models of all rules are resolved first."""
    with pytest.raises(tv.ModelError, match="unheard-of"):
        tv.plan("missing.png", tv.Route("blobs", [(tv.Detailed(), "unheard-of")]))
    with pytest.raises(tv.ModelError, match="not tile"):
        tv.plan("missing.png", tv.Cascade("blobs", "summary"))


def test_a_model_that_the_tiles_do_not_suit_is_told_of(elsewhere: Path):
    """The first model lays the grid; of another one's size or resolution the plan has a note."""
    second = tv.model(lambda pixels: [], name="second", mpp=0.25, input_size=20, fingerprint="2")
    cascade = tv.Cascade("blobs", second)
    notes = tv.plan(picture(elsewhere), cascade, grid=GRID, mpp=0.5, resolution=1.0).notes
    assert any("Model second will shrink tiles of 100×50 px 5.0 times" in note for note in notes)
    assert any("second was made for 0.25 µm per pixel and gets 0.5" in note for note in notes)
    fine = tv.plan(picture(elsewhere), cascade, grid=20, mpp=0.25, resolution=1.0)
    assert not any("second" in note for note in fine.notes)


def test_models_that_get_tiles_from_another_are_known_with_the_reason() -> None:
    """Of a cascade and of a route that leads to one, as objects and as they are stored."""
    cheap, careful = tv.model("blobs"), tv.model("nuclei")
    cascade = tv.Cascade(cheap, careful, when=(0.25, 0.5))
    stored = cascade.to_dict(lambda spec: {"name": spec.name})
    for asked in (cascade, stored):
        assert sent_on(asked) == {"nuclei": "a score from 0.25 to 0.5"}
    chosen = tv.Cascade(cheap, careful, when=lambda findings: True)
    route = tv.Route(cheap, [(lambda facts: True, chosen)])
    assert sent_on(route) == {"nuclei": "when= says so"}
    either = {"default": {"name": "nuclei"}, "rules": [[[], stored]]}
    assert sent_on(either) == {}  # tiles came to it by either way
    other = tv.model("blobs", contrast=0.3)
    assert sent_on(tv.Cascade(cheap, other)) == {"blobs (2)": "a score from 0.25 to 0.6"}
    assert sent_on(tv.Cascade(cheap, cheap)) == {}  # events have one name for both
    for other in (cheap, None, {}, {"first": 3, "second": None, "when": [1, 2, 3]}):
        assert sent_on(other) == {}
