"""Tiles that kill or hang their worker: who is blamed, and who is not."""

from __future__ import annotations

from schedule_driver import DEAD, Driver

from tilevision.schedule import Retry
from tilevision.schedule.limits import LOADING_SECONDS
from tilevision.schedule.messages import (
    Abandon,
    ClusterChanged,
    RetryFailed,
    Submit,
    TaskLost,
    TileStarted,
)

# Suspects ---------------------------------------------------------------------------------


def convict(driver: Driver, guilty: set, deaths: int = 0) -> int:
    """Run to the end, with `guilty` tiles killing their worker; return the number of deaths."""
    for _ in range(2000):
        if driver.scheduler.ended:
            return deaths
        if not driver.tasks:
            driver.wake()
            continue
        submit = driver.tasks[0]
        worker = submit.worker or "a"
        culprits = [i for i, tile in enumerate(submit.tiles) if tile in guilty]
        driver.start(submit, worker, culprits[0] + 1 if culprits else None)
        if culprits:
            deaths += 1
            others = [t for t in driver.tasks if t.worker == worker and t is not submit]
            driver.kill(submit, *others, worker=worker)
        else:
            driver.succeed(submit, seconds=0.01 * len(submit.tiles))
    raise AssertionError(driver.scheduler.waiting_for)


def test_a_tile_that_kills_fails_alone() -> None:
    """Every innocent completes; the culprit fails as lost after 3 deaths by itself."""
    driver = Driver(40)
    guilty = {driver.tiles[i] for i in (3, 17, 30)}
    deaths = convict(driver, guilty)
    assert driver.end is not None
    assert driver.end.status == "partial"
    assert set(driver.end.failures) == guilty
    assert {failure.kind for failure, _ in driver.end.failures.values()} == {"lost"}
    assert driver.scheduler.counts["done"] == 37
    assert deaths <= 4 * len(guilty) + 2


def test_deaths_do_not_use_up_attempts() -> None:
    """With one attempt allowed, a tile that was on a dead worker twice still completes."""
    driver = Driver(1, retry=Retry(1))
    for _ in range(2):
        submit = driver.tasks[0]
        driver.start(submit, submit.worker or "a")
        driver.kill(submit, worker=submit.worker or "a", new="c")
        driver.do(ClusterChanged({"a": 1, "b": 1}))
    driver.succeed(driver.tasks[0])
    assert driver.end is not None
    assert driver.end.status == "complete"


def test_what_never_started_is_requeued_without_blame() -> None:
    """Only tiles reported as started are suspects; the others go in the main pass again."""
    driver = Driver(8, {"a": 1, "b": 1}, batch_size=4)
    submit = driver.tasks[0]
    driver.start(submit, "a", first=2)
    driver.do(TaskLost(submit.task, DEAD))
    started, others = submit.tiles[:2], submit.tiles[2:]
    for tile in started:
        again = driver.task_of(tile)
        assert again.worker is not None
        assert again.tiles == (tile,)
        assert again.attempts == (2,)
    again = driver.task_of(others[0])
    assert again.worker is None
    assert again.tiles == others
    assert again.attempts == (1, 1)
    assert driver.statuses(others[0]) == []


def test_suspects_run_one_to_a_worker_beside_the_main_pass() -> None:
    """Pinned, never two on one worker, while fresh tiles go on."""
    driver = Driver(60, {"a": 2, "b": 2}, batch_size=1)
    lost = driver.tasks[:4]
    for submit in lost:
        driver.start(submit)
    driver.do(*(TaskLost(submit.task, DEAD) for submit in lost))
    pinned = [submit for submit in driver.tasks if submit.worker]
    assert {submit.worker for submit in pinned} == {"a", "b"}
    assert len(pinned) == 2
    assert len(driver.tasks) > 2


def test_a_large_set_of_suspects_is_halved() -> None:
    """A hundred tiles blamed for one death are not tried one by one."""
    driver = Driver(200, hosted=True, concurrency=100, batch_size=1)
    lost = driver.tasks
    driver.do(*(TileStarted(submit.task, submit.tiles[0], "a") for submit in lost))
    driver.do(*(TaskLost(submit.task, DEAD) for submit in lost))
    pinned = [submit for submit in driver.tasks if submit.worker]
    assert [len(submit.tiles) for submit in pinned] == [50, 50]
    guilty = {lost[77].tiles[0]}
    before = len(driver.all(Submit))
    convict(driver, guilty)
    assert driver.end is not None
    assert set(driver.end.failures) == guilty
    suspects = [submit for submit in driver.all(Submit)[before:] if submit.worker]
    assert len(suspects) <= 25


