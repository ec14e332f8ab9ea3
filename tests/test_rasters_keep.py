"""Maps of probabilities of which only class numbers are kept: ``keep="classes"``."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilevision as tv
from tilevision.fingerprint.values import state
from tilevision.modelspec import build
from tilevision.payloads import arrays_of
from tilevision.rasterspec import RasterSpec

NAMES = ("water", "tree", "road")
RNG = np.random.default_rng(18)
IMAGE = RNG.integers(0, 255, (150, 170, 3)).astype(np.uint8)


def shares(pixels: np.ndarray) -> np.ndarray:
    """Three shares of each pixel, from its own colours."""
    raised = pixels.astype(np.float64) + 1
    return np.moveaxis(raised / raised.sum(axis=2, keepdims=True), -1, 0)


def model(**declared: Any) -> Any:
    return tv.model(shares, **({"returns": "probabilities", "classes": NAMES} | declared))


def analysed(spec: Any, image: Any = IMAGE, **how: Any) -> Any:
    grid = how.pop("grid", tv.Grid.by_tile(64, 0.2))
    how = {"checkpoint": None, "progress": False, "synthesis": None, **how}
    return tv.analyze(image, spec, grid=grid, **how)


@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 6), seed=st.integers(0, 1000), soft=st.booleans())
def test_what_is_kept_is_the_class_that_the_shares_have(k: int, seed: int, soft: bool) -> None:
    """Where a tile is alone its map of classes is the same, whichever of the two is kept."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 4, (k, 12, 9)) / 4 if soft else rng.random((k, 12, 9))
    names = [str(n) for n in range(k)]
    pixels = np.zeros((12, 9, 3), np.uint8)

    def answered(_: np.ndarray) -> np.ndarray:
        return np.asarray(raw)

    declared = {"returns": "probabilities", "classes": names, "fingerprint": "x"}
    kept = build(tv.model(answered, keep="classes", **declared)).predict([pixels])[0].raster
    assert kept.spec == RasterSpec("classes", tuple(names)) and kept.kept.shape == (1, 12, 9)
    steps = np.rint(raw.astype(np.float32) * 253).astype(int)
    best = steps.argmax(axis=0)
    if k == 1:
        best[steps[0] < 126] = 254
    assert np.array_equal(kept.kept[0], best)


@pytest.mark.parametrize("names", [NAMES, NAMES[:1]])
def test_without_overlap_both_give_the_same_map(cluster: Any, names: tuple[str, ...]) -> None:
    """And the same areas; of a single class pixels below a half are of none."""

    def some(pixels: np.ndarray) -> np.ndarray:
        return shares(pixels)[: len(names)] * 1.0

    grid = tv.Grid.by_tile(64, 0)
    both = [
        analysed(
            tv.model(some, fingerprint="some", returns="probabilities", classes=names, **kept),
            grid=grid,
        )
        for kept in ({}, {"keep": "classes"})
    ]
    whole, numbers = (np.asarray(result.raster) for result in both)
    assert np.array_equal(whole, numbers)
    assert both[0].raster.areas().equals(both[1].raster.areas())
    assert (len(names) == 1) == bool((numbers == 254).any())


def test_only_class_numbers_are_stored(cluster: Any, tmp_path: Path) -> None:
    """A plane of a byte a pixel for each tile; blended by votes, and restored."""
    from tilevision.checkpoint import Checkpoint

    spec = model(keep="classes")
    result = analysed(spec, checkpoint=tmp_path / "ck")
    plan = tv.plan(IMAGE, spec, grid=tv.Grid.by_tile(64, 0.2), checkpoint=tmp_path / "ck")
    assert len(plan.restored) == len(result.rows)
    with Checkpoint.open(tmp_path / "ck") as store:
        (one,) = plan.passes
        refs = [arrays_of(records)["raster"] for _, records in store.load(list(one.keys.values()))]
    assert {(ref.shape[0], ref.dtype, ref.raster.kind) for ref in refs} == {(1, "uint8", "classes")}
    assert result.raster.classes == {"water": 0, "tree": 1, "road": 2}
    right = np.argmax(np.rint(shares(IMAGE).astype(np.float32) * 253), axis=0)
    for blend in ("smooth", "core", "mean"):
        assert np.array_equal(np.asarray(result.with_(blend=blend).raster), right)


def test_the_plan_counts_a_byte_a_pixel() -> None:
    """Not one for each class."""
    grid = tv.Grid.by_tile(64, 0)
    whole, numbers = (
        tv.plan(IMAGE, spec, grid=grid, checkpoint=None)
        for spec in (model(), model(keep="classes"))
    )
    told = [next(n for n in plan.notes if n.startswith("Arrays")) for plan in (whole, numbers)]
    pixels = sum(t.box.width * t.box.height for t in whole.tiles)
    assert f"{3 * pixels / 1000:.3g} KB" in told[0] and f"{pixels / 1000:.3g} KB" in told[1]


