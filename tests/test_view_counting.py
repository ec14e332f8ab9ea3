"""Counting in the background: what the page is told while it goes on."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

from tilevision.view.jobs import JobQueue
from tilevision.view.picture.counting import Counting


class Screen:
    """A screen whose run has ended, and which remembers what it was told."""

    def __init__(self) -> None:
        self.run = object()
        self.state = SimpleNamespace(at_rest=True, version=1, n_finished=1)
        self.told: list[bool] = []
        self.counts = 0

    def working(self, yes: bool) -> None:
        """Remember the sign of work."""
        self.told.append(yes)

    def count(self, *_: Any) -> None:
        """Remember that something was counted."""
        self.counts += 1


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_count_that_takes_long_is_announced_until_it_is_there() -> None:
    """The sign comes while the count goes on, and goes with it; also if counting fails."""
    screen, gate, faults = Screen(), threading.Event(), []
    screen_: Any = screen

    def look(_: Any) -> None:
        assert gate.wait(200)
        raise ValueError("no count")

    jobs = JobQueue("tilevision-test-count", faults.append)
    counting = Counting(screen_, look, jobs)
    counting.again()
    _wait(lambda: screen.told == [True])
    gate.set()
    _wait(lambda: screen.told == [True, False])
    _wait(lambda: faults)
    counting.again()
    _wait(lambda: screen.counts == 2)
    counting.close()
    jobs.close()
    assert screen.told[-1] is False
    assert not [t for t in threading.enumerate() if t.name == "tilevision-view-sign"]
