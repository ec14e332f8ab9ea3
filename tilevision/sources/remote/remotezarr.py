"""Zarr stores elsewhere: a window fetches the chunks that it touches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

from tilevision.errors import SourceError, TilevisionError
from tilevision.sources.addresses import Address
from tilevision.sources.formats.arrays.zarrlayout import lay_out
from tilevision.sources.formats.arrays.zarrlevels import ZarrLevel
from tilevision.sources.formats.arrays.zarrstore import MARKERS, opened
from tilevision.sources.levels import LevelReader
from tilevision.sources.remote.protocols import remote_file
from tilevision.sources.remote.remotefile import changed, patiently
from tilevision.sources.remote.stores import file_system, stored_tag, translated
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef

__all__ = ["RemoteZarr", "is_remote_zarr", "open_remote_zarr"]

_MOST_CHUNKS = 50_000
_AT_ONCE = 16


class RemoteZarr(LevelReader):
    """An image in a Zarr store elsewhere; see `open_remote_zarr`.

    Parameters
    ----------
    levels : sequence of ZarrLevel
    metadata : ImageMetadata
    reference : SourceRef
    """

    readable_pixels = 1 << 24

    def __init__(
        self, levels: Sequence[ZarrLevel], metadata: ImageMetadata, reference: SourceRef
    ) -> None:
        super().__init__(reference.path, levels, levels[0].bands, levels[0].dtype, metadata)
        self._reference = reference

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this image again from."""
        return self._reference

    def thumbnail(self, max_side: int) -> Pixels:
        """Return the whole image as ``(h, w, c)``, its longer side at most `max_side`.

        Patiently: unlike a tile's read, nobody tries it again.
        """
        return patiently(lambda: super(RemoteZarr, self).thumbnail(max_side))

    def close(self) -> None:
        """Do nothing: chunks are fetched when they are read."""


def is_remote_zarr(address: Address) -> bool:
    """Return True if there is a Zarr store at an address."""
    return any(remote_file(address.inside(marker)).tag() is not None for marker in MARKERS)


def open_remote_zarr(
    path: str,
    *,
    address: Address,
    frame: int = 0,
    mpp: tuple[float, float] | None = None,
    described: str = "",
    fingerprint: str = "",
) -> RemoteZarr:
    """Open a Zarr array or OME-Zarr image elsewhere.

    Its identity is over the names, sizes and tags of all its files. A worker compares what
    describes the store, not every chunk again.

    Parameters
    ----------
    path : str
        The address without its secrets, for errors.
    address : Address
    frame : int
        Which plane of the axes beside x, y and bands, from 0.
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the store says.
    described, fingerprint : str
        What its description had as a digest when it had `fingerprint`.

    Raises
    ------
    SourceError
        If zarr is not installed, the store is damaged, is another by now, or holds no image; or
        nothing tells whether its chunks change.
    """
    if fingerprint and not is_remote_zarr(address):
        private = ": what is in memory:// no other process sees" * (address.scheme == "memory")
        raise SourceError(f"{address} is not there{private}; copy it to where all workers read.")
    keys = _keys(address, path)
    layout = lay_out(opened(keys, path), path, mpp, frame)
    if fingerprint and keys.described != described:
        raise changed(address)
    if not fingerprint:
        arrays = [level.array for level in layout.levels]
        fingerprint = patiently(lambda: _fingerprint(address, keys.described, arrays))
    reference = SourceRef(
        opener="tilevision.sources.remote.remotezarr:open_remote_zarr",
        path=path,
        options={
            "address": address,
            "frame": frame,
            "mpp": mpp,
            "described": keys.described,
            "fingerprint": fingerprint,
        },
        fingerprint=layout.fingerprint(fingerprint, frame),
    )
    return RemoteZarr(layout.levels, layout.metadata, reference)


def _keys(address: Address, path: str) -> Any:
    try:
        from tilevision.sources.remote.zarrkeys import RemoteKeys
    except ImportError:
        raise SourceError(
            f"{path} is a Zarr store, which needs zarr: pip install 'tilevision[zarr]'"
        ) from None
    return RemoteKeys(address)


def _fingerprint(address: Address, described: str, arrays: list[Any]) -> str:
    """Return the SHA-256 over what describes the store, and the tags of all chunks."""
    web = address.scheme in ("http", "https")
    tags = _asked(address, arrays) if web else _listed(address)
    bare = [name for name, tag in tags if " " not in tag]
    if bare:
        raise SourceError(
            f"{address}: nothing tells whether {bare[0]} changes (no ETag, no settled date); copy "
            "the store to a folder, and pass its path."
        )
    told = f"remote zarr\n{address.identity}\n{described}\n{tags!r}"
    return sha256(told.encode()).hexdigest()


def _asked(address: Address, arrays: list[Any]) -> list[tuple[str, str]]:
    """Ask a web server, which lists nothing, for the tag of each chunk."""
    from tilevision.sources.remote.zarrkeys import chunk_keys

    keys = [key for array in arrays for key in chunk_keys(array)]
    if len(keys) > _MOST_CHUNKS:
        raise SourceError(
            f"{address} has {len(keys):,} chunks, each of which a web server has to be asked for; "
            "give the store's own address (s3://, gs://), which lists them, or copy it to a folder."
        )
    with ThreadPoolExecutor(_AT_ONCE, "tilevision-ask") as threads:
        found = list(threads.map(lambda key: remote_file(address.inside(key)).tag(), keys))
    return [(key, tag) for key, tag in zip(keys, found, strict=True) if tag is not None]


def _listed(address: Address) -> list[tuple[str, str]]:
    files, path = file_system(address)
    found: TilevisionError
    try:
        files.invalidate_cache()
        told = files.find(path, detail=True)
        return sorted((os.path.relpath(name, path), stored_tag(one)) for name, one in told.items())
    except Exception as error:  # noqa: BLE001 - each protocol has errors of its own
        found = translated(error, address)
    raise found from None
