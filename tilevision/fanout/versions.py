"""Which differences between the client's packages and a cluster's matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PACKAGES", "Differences", "compare"]

# Dask names these for every process when asked: the first ones can stop a run, the others are
# what pixels and answers come from.
PACKAGES = (
    *("tilevision", "distributed", "cloudpickle"),
    *("numpy", "scikit-image", "scipy", "pillow", "tifffile", "imagecodecs", "shapely"),
)
DASK_MONTHS = 12


@dataclass(frozen=True, slots=True)
class Differences:
    """What differs in one process.

    Parameters
    ----------
    troubles : tuple of str
        What it cannot work with; worded to follow the process's name.
    notes : tuple of str
        What it can: ``"numpy 2.3.1 (here 2.4.6)"``.
    """

    troubles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def compare(
    here: Mapping[str, str | None], there: Mapping[str, str | None], *, code: bool = False
) -> Differences:
    """Sort the differences between two processes into those that stop a run and those that do not.

    Parameters
    ----------
    here, there : mapping
        Package to version, of the client and of a worker or the scheduler, with ``"python"``;
        None or absent where it is unknown. A package without its metadata is unknown, not
        missing: what cannot be imported shows when it is.
    code : bool
        Whether the model travels as bytecode.

    Notes
    -----
    tilevision has to be the same, since tasks name its functions and records are what it says
    they are. Python's minor version decides how bytecode is read; a model that is named gets
    along with another. Dask promises nothing between releases: 13 months apart worked, and 19
    months apart the workers vanished and the run would have waited for ever (measured with
    2026.8), so a year is the limit. NumPy and all others read and write what is sent either
    way; they can change answers in the last digit, which is worth a note.
    """
    troubles, notes = [], []
    for package in ("python", *PACKAGES):
        ours, theirs = here.get(package), there.get(package)
        if not ours or not theirs or ours == theirs:
            continue
        if package == "python":
            ours, theirs = _short(ours), _short(theirs)
            if ours == theirs:
                continue
        if _stops(package, ours, theirs, code):
            troubles.append(f"has {package} {theirs} and the client {ours}; install the same")
        else:
            notes.append(f"{package} {theirs} (here {ours})")
    return Differences(tuple(troubles), tuple(notes))


def _short(python: str) -> str:
    """Return the ``3.11`` of ``3.11.7.final.0``: bug fixes make no difference."""
    return ".".join(python.split(".")[:2])


def _stops(package: str, ours: str, theirs: str, code: bool) -> bool:
    if package == "python":
        return code
    if package == "distributed":  # and with it dask, which it pins
        return _months_apart(ours, theirs) > DASK_MONTHS
    return package == "tilevision"


def _months_apart(one: str, other: str) -> int:
    """Return how far apart two releases of Dask are, which are named after their month."""
    months = []
    for version in (one, other):
        year, month, *_ = [*version.split("."), "", ""]
        if not (year.isdecimal() and month.isdecimal()):
            return 0  # a build of somebody's own: whether it works shows when it is tried
        months.append(int(year) * 12 + int(month))
    return abs(months[0] - months[1])
