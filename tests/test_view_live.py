"""The live view: it draws while the run goes on, ends with it, and leaves nothing behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tilevision.display import PICTURE_BYTES, smaller
from tilevision.errors import RunError, SourceError
from tilevision.events import Bus, RunChanged, TileChanged
from tilevision.geometry import Box
from tilevision.grid import Grid
from tilevision.sources import open_source
from tilevision.view.live import LiveView, watch


class ScriptedRun:
    """A run that does what the test says, when the test says it."""

    id = "scripted"
    name = "a grey image"
    model = SimpleNamespace(name="a model")

    def __init__(self) -> None:
        self.source = open_source(np.full((60, 90, 3), 128, np.uint8))
        self.tiles = Grid(2, 3).tiles(self.source.size)
        self.bus = Bus()
        self.events = self.bus.snapshot
        self.subscribe = self.bus.subscribe
        self.bus.emit(RunChanged(time.time(), "running"))

    def turn(self, i: int, status: str, n: int = 0) -> None:
        """Have tile `i` change, with `n` boxes."""
        boxes = ((5, 5, 20, 20, "cell"),) * n
        self.bus.emit(TileChanged(time.time(), self.tiles[i], status, n_findings=n, boxes=boxes))

    def finish(self, status: str = "complete") -> None:
        """End the run."""
        self.bus.emit(RunChanged(time.time(), status))


@pytest.fixture
def run() -> ScriptedRun:
    return ScriptedRun()


@pytest.fixture
def view(run: ScriptedRun) -> Iterator[LiveView]:
    view = LiveView(run)
    yield view
    view.close()


def _wait(condition: Callable[[], object], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def _threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("tilevision-view")]


def test_what_happens_is_shown_and_the_thread_ends_with_the_run(run, view) -> None:
    """Tiles turn while the run goes on; after its end there is a last frame and no thread."""
    run.turn(0, "running")
    _wait(lambda: "1 running" in view.widget.caption.get("alt", ""))
    first = view.widget.frame
    for i in range(6):
        run.turn(i, "done", n=1)
    run.finish()
    _wait(lambda: not _threads())
    assert "complete: 6 tiles (6 done), 6 detections" in view.widget.caption["alt"]
    assert view.widget.frame != first
    assert Image.open(BytesIO(view.widget.frame)).size == tuple(
        map(int, view._screen._scene.overlay.size)
    )


def test_a_view_that_comes_late_shows_all_there_is(run) -> None:
    """Watching a run that is over shows its end."""
    run.turn(0, "done", n=2)
    run.turn(1, "failed")
    run.finish("partial")
    view = LiveView(run)
    _wait(lambda: not _threads())
    assert "partial: 6 tiles (4 pending, 1 done, 1 failed)" in view.widget.caption["alt"]
    view.close()


def test_a_burst_of_events_costs_few_messages(run, view, monkeypatch) -> None:
    """One widget message a frame, however many tiles turned: the server drops what is more.

    One more begins and one ends the sign of a count that takes longer than a moment.
    """
    sent: list[Any] = []
    entered, gate, keep = threading.Event(), threading.Event(), view._screen._on_frame

    def held(*frame: Any) -> None:
        entered.set()
        assert gate.wait(200)
        keep(*frame)

    monkeypatch.setattr(view._screen, "_on_frame", held)
    run.turn(0, "running")
    assert entered.wait(200)
    monkeypatch.setattr(view.widget, "send_state", lambda key=None: sent.append(key))
    drawn = view.frames
    for round_ in range(50):
        for i in range(6):
            run.turn(i, "running" if round_ % 2 else "retrying")
    run.finish()
    gate.set()
    _wait(lambda: not _threads())
    pictures = [keys for keys in sent if keys not in ("busy", {"busy"})]
    assert 1 <= len(pictures) == view.frames - drawn < 5
    assert (len(sent) - len(pictures)) % 2 == 0


def test_nothing_is_drawn_while_nothing_happens(run, view) -> None:
    """A run that waits costs no frames."""
    run.turn(0, "running")
    _wait(lambda: "1 running" in view.widget.caption.get("alt", ""))
    drawn: list[int] = []

    def rests() -> bool:
        drawn.append(view.frames)
        time.sleep(0.7)
        return view.frames == drawn[-1]

    _wait(rests)  # a busy machine may be slow to draw the last of what happened


def test_the_user_can_look_closer_after_the_run_has_ended(run, view) -> None:
    """A region asked for by the page is drawn, and then the thread ends again."""
    run.finish()
    _wait(lambda: not _threads())
    view.widget.viewport = [10.0, 10.0, 30.0, 20.0]
    _wait(lambda: view.widget.shown and view.widget.shown[2] < 40)
    _wait(lambda: not _threads())
    view.widget.viewport = [1.0, float("nan"), 5.0, 5.0]
    _wait(lambda: view.widget.shown == view.widget.whole)


def test_a_run_that_goes_on_after_its_end_is_shown_again(run, view) -> None:
    """Failed tiles that are retried after the end turn too."""
    run.turn(0, "failed")
    run.finish("partial")
    _wait(lambda: not _threads())
    run.bus.emit(RunChanged(time.time(), "running"))
    run.turn(0, "done")
    run.finish()
    _wait(lambda: "complete: 6 tiles (5 pending, 1 done)" in view.widget.caption["alt"])


def test_another_run_is_shown_without_what_was_counted_of_the_one_before(
    run, view, monkeypatch
) -> None:
    """A count that ends later is dropped, and an old frame is not taken for one of the new run."""
    run.turn(0, "done", n=2)
    run.finish()
    _wait(lambda: not _threads())
    screen, subject = view._screen, view.widget.subject
    before = screen._scene
    assert "2 detections" in screen.text and before.counted is not None
    with monkeypatch.context() as still:
        still.setattr(screen, "poke", lambda: None)
        screen.show(ScriptedRun())
        screen.count(run, before.counted, before.counted_for)
        assert "0 detections in tiles" in screen.text
        screen._draw_one(before)
        assert view.widget.subject == subject
    screen.poke()
    _wait(lambda: view.widget.subject > subject)
    assert "running: 6 tiles" in view.widget.caption["alt"]


def test_closing_ends_the_thread_and_the_listening_but_not_the_run(run) -> None:
    """After close nothing draws or listens, and nothing keeps the view in memory."""
    view = LiveView(run)
    run.turn(0, "running")
    _wait(_threads)
    view.close()
    assert not _threads()
    drawn, gone = view.frames, weakref.ref(view)
    run.turn(0, "done")
    assert view.frames == drawn
    assert not _threads()
    del view
    gc.collect()
    assert gone() is None


def test_an_image_that_cannot_be_read_leaves_the_tiles_to_be_seen(run, monkeypatch) -> None:
    """The view says what is wrong and goes on with what it has."""

    def fail(box: Box, scale: float = 1.0, bands: object = None) -> None:
        raise SourceError("the file is gone; bring it back")

    monkeypatch.setattr(run.source, "read", fail)
    view = LiveView(run)
    run.turn(0, "done")
    run.finish()
    _wait(lambda: not _threads())
    assert "the file is gone" in view.widget.caption["detail"]
    assert "1 done" in view.widget.caption["alt"]
    view.close()


def test_watch_outside_a_notebook_is_one_clear_line(run) -> None:
    """The error says where it would work and what to use here."""
    with pytest.raises(RunError, match=r"notebook.*run\.wait"):
        watch(run)


@pytest.mark.parametrize("wrong", [None, 7])
def test_watching_what_is_no_run_is_one_clear_line(wrong) -> None:
    """The error names what to give."""
    with pytest.raises(RunError, match=r"tv\.start"):
        watch(wrong)


def test_the_picture_a_notebook_keeps_is_small() -> None:
    """Noise, which hardly compresses, still fits into half a megabyte of base64."""
    noise = np.random.default_rng(0).integers(0, 255, (1440, 1920, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(noise).save(out, "JPEG", quality=95)
    assert len(out.getvalue()) > PICTURE_BYTES
    assert len(smaller(out.getvalue())) * 4 / 3 <= PICTURE_BYTES
