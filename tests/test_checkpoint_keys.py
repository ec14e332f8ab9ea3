"""Keys: the same work has the same key everywhere, other work another."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision.checkpoint import stage_key, tile_key, tile_keys
from tilevision.errors import CheckpointError
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile

TILE = Tile(2, 3, Box(100, 200, 740, 840), 0.5)
OPTIONS = {"bands": (0, 1, 2), "dtype": "uint8", "stretch": ((0.0, 255.5),) * 3, "nodata": None}

words = st.text("abü\n\u2028", max_size=4)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=4,
)

SCRIPT = """
from tilevision.checkpoint import stage_key, tile_key
from tilevision.geometry import Box
from tilevision.grid import Tile
options = {"nodata": None, "stretch": ((0.0, 255.5),) * 3, "dtype": "uint8", "bands": (0, 1, 2)}
print(tile_key("source", options, Tile(2, 3, Box(100, 200, 740, 840), 0.5), "model"))
print(stage_key("moderation", {"a": {"x", "y"} and [1, 2.5], "b": "ü"}))
"""


@pytest.mark.slow
def test_keys_do_not_depend_on_process_or_hash_seed():
    """A restart finds what the last process stored; the order of a dict does not matter."""
    found = set()
    for seed in ("0", "1", "424242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", SCRIPT]
        found.add(subprocess.check_output(command, env=environment, text=True, timeout=200))
    here = tile_key("source", OPTIONS, TILE, "model")
    there = stage_key("moderation", {"b": "ü", "a": [1, 2.5]})
    assert found == {f"{here}\n{there}\n"}
    assert len(here) == 64


def test_a_stored_key_keeps_its_value():
    """A release that changes the spelling would silently recompute everybody's work."""
    assert (
        tile_key("source", OPTIONS, TILE, "model")
        == "10e9fdd232b8df797935dafb9ac7eee305fb1875253becb0b52a20fb47b3c3b4"
    )


@pytest.mark.parametrize(
    ("source", "options", "tile", "model"),
    [
        ("other", OPTIONS, TILE, "model"),
        ("source", {**OPTIONS, "bands": (0, 2, 1)}, TILE, "model"),
        ("source", {**OPTIONS, "nodata": 0}, TILE, "model"),
        ("source", {**OPTIONS, "nodata": float("nan")}, TILE, "model"),
        ("source", OPTIONS, Tile(2, 3, Box(101, 200, 740, 840), 0.5), "model"),
        ("source", OPTIONS, Tile(2, 3, Box(100, 200, 740, 840), 0.25), "model"),
        ("source", OPTIONS, TILE, "other"),
        ("model", OPTIONS, TILE, "source"),
    ],
)
def test_whatever_changes_the_work_changes_the_key(source, options, tile, model):
    """Another image, other bands or no-data, another box, scale or model: other work."""
    assert tile_key(source, options, tile, model) != tile_key("source", OPTIONS, TILE, "model")


def test_the_same_region_under_another_grid_is_the_same_work():
    """Row, column and id are for people; box and scale are the identity, however spelled."""
    here = tile_key("source", OPTIONS, TILE, "model")
    moved = Tile(0, 0, Box(100.0, np.int64(200), np.float64(740), 840), 0.5, "a000017")
    options = {**OPTIONS, "bands": np.array([0, 1, 2]), "stretch": [[0, 255.5]] * 3}
    assert tile_key("source", options, moved, "model") == here


@given(plain)
def test_equal_values_have_equal_keys(value):
    """A key is a function of the value: stable, and made for anything JSON-like."""
    key = stage_key("s", {"v": value})
    assert key == stage_key("s", {"v": value})
    assert key != stage_key("s", {"v": [value]})
    assert key != stage_key("t", {"v": value})


edges = st.integers(-(2**40), 2**40) | st.floats(-1e6, 1e6) | st.just(-0.0)


@given(st.tuples(edges, edges, edges, edges), st.floats(1e-3, 64))
def test_a_key_is_the_digest_of_plain_json(edge, scale):
    """Whatever makes keys quickly makes those that `json` and `hashlib` alone make."""
    shared = {"kind": "tile", "model": "model", "options": {}, "schema": 1, "source": "source"}
    digest = hashlib.sha256(json.dumps(shared, separators=(",", ":")).encode()).hexdigest()
    numbers = [int(value) if float(value).is_integer() else value for value in (*edge, scale)]
    text = json.dumps([digest, *numbers], separators=(",", ":"))
    key = tile_key("source", {}, Tile(0, 0, Box(*edge), scale), "model")
    assert key == hashlib.sha256(text.encode()).hexdigest()


def test_keys_of_many_tiles_are_those_of_each():
    """Bulk and single give the same keys; no two tiles of a grid share one."""
    tiles = Grid(rows=20, cols=30).tiles((3000, 2000))
    keys = tile_keys("source", OPTIONS, tiles, "model")
    assert keys == [tile_key("source", OPTIONS, tile, "model") for tile in tiles]
    assert len(set(keys)) == len(tiles)


@pytest.mark.parametrize("odd", [{1, 2}, object(), b"bytes", {1: 2}, "\ud800"])
def test_what_has_no_one_spelling_makes_no_key(odd):
    """Sets, objects and bytes are refused rather than spelled by chance."""
    with pytest.raises(CheckpointError, match=r"key (cannot hold|can be made)"):
        tile_key("source", {"odd": odd}, TILE, "model")
    with pytest.raises(CheckpointError, match=r"key (cannot hold|can be made)"):
        stage_key("s", {"odd": odd})
