"""A recipe: how a result came about, in a file that does it again."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tilevision as tv
from tilevision import samples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sky() -> np.ndarray:
    """Part of the deep field."""
    return samples.sky()[:400, :500]


def _run(image, **arguments):
    return tv.analyze(image, checkpoint=None, workers=1, progress=False, **arguments)


def test_a_recipe_repeats_the_run(tmp_path, sky) -> None:
    """Same grid, model with its parameters, region, thresholds and merge: the same findings."""
    model = tv.model("blobs", max_diameter=12.0)
    asked = {"grid": tv.Grid(rows=2, cols=3, overlap="40px"), "region": (20, 30, 400, 380)}
    merge = {"merge": "nms", "match_metric": "ios", "match_threshold": 0.3, "class_agnostic": True}
    first = _run(sky, model=model, min_score=0.3, **merge, **asked)
    path = first.save(tmp_path / "found.recipe.json")
    again = _run(sky, **tv.recipe(path))
    assert len(first.findings) > 20
    assert again.findings == first.findings
    assert again.save(tmp_path / "again.recipe.json").read_bytes() == path.read_bytes()


def test_a_recipe_follows_the_result_it_is_saved_from(tmp_path, sky) -> None:
    """Thresholds changed afterwards are the recipe's, also within a JSON export."""
    changed = _run(sky, model="blobs", grid="1x2").with_(min_score=0.7, classes=["bright"])
    arguments = tv.recipe(changed.save(tmp_path / "found.json"))
    assert (arguments["min_score"], arguments["classes"]) == (0.7, ["bright"])
    assert "workers" not in arguments


def test_a_recipe_with_a_function_asks_for_it(tmp_path, sky) -> None:
    """A file holds no code: the function is given again."""

    def corner(pixels):
        return [(0, 0, 5, 5)]

    path = _run(sky, model=corner, grid="1x2").save(tmp_path / "f.recipe.json")
    with pytest.raises(tv.RunError, match="used the function corner, which is not stored"):
        tv.recipe(path)
    assert len(_run(sky, **tv.recipe(path, model=corner)).findings) == 2


def test_what_is_no_recipe_is_refused_in_one_line(tmp_path) -> None:
    """A missing file, text, other JSON, another version."""
    for name, content in {
        "text.json": "hello",
        "other.json": "[]",
        "new.json": json.dumps({"format": "tilevision recipe", "version": 99}),
        "torn.json": json.dumps({"format": "tilevision recipe", "version": 1}),
    }.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(tv.RunError, match=rf"{name} is (not )?a recipe") as caught:
            tv.recipe(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(tv.RunError, match="cannot be read"):
        tv.recipe(tmp_path / "none.json")
