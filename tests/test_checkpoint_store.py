"""The checkpoint keeps what it is given, and only what it may keep."""

import os
import sqlite3
import stat
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from diskcache import Cache
from hypothesis import given, settings
from hypothesis import strategies as st
from shares import as_share, segments

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, database, prune_runs, store
from tilevision.checkpoint.database import open_cache
from tilevision.checkpoint.lock import RunLock
from tilevision.codec import RECORD_LIMIT, canonical_json, decode, encode
from tilevision.errors import CheckpointError, CheckpointTooLarge
from tilevision.events import Journal, journal_path
from tilevision.findings import Findings

SMALL = (b'{"boxes":[]}',)
FORMS = pytest.mark.parametrize("made", [lambda path: path, as_share], ids=["disk", "share"])


def spanning(count: int, fill: str = "y") -> tuple[bytes, ...]:
    return tuple(canonical_json({"n": n, "x": fill * 200_000}) for n in range(count))


@pytest.fixture(params=["disk", "share", "memory"])
def checkpoint(request, tmp_path):
    if request.param == "share":
        as_share(tmp_path / "ck")
    with (
        MemoryCheckpoint()
        if request.param == "memory"
        else Checkpoint.open(tmp_path / "ck") as opened
    ):
        yield opened


@pytest.fixture(params=["disk", "share"])
def folder(request, tmp_path):
    """A folder for a checkpoint that is kept, in either of its forms."""
    return as_share(tmp_path / "ck") if request.param == "share" else tmp_path / "ck"


def test_what_is_committed_is_done_and_loads_as_it_was(checkpoint):
    """Byte for byte, in the order asked, and nothing for keys that were never stored."""
    stored = {"a": (b'{"x":1}',), "b": spanning(3), "c": (b"[]",)}
    checkpoint.commit(stored)
    assert checkpoint.done(["c", "z", "a", "b"]) == {"a", "b", "c"}
    assert list(checkpoint.load(["c", "z", "b", "a"])) == [(k, stored[k]) for k in ("c", "b", "a")]
    assert checkpoint.done([]) == set() and list(checkpoint.load([])) == []


def test_many_keys_are_found_and_loaded(checkpoint):
    """More keys than one query takes, in one call."""
    stored = {f"{n:064d}": (b'{"n":%d}' % n,) for n in range(2500)}
    checkpoint.commit(stored)
    asked = [*stored, "missing"]
    assert checkpoint.done(asked) == set(stored)
    assert dict(checkpoint.load(asked)) == stored


def test_small_and_large_records_are_loaded_in_the_order_asked_for(checkpoint):
    """However many are read at once: empty tiles by the thousand, then some of 200 KB each."""
    empty, full = (b'{"boxes":[]}',), (b'["%s"]' % (b"x" * 200_000),)
    entries = {f"k{n}": full if n > 3000 or n == 7 else empty for n in range(3010)}
    entries["k8"] = (*full, *empty)
    checkpoint.commit(entries)
    asked = list(reversed(entries))
    assert list(checkpoint.load(asked)) == [(key, entries[key]) for key in asked]


def test_a_crowded_tile_takes_64_records(checkpoint):
    """The most a tile may have is kept whole: 64 records of just under 256 KiB."""
    record = canonical_json("é" * 120_000)
    records = tuple(b'{"x":%s}' % record for _ in range(64))
    checkpoint.commit({"a": records})
    assert dict(checkpoint.load(["a"])) == {"a": records}


def test_replacing_leaves_nothing_of_the_old(checkpoint):
    """Recomputing a tile replaces all of its records, be they fewer or more than before."""
    for count in (3, 1, 2, 5, 1):
        checkpoint.commit({"a": spanning(count, "abcde"[count - 1])})
        assert dict(checkpoint.load(["a"])) == {"a": spanning(count, "abcde"[count - 1])}
    assert checkpoint.delete(["a", "never"]) == 1
    assert checkpoint.done(["a", "a/1", "a/2", "a/4"]) == set()


