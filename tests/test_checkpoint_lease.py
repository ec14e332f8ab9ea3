"""One owner of a run at a time where locks cannot be trusted: numbers, beats, and no clocks."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from shares import as_share

from tilevision.checkpoint import Checkpoint, RunLock, lease, run_owner
from tilevision.errors import RunBusy
from tilevision.events import (
    Journal,
    JournalTail,
    RunChanged,
    journal_path,
    list_runs,
    read_journal,
)
from tilevision.events.journal import part_path

SMALL = (b'{"boxes":[]}',)
ELSEWHERE = {
    "pid": 4711,
    "host": "n3",
    "since": 1.0,
    "job": "99",
    "machine": "another",
    "begun": "7",
}


@pytest.fixture
def folder(tmp_path):
    return as_share(tmp_path / "ck")


@pytest.fixture
def hurried(monkeypatch):
    """Let beats come ten times a second, and be missed after half a second."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(lease, "_LOOK_AGAIN_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def unseen(monkeypatch):
    """Start as a process does that has seen nothing yet."""
    monkeypatch.setattr(lease, "_seen", {})
    monkeypatch.setattr(lease, "_offsets", {})


HOLDER = """
import sys, time
from tilevision.checkpoint import Checkpoint, RunLock, lease
lease.BEAT_SECONDS = 0.1
lost = []
held = RunLock(sys.argv[1], "r1", lost.append)
held.acquire()
print("held", flush=True)
with Checkpoint.open(sys.argv[1]) as checkpoint:
    checkpoint.commit({"before": (b"{}",)})
    while not lost:
        time.sleep(0.01)
    checkpoint.commit({"late": (b"{}",)})
print(lost[0], flush=True)
held.release()
"""


def hold(folder):
    """Start a process that holds run r1, and wait until it does."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def owned(folder, seconds_ago, now=None, **note):
    """Have a process on another machine own run r1, whose last beat was some time ago."""
    last = (time.time() if now is None else now) - seconds_ago
    place = folder / "runs" / "r1.lease"
    place.mkdir(parents=True, exist_ok=True)
    (place / "000001").write_text(json.dumps(ELSEWHERE | note) + "\n")
    (place / "000001.beat").write_text("0" * 16)
    for path in place.iterdir():
        os.utime(path, (last, last))
    return place / "000001.beat"


def test_the_second_is_refused_with_the_owners_name_host_and_age(folder, monkeypatch):
    """And with the job it belongs to, and when the run would be free if it had died."""
    now = time.time()
    monkeypatch.setattr(lease, "_folder_time", lambda *_: now)
    owned(folder, 20, now)
    words = r"process 4711 on n3 \(job 99\), last sign 20 s ago.*free in 40 s"
    with pytest.raises(RunBusy, match=words):
        RunLock(folder, "r1").acquire()
    owner = run_owner(folder, "r1")
    assert (owner.pid, owner.host, owner.job, round(owner.age)) == (4711, "n3", "99", 20)


def test_what_is_released_is_free_at_once(folder):
    """The next owner has the next number; others are not concerned."""
    for epoch in (1, 2, 3):
        with RunLock(folder, "r1") as held, RunLock(folder, "r2"):
            assert held.epoch == epoch
            assert run_owner(folder, "r1").pid == os.getpid()
            with pytest.raises(RunBusy, match=rf"process {os.getpid()} on {socket.gethostname()}"):
                RunLock(folder, "r1").acquire()
        assert run_owner(folder, "r1") is None
    assert run_owner(folder, "never") is None


def test_a_process_of_this_machine_that_has_died_is_seen_at_once(folder):
    """Nobody has to wait for its lease; its number given to another process is no life."""
    with hold(folder) as holder:
        assert run_owner(folder, "r1").pid == holder.pid
        holder.kill()
    assert run_owner(folder, "r1") is None
    with RunLock(folder, "r1") as held:
        assert held.epoch == 2
    owned(folder / "other", 5, pid=os.getpid(), machine=lease._machine())
    assert run_owner(folder / "other", "r1") is None


def test_a_dead_owner_is_taken_over_after_its_lease_never_before(folder, hurried):
    """Busy as long as the beat may still come; then two beats are watched, and the run is free."""
    began = time.monotonic()
    owned(folder, 0)
    while True:
        try:
            with RunLock(folder, "r1") as held:
                assert held.epoch == 2
            break
        except RunBusy:
            time.sleep(0.02)
    assert time.monotonic() - began > 0.5


def test_a_beat_that_goes_on_while_it_is_watched_keeps_the_run(folder, hurried, monkeypatch):
    """However old it looked: the server may have stood still, or its clock may have jumped."""
    beat, plain, watched = owned(folder, 100), lease.Lease._stays_still, []

    def goes_on(self, sight):
        beat.write_text("0" * 15 + "1")
        watched.append(plain(self, sight))
        return watched[-1]

    monkeypatch.setattr(lease.Lease, "_stays_still", goes_on)
    with pytest.raises(RunBusy):
        RunLock(folder, "r1").acquire()
    assert watched == [False]


def test_whoever_has_been_silent_for_a_quarter_of_an_hour_is_not_watched(folder, monkeypatch):
    """A job of yesterday is continued without a pause."""
    monkeypatch.setattr(lease.Lease, "_stays_still", lambda *_: pytest.fail("it was watched"))
    owned(folder, 16 * 60)
    assert run_owner(folder, "r1") is None
    with RunLock(folder, "r1") as held:
        assert held.epoch == 2


def test_a_beat_in_the_future_is_watched_like_an_old_one(folder, hurried):
    """The share's clock was set back: a dead owner does not keep the run for those hours."""
    owned(folder, -3 * 3600)
    with RunLock(folder, "r1") as held:
        assert held.epoch == 2


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_was_set_takes_no_run_from_its_owner(folder, hours):
    """What was known of the share's clock no longer holds; before an owner is dead it is read."""
    place = owned(folder, 5).parent
    known = time.time() - time.monotonic() + hours * 3600
    lease._offsets[str(place)] = (known, time.monotonic() - 30)
    assert run_owner(folder, "r1") is not None
    lease._offsets[str(place)] = (known, time.monotonic() - 30)
    with pytest.raises(RunBusy, match=r"last sign \d\d? s ago"):
        RunLock(folder, "r1").acquire()


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_of_machines_are_not_compared(folder, monkeypatch, hours):
    """With this machine's clock an hour off, a fresh beat is fresh, and a stale one is stale."""
    clock = time.time
    began = clock()
    owned(folder, 5)
    monkeypatch.setattr(lease.time, "time", lambda: clock() + hours * 3600)
    with pytest.raises(RunBusy) as refused:
        RunLock(folder, "r1").acquire()
    age = int(str(refused.value).partition("last sign ")[2].partition(" s ago")[0])
    assert 5 <= age <= 5 + math.ceil(clock() - began)
    assert run_owner(folder, "r1") is not None
    monkeypatch.setattr(lease, "_seen", {})
    monkeypatch.setattr(lease.time, "time", clock)
    owned(folder, 100)
    monkeypatch.setattr(lease.time, "time", lambda: clock() + hours * 3600)
    assert run_owner(folder, "r1") is None


