"""Many images are one run: one id, one line in the list, one journal, one lock."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import tilevision as tv
from tilevision.batch.batch import ImageRow, statement
from tilevision.batch.batchjournal import Logbook
from tilevision.batch.imagenames import label_of
from tilevision.batch.many import Relay
from tilevision.checkpoint import Checkpoint, RunLock
from tilevision.cli import main
from tilevision.events import (
    ImageChanged,
    Journal,
    RunChanged,
    image_line,
    journal_path,
    list_runs,
    read_image,
    to_line,
    together,
)
from tilevision.history.followedbatch import FollowedMany
from tilevision.pipeline.run import Run

CHECKPOINT = ".tilevision"


def bright(pixels: Any) -> Any:
    """Find one thing in a tile that is not dark."""
    return [{"box": (1, 1, 9, 9), "score": 0.5, "label": "thing"}] * int(pixels.max() > 0)


def _pictures(*names: str) -> None:
    for number, name in enumerate(names, 1):
        Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(name)


def _call(*words: str) -> Any:
    return CliRunner().invoke(main, words)


# What is said -----------------------------------------------------------------------------


def test_one_line_says_what_is_missing() -> None:
    """Each kind of lack with its images, a few by name."""
    assert statement([ImageRow("a", "complete")]) == "1 of 1 images complete."
    rows = [ImageRow(f"e{n}", "error", error="x") for n in range(7)]
    rows += [ImageRow("b", "blocked", error="x"), ImageRow("p", "partial", error="x")]
    assert statement([*rows, ImageRow("w")]) == (
        "0 of 10 images complete; 1 analysed in part: p; 1 blocked by moderation: b; "
        "7 could not be analysed: e0, e1, e2, e3, e4 and 2 more; 1 not finished: w."
    )


def test_an_images_line_is_read_back_and_nothing_else_is() -> None:
    """Torn lines and values of another type are refused; other kinds are passed over."""
    event = ImageChanged(1.0, "é.png", "error", "run", 1, 2, 3, 4.5, "key sk-" + "a" * 40)
    line = image_line(event)
    again = read_image(line)
    assert again is not None
    assert (again.image, again.tiles, again.seconds) == ("é.png", 2, 4.5)
    assert "a" * 40 not in again.error
    assert read_image(to_line(RunChanged(1.0, "running"))) is None
    for bad in (line[:20], line.replace(b'"tiles":2', b'"tiles":"2"'), b'{"kind":"image"}\n'):
        with pytest.raises(ValueError, match=r"."):
            read_image(bad)


def test_what_is_written_down_of_addresses_has_no_secret() -> None:
    """Of a signed pattern the label hides what signs it; folders go by name."""
    assert "SECRET" not in label_of("https://host/a/*.tif?X-Amz-Signature=SECRETSECRET")
    assert label_of("/data/scans/") == "/data/scans/"
    assert label_of(Path(__file__).parent) == "tests"
    assert label_of(["a.png"]) == "a list"


# The journal of all -----------------------------------------------------------------------


def _write_run(run_id: str, **more: Any) -> Path:
    path = journal_path(CHECKPOINT, run_id)
    told = {"id": run_id, "started": 5.0, "image": run_id, "model": "m", **more}
    with Journal(path, told) as journal:
        journal(RunChanged(6.0, "complete"))
    return path


def _write_many(run_id: str, runs: dict[str, str], out_dir: str | None = None) -> Path:
    path = _write_run(run_id, images=list(runs), out_dir=out_dir)
    with Journal.reopen(path) as journal:
        for image, run in runs.items():
            journal.write(image_line(ImageChanged(7.0, image, "complete", run)))
    return path


@pytest.fixture
def many(elsewhere: Path) -> Path:
    """A run of two images, of which one was begun twice, and a run of one image."""
    with Checkpoint.open(CHECKPOINT):
        pass
    _write_many("many", {"a": "a2", "b": "b1"})
    for run_id, batch in (("a1", "many"), ("a2", "many"), ("b1", "many"), ("lone", "")):
        _write_run(run_id, batch=batch, n_tiles=3)
    return elsewhere


@pytest.mark.usefixtures("many")
def test_many_images_are_one_line() -> None:
    """Tiles are those of each image's latest run; without the journal of all, each is listed."""
    assert {run.id for run in list_runs(CHECKPOINT)} == {"many", "a1", "a2", "b1", "lone"}
    assert {run.id: run.counts for run in together(list_runs(CHECKPOINT))} == {
        "many": {"pending": 6},
        "lone": {"pending": 3},
    }
    table = tv.runs().set_index("id")
    assert table.loc["many", ["images", "tiles"]].tolist() == ["2/2", 6]
    assert table.loc["lone", "images"] == ""
    assert list(tv.runs(images="many")["id"]) == ["a2", "b1"]
    journal_path(CHECKPOINT, "many").unlink()
    assert set(tv.runs()["id"]) == {"a1", "a2", "b1", "lone"}


