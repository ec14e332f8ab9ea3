"""Arrays beside a checkpoint: written once, before their record; damage costs a tile, never more.

The rules are those of the project's own design for arrays as results. Both forms of a checkpoint
are held to them: the database of a local disk, and the segments of a share.
"""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from shares import as_share

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, payloadstore, segmentfile
from tilevision.checkpoint.payloadstore import PayloadStore
from tilevision.codec import decode, encode
from tilevision.errors import CheckpointCorrupt, CheckpointError
from tilevision.findings import Findings
from tilevision.payloads import PayloadRef, array_record, arrays_of, bytes_of, packed, unpack

EMPTY = encode(Findings())


def vector(number, width=40):
    """Numbers that no other vector has."""
    return np.random.default_rng(number).normal(size=width).astype(np.float16)


def stored(number):
    """The key, the records and the arrays of a tile."""
    ref, raw = bytes_of(vector(number))
    return f"{number:064x}", (*EMPTY, array_record({"embedding": ref})), {ref.digest: raw}


def put(checkpoint, numbers):
    records, payloads = {}, {}
    for key, rows, arrays in map(stored, numbers):
        records[key] = rows
        payloads |= arrays
    checkpoint.commit(records, payloads)


def packs(folder):
    return sorted((Path(folder) / "payloads").glob("*.seg"))


def refs(numbers):
    return [bytes_of(vector(number))[0] for number in numbers]


def read(store, numbers):
    """What is stored of each number: its vector, or None where it is missing or damaged."""
    asked = refs(numbers)
    raw = [
        store.gather([ref.digest], ref.size) if good else None
        for ref, good in zip(asked, store.sound(asked), strict=True)
    ]
    return [None if one is None else one.view("<f2")[0] for one in raw]


def assert_all(store, numbers):
    """Every vector is there, as it was stored."""
    for number, found in zip(numbers, read(store, numbers), strict=True):
        np.testing.assert_array_equal(found, vector(number))


@pytest.fixture(params=["disk", "share"])
def folder(request, tmp_path):
    return as_share(tmp_path / "ck") if request.param == "share" else tmp_path / "ck"


def test_arrays_come_back_as_they_went(folder):
    """In this process, in the next, and after the checkpoint was closed: the same bytes."""
    with Checkpoint.open(folder) as checkpoint:
        put(checkpoint, range(3))
        put(checkpoint, range(3, 5))
        kept = checkpoint.payloads
    with Checkpoint.open(folder) as again:
        loaded = dict(again.load([stored(4)[0]]))
        assert decode(loaded[stored(4)[0]]) == Findings()
        assert arrays_of(loaded[stored(4)[0]]) == {"embedding": refs([4])[0]}
        assert_all(again.payloads, range(5))
    digests = [ref.digest for ref in refs([3, 0, 4])]
    together = kept.gather(digests, 80).view("<f2")
    np.testing.assert_array_equal(together, [vector(3), vector(0), vector(4)])
    assert sorted(kept.order(digests)) == [0, 1, 2]


def test_packed_arrays_are_unpacked_side_by_side(tmp_path, monkeypatch):
    """Two threads that read maps wait for each other's disk, not while the other unpacks."""
    maps = [np.full((1, 40, 40), number, np.uint8) for number in range(2)]
    asked = [bytes_of(one) for one in maps]
    both = threading.Barrier(2)

    def met(*given):
        both.wait(60)
        return unpack(*given)

    with Checkpoint.open(tmp_path / "ck") as checkpoint:
        checkpoint.payloads.add({ref.digest: packed(raw, 1) for ref, raw in asked})
        monkeypatch.setattr(payloadstore, "unpack", met)
        with ThreadPoolExecutor(2) as pool:
            gather = checkpoint.payloads.gather
            found = list(
                pool.map(lambda ref: gather([ref.digest], ref.size), [ref for ref, _ in asked])
            )
    for one, right in zip(found, maps, strict=True):
        np.testing.assert_array_equal(one[0], right.ravel())


def test_memory_keeps_arrays_as_a_folder_does():
    """Without a checkpoint the arrays of a run live as long as its result."""
    with MemoryCheckpoint() as checkpoint:
        put(checkpoint, range(3))
        kept = checkpoint.payloads
        assert kept.sound(refs(range(4))) == [True, True, True, False]
    np.testing.assert_array_equal(kept.gather([refs([2])[0].digest], 80).view("<f2")[0], vector(2))


