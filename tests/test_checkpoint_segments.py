"""A checkpoint on a share: append-only files, one writer each, no locks; what it keeps and how."""

import errno
import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import pytest
from shares import as_share, segments

from tilevision.checkpoint import (
    Checkpoint,
    database,
    fallback_folder,
    filesystem,
    lock,
    segmentfile,
    segmentstore,
)
from tilevision.checkpoint import folder as place
from tilevision.checkpoint.trial import Promises, try_out
from tilevision.codec import RECORD_LIMIT
from tilevision.errors import CheckpointCorrupt, CheckpointError

SMALL = (b'{"boxes":[]}',)


def record(number: int) -> tuple[bytes, ...]:
    return (b'{"n":%d}' % number, b'["%s"]' % (b"xyz" * (number % 5)))


@pytest.fixture
def folder(tmp_path):
    return as_share(tmp_path / "ck")


@pytest.fixture
def small(folder):
    """A share with one segment of three frames; its bytes, and where each frame ends."""
    ends = []
    with Checkpoint.open(folder) as checkpoint:
        for number in range(3):
            checkpoint.commit({f"{number}": record(number), f"{number}+": record(number + 10)})
            ends.append(segments(folder)[0].stat().st_size)
    return folder, segments(folder)[0].read_bytes(), ends


def found(folder):
    with Checkpoint.open(folder) as checkpoint:
        asked = [f"{n}{more}" for n in range(3) for more in ("", "+")]
        return dict(checkpoint.load(asked))


WHOLE = {f"{n}{more}": record(n + add) for n in range(3) for more, add in (("", 0), ("+", 10))}


# Damage -----------------------------------------------------------------------------------------


def test_a_segment_cut_at_any_byte_keeps_every_earlier_frame(small):
    """A crash leaves any part of the last frame: what was acknowledged before it is there."""
    folder, data, ends = small
    path = segments(folder)[0]
    for length in range(len(data)):
        path.write_bytes(data[:length])
        whole = sum(end <= length for end in ends)
        assert found(folder) == dict(list(WHOLE.items())[: 2 * whole]), length
    path.write_bytes(data)
    assert found(folder) == WHOLE


def test_a_flipped_byte_costs_one_frame_and_is_said(small, caplog):
    """Whatever byte of a segment is damaged: one frame at most is lost, none is wrong."""
    folder, data, ends = small
    path = segments(folder)[0]
    for at in range(len(data)):
        caplog.clear()
        path.write_bytes(data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :])
        left = found(folder)
        frame = sum(end <= at for end in ends)
        lost = {key: WHOLE[key] for key in (f"{frame}", f"{frame}+")}
        assert left.items() <= WHOLE.items(), at
        assert WHOLE.items() - left.items() <= lost.items(), at
        assert "damaged" in caplog.text, at
        with Checkpoint.open(folder) as checkpoint:
            list(checkpoint.load(list(WHOLE)))
            assert checkpoint.done(WHOLE) == set(left), at


def test_a_damaged_record_is_stored_anew(small, caplog):
    """It is not done any more once it was found out, and what is computed again replaces it."""
    folder, data, ends = small
    at = ends[1] - 3  # in the last record of the second frame
    segments(folder)[0].write_bytes(data[:at] + b"\0" + data[at + 1 :])
    with Checkpoint.open(folder) as checkpoint:
        assert dict(checkpoint.load(["1+"])) == {} and "computed again" in caplog.text
        assert checkpoint.done(["1", "1+"]) == {"1"}
        checkpoint.commit({"1+": record(11)})
    assert found(folder) == WHOLE


def test_zeros_that_a_crash_left_are_no_damage(small, caplog):
    """A file may be longer than what was written to it; a later owner uses another file."""
    folder, data, _ = small
    segments(folder)[0].write_bytes(data + b"\0" * 5000)
    assert found(folder) == WHOLE and caplog.text == ""
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"new": SMALL})
    assert len(segments(folder)) == 2 and found(folder) == WHOLE


