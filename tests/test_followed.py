"""A run seen from elsewhere: all of its history, then what happens, and how it ended."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tilevision.checkpoint import RunLock
from tilevision.errors import RunError, SourceError
from tilevision.events import (
    Event,
    ImageChanged,
    Journal,
    RunChanged,
    StageDone,
    TileChanged,
    image_line,
    journal_path,
)
from tilevision.grid import Grid
from tilevision.history import FollowedRun, ReplayedRun
from tilevision.history.followedbatch import FollowedMany
from tilevision.pipeline.tiling import Tiling
from tilevision.sources import open_source
from tilevision.view import live, replay, watch
from tilevision.view import notebook as in_notebook

GRID = Grid(2, 3)
SIZE = (90, 60)
PATIENCE = 200.0


class Written:
    """A run whose journal the test writes, at work until the test lets it go."""

    id = "20261122-100000-abcdef"

    def __init__(self, folder: Path) -> None:
        self.picture = folder / "picture.png"
        Image.new("RGB", SIZE, "grey").save(self.picture)
        self.tiles = GRID.tiles(SIZE)
        self.folder = folder / "kept"
        self.path = self.folder / "runs" / f"{self.id}.jsonl"
        self.lock = RunLock(self.folder, self.id)
        self.began = time.time() + 5
        self.manifest: dict[str, Any] = {
            "id": self.id,
            "started": self.began,
            "image": "picture.png",
            "size": list(SIZE),
            "model": "a model",
            "n_tiles": 6,
            "path": str(self.picture),
            "source": open_source(self.picture).fingerprint,
            "tiling": Tiling(GRID).to_dict(),
            "settings": {"mpp": None},
        }

    def begin(self, **changes: Any) -> None:
        """Take the lock and write the first lines."""
        self.lock.acquire()
        self.journal = Journal(self.path, self.manifest | changes)
        self.tell("running", 0)

    def turn(self, i: int, status: str, at: float = 0, **more: Any) -> None:
        """Have tile `i` change `at` seconds after the beginning."""
        self.journal(TileChanged(self.began + at, self.tiles[i], status, **more))

    def tell(self, status: str, at: float) -> None:
        """Have the run change."""
        self.journal(RunChanged(self.began + at, status))

    def let_go(self) -> None:
        """End the process that works on it, as far as others can see."""
        self.journal.close()
        self.lock.release()

    def follow(self, **options: Any) -> FollowedRun:
        """See it from elsewhere."""
        return FollowedRun(self.id, self.folder, **options)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    run = Written(tmp_path)
    yield run
    run.lock.release()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


# Beside them, threads that decode images are kept for as long as the process lives.
WATCHING = ("tilevision-view", "tilevision-journal")


def _threads(of: str | tuple[str, ...] = "tilevision-journal") -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(of)]


def _final(events: list[Event]) -> list[str]:
    return [e.status for e in events if isinstance(e, TileChanged) and e.status == "done"]


def test_history_then_live_nothing_missed_or_doubled(written) -> None:
    """One who comes in the middle hears each tile's state once, then each change once."""
    written.begin()
    written.turn(0, "running")
    written.turn(0, "done")
    run, heard = written.follow(), []
    leave = run.subscribe(heard.append, history=True)
    for i in range(1, 6):
        written.turn(i, "running")
        written.turn(i, "done")
    written.tell("complete", 1)
    written.let_go()
    assert run.wait(PATIENCE)
    _until(lambda: not _threads())
    leave()
    done = Counter(e.tile for e in heard if isinstance(e, TileChanged) and e.status == "done")
    assert done == dict.fromkeys(written.tiles, 1)
    assert [e.status for e in heard if isinstance(e, RunChanged)] == ["running", "complete"]


def test_it_knows_what_its_manifest_says(written) -> None:
    """Id, names, tiles, image: as the run itself has them; status and counts of this moment."""
    written.begin()
    run = written.follow()
    assert (run.id, run.name, run.model.name) == (written.id, "picture.png", "a model")
    assert run.tiles == written.tiles
    assert run.started == written.began
    assert run.source.size == SIZE
    assert run.counts == {"pending": 6}
    written.turn(2, "failed", error="no")
    assert (run.status, run.counts) == ("running", {"pending": 5, "failed": 1})
    assert "running (5 pending, 1 failed)" in repr(run)
    assert not run.wait(0.01)
    written.turn(3, "done")
    assert run.events()[-1] == TileChanged(written.began, written.tiles[3], "done")


