"""Zarr arrays and OME-Zarr images in a folder or a zip file, read by the chunk."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilevision.errors import TilevisionError
from tilevision.sources.filetree import FileWatch, Tree, tree_of
from tilevision.sources.formats.arrays.zarrlayout import lay_out, unreadable
from tilevision.sources.formats.arrays.zarrlevels import ZarrLevel
from tilevision.sources.formats.imageformat import ImageFormat
from tilevision.sources.identity import file_options, fingerprint_of_file, known_fingerprint
from tilevision.sources.levels import Level, LevelReader
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef
from tilevision.sources.staging.staged import MappedLevel, staged_note
from tilevision.sources.staging.stagingfile import StagedPixels, stage, staging_folder

__all__ = ["FORMAT", "MARKERS", "PACKED", "ZarrSource", "is_zarr", "open_zarr", "opened"]

MARKERS = ("zarr.json", ".zgroup", ".zarray")
_ZIP = b"PK\x03\x04"
_ZIPPED = (".ozx", ".zarr.zip")
_DECODER = "zarr1"
# The window that is typical of a model; chunks that make it this much dearer are staged.
_TYPICAL_SIDE = 1024
_DEAREST = 4.0
_HUGE_CHUNK = 1 << 26  # bytes
_STAGED_SHARE = 0.5  # of the free space of the temp folder


class ZarrSource(LevelReader):
    """An image in a Zarr store.

    Parameters
    ----------
    path : str
    levels : sequence of ZarrLevel
    metadata : ImageMetadata
    options : dict
        What `open_zarr` was asked for, beyond the path.
    content, fingerprint : str
        Of the store's files, and of this image in it.
    staged : StagedPixels, optional
        The full resolution, where the store has no cheap windows.
    """

    def __init__(
        self,
        path: str,
        levels: Sequence[ZarrLevel],
        metadata: ImageMetadata,
        options: dict[str, Any],
        content: str,
        fingerprint: str,
        staged: StagedPixels | None = None,
    ) -> None:
        shown: list[Level] = list(levels)
        if staged is not None:
            shown[0] = MappedLevel(path, staged)
        super().__init__(path, shown, levels[0].bands, levels[0].dtype, metadata)
        self.nodata_later = metadata.nodata is not None
        self._path = path
        self._options = options
        if "tree" in options:
            self.watch = FileWatch(path, lambda: _files(path), options["tree"])
        self._content = content
        self._fingerprint = fingerprint
        self._staged = staged

    @property
    def is_staged(self) -> bool:
        """Return True if the full resolution was decoded into the temp folder."""
        return self._staged is not None

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this image again from."""
        return SourceRef(
            opener="tilevision.sources.formats.arrays.zarrstore:open_zarr",
            path=self._path,
            options={**self._options, "fingerprint": self._content},
            fingerprint=self._fingerprint,
        )

    def close(self) -> None:
        """Give up the staging file where there is one; chunks are opened when they are read."""
        if self._staged is not None:
            self._staged.close()


def is_zarr(path: str | Path) -> bool:
    """Return True if a folder is a Zarr store."""
    # Unlike pathlib, this takes a name that cannot be one for a file that is not there.
    return any(os.path.isfile(os.path.join(path, marker)) for marker in MARKERS)  # noqa: PTH113, PTH118


