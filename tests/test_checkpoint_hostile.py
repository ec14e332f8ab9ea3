"""A checkpoint may come with a download: nothing in it is run, and damage is said, not guessed."""

import json
import os
import pickle
import shutil
import sqlite3
from contextlib import closing

import diskcache
import pytest

from tilevision.checkpoint import Checkpoint
from tilevision.errors import CheckpointCorrupt, CheckpointError

SMALL = (b'{"boxes":[]}',)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tmp_path):
    """A real checkpoint with two records, closed."""
    with Checkpoint.open(tmp_path / "ck") as checkpoint:
        checkpoint.commit({"a": SMALL, "b": SMALL})
    return tmp_path / "ck"


def alter(folder, *statements):
    """Change the database as anybody can who has SQLite."""
    with closing(sqlite3.connect(folder / "cache" / "cache.db")) as connection:
        for statement, *values in statements:
            connection.execute(statement, values)
        connection.commit()


def open_and_use(folder):
    with Checkpoint.open(folder) as checkpoint:
        list(checkpoint.load(["a", "b"]))
        checkpoint.commit({"a": SMALL, "c": SMALL})
        checkpoint.delete(["b"])
        checkpoint.prune(1e12)


def test_an_unharmed_checkpoint_passes(folder):
    """The checks below fail on what was changed, not on what we write."""
    open_and_use(folder)


def test_a_pickled_value_is_refused_unread(folder, tmp_path):
    """Plain diskcache runs it; the checkpoint names the record and runs nothing."""
    mark = tmp_path / "mark"
    value = pickle.dumps(Bomb(mark))
    alter(folder, ("UPDATE Cache SET mode = 4, value = ? WHERE key = 'a'", value))
    with Checkpoint.open(folder) as checkpoint:
        for use in (
            lambda: list(checkpoint.load(["a"])),
            lambda: checkpoint.get_json("a"),
            lambda: checkpoint.commit({"a": SMALL}),
            lambda: checkpoint.delete(["a"]),
        ):
            with pytest.raises(CheckpointCorrupt, match=r"ck.*Move .*cache.* away"):
                use()
        assert not mark.exists()
        assert dict(checkpoint.load(["b"])) == {"b": SMALL}
    with diskcache.Cache(folder / "cache") as plain:
        plain["a"]
    assert mark.exists(), "the bomb must be live for this test to mean anything"


def test_a_pickled_key_is_never_looked_at(folder, tmp_path):
    """A row whose key is pickled is not ours; whatever we do, it is not unpickled."""
    mark = tmp_path / "mark"
    row = (pickle.dumps(Bomb(mark)), pickle.dumps(Bomb(mark)))
    query = "INSERT INTO Cache (key, raw, store_time, tag, mode, value) VALUES (?, 0, 1, '1', 4, ?)"
    alter(folder, (query, *row))
    open_and_use(folder)
    assert not mark.exists()


