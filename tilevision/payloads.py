"""Arrays as results: how a tile's record refers to one, and what keeps their bytes.

A record is JSON and stays small; an array goes, once, to a side file. The record names it by what
it is (SHA-256 of its bytes, type, shape), never by where it is, so the same tile still gives the
same record, and equal arrays are kept once.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tilevision.rasterspec import RasterSpec

__all__ = [
    "ArrayStore",
    "PackedArray",
    "PayloadRef",
    "StoredArray",
    "array_record",
    "arrays_of",
    "bytes_of",
    "kind_of",
    "packed",
    "unpack",
    "viewed",
]

# First bytes of a record that holds references; no other record of a tile begins like this.
PREFIX = b'{"payloads":{'
_MOST_BYTES = 64 * 2**20  # of one array
_DIGEST_DIGITS = 64
_VECTOR = re.compile(
    rb'\{"payloads":\{"embedding":\{"dtype":"(float16|float32)","sha256":"([0-9a-f]{64})",'
    rb'"shape":\[([1-9][0-9]{0,7})\]\}\}\}'
)
_ITEM_BYTES = {"float16": 2, "float32": 4, "uint8": 1, "int32": 4}
_LEVEL = 3  # of zstd: higher ones take several times as long, and save a tenth
_QUICK = 1  # of zstd, of maps of shares: half the time
_MORE = 1.1  # times the room that it may take for that
_ZSTD = 16  # kind of packed bytes, less the bytes of an item
_ROWS = 33  # kind of packed bytes: how wide a row is, then each row less the one above it
_WHOLE = 128  # of so many rows the first is told as it is: what they are is added up side by side
_SAMPLE = 32  # of so many blocks of rows one is tried
_BLOCK = 16  # rows
_WIDTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """What a record says of an array.

    Parameters
    ----------
    digest : bytes
        SHA-256 of its bytes, little-endian and in C order: 32 bytes.
    dtype : str
        ``"float16"``, ``"float32"``, ``"uint8"`` or ``"int32"``.
    shape : tuple of int
    raster : RasterSpec, optional
        What the numbers of a map mean.
    """

    digest: bytes
    dtype: str
    shape: tuple[int, ...]
    raster: RasterSpec | None = None

    @property
    def size(self) -> int:
        """Return how many bytes the array has."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


def kind_of(ref: PayloadRef) -> str:
    """Return what an array is, in words that differ where it cannot stand beside another."""
    if (spec := ref.raster) is not None:
        what = ", ".join(name or "-" for name in spec.classes) or spec.unit or "no unit"
        step = "" if spec.precision is None else f", steps of {spec.precision:g}"
        return f"a map of {spec.kind} ({ref.shape[0]} × {ref.dtype}: {what}{step})"
    vectors = "a vector" if len(ref.shape) == 1 else "vectors of detections"
    return f"{vectors} of {ref.shape[-1]:,} numbers ({ref.dtype})"


