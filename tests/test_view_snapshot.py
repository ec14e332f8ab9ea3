"""The picture that a saved notebook keeps says what it shows, without a kernel."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tilevision.geometry import Box
from tilevision.view import notebook
from tilevision.view.picture import snapshot
from tilevision.view.picture.overlay import Frame
from tilevision.view.picture.snapshot import (
    LINE,
    MARGIN,
    CaptionedFrame,
    Snapshot,
    captioned,
    round_length,
)

GREEN = (0, 160, 0)


def _frame(width: int, height: int, mpp: float = 0.0, **caption: Any) -> CaptionedFrame:
    out = BytesIO()
    Image.new("RGB", (width, height), GREEN).save(out, "JPEG", quality=95)
    words = {"headline": "scan.tif · Complete", "detail": "took 3 s", "alt": "a", "legend": []}
    view = Box(0, 0, width * 10, height * 10)
    return CaptionedFrame(Frame(out.getvalue(), view, (width, height)), words | caption, mpp)


def _pixels(frame: CaptionedFrame) -> np.ndarray:
    with Image.open(BytesIO(captioned(frame))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def _like(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels - colour).max(axis=2) < 30


def test_the_frame_stays_as_it_is_and_words_stand_below_it() -> None:
    """Two lines of text on white; the picture's own pixels are not covered or scaled."""
    pixels = _pixels(_frame(600, 300))
    assert pixels.shape == (300 + 2 * MARGIN + 2 * LINE, 600, 3)
    assert _like(pixels[:298], GREEN).all()
    below = pixels[302:]
    assert _like(below, (0, 0, 0)).any() and _like(below[:, -4:], (255, 255, 255)).all()


def test_the_legend_shows_each_colour_and_goes_on_in_further_rows() -> None:
    """Every entry has its patch, however many there are and however long their words."""
    entries = [
        {"words": f"{number} a class with a rather long name", "colour": colour}
        for number, colour in enumerate(("#ff0000", "#0000ff", "#ff00ff", "#00ffff", "#ffff00"))
    ]
    few = _pixels(_frame(500, 100, legend=entries[:1]))
    many = _pixels(_frame(500, 100, legend=entries))
    assert len(many) > len(few)
    for colour in ((255, 0, 0), (0, 0, 255), (255, 0, 255), (0, 255, 255), (255, 255, 0)):
        assert _like(many[104:], colour).sum() > 80


def test_nothing_is_cut_off_at_the_right() -> None:
    """A long headline, and labels that look like formulas or markup, stay within the picture."""
    hostile = "$\\frac{1}{2}$ <b>x</b> " * 8
    pixels = _pixels(
        _frame(300, 100, headline=hostile, legend=[{"words": hostile[:40], "colour": "#ff0000"}])
    )
    assert pixels.shape[1] == 480, "narrow pictures get room for words"
    assert _like(pixels[104:, -3:], (255, 255, 255)).all()


@pytest.mark.parametrize("mpp", [0.0, 0.5])
def test_a_scale_bar_is_drawn_where_the_scale_is_known(mpp: float) -> None:
    """As long as it says: 600 pixels of 10 full-resolution pixels of 0.5 µm show 500 µm in 100."""
    corner = _pixels(_frame(600, 300, mpp))[240:296]
    white = _like(corner, (255, 255, 255)).sum(axis=1).max()
    assert white == (0 if not mpp else pytest.approx(100, abs=3))


@pytest.mark.parametrize(
    ("most", "name"),
    [
        (660, "500 µm"),
        (1999, "1 mm"),
        (2e6, "2 m"),
        (0.07, "50 nm"),
        (4.9, "2 µm"),
        (1e9, "1 km"),
        (3e4, "2 cm"),
    ],
)
def test_lengths_are_round(most: float, name: str) -> None:
    """1, 2 or 5 times a power of ten, as the live picture's page has them."""
    length, words = round_length(most)
    assert words == name and most / 2.6 < length <= most * 1.0001


def test_the_end_of_a_run_is_kept_at_once(monkeypatch) -> None:
    """Its first frame at rest does not wait for others: a kernel may end right after a run."""
    updates: list[Any] = []
    handle = SimpleNamespace(update=lambda bundle, **_: updates.append(bundle["text/plain"]))
    monkeypatch.setattr(snapshot, "display", lambda bundle, **given: handle)
    monkeypatch.setattr(snapshot, "SNAPSHOT_SECONDS", 3600.0)
    picture = Snapshot()
    picture.display("a run")
    picture.update(_frame(600, 400, alt="begun"), now=False)
    picture.update(_frame(600, 400, alt="going"), now=False)  # too soon after the last
    picture.update(_frame(600, 400, alt="ended"), now=True)
    assert updates == ["begun", "ended"]


def test_a_page_made_of_a_saved_notebook_has_the_picture_with_its_words(monkeypatch) -> None:
    """The picture has a text alternative; no name of a class stands where the widget was."""
    shown: list[Any] = []
    updates: list[Any] = []
    handle = SimpleNamespace(update=lambda bundle, **given: updates.append((bundle, given)))
    monkeypatch.setattr(snapshot, "display", lambda bundle, **given: handle)
    monkeypatch.setattr(snapshot, "SETTLED_SECONDS", 3600.0)
    picture = Snapshot()
    picture.display("a run")
    for words in ("15 tiles done", "16 tiles done"):  # only the last one is drawn
        picture.update(_frame(600, 400, alt=words), now=True)
    picture.flush()
    picture.flush()
    ((bundle, given),) = updates
    assert bundle.keys() == {"image/jpeg", "text/plain"}
    assert given["metadata"] == {"image/jpeg": {"alt": "16 tiles done"}}
    monkeypatch.setattr(notebook, "display", lambda bundle, **given: shown.append(bundle))
    notebook.show_widget(SimpleNamespace(model_id="m"))
    view = {"version_major": 2, "version_minor": 0, "model_id": "m"}
    assert shown == [{"application/vnd.jupyter.widget-view+json": view, "text/plain": ""}]
