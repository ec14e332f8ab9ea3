"""What is true of an image, and what is known of the image that a truth is wanted for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import SourceError
from tilevision.evaluation.truthshapes import placed
from tilevision.findings import Findings

if TYPE_CHECKING:
    from tilevision.analysis.units import Georeference

__all__ = ["NoTruth", "Pictured", "Truth", "stem_of"]


def stem_of(image: object) -> str:
    """Return what an image is called, without its folder and suffix, on whatever system."""
    return PurePath(str(image).replace("\\", "/")).stem


class NoTruth(SourceError):
    """A file of several images names none of them like the image in question."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of one image.

    Attributes
    ----------
    objects : Findings
    crowd : Findings
        Regions with objects that nobody counted (COCO's ``iscrowd``): a detection in one of them is
        neither right nor wrong.
    other : str
        What it calls its image, where that is not what the image is called.
    """

    objects: Findings
    crowd: Findings = field(default_factory=Findings)
    other: str = ""

    @classmethod
    def of(cls, findings: Findings, crowd: Iterable[bool] = ()) -> Truth:
        """Return the truth of rows in the order given; `crowd` marks regions."""
        marks = np.array(list(crowd), dtype=bool)
        if not marks.any():
            return cls(findings)
        return cls(findings.take(~marks), findings.take(marks))


@dataclass(frozen=True, slots=True)
class Pictured:
    """What is known of the image that a truth is wanted for.

    Parameters
    ----------
    name : str, optional
        Chooses among the images of a file.
    size : tuple of int, optional
        Width and height, for formats in shares of them.
    place : Georeference, optional
        Where it lies on Earth.
    names : sequence of (str or None), optional
        Names of classes by number, for formats that hold numbers alone.
    strict : bool
        True if a file of a single image must name this one.
    others : list of str
        What a truth of a single image calls it, where that is not its name; filled as it is read.
    """

    name: str | None = None
    size: tuple[int, int] | None = None
    place: Georeference | None = None
    names: tuple[str | None, ...] = ()
    strict: bool = False
    others: list[str] = field(default_factory=list, compare=False)

    def found(
        self, shapes: NDArray[np.object_], crs: str | None, where: str
    ) -> NDArray[np.object_]:
        """Return shapes on Earth in pixels of the image, which has a place.

        Parameters
        ----------
        shapes : ndarray of shapely geometries
        crs : str, optional
            Theirs; None is longitude and latitude.
        where : str
            The truth that they are of, for messages.
        """
        assert self.place is not None  # the caller has looked
        return placed(shapes, self.place, crs, self.size, where)

    def chosen(self, images: Iterable[object], where: str) -> set[object]:
        """Return which of the `images` that `where` names is this one, in all its spellings.

        Raises
        ------
        SourceError
            If none is, or images in two folders are.
        """
        known = list(dict.fromkeys(images))
        if len(known) <= 1 and not self.strict:
            self.note_name(*known)
            return set(known)
        exact = {one for one in known if str(one) == self.name}
        stem = None if self.name is None else stem_of(self.name)
        fit = exact or {one for one in known if stem_of(one) == stem}
        if len({str(one) for one in fit}) != 1:
            kind = NoTruth if not fit else SourceError
            raise kind(
                f"{where} describes {len(known)} images and {len(fit)} of them are named "
                f"{self.name!r}; give the annotations of one image."
            )
        return fit

    def note_name(self, *named: object) -> None:
        """Remember that a truth calls its image otherwise: it may be that of another one."""
        known = self.name in (None, "array", "image")  # of pixels in memory there is no name
        if not known and named and stem_of(named[0]) != stem_of(self.name):
            self.others.append(str(named[0]))

    def check_size(self, width: object, height: object, where: str) -> None:
        """Make sure that a truth is of an image as large as this one, where it says how large.

        Raises
        ------
        SourceError
            If it is not.
        """
        try:
            stated = (int(float(str(width))), int(float(str(height))))
        except (ValueError, OverflowError):
            return
        if self.size is not None and min(stated) > 0 and stated != self.size:
            raise SourceError(
                f"{where} is of an image of {stated[0]}×{stated[1]} px, and {self.name or 'this'} "
                f"has {self.size[0]}×{self.size[1]}; scale the truth, or give that of this image."
            )

    def class_name(self, number: int) -> str:
        """Return the name of a class number."""
        known = self.names[number] if 0 <= number < len(self.names) else None
        return f"class_{number}" if known is None else known
