"""A run in progress: watch it, steer it, wait for it; and what it holds while it works."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from datetime import datetime
from html import escape
from typing import Any

from tilevision.checkpoint import Checkpoint, MemoryCheckpoint, RunLock, lost_with_job
from tilevision.checks import whole
from tilevision.errors import Blocked, ClusterError, IncompleteRun, RunBusy, RunError
from tilevision.events import Event, Journal, TileChanged, journal_path
from tilevision.grid import Tile
from tilevision.modelspec import ModelSpec
from tilevision.pipeline.conductor import Conductor
from tilevision.pipeline.control import Control, check_wait
from tilevision.pipeline.estimate import Estimate
from tilevision.pipeline.planning import Plan, Store
from tilevision.pipeline.runner import stop_expecting
from tilevision.pipeline.settings import DEFAULT_CHECKPOINT, Settings
from tilevision.result import Result
from tilevision.routing import Cascade, Route
from tilevision.sources import ImageSource
from tilevision.status import RunStatus, TileStatus

__all__ = ["Run", "Session", "new_run_id", "open_checkpoint", "opened"]


class Run:
    """A run in progress, as `tilevision.start` returns it.

    Attributes
    ----------
    id : str
    source : ImageSource
    tiles : tuple of Tile
    tiling : Tiling
        The grid they come from, and its scales.
    region : Region or None
        The part of the image that was asked for, its ``geometry`` in pixels; None: all of it.
    model : ModelSpec, Route or Cascade
        Of the tiles.
    checkpoint : str or None
        The folder in which its tiles are kept; None: in memory.
    started : float
        Seconds since the epoch.
    """

    def __init__(
        self, run_id: str, plan: Plan, settings: Settings, control: Control, session: Session
    ) -> None:
        self.id = run_id
        self.source: ImageSource = plan.source
        self.tiles: tuple[Tile, ...] = plan.tiles
        self.tiling = plan.tiling
        self.region = plan.region
        self.model: ModelSpec | Route | Cascade = plan.stages.asked
        self.name = plan.name
        self.started = time.time()
        self.checkpoint = settings.checkpoint_folder
        self._strict = settings.strict
        self._cluster_asked = settings.client, settings.workers
        self._control = control
        self._bus = control.bus
        self._session = session  # its methods run on the run's own thread
        self._control.start(session.conduct, self._thread_name)

    @property
    def _thread_name(self) -> str:
        return f"tilevision-run-{self.id}"

    # What is going on ---------------------------------------------------------------------

    @property
    def status(self) -> str:
        """``running`` or ``paused``; once it has ended, how: see `tilevision.status.RunStatus`."""
        return self._control.status

    @property
    def counts(self) -> dict[str, int]:
        """Number of tiles by status; those without any news are ``pending``."""
        known = self._bus.counts()
        pending = len(self.tiles) - sum(known.values()) + known.pop(TileStatus.PENDING, 0)
        return ({TileStatus.PENDING.value: pending} if pending else {}) | known

    @property
    def dashboard_link(self) -> str | None:
        """Address of the Dask dashboard; None until the cluster is up."""
        return self._control.dashboard_link

    @property
    def estimate(self) -> Estimate:
        """Time and cost of what is left: by earlier runs until a tile is done, then by this one.

        The time is what a panel shows: within a factor of 1.5 while the run goes evenly, or None,
        and ``basis`` says why. See `tilevision.pipeline.estimate.TimeLeft`.
        """
        return self._control.estimate()

    def events(self) -> list[Event]:
        """Return what a late listener needs: the run's status, its stages, each tile's latest."""
        return self._bus.snapshot()

    def so_far(self) -> Result:
        """Return the result of what is known by now; does not wait, unlike `result`."""
        return self._control.so_far()

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns the function that ends it.

        The listener is called on the run's thread, so it must be quick; its errors are logged.
        """
        return self._bus.subscribe(listener)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {status}" for status, n in self.counts.items())
        return f"Run {self.id} of {self.name} with {self.model.name}: {self.status} ({counts})"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    # Waiting ------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended; return True if it has.

        Raises
        ------
        ClusterError
            As `result`.
        """
        self._check_wait(timeout)
        return self._control.wait(timeout)

    def _check_wait(self, timeout: float | None) -> None:
        if timeout is None and not self._control.settled:
            check_wait(*self._cluster_asked)

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the result.

        Raises
        ------
        TilevisionError
            What stopped the run. Where it is only paused (the disk is full, a backend fails
            tile after tile), fix the cause, then call `resume`.
        ClusterError
            Without `timeout`, in a coroutine whose loop an asynchronous Dask client of the run
            needs: ``await run`` there.
        TimeoutError
            If the run has not ended after `timeout` seconds.
        KeyboardInterrupt
            On Ctrl-C or the notebook's stop button; the run is paused.
        """
        control = self._control
        self._check_wait(timeout)
        try:
            settled = control.wait_settled(timeout)
        except KeyboardInterrupt:
            control.pause("")  # whoever waits says how it goes on
            raise KeyboardInterrupt(
                f"Run {self.id} is paused, {self._analysed()} of {len(self.tiles)} tiles done. "
                "run.resume() continues it, run.cancel() ends it; what is done is kept."
            ) from None
        if not settled:
            raise TimeoutError(
                f"Run {self.id} has not ended after {timeout} s; it continues in the background."
            )
        if control.fault is not None:
            raise control.fault
        result = control.result
        assert result is not None
        if control.status is RunStatus.BLOCKED:
            raise Blocked(f"{self.name} was not analysed: {result.verdict.reason.rstrip('.')}.")
        if self._strict and not result.complete:
            incomplete = IncompleteRun(
                f"{len(result.failed)} of {len(self.tiles)} tiles failed. {result.first_failure} "
                "The error's .result has the others; the same call again tries only the failed "
                "tiles.",
                result,
            )
            details = next((row.details for row in result.rows if row.details), "")
            if details:
                incomplete.add_note(f"The first failed tile:\n{details}")
            raise incomplete
        return result

    def _analysed(self) -> int:
        return sum(n for status, n in self.counts.items() if TileStatus(status).analysed)

    def __await__(self) -> Generator[Any, None, Result]:
        """``await run``: like `result`, while buttons and other cells keep working.

        Cancelling the await does not cancel the run.
        """
        return self._await().__await__()

    async def _await(self) -> Result:
        loop = asyncio.get_running_loop()
        settled = asyncio.Event()

        def look(_: object) -> None:
            if self._control.settled:
                with suppress(RuntimeError):  # the loop is closed: nobody awaits any more
                    loop.call_soon_threadsafe(settled.set)

        unsubscribe = self.subscribe(look)
        self._control.on_over(look)
        try:
            look(None)
            await settled.wait()
        finally:
            unsubscribe()
        return self.result()

    # Steering -----------------------------------------------------------------------------

    def pause(self) -> None:
        """Start no further tile; those in flight finish and are kept."""
        self._control.pause()

    def resume(self) -> None:
        """Continue after a pause."""
        self._control.resume()

    def cancel(self) -> None:
        """End early; tiles in flight may finish and are kept."""
        self._control.cancel()

    def retry_failed(self) -> None:
        """Give every failed tile fresh attempts, during the run or after it.

        Raises
        ------
        RunError
            If the run ended without tiles to retry (blocked, or stopped by an error).
        """
        self._retry(None)

    def retry(self, tiles: Iterable[Tile]) -> None:
        """Give those of `tiles` that failed fresh attempts, during the run or after it.

        Raises
        ------
        RunError
            If a tile is not part of this run, or the run ended without tiles to retry.
        """
        chosen = frozenset(tiles)
        if strange := chosen.difference(self.tiles):
            raise RunError(f"Tile {min(strange).id} is not part of run {self.id}; see run.tiles.")
        self._retry(chosen)

    def _retry(self, tiles: frozenset[Tile] | None) -> None:
        control = self._control
        if not control.retry(tiles):
            return
        if control.result is None or control.status is RunStatus.BLOCKED:
            raise RunError(f"Run {self.id} is {self.status}; start it again instead.")
        tried = (e for e in self._bus.snapshot() if isinstance(e, TileChanged))
        failed = [event.tile for event in tried if event.status == TileStatus.FAILED]
        if not any(tiles is None or tile in tiles for tile in failed):
            return
        control.wait()
        control.reopen()
        control.start(self._session.conduct_again, self._thread_name)

    def set_concurrency(self, concurrency: int | None) -> None:
        """Change how many tiles may be in flight; None is automatic."""
        self._control.set_concurrency(
            None if concurrency is None else whole("concurrency", concurrency)
        )


