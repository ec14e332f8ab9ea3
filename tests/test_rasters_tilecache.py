"""Decoded tiles that threads share: each decoded once, none overwritten while it is looked at."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tilevision.payloads import StoredArray, bytes_of
from tilevision.rasters import tilecache
from tilevision.rasters.tilecache import TileCache


class Store:
    """Arrays by digest, each filled with a number of its own; counts how often one is decoded."""

    def __init__(self, count: int, size: int) -> None:
        self.decoded: list[bytes] = []
        self.arrays = []
        self._bytes = {}
        for number in range(count):
            ref, raw = bytes_of(np.full((1, 1, size), number, np.uint8))
            self._bytes[ref.digest] = np.frombuffer(raw, np.uint8)
            self.arrays.append(StoredArray(ref, self))  # type: ignore[arg-type]  # as far as it is used

    def gather(self, digests: Any, size: int, out: Any = None) -> Any:
        """Return the bytes of one."""
        self.decoded += digests
        out = np.empty((1, size), np.uint8) if out is None else out
        out[0] = self._bytes[digests[0]]
        return out


def test_a_tile_that_two_threads_want_is_decoded_once() -> None:
    store, cache = Store(1, 64), TileCache()
    both = threading.Barrier(2)

    def want() -> None:
        both.wait(60)
        with cache.reading():
            cache.get(store.arrays[0])

    threads = [threading.Thread(target=want) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert len(store.decoded) == 1


def test_memory_of_a_tile_is_used_again_once_all_who_may_look_at_it_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while others read, who began after it went: somebody always reads where many do."""
    monkeypatch.setattr(tilecache, "KEPT", 64)  # bytes: one tile
    store, cache = Store(5, 64), TileCache()
    early, late = cache.reading(), cache.reading()
    with early:
        seen = cache.get(store.arrays[0])
        cache.get(store.arrays[1])  # the first is dropped
        late.__enter__()
        cache.get(store.arrays[2])
        assert (seen == 0).all()
    fresh = cache.get(store.arrays[3])
    assert np.shares_memory(fresh, seen)
    assert (fresh == 3).all()
    late.__exit__(None, None, None)


def test_tiles_that_the_next_windows_need_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those read last: in the order of the windows, what is needed last, or no more, goes."""
    monkeypatch.setattr(tilecache, "KEPT", 128)  # bytes: two tiles
    store, cache = Store(4, 64), TileCache()
    order = [0, 1, 2, 0, 3, 0]  # the tile that each window needs
    keys = [one.ref.digest for one in store.arrays]
    windows = [(number, 0, number + 1, 1) for number in range(len(order))]
    with cache.expecting({w: [keys[n]] for w, n in zip(windows, order, strict=True)}):
        for window, number in zip(windows, order, strict=True):
            assert (cache.get(store.arrays[number]) == number).all()
            cache.passed(window)
    assert store.decoded == [keys[number] for number in (0, 1, 2, 3)]
    for number in order[1:4]:  # and without: those read last
        cache.get(store.arrays[number])
    assert store.decoded[4:] == [keys[number] for number in (1, 2, 0)]


def test_no_tile_is_fetched_in_place_of_one_that_is_needed_sooner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be decoded twice; one that is needed later makes room."""
    monkeypatch.setattr(tilecache, "KEPT", 128)  # bytes: two tiles
    store, cache = Store(3, 64), TileCache()
    keys = [one.ref.digest for one in store.arrays]
    needs = {(0, 0, 1, 1): keys[:2], (1, 0, 2, 1): [keys[2]], (2, 0, 3, 1): [keys[1]]}
    with cache.expecting(needs):
        for one in store.arrays[:2]:
            cache.get(one)
        cache.fetch(store.arrays[2])
        assert store.decoded == keys[:2]
        cache.passed((0, 0, 1, 1))
        cache.fetch(store.arrays[2])
        cache.fetch(store.arrays[1])
        assert store.decoded == keys


def test_memory_of_a_tile_that_nobody_reads_any_more_is_used_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while somebody reads who has not seen it: who blends always does."""
    monkeypatch.setattr(tilecache, "KEPT", 128)  # bytes: two tiles
    store, cache = Store(3, 64), TileCache()
    with cache.reading():
        seen = cache.get(store.arrays[0])
    with cache.reading():
        other = cache.get(store.arrays[1])
        fresh = cache.get(store.arrays[2])
        assert np.shares_memory(fresh, seen)
        assert (other == 1).all()
        assert (fresh == 2).all()


def test_of_many_small_tiles_few_are_compared_for_one_to_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of those read longest ago: else each tile would take as long as all that are at hand."""
    monkeypatch.setattr(tilecache, "KEPT", 150 * 64)  # bytes: 150 tiles
    store, cache = Store(250, 64), TileCache()
    asked: list[bytes] = []
    until = TileCache._until
    monkeypatch.setattr(
        TileCache, "_until", lambda self, key: asked.append(key) or until(self, key)
    )
    with cache.expecting({}):
        for one in store.arrays:
            cache.get(one)
    assert 0 < len(asked) <= 100 * tilecache._COMPARED