def test_a_file_row_neither_reads_nor_removes_a_file(folder, tmp_path):
    """A row may name any file of the user's; it is not read, and deleting spares it."""
    secret = tmp_path / "secret.json"
    secret.write_bytes(SMALL[0])
    for mode in (2, 3):
        query = "UPDATE Cache SET mode = ?, filename = ?, value = NULL WHERE key = 'a'"
        alter(folder, (query, mode, "../../secret.json"))
        with Checkpoint.open(folder) as checkpoint:
            with pytest.raises(CheckpointCorrupt):
                list(checkpoint.load(["a"]))
            with pytest.raises(CheckpointCorrupt):
                checkpoint.delete(["a"])
    alter(folder, ("UPDATE Cache SET mode = 1, value = x'7b7d' WHERE key = 'a'",))
    with Checkpoint.open(folder) as checkpoint, pytest.raises(CheckpointCorrupt):
        checkpoint.delete(["a"])
    assert secret.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END",
        "CREATE TRIGGER evil AFTER UPDATE ON Settings BEGIN DELETE FROM Cache; END",
        "CREATE VIEW evil AS SELECT load_extension('evil.so')",
        "CREATE TABLE evil (x)",
        "CREATE INDEX evil ON Cache (value)",
        "DROP TRIGGER Settings_count_insert",
        "DROP INDEX Cache_key_raw",
        "ALTER TABLE Cache ADD COLUMN evil AS (length(value))",
        "DROP TABLE Settings",
        "UPDATE Settings SET value = 'least-recently-used' WHERE key = 'eviction_policy'",
        "UPDATE Settings SET value = 10 WHERE key = 'cull_limit'",
        "UPDATE Settings SET value = 1 WHERE key = 'size_limit'",
        "UPDATE Settings SET value = '0; ATTACH ''/tmp/evil'' AS evil' "
        "WHERE key = 'sqlite_mmap_size'",
        "UPDATE Settings SET value = '2' WHERE key = 'sqlite_synchronous'",
        "UPDATE Settings SET value = 0 WHERE key = 'sqlite_synchronous'",
        "UPDATE Settings SET value = 'many' WHERE key = 'count'",
        "DELETE FROM Settings WHERE key = 'size'",
        "INSERT INTO Settings VALUES ('disk_evil', 1)",
        "INSERT INTO Settings VALUES ('disk_directory', '/etc')",
        "INSERT INTO Settings VALUES ('sqlite_writable_schema', 1)",
        "INSERT INTO Settings VALUES ('_disk', 1)",
        "INSERT INTO Settings VALUES (x'00', 1)",
    ],
)
def test_any_other_schema_or_setting_is_refused_before_it_is_opened(folder, statement):
    """Triggers, views, columns, settings: exactly ours, or one error and not a byte changed."""
    alter(folder, (statement,))
    database = folder / "cache" / "cache.db"
    before = database.read_bytes()
    with pytest.raises(CheckpointCorrupt, match=r"ck cannot be trusted.*Move .*cache.* away"):
        Checkpoint.open(folder)
    assert database.read_bytes() == before


def test_settings_that_are_a_view_are_not_evaluated(folder):
    """A view in the table's place could compute for ever, so the schema is compared first."""
    endless = (
        "CREATE VIEW Settings (key, value) AS WITH RECURSIVE n (i) AS "
        "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'x', i FROM n"
    )
    alter(folder, ("DROP TABLE Settings",), (endless,))
    with pytest.raises(CheckpointCorrupt):
        Checkpoint.open(folder)


def test_the_advice_of_the_error_helps(folder):
    """Moving the named files away is enough: the next run starts with an empty checkpoint."""
    alter(folder, ("CREATE TABLE evil (x)",))
    (folder / "runs").mkdir()
    (folder / "runs" / "r1.jsonl").write_text("history")
    with pytest.raises(CheckpointCorrupt):
        Checkpoint.open(folder)
    for name in ("cache", "meta.json"):
        (folder / name).rename(folder / f"{name}.moved")
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.done(["a"]) == set()
    assert (folder / "runs" / "r1.jsonl").read_text() == "history"


@pytest.mark.parametrize("damage", ["zeroed", "text", "empty", "cut", "scrambled"])
def test_a_damaged_database_is_one_clear_error(folder, damage):
    """Zeros, text, nothing, half a file or scrambled pages: never a traceback of SQLite's."""
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({f"{n}": (b'{"x":"%s"}' % (b"y" * 5000),) for n in range(200)})
    database = folder / "cache" / "cache.db"
    whole = database.read_bytes()
    half = len(whole) // 2
    database.write_bytes(
        {
            "zeroed": b"\x00" * len(whole),
            "text": b"not a database, but long enough to look like a file of one " * 100,
            "empty": b"",
            "cut": whole[:half],
            "scrambled": whole[:8192] + bytes(reversed(whole[8192:])),
        }[damage]
    )
    with pytest.raises(CheckpointCorrupt, match=r"ck.*(Move|damaged).*away, then run it again"):
        open_and_load(folder)


