"""What is set in the panel, as code: running it gives what is shown."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tilevision as tv
from tilevision.evaluation.truth import read_truth
from tilevision.view.outcome.codelines import python_code, shell_code

REGION: dict[str, Any] = {
    "type": "FeatureCollection",
    "coordinates_in": "pixels",
    "features": [
        {
            "type": "Feature",
            "properties": {"name": "it's <b>"},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[0, 0], [300, 0], [300, 200], [0, 200], [0, 0]]],
            },
        }
    ],
}


def nobody(_: Any) -> None:
    """Know no name."""


def _spots(path: Path) -> None:
    rng = np.random.default_rng(3)
    pixels = np.full((256, 384, 3), 220, np.uint8)
    for x, y, r in rng.integers((10, 10, 3), (370, 240, 9), size=(60, 3)):
        ys, xs = np.ogrid[:256, :384]
        pixels[(xs - x) ** 2 + (ys - y) ** 2 <= r * r] = 40
    Image.fromarray(pixels).save(path)


@pytest.mark.slow
def test_running_the_code_restores_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model, grid, filters, limits and regions: the same objects come back, from both."""
    monkeypatch.chdir(tmp_path)
    _spots(tmp_path / "a b.png")
    asked: dict[str, Any] = {
        "model": "blobs",
        "grid": tv.Grid(2, 3, overlap=0.25),
        "region": REGION,
        "min_score": 0.1,
        "max_score": 0.95,
        "min_area": 40.0,
        "merge": "nms",
        "match_threshold": 0.4,
        "workers": 1,
    }
    shown = tv.analyze("a b.png", **asked)
    everything = tv.analyze("a b.png", "blobs", grid=asked["grid"], workers=1)
    assert 0 < len(shown.findings) < len(everything.findings)  # or it would show nothing
    names: dict[str, Any] = {}
    exec(python_code("a b.png", asked, nobody), names)
    assert names["result"].findings == shown.findings
    assert names["result"].regions.equals(shown.regions)
    words = shlex.split(shell_code("a b.png", asked, nobody), comments=True)
    subprocess.run([sys.executable, "-m", *words, "--quiet"], check=True)
    saved = read_truth(tmp_path / "detections.geojson", "a b.png", size=(384, 256))
    assert len(saved) == len(shown.findings)


def test_only_what_was_set_is_written() -> None:
    """Defaults are left out; objects go by their name in the notebook."""
    own = {"model": test_only_what_was_set_is_written, "merge": "seam", "min_score": None}
    code = python_code("a.tif", own, lambda _: "spots")
    assert code.splitlines()[2:] == [
        "result = tv.analyze(",
        "    'a.tif',",
        "    model=spots,",
        ")",
    ]
    shell = shell_code("a.tif", own, lambda _: "spots")
    assert shell.splitlines() == [
        "# Put spots into the file models.py first.",
        "tilevision run a.tif --model models.py:spots --out detections.geojson",
    ]


@pytest.mark.parametrize(
    ("given", "python", "shell"),
    [
        ({"grid": tv.Grid.by_tile(640, "64px")}, "tv.Grid(tile=(640, 640), overlap='64px')",
         "--grid 640 --overlap 64px"),
        ({"grid": "2x3"}, "grid='2x3'", "--grid 2x3"),
        ({"classes": ("a b", "c")}, "classes=('a b', 'c')", "--class 'a b' --class c"),
        ({"thresholds": {"a b": 0.4}, "blend": "core"}, "thresholds={'a b': 0.4}",
         "--blend core --threshold 'a b=0.4'"),
        ({"checkpoint": None}, "checkpoint=None", "--no-checkpoint"),
        ({"region": (0, 1, 2, 3)}, "region=(0, 1, 2, 3)", "--region 0,1,2,3"),
        ({"region": ["tissue", REGION]}, "region = ['tissue', {'type'",
         "--region tissue --region '{\"type\""),
        ({"full_image": True}, "full_image=True", "--full-image"),
        ({"reuse": False}, "reuse=False", "--no-reuse"),
        ({"retry": tv.Retry(attempts=5)}, "tv.Retry(attempts=5", "--retries 4"),
        ({"model": tv.Cascade("blobs", "nuclei", when=(0.2, 0.6))},
         "tv.Cascade('blobs', 'nuclei', when=(0.2, 0.6))", "--model models.py:model"),
    ],
)  # fmt: skip
def test_each_setting_is_spelt(given: dict[str, Any], python: str, shell: str) -> None:
    """As Python takes it, and as the shell does."""
    assert python in python_code("a.tif", given, nobody)
    assert shell in shell_code("a.tif", given, nobody)