HOSTILE = {
    "too long": b'{"x":"%s"}' % (b"y" * RECORD_LIMIT),
    "huge": b"\0" * (64 * 2**20),
    "no JSON": b"\x89PNG\r\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_record_that_tilevision_would_not_write_is_not_read(folder, what, caplog):
    """Segments may come with a download: sizes are bounded, and JSON is all that comes out."""
    bad = zlib.compress(HOSTILE[what])
    rows = [
        (segmentstore.digest("bad"), 1.0, 1, len(bad).to_bytes(4, "little") + bad),
        (segmentstore.digest("good"), 1.0, 1, segmentfile.pack(SMALL)),
    ]
    (folder / "segments").mkdir()
    data = segmentfile.MAGIC + segmentfile.frame_of(rows)
    (folder / "segments" / "00000001-a-1-ff.seg").write_bytes(data)
    with Checkpoint.open(folder) as checkpoint:
        assert dict(checkpoint.load(["bad", "good"])) == {"good": SMALL}
    assert "1 record(s)" in caplog.text


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused(folder, tmp_path, kind):
    """A name that leads elsewhere, or would block for ever, is not opened."""
    (folder / "segments").mkdir()
    path = folder / "segments" / "00000001-a-1-ff.seg"
    if kind == "link":
        (tmp_path / "other").write_bytes(b"x" * 100)
        path.symlink_to(tmp_path / "other")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
        (path / "x").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=str(folder)):
        Checkpoint.open(folder)


# Disks that refuse ------------------------------------------------------------------------------


def refusing(monkeypatch, name, code):
    """Have a call of the system fail in segments, as often as it is made."""

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    if name == "write":
        monkeypatch.setattr(segmentfile.os, "write", refuse)
    else:
        monkeypatch.setattr(segmentfile, "_sync", refuse)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ESTALE])
@pytest.mark.parametrize("call", ["write", "sync"])
def test_after_a_failure_a_new_file_is_begun(folder, monkeypatch, call, code):
    """What a failed write or sync has left is unknown: the file is not used again."""
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"before": SMALL})
        for _ in range(3):
            with monkeypatch.context() as broken:
                refusing(broken, call, code)
                with pytest.raises(CheckpointError, match=os.strerror(code)) as caught:
                    checkpoint.commit({"lost": SMALL})
            assert str(folder) in str(caught.value)
            assert "Nothing that was stored is lost" in str(caught.value)
            assert checkpoint.done(["before"]) == {"before"}
        assert len(segments(folder)) == 1, "files in which nothing was acknowledged are removed"
        checkpoint.commit({"after": record(1)})
        assert len(segments(folder)) == 2
    with Checkpoint.open(folder) as checkpoint:
        assert dict(checkpoint.load(["before", "after"])) == {"before": SMALL, "after": record(1)}


def test_a_full_disk_is_called_one_only_if_it_is(folder, monkeypatch):
    """With room left it is a quota, or the number of files: freeing space would not help."""
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"before": SMALL})
        for free, words in ((54 * 10**9, "54 GB free: a quota"), (4096, "Free some space")):
            with monkeypatch.context() as broken:
                broken.setattr(database, "free_space", lambda _, free=free: free)
                refusing(broken, "write", errno.ENOSPC)
                with pytest.raises(CheckpointError) as caught:
                    checkpoint.commit({"lost": SMALL})
            assert words in str(caught.value)
            assert ("Free some space" in str(caught.value)) is (free < 10**6)


def test_a_short_write_is_completed_and_the_file_left(folder, monkeypatch):
    """The rest is written, so that the system says what is in the way; then a new file is begun."""
    plain = os.write
    with Checkpoint.open(folder) as checkpoint:
        with monkeypatch.context() as short:
            short.setattr(segmentfile.os, "write", lambda f, data: plain(f, data[:50]))
            checkpoint.commit({"a": record(3)})
        checkpoint.commit({"b": record(4)})
        assert len(segments(folder)) == 2
    with Checkpoint.open(folder) as checkpoint:
        assert dict(checkpoint.load(["a", "b"])) == {"a": record(3), "b": record(4)}