def test_equal_arrays_are_stored_once(folder):
    """Also where the process that stored the first has gone."""
    with Checkpoint.open(folder) as checkpoint:
        put(checkpoint, [1, 2])
    (pack,) = packs(folder)
    size = pack.stat().st_size
    with Checkpoint.open(folder) as again:
        put(again, [2, 1])
    assert [one.stat().st_size for one in packs(folder)] == [size]


def test_two_writers_read_each_other(folder):
    """Each appends to files of its own; what one has stored, the other finds."""
    with Checkpoint.open(folder) as one, Checkpoint.open(folder) as two:
        put(one, [1])
        put(two, [2])
        put(one, [3])
        assert len(packs(folder)) == 2
        assert_all(one.payloads, [1, 2, 3])
        assert_all(two.payloads, [1, 2, 3])


def test_the_array_is_on_the_disk_before_its_record(folder, monkeypatch):
    """The file is synced, and only then the record is stored."""
    said = []
    sync = segmentfile._sync

    def syncing(file):
        sync(file)
        said.append(Path(f"/proc/self/fd/{file}").readlink().parent.name)

    with Checkpoint.open(folder) as checkpoint:
        monkeypatch.setattr(segmentfile, "_sync", syncing)
        kind = type(checkpoint)
        commit = kind._commit
        monkeypatch.setattr(
            kind, "_commit", lambda self, rows: (said.append("record"), commit(self, rows))
        )
        put(checkpoint, [1])
    assert said[:2] == ["payloads", "record"]


def test_what_was_cut_before_its_record_is_unused_and_found_again(folder, monkeypatch):
    """Dead between the array and the record: no tile is there, the array is written once."""

    def dies(*_):
        raise KeyboardInterrupt

    with Checkpoint.open(folder) as checkpoint:
        with monkeypatch.context() as patched:
            patched.setattr(type(checkpoint), "_commit", dies)
            with pytest.raises(KeyboardInterrupt):
                put(checkpoint, [1])
        assert checkpoint.done([stored(1)[0]]) == set()
    size = packs(folder)[0].stat().st_size
    with Checkpoint.open(folder) as again:
        put(again, [1])
        assert again.done([stored(1)[0]]) == {stored(1)[0]}
    assert [one.stat().st_size for one in packs(folder)] == [size]


def test_a_file_cut_anywhere_costs_what_was_cut(tmp_path):
    """At any length: an array is whole or missing, and later ones are stored in a new file."""
    store = PayloadStore(tmp_path)
    store.add(stored(0)[2])
    (pack,) = packs(tmp_path)
    first = pack.stat().st_size
    store.add(stored(1)[2] | stored(2)[2])
    store.close()
    whole = pack.read_bytes()
    for length in range(0, len(whole), 3):
        pack.write_bytes(whole[:length])
        found = read(PayloadStore(tmp_path), range(3))
        expected = [length >= first, False, False]
        assert [one is not None for one in found] == expected, length
    again = PayloadStore(tmp_path)
    again.add(stored(0)[2] | stored(1)[2] | stored(2)[2])
    again.close()
    assert_all(PayloadStore(tmp_path), range(3))


def test_a_changed_byte_gives_no_wrong_array(tmp_path):
    """Wherever it is: what is read is what was stored, or nothing."""
    store = PayloadStore(tmp_path)
    store.add(stored(0)[2] | stored(1)[2] | stored(2)[2])
    store.close()
    (pack,) = packs(tmp_path)
    whole = pack.read_bytes()
    for place in range(0, len(whole), 3):
        pack.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        for number, found in enumerate(read(PayloadStore(tmp_path), range(3))):
            assert found is None or (found == vector(number)).all(), place


def test_damage_is_said_once_and_mended_by_storing_it_again(folder, caplog):
    """Reading what is damaged is an error with the remedy; of two arrays the later one counts."""
    with Checkpoint.open(folder) as checkpoint:
        put(checkpoint, range(3))
    (pack,) = packs(folder)
    whole = pack.read_bytes()
    pack.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with Checkpoint.open(folder) as again:
        assert again.payloads.sound(refs(range(3))) == [True, True, False]
        assert [record.getMessage() for record in caplog.records] == [
            f"1 array(s) in {pack.parent} are damaged or missing; their tiles are computed again."
        ]
        with pytest.raises(CheckpointCorrupt, match="Run the analysis again"):
            again.payloads.gather([refs([2])[0].digest], 80)
        put(again, [2])
        assert_all(again.payloads, range(3))
    with Checkpoint.open(folder) as after:
        assert_all(after.payloads, range(3))


