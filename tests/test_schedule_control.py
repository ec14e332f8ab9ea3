"""What the scheduler tells, how a run is controlled, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest
from schedule_driver import BROKEN, BUSY, DEAD, FLAKY, Driver, row_of_tiles

from tilevision.errors import Failure
from tilevision.schedule import Policy, Quota, Retry, Scheduler
from tilevision.schedule.messages import (
    Abandon,
    Announce,
    Cancelled,
    ClusterChanged,
    ClusterLost,
    Committed,
    End,
    Paused,
    Refused,
    Resumed,
    RetryFailed,
    Submit,
    TakeBack,
    TaskFinished,
    TaskLost,
    TileStarted,
)

TOO_LARGE = Failure("permanent", "CheckpointTooLarge", "too large")

# What is told -----------------------------------------------------------------------------


def test_a_start_is_announced_once_with_attempt_and_worker() -> None:
    """Hints that come twice, late or for strangers are not news."""
    driver = Driver(2, batch_size=1)
    submit = driver.tasks[0]
    (tile,) = submit.tiles
    hint = TileStarted(submit.task, tile, "a")
    driver.do(hint, hint)
    driver.do(
        hint, TileStarted("who?", tile, "a"), TileStarted(submit.task, row_of_tiles(9)[8], "a")
    )
    assert driver.all(Announce) == [Announce(tile, "running", 1, "a")]
    driver.succeed(submit)
    driver.do(hint)
    assert driver.statuses(tile) == ["running"]


def test_nothing_is_announced_of_a_tile_after_it_is_done() -> None:
    """A hint in the same breath as the commit would tell the story backwards."""
    driver = Driver(1)
    submit = driver.tasks[0]
    (tile,) = submit.tiles
    actions = driver.do(
        TileStarted(submit.task, tile, "a"),
        Committed((tile,)),
        TaskFinished(submit.task, {tile: None}),
    )
    assert actions == [End("complete")]


def test_counts_follow_every_tile() -> None:
    """They add up to the number of tiles, at any time."""
    driver = Driver(4, batch_size=1, retry=Retry(3, wait=5, max_wait=5))
    one, two, three, four = driver.tasks
    driver.start(one)
    driver.fail(two, FLAKY)
    driver.fail(three, BUSY)
    driver.fail(four, BROKEN)
    assert driver.scheduler.counts == {
        "pending": 0, "running": 1, "done": 0, "retrying": 1, "throttled": 1, "failed": 1,
    }  # fmt: skip
    driver.succeed(one)
    assert driver.scheduler.counts["done"] == 1


# Run control ------------------------------------------------------------------------------


def test_no_tiles_end_at_once() -> None:
    """Nothing to do is complete, also when paused before it began."""
    scheduler = Scheduler([], Policy())
    assert scheduler.wake_at(0.0) == 0.0
    assert scheduler.advance([Paused()], 0.0) == [End("complete")]
    assert scheduler.ended
    assert scheduler.waiting_for == ""
    assert scheduler.wake_at(1.0) is None


def test_a_paused_run_sends_nothing_until_resumed() -> None:
    """What is in flight finishes; retries wait as well."""
    driver = Driver(10, batch_size=1, retry=Retry(3, wait=0.0, max_wait=0.0))
    driver.do(Paused("by hand"))
    sent = len(driver.all(Submit))
    driver.succeed(driver.tasks[0])
    driver.fail(driver.tasks[0], FLAKY)
    driver.do(after=100)
    assert len(driver.all(Submit)) == sent
    assert "by hand" in driver.scheduler.waiting_for
    driver.do(Resumed())
    assert len(driver.all(Submit)) == sent + 2


def test_a_cancelled_run_ends_when_all_in_flight_is_committed() -> None:
    """Tiles in flight may finish and are kept; nothing new is begun."""
    driver = Driver(10, batch_size=1, concurrency=2)
    one, two = driver.tasks
    driver.do(Cancelled())
    driver.do(TaskFinished(one.task, dict.fromkeys(one.tiles)))
    driver.fail(two, FLAKY)
    assert driver.end is None
    assert "before it ends" in driver.scheduler.waiting_for
    driver.do(Committed(one.tiles))
    assert driver.end == End("cancelled", "1 of 10 tiles done.")
    assert driver.tasks == []


@pytest.mark.parametrize("command", [Paused(), Cancelled()])
@pytest.mark.parametrize("policy", [{}, {"concurrency": 2}, {"hosted": True, "quota": Quota(2)}])
def test_what_no_worker_has_begun_is_taken_back(command: Any, policy: dict[str, Any]) -> None:
    """A pause or an end waits for no more than that, on a cluster of any kind; asked for once."""
    driver = Driver(10, workers={"a": 1}, batch_size=1, **policy)
    begun, waiting = driver.tasks
    driver.start(begun)
    driver.do(command)
    driver.do(after=1.0)
    assert [asked.tasks for asked in driver.all(TakeBack)] == [(waiting.task,)]
    driver.do(TaskLost(waiting.task, DEAD, "", blameless=True))
    assert driver.tasks == [begun]
    driver.succeed(begun)
    assert not driver.tasks


def test_a_run_can_be_cancelled_while_paused() -> None:
    """It does not wait to be resumed."""
    driver = Driver(10, batch_size=1)
    driver.do(Paused())
    driver.do(Cancelled())
    for submit in driver.tasks:
        driver.succeed(submit)
    assert driver.end is not None
    assert driver.end.status == "cancelled"


def test_cancelling_what_is_all_done_changes_nothing() -> None:
    """A run whose last tiles were in flight is complete."""
    driver = Driver(2, batch_size=1)
    driver.do(Cancelled())
    for submit in driver.tasks:
        driver.succeed(submit)
    assert driver.end == End("complete")


@pytest.mark.parametrize("limit", [3, 0.3])
def test_too_many_failures_stop_the_run(limit: float) -> None:
    """At the limit nothing more is begun, and the rest stays pending."""
    driver = Driver(10, {"a": 1}, batch_size=1, max_failures=limit)
    while not driver.scheduler.ended:
        driver.fail(driver.tasks[0], BROKEN)
    assert driver.end is not None
    assert driver.end.status == "stopped"
    assert 3 <= len(driver.end.failures) <= 4  # one more was in flight
    assert driver.scheduler.counts["pending"] >= 6


def test_failed_tiles_get_fresh_attempts_on_request() -> None:
    """All of them or some; a run that had ended goes on and ends again."""
    driver = Driver(3, batch_size=1, retry=Retry(1))
    for submit in driver.tasks:
        driver.fail(submit, FLAKY)
    assert driver.end is not None
    driver.do(RetryFailed(frozenset(driver.tiles[:1])))
    assert not driver.scheduler.ended
    assert driver.aloft == [driver.tiles[0]]
    assert driver.tasks[0].attempts == (2,)
    driver.succeed(driver.tasks[0])
    assert set(driver.end.failures) == set(driver.tiles[1:])
    driver.do(RetryFailed())
    driver.finish()
    assert driver.end == End("complete")


def test_retrying_nothing_changes_nothing() -> None:
    """An ended run stays ended, a cancelled one cancelled."""
    driver = Driver(1)
    driver.succeed(driver.tasks[0])
    assert driver.do(RetryFailed()) == []
    assert driver.scheduler.ended


def test_time_running_backwards_does_no_harm() -> None:
    """It stands still instead: nothing is due twice, nothing too early."""
    driver = Driver(2, batch_size=1, retry=Retry(3, wait=5.0, max_wait=5.0))
    driver.fail(driver.tasks[0], FLAKY)
    driver.do(after=-50)
    driver.fail(driver.tasks[0], FLAKY)
    assert driver.tasks == []
    driver.now += 50
    driver.wake()
    assert driver.tasks != []


# The cluster ------------------------------------------------------------------------------


def test_without_workers_it_waits_and_says_so() -> None:
    """Nothing is sent to nobody; once they are back it goes on."""
    driver = Driver(5, {})
    assert driver.tasks == []
    assert "workers" in driver.scheduler.waiting_for
    driver.do(ClusterChanged({"a": 2}))
    assert driver.tasks != []


def test_a_lost_cluster_costs_no_attempt() -> None:
    """All that was in flight is pending again, and goes first once a cluster is there."""
    driver = Driver(20, batch_size=1, retry=Retry(1))
    driver.start(driver.tasks[0])
    aloft = driver.aloft
    driver.do(ClusterLost())
    assert driver.scheduler.counts["pending"] == 20
    assert driver.statuses(aloft[0]) == ["running", "pending"]
    driver.open.clear()
    driver.do(ClusterChanged({"c": 1, "d": 1}))
    assert driver.aloft == aloft
    assert all(submit.attempts == (1,) for submit in driver.tasks)


def test_news_of_strangers_is_ignored() -> None:
    """Tasks and tiles that are not of this run change nothing."""
    driver = Driver(3, batch_size=1)
    stranger = row_of_tiles(9)[8]
    actions = driver.do(
        TaskFinished("who?", {stranger: None}),
        TaskLost("who?", FLAKY),
        Committed((stranger,)),
        Refused({stranger: TOO_LARGE}),
    )
    assert actions == []
    assert not driver.scheduler.wants(stranger)


def test_a_late_success_is_a_success() -> None:
    """A result of a task that was given up is kept, and the tile's other task called off."""
    driver = Driver(1, timeout=5.0, hosted=True, retry=Retry(5, wait=0.0, max_wait=0.0))
    first = driver.tasks[0]
    driver.start(first)
    driver.wake()
    (second,) = driver.tasks
    assert driver.scheduler.wants(first.tiles[0])
    actions = driver.do(TaskFinished(first.task, {first.tiles[0]: None}))
    assert actions == [Abandon(second.task, restart_worker=False)]
    assert not driver.scheduler.wants(first.tiles[0])
    driver.do(Committed(first.tiles))
    assert driver.end == End("complete")
    assert driver.do(TaskFinished(second.task, {first.tiles[0]: FLAKY})) == []


