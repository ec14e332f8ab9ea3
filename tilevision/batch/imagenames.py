"""The images of a multi-image run: their names, and the file that each is saved to."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tilevision import checks
from tilevision.display import readable
from tilevision.errors import RunError, SourceError
from tilevision.exporting import destination
from tilevision.exporting.saving import find_format
from tilevision.files import check_folder, refusing
from tilevision.pipeline.planning import image_name
from tilevision.sources import ALL_PAGES, ImageSource, images_in, pages
from tilevision.sources.addresses import address_of, is_address
from tilevision.sources.formats.arrays.zarrstore import is_zarr
from tilevision.sources.remote.stores import addresses_like, is_pattern

__all__ = ["SUMMARY", "export_name", "label_of", "named_images", "stands_for_many", "targets"]

SUMMARY = "summary.csv"


def named_images(images: Any) -> dict[str, Any]:
    """Return image by name, in the order given; folders and patterns in sorted order.

    Raises
    ------
    RunError
        If there is no image, or two would have the same name.
    SourceError
        If a folder cannot be read.
    """
    named: dict[str, Any] = {}
    for position, image in enumerate(_listed(_several(images))):
        is_path = isinstance(image, (str, os.PathLike))
        name = image_name(image) if is_path else f"{position:04d}-{image_name(image)}"
        if name in named:
            raise RunError(
                f"Two images are named {name}: {_shown(named[name])} and {_shown(image)}. Rename "
                "one, or analyse them in separate calls."
            )
        named[name] = image
    if not named:
        raise RunError(
            f"There is no image in {images!r}. Give a folder, a pattern like 'scans/*.tif', or a "
            "list."
        )
    return named


def label_of(images: Any) -> str:
    """Return the name of `images` together: that of the folder, or the pattern."""
    if not isinstance(images, (str, os.PathLike)):
        return "a list"
    text = os.fspath(images)
    if is_address(text):
        return _shown(text)
    return readable(Path(text).absolute().name if os.path.isdir(text) else text)  # noqa: PTH112 - any text


def stands_for_many(image: str) -> bool:
    """Return True if `image` is a folder of images, a pattern, or every page of a file."""
    if is_address(image):
        return image.endswith(ALL_PAGES) or is_pattern(image)
    if not glob.has_magic(image) and not image.endswith(ALL_PAGES) and not os.path.isdir(image):  # noqa: PTH112 - any text
        return False
    return _expanded(image) != [image]


def targets(folder: str | os.PathLike[str], names: Iterable[str], form: str) -> Mapping[str, Path]:
    """Return the file for each name, all of which could be written now; make the folder.

    Raises
    ------
    RunError
        If the format is unknown, the folder cannot be written, or two names mean one file,
        also where a disk does not tell capitals apart.
    """
    kind = find_format(Path(), form)
    suffix = kind.among or kind.suffix
    place = checks.path("out_dir", folder)
    files = {name: place / f"{export_name(name)}{suffix}" for name in names}
    taken = {_alike(SUMMARY): "the table of all images"}
    for name, file in files.items():
        other = taken.setdefault(_alike(file.name), name)
        if other != name:
            raise RunError(
                f"{other} and {name} would both be written to {file.name}. Rename one, or "
                "analyse them in separate calls."
            )
    with refusing(place):
        place.mkdir(parents=True, exist_ok=True)
        check_folder(place)
    return {name: destination(file, form) for name, file in files.items()}


def export_name(name: str) -> str:
    """Return the name of an image's export, without suffix: ``scan-page3`` of a page."""
    path, _, page = name.rpartition("#page=")
    return f"{Path(path).stem}-page{page}" if path and page.isdecimal() else Path(name).stem


def _several(images: Any) -> Iterable[Any]:
    if isinstance(images, (str, os.PathLike)):
        return [images]
    single = hasattr(images, "shape") or hasattr(images, "mode") or isinstance(images, ImageSource)
    if single or not isinstance(images, Iterable):
        raise RunError(
            f"A single {type(images).__name__} was given. Give a list of images, like [image], or "
            "a folder."
        )
    return images


def _listed(images: Iterable[Any]) -> Iterator[Any]:
    several = list(images)
    for image in several:
        found = _expanded(os.fspath(image)) if isinstance(image, (str, os.PathLike)) else [image]
        # One of several that matches no file is reported like a bad image.
        yield from found or (several[1:] and [image])


def _expanded(text: str) -> list[Any]:
    """Return what a folder, a pattern or all pages stand for; else `text` alone."""
    if is_address(text):
        return _expanded_address(text)
    path = Path(text)
    if os.path.isdir(text):  # noqa: PTH112 - any text, and no error
        return [text] if is_zarr(text) else list(images_in(text))
    if glob.has_magic(text) and not path.exists():
        return sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - takes absolute patterns
    if text.endswith(ALL_PAGES) and not path.exists():
        try:
            return list(pages(text.removesuffix(ALL_PAGES)))
        except SourceError:
            return [text.removesuffix(ALL_PAGES)]  # reported when its turn comes: it stops nothing
    return [text]


def _expanded_address(text: str) -> list[Any]:
    if is_pattern(text):
        return addresses_like(text)
    if text.endswith(ALL_PAGES):
        try:
            return list(pages(text.removesuffix(ALL_PAGES)))
        except SourceError:
            return [text.removesuffix(ALL_PAGES)]  # as below
    return [text]


def _shown(image: Any) -> str:
    return address_of(image).shown if is_address(image) else str(image)


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
