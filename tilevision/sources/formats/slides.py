"""Slides of the scanners that OpenSlide knows: MIRAX, NDPI, SCN, BIF, VMS, CZI, DICOM, Philips.

Aperio's SVS and plain pyramids are read by the TIFF reader. The scan stays where the scanner put
it: nothing is shifted to its bounds, and label and macro photos are never opened.

OpenSlide trusts what a slide says of itself: a damaged one (one in a thousand, mutated at random)
makes it divide by zero, run out of memory or never return, and the notebook's process would end
with it. So a slide is first read in a process of its own. Workers need no such trial: they are
replaced.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources.capacity import available_memory, check_plausible
from tilevision.sources.filetree import FileWatch, Tree, tree_of
from tilevision.sources.formats.imageformat import TIFF_MAGIC, ImageFile, ImageFormat
from tilevision.sources.identity import (
    FileStamp,
    file_options,
    fingerprint_of_file,
    known_fingerprint,
)
from tilevision.sources.levels import LevelReader
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef

if TYPE_CHECKING:
    from openslide import OpenSlide

__all__ = ["FORMAT", "SlideLevel", "SlideSource", "is_slide", "open_slide", "try_slide"]

_SUFFIXES = (".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svslide", ".vms", ".vmu")
# What OpenSlide calls the kinds that the TIFF reader reads as well, and faster.
_PLAIN = ("aperio", "generic-tiff")
SLIDE_LISTS = (".vms", ".vmu")
# OpenSlide takes the memory for one without a question, and ends the process where it gets none.
_MOST_TILE_PIXELS = 1 << 28
_DICOM, _DICOM_AT = b"DICM", 128  # its mark, after a preamble of any content
_TRIAL_SECONDS = 30.0
_TRIAL = """
import sys
from contextlib import suppress
with suppress(ImportError, OSError, ValueError):
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
from openslide import OpenSlide
with suppress(Exception):
    slide = OpenSlide(sys.argv[1])
    for level, (width, height) in enumerate(slide.level_dimensions):
        wide, high = min(width, 512), min(height, 512)
        shrink = slide.level_downsamples[level]
        for x, y in ((0, 0), ((width - wide) // 2, (height - high) // 2), (width - 1, height - 1)):
            with suppress(Exception):
                slide.read_region((round(x * shrink), round(y * shrink)), level, (wide, high))
"""
_sound: set[tuple[str, FileStamp]] = set()


class SlideSource(LevelReader):
    """A scanned slide, RGB.

    Parameters
    ----------
    path : str
    slide : openslide.OpenSlide
    levels : sequence of SlideLevel
    metadata : ImageMetadata
    options : dict
        What `open_slide` was asked for, beyond the path, and what tells the slide's files.
    fingerprint : str
    """

    def __init__(
        self,
        path: str,
        slide: OpenSlide,
        levels: Sequence[SlideLevel],
        metadata: ImageMetadata,
        options: dict[str, Any],
        fingerprint: str,
    ) -> None:
        super().__init__(path, levels, 3, np.dtype(np.uint8), metadata)
        if "tree" in options:
            self.watch = FileWatch(path, lambda: _files(Path(path)), options["tree"])
        self._path = path
        self._slide = slide
        self._options = options
        self._fingerprint = fingerprint

    @property
    def reference(self) -> SourceRef:
        """What a worker opens this slide again from."""
        return SourceRef(
            opener="tilevision.sources.formats.slides:open_slide",
            path=self._path,
            options={**self._options, "fingerprint": self._fingerprint},
            fingerprint=self._fingerprint,
        )

    def close(self) -> None:
        """Close the slide."""
        self._slide.close()


class SlideLevel:
    """One resolution of a slide, over its background colour where nothing was scanned.

    OpenSlide is asked by full-resolution pixels: where a level is not smaller by a whole
    number, its pixels are met to within half a pixel of full resolution.

    Attributes
    ----------
    size, chunk : tuple of int
        See `Level`.
    """

    def __init__(self, name: str, slide: OpenSlide, number: int) -> None:
        self._name = name
        self._slide = slide
        self._number = number
        self._downsample = float(slide.level_downsamples[number])
        properties = slide.properties
        self.size: tuple[int, int] = slide.level_dimensions[number]
        self.chunk = (
            int(properties.get(f"openslide.level[{number}].tile-width", 1)),
            int(properties.get(f"openslide.level[{number}].tile-height", 1)),
        )
        self._background = "#" + properties.get("openslide.background-color", "FFFFFF")

    def window(self, x0: int, y0: int, x1: int, y1: int, bands: Sequence[int] | None) -> Pixels:
        """Return the pixels ``(y1 - y0, x1 - x0, bands)`` of a window inside the level."""
        from PIL import Image

        corner = round(x0 * self._downsample), round(y0 * self._downsample)
        size = x1 - x0, y1 - y0
        try:
            region = self._slide.read_region(corner, self._number, size)
        except MemoryError as error:
            raise SourceError(
                f"{self._name}: there is not enough memory to read {size[0]}×{size[1]} px at once."
            ) from error
        except Exception as error:
            raise SourceError(
                f"OpenSlide cannot read {self._name} at {x0}, {y0} of level {self._number} "
                f"({_words(error)}); if the slide was not closed before, get it again."
            ) from error
        shown = Image.new("RGB", size, self._background)
        shown.paste(region, mask=region)
        pixels = np.asarray(shown)
        return pixels if bands is None else np.take(pixels, bands, axis=2)


def is_slide(path: str, *, tiff: bool) -> bool:
    """Return True if OpenSlide shall read a file: a scanner's format that is not a plain TIFF.

    Parameters
    ----------
    path : str
    tiff : bool
        Whether it is of the TIFF family; else its name alone decides.
    """
    if Path(path).suffix.lower() in _SUFFIXES:
        return True
    if not tiff:
        return False
    try:
        from openslide import OpenSlide
    except (ImportError, OSError):
        return False
    return OpenSlide.detect_format(path) not in (None, *_PLAIN)


def open_slide(
    path: str,
    *,
    mpp: tuple[float, float] | None = None,
    stamp: tuple[int, int] | None = None,
    tree: Tree | None = None,
    fingerprint: str = "",
) -> SlideSource:
    """Open a slide.

    Parameters
    ----------
    path : str
    mpp : tuple of float, optional
        Microns per pixel in x and y; overrides what the slide says.
    stamp : tuple of int, optional
        Size and modification time under which a slide of one file had `fingerprint`.
    tree : tuple of int, optional
        Number, bytes and latest change (ns) of the files of a slide of several.
    fingerprint : str

    Raises
    ------
    SourceError
        If OpenSlide is not installed, or cannot read the slide.
    """
    slide = _opened(path)
    files = _files(Path(path))
    if len(files) == 1:
        fingerprint = known_fingerprint(path, stamp, fingerprint)
        identity: dict[str, Any] = file_options(path, fingerprint)
    else:
        identity = {"tree": tree_of(path, files)}
        if not fingerprint or tree is None or tuple(tree) != identity["tree"]:
            fingerprint = _fingerprint(Path(path), files)
    width, height = slide.dimensions
    stored = identity["tree"][1] if "tree" in identity else FileStamp.of(path).size
    check_plausible(path, width, height, stored)
    levels = [
        SlideLevel(path, slide, number)
        for number, (wide, high) in enumerate(slide.level_dimensions)
        if wide <= width and high <= height  # a damaged one may say anything
    ]
    if any(level.chunk[0] * level.chunk[1] > _MOST_TILE_PIXELS for level in levels):
        raise SourceError(f"{path} is damaged: its header claims tiles larger than any memory.")
    properties = slide.properties
    metadata = ImageMetadata(
        format=properties.get("openslide.vendor", "slide"),
        mpp=mpp or _microns(properties),
        bounds=_bounds(properties, slide.dimensions),
        levels=tuple(level.size for level in levels),
        notes=_notes(properties),
    )
    return SlideSource(path, slide, levels, metadata, {"mpp": mpp, **identity}, fingerprint)


def _opened(path: str) -> OpenSlide:
    try:
        from openslide import OpenSlide
    except (ImportError, OSError):
        raise FORMAT.missing(path) from None
    try:
        return OpenSlide(path)
    except Exception as error:
        said = f"OpenSlide cannot read {path} ({_words(error)})"
        if _is_dicom(Path(path)):
            raise SourceError(
                f"{said}. Of DICOM it reads whole slides in colour, of one focal plane, in "
                "explicit little endian, JPEG or JPEG 2000; convert others to that, or to OME-TIFF."
            ) from error
        raise SourceError(
            f"{said}; if it is a slide, get it again together with the files that belong to it."
        ) from error


def _notes(properties: Any) -> tuple[str, ...]:
    """Return what is to be known of a slide that holds several pictures of the same place."""
    paths = properties.get("dicom.NumberOfOpticalPaths", "1")
    if paths.isdecimal() and int(paths) > 1:
        return (
            f"The slide has {paths} optical paths (stains, wavelengths), of which OpenSlide shows "
            "one alone, and does not say which; export each as a slide of its own to be sure.",
        )
    return ()


def _microns(properties: Any) -> tuple[float, float] | None:
    with suppress(ValueError):
        both = [float(properties.get(f"openslide.mpp-{axis}", "nan")) for axis in "xy"]
        if all(np.isfinite(value) and value > 0 for value in both):
            return both[0], both[1]
    return None


def _bounds(properties: Any, size: tuple[int, int]) -> Box | None:
    """Return the scanned region inside the slide, or None where the slide names none."""
    try:
        x, y, wide, high = (
            int(properties[f"openslide.bounds-{part}"]) for part in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return None
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(size[0], x + wide), min(size[1], y + high)
    return Box(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _files(path: Path) -> list[Path]:
    """Return the files whose content is the slide's: those beside it, too."""
    suffix = path.suffix.lower()
    beside: list[Path] = []
    if suffix == ".mrxs":
        beside = [file for file in path.with_suffix("").rglob("*") if file.is_file()]
    elif suffix == ".dcm":
        beside = [file for file in path.parent.glob("*.[dD][cC][mM]") if file != path]
    elif _is_dicom(path):
        others = (file for file in path.parent.iterdir() if file != path)
        beside = [file for file in others if _is_file(file) and _is_dicom(file)]
    elif suffix in SLIDE_LISTS:
        beside = listed_files(path)
    return [path, *sorted(beside)]


def listed_files(path: Path, *, macro: bool = False) -> list[Path]:
    """Return the files beside a VMS or VMU that it names; its macro photo only where asked."""
    try:
        with path.open(encoding="latin-1") as file:
            pairs = [line.partition("=") for line in file]
    except OSError:
        return []
    names = [v.strip() for key, _, v in pairs if macro or not key.strip().startswith("Macro")]
    return sorted({path.parent / name for name in names if name and _is_file(path.parent / name)})


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(_DICOM_AT + len(_DICOM)).endswith(_DICOM)
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a value that cannot be a name
        return False


def _fingerprint(path: Path, files: Sequence[Path]) -> str:
    """Return the SHA-256 over the contents of the files, and their names but for the slide's."""
    digest = hashlib.sha256(b"slide ")
    for file in files:
        name = file.relative_to(path.parent).as_posix().removeprefix(path.stem)
        digest.update(f"{name}\0".encode())
        digest.update(bytes.fromhex(fingerprint_of_file(file)))
    return digest.hexdigest()


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def try_slide(path: str) -> None:
    """Check that OpenSlide survives a slide: that it opens, and reads some of every level.

    Takes some tenths of a second, once in this process for each slide. What OpenSlide refuses
    with an error passes here; that error is raised when the slide is opened.

    Raises
    ------
    SourceError
        If its process ended, or had to be ended.
    """
    key = (path, FileStamp.of(path))
    if key in _sound or not sys.executable:
        return
    command = [sys.executable, "-c", _TRIAL, path, str(available_memory())]
    with suppress(OSError):  # no process to be had: the slide is opened untried
        try:
            code = subprocess.run(  # noqa: S603  the path is no command
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_TRIAL_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise SourceError(
                f"{path}: OpenSlide did not finish reading it within {_TRIAL_SECONDS:g} s. "
                "The slide is damaged or its storage is too slow; copy it to a local disk."
            ) from None
        if code < 0:
            raise SourceError(
                f"{path} is damaged: OpenSlide crashes when it reads the slide (signal {-code}); "
                "get the slide again."
            )
    _sound.add(key)


def _accepts(file: ImageFile) -> bool:
    # Media name DICOM files without a suffix.
    dicom = file.prefix[_DICOM_AT:].startswith(_DICOM)
    return dicom or is_slide(file.path, tiff=file.prefix.startswith(TIFF_MAGIC))


def _open_tried(path: str, *, mpp: tuple[float, float] | None = None) -> SlideSource:
    try_slide(path)
    return open_slide(path, mpp=mpp)


def _companions(path: Path) -> list[Path]:
    return listed_files(path, macro=True) if path.suffix.lower() in SLIDE_LISTS else []


FORMAT = ImageFormat(
    "a scanner's slide",
    accepts=_accepts,
    opener=_open_tried,
    # DICOM is left out: a slide is many such files, and each of them would stand for all.
    suffixes=frozenset(_SUFFIXES) - {".dcm"},
    companions=_companions,
    library="OpenSlide",
    extra="slides",
)
