"""What the scheduler sends, and when: order, batches, window, retries."""

from __future__ import annotations

import pytest
from schedule_driver import BROKEN, BUSY, FLAKY, Driver, row_of_tiles

from tilevision.errors import Failure, RunError
from tilevision.grid import Grid
from tilevision.schedule import Policy, Quota, Retry, Scheduler
from tilevision.schedule.messages import (
    Committed,
    End,
    Refused,
    SetConcurrency,
    Submit,
    TaskFinished,
    TileStarted,
)

TOO_LARGE = Failure("permanent", "CheckpointTooLarge", "too large")

# Order and batches ------------------------------------------------------------------------


def test_tiles_are_sent_in_the_order_given() -> None:
    """Row-major in, row-major out, every time."""
    tiles = Grid(rows=6, cols=7).tiles((700, 600))
    driver = Driver(tiles)
    driver.finish()
    assert [tile for submit in driver.all(Submit) for tile in submit.tiles] == list(tiles)


def test_the_same_happenings_give_the_same_actions() -> None:
    """Decisions depend on what happened, when, and the seed; on nothing else."""

    def play() -> list:
        driver = Driver(12)
        for turn in range(9):
            submit = driver.tasks[turn % len(driver.tasks)]
            driver.fail(submit, FLAKY, 0.1) if turn % 3 else driver.succeed(submit, 0.1, 0.1)
        return driver.actions

    assert play() == play()


def test_keys_name_tile_and_attempt_and_are_unique() -> None:
    """``tile-infer-<tile>-a<attempt>-<serial>``: nothing old can be taken for it."""
    driver = Driver(1, retry=Retry(3, wait=0, max_wait=0))
    driver.fail(driver.tasks[0], FLAKY)
    driver.fail(driver.tasks[0], FLAKY)
    keys = [submit.task for submit in driver.all(Submit)]
    assert keys == [f"tile-infer-r000c000-a{n}-{n}" for n in (1, 2, 3)]
    assert [submit.attempts for submit in driver.all(Submit)] == [(1,), (2,), (3,)]


def test_batches_grow_with_fast_tiles() -> None:
    """Tiles of 10 ms end up 25 to a task; the window follows, in tasks."""
    driver = Driver(3000)
    sizes = []
    for _ in range(40):
        submit = driver.tasks[0]
        sizes.append(len(submit.tiles))
        driver.succeed(submit, seconds=0.01 * len(submit.tiles), after=0.1)
    assert sizes[0] == 1
    assert sizes[-1] in (24, 25)
    assert len(driver.tasks) == 4


def test_loading_the_model_is_not_taken_for_the_time_of_tiles() -> None:
    """Tasks in which it took a minute to load leave the growth to those that follow."""
    driver = Driver(1000)
    for submit in driver.tasks[:2]:
        driver.do(TileStarted(submit.task, submit.tiles[0], "a", cold=True))
        driver.succeed(submit, seconds=60.0)
    sizes = []
    for _ in range(12):
        submit = driver.tasks[0]
        sizes.append(len(submit.tiles))
        driver.succeed(submit, seconds=0.01 * len(submit.tiles), after=0.1)
    assert sizes[-1] in (24, 25)


def test_the_tail_is_shared_among_the_threads() -> None:
    """The last tiles are not one large batch while other workers stand idle."""
    driver = Driver(300)
    while driver.scheduler.counts["pending"] - len(driver.aloft) > 20:
        submit = driver.tasks[0]
        driver.succeed(submit, seconds=0.001 * len(submit.tiles))
    sizes = [len(submit.tiles) for submit in driver.all(Submit)]
    assert max(sizes) > 20
    while driver.tasks:
        driver.succeed(driver.tasks[0])
    last = [len(submit.tiles) for submit in driver.all(Submit)][len(sizes) :]
    assert max(last) <= 10


def test_automatic_batches_are_multiples_of_the_model_s() -> None:
    """After the first task on each thread, a model that takes 8 at once gets 8, 16, 24, ..."""
    driver = Driver(500, model_batch=8)
    while driver.tasks:
        submit = driver.tasks[0]
        driver.succeed(submit, seconds=0.005 * len(submit.tiles))
    sizes = [len(submit.tiles) for submit in driver.all(Submit)]
    assert sizes[:4] == [1, 1, 8, 8]
    assert max(sizes) == 48
    assert {size % 8 for size in sizes[2:-1]} == {0}