def test_a_commit_that_is_interrupted_stores_nothing_or_all(folder, monkeypatch):
    """Ctrl-C within a write: the next commit is in a new file, and is whole."""

    def interrupted(file, data):
        plain(file, data[:30])
        raise KeyboardInterrupt

    plain = os.write
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"before": SMALL})
        with monkeypatch.context() as cut:
            cut.setattr(segmentfile.os, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.commit({f"{n}": SMALL for n in range(5)})
        assert checkpoint.done(["before", *"01234"]) == {"before"}
        checkpoint.commit({f"{n}": SMALL for n in range(5)})
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.done(["before", *"01234"]) == {"before", *"01234"}


# Several processes ------------------------------------------------------------------------------


def test_what_another_has_committed_is_seen(folder):
    """Both have the folder open: each sees what the other has, without a lock between them."""
    with Checkpoint.open(folder) as one, Checkpoint.open(folder) as two:
        one.commit({"a": SMALL})
        assert two.done(["a"]) == {"a"}
        two.commit({"b": SMALL})
        one.commit({"c": SMALL})
        two.delete(["a"])
        assert one.done("abc") == two.done("abc") == {"b", "c"}
    assert len(segments(folder)) >= 2


def test_the_later_record_counts_whatever_the_clocks_say(folder, monkeypatch):
    """Machines' clocks differ by hours; the order of the files does not."""
    clock = time.time
    for number, hours in ((1, 5), (2, -5), (3, 0)):
        monkeypatch.setattr(segmentstore.time, "time", lambda hours=hours: clock() + hours * 3600)
        with Checkpoint.open(folder) as checkpoint:
            checkpoint.commit({"a": record(number)})
    with Checkpoint.open(folder) as checkpoint:
        assert dict(checkpoint.load(["a"])) == {"a": record(3)}


def test_who_replaces_what_another_stored_later_begins_a_later_file(folder):
    """Else the older record would count again once the folder is opened anew."""
    with Checkpoint.open(folder) as one, Checkpoint.open(folder) as two:
        one.commit({"x": SMALL})
        two.commit({"a": record(1)})
        assert one.done(["a"]) == {"a"}
        one.commit({"a": record(2)})
    with Checkpoint.open(folder) as checkpoint:
        assert dict(checkpoint.load(["a"])) == {"a": record(2)}


def test_a_reader_follows_where_pruning_has_moved_records(folder):
    """Another machine writes what is in use into a new file and removes the old one."""
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit(
            {f"{n}": (b'["%s"]' % os.urandom(2000).hex().encode(),) for n in range(9)}
        )
        kept = dict(checkpoint.load(["3"]))
    with Checkpoint.open(folder) as reader:
        loading = reader.load(["3"])
        with Checkpoint.open(folder) as other:
            other.delete([f"{n}" for n in range(9) if n != 3])
            other.prune(0.0)
        assert dict(loading) == kept
        reader._store._index.add("00000000-gone-1-ff.seg", 0, b"")
        assert reader.done([f"{n}" for n in range(9)]) == {"3"}


def test_no_lock_is_asked_for(folder, monkeypatch):
    """Locks of a mount may be missing, or be granted to two machines at once."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filesystem, "_try_lock", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with lock.RunLock(folder, "r1"), Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"a": SMALL})
        assert checkpoint.done(["a"]) == {"a"}
    assert lock.run_owner(folder, "r1") is None


WRITER = """
import select, sys
from tilevision.checkpoint import Checkpoint
(folder, name), number = sys.argv[1:], 0
with Checkpoint.open(folder) as checkpoint:
    while not select.select([sys.stdin], [], [], 0)[0]:  # until it is closed
        checkpoint.commit({f"{name}-{number + i}": (b'{"n":%d}' % (number + i),) for i in range(7)})
        number += 7
        print(number, flush=True)
"""


@pytest.mark.slow
def test_five_writers_lose_nothing_and_their_copy_is_a_checkpoint(folder, tmp_path):
    """Processes at once in one new folder; a copy made meanwhile opens and holds a part."""
    (folder / "meta.json").unlink()
    meta = json.dumps({"format": place.FORMAT, "schema": 2, "store": "segments", "id": "1"})
    (folder / "meta.json").write_text(meta)
    command = [sys.executable, "-c", WRITER, str(folder)]
    writers = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in "abcde"
    ]
    for writer in writers:
        assert writer.stdout.readline() == "7\n"
    shutil.copytree(folder, tmp_path / "copy")
    with Checkpoint.open(tmp_path / "copy") as copy:
        assert copy.done([f"{name}-0" for name in "abcde"]) == {f"{name}-0" for name in "abcde"}
        copy.commit({"more": SMALL})
    for writer in writers:
        while int(writer.stdout.readline()) < 700:
            pass
    for writer in writers:
        writer.stdin.close()
    expected = {}
    for name, writer in zip("abcde", writers, strict=True):
        last = int((writer.stdout.read() or "700").split()[-1])
        assert writer.wait(200) == 0
        expected |= {f"{name}-{n}": (b'{"n":%d}' % n,) for n in range(last)}
        writer.stdout.close()
    with Checkpoint.open(folder) as checkpoint:
        assert dict(checkpoint.load(list(expected))) == expected


# Which of the two forms a folder has ------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Have the temporary folder lie on a file system of another name."""

    def mount(kind):
        table = f"22 1 254:0 / / rw - ext4 /dev/vda rw\n99 22 0:99 / {tmp_path} rw - {kind} x rw\n"
        monkeypatch.setattr(filesystem, "_mounts", lambda: table)
        monkeypatch.setattr(place, "_tried", {})

    return mount


def form(folder):
    """Return the form of a checkpoint folder, having kept something in it."""
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"a": SMALL})
    meta = json.loads((folder / "meta.json").read_text())
    names = {path.name for path in folder.iterdir()}
    assert ("segments" in names) is not ("cache" in names)
    assert meta["schema"] == (2 if "segments" in names else 1)
    return meta.get("store", "diskcache")


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "lustre", "gpfs", "beegfs", "fuse.sshfs"])
def test_on_a_network_file_system_a_new_checkpoint_is_made_of_segments(tmp_path, mounted, kind):
    """No refusal: two machines may write there, and a database would lose what they write."""
    mounted(kind)
    assert form(tmp_path / "project" / ".tilevision") == "segments"
    assert (tmp_path / "project" / ".tilevision" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay"])
def test_on_a_local_disk_nothing_is_tried(tmp_path, mounted, monkeypatch, kind):
    """A database at once, with the files there have always been."""
    mounted(kind)
    monkeypatch.setattr(place, "try_out", lambda *_: pytest.fail("it was tried"))
    assert form(tmp_path / "ck") == "diskcache"
    assert {path.name for path in (tmp_path / "ck").iterdir()} == {
        *(".gitignore", "cache", "meta.json", "open.lock"),
    }


@pytest.mark.parametrize("lacking", ["maps", "locks", "rename", None])
def test_what_nobody_knows_is_tried(tmp_path, mounted, monkeypatch, lacking):
    """A mount of any other name gets a database if what databases need works there."""
    mounted("fuse.drive")
    works = dict.fromkeys(("maps", "locks", "exclusive", "rename", "sync", "listed"), True)
    if lacking:
        works[lacking] = False

    def tried(path, *, shared=True):
        return Promises(**works) if shared else try_out(path, shared=False)

    monkeypatch.setattr(place, "try_out", tried)
    assert form(tmp_path / "ck") == ("segments" if lacking else "diskcache")


def test_the_trial_finds_this_disk_to_work(tmp_path):
    """With a second process, and nothing is left behind."""
    found = try_out(tmp_path)
    assert found.database and found.segments and found.lacking() == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_says_itself_what_it_is(tmp_path, mounted):
    """Copied from a share to a laptop it stays what it is; both forms open side by side."""
    mounted("nfs4")
    assert form(tmp_path / "ck") == "segments"
    mounted("ext4")
    assert form(tmp_path / "ck") == "segments" and form(tmp_path / "other") == "diskcache"


def test_a_database_that_was_moved_to_a_share_is_refused_with_a_remedy(
    tmp_path, mounted, monkeypatch
):
    """It would lose data there: the error names the type and local folders that work."""
    assert form(tmp_path / "ck") == "diskcache"
    mounted("nfs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=r"network file system \(nfs\).*checkpoint=") as error:
        Checkpoint.open(tmp_path / "ck")
    assert repr(str(fallback_folder())) in str(error.value)
    assert tmp_path not in fallback_folder().parents, "a home on the network is no remedy"
    with pytest.raises(CheckpointError, match="network file system"):
        lock.RunLock(tmp_path / "ck", "r1").acquire()


def test_where_segments_would_not_be_safe_nothing_is_stored(folder, monkeypatch):
    """A mount that cannot sync, or creates a file twice: refused before the first record."""
    for lacking, words in (("sync", "syncing a file"), ("exclusive", "exclusive creation")):
        works = dict.fromkeys(("maps", "locks", "exclusive", "rename", "sync", "listed"), True)
        works[lacking] = False
        found = Promises(**works)
        monkeypatch.setattr("tilevision.checkpoint.folder.try_out", lambda *_, f=found, **__: f)
        with (
            Checkpoint.open(folder) as checkpoint,
            pytest.raises(
                CheckpointError, match=f"safely: {words}.* does not work there.*checkpoint="
            ),
        ):
            checkpoint.commit({"a": SMALL})
    assert segments(folder) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"format": "tilevision checkpoint", "schema": 4, "store": "segments", "id": "1"}',
            "later",
        ),
        ('{"format": "tilevision checkpoint", "schema": 2, "store": "segments"}', "not written"),
        ('{"format": "tilevision checkpoint", "schema": 1, "store": "segments"}', "not written"),
        ('{"format": "another", "schema": 2, "store": "segments"}', "not written"),
        ("[]", "not written"),
    ],
)
def test_a_meta_file_that_is_not_ours_is_refused(folder, text, words):
    """As for a database: by whom it was written, and what to move away."""
    (folder / "meta.json").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        Checkpoint.open(folder)


