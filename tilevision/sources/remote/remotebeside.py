"""What GDAL keeps of a TIFF file elsewhere in files beside it: asked for once, when it is opened.

At most four requests, all at the same time, for what the file does not say itself. A server that
denies them has no such files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilevision.errors import SourceError, Throttled, TransientError
from tilevision.sources.addresses import Address
from tilevision.sources.formats.spatial import place_beside, with_place
from tilevision.sources.formats.tiff import (
    TiffPicture,
    with_bands_beside,
    with_mask_beside,
    with_overviews_beside,
)
from tilevision.sources.remote.protocols import remote_file
from tilevision.sources.remote.rangedfile import RangedFile
from tilevision.sources.remote.remotefile import Look, changed, patiently
from tilevision.sources.source import ImageMetadata

if TYPE_CHECKING:
    from tifffile import TiffFile

__all__ = ["FilesElsewhere", "ask_beside", "with_files_elsewhere"]

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WORLD_NUMBERS = 6

Parse = Callable[[RangedFile], AbstractContextManager["TiffFile"]]


@dataclass(frozen=True, slots=True)
class FilesElsewhere:
    """The files beside a TIFF file elsewhere, as far as there are any.

    Parameters
    ----------
    auxiliary, world : bytes
        The content of its ``.aux.xml`` and of its world file.
    mask, overviews : (int, str), optional
        Size and tag of its ``.msk`` and ``.ovr``.
    note : str
        Why nobody knows whether there are more; else empty.
    """

    auxiliary: bytes = b""
    world: bytes = b""
    mask: tuple[int, str] | None = None
    overviews: tuple[int, str] | None = None
    note: str = ""

    def __bool__(self) -> bool:
        """Return True if there are any."""
        return self != FilesElsewhere(note=self.note)


def ask_beside(address: Address, picture: TiffPicture, metadata: ImageMetadata) -> FilesElsewhere:
    """Ask for the files beside `address` that may say more of its picture.

    Parameters
    ----------
    address : Address
    picture : TiffPicture
    metadata : ImageMetadata
        As the file says.
    """
    wanted: list[tuple[str, Callable[[], object]]] = [
        ("auxiliary", lambda: _content(address.beside(".aux.xml")))
    ]
    if metadata.transform is None:
        wanted.append(("world", lambda: _world(_content(address.beside(".tfw", instead=True)))))
    if len(picture.levels) == 1:
        wanted.append(("overviews", lambda: _size_and_tag(address.beside(".ovr"))))
    if not any(picture.masks) and picture.levels[0].alpha is None:
        wanted.append(("mask", lambda: _size_and_tag(address.beside(".msk"))))
    found: dict[str, object] = {}
    with ThreadPoolExecutor(len(wanted), "tilevision-beside") as threads:
        asked = [(name, threads.submit(ask)) for name, ask in wanted]
        for name, answer in asked:
            try:
                found[name] = answer.result()
            except (TransientError, Throttled) as error:
                found["note"] = f"Whether a mask or overviews lie beside it is not known: {error}"
            except SourceError:
                continue
    return FilesElsewhere(**found)  # type: ignore[arg-type]  # each by its name


def with_files_elsewhere(
    address: Address,
    files: FilesElsewhere,
    picture: TiffPicture,
    metadata: ImageMetadata,
    parse: Parse,
) -> tuple[TiffPicture, ImageMetadata]:
    """Return a picture with what the files beside it say.

    Parameters
    ----------
    address : Address
    files : FilesElsewhere
        That `ask_beside` found.
    picture : TiffPicture
    metadata : ImageMetadata
    parse : callable
        Has tifffile parse a file elsewhere.

    Raises
    ------
    SourceError
        If one of the files is another by now, or damaged.
    """
    if files.note:
        metadata = replace(metadata, notes=(*metadata.notes, files.note))
    if files.auxiliary or files.world:
        picture, metadata = _described(address, files, picture, metadata)
    if files.overviews is not None:
        try:
            with _opened(address.beside(".ovr"), files.overviews, parse) as (file, tif, digest):
                picture = with_overviews_beside(file, tif, digest, picture)
        except SourceError as error:
            note = f"The overviews beside it are not read: {error}"
            metadata = replace(metadata, notes=(*metadata.notes, note))
    if files.mask is not None:
        with _opened(address.beside(".msk"), files.mask, parse) as (file, tif, digest):
            picture = with_mask_beside(file, tif, digest, picture)
    return picture, metadata


def _described(
    address: Address, files: FilesElsewhere, picture: TiffPicture, metadata: ImageMetadata
) -> tuple[TiffPicture, ImageMetadata]:
    """Return a picture with what is said of its place and its bands, as beside a local file."""
    import tifffile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{Path(address.name).stem}.tif"
        tifffile.imwrite(path, np.zeros((1, 1), np.uint8), metadata=None)
        auxiliary = path.with_name(f"{path.name}.aux.xml")
        if files.auxiliary:
            auxiliary.write_bytes(files.auxiliary)
        if files.world:
            path.with_suffix(".tfw").write_bytes(files.world)
        place = place_beside(str(path))
        if place is not None:
            metadata = with_place(metadata, place, picture.levels[0].size)
        return with_bands_beside(auxiliary, picture, metadata)


@contextmanager
def _opened(
    address: Address, known: tuple[int, str], parse: Parse
) -> Iterator[tuple[RangedFile, TiffFile, str]]:
    remote = remote_file(address)
    look = patiently(remote.look)
    if (look.size, look.tag) != tuple(known):
        raise changed(address)
    file = RangedFile(remote, look)
    with parse(file) as tif:
        yield file, tif, look.fingerprint(address)


def _content(address: Address) -> bytes:
    return patiently(lambda: remote_file(address).part(None, None)) or b""


def _world(content: bytes) -> bytes:
    """Return what is six numbers; servers have pages for what they have not."""
    words = content[:1000].split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return b""
    return content if len(numbers) == _WORLD_NUMBERS else b""


def _size_and_tag(address: Address) -> tuple[int, str] | None:
    look: Look = patiently(remote_file(address).look)
    return (look.size, look.tag) if look.ranges and look.start.startswith(_TIFF) else None