def test_a_few_tiles_are_shared_though_a_model_would_take_them_at_once() -> None:
    """As long as nobody knows how long one takes: no worker is left idle beside a whole batch."""
    driver = Driver(10, model_batch=16)
    assert [len(submit.tiles) for submit in driver.all(Submit)] == [1, 1, 4, 2, 1, 1]


def test_an_explicit_window_leaves_each_thread_its_share() -> None:
    """With concurrency=4 on two threads, no task takes more than two tiles."""
    driver = Driver(100, concurrency=4)
    for _ in range(15):
        driver.succeed(driver.tasks[0], seconds=1e-4)
    assert {len(submit.tiles) for submit in driver.all(Submit)[8:]} == {2}
    assert len(driver.aloft) == 4


def test_a_batch_larger_than_the_quota_is_cut() -> None:
    """A hosted quota counts tiles: each is a request."""
    driver = Driver(20, hosted=True, batch_size=8, quota=Quota(concurrency=3))
    assert len(driver.aloft) == 3


def test_duplicate_tiles_are_refused() -> None:
    """The message names the tile."""
    tiles = row_of_tiles(3)
    with pytest.raises(RunError, match="r000c001 is planned twice"):
        Scheduler([*tiles, tiles[1]], Policy())


# Window and back-pressure -----------------------------------------------------------------


def test_what_is_not_committed_keeps_its_place_in_the_window() -> None:
    """Results that pile up before the checkpoint stop new tiles."""
    driver = Driver(10, concurrency=2, batch_size=1)
    for submit in driver.tasks:
        driver.do(TaskFinished(submit.task, dict.fromkeys(submit.tiles)))
    assert driver.tasks == []
    assert "to be committed" in driver.scheduler.waiting_for
    driver.do(Committed(driver.tiles[:1]))
    assert driver.aloft == [driver.tiles[2]]


def test_the_commit_may_come_before_the_outcome() -> None:
    """Either order ends the tile, and both teach the batch size."""
    driver = Driver(9)
    first = driver.tasks[0]
    driver.do(Committed(first.tiles))
    driver.do(TaskFinished(first.task, dict.fromkeys(first.tiles), 0.01))
    driver.finish()
    assert driver.end is not None
    assert driver.end.status == "complete"


def test_concurrency_can_be_changed_while_running() -> None:
    """A smaller window drains first, a larger one is filled at once."""
    driver = Driver(50, concurrency=2, batch_size=1)
    driver.do(SetConcurrency(5))
    assert len(driver.aloft) == 5
    driver.do(SetConcurrency(1))
    for _ in range(4):
        driver.succeed(driver.tasks[0])
        assert driver.all(Submit)[-1].task == f"tile-infer-r000c004-a1-{5}"
    driver.succeed(driver.tasks[0])
    assert len(driver.aloft) == 1
    driver.do(SetConcurrency(None))
    assert len(driver.tasks) == 4


def test_the_rate_limit_is_waited_for_and_named() -> None:
    """With no tokens left nothing is sent, and `wake_at` says until when."""
    driver = Driver(10, hosted=True, quota=Quota(per_minute=6))
    assert len(driver.aloft) == 1
    driver.succeed(driver.tasks[0])
    assert driver.tasks == []
    assert "quota" in driver.scheduler.waiting_for
    before = driver.now
    driver.wake()
    assert driver.now - before == pytest.approx(10, abs=0.1)
    assert len(driver.aloft) == 1


# Retries ----------------------------------------------------------------------------------


def test_a_tile_is_tried_as_often_as_the_policy_says() -> None:
    """Transient errors: three attempts, waits in between, then it fails with the last error."""
    driver = Driver(1, retry=Retry(3, wait=1.0, max_wait=10))
    for attempt in (1, 2, 3):
        assert driver.tasks[0].attempts == (attempt,)
        driver.fail(driver.tasks[0], FLAKY)
        if attempt < 3:
            assert driver.tasks == []
            assert "to be tried again" in driver.scheduler.waiting_for
            driver.wake()
    assert driver.end == End("partial", "1 of 1 tiles failed.", {driver.tiles[0]: (FLAKY, 3)})


