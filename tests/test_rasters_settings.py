"""How maps are blended is a setting of the run: kept, repeated, refused at the call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_tiles import SIDE, Inline, inline_runs, picture  # noqa: F401 - fixtures

import tilevision as tv
from tilevision.pipeline.manifest import find_manifest, recipe_of

Make = Callable[..., Inline]
GRID = tv.Grid.by_tile(SIDE, 0.5)


def leaning(pixels: np.ndarray) -> np.ndarray:
    """Two classes; each tile is surer of the first the farther to its right."""
    h, w = pixels.shape[:2]
    p = np.tile(np.linspace(0.1, 0.9, w), (h, 1))
    return np.stack([p, 1 - p])


MODEL = tv.model(leaning, returns="probabilities", classes=("a", "b"), fingerprint="leaning")


def test_a_run_blends_as_asked_and_stores_the_same_tiles(inline: Make) -> None:
    """The keys of tiles do not depend on it; the recipe and `with_` know it."""
    plain = inline(MODEL, grid=GRID)
    how: dict[str, Any] = {"blend": "core", "margin": 4, "thresholds": {"a": 0.7}, "unsure": 0.55}
    asked = inline(MODEL, grid=GRID, **how)
    assert [one.keys for one in plain.plan.passes] == [one.keys for one in asked.plan.passes]
    first, second = plain.conduct(), asked.conduct()
    same = first.with_(**how)
    assert np.array_equal(np.asarray(second.raster), np.asarray(same.raster))
    assert not np.array_equal(np.asarray(first.raster), np.asarray(second.raster))
    assert second.facts.recipe["settings"].items() >= how.items()
    assert not {"blend", "margin"} & first.facts.recipe["settings"].keys()


def test_a_recipe_has_the_blend_of_the_result_it_is_saved_from(
    inline: Make, tmp_path: Path
) -> None:
    """Changed, or taken back, afterwards."""
    run = inline(MODEL, grid=GRID, blend="core", thresholds={"a": 0.7})
    changed = run.conduct().with_(blend="mean", thresholds=None)
    told = tv.recipe(changed.save(tmp_path / "a.recipe.json"), MODEL)
    assert (told["blend"], told["margin"]) == ("mean", 0) and "thresholds" not in told


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"blend": "best"}, "blend is 'best'; give one of smooth, linear, core, mean."),
        ({"margin": 1.5}, "margin is 1.5; give pixels of the map, from 0."),
        ({"margin": True}, "margin is True"),
        ({"thresholds": 0.4}, "thresholds is 0.4; give {class: share}, as {'cloud': 0.4}."),
        ({"thresholds": "ab"}, "thresholds is 'ab'"),
        ({"thresholds": {"c": 0.4}}, "There is no class 'c' in the map, which has a, b"),
        ({"unsure": "half"}, "unsure"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_call(
    tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    """In one line, before anything runs."""
    with pytest.raises(tv.RunError) as caught:
        tv.plan(picture(tmp_path), MODEL, grid=GRID, checkpoint=None, **given)
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_thresholds_of_a_map_of_classes_are_refused_and_blends_without_a_map_are_noted(
    tmp_path: Path,
) -> None:
    """A map that is declared is known beforehand; of other models a map may still come."""
    image = picture(tmp_path)
    classes = tv.model(leaning, returns="classes", classes=("a",), fingerprint="x")
    with pytest.raises(tv.RunError, match="thresholds and unsure need probabilities"):
        tv.plan(image, classes, grid=GRID, checkpoint=None, unsure=0.5)
    boxes = tv.model(leaning, fingerprint="y")
    notes = tv.plan(image, boxes, grid=GRID, checkpoint=None, blend="core").notes
    assert "blend, margin, thresholds and unsure are of maps, and leaning declares none." in notes


@pytest.mark.slow
def test_a_reopened_run_shows_the_same_map(tmp_path: Path, cluster: Any) -> None:
    """Read from the checkpoint, resumed and as a run of several images."""
    from tilevision.history import FollowedRun, stored_result

    image, folder = picture(tmp_path), tmp_path / "kept"
    how: dict[str, Any] = {"blend": "core", "margin": 4, "unsure": 0.55}
    run = tv.start(image, MODEL, grid=GRID, checkpoint=folder, client=cluster, **how)
    shown = np.asarray(run.result().raster)
    followed = FollowedRun(run.id, folder)
    assert np.array_equal(np.asarray(stored_result(followed, folder, model=MODEL).raster), shown)
    again = tv.resume(run.id, folder, model=MODEL, client=cluster)
    assert np.array_equal(np.asarray(again.result().raster), shown)
    several = tv.analyze_many(
        [image], MODEL, grid=GRID, checkpoint=folder, client=cluster, progress=False, **how
    )
    assert np.array_equal(np.asarray(several[image.name].raster), shown)
    kept = recipe_of(find_manifest(run.id, folder))["settings"]
    assert kept.items() >= how.items()


def test_outside_the_region_there_are_no_data(inline: Make) -> None:
    """Tiles reach out of it: what they saw there is neither read, counted, outlined nor drawn."""
    run = inline(MODEL, grid=GRID, region=(10, 5, 70, 50))
    result = run.conduct()
    inside = np.zeros((64, 96), bool)
    inside[5:50, 10:70] = True
    raster = result.raster
    for one in (np.asarray(raster), raster.dask.compute(), raster[::1]):
        assert np.array_equal(one != 255, inside)
    assert np.array_equal(~np.isnan(np.asarray(raster.probability("a"))), inside)
    assert np.array_equal(raster[3:60:5, 2:90:7] != 255, inside[3:60:5, 2:90:7])
    assert np.array_equal(raster.cover()[0][..., 3] > 0, inside)
    assert raster.areas()["pixels"].sum() == inside.sum()
    pytest.importorskip("rasterio")
    assert result.to_polygons().findings.boxes.max(axis=0)[2:].tolist() == [70, 50]


def test_a_result_with_a_map_shows_it(inline: Make) -> None:
    """In a notebook the map with what its colours stand for; in a figure as well."""
    shown = inline(MODEL, grid=GRID).conduct()
    html = shown._repr_html_()
    assert "<img src='data:image/png;base64," in html and "0 detections" not in html
    assert "</span> a</span>" in html and "</span> b</span>" in html
    heights = tv.model(
        lambda p: p[..., 0] / 10, returns="values", unit="m", precision=0.5, fingerprint="h"
    )
    result = inline(heights).conduct()
    assert all(f"</span> {words}</span>" in result._repr_html_() for words in ("1 m", "6 m"))
    picture, keys = result.raster.cover()
    assert list(keys) == ["1 m", "3.5 m", "6 m"] and len(set(keys.values())) == 3
    corner = "#{:02x}{:02x}{:02x}".format(*picture[0, 0, :3].tolist())
    assert corner == keys["1 m"]
    assert {"1 m", "6 m"} <= set(_legend(result.plot()))
    plain = inline().conduct()._repr_html_()
    assert "6 detections" in plain and "<img" not in plain


def _legend(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]
