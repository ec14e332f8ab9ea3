"""Many images as one run: a bad image is reported and stops nothing."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tilevision.analysis.account import categories, classes_seen, positions, tabled
from tilevision.batch.batch import ImageRow, bare, write_summary
from tilevision.batch.batchjournal import Logbook, describe_many
from tilevision.batch.batchprogress import Headway
from tilevision.batch.imagenames import SUMMARY, label_of, named_images, targets
from tilevision.errors import (
    CheckpointError,
    CheckpointTooLarge,
    ClusterError,
    RunError,
    TilevisionError,
)
from tilevision.events import Event
from tilevision.exporting import destination
from tilevision.exporting.saving import find_format
from tilevision.history.storedresult import keep
from tilevision.pipeline.api import check_cluster, launch
from tilevision.pipeline.planning import Store, resolve_stages
from tilevision.pipeline.run import Run, new_run_id, open_checkpoint
from tilevision.pipeline.settings import Settings
from tilevision.result import Result
from tilevision.sources import ImageSource
from tilevision.status import ImageStatus, RunStatus, TileStatus

__all__ = ["Analysed", "Many", "Relay", "UnderWay"]

# The table is written anew no more often: of thousands of images it is long.
RENEWAL_SECONDS = 1.0
IMAGES_AHEAD = 2

# As many tiles may be waiting for a worker when the next image is begun. It takes as long to
# open that one as to work a few of them off.
FEW_TILES = 8
LOOK_SECONDS = 1.0
_MOST_CLASSES = 100_000  # a table by number is no larger
CLOSING_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class UnderWay:
    """An image that was started.

    Parameters
    ----------
    name : str
    image
    began : float
        By `time.perf_counter`.
    run : Run or None
    error : Exception or None
        Why there is no run.
    """

    name: str
    image: Any
    began: float
    run: Run | None = None
    error: Exception | None = None

    def let_go(self) -> None:
        """Close the image, unless whoever gave it opened it."""
        if self.run is not None and not isinstance(self.image, ImageSource):
            self.run.source.close()

    @property
    def settled(self) -> bool:
        """Return True if its result is there, or needs no more tiles."""
        if self.run is None:
            return True
        status = RunStatus(self.run.status)
        return status.ended or status is RunStatus.PAUSED

    @property
    def runs_out(self) -> bool:
        """Return True if nearly no tile of it waits for a worker any more."""
        if self.run is None or RunStatus(self.run.status).ended:
            return True
        return self.run.counts.get(TileStatus.PENDING, 0) <= FEW_TILES


class Relay:
    """Starts images in their order, and yields each when its turn has come.

    Parameters
    ----------
    images : mapping of str to image
    begin : callable
        ``begin(name, image) -> Run``.
    ahead : int
        So many images may be under way beside the one whose turn it is.
    """

    def __init__(
        self, images: Mapping[str, Any], begin: Callable[[str, Any], Run], ahead: int
    ) -> None:
        self._waiting = deque(images.items())
        self._under_way: deque[UnderWay] = deque()
        self._begin = begin
        self._most = ahead + 1
        self._news = threading.Event()

    def __iter__(self) -> Iterator[UnderWay]:
        """Yield image after image once it is settled; whoever takes it ends it."""
        while self._waiting or self._under_way:
            self._news.clear()
            if self._may_begin():
                self._under_way.append(self._begun(*self._waiting.popleft()))
            elif self._under_way[0].settled:
                yield self._under_way[0]
                self._under_way.popleft()  # not before: who is interrupted ends it, too
            else:
                self._news.wait(LOOK_SECONDS)

    def _may_begin(self) -> bool:
        if not self._waiting or len(self._under_way) >= self._most:
            return False
        return not self._under_way or self._under_way[-1].runs_out

    def _begun(self, name: str, image: Any) -> UnderWay:
        began = time.perf_counter()
        try:
            run = self._begin(name, image)
        except Exception as error:  # noqa: BLE001 - reported when its turn has come
            return UnderWay(name, image, began, error=error)
        run.subscribe(self._hear)
        return UnderWay(name, image, began, run)

    def _hear(self, event: Event) -> None:
        del event
        self._news.set()

    def close(self) -> bool:
        """End what is under way; tiles in flight are kept. Return True if all has ended in time."""
        runs = [one.run for one in self._under_way if one.run is not None]
        until = time.monotonic() + CLOSING_SECONDS
        for run in runs:
            run.cancel()
        ended = [run.wait(max(0.0, until - time.monotonic())) for run in runs]
        for one in self._under_way:
            one.let_go()
        self._under_way.clear()
        return all(ended)


@dataclass(slots=True)
class Analysed:
    """One image of many that has ended.

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


