"""Clusters that change under a run: they grow, lose workers for known reasons, are left."""

import math

import pytest
from schedule_driver import DEAD, FLAKY, Driver

from tilevision.schedule import Retry
from tilevision.schedule.messages import (
    Abandon,
    Cancelled,
    ClusterChanged,
    Paused,
    Renewed,
    Resumed,
    TakeBack,
    TaskLost,
    TileStarted,
    TileWaits,
)


def growing(tiles: int, most: int, workers: dict[str, int] | None = None, **policy) -> Driver:
    """Return a driver of a cluster that may grow to so many threads."""
    driver = Driver(tiles, workers={}, **policy)
    driver.do(ClusterChanged(workers or {}, may_have=most))
    return driver


# Growing ------------------------------------------------------------------------------------


def test_a_cluster_from_zero_is_given_what_it_should_start_workers_for() -> None:
    """Without a worker, as many tasks wait as Dask's adaptive scaling wants for every thread.

    Dask (distributed's `adaptive_target`) asks for occupancy / 5 s, and takes 0.5 s for a task
    that it does not know: ten tasks for each thread.
    """
    assert len(growing(500, 4).tasks) == 40
    assert len(growing(16, 4).tasks) == 16


def test_a_cluster_that_stays_as_it_is_gets_no_more_than_its_window() -> None:
    """Where nothing can be started, few tasks wait: little is lost, and commands act at once."""
    assert growing(500, 0, {"a": 1}).tasks != []
    assert len(growing(500, 0, {"a": 1}).tasks) == 2
    assert len(growing(500, 1, {"a": 1}).tasks) == 2
    assert growing(500, 0).tasks == []


@pytest.mark.parametrize("seconds", [0.2, 2.0, 60.0])
def test_the_queue_follows_what_tasks_take(seconds: float) -> None:
    """Once a task has come back, its seconds decide: 5 s of work for each thread, at least one."""
    driver = growing(4000, 4, {"a": 1}, batch_size=1)
    for _ in range(40):  # those that were sent before anything was known
        driver.succeed(driver.tasks[0], seconds)
    assert len(driver.tasks) == math.ceil(5.0 / seconds) * 4


def test_a_number_that_was_asked_for_is_kept() -> None:
    """`concurrency=` bounds what is in flight on a cluster that may grow, too."""
    driver = growing(500, 100, concurrency=3)
    assert len(driver.aloft) == 3


def test_small_tiles_are_not_queued_one_by_one() -> None:
    """While the batch size still grows, the queue stays short: each task has its cost."""
    driver = growing(100_000, 1000, {"a": 1})
    driver.succeed(driver.tasks[0], 0.001)
    assert len(driver.tasks) <= 100


def test_what_waits_in_the_queue_is_not_late() -> None:
    """The time limit of a tile does not run while no worker is there, or others are before it."""
    driver = growing(20, 2, timeout=5.0)
    for _ in range(50):
        driver.do(after=10.0)
    assert driver.all(Abandon) == []
    driver.do(ClusterChanged({"a": 1}, may_have=2))
    first = driver.tasks[0]
    driver.start(first)
    driver.do(after=1000.0)
    assert [action.task for action in driver.all(Abandon)][:1] == [first.task]


def test_a_pause_takes_back_what_waits_in_the_queue() -> None:
    """The cluster is asked once for all that was not seen to begin; what it gives back is resent.

    What a worker has begun meanwhile is waited for: no tile is computed twice.
    """
    driver = growing(40, 4, {"a": 1})
    seen, unseen, *waiting = driver.tasks
    driver.start(seen)
    driver.do(Paused())
    driver.do(after=1.0)
    (asked,) = driver.all(TakeBack)
    assert asked.tasks == (unseen.task, *(submit.task for submit in waiting))
    driver.do(*(TaskLost(submit.task, DEAD, "", blameless=True) for submit in waiting))
    assert driver.tasks == [seen, unseen]
    driver.do(Resumed())
    assert len(driver.aloft) == 40
    driver.finish()
    assert driver.end is not None and driver.end.status == "complete"


def test_deaths_do_not_blame_what_waited_in_the_queue() -> None:
    """A worker that dies time and again accuses no tile that was not seen to begin."""
    driver = growing(200, 8, {"a": 1})
    tile = driver.tasks[0].tiles[0]
    for _ in range(5):
        driver.do(TaskLost(driver.task_of(tile).task, DEAD))
        assert driver.task_of(tile).worker is None  # a suspect would be pinned to a worker
    driver.finish()
    assert driver.end is not None and driver.end.status == "complete"


def test_an_outage_is_noticed_though_all_tiles_are_queued() -> None:
    """Ten failures in a row pause the run; the rest is taken back from the cluster's queue."""
    driver = growing(60, 100, {"a": 1, "b": 1}, batch_size=1, retry=Retry(attempts=1))
    assert len(driver.aloft) == 60
    for _ in range(10):
        submit = driver.tasks[0]
        driver.start(submit)
        driver.fail(submit, FLAKY)
    assert len(driver.holds) == 1
    (asked,) = driver.all(TakeBack)
    assert asked.tasks == tuple(submit.task for submit in driver.tasks)