def test_nobody_is_convicted_while_others_run() -> None:
    """The death that fails a tile happens with nothing else in flight that could be to blame."""
    driver = Driver(60)
    guilty = {driver.tiles[5]}
    aloft_at_death = []
    while not driver.scheduler.ended:
        if not driver.tasks:
            driver.wake()
            continue
        submit = next((t for t in driver.tasks if guilty & set(t.tiles)), driver.tasks[0])
        driver.start(submit, submit.worker or "a")
        if guilty & set(submit.tiles):
            aloft_at_death.append([t for t in driver.tasks if t.worker is None])
            driver.kill(submit, worker=submit.worker or "a")
        else:
            driver.succeed(submit, after=0.3)
    assert driver.end is not None
    assert set(driver.end.failures) == guilty
    assert aloft_at_death[-1] == []
    assert len(aloft_at_death) == 4  # once in the main pass, then three times alone


def test_without_hints_a_killer_is_still_found() -> None:
    """A tile that dies before its start is heard of does not go round for ever."""
    driver = Driver(6, batch_size=1)
    guilty = driver.tiles[2]
    for _ in range(200):
        if driver.scheduler.ended:
            break
        if not driver.tasks:
            driver.wake()
            continue
        submit = driver.tasks[0]
        if guilty in submit.tiles:
            driver.kill(submit, worker=submit.worker or "a")
        else:
            driver.succeed(submit)
    assert driver.end is not None
    assert set(driver.end.failures) == {guilty}


def test_a_suspect_whose_worker_vanished_is_taken_back() -> None:
    """Pinned to an address that is gone, it would wait for ever."""
    driver = Driver(30, batch_size=1)
    submit = driver.tasks[0]
    driver.start(submit)
    driver.do(TaskLost(submit.task, DEAD))
    pinned = driver.task_of(submit.tiles[0])
    driver.do(ClusterChanged({"x": 1, "y": 1}))
    assert Abandon(pinned.task, restart_worker=False) in driver.actions
    assert driver.task_of(submit.tiles[0]).worker in ("x", "y")


def test_a_convict_that_is_retried_stays_apart() -> None:
    """`RetryFailed` does not let it loose among the others."""
    driver = Driver(1)
    convict(driver, set(driver.tiles))
    driver.do(RetryFailed())
    assert driver.tasks[0].worker is not None


# Deadlines --------------------------------------------------------------------------------


def test_a_hanging_tile_fails_alone() -> None:
    """Its batch is tried one by one at no charge; alone it is charged, and its worker replaced."""
    driver = Driver(4, {"a": 1}, batch_size=4, timeout=10.0, retry=Retry(2, wait=0.0, max_wait=0.0))
    guilty = driver.tiles[1]
    driver.start(driver.tasks[0], first=2)
    driver.wake()
    assert Abandon("tile-infer-r000c000-a1-1", restart_worker=True) in driver.actions
    while not driver.scheduler.ended:
        submit = driver.tasks[0]
        assert len(submit.tiles) == 1
        driver.start(submit)
        if submit.tiles[0] == guilty:
            driver.wake()
        else:
            driver.succeed(submit)
    assert driver.end is not None
    ((tile, (failure, attempts)),) = driver.end.failures.items()
    assert (tile, failure.kind, attempts) == (guilty, "timeout", 2)
    assert "10.0 s" in failure.message


def test_a_slow_batch_is_not_a_hanging_tile() -> None:
    """The clock starts anew with each tile of a task."""
    driver = Driver(4, {"a": 1}, batch_size=4, timeout=10.0)
    submit = driver.tasks[0]
    for tile in submit.tiles:
        driver.do(TileStarted(submit.task, tile, "a"), after=9.0)
    driver.do(after=9.0)
    assert driver.all(Abandon) == []
    driver.do(after=1.0)
    assert len(driver.all(Abandon)) == 1


def begin(driver: Driver, submit: Submit, *, cold: bool, worker: str = "a") -> None:
    """Report that a task's first tile has begun, in a new process or in one that is warm."""
    driver.do(TileStarted(submit.task, submit.tiles[0], worker, cold))


