"""Files elsewhere that have no cheap windows: downloaded once, for all workers of a host.

From then on it is a local file, identified by its content as every other. It is in the staging
folder while anybody here reads it, with what lies beside it at its address: `remotebeside`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.display import ErrorStream
from tilevision.errors import SourceError, TransientError
from tilevision.geometry import Box
from tilevision.sources.addresses import Address
from tilevision.sources.levels import LevelReader
from tilevision.sources.remote.protocols import remote_file
from tilevision.sources.remote.remotebeside import (
    FilesElsewhere,
    ask_for_download,
    placed_elsewhere,
)
from tilevision.sources.remote.remotefile import Look, Remote, changed, patiently
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef
from tilevision.sources.staging.stagingfile import hold, leave, staging_folder, unusable

__all__ = ["Download", "DownloadedSource", "download", "open_download"]

_SPARE_BYTES = 64 << 20
_WORTH_TELLING = 1 << 25  # bytes: what comes sooner needs no progress bar
_ATTEMPTS = 4
_LONGEST_SUFFIX = 8


class Download:
    """A file in the staging folder and this process's share in it.

    Parameters
    ----------
    path : Path
    share : int
        As `hold` returns it.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: Path, share: int) -> None:
        self.path = path
        self._leave = weakref.finalize(self, leave, path, share, os.getpid())

    def close(self) -> None:
        """Give up this share; the last one to do so removes the file."""
        self._leave()


