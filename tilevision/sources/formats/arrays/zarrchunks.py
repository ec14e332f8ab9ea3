"""Chunks of a Zarr store that Blosc compressed, looked at before they are decoded.

A Blosc chunk says how long it is, and the decoder believes it: of one that is cut short it
reads on past the end, and the process is gone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from zarr.storage import WrapperStore

__all__ = ["DOCUMENTS", "CheckedStore"]

_HEADER = struct.Struct("<4B3I")  # versions, flags, size of a value; bytes: plain, block, stored
# What describes a store, beside its chunks.
DOCUMENTS = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")


class CheckedStore(WrapperStore[Any]):
    """A store whose Blosc chunks are as long as they say.

    Attributes
    ----------
    blosc : tuple of str
        Where in the store the arrays lie whose chunks are so compressed; found once it is open.
    """

    blosc: tuple[str, ...] = ()

    def watch(self, arrays: Iterable[Any]) -> None:
        """From now on, look at the chunks of those of `arrays` that Blosc compressed."""
        self.blosc = tuple(array.path for array in arrays if _is_blosc(array))

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return what is stored under `key`.

        Raises
        ------
        ValueError
            If it is a chunk of another length than it says.
        """
        found = await super().get(key, prototype, byte_range)
        place, _, name = key.rpartition("/")
        inside = any(not path or f"{place}/".startswith(f"{path}/") for path in self.blosc)
        if found is not None and byte_range is None and inside and name not in DOCUMENTS:
            _check(key, found[: _HEADER.size].to_bytes(), len(found))
        return found


def _is_blosc(array: Any) -> bool:
    # In shards the chunks are read by ranges, and a later compressor has a header of its own.
    outermost = array.compressors[-1:] if array.shards is None else ()
    return any("blosc" in type(one).__name__.lower() for one in outermost)


def _check(key: str, head: bytes, length: int) -> None:
    if len(head) < _HEADER.size or _HEADER.unpack(head)[-1] != length:
        raise ValueError(f"chunk {key} has {length:,} bytes, which is not what it says")