def test_a_run_whose_process_died_is_interrupted(written) -> None:
    """The journal still says running; the lock says that nobody is at work."""
    written.begin()
    written.turn(0, "done", at=3)
    run, heard = written.follow(), []
    run.subscribe(heard.append)
    assert run.status == "running"
    written.let_go()
    assert run.wait(PATIENCE)
    assert run.status == "interrupted"
    assert heard[-1].time == written.began + 3, "it ended with its last sign of life"
    assert f"tv.resume('{written.id}')" in heard[-1].reason
    _until(lambda: not _threads())


def test_a_run_that_goes_on_after_an_interruption_is_running_again(written) -> None:
    """What is asked of it is of this moment, though its thread has ended."""
    written.begin()
    written.let_go()
    run = written.follow()
    assert run.status == "interrupted"
    with RunLock(written.folder, written.id):
        journal = Journal.reopen(written.path)
        journal(RunChanged(written.began + 9, "running"))
        assert run.status == "running"
        journal(RunChanged(written.began + 10, "complete"))
    assert run.status == "complete"


def test_no_thread_without_listeners(written) -> None:
    """None before the first, none after the last, one again for the next."""
    written.begin()
    run = written.follow()
    assert run.counts
    assert not _threads()
    leaves = [run.subscribe(lambda _: None) for _ in range(3)]
    assert len(_threads()) == 1
    for leave in leaves:
        leave()
        leave()
    _until(lambda: not _threads())
    heard: list[Event] = []
    written.turn(1, "done")
    leave = run.subscribe(heard.append)
    _until(lambda: _final(heard))
    leave()
    _until(lambda: not _threads())


def test_the_dashboard_is_known_while_the_run_is_at_work(written) -> None:
    """From the journal, which holds no secret of the address; a run that is over has none."""
    written.begin()
    run = written.follow()
    assert run.dashboard_link is None
    secret = "https://ada:hunter2@host:8787/status"
    written.journal(StageDone(written.began, "cluster", 1.0, "up", link=secret))
    assert run.dashboard_link == "https://***@host:8787/status"
    assert b"hunter2" not in written.path.read_bytes()
    written.tell("complete", 5)
    assert run.status == "complete" and run.dashboard_link is None


def test_a_listener_may_ask_the_run(written) -> None:
    """Asking for status or counts while being told neither locks up nor doubles events."""
    written.begin()
    run, heard = written.follow(), []

    def ask(event: Event) -> None:
        heard.append((event, run.status, run.counts))

    leave = run.subscribe(ask, history=True)
    written.turn(0, "done")
    written.turn(1, "done")
    _until(lambda: len(heard) >= 3)
    leave()
    assert [counts.get("done", 0) for _, _, counts in heard] == [0, 1, 2]


def test_one_who_joins_is_not_held_up_by_a_long_history(written) -> None:
    """While history is being read, another may subscribe and has what was told so far."""
    written.begin()
    run, reading, go_on, waits = written.follow(), threading.Event(), threading.Event(), []

    def read_slowly() -> Iterator[Event]:
        yield RunChanged(written.began, "running")
        reading.set()
        waits.append(go_on.wait(PATIENCE))
        yield RunChanged(written.began, "complete")

    run._tail = SimpleNamespace(read=read_slowly)
    leaves = [run.subscribe(lambda _: None)]
    assert reading.wait(PATIENCE)
    heard: list[Event] = []
    leaves.append(run.subscribe(heard.append))
    assert [event.status for event in run.events()] == ["running"]
    go_on.set()
    _until(lambda: [event.status for event in heard] == ["complete"])
    assert waits == [True]
    for leave in leaves:
        leave()


@pytest.mark.parametrize("gone", ["removed", "another size", "repainted", "in memory"])
def test_without_its_image_a_run_is_still_there(written, gone) -> None:
    """Tiles are drawn without the image; reading it says why there is none."""
    written.manifest["started"] = time.time() - 60  # repainted since
    if gone == "removed":
        written.picture.unlink()
    elif gone != "in memory":
        size = (80, 80) if gone == "another size" else SIZE
        Image.new("RGB", size, "red").save(written.picture)
    written.begin(**({"path": None} if gone == "in memory" else {}))
    run = written.follow()
    assert run.source.size == SIZE
    with pytest.raises(SourceError, match=r"image=|exist"):
        run.source.read(None)
    with pytest.raises(SourceError):
        run.source.thumbnail(10)


