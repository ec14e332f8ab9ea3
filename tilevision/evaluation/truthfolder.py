"""A folder with one file of truth for each image: which of them is that of an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tilevision.errors import SourceError
from tilevision.evaluation.annotated import NoTruth, Pictured, Truth, stem_of
from tilevision.evaluation.truthformats import READERS
from tilevision.files import kind_of

__all__ = ["folder"]

_PICTURES = (".png", ".tif", ".tiff", ".npy")
# What stands before the suffix where `save` names a format: "scan.coco.json" is of "scan".
_FORMATS = ("coco", "qupath", "label-studio", "cvat", "voc")


def folder(path: Path, pictured: Pictured) -> Truth:
    """Read the file of the image in a folder of YOLO labels, or in one of files like it.

    Raises
    ------
    NoTruth
        If there is none.
    SourceError
        If there are several in folders of their own.
    """
    labels = path / "labels" if (path / "labels").is_dir() else path
    stem = stem_of(pictured.name or "")
    literal = re.sub(r"([*?[])", r"[\1]", stem)
    found = [one for one in sorted(labels.rglob(f"{literal}.*")) if _is_of(one, stem)]
    if not stem or not found:
        raise NoTruth(
            f"{labels} is a folder that holds no labels named like {pictured.name!r}; give the "
            "file of this image, or name it like the image."
        )
    # A picture beside its labels is no mask of objects, also where it is grey.
    found = [one for one in found if kind_of(one) not in _PICTURES] or found
    found = _in_its_folder(found, Path(pictured.name or "")) or found
    if len({one.parent for one in found}) > 1:
        few = ", ".join(str(one.relative_to(path)) for one in found[:3])
        raise SourceError(
            f"{path} holds several files named like {pictured.name!r} ({few}), and one may be that "
            "of another image; give the folder of these images alone."
        )
    return READERS[kind_of(found[0])](found[0], pictured)


def _is_of(file: Path, stem: str) -> bool:
    """Return True if a file is called like an image, and "scan.1.txt" is not called like "scan"."""
    kind = kind_of(file)
    between = file.name[len(stem) : len(file.name) - len(kind)].lstrip(".")
    return kind in READERS and file.is_file() and between.lower() in ("", *_FORMATS)


def _in_its_folder(found: Sequence[Path], image: Path) -> list[Path]:
    """Return those of the files that lie in a folder called like that of the image."""
    parts = [part for part in image.parent.parts if part not in ("images", "labels")]
    return [one for one in found if parts and parts[-1] in one.parent.parts]
