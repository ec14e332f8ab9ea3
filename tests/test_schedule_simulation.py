"""Thousands of schedules against a cluster that delays, fails, dies and vanishes."""

from __future__ import annotations

from random import Random

import pytest
from fake_cluster import HANGS, KILLS, OK, SLOW, FakeCluster, Script, row_of_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

from tilevision.errors import Failure
from tilevision.schedule import Policy, Quota, Retry
from tilevision.schedule.messages import (
    Cancelled,
    Paused,
    Resumed,
    RetryFailed,
    SetConcurrency,
)

TRANSIENT = Failure("transient", "OSError", "try again")
PERMANENT = Failure("permanent", "ModelError", "no use")
THROTTLED = Failure("throttled", "Throttled", "busy", retry_after=1.5)
ATTEMPTS = 3


def a_behaviour(random: Random, policy: Policy, trouble: float) -> list:
    if random.random() >= trouble:
        return [OK]
    kinds = [TRANSIENT, PERMANENT, THROTTLED, KILLS] + [HANGS, SLOW] * (policy.timeout is not None)
    kind = random.choice(kinds)
    if random.random() < 0.3:
        return [kind]
    return [kind] * random.choice((1, 1, 2)) + [OK]


def a_policy(random: Random) -> Policy:
    hosted = random.random() < 0.4
    return Policy(
        retry=Retry(ATTEMPTS, wait=random.choice((0.0, 0.05, 0.5)), max_wait=5.0),
        quota=Quota(
            random.choice((None, None, 1, 3, 8)), random.choice((None, None, None, 20, 90.5))
        ),
        concurrency=random.choice((None, None, 1, 2, 5)),
        batch_size=random.choice((None, None, 1, 3, 4)),
        timeout=random.choice((None, 5.0)),
        max_failures=random.choice((None, None, None, 2, 0.5)),
        hosted=hosted,
        model_batch=random.choice((1, 1, 2)),
    )


def some_commands(random: Random) -> tuple:
    commands = []
    if random.random() < 0.2:
        at = random.uniform(0, 3)
        commands += [(at, Paused("by hand")), (at + random.uniform(0.1, 5), Resumed())]
    if random.random() < 0.15:
        commands.append((random.uniform(0, 2), Cancelled()))
    if random.random() < 0.2:
        commands.append((random.uniform(0, 2), SetConcurrency(random.choice((None, 1, 4)))))
    if random.random() < 0.15:
        commands.append((random.uniform(0, 20), RetryFailed()))
    return tuple(commands)


def a_script(random: Random) -> Script:
    """Draw a schedule; most are small, so that many fit into a minute."""
    tiles = row_of_tiles(random.choice((0, 1, 2, 3, 5, 8, 8, 13, 40)))
    policy = a_policy(random)
    trouble = random.choice((0.0, 0.1, 0.3, 0.6))
    behaviour = {tile: a_behaviour(random, policy, trouble) for tile in tiles}
    poisoned = any(KILLS in does for does in behaviour.values())
    same_address = random.random() < 0.3
    calm = poisoned or random.random() < 0.7
    return Script(
        tiles,
        policy,
        behaviour,
        workers=random.choice((1, 2, 3)),
        threads=random.choice((1, 1, 2, 4)),
        seconds=random.choice((0.01, 0.05, 0.3)),
        hints_lost=random.choice((0.0, 0.0, 0.2, 1.0)),
        batch_failures=random.choice((0.0, 0.5)),
        same_address=same_address,
        silent_pins=not same_address and random.random() < 0.5,
        late_results=random.random() < 0.5,
        commit_first=random.random() < 0.5,
        commit_delay=random.choice((0.0, 0.1)),
        refused=frozenset(tile for tile in tiles if random.random() < 0.03),
        kills=() if calm else tuple(random.uniform(0, 2) for _ in range(2)),
        losses=(random.uniform(0, 2),) if random.random() < 0.1 else (),
        outage=an_outage(random),
        commands=some_commands(random),
        tick=random.choice((0.0, 0.01, 0.1)),
    )


def an_outage(random: Random) -> tuple[float, float, Failure] | None:
    if random.random() >= 0.15:
        return None
    begins = random.uniform(0, 1)
    return begins, begins + random.choice((1, 10, 300)), random.choice((TRANSIENT, THROTTLED))


def check(seed: int) -> FakeCluster:
    """Run one schedule, with the checks of the fake cluster, and judge its end."""
    random = Random(seed)
    script = a_script(random)
    cluster = FakeCluster(script, random)
    cluster.run()
    referee, end = cluster.referee, cluster.referee.end
    referee.check_per_minute()
    assert end is not None, "it neither ended nor had a reason not to"
    assert end.failures.keys() == referee.failed.keys()
    assert {tile: failure for tile, (failure, _) in end.failures.items()} == referee.failed
    for tile, (failure, attempts) in end.failures.items():
        judge_failure(script, tile, failure, attempts)
    finished = referee.committed | referee.failed.keys() == set(script.tiles)
    if end.status in ("complete", "partial"):
        assert finished
        assert (end.status == "complete") == (not referee.failed)
        for tile in script.tiles:
            judge_fate(cluster, tile)
    elif end.status == "stopped":
        assert script.policy.max_failures is not None
    else:
        assert end.status == "cancelled"
        assert not finished
    return cluster


def judge_failure(script: Script, tile, failure: Failure, attempts: int) -> None:
    """Hold that no tile fails for what it did not do."""
    kinds = {does.kind for does in script.behaviour[tile] if isinstance(does, Failure)}
    kinds |= {"lost"} if KILLS in script.behaviour[tile] else set()
    kinds |= {"timeout"} if {HANGS, SLOW} & set(script.behaviour[tile]) else set()
    kinds |= {script.outage[2].kind} if script.outage else set()
    kinds |= {"permanent"} if tile in script.refused else set()
    assert failure.kind in kinds, f"{tile.id} failed for {failure}, but does {kinds}"
    assert attempts >= 1


def judge_fate(cluster: FakeCluster, tile) -> None:
    """Hold that the tile ended as its script says, where the script leaves no doubt."""
    does = cluster.script.behaviour[tile]
    if tile in cluster.script.refused:
        assert tile not in cluster.referee.committed
    elif does[-1] not in (OK, SLOW):
        assert tile in cluster.referee.failed
    elif (
        does[-1] == OK
        and cluster.script.outage is None
        and PERMANENT not in does
        and len(does) - 1 < ATTEMPTS
    ):
        assert tile in cluster.referee.committed, f"{tile.id} does {does}, but failed"


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.integers(0, 2**48))
def test_any_schedule_ends_and_keeps_every_promise(seed: int) -> None:
    """Each tile ends once, nothing is exceeded, and no innocent fails, whatever happens."""
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_thousands_of_schedules_keep_every_promise(part: int) -> None:
    """The same in bulk: 4,000 schedules, each reproducible by its number."""
    for seed in range(part * 400, part * 400 + 400):
        try:
            check(seed)
        except Exception as error:
            raise AssertionError(f"schedule {seed}: {type(error).__name__}: {error}") from error