def test_image_says_where_the_picture_is_now(written, tmp_path) -> None:
    """A moved image is shown; another image is refused."""
    moved = written.picture.rename(tmp_path / "moved.png")
    written.begin()
    assert written.follow(image=moved).source.read is not None
    assert written.follow(image=str(moved)).source.metadata.format == "PNG"
    with pytest.raises(SourceError, match="not the image"):
        written.follow(image=np.zeros((60, 90, 3), np.uint8)).source  # noqa: B018


def test_unknown_and_damaged_runs_are_one_clear_line(written, tmp_path) -> None:
    """What is missing and what there is instead."""
    written.begin()
    with pytest.raises(RunError, match=f"no run nonsense .*latest are {written.id}"):
        FollowedRun("nonsense", written.folder)
    with pytest.raises(RunError, match=r"no run gone .*the folder has no runs"):
        watch("gone", written.folder / "elsewhere")
    for name, value in {"tiling": {"grid": {}}, "size": "big", "settings": 3}.items():
        (tmp_path / name).mkdir()
        odd = Written(tmp_path / name)
        Journal(odd.path, odd.manifest | {name: value}).close()
        with pytest.raises(RunError, match="does not say what it analysed"):
            odd.follow()


@pytest.mark.parametrize("how", ["removed", "cut", "a folder"])
def test_a_journal_that_goes_away_is_said(written, how) -> None:
    """One who follows is told, once, and not that the run goes on; what was seen stays."""
    written.begin()
    written.turn(0, "done")
    run, heard = written.follow(), []
    assert run.status == "running"
    written.path.unlink()
    if how == "cut":
        written.path.write_bytes(b"")
    elif how == "a folder":
        written.path.mkdir()
    leave = run.subscribe(heard.append)
    assert run.wait(PATIENCE)
    leave()
    assert (run.status, run.counts) == ("interrupted", {"done": 1, "pending": 5})
    (said,) = [e.reason for e in heard if isinstance(e, RunChanged)]
    assert said.startswith("it cannot be followed any more: ")
    assert str(written.path) in said


def test_a_journal_that_goes_away_after_the_end_changes_nothing(written) -> None:
    """The end of the run was told; its journal may be pruned."""
    written.begin()
    for i in range(6):
        written.turn(i, "done")
    written.tell("complete", 1)
    written.let_go()
    run = written.follow()
    assert run.status == "complete"
    written.path.unlink()
    assert (run.status, run.counts) == ("complete", {"done": 6})


def test_many_images_whose_journal_goes_away(written) -> None:
    """As the run of one image: the reason is told once, what was seen stays."""
    written.begin(images=["a", "b"])
    written.journal.write(image_line(ImageChanged(written.began, "a", "complete", "r1")))
    run = FollowedMany(written.id, written.folder)
    assert len(run.news()) == 2 and not run.over
    written.path.unlink()
    (told,) = run.news()
    assert "cannot be followed any more: The journal" in told.reason
    assert run.news() == [] and run.over and [*run.images] == ["a"]


def test_a_line_that_was_lost_is_said_when_the_run_is_over(written, caplog) -> None:
    """Its tile is shown as it was known to be, and a line says that this is not all."""
    written.begin()
    for i in range(5):
        written.turn(i, "done")
    written.tell("complete", 1)
    written.let_go()
    assert written.follow().counts == {"done": 5, "pending": 1}
    (said,) = caplog.messages
    assert "it does not say what became of 1 tile." in said


def _story(written: Written) -> None:
    """Two sittings with a day in between: 10 s of work, and 10 s."""
    written.begin()
    for i in range(3):
        written.turn(i, "done", at=5 * i)
    written.journal.close()
    written.journal = Journal.reopen(written.path)
    written.tell("running", 86400)
    for i in range(3, 6):
        written.turn(i, "done", at=86400 + 5 * (i - 3))
    written.tell("complete", 86410)
    written.let_go()


def test_a_replay_tells_all_in_order_in_the_time_given(written) -> None:
    """Every event with its own time, squeezed evenly; the day between the sittings left out."""
    _story(written)
    run, heard = ReplayedRun(written.id, written.folder, seconds=1), []
    began = time.monotonic()
    clocks = []

    def hear(event: Event) -> None:
        heard.append((time.monotonic() - began, event))
        clocks.append(run.clock())

    run.subscribe(hear)
    _until(lambda: run.status == "complete" and not _threads())
    assert clocks == [event.time for _, event in heard]
    assert len(_final([event for _, event in heard])) == 6
    dues = [0, 0, 0.25, 0.5, 0.5, 0.5, 0.75, 1.0, 1.0]
    assert len(heard) == len(dues)
    assert all(at >= due - 0.01 for (at, _), due in zip(heard, dues, strict=True))
    assert run.counts == {"done": 6}