def test_a_meta_file_that_cannot_be_read_is_not_called_missing(folder, monkeypatch):
    """The server is away, or the file may not be read: that is said, not that it was replaced."""
    plain = Path.read_bytes

    def away(path):
        if path.name == "meta.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(path)

    with Checkpoint.open(folder) as checkpoint:
        monkeypatch.setattr(Path, "read_bytes", away)
        for use in (lambda: checkpoint.commit({"a": SMALL}), lambda: Checkpoint.open(folder)):
            with pytest.raises(CheckpointError, match="Input/output error") as caught:
                use()
            assert "replaced" not in str(caught.value)
        monkeypatch.undo()
        checkpoint.commit({"a": SMALL})


def test_segments_without_their_meta_file_are_refused(folder, mounted):
    """A share that lost it is not quietly made anew."""
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"a": SMALL})
    (folder / "meta.json").unlink()
    mounted("nfs4")
    with pytest.raises(CheckpointCorrupt, match=r"segments but no meta.json.*Move .*segments"):
        Checkpoint.open(folder)


def test_a_meta_file_that_is_being_written_is_waited_for(folder, monkeypatch):
    """It is created exclusively, and empty for a moment on other machines."""
    text = (folder / "meta.json").read_text()
    (folder / "meta.json").write_text("")
    plain = place.read_meta
    seen = []

    def late(path):
        seen.append(path)
        if len(seen) == 3:
            (folder / "meta.json").write_text(text)
        return plain(path)

    monkeypatch.setattr("tilevision.checkpoint.folder.read_meta", late)
    monkeypatch.setattr("tilevision.checkpoint.store.has_segments", lambda _: True)
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"a": SMALL})
    assert len(seen) >= 3