def open_zarr(
    path: str,
    *,
    frame: int = 0,
    mpp: tuple[float, float] | None = None,
    tree: Tree | None = None,
    stamp: tuple[int, int] | None = None,
    fingerprint: str = "",
) -> ZarrSource:
    """Open an image in a Zarr store: an array, an OME-Zarr image, or the first of several.

    Parameters
    ----------
    path : str
        Of the store's folder or zip file, or of an array or image in a folder.
    frame : int
        Which plane of the axes beside x, y and bands, from 0, the last axis fastest.
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the store says.
    tree : tuple of int, optional
        Number, bytes and latest change (ns) of the store's files under which it had `fingerprint`.
    stamp : tuple of int, optional
        Size and modification time under which a zip file had `fingerprint`.
    fingerprint : str
        Of the store's files.

    Raises
    ------
    SourceError
        If zarr is not installed, or the store is damaged or holds no image or no such plane.
    """
    zipped = not Path(path).is_dir()
    layout = lay_out(opened(_zip_store(path) if zipped else path, path), path, mpp, frame)
    options: dict[str, Any] = {"frame": frame, "mpp": mpp}
    if zipped:
        fingerprint = known_fingerprint(path, stamp, fingerprint)
        options["stamp"] = file_options(path, fingerprint)["stamp"]
    else:
        options["tree"] = tree_of(path, _files(path))
        if not fingerprint or tree is None or tuple(tree) != options["tree"]:
            fingerprint = _fingerprint(path)
    own = layout.fingerprint(fingerprint, frame)
    metadata, staged = layout.metadata, None
    if _is_dear(layout.levels[0]):
        staged = _stage(layout.levels[0], f"{own}-{_DECODER}")
        metadata = replace(metadata, notes=(*metadata.notes, staged_note(staged)))
    return ZarrSource(path, layout.levels, metadata, options, fingerprint, own, staged)


def opened(store: Any, name: str) -> Any:
    """Have zarr open a store, or one at a path; `name` is for errors."""
    try:
        import zarr
    except ImportError:
        raise FORMAT.missing(name) from None
    try:
        from zarr.storage import LocalStore

        from tilevision.sources.formats.arrays.zarrchunks import CheckedStore

        plain = LocalStore(store, read_only=True) if isinstance(store, str) else store
        return zarr.open(CheckedStore(plain), mode="r")
    except TilevisionError:
        raise
    except Exception as error:
        raise unreadable(name, error) from error


def _zip_store(path: str) -> Any:
    try:
        from zarr.storage import ZipStore
    except ImportError:
        raise FORMAT.missing(path) from None
    return ZipStore(path, mode="r")


def _files(path: str) -> list[Path]:
    return sorted(file for file in Path(path).rglob("*") if file.is_file())


def _fingerprint(path: str) -> str:
    """Return the SHA-256 over the names and contents of the store's files."""
    digest = hashlib.sha256(b"zarr ")
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        digest.update(bytes.fromhex(fingerprint_of_file(file)))
    return digest.hexdigest()


def _is_dear(level: ZarrLevel) -> bool:
    """Return True if a window makes so much more be decoded that decoding once pays."""
    alone = all(chunk >= side for chunk, side in zip(level.chunk, level.size, strict=True))
    if not alone and level.chunk_bytes < _HUGE_CHUNK:
        return False
    wide, high = (min(_TYPICAL_SIDE, side) for side in level.size)
    decoded = min(level.chunk[0], level.size[0]) * min(level.chunk[1], level.size[1])
    if decoded <= _DEAREST * wide * high:
        return False
    stored = level.size[0] * level.size[1] * level.bands * level.dtype.itemsize
    return stored < _STAGED_SHARE * shutil.disk_usage(staging_folder()).free


def _stage(level: ZarrLevel, key: str) -> StagedPixels:
    width, height = level.size
    wide, high = level.chunk

    def write(out: Pixels) -> Iterator[int]:
        for top in range(0, height, high):
            bottom = min(top + high, height)
            for left in range(0, width, wide):
                right = min(left + wide, width)
                out[top:bottom, left:right] = level.window(left, top, right, bottom, None)
            yield bottom

    return stage(key, (height, width, level.bands), level.dtype, write)


FORMAT = ImageFormat(
    "a Zarr store",
    accepts=lambda file: is_zarr(file.path),
    opener=open_zarr,
    pages=True,
    folders=True,
    library="zarr",
    extra="zarr",
)
PACKED = replace(
    FORMAT,
    name="a zipped Zarr store",
    begins=(_ZIP,),
    accepts=lambda file: file.path.lower().endswith(_ZIPPED),
    suffixes=frozenset({".ozx"}),
    folders=False,
)
