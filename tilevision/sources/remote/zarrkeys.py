"""A folder elsewhere as a store for zarr; imported where zarr is known to be there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from hashlib import sha256
from typing import Any, NoReturn

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.core import default_buffer_prototype

from tilevision.errors import SourceError
from tilevision.sources.addresses import Address
from tilevision.sources.formats.arrays.zarrchunks import DOCUMENTS
from tilevision.sources.remote.protocols import remote_file

__all__ = ["RemoteKeys", "chunk_keys"]


class RemoteKeys(Store):
    """The keys of a Zarr store, each a file in a folder elsewhere; only read.

    Parameters
    ----------
    address : Address
        Of the folder.

    Attributes
    ----------
    documents : dict of str to bytes or None
        What describes the store, as far as it was read; None: it is not there.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, address: Address) -> None:
        super().__init__(read_only=True)
        self._address = address
        self.documents: dict[str, bytes | None] = {}

    @property
    def described(self) -> str:
        """SHA-256 over what describes the store."""
        told = repr(sorted(self.documents.items()))
        return sha256(told.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteKeys) and other._address == self._address

    def __hash__(self) -> int:
        return hash(self._address)

    def __str__(self) -> str:
        return str(self._address)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the value of a key, or a part of it; None where there is none."""
        data = await asyncio.to_thread(self._read, key, byte_range)
        if key.rpartition("/")[2] in DOCUMENTS:
            self.documents[key] = data
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of several values."""
        return list(
            await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))
        )

    async def exists(self, key: str) -> bool:
        """Return True if there is a key."""
        return await asyncio.to_thread(remote_file(self._address.inside(key)).tag) is not None

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002 - zarr's signature
        """Refuse."""
        self._refuse()

    async def delete(self, key: str) -> None:  # noqa: ARG002 - zarr's signature
        """Refuse."""
        self._refuse()

    async def list(self) -> AsyncIterator[str]:
        """Yield nothing: web servers do not list."""
        nothing: tuple[str, ...] = ()
        for key in nothing:
            yield key

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # noqa: ARG002 - zarr's signature
        """Yield nothing."""
        return self.list()

    def list_dir(self, prefix: str) -> AsyncIterator[str]:  # noqa: ARG002 - zarr's signature
        """Yield nothing."""
        return self.list()

    def _read(self, key: str, part: ByteRequest | None) -> bytes | None:
        file = remote_file(self._address.inside(key))
        if isinstance(part, RangeByteRequest):
            return file.part(part.start, part.end)
        if isinstance(part, OffsetByteRequest):
            return file.part(part.offset, None)
        if isinstance(part, SuffixByteRequest):
            return file.part(-part.suffix, None)
        return file.part(None, None)

    def _refuse(self) -> NoReturn:
        raise SourceError(f"{self._address} is only read.")


def chunk_keys(array: Any) -> list[str]:
    """Return the keys of all stored objects of an array: its chunks, or the shards they are in."""
    stored = getattr(array, "shards", None) or array.chunks
    counts = [-(-side // part) for side, part in zip(array.shape, stored, strict=True)]
    encode = array.metadata.encode_chunk_key
    prefix = f"{array.path}/" if array.path else ""
    return [f"{prefix}{encode(place)}" for place in itertools.product(*map(range, counts))]