def test_it_is_another_model_only_where_it_is_asked_for() -> None:
    """So nothing that is stored runs again."""
    assert model().fingerprint == model(keep="").fingerprint == model(keep=None).fingerprint
    assert model(keep="classes").fingerprint != model().fingerprint
    assert "keep" not in model(keep=None).params
    assert model().raster == model().answered == RasterSpec("probabilities", NAMES)
    assert model(keep="classes").raster == RasterSpec("classes", NAMES)


def test_what_a_map_is_called_by_others_stays() -> None:
    """Its spec is part of a map's fingerprint, and of that of a function which holds a map."""
    spec = model().raster
    assert repr(spec) == (
        "RasterSpec(kind='probabilities', classes=('water', 'tree', 'road'), unit='', "
        "precision=None)"
    )
    assert state(spec).keys() == state(model(keep="classes").raster).keys()
    assert state(spec).keys() == {"kind", "classes", "unit", "precision"} and spec.keep == ""
    asked = model(keep="classes").answered
    assert (asked.keep, asked == spec) == ("classes", False)
    assert pickle.loads(pickle.dumps(asked)) == asked and pickle.loads(pickle.dumps(spec)) == spec
    assert RasterSpec.from_dict(asked.to_dict()) == asked


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"keep": "argmax"}, r"keep of model shares is 'argmax'; give 'classes'"),
        ({"keep": True}, "keep of model shares is True"),
        ({"keep": "classes", "returns": "classes"}, "returns class numbers, and nothing else can"),
        ({"keep": "classes", "returns": "values", "classes": None}, "is for shares of classes"),
        ({"keep": "classes", "returns": "embedding", "classes": None}, "is for shares of classes"),
        ({"keep": "classes", "returns": "", "classes": None}, "is for shares of classes"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(declared: dict[str, Any], said: str) -> None:
    """In one line, before anything runs."""
    with pytest.raises(tv.ModelError, match=said) as caught:
        model(**declared)
    assert "\n" not in str(caught.value)


def test_what_needs_shares_is_refused(cluster: Any, tmp_path: Path) -> None:
    """Thresholds, unsure and shares themselves, in one line that says how to have them."""
    spec = model(keep="classes")
    for how in ({"thresholds": {"tree": 0.4}}, {"unsure": 0.5}):
        with pytest.raises(tv.RunError, match=r"need probabilities; .* without keep=\)") as caught:
            tv.plan(IMAGE, spec, grid=64, checkpoint=None, **how)
        assert "\n" not in str(caught.value)
    result = analysed(spec)
    with pytest.raises(tv.RunError, match="need probabilities"):
        print(result.with_(unsure=0.5).raster)
    with pytest.raises(tv.RunError, match=r"classes, not probabilities; .* without keep="):
        result.save(tmp_path / "map.tif", layer="probabilities")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.full((3, 4, 6), 3.5), "apply softmax"),
        (np.full((3, 4, 6), np.nan), r"holds NaN \(1 of its numbers\); give 0 to 1 for each pixel"),
        (np.full((2, 4, 6), 0.5), "there are 3 classes"),
        (np.zeros((4, 6), int), "of int64; give floats"),
    ],
)
def test_answers_are_checked_as_shares(answer: Any, said: str) -> None:
    """Before they become class numbers: logits would too, and nobody would see it."""
    spec = tv.model(
        lambda _: answer,
        fingerprint="x",
        returns="probabilities",
        classes=NAMES,
        keep="classes",
    )
    with pytest.raises(tv.ModelError, match=said):
        build(spec).predict([np.zeros((4, 6, 3), np.uint8)])


def test_maps_that_are_made_by_hand_are_reduced_too() -> None:
    """A `tv.Raster` of shares, in findings or alone; one that was reduced is left as it is."""
    steps = shares(IMAGE[:4, :6])
    right = tv.Raster(steps, classes=NAMES, keep="classes")
    whole = tv.Raster(steps, classes=NAMES)
    assert right.spec.kind == "classes" and right == whole.reduced(
        RasterSpec("probabilities", NAMES, keep="classes")
    )
    for answer in (whole, tv.Findings(raster=whole), right, steps):
        spec = tv.model(
            lambda _, answer=answer: answer,
            fingerprint="x",
            returns="probabilities",
            classes=NAMES,
            keep="classes",
        )
        assert build(spec).predict([IMAGE[:4, :6]])[0].raster == right
    with pytest.raises(tv.ModelError, match="keep is 'classes' of a map of values"):
        tv.Raster(steps, keep="classes")


def test_more_classes_fit_where_numbers_alone_are_kept() -> None:
    """64 MiB is the most that is kept of a tile, and 65 planes of 1,024 pixels a side are more."""
    big = np.broadcast_to(np.float16(0.5), (65, 1024, 1024))
    names = [str(n) for n in range(65)]
    with pytest.raises(tv.CheckpointTooLarge, match="keep='classes'"):
        tv.Raster(big, classes=names)
    kept = tv.Raster(big, classes=names, keep="classes")
    assert kept.kept.nbytes == 2**20 and not kept.kept.any()
