"""A run in progress: watch it, steer it, wait for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from html import escape
from typing import Any

from tilevision.checks import whole
from tilevision.errors import Blocked, IncompleteRun, RunError
from tilevision.events import Bus, Event, TileChanged
from tilevision.grid import Tile
from tilevision.modelspec import ModelSpec
from tilevision.pipeline.conductor import ENDED, Conductor
from tilevision.pipeline.estimate import Estimate
from tilevision.pipeline.session import Session
from tilevision.result import Result
from tilevision.routing import Cascade, Route
from tilevision.schedule.messages import Cancelled, Paused, Resumed, RetryFailed, SetConcurrency
from tilevision.sources import ImageSource

__all__ = ["Run"]


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
    started : float
        Seconds since the epoch.
    """

    def __init__(self, conductor: Conductor, bus: Bus, session: Session) -> None:
        self.id = conductor.run_id
        self.source: ImageSource = conductor.plan.source
        self.tiles: tuple[Tile, ...] = conductor.plan.tiles
        self.tiling = conductor.plan.tiling
        self.region = conductor.plan.region
        self.model: ModelSpec | Route | Cascade = conductor.plan.stages.asked
        self.name = conductor.plan.name
        self.started = time.time()
        self._conductor = conductor
        self._bus = bus
        self._session = session
        self._over = self._begin(conductor.conduct)

    def _begin(self, flow: Callable[[], None]) -> Future[None]:
        """Start the run's thread; the future is done once its lock and files are released."""
        over: Future[None] = Future()
        conductor = self._conductor

        def whole() -> None:
            conductor.guard(lambda: self._session.hold(conductor, flow))
            with conductor.changed:
                over.set_result(None)
                conductor.changed.notify_all()

        over.set_running_or_notify_cancel()  # from now on no waiter can cancel it
        threading.Thread(target=whole, name=f"tilevision-run-{self.id}", daemon=True).start()
        return over

    # What is going on ---------------------------------------------------------------------

    @property
    def status(self) -> str:
        """``running`` or ``paused``; ended, one of `conductor.ENDED`."""
        return self._conductor.status

    @property
    def counts(self) -> dict[str, int]:
        """Tiles by status; those not yet heard of are ``pending``."""
        heard = self._bus.counts()
        pending = len(self.tiles) - sum(heard.values()) + heard.pop("pending", 0)
        return ({"pending": pending} if pending else {}) | heard

    @property
    def dashboard_link(self) -> str | None:
        """Address of the Dask dashboard; None until the cluster is up."""
        return self._conductor.dashboard_link

    @property
    def estimate(self) -> Estimate:
        """What is left, in time and cost: by this run once tiles are back, else by earlier ones."""
        return self._conductor.estimate()

    def events(self) -> list[Event]:
        """Return what a late listener needs: the run's status, its stages, each tile's latest."""
        return self._bus.snapshot()

    def so_far(self) -> Result:
        """Return the result of what is known by now; unlike `result`, it does not wait."""
        return self._conductor.so_far()

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
        """Wait until the run has ended; say whether it has."""
        with self._conductor.changed:
            return self._conductor.changed.wait_for(self._over.done, timeout)

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the result.

        Raises
        ------
        TilevisionError
            What stopped the run; where it is only paused (disk full, a backend that fails
            tile after tile), `resume` goes on once that is mended.
        TimeoutError
            If the run has not ended after `timeout` seconds.
        KeyboardInterrupt
            On Ctrl-C or the notebook's stop button; the run is paused.
        """
        conductor = self._conductor
        try:
            with conductor.changed:
                settled = conductor.changed.wait_for(self._settled, timeout)
        except KeyboardInterrupt:
            self.pause()
            raise KeyboardInterrupt(
                f"run {self.id} is paused, {self._finished()} of {len(self.tiles)} tiles done; "
                "run.resume() goes on, run.cancel() ends it, and what is done is kept"
            ) from None
        if not settled:
            raise TimeoutError(f"run {self.id} has not ended after {timeout} s; it goes on")
        if conductor.fault is not None:
            raise conductor.fault
        result = conductor.result
        assert result is not None
        if self.status == "blocked":
            raise Blocked(f"{self.name} was not analysed: {result.verdict.reason}")
        if conductor.settings.strict and not result.complete:
            raise IncompleteRun(
                f"{len(result.failed)} of {len(self.tiles)} tiles failed. {result.first_failure} "
                "The error's .result has the others; the same again tries only those that failed",
                result,
            )
        return result

    def _finished(self) -> int:
        return sum(self.counts.get(status, 0) for status in ("done", "restored"))

    def _settled(self) -> bool:
        """Say whether waiting longer would change nothing: it is over, or somebody must act."""
        return self._over.done() or (self.status == "paused" and self._conductor.fault is not None)

    def __await__(self) -> Generator[Any, None, Result]:
        """``await run``: as `result`, while buttons and other cells stay alive.

        Cancelling the await does not cancel the run.
        """
        return self._await().__await__()

    async def _await(self) -> Result:
        loop = asyncio.get_running_loop()
        settled = asyncio.Event()

        def look(_: object) -> None:
            if self._settled():
                with suppress(RuntimeError):  # the loop is closed: nobody awaits any more
                    loop.call_soon_threadsafe(settled.set)

        unsubscribe = self.subscribe(look)
        self._over.add_done_callback(look)
        try:
            look(None)
            await settled.wait()
        finally:
            unsubscribe()
        return self.result()

    # Steering -----------------------------------------------------------------------------

    def pause(self) -> None:
        """Start no further tile; those in flight finish and are kept."""
        if self.status == "running":
            self._conductor.commands.put(Paused())
            self._conductor.tell("paused", "paused; run.resume() goes on")

    def resume(self) -> None:
        """Go on after a pause."""
        if self.status == "paused":
            self._conductor.fault = None
            self._conductor.commands.put(Resumed())
            self._conductor.tell("running", "resumed")

    def cancel(self) -> None:
        """End early; tiles in flight may finish and are kept."""
        self._conductor.cancelled.set()
        self._conductor.commands.put(Cancelled())

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
            If one is not of this run, or it ended without tiles to retry.
        """
        chosen = frozenset(tiles)
        if strange := chosen.difference(self.tiles):
            raise RunError(f"tile {min(strange).id} is not one of run {self.id}; see run.tiles")
        self._retry(chosen)

    def _retry(self, tiles: frozenset[Tile] | None) -> None:
        conductor = self._conductor
        with conductor.changed:  # the run has ended, or hears of this before it does
            conductor.commands.put(RetryFailed(tiles))
            ended = self.status in ENDED
        if not ended:
            return
        if conductor.result is None or self.status == "blocked":
            raise RunError(f"run {self.id} is {self.status}; start it again instead")
        tried = (e for e in self._bus.snapshot() if isinstance(e, TileChanged))
        failed = [event.tile for event in tried if event.status == "failed"]
        if not any(tiles is None or tile in tiles for tile in failed):
            return
        self.wait()
        conductor.cancelled.clear()
        conductor.tell("running", "failed tiles again")
        self._over = self._begin(conductor.go_on)

    def set_concurrency(self, concurrency: int | None) -> None:
        """Change how many tiles may be in flight; None is automatic."""
        if concurrency is not None:
            concurrency = whole("concurrency", concurrency)
        self._conductor.commands.put(SetConcurrency(concurrency))