@pytest.mark.usefixtures("many")
def test_an_image_that_was_at_work_when_all_was_killed_is_interrupted() -> None:
    """Who holds the lock is at work; without anybody, what was running is not."""
    with Journal.reopen(journal_path(CHECKPOINT, "many")) as journal:
        journal(RunChanged(8.0, "running"))
        journal.write(image_line(ImageChanged(8.0, "b", "running", "b1")))
    with RunLock(CHECKPOINT, "many"):
        assert list(tv.runs(images="many")["status"]) == ["complete", "running"]
        followed = FollowedMany("many")
        followed.news()
        turn = followed.in_turn()
        assert turn is not None
        assert turn.run == "b1"
        assert followed.status == "running"
    assert list(tv.runs(images="many")["status"]) == ["complete", "interrupted"]
    assert followed.news() == []
    assert followed.status == "interrupted"
    assert _call("runs", "--follow", "many").exit_code == 1


@pytest.mark.usefixtures("many")
def test_the_shell_lists_follows_and_refuses() -> None:
    """One line for all, a line for each on request, and no id is mistaken for another kind."""
    listed = _call("runs").stdout
    assert "2/2" in listed
    assert "a1" not in listed
    assert "a2" in _call("runs", "--images", "many").stdout
    followed = _call("runs", "--follow", "many")
    assert followed.exit_code == 0
    assert "complete: 2 of 2 images done" in followed.stdout
    assert "has a single image" in _call("runs", "--images", "lone").stderr
    assert "one of them" in _call("runs", "--images", "many", "--prune", "3").stderr
    with pytest.raises(tv.RunError, match=r"has 2 images.*images='many'"):
        tv.FollowedRun("many")


@pytest.mark.usefixtures("many")
def test_pruning_takes_all_or_nothing() -> None:
    """An old image of a run that is not old stays; with the run, its images go."""
    before = time.time() - 40 * 24 * 3600
    for path in Path(CHECKPOINT, "runs").glob("*.jsonl"):
        os.utime(path, (before, before) if path.stem != "many" else None)
    assert "1 run removed" in _call("runs", "--prune", "30", "--yes").stdout
    assert {run.id for run in list_runs(CHECKPOINT)} == {"many", "a1", "a2", "b1"}
    os.utime(journal_path(CHECKPOINT, "many"), (before, before))
    assert "1 run removed" in _call("runs", "--prune", "30", "--yes").stdout
    assert list_runs(CHECKPOINT) == []


def test_two_do_not_write_into_one_folder(elsewhere: Path) -> None:
    """The same line a second time names the process that is at work; another folder is free."""
    told = {"id": "one", "started": 1.0, "image": "", "images": [], "model": "", "out_dir": "/x"}
    with Logbook(CHECKPOINT, told, {}):
        with (
            pytest.raises(tv.RunBusy, match=f"Run one is writing to /x, in process {os.getpid()}"),
            Logbook(CHECKPOINT, told | {"id": "two"}, {}),
        ):
            pass
        with pytest.raises(tv.RunBusy), Logbook(CHECKPOINT, told, {}):
            pass
        with Logbook(CHECKPOINT, told | {"id": "three", "out_dir": "/y"}, {}):
            pass
    with Logbook(CHECKPOINT, told | {"id": "two"}, {"a": ImageRow("a", "complete")}):
        pass
    assert set(tv.runs()["status"]) == {"complete"}


# The order of things ----------------------------------------------------------------------


class _Run:
    """A run whose tiles are worked off by hand."""

    def __init__(self) -> None:
        self.status, self.counts = "running", {"pending": 100}
        self.tell: Any = None

    def subscribe(self, listener: Any) -> None:
        self.tell = listener

    def cancel(self) -> None:
        self.status = "cancelled"

    def wait(self, _: float) -> bool:
        return True


def _relay(ahead: int, bad: str = "") -> tuple[Relay, dict[str, _Run]]:
    runs: dict[str, _Run] = {}

    def begin(name: str, _: Any) -> Run:
        if name == bad:
            raise tv.SourceError("bad")
        runs[name] = _Run()
        return cast(Run, runs[name])

    source = tv.open_source(np.zeros((4, 4, 3), np.uint8))
    return Relay(dict.fromkeys("abcde", source), begin, ahead), runs


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_so_many_are_begun_ahead_once_tiles_run_out(ahead: int) -> None:
    """Never before, never more; what is done is given in order, and a bad one in its place."""
    relay, runs = _relay(ahead, bad="b")
    given, most = [], 0

    def work() -> None:
        while len(runs) < 4 or any(run.status == "running" for run in runs.values()):
            for run in list(runs.values())[::-1]:  # the latest first
                if run.tell is None or run.status != "running":
                    continue
                if run.counts["pending"]:
                    assert run is list(runs.values())[-1]  # none is begun while tiles wait
                    run.counts = {"pending": 0}
                else:
                    run.status = "complete"
                run.tell(None)
            time.sleep(0.001)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    for one in relay:
        under_way = [name for name in list(runs) if name not in given]
        most = max(most, len(under_way))
        given.append(one.name)
        assert (one.error is not None) == (one.name == "b")
    worker.join()
    assert given == list("abcde")
    assert most <= ahead + 1


