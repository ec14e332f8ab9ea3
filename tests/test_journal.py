"""The journal: a run's history on disk."""

import logging
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from tilevision.errors import CheckpointError, RunError
from tilevision.events import (
    Bus,
    Journal,
    RunChanged,
    StageDone,
    TileChanged,
    follow_journal,
    journal_path,
    list_runs,
    read_journal,
    read_manifest,
    runlist,
    to_line,
)
from tilevision.grid import Grid

TILES = Grid(rows=3, cols=4).tiles((400, 300))
MANIFEST = {"id": "r1", "image": "slide.svs", "model": "nuclei", "started": 100.0, "n_tiles": 12}

STORY = [
    RunChanged(1.0, "running"),
    StageDone(1.5, "plan", 0.1, "12 tiles"),
    *(TileChanged(2.0, tile, "running", 1, worker="tcp://a") for tile in TILES),
    *(TileChanged(3.0, tile, "done", 1, n_findings=2) for tile in TILES[:10]),
    TileChanged(4.0, TILES[10], "failed", 3, error="ValueError: no"),
    RunChanged(5.0, "paused", "disk full"),
]


def write(path, events, manifest=MANIFEST):
    with Journal(path, manifest) as journal:
        for event in events:
            journal(event)


def run(script, *args):
    """Run a script in a Python of its own; return what it printed."""
    command = [sys.executable, "-c", script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_journal_reads_back_as_it_was_written(tmp_path):
    """Manifest and events, in order; the file is for its owner only."""
    path = journal_path(tmp_path, "r1")
    write(path, STORY)
    manifest, events = read_journal(path)
    assert manifest.items() >= MANIFEST.items() and manifest["schema"] == 1
    assert events == STORY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_manifest_holds_no_secret(tmp_path):
    """Settings and addresses are written without what gives access to them."""
    path = tmp_path / "r.jsonl"
    image = "https://me:hunter2@host/x.svs?token=hunter2"
    write(path, [], {"image": image, "model": {"api_key": "hunter2", "max_tokens": 5}})
    assert b"hunter2" not in path.read_bytes()
    assert read_manifest(path)["model"]["max_tokens"] == 5


@pytest.mark.parametrize("cut", [1, 2, 30, 100])
def test_a_torn_last_line_is_passed_over_and_reopening_starts_a_new_one(tmp_path, cut):
    """A crash in the middle of a line costs that line, and none that is written later."""
    path = tmp_path / "r.jsonl"
    write(path, STORY[:5])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert read_journal(path)[1] == STORY[:4]
    with Journal.reopen(path) as journal:
        for event in STORY[5:]:
            journal(event)
    expected = STORY[:4] + ([STORY[4]] if cut == 1 else []) + STORY[5:]
    assert read_journal(path)[1] == expected


def test_lines_of_later_versions_and_rubbish_are_passed_over(tmp_path):
    """What cannot be understood hides nothing that can."""
    path = tmp_path / "r.jsonl"
    write(path, STORY[:2])
    with path.open("ab") as file:
        file.write(b'{"kind":"weather","time":1}\n\xff\xfe\n\n{"kind":"tile"}\n')
    with Journal.reopen(path) as journal:
        journal(STORY[2])
    assert read_journal(path)[1] == STORY[:3]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b'{"kind":"run"}\n', b'{"kind":"manif', b"\x00" * 9]
)
def test_a_file_without_a_manifest_is_no_journal(tmp_path, content):
    """Reading or reopening anything else is one clear error that names the file."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    os.utime(path, (0, 0))
    for read in (read_journal, read_manifest, Journal.reopen):
        with pytest.raises(RunError, match=r"r\.jsonl .*finished tiles are kept"):
            read(path)
    with pytest.raises(RunError, match="There is no journal"):
        read_journal(tmp_path / "none.jsonl")


def test_a_journal_is_never_overwritten(tmp_path):
    """A second run under the same id is refused and the first one's history stays."""
    path = tmp_path / "r.jsonl"
    write(path, STORY)
    before = path.read_bytes()
    with pytest.raises(RunError, match="already"):
        Journal(path, MANIFEST)
    assert path.read_bytes() == before