class DownloadedSource(LevelReader):
    """An image in a file that was downloaded.

    Parameters
    ----------
    image : LevelReader
        Of the downloaded file.
    file : Download
    reference : SourceRef
    """

    def __init__(self, image: LevelReader, file: Download, reference: SourceRef) -> None:
        self._image = image
        self._file = file
        self._reference = reference
        self.revision = image.revision
        self.classes = image.classes
        self.colours = image.colours
        self.later_levels = image.later_levels
        self._name = reference.path
        self.size = image.size
        self.bands = image.bands
        self.dtype = image.dtype
        self.metadata: ImageMetadata = replace(
            image.metadata, notes=(_note(file), *image.metadata.notes)
        )

    @property
    def is_staged(self) -> bool:
        """Always."""
        return True

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this image again from."""
        return self._reference

    @property
    def stored(self) -> LevelReader:
        """The same image with the values that the file stores."""
        stored = self._image.stored
        if stored is self._image:
            return self
        return DownloadedSource(stored, self._file, self._reference)

    @property
    def masked(self) -> bool:
        """Return True if a mask or an alpha band says where the image has no data."""
        return self._image.masked

    @property
    def resampled(self) -> str:
        """Names in what resampled values differ from those of earlier releases."""
        return self._image.resampled

    def read(self, box: Box, scale: float = 1.0, bands: Sequence[int] | None = None) -> Pixels:
        """Return the pixels of `box` as ``(h, w, c)``; see `ImageSource.read`."""
        with _named(self._file.path, self._name):
            return self._image.read(box, scale, bands)

    def preview(self, box: Box, scale: float, bands: Sequence[int] | None = None) -> Pixels:
        """Return about what `read` does; see `LevelReader.preview`."""
        with _named(self._file.path, self._name):
            return self._image.preview(box, scale, bands)

    def read_masked(
        self, box: Box, scale: float = 1.0, bands: Sequence[int] | None = None
    ) -> tuple[Pixels, NDArray[np.bool_] | None]:
        """Return what `read` does, and which of it has data; None where all has."""
        with _named(self._file.path, self._name):
            return self._image.read_masked(box, scale, bands)

    def data_share(self, max_side: int) -> NDArray[np.float32] | None:
        """Return the share of each cell that has data; see `LevelReader.data_share`."""
        with _named(self._file.path, self._name):
            return self._image.data_share(max_side)

    def thumbnail(self, max_side: int) -> Pixels:
        """Return the whole image as ``(h, w, c)``, its longer side at most `max_side`."""
        with _named(self._file.path, self._name):
            return self._image.thumbnail(max_side)

    def close(self) -> None:
        """Close the image, and give up the downloaded file."""
        self._image.close()
        self._file.close()


def open_download(
    path: str,  # noqa: ARG001 - for people; the address opens it
    *,
    address: Address,
    key: str,
    page: int | None = None,
    mpp: tuple[float, float] | None = None,
    dpi: float | None = None,
    beside: FilesElsewhere | None = None,
) -> DownloadedSource:
    """Open on a worker what `download` opened, downloading it where this host has it not.

    Parameters
    ----------
    path : str
        The address without its secrets.
    address : Address
    key : str
        Names the file in the staging folder.
    page, mpp, dpi
        As `open_source` takes them.
    beside : FilesElsewhere, optional
        The files beside it, where there are any.
    """
    staged, files = _staged(key, address), beside or FilesElsewhere()

    def fetch() -> None:
        remote = remote_file(address)
        _fetch_all(remote, patiently(remote.look), staged, files)

    return _opened(Download(staged, hold(staged, fetch)), address, key, files, page, mpp, dpi)


def download(
    remote: Remote,
    look: Look,
    page: int | None,
    mpp: tuple[float, float] | None,
    dpi: float | None,
) -> DownloadedSource:
    """Open an image that has to be downloaded.

    Parameters
    ----------
    remote : Remote
    look : Look
        That `remote` had of it.
    page, mpp, dpi
        As `open_source` takes them.

    Raises
    ------
    SourceError
        If it cannot be downloaded, or is not an image.
    """
    # Without a tag nobody knows whether a file that is here already is still the same.
    key = look.fingerprint(remote.address) if look.tag else secrets.token_hex(16)
    first = page in (None, 1)
    beside = ask_for_download(remote.address, look) if first else FilesElsewhere()
    if beside:
        key = sha256(f"{key} {replace(beside, note='')!r}".encode()).hexdigest()
    staged = _staged(key, remote.address)
    file = Download(staged, hold(staged, lambda: _fetch_all(remote, look, staged, beside)))
    return _opened(file, remote.address, key, beside, page, mpp, dpi)


def _opened(
    file: Download,
    address: Address,
    key: str,
    beside: FilesElsewhere,
    page: int | None,
    mpp: tuple[float, float] | None,
    dpi: float | None,
) -> DownloadedSource:
    shown = address.shown
    try:
        with _named(file.path, shown):
            from tilevision.sources.localfiles import open_local

            image = open_local(str(file.path), page=page, mpp=mpp, dpi=dpi)
            image.metadata = placed_elsewhere(address, beside, image.metadata, image.size)
    except BaseException:
        file.close()
        raise
    if beside.note:
        image.metadata = replace(image.metadata, notes=(*image.metadata.notes, beside.note))
    options = {"address": address, "key": key, "page": page, "mpp": mpp, "dpi": dpi}
    reference = SourceRef(
        opener="tilevision.sources.remote.downloads:open_download",
        path=shown,
        options={**options, "beside": beside} if beside else options,
        fingerprint=image.fingerprint,
    )
    return DownloadedSource(image, file, reference)


def _staged(key: str, address: Address) -> Path:
    """Return where the file lies; some formats go by their suffix."""
    suffix = PurePosixPath(replace(address, page=None).name).suffix.lower()
    plain = suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= _LONGEST_SUFFIX
    usual = plain and suffix not in (".lock", ".part")
    return staging_folder() / f"{key}-download{suffix if usual else '.file'}"


def _fetch_all(remote: Remote, look: Look, path: Path, beside: FilesElsewhere) -> None:
    """Write the file to `path`, and first what lies beside it; all go with it when it goes."""
    if beside.auxiliary:
        path.with_name(f"{path.name}.aux.xml").write_bytes(beside.auxiliary)
    for suffix, known in ((".msk", beside.mask), (".ovr", beside.overviews)):
        if known is None:
            continue
        other = remote_file(remote.address.beside(suffix))
        seen = patiently(other.look)
        if (seen.size, seen.tag) != tuple(known):
            raise changed(other.address)
        _fetch(other, seen, path.with_name(f"{path.name}{suffix}"))
    _fetch(remote, look, path)


def _fetch(remote: Remote, look: Look, path: Path) -> None:
    """Write the file to `path`, going on where a connection broke off."""
    part = path.with_suffix(".part")
    size = max(0, look.size)
    if shutil.disk_usage(part.parent).free < size + _SPARE_BYTES:
        raise unusable(path, OSError("not enough space"), size)
    shown = size >= _WORTH_TELLING and ErrorStream().isatty()
    with _progress(remote.address, size, shown=shown) as tell, part.open("wb") as out:
        part.chmod(0o600)
        for attempt in range(_ATTEMPTS):
            begin = out.tell() if look.ranges else 0
            out.seek(begin)
            try:
                for piece in remote.pieces(look, begin):
                    if shutil.disk_usage(part.parent).free < len(piece) + _SPARE_BYTES:
                        raise unusable(path, OSError("not enough space"))
                    out.write(piece)
                    tell(len(piece))
                break
            except TransientError:
                if attempt == _ATTEMPTS - 1:
                    raise
            except OSError as error:
                raise unusable(path, error, size) from None
        out.truncate()
    part.replace(path)


@contextmanager
def _progress(address: Address, size: int, *, shown: bool) -> Iterator[Callable[[int], Any]]:
    if not shown:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(
        total=size,
        desc=f"downloading {address.name}",
        unit="B",
        unit_scale=True,
        file=ErrorStream(),
    ) as bar:
        yield bar.update


def _note(file: Download) -> str:
    return (
        f"downloaded once: {file.path.stat().st_size / 1e6:,.1f} MB into {file.path.parent}; "
        "removed when no longer in use"
    )


@contextmanager
def _named(path: Path, shown: str) -> Iterator[None]:
    """Have errors call the image by its address, not by a file that nobody knows."""
    try:
        yield
    except SourceError as error:
        raise SourceError(str(error).replace(str(path), shown)) from None