def test_a_late_success_clears_a_tile_that_had_failed() -> None:
    """Better late than failed."""
    driver = Driver(2, {"a": 2}, batch_size=1, timeout=5.0, hosted=True, retry=Retry(1))
    hanging, other = driver.tasks
    driver.start(hanging)
    driver.do(TileStarted(other.task, other.tiles[0], "a"), after=4)
    driver.do(after=1)
    assert driver.scheduler.counts["failed"] == 1
    driver.do(Committed(hanging.tiles), TaskFinished(hanging.task, {hanging.tiles[0]: None}))
    driver.succeed(other)
    assert driver.end == End("complete")


def test_a_late_result_that_is_refused_stays_failed() -> None:
    """Neither committed nor expected: it must not be waited for."""
    driver = Driver(2, {"a": 2}, batch_size=1, timeout=5.0, hosted=True, retry=Retry(1))
    hanging, other = driver.tasks
    driver.start(hanging)
    driver.do(TileStarted(other.task, other.tiles[0], "a"), after=4)
    driver.do(after=1)
    (tile,) = hanging.tiles
    driver.do(Refused({tile: TOO_LARGE}), TaskFinished(hanging.task, {tile: None}))
    driver.succeed(other)
    assert driver.end == End("partial", "1 of 2 tiles failed.", {tile: (TOO_LARGE, 1)})