# Workers that do not work --------------------------------------------------------------------


def test_a_paused_worker_does_not_count() -> None:
    """The window follows the workers that take tasks; suspects are pinned to those alone."""
    driver = Driver(100, workers={"a": 2, "b": 2})
    driver.do(ClusterChanged({"a": 2, "b": 2}, idle=frozenset("a")))
    for submit in driver.tasks[:4]:
        driver.succeed(submit)
    assert len(driver.tasks) == 4  # two threads and two tasks ahead
    driver.start(driver.tasks[0], "b")
    driver.do(TaskLost(driver.tasks[0].task, DEAD))
    pinned = [submit.worker for submit in driver.tasks if submit.worker]
    assert pinned == ["b"]


@pytest.mark.parametrize("known", ["blameless", "renewed"])
def test_a_loss_with_a_known_reason_blames_no_tile(known: str) -> None:
    """Tiles on a worker that retired, or that we replace, go back as if they had not been sent."""
    driver = Driver(10)
    submit = driver.tasks[0]
    driver.start(submit, "a")
    if known == "renewed":
        driver.do(Renewed("a"))
    driver.do(TaskLost(submit.task, DEAD, "a", blameless=known == "blameless"))
    again = driver.task_of(submit.tiles[0])
    assert again.worker is None and again.attempts == (1,)


# Cancelling ----------------------------------------------------------------------------------


def test_a_cancelled_run_does_not_wait_for_a_tile_that_hangs() -> None:
    """It ends ten seconds later; its worker is to be restarted, and the tile is pending."""
    driver = Driver(10)
    hanging = driver.tasks[0]
    driver.start(hanging)
    driver.do(Cancelled())
    for submit in driver.tasks[1:]:
        driver.succeed(submit)
    assert driver.end is None
    assert driver.scheduler.wake_at(driver.now) == driver.now + 10.0
    driver.do(after=10.0)
    assert driver.end is not None and driver.end.status == "cancelled"
    assert driver.all(Abandon)[-1] == Abandon(hanging.task, restart_worker=True, left=True)
    assert driver.scheduler.counts["pending"] == 10 - driver.scheduler.counts["done"]


def test_a_second_cancel_ends_at_once() -> None:
    """Who cancels again does not want to wait."""
    driver = Driver(10)
    driver.start(driver.tasks[0])
    driver.do(Cancelled())
    assert driver.end is None
    driver.do(Cancelled(), after=1.0)
    assert driver.end is not None and driver.end.status == "cancelled"


def test_slow_tiles_are_waited_for() -> None:
    """Tiles that take a minute have three on a cancel: what is paid for is kept."""
    driver = Driver(10, batch_size=1)
    driver.succeed(driver.tasks[0], 60.0)
    driver.do(Cancelled())
    driver.do(after=179.0)
    assert driver.end is None
    for submit in driver.tasks:
        driver.succeed(submit)
    assert driver.end is not None and driver.end.status == "cancelled"
    assert driver.scheduler.counts["done"] == 5


def test_a_run_that_is_terminated_is_stopped() -> None:
    """Its reason is kept, and it waits no longer than it is given."""
    driver = Driver(10)
    driver.start(driver.tasks[0])
    driver.do(Cancelled("terminated", 2.0))
    driver.do(after=2.0)
    assert driver.end is not None
    assert (driver.end.status, driver.end.reason) == ("stopped", "terminated")


# Turns at the model --------------------------------------------------------------------------


def test_the_wait_for_a_turn_is_not_a_tiles_time() -> None:
    """A tile's limit runs from its turn on, however long its neighbour was at the model."""
    driver = Driver(2, workers={"a": 2}, timeout=10.0, batch_size=1)
    first, second = driver.tasks
    driver.start(first)
    driver.start(second)
    driver.do(TileWaits(second.task, second.tiles[0], "a"))
    driver.succeed(first, 9.0, after=9.0)
    driver.do(TileStarted(second.task, second.tiles[0], "a"))
    driver.do(after=9.0)
    assert driver.all(Abandon) == []
    driver.do(after=1.1)
    assert [action.task for action in driver.all(Abandon)] == [second.task]


def test_a_neighbour_of_a_tile_that_hangs_is_not_charged() -> None:
    """The one that waited for its turn is sent again as it was; the one that hangs is charged."""
    driver = Driver(2, workers={"a": 2}, timeout=10.0, batch_size=1)
    hangs, waits = driver.tasks
    driver.start(hangs)
    driver.start(waits)
    driver.do(TileWaits(waits.task, waits.tiles[0], "a"))
    driver.do(after=10.1)
    assert driver.all(Abandon) == [Abandon(hangs.task, restart_worker=True)]
    driver.do(TaskLost(waits.task, DEAD, "a"))
    assert driver.task_of(waits.tiles[0]).attempts == (1,)
    assert "retrying" not in driver.statuses(waits.tiles[0])
