"""One worker on a run at a time; a crash frees it."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest

from tilevision.checkpoint import Checkpoint, RunLock, filesystem, run_owner
from tilevision.checkpoint.filesystem import locked
from tilevision.errors import CheckpointError, RunBusy, RunError

HOLDER = """
import sys, time
from tilevision.checkpoint import RunLock
with RunLock(sys.argv[1], "r1"):
    print("held", flush=True)
    sys.stdin.read()
"""

FORKER = """
import os, sys, time
from tilevision.checkpoint import RunLock
lock = RunLock(sys.argv[1], "r1")
lock.acquire()
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)  # what follows the fork has been done by now
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def start(script, folder):
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_another_process_is_told_who_is_at_work_and_a_crash_frees_it(tmp_path):
    """`RunBusy` names pid and host; after kill -9 the next one gets the run at once."""
    with start(HOLDER, tmp_path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunBusy, match=rf"r1.*process {holder.pid} on {socket.gethostname()}"):
            RunLock(tmp_path, "r1").acquire()
        assert run_owner(tmp_path, "r1").pid == holder.pid
        with RunLock(tmp_path, "r2"):
            pass
        holder.kill()
    assert run_owner(tmp_path, "r1") is None
    with RunLock(tmp_path, "r1"):
        assert run_owner(tmp_path, "r1").pid == os.getpid()


def test_a_child_does_not_keep_a_dead_owners_run(tmp_path):
    """A forked child has a copy of the open file, but not of the run."""
    with start(FORKER, tmp_path) as owner:
        child = int(owner.stdout.readline())
        with pytest.raises(RunBusy):
            RunLock(tmp_path, "r1").acquire()
        owner.kill()
        owner.wait()
        try:
            os.kill(child, 0)
            with RunLock(tmp_path, "r1"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_threads_of_one_process_exclude_each_other(tmp_path):
    """Two cells that resume the same run: one works, the other is told."""
    outcome = []

    def second():
        try:
            with RunLock(tmp_path, "r1"):
                outcome.append("held")
        except RunBusy as error:
            outcome.append(str(error))

    with RunLock(tmp_path, "r1"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(outcome) == 1 and f"process {os.getpid()}" in outcome[0]
    second()
    assert outcome[1] == "held"


def test_releasing_twice_and_taking_again(tmp_path):
    """A lock object can be used again; releasing what is not held does nothing."""
    held = RunLock(tmp_path, "r1")
    held.release()
    for _ in range(2):
        held.acquire()
        held.release()
        held.release()
    assert run_owner(tmp_path, "r1") is None
    assert run_owner(tmp_path, "never") is None


def test_taking_a_run_first_makes_the_folder_as_opening_does(tmp_path):
    """Whichever comes first: owner only, hidden from git, and a bad place is refused."""
    with RunLock(tmp_path / "ck", "r1"):
        Checkpoint.open(tmp_path / "ck").close()
    assert stat.S_IMODE((tmp_path / "ck").stat().st_mode) == 0o700
    assert (tmp_path / "ck" / ".gitignore").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="file is not a folder"):
        RunLock(tmp_path / "file", "r1").acquire()


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "a" * 200, "a\x00", "a b", "-x"])
def test_an_id_that_is_no_file_name_is_refused(tmp_path, run_id):
    """An id leads nowhere but into the folder of runs."""
    with pytest.raises(RunError, match="cannot be the id of a run"):
        RunLock(tmp_path, run_id)
    with pytest.raises(RunError):
        run_owner(tmp_path, run_id)


def test_a_busy_run_whose_owner_is_unreadable_is_still_busy(tmp_path):
    """A torn or hostile note changes the message, not the answer."""
    with RunLock(tmp_path, "r1"):
        path = tmp_path / "runs" / "r1.lock"
        for note in ("", "{", json.dumps([1]), json.dumps({"pid": "x"})):
            path.write_text(note)
            with pytest.raises(RunBusy, match="another process"):
                RunLock(tmp_path, "r1").acquire()
            assert run_owner(tmp_path, "r1").host == "unknown"


def test_a_lock_file_removed_meanwhile_is_not_the_lock(tmp_path, monkeypatch):
    """Pruning removed the file after it was opened, before it was locked: the new one counts."""
    path, plain, removed = tmp_path / "runs" / "r1.lock", filesystem._try_lock, []

    def late(file):
        if not removed:
            path.unlink()
            removed.append(path)
        return plain(file)

    monkeypatch.setattr(filesystem, "_try_lock", late)
    with RunLock(tmp_path, "r1"):
        assert removed and path.exists()
        with pytest.raises(RunBusy):
            RunLock(tmp_path, "r1").acquire()


def test_waiting_for_a_lock_ends(tmp_path):
    """Patience is bounded, and a lock that is freed is taken."""
    path = tmp_path / "open.lock"
    with locked(path, patience=1), pytest.raises(TimeoutError), locked(path, patience=0.05):
        pytest.fail("two held the lock")
    held, free = threading.Event(), threading.Event()

    def hold():
        with locked(path, patience=1):
            held.set()
            free.wait(200)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(200)
    threading.Timer(0.05, free.set).start()
    with locked(path, patience=10):
        assert free.is_set()
    thread.join()