def test_a_process_may_take_its_time_to_load_the_model() -> None:
    """Its first tile is not overdue for that, nor is what queues behind it; later ones are."""
    driver = Driver(4, {"a": 1}, batch_size=1, concurrency=2, timeout=5.0)
    first, behind = driver.tasks
    begin(driver, first, cold=True)
    driver.do(after=60.0)
    assert driver.all(Abandon) == []
    driver.succeed(first, seconds=60.0)
    begin(driver, behind, cold=False)
    driver.do(after=4.9)
    assert driver.all(Abandon) == []
    driver.do(after=0.1)
    assert [abandoned.task for abandoned in driver.all(Abandon)] == [behind.task]


def test_how_long_loading_takes_is_learned() -> None:
    """A tile that hangs in a new process is found out soon after it should have been loaded."""
    driver = Driver(3, {"a": 1, "b": 1}, batch_size=1, timeout=5.0)
    begin(driver, driver.tasks[0], cold=True)
    driver.succeed(driver.tasks[0], seconds=4.0, after=4.0)
    hanging = driver.tasks[0]
    begin(driver, hanging, cold=True, worker="b")
    driver.do(after=5.0 + 3 * 4.0 - 0.1)
    assert driver.all(Abandon) == []
    driver.do(after=0.1)
    assert hanging.task in [abandoned.task for abandoned in driver.all(Abandon)]


def test_a_model_that_never_loads_is_given_up() -> None:
    """Two minutes and the timeout after it began."""
    driver = Driver(1, {"a": 1}, timeout=5.0)
    begin(driver, driver.tasks[0], cold=True)
    driver.wake()
    assert driver.now == 100.0 + 5.0 + LOADING_SECONDS
    assert len(driver.all(Abandon)) == 1


def test_a_hosted_model_s_worker_is_never_restarted() -> None:
    """Other requests wait there."""
    driver = Driver(1, hosted=True, timeout=10.0)
    driver.start(driver.tasks[0])
    driver.wake()
    assert [a.restart_worker for a in driver.all(Abandon)] == [False]


def test_what_dies_in_a_restart_is_not_to_blame() -> None:
    """Tiles that ran beside a hanging one are requeued as if nothing had been."""
    driver = Driver(8, {"a": 2}, batch_size=1, concurrency=2, timeout=10.0)
    hanging, beside = driver.tasks
    driver.start(hanging)
    driver.do(TileStarted(beside.task, beside.tiles[0], "a"), after=5.0)
    driver.do(after=5.0)
    driver.do(TaskLost(beside.task, DEAD))
    again = driver.task_of(beside.tiles[0])
    assert again.worker is None
    assert again.attempts == (1,)
    assert driver.statuses(beside.tiles[0]) == ["running", "pending"]


def test_a_task_in_the_queue_is_not_overdue() -> None:
    """Behind tiles that all use their time, it is waited for that long."""
    driver = Driver(3, {"a": 1}, batch_size=1, concurrency=3, timeout=10.0)
    for submit in driver.tasks[:2]:
        driver.start(submit)
        driver.succeed(submit, after=9.9)
    driver.start(driver.tasks[0])
    driver.do(after=9.9)
    assert driver.all(Abandon) == []


def test_a_task_that_never_reports_is_given_up_in_the_end() -> None:
    """Without a hint there is no blame either, until it hangs with the cluster to itself."""
    driver = Driver(2, {"a": 1}, batch_size=1, timeout=10.0, retry=Retry(1))
    driver.succeed(driver.tasks[1])
    for given_up in (1, 2, 3):
        driver.wake()
        assert len(driver.all(Abandon)) == given_up
        assert driver.scheduler.counts["failed"] == 0
        driver.do(ClusterChanged({f"a{given_up}": 1}), after=1.0)
    while not driver.scheduler.ended:
        driver.wake()
    assert driver.end is not None
    ((tile, (failure, _)),) = driver.end.failures.items()
    assert (tile, failure.kind) == (driver.tiles[0], "timeout")
    assert driver.all(Submit)[-1].worker == "a3"


def test_without_a_timeout_nothing_is_given_up() -> None:
    """However long it takes; it says what it waits for."""
    driver = Driver(1)
    driver.start(driver.tasks[0])
    driver.do(after=1e6)
    assert driver.scheduler.wake_at(driver.now) is None
    assert driver.scheduler.waiting_for == "1 tiles in flight"