UNPRIVILEGED = """
import os, sys
from tilevision.checkpoint import Checkpoint, run_owner
from tilevision.errors import CheckpointError
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
with Checkpoint.open(sys.argv[1]) as checkpoint:
    assert dict(checkpoint.load(["a"])) == {"a": (b'{"boxes":[]}',)}
    assert run_owner(sys.argv[1], "r1") is not None
    try:
        checkpoint.commit({"b": (b"{}",)})
    except CheckpointError as error:
        print(error)
"""


def test_who_may_only_read_a_share_reads_it():
    """Records and owners are read without writing; a commit names the folder and why."""
    public = Path(tempfile.mkdtemp(prefix="public-"))
    try:
        folder = as_share(public / "ck")
        with Checkpoint.open(folder) as checkpoint, lock.RunLock(folder, "r1"):
            checkpoint.commit({"a": SMALL})
            for path in (public, *public.rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)
            command = [sys.executable, "-c", UNPRIVILEGED, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
            assert done.returncode == 0, done.stderr
            assert str(folder) in done.stdout and "Permission denied" in done.stdout
            for path in (public, *public.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
    finally:
        shutil.rmtree(public)


def test_many_records_are_found_when_their_segment_is_opened(folder):
    """Opening reads tables, not records; `benchmarks/shares.py` says how long that takes."""
    store = segmentstore.SegmentStore
    (folder / "segments").mkdir()
    data = segmentfile.pack(SMALL)
    with (folder / "segments" / "00000001-a-1-ff.seg").open("wb") as file:
        file.write(segmentfile.MAGIC)
        for start in range(0, 100_000, 16):
            keys = [segmentstore.digest(f"{n:064x}") for n in range(start, start + 16)]
            file.write(segmentfile.frame_of((key, 1.0, 1, data) for key in keys))
    opened = store(folder, lambda: None)
    asked = [f"{n:064x}" for n in range(100_001)]
    assert len(opened.done(asked)) == 100_000
    opened.close()


def test_messages_do_not_say_what_is_fine(folder, caplog):
    """Nothing is logged where nothing is wrong."""
    with caplog.at_level(logging.INFO), Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"a": SMALL})
        assert dict(checkpoint.load(["a"])) == {"a": SMALL}
    assert caplog.text == ""
