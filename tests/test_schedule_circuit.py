"""Backends that fail: when a run slows down, holds, and goes on."""

from __future__ import annotations

from schedule_driver import BROKEN, BUSY, FLAKY, Driver

from tilevision.errors import Failure
from tilevision.schedule import Quota, Retry
from tilevision.schedule.messages import (
    Announce,
    Paused,
    Resumed,
    RetryFailed,
    Submit,
)

# Circuit ----------------------------------------------------------------------------------


def fail_until_held(driver: Driver, failure: Failure, most: int = 500) -> int:
    """Let everything fail; return how many tiles were sent before it held."""
    for _ in range(most):
        if driver.holds or driver.scheduler.ended:
            return len(driver.all(Submit))
        if driver.tasks:
            driver.fail(driver.tasks[0], failure)
        else:
            driver.wake()
    return len(driver.all(Submit))


def test_a_model_that_always_fails_holds_the_run() -> None:
    """The same error ten times in a row, none good: better ask than fail a hundred tiles."""
    driver = Driver(100, batch_size=1)
    fail_until_held(driver, BROKEN)
    assert len(driver.holds) == 1
    assert "10 tiles in a row" in driver.holds[0].reason
    assert "ModelError: no use" in driver.holds[0].reason
    assert driver.scheduler.counts["failed"] == 10
    assert "no use" in driver.scheduler.waiting_for
    for submit in driver.tasks:
        driver.fail(submit, BROKEN)
    assert driver.tasks == []


def test_a_held_run_goes_on_when_told() -> None:
    """`Resumed` or `RetryFailed`; failures are counted from naught again."""
    for command in (Resumed(), RetryFailed()):
        driver = Driver(100, batch_size=1)
        fail_until_held(driver, BROKEN)
        driver.do(command)
        assert driver.tasks != []
        while driver.tasks:
            driver.succeed(driver.tasks[0])
        assert driver.scheduler.ended
        assert len(driver.holds) == 1


def test_a_pause_outlives_a_hold_s_retry() -> None:
    """`RetryFailed` ends a hold, not a pause that somebody asked for."""
    driver = Driver(100, batch_size=1)
    fail_until_held(driver, BROKEN)
    for submit in driver.tasks:
        driver.fail(submit, BROKEN)
    driver.do(Paused())
    driver.do(RetryFailed())
    assert driver.tasks == []


def test_different_permanent_errors_are_not_an_outage() -> None:
    """Tiles that each fail in their own way fail by themselves."""
    driver = Driver(60, batch_size=1)
    while not driver.scheduler.ended:
        submit = driver.tasks[0]
        driver.fail(submit, Failure("permanent", "ModelError", f"bad {submit.tiles[0].id}"))
    assert driver.holds == []


def test_a_small_run_fails_to_its_end() -> None:
    """A hold protects untried tiles; where few are left it would only delay the result."""
    driver = Driver(16, batch_size=1)
    fail_until_held(driver, BROKEN)
    assert driver.holds == []
    assert driver.end is not None
    assert len(driver.end.failures) == 16


def test_a_tail_of_bad_tiles_is_no_outage() -> None:
    """Retried one after the other at the end, they fail; the run does not pause over them."""
    driver = Driver(60, batch_size=1, retry=Retry(3, wait=5.0, max_wait=5.0))
    bad = set(driver.tiles[::4])
    while not driver.scheduler.ended:
        if not driver.tasks:
            driver.wake()
            continue
        submit = driver.tasks[0]
        good = bad.isdisjoint(submit.tiles)
        driver.succeed(submit) if good else driver.fail(submit, FLAKY)
    assert driver.holds == []
    assert driver.end is not None
    assert set(driver.end.failures) == bad


def test_a_closed_backend_is_probed_before_the_run_holds() -> None:
    """One tile at a time, at growing intervals: more than a minute of patience, few requests."""
    driver = Driver(500, hosted=True, quota=Quota(16), batch_size=1)
    began = driver.now
    sent = fail_until_held(driver, BUSY)
    assert len(driver.holds) == 1
    assert driver.now - began > 60
    assert sent < 40


def test_a_backend_that_recovers_is_used_again() -> None:
    """The first probe that succeeds opens the window again, and it grows back."""
    driver = Driver(2000, hosted=True, quota=Quota(16), batch_size=1)
    for _ in range(22):
        driver.fail(driver.tasks[0], BUSY) if driver.tasks else driver.wake()
    assert "backend to recover" in driver.scheduler.waiting_for
    while len(driver.aloft) < 16:
        driver.succeed(driver.tasks[0], after=0.01) if driver.tasks else driver.wake()
    assert driver.holds == []


def test_throttling_now_and_then_does_not_stop_the_rest() -> None:
    """One refusal in ten halves the window at times; the others go on meanwhile."""
    driver = Driver(400, hosted=True, quota=Quota(16), batch_size=1)
    asked = Failure("throttled", "Throttled", "", retry_after=1.0)
    sent = 0
    while not driver.scheduler.ended:
        if not driver.tasks:
            driver.wake()
            continue
        sent += 1
        submit = driver.tasks[0]
        driver.fail(submit, asked, 0.01) if sent % 10 == 0 else driver.succeed(submit, 0, 0.01)
    assert driver.holds == []
    assert sent <= 1.15 * 400
    assert driver.now - 100 < 60


def test_workers_that_die_from_the_start_hold_the_run() -> None:
    """Where every tile kills its worker, it is the model's doing: nobody wants 300 deaths."""
    driver = Driver(100, batch_size=1)
    for _ in range(100):
        if driver.holds:
            break
        submit = driver.tasks[0]
        worker = submit.worker or "a"
        driver.start(submit, worker)
        driver.kill(submit, worker=worker)
    assert len(driver.holds) == 1
    assert "its worker died" in driver.holds[0].reason
    assert not [news for news in driver.all(Announce) if news.status == "failed"]