records = st.lists(
    st.dictionaries(st.text("abü\n\x00\u2028", max_size=3), st.integers(), max_size=3).map(
        canonical_json
    ),
    min_size=1,
    max_size=4,
).map(tuple)
keys = st.sampled_from(["k0", "k1", "k2", "k3"])
steps = st.one_of(
    st.tuples(st.just("commit"), st.dictionaries(keys, records, max_size=3)),
    st.tuples(st.just("delete"), st.lists(keys, max_size=3)),
    st.tuples(st.just("reopen"), st.none()),
)


@FORMS
@settings(max_examples=12, deadline=None)
@given(story=st.lists(steps, max_size=6))
def test_disk_and_memory_agree_whatever_is_done(tmp_path_factory, made, story):
    """Commits, deletions and reopenings in any order leave what a dict would hold."""
    folder = made(tmp_path_factory.mktemp("story") / "ck")
    disk, memory = Checkpoint.open(folder), MemoryCheckpoint()
    for action, argument in story:
        if action == "reopen":
            disk.close()
            disk = Checkpoint.open(folder)
        else:
            assert getattr(disk, action)(argument) == getattr(memory, action)(argument)
        asked = ["k3", "k0", "k2", "k1"]
        assert list(disk.load(asked)) == list(memory.load(asked))
        assert disk.done(asked) == memory.done(asked)
    disk.close()


def test_the_same_findings_are_the_same_bytes(folder):
    """Findings in any order of rows are stored, reopened and read back identically."""
    random = np.random.default_rng(3)
    corner = random.uniform(0, 600, (500, 2))
    boxes = np.hstack([corner, corner + random.uniform(1, 40, (500, 2))])
    scores, order = random.uniform(0, 1, 500), random.permutation(500)
    once = encode(Findings(boxes, scores, labels=["cell"] * 500))
    again = encode(Findings(boxes[order], scores[order], labels=["cell"] * 500))
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"once": once, "again": again})
    with Checkpoint.open(folder) as checkpoint:
        loaded = dict(checkpoint.load(["once", "again"]))
    assert loaded["once"] == loaded["again"] == once
    assert encode(decode(loaded["once"])) == once


@pytest.mark.parametrize(
    "bad",
    [
        (),
        (b"",),
        ("{}",),
        (bytearray(b"{}"),),
        (b"{}", b"\x89PNG\r\n\x1a\n" + b"\x00" * 50),
        (b"\xff\xd8\xff\xe0 jpeg }",),
        (b'{"a":1',),
        (b'{"a":\n1}',),
        (b'{"a":"\xff"}',),
        (b"12",),
    ],
)
def test_only_canonical_json_is_stored(checkpoint, bad):
    """Image bytes, text, pretty-printed or cut JSON: refused, and nothing of the batch stored."""
    with pytest.raises(CheckpointError):
        checkpoint.commit({"good": SMALL, "bad": bad})
    assert checkpoint.done(["good", "bad"]) == set()


