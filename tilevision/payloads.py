"""Arrays as results: how a tile's record refers to one, and what keeps their bytes.

A record is JSON and stays small; an array goes, once, to a side file. The record names it by what
it is (SHA-256 of its bytes, type, shape), never by where it is, so the same tile still gives the
same record, and equal arrays are kept once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayStore", "PayloadRef", "StoredArray", "array_record", "arrays_of", "bytes_of"]

# First bytes of a record that holds references; no other record of a tile begins like this.
PREFIX = b'{"payloads":{'
_MOST_BYTES = 64 * 2**20  # of one array
_DIGEST_DIGITS = 64
_VECTOR = re.compile(
    rb'\{"payloads":\{"embedding":\{"dtype":"(float16|float32)","sha256":"([0-9a-f]{64})",'
    rb'"shape":\[([1-9][0-9]{0,7})\]\}\}\}'
)
_ITEM_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """What a record says of an array.

    Parameters
    ----------
    digest : bytes
        SHA-256 of its bytes, little-endian and in C order: 32 bytes.
    dtype : str
        ``"float16"`` or ``"float32"``.
    shape : tuple of int
    """

    digest: bytes
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return how many bytes the array has."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


class ArrayStore(Protocol):
    """What keeps the bytes of arrays: the side files of a checkpoint, or memory.

    It can be read after the checkpoint it belongs to was closed, from any thread.
    """

    def sound(self, refs: Sequence[PayloadRef]) -> list[bool]:
        """Say for each array whether it is there, undamaged."""
        ...

    def gather(self, digests: Sequence[bytes], size: int) -> NDArray[np.uint8]:
        """Return the bytes of arrays of `size` bytes each: ``(n, size)``, in the order asked.

        Raises
        ------
        CheckpointCorrupt
            If one is not there, or damaged.
        CheckpointError
            If they cannot be read.
        """
        ...

    def order(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the order ``(n,)`` in which arrays are best read."""
        ...


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array of a tile, and where its bytes are.

    Parameters
    ----------
    ref : PayloadRef
    store : ArrayStore
    """

    ref: PayloadRef
    store: ArrayStore

    def load(self) -> NDArray[Any]:
        """Read it. Raises as `ArrayStore.gather` does."""
        raw = self.store.gather([self.ref.digest], self.ref.size)
        return raw.reshape(-1).view(little(self.ref.dtype)).reshape(self.ref.shape)


def little(dtype: str) -> np.dtype[Any]:
    """Return the type as its bytes are stored: little-endian."""
    return np.dtype(dtype).newbyteorder("<")


def bytes_of(array: NDArray[Any]) -> tuple[PayloadRef, bytes]:
    """Return the reference to an array, and the bytes to store.

    Parameters
    ----------
    array : array of float16 or float32
    """
    raw = np.ascontiguousarray(array, dtype=little(array.dtype.name)).tobytes()
    return PayloadRef(sha256(raw).digest(), array.dtype.name, array.shape), raw


def array_record(refs: dict[str, PayloadRef]) -> bytes:
    """Return the record, canonical JSON, that refers to arrays by name.

    It is the last of a tile's records. Releases that know no arrays cannot read such a tile, and
    run it again.
    """
    told = {
        name: {"dtype": ref.dtype, "sha256": ref.digest.hex(), "shape": list(ref.shape)}
        for name, ref in refs.items()
    }
    return json.dumps({"payloads": told}, sort_keys=True, separators=(",", ":")).encode()


def arrays_of(records: Sequence[bytes]) -> dict[str, PayloadRef]:
    """Return the references in a tile's records, by name; empty where there are none.

    Raises
    ------
    ValueError, KeyError, TypeError
        If they are not as `array_record` writes them, or of a type or size that nothing has.
    """
    if len(records) < 2 or not records[-1].startswith(PREFIX):
        return {}
    if plain := _VECTOR.fullmatch(records[-1]):  # of a hundred thousand tiles, so without JSON
        dtype, digest, width = plain.groups()
        ref = PayloadRef(bytes.fromhex(digest.decode()), *_kind(dtype, width))
        return {"embedding": _bounded(ref)}
    told = json.loads(records[-1])["payloads"]
    return {name: _ref(one) for name, one in told.items()}


def _ref(told: dict[str, Any]) -> PayloadRef:
    digest, dtype, shape = told["sha256"], told["dtype"], told["shape"]
    if len(digest) != _DIGEST_DIGITS or dtype not in _ITEM_BYTES:
        raise ValueError("It refers to an array of an unknown kind.")
    if not all(type(side) is int and side > 0 for side in shape):
        raise ValueError("It refers to an array without a shape.")
    return _bounded(PayloadRef(bytes.fromhex(digest), dtype, tuple(shape)))


@lru_cache(maxsize=64)
def _kind(dtype: bytes, width: bytes) -> tuple[str, tuple[int]]:
    return dtype.decode(), (int(width),)


def _bounded(ref: PayloadRef) -> PayloadRef:
    if not 0 < ref.size <= _MOST_BYTES:
        raise ValueError("It refers to an array larger than any.")
    return ref