def open_and_load(folder):
    with Checkpoint.open(folder) as checkpoint:
        list(checkpoint.load([f"{n}" for n in range(200)]))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE Cache SET value = x'7b7d' WHERE key = 'a'",
        "UPDATE Cache SET value = '{\"boxes\":[]}' WHERE key = 'a'",
        "UPDATE Cache SET value = NULL WHERE key = 'a'",
        "UPDATE Cache SET tag = NULL WHERE key = 'a'",
        "UPDATE Cache SET tag = '99999999999 0' WHERE key = 'a'",
        "UPDATE Cache SET tag = '2 ' || substr(tag, 3) WHERE key = 'a'",
        "UPDATE Cache SET value = zeroblob(30000000) WHERE key = 'a'",
    ],
)
def test_a_record_that_is_not_as_it_was_stored_is_named(folder, statement):
    """Bits rot and people edit: a checksum tells, and no wrong count goes into a result."""
    alter(folder, (statement,))
    with Checkpoint.open(folder) as checkpoint:
        with pytest.raises(CheckpointCorrupt, match="The record a is damaged"):
            list(checkpoint.load(["a"]))
        assert dict(checkpoint.load(["b"])) == {"b": SMALL}


def test_a_missing_part_of_a_spanning_record_is_damage(folder):
    """A tile restored with half of its detections would be worse than none."""
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.commit({"long": (b'{"n":1}', b'{"n":2}', b'{"n":3}')})
    alter(folder, ("DELETE FROM Cache WHERE key = 'long/1'",))
    with Checkpoint.open(folder) as checkpoint, pytest.raises(CheckpointCorrupt, match="long"):
        list(checkpoint.load(["long"]))


def test_a_newer_checkpoint_is_refused_untouched(folder):
    """What a later version wrote is neither misread nor changed: update, or another folder."""
    meta = folder / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "schema": 999}))
    with pytest.raises(CheckpointError, match=r"later tilevision \(schema 999.*Update") as caught:
        Checkpoint.open(folder)
    assert not isinstance(caught.value, CheckpointCorrupt)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": "other", "schema": 1}',
        '{"format": "tilevision checkpoint", "schema": "1"}',
        '{"format": "tilevision checkpoint", "schema": true}',
        '{"format": "tilevision checkpoint", "schema": 0}',
        "[" * 60_000,
    ],
)
def test_a_foreign_meta_file_is_refused(folder, content):
    """A folder of another program's is not taken over."""
    (folder / "meta.json").write_text(content)
    with pytest.raises(CheckpointCorrupt, match=r"meta\.json was not written by tilevision"):
        Checkpoint.open(folder)


def test_parts_that_are_missing_are_named(folder):
    """A cache without its version, or a version without its cache's database."""
    (folder / "meta.json").rename(folder / "meta.away")
    with pytest.raises(CheckpointCorrupt, match=r"no meta\.json"):
        Checkpoint.open(folder)
    (folder / "meta.away").rename(folder / "meta.json")
    (folder / "cache" / "cache.db").unlink()
    with pytest.raises(CheckpointCorrupt, match=r"cache\.db is missing"):
        Checkpoint.open(folder)


def test_a_database_that_is_a_link_or_a_pipe_is_refused(folder, tmp_path):
    """A link could lead to another program's database, a pipe would wait for ever."""
    database = folder / "cache" / "cache.db"
    other = tmp_path / "other.db"
    shutil.move(database, other)
    database.symlink_to(other)
    with pytest.raises(CheckpointCorrupt, match="not a plain file"):
        Checkpoint.open(folder)
    database.unlink()
    os.mkfifo(database)
    with pytest.raises(CheckpointCorrupt, match="not a plain file"):
        Checkpoint.open(folder)