def test_a_journal_that_was_just_made_is_waited_for(tmp_path):
    """A run is found in the moment between its journal's making and its first line."""
    path = tmp_path / "r.jsonl"
    path.touch()
    writer = threading.Timer(0.1, path.write_bytes, [b'{"kind":"manifest","id":"r"}\n'])
    writer.start()
    assert read_manifest(path)["id"] == "r"
    writer.join()


def test_a_journal_that_cannot_be_made_says_where(tmp_path):
    """No run starts whose history cannot be kept."""
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"runs.*another checkpoint folder"):
        Journal(journal_path(tmp_path, "r1"), MANIFEST)


def test_a_closed_journal_ignores_events(tmp_path):
    """A listener that hears on after the end neither raises nor writes."""
    path = tmp_path / "r.jsonl"
    journal = Journal(path, MANIFEST)
    journal.close()
    journal.close()
    journal(STORY[0])
    assert read_journal(path)[1] == []


FULL = """
import logging, resource, sys
from contextlib import nullcontext
from tilevision.events import Journal, RunChanged, read_journal
logging.basicConfig(stream=sys.stdout, format="%(message)s")
path = sys.argv[1]
journal = Journal(path, {"id": "r1"})
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
with journal.together() if sys.argv[2] == "together" else nullcontext():
    for number in range(500):
        journal(RunChanged(number, "running", "x" * 50))
assert journal.error is not None
held = len(read_journal(path)[1])
assert 0 < held < 500, held
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
journal(RunChanged(500, "complete"))
assert journal.error is None
times = [event.time for event in read_journal(path)[1]]
assert times == list(range(501)), times
"""


@pytest.mark.parametrize("how", ["singly", "together"])
def test_a_full_disk_is_reported_once_and_made_up_for(tmp_path, how):
    """No write error reaches the run; when there is space, the held-back lines follow in order."""
    printed = run(FULL, tmp_path / "r.jsonl", how)
    assert printed.count("cannot be written") == 1 and "the run continues" in printed


def test_following_misses_nothing_between_history_and_live(tmp_path):
    """A follower that comes at any time hears every event once, in order."""
    path = tmp_path / "r.jsonl"
    tiles = Grid(rows=50, cols=40).tiles((4000, 5000))
    done = threading.Event()

    def work():
        with Journal(path, MANIFEST) as journal:
            for number, tile in enumerate(tiles):
                journal(TileChanged(float(number), tile, "done"))
                if number % 400 == 0:
                    time.sleep(0.01)
        done.set()

    worker = threading.Thread(target=work)
    followers: list[list[float]] = [[] for _ in range(3)]

    def follow(heard):
        heard.extend(e.time for e in follow_journal(path, stop=done.is_set, poll=0.001))

    threads = [threading.Thread(target=follow, args=(heard,)) for heard in followers]
    threads[0].start()  # before there is a file
    worker.start()
    for thread in threads[1:]:
        thread.start()
    for thread in (worker, *threads):
        thread.join(200)
    assert followers == [list(map(float, range(len(tiles))))] * 3


@pytest.mark.parametrize("told_at", [2, 3])
def test_a_follower_waits_for_the_rest_of_a_line(tmp_path, told_at):
    """Half a line is not an event yet; its other half is read, even if it came with the end."""
    path = tmp_path / "r.jsonl"
    write(path, STORY[:2])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        if asked == 2:
            with path.open("ab") as file:
                file.write(whole[-20:])
        return asked == told_at

    assert list(follow_journal(path, stop, poll=0.001)) == STORY[:2]


def test_following_ends_when_told_though_there_is_no_file(tmp_path):
    """`stop` is asked while waiting for the journal too."""
    assert list(follow_journal(tmp_path / "none.jsonl", stop=lambda: True)) == []


def test_runs_are_listed_from_their_journals(tmp_path):
    """Image, model, status and the latest status of each tile, latest run first."""
    write(journal_path(tmp_path, "r1"), STORY)
    write(journal_path(tmp_path, "r2"), [RunChanged(1.0, "running")], {**MANIFEST, "started": 200})
    (tmp_path / "runs" / "r0.jsonl").write_bytes(b"torn")
    runs = {run.id: run for run in list_runs(tmp_path)}
    assert [*runs] == ["r0", "r2", "r1"]  # one that is unreadable started when it was written
    assert runs["r1"].status == "paused"
    assert runs["r1"].counts == {"done": 10, "failed": 1, "running": 1}
    assert (runs["r1"].image, runs["r1"].model, runs["r1"].started) == ("slide.svs", "nuclei", 100)
    assert runs["r2"].counts == {"pending": 12} and runs["r2"].status == "running"
    assert runs["r0"].status == "unreadable"