def test_a_reference_that_lies_is_refused(folder):
    """Another size than the file has is no array; one beyond all bounds is refused unread."""
    with Checkpoint.open(folder) as checkpoint:
        put(checkpoint, [1])
        (ref,) = refs([1])
        assert checkpoint.payloads.sound([PayloadRef(ref.digest, "float32", (40,))]) == [False]
    for told in (
        {"dtype": "float16", "sha256": "0" * 64, "shape": [10**12]},
        {"dtype": "object", "sha256": "0" * 64, "shape": [4]},
        {"dtype": "float16", "sha256": "0" * 63, "shape": [4]},
        {"dtype": "float16", "sha256": "0" * 64, "shape": [-4]},
    ):
        record = json.dumps({"payloads": {"embedding": told}}, separators=(",", ":")).encode()
        with pytest.raises((ValueError, KeyError, TypeError)):
            arrays_of((b"{}", record))


def test_a_release_without_arrays_runs_such_a_tile_again():
    """It takes each record of a tile for detections, and one without classes for none it knows."""
    ref, _ = bytes_of(vector(1))
    record = array_record({"embedding": ref})
    assert "classes" not in json.loads(record)
    assert ref.digest == hashlib.sha256(vector(1).tobytes()).digest()
    with pytest.raises(KeyError):
        decode((record,))  # how releases without arrays read each of a tile's records


def test_pruning_gives_back_what_no_record_refers_to(folder):
    """Old tiles go with their arrays; what a younger record refers to stays."""
    with Checkpoint.open(folder) as checkpoint:
        put(checkpoint, range(10))
    time.sleep(0.01)
    between = time.time()
    time.sleep(0.01)
    with Checkpoint.open(folder) as checkpoint:
        put(checkpoint, [10])
        key, records, _ = stored(0)
        checkpoint.commit({key: records})  # a younger record of an old array
        before = sum(pack.stat().st_size for pack in packs(folder))
        assert checkpoint.prune(between) == 9
        after = sum(pack.stat().st_size for pack in packs(folder))
        there = [one is not None for one in read(checkpoint.payloads, range(11))]
    assert there == [True] + [False] * 9 + [True]
    assert after < before / 3
    with Checkpoint.open(folder) as again:
        assert [one is not None for one in read(again.payloads, range(11))] == there
        assert_all(again.payloads, [0, 10])


def test_a_full_disk_says_one_line_and_keeps_what_it_has(folder, monkeypatch):
    """No array, no record, no file left over; once there is room, the same commit goes through."""
    write = os.write

    def full(file, data):
        if Path(f"/proc/self/fd/{file}").readlink().parent.name == "payloads":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    with Checkpoint.open(folder) as checkpoint:
        put(checkpoint, [1])
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            for _ in range(3):
                with pytest.raises(CheckpointError, match="cannot be written"):
                    put(checkpoint, [2])
        assert len(packs(folder)) == 1
        assert checkpoint.done([stored(1)[0], stored(2)[0]]) == {stored(1)[0]}
        put(checkpoint, [2])
        assert_all(checkpoint.payloads, [1, 2])


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_payloads import Checkpoint, put
with Checkpoint.open(sys.argv[2]) as checkpoint:
    for number in range(int(sys.argv[3]), 10**6, 4):
        put(checkpoint, range(number, number + 4))
        print(number, flush=True)
"""


@pytest.mark.slow
def test_kill_9_leaves_no_record_without_its_array(folder):
    """Whatever was acknowledged is there; whatever is there has its array, unchanged."""
    said = -4
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(folder), str(said + 4)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        first = int(process.stdout.readline())
        for _ in range(first % 7):
            process.stdout.readline()
        process.kill()
        lines = [int(line) for line in process.stdout.read().split()]
        process.wait()
        said = max([first, *lines])
        with Checkpoint.open(folder) as checkpoint:
            keys = {stored(number)[0]: number for number in range(said + 8)}
            done = {keys[key] for key in checkpoint.done(keys)}
            assert done >= set(range(said + 4))
            assert_all(checkpoint.payloads, list(done))
