"""What a format of image files declares: how its files are recognized, listed and opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tilevision.errors import SourceError
from tilevision.sources.levels import LevelReader

__all__ = ["PREFIX_BYTES", "TIFF_MAGIC", "ImageFile", "ImageFormat"]

PREFIX_BYTES = 132  # DICOM's mark comes after a preamble of 128
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file or folder whose format is to be found.

    Parameters
    ----------
    path : str
        Absolute.
    prefix : bytes
        The first 132 bytes of a file; empty for a folder.
    """

    path: str
    prefix: bytes

    @property
    def suffix(self) -> str:
        """Lower case, with its dot."""
        return Path(self.path).suffix.lower()


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """One format, declared as ``FORMAT`` in the file of this folder that reads it.

    Parameters
    ----------
    name : str
        What people call one file of it, with its article: ``"a PDF document"``.
    begins : tuple of bytes
        What its files begin with, one of these; empty where that does not tell them.
    accepts : callable, optional
        ``accepts(ImageFile)`` returns True if a file that begins so is of this format. Default:
        any such file.
    opener : callable
        ``opener(path, mpp=…)`` returns the image; with ``frame=`` (from 0) where it has `pages`,
        and with ``dpi=`` where it takes that and the caller gave one.
    suffixes : frozenset of str
        By which its files are found in a folder of images; lower case.
    pages : bool
        Whether one of several pages or frames can be asked for.
    dpi : bool
        Whether its pages are drawn at a resolution.
    folders : bool
        Whether an image of it is a folder.
    companions : callable, optional
        ``companions(path)`` returns the files beside an image that belong to it and are no
        images of their own.
    library, extra : str
        What it needs beyond tilevision's own requirements, and the extra that brings it.
    """

    name: str
    opener: Callable[..., LevelReader]
    begins: tuple[bytes, ...] = ()
    accepts: Callable[[ImageFile], bool] | None = None
    suffixes: frozenset[str] = frozenset()
    pages: bool = False
    dpi: bool = False
    folders: bool = False
    companions: Callable[[Path], Iterable[Path]] | None = None
    library: str = ""
    extra: str = ""

    def missing(self, path: str) -> SourceError:
        """Return the error for a file whose library is not installed."""
        return SourceError(
            f"{path} is {self.name}, which needs {self.library}: "
            f"pip install 'tilevision[{self.extra}]'."
        )
