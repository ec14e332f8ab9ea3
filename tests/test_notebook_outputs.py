"""Whatever the package shows in a notebook adds less than 300 KB to it, and is shown once."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.core.pylabtools import select_figure_formats
from matplotlib.figure import Figure

import tilevision as tv
from tilevision.view import LiveView, Panel
from tilevision.view.compare.compareview import CompareView
from tilevision.view.picture import snapshot

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

MOST = 300_000  # of JSON, which a notebook is
SIDE = (1200, 1500)
# As many and as long names as a model may give.
NAMES = [f"{number} {'a long name ' * 25}" for number in range(300)]


def many(pixels: np.ndarray) -> Any:
    """Find hundreds of things of as many classes."""
    places = np.random.default_rng(int(pixels[0, 0, 0])).integers(0, 200, (300, 2)).tolist()
    return [
        {"box": (x, y, x + 9, y + 9), "score": 0.5, "label": name}
        for (x, y), name in zip(places, NAMES, strict=True)
    ]


def heights(pixels: np.ndarray) -> Any:
    """Give a map of noise."""
    return pixels[..., 0].astype(np.float32)


def kinds(pixels: np.ndarray) -> Any:
    """Give a map of the class of each pixel, which is noise."""
    return (pixels[..., 0] % 20).astype(np.uint8)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """A picture that no compression lessens."""
    return np.random.default_rng(0).integers(0, 255, (*SIDE, 3), np.uint8)


@pytest.fixture
def result(noise: np.ndarray, elsewhere: Path) -> tv.Result:
    return tv.analyze(noise, many, grid="4x5", progress=False, checkpoint="kept")


def kept(value: Any) -> dict[str, Any]:
    """Return what a notebook keeps of `value`, with pyplot's formats as well."""
    formatter = DisplayFormatter()
    formatter.active_types = formatter.format_types
    select_figure_formats(SimpleNamespace(display_formatter=formatter), {"png"})
    shown: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", lambda value, raw: shown.append(value))
        told, _ = formatter.format(value)
    (bundle,) = [told] if told else shown
    return {k: b64encode(v).decode() if isinstance(v, bytes) else v for k, v in bundle.items()}


def check(value: Any) -> None:
    """Assert that it is kept in little, and that a picture is kept once."""
    bundle = kept(value)
    size = len(json.dumps(bundle))
    assert size < MOST, f"{type(value).__name__}: {size:,} bytes"
    pictures = [kind for kind in bundle if kind.startswith("image/")]
    assert pictures == (["image/jpeg"] if isinstance(value, Figure) else [])


def test_results_and_their_figures_stay_small(result: tv.Result, noise: np.ndarray) -> None:
    """Result, findings, plan, evaluation and comparison, as text, table and figure."""
    other = result.with_(merge="nms", min_score=0.2)
    score, comparison = tv.evaluate(result, other.findings), tv.compare(result, other)
    for value in (result, result.findings, score, comparison):
        check(value)
        assert "text/html" in kept(value)
    for value in (result.plot(), score.plot(), comparison.plot()):
        check(value)
    check(tv.plan(noise, many, grid="100x100", checkpoint="kept"))
    run = tv.start(noise, many, grid="4x5", checkpoint="kept")
    run.result(200)
    check(run)


def test_maps_and_their_figures_stay_small(noise: np.ndarray, elsewhere: Path) -> None:
    """A map of values and one of classes: drawn in the page, plotted, and evaluated."""
    named = tv.model(kinds, returns="classes", classes=[name[:60] for name in NAMES[:20]])
    for model in (tv.model(heights, returns="values"), named):
        result = tv.analyze(noise, model, grid="4x5", progress=False, checkpoint="kept")
        assert "data:image/png" in kept(result.raster)["text/html"]
        for value in (result, result.raster, result.plot()):
            check(value)
    truth = np.random.default_rng(1).integers(0, 20, SIDE).astype(np.uint8)
    score = tv.evaluate(result, truth)
    check(score)
    check(score.plot())


def test_a_batch_stays_small(noise: np.ndarray, elsewhere: Path) -> None:
    """However many images there are."""
    images = {f"{'image ' * 20}{number}": noise[:9, :9] for number in range(60)}
    check(tv.analyze_many(images, "blobs", grid="1x1", progress=False, checkpoint="kept"))


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str], dict[str, Any]]]:
    """Return what a notebook keeps of a view that was displayed, once its headline has words."""
    views: list[Any] = []

    def of(view: Any, words: str) -> dict[str, Any]:
        shown: list[dict[str, Any]] = []
        handle = SimpleNamespace(update=lambda bundle, **_: shown.append(bundle))
        monkeypatch.setattr(snapshot, "display", lambda *_, **__: handle)
        views.append(view)
        view._snapshot.display("")
        view._screen.poke()
        until = time.monotonic() + 200
        while not shown or words not in view._screen.canvas.caption.get("headline", ""):
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.02)
        return shown[-1]

    yield of
    for view in views:
        view.close()


def test_live_pictures_stay_small(
    result: tv.Result, noise: np.ndarray, pictures: Callable[[Any, str], dict[str, Any]]
) -> None:
    """The panel, a run that is watched and a comparison keep one picture each, with its words."""
    run = tv.start(noise, many, grid="4x5", checkpoint="kept")
    run.result(200)
    other = tv.compare(result, result.with_(merge="nms"))
    panel = Panel(noise, many, (), "kept", {"grid": "4x5"})
    for view, words in (
        (LiveView(run), "merged by"),
        (CompareView(other), "both"),
        (panel, "seam"),
    ):
        bundle = pictures(view, words)
        assert {*bundle} == {"image/jpeg", "text/plain"}
        assert len(json.dumps(bundle)) < MOST, view


def test_a_map_over_the_live_picture_stays_small(
    noise: np.ndarray, elsewhere: Path, pictures: Callable[[Any, str], dict[str, Any]]
) -> None:
    """The layer of a map is part of the one picture that is kept."""
    model = tv.model(heights, returns="values")
    tv.analyze(noise, model, grid="4x5", progress=False, checkpoint="kept")
    panel = Panel(noise, model, (), "kept", {"grid": "4x5"})
    assert len(json.dumps(pictures(panel, "map of values"))) < MOST
    assert panel._screen.canvas.maps
