"""Zarr arrays and OME-Zarr images in a folder, read by the chunk at the best resolution."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tilevision.sources.capacity import check_plausible
from tilevision.sources.filetree import FileWatch, Tree, tree_of
from tilevision.sources.formats.imageformat import ImageFormat
from tilevision.sources.formats.zarrlevels import ZarrLevel, lay_out, opened
from tilevision.sources.identity import fingerprint_of_file
from tilevision.sources.levels import LevelReader
from tilevision.sources.source import ImageMetadata, SourceRef

__all__ = ["FORMAT", "MARKERS", "ZarrSource", "is_zarr", "open_zarr"]

MARKERS = ("zarr.json", ".zgroup", ".zarray")


class ZarrSource(LevelReader):
    """An image in a Zarr store.

    Parameters
    ----------
    path : str
    levels : sequence of ZarrLevel
    metadata : ImageMetadata
    options : dict
        What `open_zarr` was asked for, beyond the path.
    fingerprint : str
    """

    def __init__(
        self,
        path: str,
        levels: Sequence[ZarrLevel],
        metadata: ImageMetadata,
        options: dict[str, Any],
        fingerprint: str,
    ) -> None:
        super().__init__(path, levels, levels[0].bands, levels[0].dtype, metadata)
        self._path = path
        self._options = options
        self.watch = FileWatch(path, lambda: _files(path), options["tree"])
        self._fingerprint = fingerprint

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this image again from."""
        return SourceRef(
            opener="tilevision.sources.formats.zarrstore:open_zarr",
            path=self._path,
            options={**self._options, "fingerprint": self._fingerprint},
            fingerprint=self._fingerprint,
        )

    def close(self) -> None:
        """Do nothing: chunks are opened when they are read."""


def is_zarr(path: str | Path) -> bool:
    """Say whether a folder is a Zarr store."""
    # Unlike pathlib, this takes a name that cannot be one for a file that is not there.
    return any(os.path.isfile(os.path.join(path, marker)) for marker in MARKERS)  # noqa: PTH113, PTH118


def open_zarr(
    path: str,
    *,
    mpp: tuple[float, float] | None = None,
    tree: Tree | None = None,
    fingerprint: str = "",
) -> ZarrSource:
    """Open a Zarr array ``(h, w)``, ``(h, w, c)`` or ``(c, h, w)``, or an OME-Zarr image.

    Parameters
    ----------
    path : str
        Of the store's folder, or of an array or image in it.
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the store says.
    tree : tuple of int, optional
        Number, bytes and latest change (ns) of the store's files under which it had `fingerprint`.
    fingerprint : str

    Raises
    ------
    SourceError
        If zarr is not installed, or the store is damaged or holds no image.
    """
    levels, metadata = lay_out(opened(path, path), path, mpp)
    found = tree_of(path, _files(path))
    check_plausible(path, *levels[0].size, found[1])
    if not fingerprint or tree is None or tuple(tree) != found:
        fingerprint = _fingerprint(path)
    return ZarrSource(path, levels, metadata, {"mpp": mpp, "tree": found}, fingerprint)


def _files(path: str) -> list[Path]:
    return sorted(file for file in Path(path).rglob("*") if file.is_file())


def _fingerprint(path: str) -> str:
    """Return the SHA-256 over the names and contents of the store's files."""
    digest = hashlib.sha256(b"zarr ")
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        digest.update(bytes.fromhex(fingerprint_of_file(file)))
    return digest.hexdigest()


FORMAT = ImageFormat(
    "a Zarr store",
    accepts=lambda file: is_zarr(file.path),
    opener=open_zarr,
    folders=True,
    library="zarr",
    extra="zarr",
)
