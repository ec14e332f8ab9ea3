"""The border between the user's threads and the run's own."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tilevision.errors import RunError
from tilevision.events import Bus, RunChanged
from tilevision.grid import Grid
from tilevision.pipeline.control import Commands, Control
from tilevision.schedule.messages import (
    Cancelled,
    Committed,
    Paused,
    Resumed,
    RetryFailed,
    SetConcurrency,
)
from tilevision.status import RunStatus

A, B, *_ = Grid(rows=1, cols=2, overlap=0.0).tiles((20, 10))
RESULT: Any = object()


@pytest.fixture
def control() -> Control:
    """The control of a run that has not begun."""
    return Control(Bus())


def told(control: Control) -> list[tuple[str, str]]:
    """Return, as it grows, what the run publishes about itself."""
    found: list[tuple[str, str]] = []

    def listen(event: Any) -> None:
        assert isinstance(event, RunChanged)
        found.append((event.status, event.reason))

    control.bus.subscribe(listen)
    return found


def drained(queue: Any) -> list[Any]:
    """Return what a queue holds."""
    found = []
    while not queue.empty():
        found.append(queue.get())
    return found


def test_commands_between_two_passes_reach_the_next_one() -> None:
    """A pass gets what nobody has taken; news about the pass before it is dropped."""
    commands = Commands()
    first = commands.hand_over()
    commands.put(Paused())
    first.put(Committed((A,)))  # from the cluster
    assert drained(commands.hand_over([Resumed()])) == [Resumed(), Paused()]
    assert drained(commands.hand_over()) == []


def test_the_last_concurrency_holds_for_every_later_pass() -> None:
    """It is handed over again and again, the latest one alone."""
    commands = Commands()
    commands.put(SetConcurrency(2))
    commands.put(SetConcurrency(5))
    commands.take()
    assert drained(commands.hand_over()) == [SetConcurrency(5)]
    assert drained(commands.hand_over()) == [SetConcurrency(5)]


def test_tiles_to_be_retried_add_up_until_they_are_taken() -> None:
    """Two requests are one; a request for all failed tiles includes the others."""
    commands = Commands()
    commands.put(RetryFailed(frozenset([A])))
    commands.put(RetryFailed(frozenset([B])))
    assert commands.to_be_retried
    assert commands.to_retry() == {A, B}
    assert not commands.to_be_retried
    commands.put(RetryFailed(frozenset([A])))
    commands.put(RetryFailed())
    commands.put(RetryFailed(frozenset([B])))
    assert commands.to_retry() is None


def test_pause_and_resume_tell_status_and_command_once(control: Control) -> None:
    """Pausing what is paused, or resuming what runs, does nothing."""
    news = told(control)
    control.resume()
    control.pause()
    control.pause()
    assert control.status is RunStatus.PAUSED
    control.resume()
    assert [status for status, _ in news] == ["paused", "running"]
    assert control.commands.take() == [Paused(), Resumed()]


def test_resume_clears_what_paused_the_run(control: Control) -> None:
    """A run that stumbled is settled for those who wait, until the user resumes it."""
    assert not control.settled
    control.stumble(RunError("The disk is full."))
    assert control.settled and control.wait_settled(0)
    control.resume()
    assert control.fault is None and not control.settled


def test_a_pause_by_the_user_leaves_waiters_waiting(control: Control) -> None:
    """Nobody has to fix anything, so waiting longer can change something."""
    control.pause()
    assert not control.settled


def test_cancel_is_seen_by_the_run_at_once_and_by_the_pass_in_its_queue(control: Control) -> None:
    """What waits outside a pass looks at the event; a pass reads its queue."""
    control.cancel()
    assert control.cancelled.is_set()
    assert control.commands.take() == [Cancelled()]


def test_a_run_is_over_when_its_thread_has_returned(control: Control) -> None:
    """The last status comes first; only then are lock and files released."""
    release, called = threading.Event(), []

    def work() -> None:
        control.finish(RESULT, "complete", "", failed=False)
        release.wait(200)

    control.start(work, "a run")
    control.on_over(called.append)
    assert not control.wait(0.05) and not called
    assert control.status is RunStatus.COMPLETE
    release.set()
    assert control.wait(200) and control.settled and len(called) == 1
    assert control.result is RESULT


def test_an_error_of_the_run_stops_it_and_is_kept(control: Control) -> None:
    """An error of ours as it is, any other as a defect that names it."""
    news = told(control)
    error = RunError("No.")

    def fails() -> None:
        raise error

    control.guard(fails)
    assert control.fault is error and news == [("stopped", "No.")]
    control.start([].pop, "a run")
    assert control.wait(200)
    assert isinstance(control.fault, RunError)
    assert isinstance(control.fault.__cause__, IndexError)
    assert "IndexError" in news[-1][1]


def test_a_retry_before_the_end_keeps_the_run_from_ending(control: Control) -> None:
    """Either the run sees the request before it ends, or the request sees that it has ended."""
    assert not control.retry(frozenset([A]))
    assert not control.finish(RESULT, "partial", "1 of 2 tiles failed.", failed=True)
    assert control.status is RunStatus.RUNNING and control.result is None
    assert control.commands.to_retry() == {A}
    assert control.finish(RESULT, "partial", "1 of 2 tiles failed.", failed=True)
    assert control.retry(None)


def test_without_failed_tiles_a_late_retry_does_not_hold_the_end_up(control: Control) -> None:
    """There is nothing to try again."""
    control.retry(None)
    assert control.finish(RESULT, "complete", "", failed=False)


def test_a_run_that_has_ended_is_reopened(control: Control) -> None:
    """It runs, and an earlier cancel is forgotten."""
    control.cancel()
    control.finish(RESULT, "cancelled", "0 of 2 tiles done.", failed=False)
    control.reopen()
    assert control.status is RunStatus.RUNNING and not control.cancelled.is_set()