def test_a_replay_nobody_looks_at_ends(written) -> None:
    """Its thread ends with its last listener, at once."""
    _story(written)
    run = ReplayedRun(written.id, written.folder, seconds=3600)
    leave = run.subscribe(lambda _: None)
    assert _threads()
    leave()
    _until(lambda: not _threads())


def test_a_replay_of_a_killed_run_ends_interrupted(written) -> None:
    """It does not wait for what will not come."""
    written.begin()
    written.turn(0, "done")
    written.let_go()
    run = ReplayedRun(written.id, written.folder, seconds=0)
    run.subscribe(lambda _: None)
    _until(lambda: run.status == "interrupted")


def test_replays_that_cannot_be_are_one_clear_line(written) -> None:
    """At work: watch it instead. Seconds: what they are."""
    written.begin()
    with pytest.raises(RunError, match=f"still running. Follow it with tv.watch.'{written.id}'"):
        replay(written.id, written.folder)
    written.let_go()
    for bad in (-1, "ten", float("nan"), float("inf")):
        with pytest.raises(RunError, match="cannot take"):
            replay(written.id, written.folder, seconds=bad)
    with pytest.raises(RunError, match="tilevision runs --follow"):
        replay(written.id, written.folder)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the view can tell, this is a notebook."""
    shell = SimpleNamespace(kernel=True, execution_count=1)
    monkeypatch.setattr(in_notebook, "_shell", lambda: shell)
    monkeypatch.setattr(live, "show_widget", lambda widget: None)


@pytest.mark.usefixtures("notebook")
def test_watching_by_id_draws_history_and_what_follows(written) -> None:
    """The picture shows the tiles as they are, then as they turn, then the run's end."""
    written.picture.unlink()
    written.begin()
    written.turn(0, "done", n_findings=2)
    view = watch(written.id, written.folder)
    _until(lambda: "1 done" in view.widget.caption.get("alt", ""))
    assert "does not exist" in view.widget.caption["detail"]
    written.turn(1, "failed", error="no")
    _until(lambda: "1 failed" in view.widget.caption["alt"])
    written.let_go()
    _until(lambda: "interrupted: 6 tiles" in view.widget.caption["alt"])
    assert "tv.resume" in view.widget.caption["detail"]
    _until(lambda: not _threads())
    view.close()


def _images(*names: tuple[str, str]) -> list[ImageChanged]:
    return [ImageChanged(8.0 + i, name, "running", run) for i, (name, run) in enumerate(names)]


@pytest.mark.usefixtures("notebook")
def test_watching_many_images_goes_from_one_to_the_next(written) -> None:
    """One that is at work stays in the picture; then the next one; the last one's end stays."""
    many = {"id": "many", "started": 7.0, "image": "a list", "model": "m", "images": ["a", "b"]}
    written.begin()
    lock = RunLock(written.folder, "many")
    with Journal(journal_path(written.folder, "many"), many) as journal, lock:
        journal(RunChanged(7.0, "running"))
        with pytest.raises(RunError, match="Run many has not started its first image"):
            watch("many", written.folder)
        with pytest.raises(RunError, match=r"several images.*tv\.runs\(images='many'\)"):
            watch("many", written.folder, image=written.picture)
        first, second = _images(("a", written.id), ("b", "second"))
        journal.write(image_line(first))
        view = watch("many", written.folder)
        _until(lambda: "image 1 of 2, picture.png" in view.widget.caption.get("alt", ""))
        journal.write(image_line(second))
        written.turn(0, "done")
        _until(lambda: "1 done" in view.widget.caption["alt"])
        assert "image 1 of 2" in view.widget.caption["alt"]
        journal.write(image_line(replace(first, status="complete", time=10.0)))
        told = written.manifest | {"id": "second", "image": "other.png"}
        at_work = RunLock(written.folder, "second")
        with Journal(journal_path(written.folder, "second"), told) as of_second, at_work:
            _until(lambda: "image 2 of 2, other.png" in view.widget.caption["alt"])
            of_second(RunChanged(9.0, "complete"))
        journal.write(image_line(replace(second, status="complete", time=11.0)))
        journal(RunChanged(11.0, "complete"))
        _until(lambda: "complete: 6 tiles" in view.widget.caption["alt"])
        _until(lambda: not _threads(WATCHING))
    assert "image 2 of 2" in view.widget.caption["alt"]
    view.close()
    written.let_go()


