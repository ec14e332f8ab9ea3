"""A checkpoint that lasts as long as the process: nothing is kept (``checkpoint=None``)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from tilevision.codec import canonical_json, check_records
from tilevision.payloads import PackedArray

if TYPE_CHECKING:
    from tilevision.checkpoint.payloadstore import PayloadMemory

__all__ = ["MemoryCheckpoint"]


class MemoryCheckpoint:
    """`Checkpoint` without a folder; the methods mean the same.

    Attributes
    ----------
    folder : None
    """

    folder: None = None

    def __init__(self) -> None:
        self._records: dict[str, tuple[float, tuple[bytes, ...]]] = {}
        self._payloads: PayloadMemory | None = None
        self._lock = threading.Lock()

    def done(self, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` that are stored."""
        with self._lock:
            return {key for key in keys if key in self._records}

    def load(self, keys: Sequence[str]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        """Yield key and records of those of `keys` that are stored, in the order given."""
        for key in keys:
            with self._lock:
                stored = self._records.get(key)
            if stored is not None:
                yield key, stored[1]

    def stored_at(self, keys: Iterable[str]) -> dict[str, float]:
        """Return when each of `keys` was stored, seconds since the epoch."""
        with self._lock:
            return {key: self._records[key][0] for key in keys if key in self._records}

    def commit(
        self,
        records: Mapping[str, Sequence[bytes]],
        payloads: Mapping[bytes, bytes | PackedArray] = MappingProxyType({}),
    ) -> None:
        """Store all of `records`, or raise and store none of them."""
        now = time.time()
        if payloads:
            self.payloads.add(payloads)
        checked = {key: (now, check_records(key, rows)) for key, rows in records.items()}
        with self._lock:
            self._records |= checked

    @property
    def payloads(self) -> PayloadMemory:
        """The arrays that records refer to; they can be read after `close`."""
        from tilevision.checkpoint.payloadstore import PayloadMemory

        with self._lock:
            if self._payloads is None:
                self._payloads = PayloadMemory()
            return self._payloads

    def delete(self, keys: Iterable[str]) -> int:
        """Forget `keys`; return how many were there."""
        with self._lock:
            return sum(self._records.pop(key, None) is not None for key in keys)

    def prune(self, before: float) -> int:
        """Forget what was stored before `before` (epoch); return how many keys."""
        with self._lock:
            old = [key for key, (stored, _) in self._records.items() if stored < before]
            for key in old:
                del self._records[key]
        return len(old)

    def put_json(self, key: str, value: Any) -> None:
        """Store the record of a stage: a dict or a list of plain JSON types."""
        self.commit({key: (canonical_json(value),)})

    def get_json(self, key: str) -> Any:
        """Return what `put_json` stored, None where there is nothing."""
        return next((json.loads(rows[0]) for _, rows in self.load((key,))), None)

    def file_fingerprint(self, path: str, compute: Callable[[str], str]) -> str:
        """Return ``compute(path)``: nothing is remembered between runs."""
        return compute(path)

    def close(self) -> None:
        """Forget every record; results hold on to their arrays."""
        with self._lock:
            self._records.clear()
            self._payloads = None

    def __enter__(self) -> MemoryCheckpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