def test_what_is_under_way_is_ended_with_the_rest() -> None:
    """Who stops half way leaves nothing running."""
    relay, runs = _relay(2)
    taken = iter(relay)

    def end() -> None:
        runs["a"].status = "complete"
        runs["a"].tell(None)

    threading.Timer(0.1, end).start()
    assert next(taken).name == "a"
    relay.close()
    assert all(run.status != "running" for run in runs.values())


# Real ones --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_images_of_a_run_share_one_open_checkpoint(
    elsewhere: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open it takes as long as a small image; it is closed at the end, and all is stored."""
    _pictures("a.png", "b.png", "c.png")
    opened: list[Checkpoint] = []
    really = Checkpoint.open.__func__  # type: ignore[attr-defined]  # of a class method

    def noted(cls: type[Checkpoint], folder: Any) -> Checkpoint:
        opened.append(really(cls, folder))
        return opened[-1]

    monkeypatch.setattr(Checkpoint, "open", classmethod(noted))
    for status in ("done", "restored"):
        opened.clear()
        batch = tv.analyze_many(["a.png", "b.png", "c.png"], bright, grid="1x2", progress=False)
        (store,) = opened
        assert store._closed
        found = [list(result.tiles["status"]) for result in batch.values()]
        assert found == [[status, status]] * 3


@pytest.mark.slow
def test_a_run_of_many_is_gone_on_with_under_its_own_id(elsewhere: Path, cluster: None) -> None:
    """Nothing runs twice, files are written anew, a busy run and another model are refused."""
    Path("scans").mkdir()
    _pictures("scans/a.png", "scans/b.png")
    Path("scans/c.png").write_text("no picture")
    batch = tv.analyze_many(
        "scans", bright, grid="1x2", mpp=0.5, region=(0, 0, 20, 20), out_dir="out", progress=False
    )
    (line,) = tv.runs().to_dict("records")
    assert (line["id"], line["image"], line["images"]) == (batch.run_id, "scans", "2/3")
    assert (line["status"], line["tiles"]) == ("partial", 4)
    assert "1 could not be analysed: c.png" in repr(batch)
    rows = tv.runs(images=batch.run_id)
    assert list(rows["status"]) == ["complete", "complete", "error"]
    assert rows["id"][0] == batch["a.png"].run_id

    Path("out/a.geojson").unlink()
    Image.new("RGB", (32, 32), (9, 9, 9)).save("scans/c.png")
    with pytest.raises(tv.RunError, match="pass model="):
        tv.resume(batch.run_id)
    with pytest.raises(tv.ModelError, match="start a new run"):
        tv.resume(batch.run_id, model="blobs")
    with RunLock(CHECKPOINT, batch.run_id), pytest.raises(tv.RunBusy, match=str(os.getpid())):
        tv.resume(batch.run_id, model=bright)
    again = tv.resume(batch.run_id, model=bright, progress=False)
    assert isinstance(again, tv.Batch)
    assert (again.run_id, again.complete) == (batch.run_id, True)
    assert set(again["b.png"].tiles["status"]) <= {"restored", "skipped"}
    assert again["b.png"].facts.region is not None
    assert Path("out/a.geojson").is_file()
    assert tv.runs()["images"].tolist() == ["3/3"]


@pytest.mark.slow
def test_what_cannot_be_begun_again_says_so(elsewhere: Path, cluster: None) -> None:
    """Images in memory, and a region that is no plain value."""
    array = np.full((16, 16, 3), 99, np.uint8)
    batch = tv.analyze_many([array], "blobs", grid="1x1", progress=False)
    with pytest.raises(tv.RunError, match=r"in memory.*the same images"):
        tv.resume(batch.run_id)
    _pictures("a.png")
    mask = np.ones((4, 4), bool)
    batch = tv.analyze_many(["a.png"], "blobs", grid="1x1", region=mask, progress=False)
    with pytest.raises(tv.RunError, match="Give region="):
        tv.resume(batch.run_id)
    assert tv.resume(batch.run_id, region=mask, progress=False).complete