@pytest.mark.usefixtures("notebook")
def test_closing_the_picture_of_many_images_leaves_no_thread(written) -> None:
    """Neither the one that draws nor the one that waits for the next image."""
    many = {"id": "many", "started": 7.0, "image": "a list", "model": "m", "images": ["a"]}
    written.begin()
    lock = RunLock(written.folder, "many")
    with Journal(journal_path(written.folder, "many"), many) as journal, lock:
        journal(RunChanged(7.0, "running"))
        journal.write(image_line(_images(("a", written.id))[0]))
        view = watch("many", written.folder)
        _until(lambda: "image 1 of 1" in view.widget.caption.get("alt", ""))
        assert "tilevision-view-images-many" in _threads("tilevision-view")
        view.close()
        _until(lambda: not _threads(WATCHING))
    written.let_go()


@pytest.mark.usefixtures("notebook")
def test_a_replay_is_captioned_with_the_runs_own_time(written) -> None:
    """It took 20 s, whatever the break of a day in it, and however quick the replay is."""
    _story(written)
    view = replay(written.id, written.folder, seconds=0.2)
    _until(lambda: "complete: 6 tiles (6 done)" in view.widget.caption.get("alt", ""))
    assert "took 20 s" in view.widget.caption["detail"]
    view.close()


RUNNER = """
import os
import time
import numpy as np
import tilevision as tv


def slow(pixels):
    while pixels[0, 0, 0] != pixels[0, 0, 2] and os.path.exists("hold"):
        time.sleep(0.01)
    return np.array([[1, 1, 5, 5, 0.5, 0]])


tv.analyze("picture.png", slow, grid="5x8", workers=2, batch_size=1, progress=False)
"""

FOLLOWER = """
import sys
from collections import Counter
from tilevision import FollowedRun
from tilevision.events import TileChanged

run, seen = FollowedRun(sys.argv[1]), Counter()
final = ("done", "restored", "failed")


def hear(event):
    if isinstance(event, TileChanged) and event.status in final:
        seen[event.tile] += 1


run.subscribe(hear, history=True)
assert run.wait(120)
assert set(seen) == set(run.tiles), len(seen)
print(run.status, sorted(set(seen.values())), run.counts)
"""


@pytest.fixture
def runner(elsewhere: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that analyses a picture of 40 tiles; those below wait while ``hold`` is there."""
    pixels = np.array(Image.effect_noise((800, 500), 50).convert("RGB"))
    pixels[300:, :, 2] ^= 1
    Image.fromarray(pixels).save("picture.png")
    Path("hold").touch()
    Path("runner.py").write_text(RUNNER)
    process = subprocess.Popen([sys.executable, "runner.py"])
    yield process
    process.kill()
    process.wait()


def _run_id() -> str:
    journals = Path(".tilevision/runs")
    _until(lambda: list(journals.glob("*.jsonl")))
    return next(journals.glob("*.jsonl")).stem


def _follower(run_id: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, run_id], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_another_process_sees_every_tile_exactly_once(runner) -> None:
    """One follows from the beginning, one from the middle, one after the end: all see all."""
    run_id = _run_id()
    first = _follower(run_id)
    run = FollowedRun(run_id)
    _until(lambda: run.counts.get("done", 0) >= 10)
    second = _follower(run_id)
    Path("hold").unlink()
    runner.wait(PATIENCE)
    third = _follower(run_id)
    for follower in (first, second, third):
        out, _ = follower.communicate(timeout=PATIENCE)
        assert out == "complete [1] {'done': 40}\n"


@pytest.mark.slow
def test_a_killed_process_is_shown_as_interrupted(runner) -> None:
    """After kill -9 half way, its run is over for those who wait for it."""
    run = FollowedRun(_run_id())
    _until(lambda: run.counts.get("done", 0) >= 5)
    assert run.status == "running"
    runner.kill()
    assert run.wait(PATIENCE)
    assert run.status == "interrupted"
    assert run.counts.get("done", 0) < 40
    assert run.source.fingerprint
