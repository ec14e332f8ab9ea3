"""The results of many images: a row for each, and the result when it is asked for."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilevision.display import readable
from tilevision.errors import Blocked, IncompleteRun, RunArgumentError, RunError, TilevisionError
from tilevision.files import writing
from tilevision.result import Result
from tilevision.status import ImageStatus, RunStatus, TileStatus

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Batch", "ImageRow", "bare", "statement", "status_of", "write_summary"]

SHOWN_NAMES = 5
SHOWN_ROWS = 60
_WHAT: dict[str, str] = {
    ImageStatus.ERROR: "could not be analysed",
    ImageStatus.BLOCKED: "blocked by moderation",
    ImageStatus.PENDING: "not finished",
}

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class ImageRow:
    """What became of one image.

    Parameters
    ----------
    image : str
        Its name.
    status : str
        As `Result.status`; ``blocked`` by moderation, ``error`` if there is no result, and
        ``pending`` until it is started.
    detections, tiles, failed : int
        Detections after the merge; all tiles; those that failed.
    seconds : float
        Time it took in this call.
    error : str
        Why something is missing, in one line; empty if nothing is.
    """

    image: str
    status: str = ImageStatus.PENDING
    detections: int = 0
    tiles: int = 0
    failed: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def complete(self) -> bool:
        """Return True if every tile was analysed."""
        return self.status == ImageStatus.COMPLETE and not self.error

    @classmethod
    def of(cls, name: str, result: Result, seconds: float) -> ImageRow:
        """Return the row of an image that was analysed, fully or in part."""
        failed = sum(row.status == TileStatus.FAILED for row in result.rows)
        whole = result.complete and result.status == RunStatus.COMPLETE
        why = "" if whole else " ".join(filter(None, [result.coverage, _why(result)]))
        return cls(
            image=name,
            status=result.status,
            detections=len(result.findings),
            tiles=len(result.rows),
            failed=failed,
            seconds=round(seconds, 2),
            error=why,
        )

    @classmethod
    def without(cls, name: str, error: TilevisionError, seconds: float) -> ImageRow:
        """Return the row of an image that could not be analysed."""
        status = ImageStatus.BLOCKED if isinstance(error, Blocked) else ImageStatus.ERROR
        line = readable(" ".join(str(error).split()))
        row = cls(image=name, status=status, seconds=round(seconds, 2), error=line)
        if isinstance(error, IncompleteRun) and error.result is not None:
            known = cls.of(name, error.result, seconds)
            row = replace(row, tiles=known.tiles, failed=known.failed)
        return row


class Batch(Mapping[str, Result]):
    """The results of many images by name, and the errors of those without one.

    A result is read from the checkpoint when it is asked for, and only the latest is kept in
    memory: results can be large, and images many.

    Parameters
    ----------
    rows : iterable of ImageRow
        In the order of the images.
    results : mapping of str to callable
        Each returns the result of an image.
    errors : dict of str to TilevisionError
    run_id : str

    Attributes
    ----------
    run_id : str
        Id of the multi-image run, as `tilevision.runs` lists it.
    rows : tuple of ImageRow
    errors : dict of str to TilevisionError
        Images that could not be analysed.
    """

    def __init__(
        self,
        rows: Iterable[ImageRow],
        results: Mapping[str, Callable[[], Result]],
        errors: dict[str, TilevisionError],
        run_id: str = "",
    ) -> None:
        self.rows = tuple(rows)
        self.run_id = run_id
        self.errors = errors
        self._load = results
        self._latest: tuple[str, Result] | None = None

    @property
    def results(self) -> Mapping[str, Result]:
        """Results of the images analysed fully or in part, by name: this mapping itself."""
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
        """Return True if every tile of every image was analysed."""
        return all(row.complete for row in self.rows)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per image: image, status, detections, tiles, failed, seconds, error."""
        import pandas as pd

        columns = [field.name for field in fields(ImageRow)]
        return pd.DataFrame([asdict(row) for row in self.rows], columns=columns)

    def similar(
        self, what: tuple[str, str] | ArrayLike, k: int = 20, metric: str = "cosine"
    ) -> pd.DataFrame:
        """Return the tiles of all images whose vectors are nearest to one, exactly.

        Images without vectors have no part in it. Results are read one after the other.

        Parameters
        ----------
        what : (str, str) or array (d,)
            The name of an image and the id of a tile in it, which is not among the answers; or a
            vector.
        k : int
            How many tiles, at most.
        metric : str
            ``"cosine"`` or ``"euclidean"``.

        Returns
        -------
        DataFrame
            As `Result.similar` returns it, with ``image`` before the other columns.

        Raises
        ------
        RunError
            If no image has vectors, theirs differ in width from the one asked about, or there is no
            such image, tile or metric.
        """
        import pandas as pd

        own = ("", "")
        if isinstance(what, tuple) and len(what) == 2 and isinstance(what[0], str):
            own = (what[0], str(what[1]))
        query = self._vector(*own) if own[0] else what
        found = []
        for name in self:
            result = self[name]
            if result.embeddings is not None:
                near = result.similar(query, k + bool(own[0]), metric)
                near.insert(0, "image", name)
                found.append(near[(near["image"] != own[0]) | (near["id"] != own[1])])
        if not found:
            raise RunError(
                "No image of this run has vectors; use an encoder: "
                "tv.model(f, returns='embedding')."
            )
        whole = pd.concat(found, ignore_index=True)
        key, up = ("similarity", False) if metric == "cosine" else ("distance", True)
        return whole.sort_values(key, ascending=up, kind="stable", ignore_index=True).head(k)

    def _vector(self, name: str, tile: str) -> NDArray[Any]:
        from tilevision.analysis.embeddings import row_of

        if name not in self:
            few = ", ".join(list(self)[:SHOWN_NAMES])
            raise RunArgumentError(f"There is no result of an image {name!r:.60}; there are {few}.")
        result = self[name]
        if result.embeddings is None:
            raise RunError(f"No tile of {name} has a vector; it was analysed without an encoder.")
        tiles = [row.tile for row in result.rows]
        return result.embeddings[row_of(result.embeddings, tiles, tile)]

    def __repr__(self) -> str:
        found = sum(row.detections for row in self.rows)
        return f"<Batch {self.run_id}: {found:,} detections. {self.statement}>"

    @property
    def statement(self) -> str:
        """Return one line: how many images are complete, and what became of the others."""
        return statement(self.rows)

    def _repr_html_(self) -> str:
        found = sum(row.detections for row in self.rows)
        alarm = "" if self.complete else "⚠ "
        # A notebook keeps what it shows: those that lack something come first.
        rows = self.to_dataframe().sort_values("error", key=lambda e: e == "", kind="stable")
        more = f"<p>… and {len(rows) - SHOWN_ROWS} more; .to_dataframe() lists all</p>"
        return (
            f"<p><strong>{len(self.rows):,} images, {found:,} detections</strong> "
            f"{escape(self.run_id)}</p><p>{alarm}{escape(self.statement)}</p>"
            f"{rows.head(SHOWN_ROWS).to_html(index=False, escape=True)}"
            f"{more if len(rows) > SHOWN_ROWS else ''}"
        )


def statement(rows: Iterable[ImageRow]) -> str:
    """Return one line: how many images are complete, and what became of the others."""
    rows = list(rows)
    whole = sum(row.complete for row in rows)
    parts = [f"{whole:,} of {len(rows):,} images complete"]
    lacking: dict[str, list[str]] = {}
    for row in rows:
        if not row.complete:
            lacking.setdefault(_WHAT.get(row.status, "analysed in part"), []).append(row.image)
    for what, names in sorted(lacking.items()):
        more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
        parts.append(f"{len(names):,} {what}: {', '.join(names[:SHOWN_NAMES])}{more}")
    return "; ".join(parts) + "."


def status_of(rows: Iterable[ImageRow]) -> tuple[str, str]:
    """Return how a run of many images has ended, and why it is not complete."""
    rows = list(rows)
    whole = all(row.complete for row in rows)
    return (RunStatus.COMPLETE, "") if whole else (RunStatus.PARTIAL, statement(rows))


def write_summary(rows: Iterable[ImageRow], path: Path) -> None:
    """Write the table of all images as CSV; an existing file is replaced.

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