class ArrayStore(Protocol):
    """What keeps the bytes of arrays: the side files of a checkpoint, or memory.

    It can be read after the checkpoint it belongs to was closed, from any thread.
    """

    def sound(self, refs: Sequence[PayloadRef]) -> list[bool]:
        """Say for each array whether it is there, undamaged."""
        ...

    def gather(
        self, digests: Sequence[bytes], size: int, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return the bytes of arrays of `size` bytes each: ``(n, size)``, in the order asked.

        `out` is where to, if that is at hand: memory that was used before is quicker to fill.

        Raises
        ------
        CheckpointCorrupt
            If one is not there, or damaged.
        CheckpointError
            If they cannot be read.
        """
        ...

    def sizes(self, digests: Sequence[bytes]) -> list[int]:
        """Return how many bytes each array takes as it is stored; 0 where it is not."""
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

    def load(self, out: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """Read it, into the bytes `out` if given. Raises as `ArrayStore.gather` does."""
        raw = self.store.gather(
            [self.ref.digest], self.ref.size, None if out is None else out.reshape(1, -1)
        )
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
    ref, raw = viewed(array)
    return ref, raw.tobytes()


def viewed(array: NDArray[Any]) -> tuple[PayloadRef, NDArray[np.uint8]]:
    """Return the reference to an array, and its bytes ``(n,)`` where they are, if they can be."""
    plain = np.ascontiguousarray(array, dtype=little(array.dtype.name))
    raw = plain.reshape(-1).view(np.uint8)
    return PayloadRef(sha256(raw.data).digest(), array.dtype.name, array.shape), raw


class PackedArray(NamedTuple):
    """The bytes of an array, compressed.

    Parameters
    ----------
    data : bytes
    kind : int
        How they are packed; part of what is on the disk. 1 is plain.
    """

    data: bytes
    kind: int


def packed(raw: bytes | NDArray[np.uint8], item: int, width: int = 0) -> PackedArray:
    """Compress bytes: by zstd, those of one significance together.

    Parameters
    ----------
    raw : bytes or array of uint8
    item : int
        Bytes of a number.
    width : int
        Of a map of shares, in bytes, the row: shares change little from row to row, so where it
        takes less room each is told by what it differs from the row above. 0: not tried.
    """
    from imagecodecs import zstd_encode

    level = _LEVEL
    if item == 1 and width:
        rows = np.frombuffer(raw, np.uint8).reshape(-1, width)
        level, less = _best(rows)
        if less:
            data = zstd_encode(_less_than_above(rows), level)  # type: ignore[arg-type]  # any buffer
            return PackedArray(b"".join((_WIDTH.pack(width), data)), _ROWS)
    planes = np.frombuffer(raw, np.uint8).reshape(-1, item)
    grouped = raw if item == 1 else np.ascontiguousarray(planes.T)
    return PackedArray(bytes(zstd_encode(grouped, level)), _ZSTD + item)  # type: ignore[arg-type]  # any buffer


def _less_than_above(
    rows: NDArray[np.uint8], chosen: NDArray[np.int64] | None = None
) -> NDArray[np.uint8]:
    """Return what rows differ by from the one above; of `chosen` ones, if given."""
    if chosen is not None:
        made = rows[chosen] - rows[chosen - 1]  # of the first the last: it is whole anyway
        whole = chosen % _WHOLE == 0
        made[whole] = rows[chosen[whole]]
        return made
    made = np.empty_like(rows)
    np.subtract(rows[1:], rows[:-1], out=made[1:])
    made[::_WHOLE] = rows[::_WHOLE]
    return made


def _best(rows: NDArray[np.uint8]) -> tuple[int, bool]:
    """Return how some of the rows are best packed: the level, and whether as differences.

    The quick level, unless it takes a tenth more room: it does where many rows are the same.
    """
    from imagecodecs import zstd_encode

    if len(rows) > _SAMPLE * _BLOCK:
        every = np.arange(_SAMPLE // 2 * _BLOCK, len(rows), _SAMPLE * _BLOCK)
        chosen = (every[:, None] + np.arange(_BLOCK)).ravel()
        chosen = chosen[chosen < len(rows)]
        rows, differences = rows[chosen], _less_than_above(rows, chosen)
    else:
        differences = _less_than_above(rows)
    ways = ((rows, _QUICK), (differences, _QUICK), (rows, _LEVEL))
    plain, less, slow = (len(zstd_encode(one, level)) for one, level in ways)  # type: ignore[arg-type]  # any buffer
    if min(plain, less) > _MORE * slow:
        return _LEVEL, False
    return _QUICK, less < plain


def unpack(data: bytes | memoryview, kind: int, out: NDArray[np.uint8]) -> bool:
    """Write what `packed` compressed into `out` ``(size,)``; False where it is anything else.

    No more memory is taken than `out` has, whatever the bytes claim.
    """
    if kind == _ROWS:
        return _unpack_rows(data, out)
    item = kind - _ZSTD
    if item not in (1, 2, 4) or out.size % item:
        return False
    target = out if item == 1 else np.empty(out.size, np.uint8)
    if not _expanded(data, target):
        return False
    if item > 1:
        out.reshape(-1, item)[:] = target.reshape(item, -1).T
    return True


def _unpack_rows(data: bytes | memoryview, out: NDArray[np.uint8]) -> bool:
    if len(data) < _WIDTH.size:
        return False
    (width,) = _WIDTH.unpack_from(data)
    if not width or out.size % width or not _expanded(memoryview(data)[_WIDTH.size :], out):
        return False
    rows = out.reshape(-1, width)
    for n in range(1, min(_WHOLE, len(rows))):
        below = rows[n::_WHOLE]
        below += rows[n - 1 :: _WHOLE][: len(below)]
    return True


def _expanded(data: bytes | memoryview, out: NDArray[np.uint8]) -> bool:
    from imagecodecs import ZstdError, zstd_decode

    try:
        found = zstd_decode(data, out=out)  # type: ignore[arg-type]  # any buffer
    except ZstdError:
        return False
    return len(found) == out.size


def array_record(refs: dict[str, PayloadRef]) -> bytes:
    """Return the record, canonical JSON, that refers to arrays by name.

    It is the last of a tile's records. Releases that know no arrays cannot read such a tile, and
    run it again.
    """
    told: dict[str, dict[str, Any]] = {
        name: {"dtype": ref.dtype, "sha256": ref.digest.hex(), "shape": list(ref.shape)}
        for name, ref in refs.items()
    }
    for name, ref in refs.items():
        if ref.raster is not None:
            told[name]["map"] = ref.raster.to_dict()
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
    raster = _spec(json.dumps(told["map"])) if "map" in told else None
    return _bounded(PayloadRef(bytes.fromhex(digest), dtype, tuple(shape), raster))


@lru_cache(maxsize=64)
def _spec(told: str) -> RasterSpec:
    return RasterSpec.from_dict(json.loads(told))


@lru_cache(maxsize=64)
def _kind(dtype: bytes, width: bytes) -> tuple[str, tuple[int]]:
    return dtype.decode(), (int(width),)


def _bounded(ref: PayloadRef) -> PayloadRef:
    if not 0 < ref.size <= _MOST_BYTES:
        raise ValueError("It refers to an array larger than any.")
    return ref