@pytest.mark.parametrize("bad", [b"\n", b'{"kind":"tile","sta\n', b"\x00\xff\n", b""])
def test_lines_that_are_lost_are_said_once_and_the_rest_is_kept(tmp_path, caplog, bad):
    """A complete run came to the end of every tile; a torn line that was written again is none."""
    path = journal_path(tmp_path, "r9")
    done = [TileChanged(3.0, tile, "done", 1) for tile in TILES]
    write(path, [*done, RunChanged(9.0, "complete")])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], lines[4][:30] + b"\n", *lines[4:]]))
    assert list_runs(tmp_path)[0].counts == {"done": 12}
    assert not caplog.messages
    path.write_bytes(b"".join([*lines[:4], bad, *lines[5:]]))
    assert list_runs(tmp_path)[0].counts == {"done": 11, "pending": 1}
    list_runs(tmp_path)
    (said,) = caplog.messages
    assert "r9.jsonl is damaged: it does not say what became of 1 tile." in said
    assert "tv.resume('r9') restores them" in said


def test_a_status_that_nobody_knows_is_passed_over(tmp_path):
    """A flipped letter, or a later version's word: what was known before stays."""
    path = journal_path(tmp_path, "r1")
    write(path, [RunChanged(1.0, "running"), TileChanged(2.0, TILES[0], "done")])
    with path.open("ab") as file:
        file.write(to_line(TileChanged(3.0, TILES[0], "dane")))
        file.write(to_line(RunChanged(3.0, "ruling")))
    (run,) = list_runs(tmp_path)
    assert (run.status, run.counts) == ("running", {"done": 1, "pending": 11})
    assert [event.status for event in read_journal(path)[1]] == ["running", "done"]


@pytest.mark.parametrize("started", [1e308, float("nan"), -1e12, "x", None])
def test_one_damaged_manifest_hides_no_other_run(tmp_path, started):
    """A time that is no date is that of the file."""
    write(journal_path(tmp_path, "r1"), STORY)
    write(journal_path(tmp_path, "r2"), STORY, {**MANIFEST, "started": started})
    write(journal_path(tmp_path, "r3"), STORY, {**MANIFEST, "images": 3})
    runs = {run.id: run for run in list_runs(tmp_path)}
    assert runs["r2"].started == runs["r2"].changed
    assert (runs["r1"].status, runs["r3"].status) == ("paused", "unreadable")


def test_runs_that_cannot_be_read_are_not_called_none(tmp_path):
    """A folder that is closed to this user, or broken: an error that names it, no empty list."""
    (tmp_path / "runs").symlink_to("runs")  # a loop: nobody can read it, root neither
    with pytest.raises(RunError, match=r"The runs in .*runs cannot be read \(Too many levels"):
        list_runs(tmp_path)
    other = tmp_path / "other"
    path = journal_path(other, "r1")
    path.parent.mkdir(parents=True)
    path.symlink_to("r1.jsonl")
    with pytest.raises(RunError, match=r"The journal .*r1\.jsonl cannot be read \(Too many levels"):
        read_manifest(path)


def test_a_journal_that_is_pruned_while_runs_are_listed_is_none(tmp_path, monkeypatch):
    """The others are listed."""
    write(journal_path(tmp_path, "r1"), STORY)
    gone = tmp_path / "runs" / "gone.jsonl"
    listed = type(gone).iterdir
    monkeypatch.setattr(type(gone), "iterdir", lambda path: iter([gone, *listed(path)]))
    assert [run.id for run in list_runs(tmp_path)] == ["r1"]


def test_a_journal_of_a_later_version_says_so(tmp_path):
    """And is not appended to, or read as if it were ours."""
    path = journal_path(tmp_path, "r1")
    path.parent.mkdir()
    path.write_bytes(b'{"kind":"manifest","schema":2,"id":"r1"}\n')
    for read in (read_journal, Journal.reopen):
        with pytest.raises(RunError, match=r"later tilevision \(schema 2, this one knows 1\)"):
            read(path)
    assert list_runs(tmp_path)[0].status == "unreadable"


