"""Many images, one after the other: a bad one is reported and stops nothing."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilevision.errors import (
    CheckpointError,
    CheckpointTooLarge,
    ClusterError,
    RunError,
    TilevisionError,
)
from tilevision.exporting import destination
from tilevision.pipeline.batch import Batch, ImageRow, bare, write_summary
from tilevision.pipeline.headway import Headway
from tilevision.pipeline.kept import keep
from tilevision.pipeline.launch import launch
from tilevision.pipeline.planning import resolve_stages
from tilevision.pipeline.run import Run
from tilevision.pipeline.series import SUMMARY, named_images, targets
from tilevision.pipeline.settings import Settings
from tilevision.result import Result
from tilevision.sources import ImageSource

__all__ = ["Analysed", "Many", "analyze_many"]

CLOSING_SECONDS = 15.0
# The table is written anew no more often: of thousands of images it is long.
RENEWAL_SECONDS = 1.0


@dataclass(slots=True)
class Analysed:
    """One image of many, done with.

    Parameters
    ----------
    row : ImageRow
    result : Result or None
        Until the next image's turn has come.
    file : Path or None
        That the result was saved to.
    error : TilevisionError or None
        Why there is no result.
    again : callable or None
        Makes the result again.
    """

    row: ImageRow
    result: Result | None = None
    file: Path | None = None
    error: TilevisionError | None = None
    again: Callable[[], Result] | None = None


class Many:
    """Many images, to be analysed with the same settings; whatever is wrong with all is told now.

    Parameters
    ----------
    images
        As `analyze_many` takes them.
    settings : Settings
    out_dir : path-like or None
    out_format : str

    Attributes
    ----------
    rows : dict of str to ImageRow
        What became of each image so far.
    summary : Path or None
        The table of all images, in `out_dir`.

    Raises
    ------
    RunError, ModelError, SourceError
        As `analyze_many`.
    """

    def __init__(
        self,
        images: Any,
        settings: Settings,
        out_dir: str | os.PathLike[str] | None = None,
        out_format: str = "geojson",
    ) -> None:
        if settings.report is not None:
            raise RunError("report is of one image's run; leave it out for many")
        resolve_stages(settings)
        self._images = named_images(images)
        self._files: Mapping[str, Path] = {}
        if out_dir is not None:
            self._files = targets(out_dir, self._images, out_format)
        self.summary = None if out_dir is None else Path(out_dir).expanduser() / SUMMARY
        self._format = out_format
        self._settings = settings
        self._spent = 0.0
        self._written = 0.0
        self.rows = {name: ImageRow(name) for name in self._images}

    @property
    def complete(self) -> bool:
        """Whether every tile of every image was analysed."""
        return all(row.complete for row in self.rows.values())

    def __iter__(self) -> Iterator[Analysed]:
        """Analyse image after image.

        Raises
        ------
        ClusterError, CheckpointError
            What no other image would fare better with.
        KeyboardInterrupt
            Everything that is done is kept.
        """
        headway = Headway(len(self._images), shown=self._settings.progress is not False)
        try:
            for name, image in self._images.items():
                headway.begin(name)
                one = self._one(name, image, headway)
                self.rows[name] = one.row
                self._renew()
                headway.end(one.row)
                yield one
                if one.result is not None and not isinstance(image, ImageSource):
                    one.result.source.close()
                one.result = None  # whoever still holds `one` shall not hold its findings
        finally:
            headway.close()
            self._renew(last=True)

    def _one(self, name: str, image: Any, headway: Headway) -> Analysed:
        began = time.perf_counter()
        try:
            result = self._result(name, image, headway)
        except (ClusterError, CheckpointError) as error:
            if not isinstance(error, CheckpointTooLarge):
                raise
            failure: TilevisionError = error
        except TilevisionError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - a defect in one image costs that image
            failure = RunError(f"stopped over a defect: {type(error).__name__}: {error}")
        else:
            row = ImageRow.of(name, result, time.perf_counter() - began)
            again = keep(result, image, self._settings)
            return Analysed(row, result, self._files.get(name), again=again)
        row = ImageRow.without(name, failure, time.perf_counter() - began)
        return Analysed(row, error=bare(failure))

    def _result(self, name: str, image: Any, headway: Headway) -> Result:
        settings = self._settings
        if settings.budget is not None:
            left = settings.budget - self._spent
            if left <= 0:
                raise RunError(
                    f"not begun: of the budget of {settings.budget:g}, {self._spent:.4g} is spent"
                )
            settings = replace(settings, budget=left)
        run = launch(image, settings, waits=True, show=headway.show)
        try:
            return self._saved(run, self._files.get(name))
        except BaseException as error:
            run.cancel()
            run.wait(CLOSING_SECONDS)  # what is in flight is kept as well
            if not isinstance(image, ImageSource):
                run.source.close()
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(
                    f"interrupted at {name}; what is done is kept, and the same call goes on"
                ) from None
            raise
        finally:
            self._spent += run.so_far().cost or 0.0

    def _saved(self, run: Run, file: Path | None) -> Result:
        if file is None:
            return run.result()
        destination(file, self._format, metadata=run.source.metadata)
        result = run.result()
        result.save(file, self._format)
        return result

    def _renew(self, *, last: bool = False) -> None:
        """Write the table of all images; that it cannot be written stops nothing."""
        now = time.monotonic()
        if self.summary is None or (now - self._written < RENEWAL_SECONDS and not last):
            return
        self._written = now
        try:
            write_summary(self.rows.values(), self.summary)
        except RunError as error:
            if last:
                warnings.warn(f"the table of all images is missing: {error}", stacklevel=3)


def analyze_many(
    images: Any,
    model: Any = None,
    *,
    out_dir: str | os.PathLike[str] | None = None,
    out_format: str = "geojson",
    **arguments: Any,
) -> Batch:
    """Analyse many images with the same settings, over one cluster and one checkpoint.

    One image is analysed after the other. The same call again goes on where the last one
    ended, however it ended: what is done is restored from the checkpoint.

    Parameters
    ----------
    images : folder, glob pattern, or iterable of what `tilevision.start` takes
        A folder stands for the images in it, ``"scan.tif#pages"`` for the pages of a file
        (`tilevision.pages` lists them), in an iterable as well.
    model
        As for `tilevision.start`, and so all other arguments; the budget is for all images.
    out_dir : path-like, optional
        Folder for a file per image, written as soon as that is done, and for ``summary.csv``,
        the table of all images, which is renewed as they are done.
    out_format : str
        Name of the files' format, as `Result.save` knows it.

    Returns
    -------
    Batch
        An image that cannot be analysed is in ``errors`` and stops nothing. Results are read
        from the checkpoint when they are asked for; with ``checkpoint=None`` the findings of
        all images stay in memory.

    Raises
    ------
    RunError
        If there is no image, two would have the same name or be written to the same file, or
        the format or the folder cannot be used.
    ModelError
        If the model is unknown: that would fail for every image.
    ClusterError, CheckpointError
        If the cluster is lost, or the checkpoint cannot be written: so would these.
    KeyboardInterrupt
        What is done is kept; the same call goes on.
    """
    many = Many(images, Settings(model=model, **arguments), out_dir, out_format)
    results: dict[str, Callable[[], Result]] = {}
    errors: dict[str, TilevisionError] = {}
    for one in many:
        if one.again is not None:
            results[one.row.image] = one.again
        elif one.error is not None:
            errors[one.row.image] = one.error
    return Batch(many.rows.values(), results, errors)
