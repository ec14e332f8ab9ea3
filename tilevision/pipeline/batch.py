"""What became of many images: a row for each, and their results when they are asked for."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tilevision.errors import Blocked, IncompleteRun, TilevisionError
from tilevision.exporting.atomic import writing
from tilevision.result import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Batch", "ImageRow", "bare", "write_summary"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class ImageRow:
    """What became of one image.

    Parameters
    ----------
    image : str
        Its name.
    status : str
        As `Result.status`; ``blocked`` by moderation, ``error`` where there is no result, and
        ``pending`` until its turn has come.
    detections, tiles, failed : int
        Detections after the merge; all tiles; those that failed.
    seconds : float
        That it took this time.
    error : str
        Why something is missing, in one line; empty where nothing is.
    """

    image: str
    status: str = "pending"
    detections: int = 0
    tiles: int = 0
    failed: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether every tile was analysed."""
        return self.status == "complete" and not self.error

    @classmethod
    def of(cls, name: str, result: Result, seconds: float) -> ImageRow:
        """Return the row of an image that was analysed, fully or in part."""
        failed = sum(row.status == "failed" for row in result.rows)
        whole = result.complete and result.status == "complete"
        told = "" if whole else " ".join(filter(None, [result.coverage, _why(result)]))
        return cls(
            image=name,
            status=result.status,
            detections=len(result.findings),
            tiles=len(result.rows),
            failed=failed,
            seconds=round(seconds, 2),
            error=told,
        )

    @classmethod
    def without(cls, name: str, error: TilevisionError, seconds: float) -> ImageRow:
        """Return the row of an image that could not be analysed."""
        status = "blocked" if isinstance(error, Blocked) else "error"
        line = " ".join(str(error).split())
        return cls(image=name, status=status, seconds=round(seconds, 2), error=line)


class Batch(Mapping[str, Result]):
    """The results of many images by name, and what went wrong with the others.

    A result is read from the checkpoint when it is asked for, and only the latest is held:
    results can be large, and images many.

    Parameters
    ----------
    rows : iterable of ImageRow
        In the order of the images.
    results : mapping of str to callable
        Each returns the result of an image.
    errors : dict of str to TilevisionError

    Attributes
    ----------
    rows : tuple of ImageRow
    errors : dict of str to TilevisionError
        Images that could not be analysed.
    """

    def __init__(
        self,
        rows: Iterable[ImageRow],
        results: Mapping[str, Callable[[], Result]],
        errors: dict[str, TilevisionError],
    ) -> None:
        self.rows = tuple(rows)
        self.errors = errors
        self._load = results
        self._latest: tuple[str, Result] | None = None

    @property
    def results(self) -> Mapping[str, Result]:
        """Images that were analysed, fully or in part, by name: this mapping itself."""
        return self

    def __getitem__(self, name: str) -> Result:
        if self._latest is None or self._latest[0] != name:
            load = self._load[name]
            self._latest = None  # not two at a time
            self._latest = (name, load())
        return self._latest[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load)

    def __len__(self) -> int:
        return len(self._load)

    def __contains__(self, name: object) -> bool:
        return name in self._load

    @property
    def complete(self) -> bool:
        """Whether every tile of every image was analysed."""
        return all(row.complete for row in self.rows)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per image: image, status, detections, tiles, failed, seconds, error."""
        import pandas as pd

        columns = [field.name for field in fields(ImageRow)]
        return pd.DataFrame([asdict(row) for row in self.rows], columns=columns)

    def __repr__(self) -> str:
        found = sum(row.detections for row in self.rows)
        partial = sum(bool(row.error) for row in self.rows if row.image in self._load)
        return (
            f"<Batch: {len(self)} images with {found:,} detections, {partial} of them "
            f"incomplete; {len(self.errors)} images could not be analysed>"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.to_dataframe().to_html(index=False, escape=True)}"


def write_summary(rows: Iterable[ImageRow], path: Path) -> None:
    """Write the table of all images as CSV, in place of the one that is there.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    names = [field.name for field in fields(ImageRow)]
    with writing(path) as stream:
        table = csv.DictWriter(stream, names, lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({name: _guarded(value) for name, value in asdict(row).items()})


def bare(error: TilevisionError) -> TilevisionError:
    """Return `error` without what would hold the image it is about in memory."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    if isinstance(error, IncompleteRun):
        error.result = None
    return error


def _why(result: Result) -> str:
    return result.first_failure or (f"{result.facts.reason}." if result.facts.reason else "")


def _guarded(value: object) -> object:
    """Return what no spreadsheet takes for a formula: names of files come from elsewhere."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
