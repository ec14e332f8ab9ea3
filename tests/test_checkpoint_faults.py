"""What can go wrong with a disk: one clear error each, and nothing acknowledged is lost."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import diskcache
import pytest
from shares import as_share

from tilevision.checkpoint import (
    Checkpoint,
    MemoryCheckpoint,
    database,
    filesystem,
)
from tilevision.errors import CheckpointError

SMALL = (b'{"boxes":[]}',)


def run(script, *args):
    """Run a script in a Python of its own; return what it printed."""
    command = [sys.executable, "-c", script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


FILL = """
import sys
from random import Random
from tilevision.checkpoint import Checkpoint
from tilevision.errors import CheckpointCorrupt, CheckpointError
checkpoint = Checkpoint.open(sys.argv[1])
acknowledged = {}

def record(number):
    noise = Random(number).randbytes(10_000).hex()  # what is alike would be stored in little space
    return (b'{"n":%d,"x":"%s"}' % (number, noise.encode()),)

def fill(count):
    for _ in range(count):
        number = len(acknowledged)
        batch = {f"{number + i}": record(number + i) for i in range(5)}
        checkpoint.commit(batch)
        acknowledged.update(batch)

def check():
    assert dict(checkpoint.load([*acknowledged, "x"])) == acknowledged, len(acknowledged)

def overfill():
    for _ in range(3):
        try:
            fill(10_000)
        except CheckpointError as error:
            assert not isinstance(error, CheckpointCorrupt), error
            assert sys.argv[1] in str(error) and "free" in str(error), error
            print(error)
        else:
            raise AssertionError("the disk never filled")
        check()
    assert acknowledged
"""

LIMITED = (
    FILL
    + """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
overfill()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
fill(20)
check()
checkpoint.close()
checkpoint = Checkpoint.open(sys.argv[1])
check()
"""
)

SMALL_DISK = (
    FILL
    + """
import os, pathlib
ballast = pathlib.Path(sys.argv[2])
overfill()
try:
    Checkpoint.open(sys.argv[1] + "-second")
except CheckpointError as error:
    assert "-second" in str(error) and "free" in str(error), error
else:
    raise AssertionError("a checkpoint was created on a full disk")
ballast.unlink()
fill(20)
check()
checkpoint.close()
checkpoint = Checkpoint.open(sys.argv[1])
check()
Checkpoint.open(sys.argv[1] + "-second").close()
"""
)


FORMS = pytest.mark.parametrize("made", [lambda path: path, as_share], ids=["disk", "share"])


@FORMS
def test_a_file_that_may_not_grow_loses_nothing(tmp_path, made):
    """Refused writes raise, what was acknowledged reads back, and it goes on when it may."""
    printed = run(LIMITED, made(tmp_path / "ck"))
    assert printed.count("Nothing that was stored is lost") == 3


@pytest.fixture
def small_disk():
    """A file system of 16 MB with 9 MB of ballast."""
    point = Path(tempfile.mkdtemp(prefix="small-disk-"))
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(point)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        point.rmdir()
        pytest.skip("mounting needs privileges here; the test with a file size limit still runs")
    (point / "ballast").write_bytes(b"\0" * 9_000_000)
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)
    point.rmdir()


@FORMS
def test_a_full_disk_loses_nothing(small_disk, made):
    """Typed errors naming folder and space, all that was stored readable, and on it goes."""
    printed = run(SMALL_DISK, made(small_disk / "ck"), small_disk / "ballast")
    assert printed.count("Nothing that was stored is lost") == 3


UNPRIVILEGED = """
import os, sys
from tilevision.checkpoint import Checkpoint, RunLock
from tilevision.errors import CheckpointCorrupt, CheckpointError
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    Checkpoint.open(sys.argv[1])
except CheckpointError as error:
    assert not isinstance(error, CheckpointCorrupt), error
    print(error)
else:
    sys.exit("it could be opened")