def test_whoever_watches_believes_the_beat_and_not_the_clock(folder, monkeypatch):
    """Where nothing may be written the clock of the share is unknown: what moves is alive."""
    beat = owned(folder, 0)
    monkeypatch.setattr(lease, "_folder_time", lambda *_: time.time() + 3600)
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time, sleep=time.sleep)
    monkeypatch.setattr(lease, "time", clock)
    assert run_owner(folder, "r1") is None
    beat.write_text("0" * 15 + "1")
    assert run_owner(folder, "r1") is not None
    now[0] += lease.STALE_SECONDS - 2
    assert run_owner(folder, "r1") is not None
    now[0] += 3
    assert run_owner(folder, "r1") is None


def test_of_many_that_want_a_dead_owners_run_one_gets_it(folder, monkeypatch):
    """Time and again, all at once: exactly one, and the others are told by whom."""
    monkeypatch.setattr(lease, "_flush", lambda file: file.flush())
    for number in range(60):
        run_id = f"r{number}"
        place = folder / "runs" / f"{run_id}.lease"
        place.mkdir(parents=True)
        (place / "000001").write_text(json.dumps(ELSEWHERE) + "\n")
        os.utime(place / "000001", (1000, 1000))
        gate, outcome = threading.Barrier(3), []

        def take(run_id=run_id, gate=gate, outcome=outcome):
            mine = RunLock(folder, run_id)
            gate.wait(200)
            try:
                mine.acquire()
                outcome.append(mine)
            except RunBusy as error:
                outcome.append(str(error))

        takers = [threading.Thread(target=take) for _ in range(3)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        winners = [one for one in outcome if isinstance(one, RunLock)]
        assert len(winners) == 1 and winners[0].epoch == 2, outcome
        winners[0].release()


def test_an_owner_that_was_stopped_stops_itself_and_its_records_are_valid(
    folder, hurried, monkeypatch
):
    """Another took the run over meanwhile: it is told by whom, within two beats."""
    with hold(folder) as holder:
        os.kill(holder.pid, signal.SIGSTOP)
        until = time.monotonic() + 200
        while True:
            try:
                mine = RunLock(folder, "r1")
                mine.acquire()
                break
            except RunBusy:
                assert time.monotonic() < until
                time.sleep(0.02)
        monkeypatch.setattr(lease, "STALE_SECONDS", 60.0)  # this owner may be slow to beat
        with Checkpoint.open(folder) as checkpoint:
            checkpoint.commit({"mine": SMALL})
            os.kill(holder.pid, signal.SIGCONT)
            line = holder.stdout.readline()
            assert holder.wait(200) == 0
            assert f"taken over by process {os.getpid()} on {socket.gethostname()}" in line
            assert "What is done is kept" in line and "tv.watch('r1')" in line
            assert checkpoint.done(["before", "late", "mine"]) == {"before", "late", "mine"}
        assert run_owner(folder, "r1").pid == os.getpid()
        mine.release()


@pytest.mark.parametrize("note", ["", "{", "[1]", '{"pid": "x", "host": 1, "since": 2}'])
def test_an_owner_that_has_not_said_who_it_is_owns_the_run(folder, note):
    """Its file is created first and written then; a torn note changes the message only."""
    owned(folder, 1)
    (folder / "runs" / "r1.lease" / "000001").write_text(note)
    with pytest.raises(RunBusy, match="on unknown"):
        RunLock(folder, "r1").acquire()
    assert run_owner(folder, "r1").host == "unknown"


def test_a_share_that_is_away_for_a_moment_does_not_end_the_lease(folder, hurried, monkeypatch):
    """Beats are tried again; the owner is not told that it has lost anything."""
    lost, plain, failing, failed = [], lease._look, [], []
    beat = folder / "runs" / "r1.lease" / "000001.beat"

    def away(place):
        if failing:
            failed.append(place)
            raise OSError(5, "Input/output error")
        return plain(place)

    def until(condition):
        end = time.monotonic() + 200
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.02)

    monkeypatch.setattr(lease, "_look", away)
    with RunLock(folder, "r1", lost.append):
        until(lambda: beat.exists() and beat.read_text())
        failing.append(True)
        until(lambda: len(failed) >= 3)
        before = beat.read_text()
        failing.clear()
        until(lambda: beat.read_text() not in ("", before))
    assert lost == []