def test_a_permanent_error_is_not_retried() -> None:
    """One attempt, and the error is kept."""
    driver = Driver(1)
    driver.fail(driver.tasks[0], BROKEN)
    assert driver.end is not None
    assert driver.end.failures == {driver.tiles[0]: (BROKEN, 1)}


def test_retries_that_are_due_go_before_fresh_tiles() -> None:
    """A tile that was tried is finished before new ones are begun."""
    driver = Driver(20, retry=Retry(3, wait=0.0, max_wait=0.0), batch_size=1)
    first = driver.tasks[0]
    driver.fail(first, FLAKY)
    assert driver.all(Submit)[-1].tiles == first.tiles


def test_throttling_costs_no_attempt() -> None:
    """A busy backend is asked again and again, with no error charged to the tile."""
    driver = Driver(1, hosted=True, retry=Retry(1, wait=0.1, max_wait=0.1))
    for _ in range(8):
        driver.fail(driver.tasks[0], BUSY)
        driver.wake()
    driver.succeed(driver.tasks[0])
    assert driver.end == End("complete")
    assert driver.all(Submit)[-1].attempts == (9,)
    assert set(driver.statuses(driver.tiles[0])) == {"throttled"}


def test_a_tile_that_is_always_throttled_fails_in_the_end() -> None:
    """Nothing goes on for ever."""
    driver = Driver(1, hosted=True, retry=Retry(1, wait=0.0, max_wait=0.0))
    while not driver.scheduler.ended:
        driver.fail(driver.tasks[0], BUSY)
    assert driver.end is not None
    assert driver.end.failures == {driver.tiles[0]: (BUSY, 30)}


def test_retry_after_is_waited_out() -> None:
    """The tile does not go before the time the backend named."""
    driver = Driver(1, hosted=True)
    driver.fail(driver.tasks[0], Failure("throttled", "Throttled", "", retry_after=12.0))
    before = driver.now
    driver.wake()
    assert driver.now - before >= 12.0
    assert len(driver.tasks) == 1


def test_a_batch_that_fails_as_a_whole_is_split_without_charge() -> None:
    """Its tiles go alone, still on their first attempt, and only the culprit is charged."""
    driver = Driver(4, {"a": 1}, batch_size=4, retry=Retry(1))
    submit = driver.tasks[0]
    outcomes = dict.fromkeys(submit.tiles, BROKEN)
    driver.do(TaskFinished(submit.task, outcomes, batched=frozenset(submit.tiles)))
    while driver.tasks:
        alone = driver.tasks[0]
        assert len(alone.tiles) == 1
        assert alone.attempts == (1,)
        guilty = alone.tiles[0] == driver.tiles[2]
        driver.fail(alone, BROKEN) if guilty else driver.succeed(alone)
    assert driver.end is not None
    assert driver.end.failures == {driver.tiles[2]: (BROKEN, 1)}


def test_a_tile_alone_cannot_blame_its_batch() -> None:
    """A task of one tile that claims so is charged, or it would go on for ever."""
    driver = Driver(1, retry=Retry(1))
    submit = driver.tasks[0]
    batched = frozenset(submit.tiles)
    driver.do(TaskFinished(submit.task, dict.fromkeys(submit.tiles, FLAKY), batched=batched))
    assert driver.end is not None
    assert driver.end.status == "partial"


def test_a_tile_that_a_task_leaves_out_is_an_error() -> None:
    """A missing outcome is charged and retried, not taken for done."""
    driver = Driver(2, {"a": 1}, batch_size=2, retry=Retry(1))
    submit = driver.tasks[0]
    driver.do(TaskFinished(submit.task, {submit.tiles[0]: None}))
    driver.do(Committed(submit.tiles[:1]))
    assert driver.end is not None
    assert set(driver.end.failures) == {submit.tiles[1]}


def test_a_tile_the_checkpoint_refuses_fails_at_once() -> None:
    """Too large is too large: no retry, whichever news comes first."""
    for first in (0, 1):
        driver = Driver(1)
        submit = driver.tasks[0]
        news = [
            Refused({submit.tiles[0]: TOO_LARGE}),
            TaskFinished(submit.task, {submit.tiles[0]: None}),
        ]
        driver.do(news[first], news[1 - first])
        assert driver.end is not None
        assert driver.end.failures == {submit.tiles[0]: (TOO_LARGE, 1)}