"""


@pytest.fixture
def public_folder():
    """A folder that any user may enter, in which only its owner may write."""
    folder = Path(tempfile.mkdtemp(prefix="public-"))
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def read_only(folder):
    """Let everybody read and nobody write (root is stopped by becoming nobody)."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_a_folder_where_nothing_may_be_created(public_folder):
    """Names the folder, why, and another place that would do."""
    read_only(public_folder)
    printed = run(UNPRIVILEGED, public_folder / "ck")
    assert str(public_folder / "ck") in printed and "Permission denied" in printed
    assert "checkpoint='" in printed and "None to keep nothing" in printed
    assert "in a shell: --checkpoint, --no-checkpoint" in printed


def test_a_checkpoint_that_may_only_be_read(public_folder):
    """An existing checkpoint on a read-only share is refused with the remedy, not damaged."""
    with Checkpoint.open(public_folder / "ck") as checkpoint:
        checkpoint.commit({"a": SMALL})
    read_only(public_folder)
    printed = run(UNPRIVILEGED, public_folder / "ck")
    assert str(public_folder / "ck") in printed and "checkpoint='" in printed


def test_a_database_alone_that_may_only_be_read(public_folder):
    """A writable folder with a write-protected database: the same error."""
    public_folder.chmod(0o777)
    with Checkpoint.open(public_folder / "ck") as checkpoint:
        checkpoint.commit({"a": SMALL})
    for path in (public_folder / "ck").rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (public_folder / "ck").chmod(0o777)
    (public_folder / "ck" / "cache" / "cache.db").chmod(0o444)
    printed = run(UNPRIVILEGED, public_folder / "ck")
    assert "readonly" in printed.replace("read-only", "readonly") and "checkpoint='" in printed


@pytest.mark.parametrize("bad", ["", 5, None, b"ck", "s3://bucket/ck", "ck\0", "~nobody-here/ck"])
def test_what_is_no_folder_is_refused(bad):
    """A checkpoint is a local folder."""
    with pytest.raises(CheckpointError, match="checkpoint="):
        Checkpoint.open(bad)


def test_a_file_in_the_way_is_named(tmp_path):
    """The folder, or one above it, is a file."""
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep" / "ck"):
        with pytest.raises(CheckpointError, match=r"file is not a folder. Use a local"):
            Checkpoint.open(folder)
    assert (tmp_path / "file").read_text() == "mine"


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
30 22 0:40 / /home rw,relatime - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/scratch rw - xfs /dev/sdb rw
32 22 0:42 / /mnt/with\\040space rw - fuse.sshfs me@host:/ rw
33 22 0:43 / /mnt/encrypted rw - fuse.gocryptfs enc rw
34 22 0:44 / /cluster rw - lustre 10.0.0.1@tcp:/cluster rw
35 22 0:45 / /twice rw - ext4 /dev/sdc rw
36 35 0:46 / /twice rw - cifs //server/share rw
"""
MAC_MOUNTS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
//me@server/share on /Volumes/share (smbfs, nodev, nosuid, mounted by me)
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/data/ck", "ext4", False),
        ("/clustered/ck", "ext4", False),
        ("/home/me/ck", "nfs4", True),
        ("/home/me/scratch/ck", "xfs", False),
        ("/mnt/with space/ck", "fuse.sshfs", True),
        ("/mnt/encrypted", "fuse.gocryptfs", False),
        ("/cluster/project", "lustre", True),
        ("/twice/ck", "cifs", True),
    ],
)
def test_network_file_systems_are_told_apart(monkeypatch, path, kind, network):
    """By the innermost mount, the last one where several lie over each other."""
    monkeypatch.setattr(filesystem, "_mounts", lambda: MOUNTS)
    assert filesystem.filesystem_type(Path(path)) == kind
    assert filesystem.is_network(Path(path)) is network


def test_network_volumes_on_macos_are_told_apart():
    """By what ``mount`` prints."""
    assert filesystem.filesystem_type(Path("/Volumes/share/ck"), MAC_MOUNTS) == "smbfs"
    assert filesystem.filesystem_type(Path("/data"), MAC_MOUNTS) == "apfs"
    assert filesystem.filesystem_type(Path("/data"), "") == ""


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="needs Linux")
def test_this_machines_mounts_are_read():
    """The real table, not only ours."""
    assert filesystem.filesystem_type(Path("/proc/self")) == "proc"
    assert filesystem.filesystem_type(Path(tempfile.gettempdir())) not in ("", "proc")


@pytest.fixture
def impatient(monkeypatch):
    """Wait for other processes for a moment only."""
    monkeypatch.setattr(database, "PATIENCE", 0.1)


def test_a_writer_that_never_ends_is_reported_and_waited_for_next_time(tmp_path, impatient):
    """Another process holds the database: a clear error after the patience, then it works."""
    with Checkpoint.open(tmp_path / "ck") as checkpoint:
        checkpoint.commit({"a": SMALL})
        database = tmp_path / "ck" / "cache" / "cache.db"
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(CheckpointError, match=r"ck was in use by another process.*Wait"):
                checkpoint.commit({"b": SMALL})
            assert checkpoint.done(["a", "b"]) == {"a"}
            other.execute("ROLLBACK")
        checkpoint.commit({"b": SMALL})
        assert checkpoint.done(["a", "b"]) == {"a", "b"}


def hide_as_diskcache_does(connection):
    """Fail to write, and report a time-out for it."""
    try:
        connection.execute("DELETE FROM Cache")
    except sqlite3.OperationalError:
        raise diskcache.Timeout from None


def test_the_cause_is_told_not_what_hid_it(tmp_path):
    """For diskcache every failure to begin is a time-out: read-only must not read as busy."""
    folder = tmp_path / "ck"
    Checkpoint.open(folder).close()
    address = f"file:{folder / 'cache' / 'cache.db'}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as read_only:
        with pytest.raises(diskcache.Timeout) as caught:
            hide_as_diskcache_does(read_only)
        message = str(database.explain(folder, caught.value))
    assert "readonly database" in message and "another process" not in message
    assert "another process" in str(database.explain(folder, diskcache.Timeout()))


TOGETHER = """
import sys, time, pathlib
from tilevision.checkpoint import Checkpoint
folder, name, gate = sys.argv[1:]
print("ready", flush=True)
while not pathlib.Path(gate).exists():
    time.sleep(0.001)
