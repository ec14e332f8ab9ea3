"""A fake clock and many workers: how well the scheduler keeps them at work.

The full size, a million tiles on a thousand workers, is ``benchmarks/schedule.py fleet``.
"""

import pytest
from fleet import ClientCost, Fleet


@pytest.mark.parametrize("seconds", [0.05, 0.5, 20.0])
def test_a_hundred_workers_are_kept_at_work(seconds: float) -> None:
    """Workers have a tile in 95 % of their time, its beginning and end included."""
    outcome = Fleet(max(1000, int(2000 / seconds)) // 1000 * 1000, 100, seconds).run()
    assert outcome.used >= (0.95 if seconds < 1 else 0.85)  # few long tiles end unevenly


def test_many_workers_get_longer_tasks() -> None:
    """However many there are, the client sends no more than some hundred tasks a second."""
    outcome = Fleet(20_000, 1000, 0.25).run()
    assert outcome.tasks / outcome.elapsed <= 1200  # the first ones are short: nothing is known
    assert outcome.tasks < 20_000 / 3


def test_short_tiles_are_bound_by_the_client_alone() -> None:
    """Where tiles come faster than a client takes them in, it does nothing but take them in."""
    cost, tiles = ClientCost(), 20_000
    outcome = Fleet(tiles, 1000, 0.02).run()
    taken_in = tiles * cost.tile + outcome.tasks * cost.task
    assert outcome.elapsed > tiles * cost.tile
    assert taken_in >= 0.95 * outcome.elapsed
