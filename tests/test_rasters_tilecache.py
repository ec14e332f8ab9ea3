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