class Numbering:
    """One number a class over all images: the model's (`stated`), and those of what it lists not.

    What is found in one image can change the numbers of those before it (a class that is new, or
    sorted first), and what their lists lack: `stale` names the images that were saved with others.
    """

    def __init__(self, stated: bool) -> None:
        self._stated = stated
        self._names: tuple[str | None, ...] = ()
        self._seen: set[tuple[str, int]] = set()
        self._saved: dict[str, dict[str, int]] = {}

    @property
    def table(self) -> dict[str, int]:
        """Class names and their numbers, of all images so far, in the order of the numbers."""
        return tabled(self._names, self._seen)

    def add(self, result: Result) -> Result:
        """Return `result` with the numbers of all images so far."""
        if self._stated:
            self._names = max(self._names, result.facts.classes, key=len)
        self._seen |= classes_seen(result.tile_findings)
        return self.placed(result)

    def placed(self, result: Result) -> Result:
        """Return `result` with the numbers as they are now."""
        table = self.table
        if not table.keys() - set(self._names):
            return result
        if not 0 <= max(table.values(), default=-1) < _MOST_CLASSES:
            return result
        names: list[str | None] = [*self._names]
        names += [None] * (max(table.values()) + 1 - len(names))
        for name, number in table.items():
            names[number] = name
        facts = replace(result.facts, classes=tuple(names))
        rest = result.source, result.rows, result.tile_findings, result.settings
        return Result(*rest, facts, result.name)

    def saved(self, name: str, result: Result) -> None:
        """Remember what numbers an image's file was given."""
        self._saved[name] = _as_written(result.classes)

    def stale(self, lists: bool) -> list[str]:
        """Return the images whose files number classes otherwise than all images together do.

        Where files list the classes (`lists`), also those that lack one.
        """
        now = _as_written(self.table)
        if lists:
            return [name for name, then in self._saved.items() if then != now]
        return [
            name
            for name, then in self._saved.items()
            if any(now.get(label, number) != number for label, number in then.items())
        ]


def _as_written(table: Mapping[str, int]) -> dict[str, Any]:
    """Return the number and the position of each class, which formats differ in."""
    places, numbers = positions(table), categories(table)
    return {label: (table[label], places[label], numbers[label]) for label in table}