_said: set[str] = set()


class Session:
    """Opens what a run needs for as long as it works, and closes it in any case.

    Parameters
    ----------
    conductor : Conductor
    settings : Settings
    manifest : dict
        First line of the journal: what the run is about.
    control : Control
    store : Checkpoint, optional
        That somebody else has opened, and closes.

    Attributes
    ----------
    checkpoint : Checkpoint or MemoryCheckpoint
        While the run works.
    """

    checkpoint: Store

    def __init__(
        self,
        conductor: Conductor,
        settings: Settings,
        manifest: dict[str, Any],
        control: Control,
        store: Store | None = None,
    ) -> None:
        self._conductor = conductor
        self._store = store
        self._folder = settings.checkpoint
        self._own_cluster = settings.client is None
        self._run_id: str = manifest["id"]
        self._manifest = manifest
        self._control = control
        control.resume_line = self._resume_line()
        self._journal: Journal | None = None
        self._lost = ""

    def conduct(self) -> None:
        """Carry the run out; on the run's thread.

        Raises
        ------
        RunBusy
            If another process is working on this run.
        CheckpointError
            If the checkpoint cannot be opened.
        """
        self._hold(self._conductor.conduct)

    def conduct_again(self) -> None:
        """Try failed tiles again in a run that had ended; as `conduct`."""
        self._hold(self._conductor.conduct_again)

    def _hold(self, flow: Callable[[Store], None]) -> None:
        """Call `flow` with the checkpoint open and its events journaled."""
        with ExitStack() as stack:
            stack.callback(stop_expecting)
            epoch = 0
            if self._folder is not None:
                lock = RunLock(self._folder, self._run_id, self._give_up)
                epoch = stack.enter_context(lock).epoch
            checkpoint = stack.enter_context(opened(self._folder, self._store))
            self.checkpoint = checkpoint
            if checkpoint.folder is not None:
                path = journal_path(checkpoint.folder, self._run_id)
                journal = self._journal = Journal.begin(path, self._manifest, epoch)
                stack.callback(journal.close)
                stack.callback(self._control.bus.subscribe(journal))
                self._warn(lost_with_job(checkpoint.folder))
            # The end is published inside, so that the journal has it.
            self._control.guard(lambda: self._with_remedy(flow, checkpoint))

    def _warn(self, line: str) -> None:
        """Say something about the checkpoint, once in a process."""
        if line and line not in _said:
            _said.add(line)
            self._control.waiting(line)

    def _with_remedy(self, flow: Callable[[Store], None], checkpoint: Store) -> None:
        """Call `flow`; where the cluster fails, name the line that resumes the run."""
        try:
            flow(checkpoint)
            if self._lost:
                raise RunBusy(self._lost)
        except ClusterError as error:
            line = self._control.resume_line
            if not line:
                raise
            text = str(error).rstrip(".")
            raise ClusterError(f"{text}. What is done is kept; {line} resumes the run.") from error

    def _resume_line(self) -> str:
        """Return the code that resumes the run, or the multi-image run that it is part of."""
        if self._folder is None:
            return ""
        words = [repr(self._manifest.get("batch") or self._run_id)]
        if os.fspath(self._folder) != DEFAULT_CHECKPOINT:
            words.append(repr(os.fspath(self._folder)))
        if not self._own_cluster:
            words.append("client=client")
        return f"tv.resume({', '.join(words)})"

    def _give_up(self, reason: str) -> None:
        """Stop, since another process has taken the run over; on a thread of the lease."""
        self._lost = reason
        if self._journal is not None:
            self._journal.close()
        self._control.cancel()


def new_run_id() -> str:
    """Return an id that sorts by time and is unique: ``20261122-131500-3fa9c1``."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def opened(
    folder: str | os.PathLike[str] | None, store: Store | None
) -> AbstractContextManager[Store]:
    """Return a context: `store`, which stays open, or else what is in `folder`, while it lasts."""
    return nullcontext(store) if store is not None else open_checkpoint(folder)


def open_checkpoint(folder: str | os.PathLike[str] | None) -> Store:
    """Open the checkpoint in `folder`; None keeps nothing beyond this object."""
    return MemoryCheckpoint() if folder is None else Checkpoint.open(folder)