with Checkpoint.open(folder) as checkpoint:
    for number in range(30):
        checkpoint.commit({f"{name}-{number}": (b'{"n":%d}' % number,), "shared": (b"{}",)})
"""


@pytest.mark.slow
def test_processes_may_create_and_use_one_checkpoint_together(tmp_path):
    """Four open a folder that is not there yet, at once: each commit of each is kept."""
    folder, gate = tmp_path / "ck", tmp_path / "gate"
    command = [sys.executable, "-c", TOGETHER, str(folder)]
    workers = [
        subprocess.Popen([*command, name, str(gate)], stdout=subprocess.PIPE, text=True)
        for name in "abcd"
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    gate.touch()
    assert [worker.wait(200) for worker in workers] == [0] * 4
    for worker in workers:
        worker.stdout.close()
    expected = {f"{name}-{number}" for name in "abcd" for number in range(30)} | {"shared"}
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.done(expected) == expected


def test_what_a_killed_creation_left_behind_is_cleared(tmp_path):
    """A process that died while creating the database leaves no half one to stumble over."""
    folder = tmp_path / "ck"
    (folder / "cache.new").mkdir(parents=True)
    (folder / "cache.new" / "cache.db").write_bytes(b"half")
    (folder / "meta.json.new").write_text("{")
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"a": SMALL})
    assert not (folder / "cache.new").exists()
    assert (folder / ".gitignore").exists()


WRITER = """
import sys
from tilevision.checkpoint import Checkpoint
checkpoint = Checkpoint.open(sys.argv[1])
start, size = int(sys.argv[2]), int(sys.argv[3])
while True:
    names = range(start, start + size)
    checkpoint.commit({
        f"{n}": tuple(b'{"n":%d,"part":%d,"x":"%s"}' % (n, part, b"y" * (n * 7919 % 9000))
                      for part in range(1 + n % 3))
        for n in names})
    start += size
    print(start, flush=True)