def test_no_record_passes_the_limit(checkpoint):
    """256 KiB of UTF-8 is the most a record holds: exactly that is stored, a byte more never."""
    most = b'{"x":"' + b"y" * (RECORD_LIMIT - 8) + b'"}'
    assert len(most) == RECORD_LIMIT
    checkpoint.commit({"most": (most,)})
    with pytest.raises(CheckpointTooLarge, match=r"262,145.*262,144.*smaller tiles"):
        checkpoint.commit({"good": SMALL, "more": (most[:-2] + b'y"}',)})
    with pytest.raises(CheckpointTooLarge):
        checkpoint.put_json("stage", {"text": "é" * (RECORD_LIMIT // 2)})
    assert checkpoint.done(["most", "good", "more", "stage"]) == {"most"}


def test_records_of_stages(checkpoint):
    """What moderation and synthesis made is kept by key, as plain JSON."""
    verdict = {"decision": "proceed", "notes": ["ü", 1, 2.5, None, True]}
    assert checkpoint.get_json("k") is None
    checkpoint.put_json("k", verdict)
    assert checkpoint.get_json("k") == verdict


def test_store_times_tell_when_work_was_computed(checkpoint):
    """A summary can say from when the restored tiles are."""
    before = time.time()
    checkpoint.commit({"a": SMALL})
    times = checkpoint.stored_at(["a", "z"])
    assert set(times) == {"a"} and before - 1 <= times["a"] <= time.time() + 1


def test_pruning_forgets_the_old_and_keeps_the_new(checkpoint):
    """Only what was stored before the moment given goes, spanning records whole."""
    checkpoint.commit({"old": spanning(3), "older": SMALL})
    moment = max(checkpoint.stored_at(["old", "older"]).values()) + 1e-6
    while time.time() <= moment:
        time.sleep(0.001)
    checkpoint.commit({"new": spanning(2)})
    assert checkpoint.prune(moment) == 2
    assert checkpoint.done(["old", "old/1", "older", "new"]) == {"new"}
    assert dict(checkpoint.load(["new"])) == {"new": spanning(2)}


def test_pruning_gives_the_space_back(tmp_path):
    """The database file shrinks."""
    with Checkpoint.open(tmp_path / "ck") as checkpoint:
        checkpoint.commit({f"{n}": spanning(1) for n in range(30)})
    database = tmp_path / "ck" / "cache" / "cache.db"
    before = database.stat().st_size
    with Checkpoint.open(tmp_path / "ck") as checkpoint:
        assert checkpoint.prune(time.time() + 1) == 30
    assert before > 6_000_000 and database.stat().st_size < before / 10


def test_pruning_a_share_gives_the_space_back(tmp_path):
    """What is still in use moves into a new file; a deletion stays while an older file needs it."""
    folder = as_share(tmp_path / "ck")
    for name in ("old", "new", "more"):
        with Checkpoint.open(folder) as checkpoint:
            checkpoint.commit({f"{name}{n}": tuple(spanning(1, chr(97 + n))) for n in range(9)})
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"noise": (canonical_json({"x": os.urandom(60_000).hex()}),)})
        kept = checkpoint.load([f"old{n}" for n in range(2)])
        before = dict(kept), sum(path.stat().st_size for path in segments(folder))
        assert checkpoint.delete(["noise", *(f"old{n}" for n in range(2, 9))]) == 8
        assert checkpoint.prune(0.0) == 0
        assert dict(checkpoint.load([f"old{n}" for n in range(9)])) == before[0]
    assert sum(path.stat().st_size for path in segments(folder)) < before[1] - 50_000
    with Checkpoint.open(folder) as checkpoint:
        assert dict(checkpoint.load([f"old{n}" for n in range(9)])) == before[0]
        assert checkpoint.done([*(f"new{n}" for n in range(9)), "noise"]) == {
            f"new{n}" for n in range(9)
        }
        assert checkpoint.prune(time.time() + 1) == 20
    assert sum(path.stat().st_size for path in segments(folder)) < 4000


def test_pruning_a_share_removes_no_file_while_a_run_is_at_work(tmp_path):
    """Another machine may be appending to any of them: what is old goes, the files stay."""
    folder = as_share(tmp_path / "ck")
    with Checkpoint.open(folder) as checkpoint, RunLock(folder, "r1"):
        checkpoint.commit({"a": SMALL})
        with Checkpoint.open(folder) as other:
            assert other.prune(time.time() + 1) == 1
        checkpoint.commit({"b": SMALL})
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.done(["a", "b"]) == {"b"}


def test_pruning_runs_spares_those_at_work(tmp_path):
    """Old journals go with their locks; recent ones and the locked stay."""
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("old", "busy", "new"):
        (runs / f"{name}.jsonl").write_text("{}")
        if name != "new":
            os.utime(runs / f"{name}.jsonl", (1000, 1000))
    with RunLock(tmp_path, "busy"):
        assert prune_runs(tmp_path, time.time() - 100) == ["old"]
    assert {path.name for path in runs.iterdir()} == {"busy.jsonl", "busy.lock", "new.jsonl"}
    assert prune_runs(tmp_path / "none", time.time()) == []


def test_pruning_runs_on_a_share_spares_those_at_work(tmp_path):
    """Old journals go with their leases and the journals of later owners."""
    folder = as_share(tmp_path / "ck")
    for name in ("old", "busy", "new"):
        for _ in range(2):
            with RunLock(folder, name) as lock:
                Journal.begin(journal_path(folder, name), {"id": name}, lock.epoch).close()
        if name != "new":
            for path in (folder / "runs").rglob("*.jsonl"):
                os.utime(path, (1000, 1000))
    os.utime(journal_path(folder, "new"), (1000, 1000))
    with RunLock(folder, "busy"):
        assert prune_runs(folder, time.time() - 100) == ["old"]
    left = {path.name for path in (folder / "runs").iterdir()}
    assert left == {"busy.jsonl", "busy.lease", "new.jsonl", "new.lease"}


def test_a_fingerprint_is_remembered_until_the_file_changes(tmp_path, folder):
    """A 40 GB slide is read once: size, time and inode tell whether it is still the same."""
    image = tmp_path / "slide.svs"
    image.write_bytes(b"one")
    os.utime(image, (1_000_000, 1_000_000))
    read = []

    def compute(path):
        read.append(path)
        return f"content {(tmp_path / path).read_bytes()!r}"

    with Checkpoint.open(folder) as checkpoint:
        first = checkpoint.file_fingerprint(str(image), compute)
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.file_fingerprint(str(image), compute) == first
        assert len(read) == 1
        image.write_bytes(b"two")
        os.utime(image, (1_000_000, 1_000_001))
        assert checkpoint.file_fingerprint(str(image), compute) != first
        replacement = tmp_path / "other"
        replacement.write_bytes(b"six")
        os.utime(replacement, (1_000_000, 1_000_001))
        replacement.replace(image)  # same size and time, another inode
        assert "six" in checkpoint.file_fingerprint(str(image), compute)


def test_a_file_just_written_is_read_again(tmp_path, folder):
    """It may change once more within the same tick of its clock, unseen."""
    image = tmp_path / "new.png"
    image.write_bytes(b"one")
    answers = iter(["first", "second"])
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.file_fingerprint(str(image), lambda _: next(answers)) == "first"
        assert checkpoint.file_fingerprint(str(image), lambda _: next(answers)) == "second"


def test_the_folder_is_the_owners_alone_and_hidden_from_git(tmp_path):
    """Findings may be patients' data: 0700, and no commit picks them up by accident."""
    folder = tmp_path / "deep" / "ck"
    Checkpoint.open(folder).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"
    assert {path.name for path in folder.iterdir()} >= {"cache", "meta.json"}


def test_a_folder_with_the_users_files_is_not_hidden_from_git(tmp_path):
    """A checkpoint put among other files must not make git overlook those."""
    (tmp_path / "thesis.tex").write_text("mine")
    with Checkpoint.open(tmp_path) as checkpoint:
        checkpoint.commit({"a": SMALL})
    assert not (tmp_path / ".gitignore").exists()


def test_every_connection_syncs_and_nothing_is_evicted(tmp_path):
    """Each thread's connection writes to the disk before it answers; size is no reason to drop."""
    found, pragmas = [], ("synchronous", "journal_mode", "mmap_size")
    with Checkpoint.open(tmp_path / "ck") as checkpoint:

        def look():
            checkpoint.commit({f"{threading.get_ident()}": SMALL})
            cache = checkpoint._cache
            values = [cache._sql(f"PRAGMA {name}").fetchall()[0][0] for name in pragmas]
            found.append((*values, cache.eviction_policy, cache.cull_limit))

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
            thread.join()
        look()
    assert found == [(2, "wal", 0, "none", 0)] * 3


def test_a_database_is_as_diskcache_makes_it_and_opened_without_a_write(tmp_path):
    """It is built without waiting for the disk, and synced once it is whole."""
    database.create(tmp_path / "ours")
    Cache(str(tmp_path / "theirs"), disk=database.RecordDisk, **database.SETTINGS).close()
    ours, theirs = (_described(tmp_path / name) for name in ("ours", "theirs"))
    assert ours == theirs
    before = (tmp_path / "ours" / "cache.db").read_bytes()
    with closing(open_cache(tmp_path / "ours")):
        log = tmp_path / "ours" / "cache.db-wal"
        assert not log.exists() or log.stat().st_size == 0
    assert (tmp_path / "ours" / "cache.db").read_bytes() == before


def test_a_setting_that_differs_is_stored_when_the_database_is_opened(tmp_path):
    """What is left out is only what is stored already: the value, and its type."""
    database.create(tmp_path / "ours")
    for other in (5, 0.0, "0"):
        with closing(sqlite3.connect(tmp_path / "ours" / "cache.db")) as connection, connection:
            connection.execute("UPDATE Settings SET value = ? WHERE key = 'cull_limit'", (other,))
        open_cache(tmp_path / "ours").close()
        assert _described(tmp_path / "ours")[1]["cull_limit"] == ("int", 0)


def _described(directory):
    with closing(database.connect(directory)) as connection:
        pragmas = [
            connection.execute(f"PRAGMA {name}").fetchone()
            for name in ("journal_mode", "auto_vacuum", "page_size")
        ]
        rows = connection.execute("SELECT key, value FROM Settings").fetchall()
        settings = {key: (type(value).__name__, value) for key, value in rows}
        schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
        return pragmas, settings, sorted(schema.fetchall(), key=str)


def test_past_a_gigabyte_nothing_is_dropped(tmp_path):
    """The size by which diskcache would evict is told to be huge, and stays so when reopened."""
    for _ in range(2):
        with Checkpoint.open(tmp_path / "ck") as checkpoint:
            checkpoint.commit({"a": SMALL})
            assert checkpoint._cache.size_limit > 2**60


def test_threads_may_commit_at_once(folder):
    """Writers wait for each other; none is lost."""
    with Checkpoint.open(folder) as checkpoint:

        def work(name):
            for number in range(20):
                checkpoint.commit({f"{name}-{number}": SMALL})

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = {f"{name}-{number}" for name in "abcd" for number in range(20)}
        assert checkpoint.done(expected) == expected


@pytest.mark.parametrize("records", [SMALL, SMALL * 2], ids=["one", "several"])
def test_a_batch_is_stored_whole_or_not_at_all(tmp_path, monkeypatch, records):
    """A failure in the middle of a transaction leaves nothing of it, and the next one works.

    Keys with one record are stored together, those with several one by one.
    """
    with Checkpoint.open(tmp_path / "ck") as checkpoint:
        checkpoint.commit({"before": SMALL})
        inner, calls = checkpoint._cache.set, []

        def interrupted(*args, **kwargs):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return inner(*args, **kwargs)

        def breaking_off(cache, entries):
            database.insert(cache, entries[:3])
            if len(entries) > 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(checkpoint._cache, "set", interrupted)
            patched.setattr(store, "insert", breaking_off)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.commit({f"{n}": records for n in range(5)})
        assert checkpoint.done(["before", *"01234"]) == {"before"}
        checkpoint.commit({f"{n}": records for n in range(5)})
        assert checkpoint.done(["before", *"01234"]) == {"before", *"01234"}


def test_records_stored_together_are_as_those_stored_one_by_one(tmp_path):
    """New records, which go past diskcache's own `set`, leave rows like its own.

    The oracle is diskcache: the same records, written with its public method.
    """
    rows = {}
    for name in ("together", "alone"):
        with Checkpoint.open(tmp_path / name) as checkpoint:
            records = {f"{n}": (b'{"boxes":[%d]}' % n,) for n in range(4)}
            checkpoint.commit(records)
        if name == "alone":
            with open_cache(tmp_path / name / "cache") as cache:
                for key, (record,) in records.items():
                    _, tag = cache.get(key, tag=True)
                    assert cache.delete(key)
                    cache.set(key, record, tag=tag)
        with closing(sqlite3.connect(tmp_path / name / "cache" / "cache.db")) as connection:
            columns = "key, raw, expire_time, access_count, tag, size, mode, filename, value"
            found = connection.execute(f"SELECT {columns} FROM Cache ORDER BY key").fetchall()
            counted = connection.execute("SELECT value FROM Settings WHERE key = 'count'")
            rows[name] = found, counted.fetchall()
    assert rows["together"] == rows["alone"] and len(rows["alone"][0]) == 4


def test_a_transaction_that_was_left_open_does_not_swallow_the_next(tmp_path, monkeypatch):
    """Interrupted between BEGIN and its bookkeeping: the next commit is whole, and on the disk."""
    with Checkpoint.open(tmp_path / "ck") as checkpoint:
        checkpoint.commit({"before": SMALL})

        def interrupted():
            checkpoint._cache._sql("BEGIN IMMEDIATE")
            checkpoint._cache._txn_id = threading.get_ident()
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint._cache, "transact", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.commit({"lost": SMALL})
        monkeypatch.undo()
        checkpoint.commit({"after": SMALL})
        with Checkpoint.open(tmp_path / "ck") as other:
            assert other.done(["before", "lost", "after"]) == {"before", "after"}


@FORMS
def test_a_checkpoint_moved_away_takes_no_commit_that_would_be_lost(tmp_path, made):
    """An open file can be written to without a name; back in place, it goes on."""
    folder = made(tmp_path / "ck")
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"a": SMALL})
        (tmp_path / "ck").rename(tmp_path / "away")
        with pytest.raises(CheckpointError, match="removed or replaced"):
            checkpoint.commit({"b": SMALL})
        Checkpoint.open(made(folder)).close()
        with pytest.raises(CheckpointError, match="removed or replaced"):
            checkpoint.commit({"b": SMALL})
        (tmp_path / "ck").rename(tmp_path / "other")
        (tmp_path / "away").rename(tmp_path / "ck")
        checkpoint.commit({"b": SMALL})
        assert checkpoint.done(["a", "b"]) == {"a", "b"}