def test_listing_counts_as_reading_does(tmp_path):
    """The quick count agrees with a full read, also for ids that need escaping."""
    odd = [Grid(rows=1, cols=1).tiles((9, 9))[0].__class__(9, 9, TILES[0].box, 1.0, 'a"b')]
    path = journal_path(tmp_path, "r1")
    write(path, [*STORY, TileChanged(6.0, odd[0], "done"), TileChanged(7.0, TILES[11], "done")])
    latest = {e.tile.id: e.status for e in read_journal(path)[1] if isinstance(e, TileChanged)}
    counts = list_runs(tmp_path)[0].counts
    assert counts == {s: list(latest.values()).count(s) for s in set(latest.values())}


def test_a_list_reads_only_what_it_needs(tmp_path, monkeypatch):
    """Of older runs only the first line; nothing twice of a journal that has not changed."""
    for n in range(4):
        write(journal_path(tmp_path, f"r{n}"), STORY, {**MANIFEST, "started": n})
    read = []
    fold = runlist._fold
    monkeypatch.setattr(runlist, "_fold", lambda path: read.append(path.stem) or fold(path))
    known = {}
    first = list_runs(tmp_path, 2, known)
    assert [run.id for run in first] == ["r3", "r2"] == read
    assert list_runs(tmp_path, 2, known) == first and len(read) == 2
    with journal_path(tmp_path, "r2").open("ab") as file:
        file.write(to_line(RunChanged(9.0, "complete")))
    assert [run.status for run in list_runs(tmp_path, 3, known)] == ["paused", "complete", "paused"]
    assert read[2:] == ["r2", "r1"]
    journal_path(tmp_path, "r3").unlink()
    assert [run.id for run in list_runs(tmp_path, 2, known)] == ["r2", "r1"]
    assert list_runs(tmp_path) == list_runs(tmp_path, known=known)


def test_a_folder_without_runs_lists_none(tmp_path):
    """No folder, no runs: an empty list, nothing created."""
    assert list_runs(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_the_journal_is_a_listener_of_the_bus(tmp_path, caplog):
    """What is emitted is what is written."""
    bus = Bus()
    path = tmp_path / "r.jsonl"
    with Journal(path, MANIFEST) as journal, caplog.at_level(logging.WARNING):
        bus.subscribe(journal)
        for event in STORY:
            bus.emit(event)
    assert read_journal(path)[1] == STORY
    assert not caplog.records


def test_events_published_together_are_written_at_once(tmp_path, monkeypatch):
    """Many tiles that land together cost one call of the system, also where one of them raises."""
    calls, plain = [], os.write
    monkeypatch.setattr(os, "write", lambda file, data: calls.append(data) or plain(file, data))
    bus, path = Bus(), tmp_path / "r.jsonl"

    def publish():
        with bus.together():
            for event in STORY:
                bus.emit(event)
            assert not calls
            raise KeyError

    with Journal(path, MANIFEST) as journal:
        bus.subscribe(journal)
        calls.clear()
        with pytest.raises(KeyError):
            publish()
        assert len(calls) == 1 and read_journal(path)[1] == STORY
        bus.emit(STORY[0])
        assert len(calls) == 2


WRITER = """
import sys
from tilevision.events import Journal, RunChanged
path, start = sys.argv[1], int(sys.argv[2])
journal = Journal.reopen(path)
number = start
while True:
    journal(RunChanged(float(number), "running", "y" * (number % 3000)))
    print(number, flush=True)
    number += 1
"""


@pytest.mark.slow
def test_kill_nine_costs_at_most_the_line_being_written(tmp_path):
    """Whatever was acknowledged before the kill is read afterwards, kill after kill."""
    path = tmp_path / "r.jsonl"
    Journal(path, MANIFEST).close()
    chance = random.Random(5)
    told = -1
    for _ in range(8):
        command = [sys.executable, "-c", WRITER, str(path), str(told + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(chance.randint(1, 400)):
                told = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().split()
            told = int(rest[-1]) if rest and rest[-1].isdigit() else told
        times = [int(event.time) for event in read_journal(path)[1]]
        assert times[: told + 1] == list(range(told + 1))
        told = times[-1]