# The journals of several owners -----------------------------------------------------------------


def told(status):
    return RunChanged(time.time(), status)


def test_each_owner_on_a_share_has_a_journal_of_its_own(folder):
    """Two machines that append to one file lose lines; read they are one journal."""
    path = journal_path(folder, "r1")
    tail = JournalTail(path)
    assert list(tail.read()) == []
    for number, status in enumerate(("stopped", "paused", "complete"), 1):
        with RunLock(folder, "r1") as held:
            assert held.epoch == number
            with Journal.begin(path, {"id": "r1", "n_tiles": 0}, held.epoch) as journal:
                journal(told("running"))
                journal(told(status))
        assert [event.status for event in tail.read()] == ["running", status]
    assert part_path(path, 3).exists()
    _, events = read_journal(path)
    statuses = ["running", "stopped", "running", "paused", "running", "complete"]
    assert [event.status for event in events] == statuses
    (run,) = list_runs(folder)
    assert run.id == "r1" and run.status == "complete"


def test_what_a_lost_owner_still_writes_is_not_followed(folder):
    """It was stopped, and goes on for a moment: its end is not that of the run."""
    path = journal_path(folder, "r1")
    tail = JournalTail(path)
    with Journal.begin(path, {"id": "r1"}, 1) as old:
        old(told("running"))
        assert [event.status for event in tail.read()] == ["running"]
        old(told("paused"))
        with Journal.begin(path, {"id": "r1"}, 2) as new:
            new(told("running"))
            assert [event.status for event in tail.read()] == ["paused", "running"]
            old(told("stopped"))
            new(told("complete"))
            assert [event.status for event in tail.read()] == ["complete"]


def test_lines_on_a_share_are_handed_over_at_once(folder, monkeypatch):
    """Another machine may see them half a minute later else; a batch of lines is one hand-over."""
    synced = []
    monkeypatch.setattr("tilevision.events.journal.os.fsync", synced.append)
    monkeypatch.setattr("tilevision.events.journal.SYNC_SECONDS", 0.05)
    with Journal.begin(journal_path(folder, "r1"), {"id": "r1"}, 1) as journal:
        for _ in range(200):
            journal(told("running"))
        until = time.monotonic() + 200
        while len(synced) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert 2 <= len(synced) < 100
        while journal._late is not None:  # what it hands over would count as this moment's
            time.sleep(0.01)
        time.sleep(0.06)
        count = len(synced)
        journal(told("complete"))
        assert len(synced) == count + 1
    with Journal.begin(journal_path(folder.parent / "local", "r1"), {"id": "r1"}) as journal:
        count = len(synced)
        journal(told("running"))
    assert len(synced) == count, "a local journal is not synced"
