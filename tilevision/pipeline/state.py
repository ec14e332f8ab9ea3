"""How a run stands, as its own thread tells it and others read it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tilevision.errors import RunError, TilevisionError
from tilevision.events import Bus, RunChanged, StageDone

__all__ = ["ENDED", "RunState"]

ENDED = frozenset({"complete", "partial", "stopped", "cancelled", "blocked"})


class RunState:
    """The status of a run, and what stands in its way.

    Parameters
    ----------
    bus : Bus
        Where every change is published.

    Attributes
    ----------
    status : str
        ``running``, ``paused`` or one of `ENDED`.
    changed : threading.Condition
        Notified whenever the status changes.
    fault : TilevisionError or None
        What stopped the run, or pauses it until somebody mends it.
    cancelled : threading.Event
    dashboard_link : str or None
        Of the cluster, once it is up.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.status = "running"
        self.changed = threading.Condition()
        self.fault: TilevisionError | None = None
        self.cancelled = threading.Event()
        self.dashboard_link: str | None = None

    def tell(self, status: str, reason: str = "") -> None:
        """Publish the run's status; callable from any thread."""
        with self.changed:
            self.status = status
            self.changed.notify_all()
        self.bus.emit(RunChanged(time.time(), status, reason))

    def stage(
        self, stage: str, began: float, message: str, restored: bool = False, link: str = ""
    ) -> None:
        """Publish that a stage is done, which `began` at that `time.perf_counter`."""
        seconds = time.perf_counter() - began
        self.bus.emit(StageDone(time.time(), stage, seconds, message, restored, link))

    def wait(self, line: str) -> None:
        """Publish what the run waits for."""
        self.stage("waiting", time.perf_counter(), line)

    def stumble(self, fault: TilevisionError) -> None:
        """Pause over something the user has to mend; whoever waits for the result hears of it."""
        self.fault = fault
        self.tell("paused", str(fault))

    def guard(self, flow: Callable[[], None]) -> None:
        """Call `flow`; whatever it raises becomes the run's `fault` and stops it."""
        try:
            flow()
        except TilevisionError as error:
            self.fault = error
            self.tell("stopped", str(error))
        except BaseException as error:  # noqa: BLE001 - a thread's error would be lost otherwise
            self.fault = RunError(f"the run stopped over a defect: {type(error).__name__}: {error}")
            self.fault.__cause__ = error
            self.tell("stopped", str(self.fault))
