"""The scheduler's parts, each by itself."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision.errors import Failure, RunError
from tilevision.schedule import Policy, Quota, Retry
from tilevision.schedule.limits import HOSTED_TASKS, LARGEST, Batches, Bucket, Window
from tilevision.schedule.policy import Backoff

FLAKY = Failure("transient", "OSError", "try again")


# Token bucket -----------------------------------------------------------------------------


@given(
    st.floats(0.2, 500),
    st.lists(st.floats(0, 20), min_size=1, max_size=150),
)
def test_no_minute_has_more_requests_than_the_quota(per_minute: float, waits: list[float]) -> None:
    """Whenever they are asked for, no half-open minute sees more starts than allowed."""
    bucket, now, starts = Bucket(per_minute), 1e9, []
    for wait in waits:
        now += wait
        tokens = int(bucket.available(now))
        bucket.take(tokens)
        starts += [now] * tokens
    for i, start in enumerate(starts):
        inside = sum(start <= other < start + 60 - 1e-4 for other in starts[i:])
        assert inside <= max(1, per_minute)


@pytest.mark.parametrize("per_minute", [1, 2, 10, 60, 600])
def test_the_quota_is_nearly_used_up(per_minute: int) -> None:
    """Somebody who always waits for `ready_at` gets nine tenths of the quota or more."""
    bucket, now, n = Bucket(per_minute), 1e9, 0
    while now < 1e9 + 3600:
        now = bucket.ready_at(now)
        n += int(bucket.available(now))
        bucket.take(int(bucket.available(now)))
    assert n >= 0.9 * 60 * per_minute


def test_a_token_is_there_when_it_was_promised() -> None:
    """At `ready_at` a request may start, so that nobody is woken in vain."""
    bucket = Bucket(7)
    for now in (1.7e9, 1.7e9 + 0.3):
        bucket.take(int(bucket.available(now)))
        assert bucket.available(now) == 0
        assert bucket.available(bucket.ready_at(now)) >= 1


def test_a_clock_that_runs_backwards_gives_no_tokens() -> None:
    """Tokens are not given twice for the same time."""
    bucket = Bucket(60)
    bucket.take(int(bucket.available(100.0)))
    assert bucket.available(90.0) == 0
    assert bucket.available(100.5) == 0


def test_without_a_quota_nothing_is_held_back() -> None:
    """None means as many as wanted, now."""
    bucket = Bucket(None)
    bucket.take(1000)
    assert bucket.available(5.0) == math.inf
    assert bucket.ready_at(5.0) == 5.0


# Window -----------------------------------------------------------------------------------


def test_throttling_halves_once_for_all_that_was_sent_before() -> None:
    """Sixteen refusals of one window halve it once, not sixteen times."""
    window = Window(Policy(hosted=True, quota=Quota(16)))
    for serial in range(1, 17):
        window.throttled(serial, 16, 2, 1)
    assert window.tiles(2, 1) == 8
    window.throttled(17, 17, 2, 1)
    assert window.tiles(2, 1) == 4


def test_success_grows_by_one_for_a_window_s_worth() -> None:
    """Eight good tiles at a window of eight make nine; never more than the quota."""
    window = Window(Policy(hosted=True, quota=Quota(16)))
    window.throttled(1, 1, 2, 1)
    sizes = [window.tiles(2, 1)]
    for _ in range(300):
        window.succeeded(1, 2, 1)
        sizes.append(window.tiles(2, 1))
    assert sizes[0] == 8
    assert sizes[9] == 9  # rounding takes one more
    assert max(sizes) == sizes[-1] == 16


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 50), st.integers(1, 50))
def test_the_window_stays_between_one_and_the_quota(
    fates: list[bool], quota: int, concurrency: int
) -> None:
    """Whatever comes, 1 <= window <= the smaller of quota and concurrency."""
    window = Window(Policy(quota=Quota(quota), concurrency=concurrency, hosted=True))
    for serial, good in enumerate(fates, 1):
        if good:
            window.succeeded(3, 2, 1)
        else:
            window.throttled(serial, serial, 2, 1)
        assert 1 <= window.tiles(2, 1) <= min(quota, concurrency)


def test_a_local_window_is_a_little_above_the_threads() -> None:
    """In tasks, so that every thread finds its next one waiting; in tiles by the batch."""
    window = Window(Policy())
    assert [window.tasks(threads) for threads in (1, 2, 4, 8, 16)] == [2, 4, 6, 10, 20]
    assert window.tiles(4, 16) == 96


def test_the_window_holds_what_the_worker_that_wants_most_reads_ahead() -> None:
    """What it said last: once its tasks take longer, fewer are begun before they are due."""
    window = Window(Policy())
    assert window.tasks(2) == 4
    window.reads_ahead("a", 6)
    window.reads_ahead("b", 3)
    assert window.tasks(2) == 4 + 2 * 6
    window.reads_ahead("a", 1)
    assert window.tasks(2) == 4 + 2 * 3
    window.reads_ahead("b", 0)
    assert window.tasks(2) == 4 + 2 * 1


def test_batches_are_at_hand_until_it_is_known_whether_their_model_waits() -> None:
    """One to be read during the first call, and one more; a model that computes needs none."""
    window = Window(Policy(model_batch=16))
    assert window.tasks(2) == 4 + 2 * 2 and window.ahead == 0
    window.reads_ahead("a", 0)
    assert window.tasks(2) == 4
    assert Window(Policy(model_batch=1)).tasks(2) == 4


def test_a_hosted_window_grows_from_the_threads_to_its_cap() -> None:
    """Without a quota it starts low, and success widens it, within bounds."""
    window = Window(Policy(hosted=True))
    assert window.tiles(2, 1) == 4
    window.succeeded(5000, 2, 1)
    assert window.tiles(2, 1) == 32


def test_the_window_can_be_changed_while_running() -> None:
    """A number sets it, None makes it automatic, and the quota holds in any case."""
    window = Window(Policy(quota=Quota(4)))
    window.limit(100)
    assert window.tiles(2, 1) == 4
    window.limit(2)
    assert window.tiles(2, 1) == 2
    window.limit(None)
    assert window.tiles(2, 1) == 4


# Batches ----------------------------------------------------------------------------------


@given(st.floats(1e-4, 10), st.integers(1, 8))
def test_batches_settle_where_a_task_takes_a_fraction_of_a_second(
    seconds: float, unit: int
) -> None:
    """Tasks take 250 ms at most unless one model batch takes longer, and about half at least."""
    batches = Batches(None, unit)
    for _ in range(30):
        batches.measured(seconds * batches.size, batches.size)
    task = seconds * batches.size
    assert batches.size % unit == 0
    assert task <= 0.25 or batches.size == unit
    assert task >= 0.12 or batches.size + unit > min(LARGEST, 0.25 / seconds)


def test_batches_start_at_one_and_double_at_most() -> None:
    """A first measurement cannot send a hundred tiles away at once."""
    batches = Batches(None, 1)
    sizes = [batches.size]
    for _ in range(5):
        batches.measured(1e-3 * batches.size, batches.size)
        sizes.append(batches.size)
    assert sizes == [1, 2, 4, 8, 16, 32]


def test_one_slow_task_makes_batches_a_little_smaller():
    """A task that took twice as long a tile (a busy moment) moves the pace by a fifth of that."""
    batches = Batches(None, 1)
    for _ in range(20):
        batches.measured(0.01 * batches.size, batches.size)
    before = batches.size
    batches.measured(0.02 * before, before)
    assert batches.size == pytest.approx(before / 1.2, rel=0.05)


def test_a_slow_first_task_is_soon_forgotten() -> None:
    """Building the model (10 s) does not keep batches small for long."""
    batches = Batches(None, 1)
    batches.measured(10.0, 1)
    for _ in range(15):
        batches.measured(0.01 * batches.size, batches.size)
    assert batches.size >= 8


def test_a_given_batch_size_is_kept() -> None:
    """What the user says goes, whatever is measured."""
    batches = Batches(5, 2)
    batches.measured(100.0, 1)
    assert batches.size == 5


@given(st.floats(0.05, 60), st.integers(1, 500), st.integers(1, 64))
def test_hosted_batches_are_as_small_as_the_rate_of_tasks_allows(
    seconds: float, window: int, threads: int
) -> None:
    """A task waits for the slowest of its calls; a full window is about 30 tasks a second."""
    batches = Batches(None, 1, hosted=True)
    for _ in range(30):
        batches.measured(seconds, 7)
    size = batches.next(10_000, threads, window)
    assert (
        size == 1
        or window / size / seconds <= HOSTED_TASKS * 1.01
        or size == LARGEST
        or (size == window // (2 * threads))
    )
    assert size == 1 or window / (size - 1) / seconds > HOSTED_TASKS * 0.99


def test_hosted_batches_need_no_measurement_to_begin_with() -> None:
    """Calls are taken for a second long; few at once go one to a task, the last ones too."""
    batches = Batches(None, 1, hosted=True)
    assert batches.next(600, 2, 200) == 7
    assert batches.next(600, 2, 30) == 1
    assert batches.next(3, 2, 200) == 2
    assert Batches(5, 1, hosted=True).next(600, 2, 200) == 5


# Backoff ----------------------------------------------------------------------------------


@given(st.integers(1, 2000), st.floats(0, 5), st.floats(5, 60), st.integers())
def test_waits_are_jittered_below_an_exponential_bound(
    failed: int, wait: float, most: float, seed: int
) -> None:
    """0 <= wait <= min(max_wait, wait * 2 ** (n - 1)), for any number of failures."""
    backoff = Backoff(Retry(3, wait, most), seed)
    bound = min(most, wait * 2.0 ** min(failed - 1, 100))
    assert 0 <= backoff.wait(failed, FLAKY) <= bound * (1 + 1e-12)


def test_jitter_is_full_and_repeatable() -> None:
    """The waits fill the range, and the same seed gives the same ones."""
    waits = [Backoff(Retry(3, 1.0, 60.0), seed).wait(3, FLAKY) for seed in range(300)]
    assert min(waits) < 0.2
    assert max(waits) > 3.8
    assert waits == [Backoff(Retry(3, 1.0, 60.0), seed).wait(3, FLAKY) for seed in range(300)]


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [(7.5, 7.5, 7.5), (None, 0, 0.1), (-3, 0, 0.1), (math.nan, 0, 0.1), (math.inf, 0, 0.1)],
)
def test_retry_after_is_a_floor_where_it_makes_sense(
    asked: float | None, least: float, most: float
) -> None:
    """What the backend asks for is honoured; nonsense from it is not."""
    busy = Failure("throttled", "Throttled", "", retry_after=asked)
    assert least <= Backoff(Retry(3, 0.1, 0.1), 0).wait(1, busy) <= most


# Policy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"concurrency": 0},
        {"concurrency": 2.5},
        {"concurrency": True},
        {"batch_size": -1},
        {"model_batch": 0},
        {"timeout": 0},
        {"timeout": math.nan},
        {"timeout": "5"},
        {"max_failures": 0},
        {"max_failures": -0.1},
        {"max_failures": 1.5},
        {"max_failures": "10%"},
        {"max_failures": math.nan},
        {"concurrency": math.inf},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(arguments: dict) -> None:
    """The message names the argument, its value and what is allowed."""
    ((name, value),) = arguments.items()
    with pytest.raises(RunError, match=f"^{name} is .*; give") as caught:
        Policy(**arguments)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "tiles", "expected"),
    [(None, 10, None), (3, 10, 3), (3.0, 10, 3), (0.1, 100, 10), (0.3, 10, 3), (0.01, 10, 1)],
)
def test_max_failures_is_a_count_or_a_fraction(
    limit: float | None, tiles: int, expected: int | None
) -> None:
    """From 1 up it counts, below it is a share of the tiles, at least one."""
    assert Policy(max_failures=limit).failure_limit(tiles) == expected
