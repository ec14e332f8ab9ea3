"""What GDAL keeps of an image elsewhere in files beside it: asked for once, when it is opened.

At most four requests, all at the same time, for what the file does not say itself. A server that
denies them has no such files. Those beside an image that is downloaded are downloaded with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from tilevision.errors import SourceError, Throttled, TransientError
from tilevision.sources.addresses import Address
from tilevision.sources.formats import georasters
from tilevision.sources.formats.flat import picture_format
from tilevision.sources.formats.slides import is_slide
from tilevision.sources.formats.spatial import EarthPlace, place_beside, with_place
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

__all__ = [
    "FilesElsewhere",
    "ask_beside",
    "ask_for_download",
    "placed_elsewhere",
    "with_files_elsewhere",
]

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WORLD_NUMBERS = 6
_TURNED = 5  # orientations from here on swap width and height

Question = tuple[str, Callable[[], object]]
Parse = Callable[[RangedFile], AbstractContextManager["TiffFile"]]


@dataclass(frozen=True, slots=True)
class FilesElsewhere:
    """The files beside an image elsewhere, as far as there are any.

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
    wanted: list[Question] = [
        ("auxiliary", lambda: _auxiliary(_content(address.beside(".aux.xml"))))
    ]
    if metadata.transform is None:
        wanted.append(_world_file(address, "tfw"))
    if len(picture.levels) == 1:
        wanted.append(("overviews", lambda: _size_and_tag(address.beside(".ovr"), ranged=True)))
    if not any(picture.masks) and picture.levels[0].alpha is None:
        wanted.append(("mask", lambda: _size_and_tag(address.beside(".msk"), ranged=True)))
    return _answered(wanted)


def ask_for_download(address: Address, look: Look) -> FilesElsewhere:
    """Ask for the files beside an image that is to be downloaded, where its format has such.

    Parameters
    ----------
    address : Address
        Of the file, without a page.
    look : Look
        That somebody had of it.
    """
    tiff = look.start.startswith(_TIFF)
    raster = not tiff and PurePosixPath(address.name).suffix.lower() in georasters.FORMAT.suffixes
    picture = not (tiff or raster) and bool(picture_format(look.start))
    if not (tiff or raster or picture) or is_slide(address.name, tiff=False):
        return FilesElsewhere()
    suffix = PurePosixPath(address.name).suffix[1:].lower()
    usual = f"{suffix[:1]}{suffix[-1:]}w"
    wanted: list[Question] = [
        ("auxiliary", lambda: _auxiliary(_content(address.beside(".aux.xml"))))
    ]
    wanted += [_world_file(address, usual)] * bool(suffix)
    if not tiff:  # as for TIFF that is read by ranges, where this name is not asked for either
        wanted += [_world_file(address, "wld")] * bool(suffix)
    if not raster:
        wanted.append(("mask", lambda: _size_and_tag(address.beside(".msk"))))
    if tiff:
        wanted.append(("overviews", lambda: _size_and_tag(address.beside(".ovr"))))
    return _answered(wanted)


def _world_file(address: Address, suffix: str) -> Question:
    shouted = PurePosixPath(address.name).suffix.isupper()
    place = address.beside(f".{suffix.upper() if shouted else suffix}", instead=True)
    return "world", lambda: _world(_content(place))


def _answered(wanted: Sequence[Question]) -> FilesElsewhere:
    """Return what is answered to all of the questions, asked at the same time."""
    found: dict[str, object] = {}
    with ThreadPoolExecutor(len(wanted), "tilevision-beside") as threads:
        asked = [(name, threads.submit(ask)) for name, ask in wanted]
        for name, answer in asked:
            try:
                found[name] = found.get(name) or answer.result()
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
    with _stand_in(address, files) as (place, auxiliary):
        if place is not None:
            metadata = with_place(metadata, place, picture.levels[0].size)
        return with_bands_beside(auxiliary, picture, metadata)


def placed_elsewhere(
    address: Address, files: FilesElsewhere, metadata: ImageMetadata, size: tuple[int, int]
) -> ImageMetadata:
    """Return what is said of an image of a size, with where it lies by its world file.

    Parameters
    ----------
    address : Address
    files : FilesElsewhere
    metadata : ImageMetadata
        As the image says, and its ``.aux.xml``.
    size : tuple of int
        Width and height, upright.
    """
    if not files.world or metadata.transform is not None:
        return metadata
    with _stand_in(address, files) as (place, _):
        stored = size[::-1] if metadata.orientation >= _TURNED else size
        return metadata if place is None else with_place(metadata, place, stored)


@contextmanager
def _stand_in(
    address: Address, files: FilesElsewhere
) -> Iterator[tuple[EarthPlace | None, Path | None]]:
    """Lay what was found beside an image of one pixel; yield its place and its ``.aux.xml``."""
    import tifffile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{Path(address.name).stem}.tif"
        tifffile.imwrite(path, np.zeros((1, 1), np.uint8), metadata=None)
        auxiliary = path.with_name(f"{path.name}.aux.xml")
        if files.auxiliary:
            auxiliary.write_bytes(files.auxiliary)
        if files.world:
            path.with_suffix(".tfw").write_bytes(files.world)
        yield place_beside(str(path)), auxiliary if files.auxiliary else None


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


def _auxiliary(content: bytes) -> bytes:
    """Return what GDAL wrote; servers have pages for what they have not."""
    return content if b"<PAMDataset" in content else b""


def _world(content: bytes) -> bytes:
    """Return what is six numbers; servers have pages for what they have not."""
    words = content[:1000].split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return b""
    return content if len(numbers) == _WORLD_NUMBERS else b""


def _size_and_tag(address: Address, *, ranged: bool = False) -> tuple[int, str] | None:
    look: Look = patiently(remote_file(address).look)
    usable = look.start.startswith(_TIFF) and (look.ranges or not ranged)
    return (look.size, look.tag) if usable else None