def test_a_closed_checkpoint_says_so(folder):
    """Use after close is one clear error, never a silent reopening."""
    checkpoint = Checkpoint.open(folder)
    checkpoint.close()
    checkpoint.close()
    for use in (
        lambda: checkpoint.commit({"a": SMALL}),
        lambda: checkpoint.done(["a"]),
        lambda: list(checkpoint.load(["a"])),
    ):
        with pytest.raises(CheckpointError, match="closed"):
            use()


def test_readers_do_not_hold_the_log_of_writes_back(tmp_path):
    """A load that is not read to its end leaves no reader open: the log stays small."""
    with Checkpoint.open(tmp_path / "ck") as checkpoint:
        checkpoint.commit({f"{n}": SMALL for n in range(500)})
        half_read = checkpoint.load([f"{n}" for n in range(500)])
        next(half_read)
        for number in range(60):
            checkpoint.commit({f"more{number}": spanning(1)})
        log = tmp_path / "ck" / "cache" / "cache.db-wal"
        assert log.stat().st_size < 6_000_000
        next(half_read)


def test_the_database_is_plain_sqlite(tmp_path):
    """Other tools can read a record: key, and JSON as it was stored."""
    with Checkpoint.open(tmp_path / "ck") as checkpoint:
        checkpoint.commit({"a": SMALL})
    connection = sqlite3.connect(tmp_path / "ck" / "cache" / "cache.db")
    assert connection.execute("SELECT key, value FROM Cache").fetchall() == [("a", SMALL[0])]
    connection.close()