"""


@pytest.mark.slow
@FORMS
def test_kill_nine_loses_no_acknowledged_commit(tmp_path, made):
    """Killed at any moment of writing: all acknowledged is there, each batch whole or absent."""
    folder, chance, acknowledged = made(tmp_path / "ck"), random.Random(11), 0
    for _ in range(12):
        size = chance.randint(1, 40)
        command = [sys.executable, "-c", WRITER, str(folder), str(acknowledged), str(size)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            started = acknowledged
            for _ in range(chance.randint(0, 12)):
                acknowledged = int(writer.stdout.readline())
            if chance.random() < 0.5:  # somewhere within the next write
                with pytest.raises(subprocess.TimeoutExpired):
                    writer.wait(chance.uniform(0, 0.02))
            os.kill(writer.pid, signal.SIGKILL)
            told = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
            acknowledged = max([acknowledged, *told])
        with Checkpoint.open(folder) as checkpoint:
            names = [f"{n}" for n in range(acknowledged + 2 * size)]
            found = checkpoint.done(names)
            assert found >= set(names[:acknowledged])
            assert (len(found) - started) % size == 0, "a batch was stored in part"
            for key, records in checkpoint.load(names):
                assert len(records) == 1 + int(key) % 3
        acknowledged = len(found)
    assert acknowledged > 0


@pytest.mark.slow
def test_kill_nine_while_opening_never_locks_anybody_out(tmp_path):
    """Killed at any moment of creating or opening, the next one opens."""
    chance = random.Random(7)
    script = "import sys\nfrom tilevision.checkpoint import Checkpoint\nprint('go', flush=True)\n"
    script += "while True:\n    Checkpoint.open(sys.argv[1]).close()"
    for number in range(10):
        folder = tmp_path / f"ck{number % 5}"
        command = [sys.executable, "-c", script, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as opener:
            assert opener.stdout.readline() == "go\n"
            with pytest.raises(subprocess.TimeoutExpired):
                opener.wait(chance.uniform(0, 0.06))
            opener.kill()
        with Checkpoint.open(folder) as checkpoint:
            checkpoint.commit({"a": SMALL})


def test_memory_stands_in_for_no_checkpoint():
    """`checkpoint=None` has no folder and forgets at the end."""
    with MemoryCheckpoint() as checkpoint:
        checkpoint.commit({"a": SMALL})
        assert checkpoint.folder is None
        assert checkpoint.file_fingerprint("x", lambda path: path + "!") == "x!"
    assert checkpoint.done(["a"]) == set()


def _sqlite_error(name):
    """Return an error as Python's sqlite3 raises it, with SQLite's extended code."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


@pytest.mark.parametrize("name", ["SQLITE_IOERR_SHMMAP", "SQLITE_IOERR_SHMOPEN"])
def test_a_mount_without_shared_memory_is_not_called_full(tmp_path, monkeypatch, name):
    """FUSE drives without shared maps fail so (sqlite.org/rescode.html): another folder helps."""
    monkeypatch.setattr(database, "free_space", lambda _: 54 * 10**9)
    said = str(database.explain(tmp_path, _sqlite_error(name)))
    assert "shared memory" in said and "local folder" in said and "space" not in said
    assert name in said


@pytest.mark.parametrize("name", ["SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_READ"])
@pytest.mark.parametrize(("free", "full"), [(54 * 10**9, False), (0, True)])
def test_an_io_error_is_a_full_disk_only_where_the_disk_is_full(
    tmp_path, monkeypatch, name, free, full
):
    """With room to spare the error says what SQLite said, and where else a checkpoint can go."""
    monkeypatch.setattr(database, "free_space", lambda _: free)
    said = str(database.explain(tmp_path, _sqlite_error(name)))
    assert ("Free some space" in said) is full
    assert ("local folder" in said and name in said) is not full


def test_the_doctor_tries_what_a_folder_can_do(tmp_path, monkeypatch):
    """A label is no promise: a record is kept there for a moment, and nothing stays behind."""
    from tilevision.checkpoint import store
    from tilevision.cli.diagnosis import _checkpoint

    assert _checkpoint(tmp_path / "new").fine is True
    assert list(tmp_path.iterdir()) == []

    def refuse(directory):
        raise _sqlite_error("SQLITE_IOERR_SHMMAP")

    monkeypatch.setattr(store, "open_cache", refuse)
    check = _checkpoint(tmp_path / "new")
    assert check.fine is False
    assert "shared memory" in check.finding and ".tilevision-doctor" not in check.finding
    assert list(tmp_path.iterdir()) == []