class Many:
    """Many images to analyse with the same settings; errors that concern all are raised at once.

    Parameters
    ----------
    images
        As `analyze_many` takes them; with `manifest`, by name.
    settings : Settings
    out_dir : path-like or None
    out_format : str
    manifest : mapping, optional
        Of the run to resume; None: a new one.

    Attributes
    ----------
    id : str
        Of the run.
    label : str
        The name of all images together.
    stages : Stages
    rows : dict of str to ImageRow
        What became of each image so far.
    summary : Path or None
        The table of all images, in `out_dir`.

    Raises
    ------
    RunError, ModelError, SourceError, GridError, ClusterError
        As `analyze_many`.
    """

    def __init__(
        self,
        images: Any,
        settings: Settings,
        out_dir: str | os.PathLike[str] | None = None,
        out_format: str = "geojson",
        *,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        if settings.report is not None:
            raise RunError("report= only works for a single image. Leave it out for many.")
        check_cluster(settings, waits=True)
        self.stages = resolve_stages(settings)
        self._images: Mapping[str, Any] = images if manifest else named_images(images)
        self._files: Mapping[str, Path] = {}
        if out_dir is not None:
            self._files = targets(out_dir, self._images, out_format)
        self.summary = None if out_dir is None else Path(out_dir).expanduser() / SUMMARY
        self._format = out_format
        self._settings = settings
        self._numbering = Numbering(any(spec.classes for spec in self.stages.models))
        self._again: dict[str, Callable[[], Result]] = {}
        self._spent = 0.0
        self._written = 0.0
        self.rows = {name: ImageRow(name) for name in self._images}
        self._manifest = manifest or describe_many(
            new_run_id(),
            label_of(images),
            self._images,
            settings,
            self.stages,
            (out_dir, out_format),
        )
        self.id: str = self._manifest["id"]
        self.label: str = self._manifest["image"]

    @property
    def classes(self) -> dict[str, int]:
        """Class names and their numbers, the same in the files of all images."""
        return self._numbering.table

    @property
    def complete(self) -> bool:
        """Return True if every tile of every image was analysed."""
        return all(row.complete for row in self.rows.values())

    def __iter__(self) -> Generator[Analysed, None, None]:
        """Analyse the images, and yield one after the other, in their order.

        Raises
        ------
        RunBusy
            If another process is working on this run, or writes to the same folder.
        ClusterError, CheckpointError
            What would fail for every other image, too.
        KeyboardInterrupt
            Finished work is kept.
        """
        with ExitStack() as stack:
            logbook = stack.enter_context(
                Logbook(self._settings.checkpoint, self._manifest, self.rows)
            )
            stack.callback(lambda: self._renew(last=True))
            headway = Headway(len(self._images), shown=self._settings.progress is not False)
            stack.callback(headway.close)
            headway.say(f"Run {self.id}: {len(self.rows):,} images from {self.label}")
            folder = self._settings.checkpoint
            store = None if folder is None else open_checkpoint(folder)
            begin = partial(self._begin, headway, logbook, store)
            relay = Relay(self._images, begin, self._ahead)
            stack.callback(_end, relay, store)
            try:
                for under_way in relay:
                    yield from self._turn(under_way, headway, logbook)
                self._renumber()
            except KeyboardInterrupt:
                at = next(
                    (row.image for row in self.rows.values() if row.status == ImageStatus.PENDING),
                    "",
                )
                raise KeyboardInterrupt(
                    f"Interrupted at {at}. Finished work is kept; the same call continues from "
                    "there."
                ) from None

    @property
    def _ahead(self) -> int:
        """Return how many images may be begun before the one whose turn it is has ended.

        0 where all share what only one run at a time can keep account of: money, a backend's
        limits, a number of tiles in flight that was asked for.
        """
        asked, stages = self._settings, self.stages
        others = (stages.moderation, stages.synthesis)
        hosted = any(spec is not None and spec.hosted for spec in (*stages.models, *others))
        limited = (asked.budget, asked.quota, asked.concurrency)
        return 0 if hosted or any(limit is not None for limit in limited) else IMAGES_AHEAD

    def _begin(
        self, headway: Headway, logbook: Logbook, store: Store | None, name: str, image: Any
    ) -> Run:
        settings = self._settings
        if settings.budget is not None:
            left = settings.budget - self._spent
            if left <= 0:
                raise RunError(
                    f"Not started: {self._spent:.4g} of the budget of {settings.budget:g} is spent."
                )
            settings = replace(settings, budget=left)
        show = partial(headway.show, name)
        run = launch(
            *(image, settings),
            waits=True,
            show=show,
            stages=self.stages,
            batch=self.id,
            store=store,
        )
        logbook.begun(name, run.id)
        return run

    def _turn(self, under_way: UnderWay, headway: Headway, logbook: Logbook) -> Iterator[Analysed]:
        """Yield an image once it has ended, and release it afterwards."""
        one = self._one(under_way)
        self.rows[under_way.name] = one.row
        logbook.ended(one.row, "" if under_way.run is None else under_way.run.id)
        self._renew()
        headway.end(one.row)
        yield one
        under_way.let_go()
        one.result = None  # whoever still holds `one` shall not hold its findings

    def _one(self, under_way: UnderWay) -> Analysed:
        name, began = under_way.name, under_way.began
        try:
            result = self._result(under_way)
        except (ClusterError, CheckpointError) as error:
            if not isinstance(error, CheckpointTooLarge):
                raise
            failure: TilevisionError = error
        except TilevisionError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - a defect in one image costs that image
            failure = RunError(f"Stopped by a defect: {type(error).__name__}: {error}.")
        else:
            row = ImageRow.of(name, result, time.perf_counter() - began)
            load = keep(result, under_way.image, self._settings)
            again = partial(self._placed, load)
            if name in self._files:
                self._again[name] = again
            return Analysed(row, result, self._files.get(name), again=again)
        row = ImageRow.without(name, failure, time.perf_counter() - began)
        return Analysed(row, error=bare(failure))

    def _result(self, under_way: UnderWay) -> Result:
        run, file = under_way.run, self._files.get(under_way.name)
        if run is None:
            assert under_way.error is not None  # the one or the other
            raise under_way.error
        try:
            if file is None:
                return self._numbering.add(run.result())
            destination(file, self._format, metadata=run.source.metadata)
            result = self._numbering.add(run.result())
            result.save(file, self._format)
            self._numbering.saved(under_way.name, result)
        except BaseException:
            run.cancel()
            run.wait(CLOSING_SECONDS)  # what is in flight is kept as well
            raise
        else:
            return result
        finally:
            self._spent += run.so_far().cost or 0.0

    def _placed(self, load: Callable[[], Result]) -> Result:
        return self._numbering.placed(load())

    def _renumber(self) -> None:
        """Save the files again whose classes are others now that all images are known."""
        if not self._files:
            return
        for name in self._numbering.stale(find_format(Path(), self._format).lists):
            try:
                self._again[name]().save(self._files[name], self._format)
            except TilevisionError as error:
                warnings.warn(
                    f"{self._files[name]} lists or numbers its classes otherwise than other files: "
                    f"later images showed more classes, and it cannot be saved again. {error}",
                    stacklevel=3,
                )

    def _renew(self, *, last: bool = False) -> None:
        """Write the table of all images; if it cannot be written, that stops nothing."""
        now = time.monotonic()
        if self.summary is None or (now - self._written < RENEWAL_SECONDS and not last):
            return
        self._written = now
        try:
            write_summary(self.rows.values(), self.summary)
        except RunError as error:
            if last:
                warnings.warn(f"The table of all images is missing. {error}", stacklevel=3)


def _end(relay: Relay, store: Store | None) -> None:
    """End the images under way, and close the checkpoint of all, unless one may yet commit."""
    if relay.close() and store is not None:
        store.close()
