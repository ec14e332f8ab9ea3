"""Work of files on several threads: in order, few at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tilevision.exporting.maps import inorder
from tilevision.exporting.maps.inorder import in_order


@pytest.fixture(params=[1, 2, 4])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pretend that the machine has so many processors."""
    monkeypatch.setattr(inorder, "processors", lambda most: min(most, request.param))
    return int(request.param)


def test_results_come_in_order_whoever_is_ready_first(processors: int) -> None:
    """The first waits for the third, where as many threads as that are at work."""
    third = threading.Event()

    def work(number: int) -> int:
        if number == 2:
            third.set()
        if number == 0 and processors > 2:
            assert third.wait(60)
        return number

    assert list(in_order(work, range(9), 4)) == list(range(9))


def test_few_are_taken_before_the_first_is_used(processors: int) -> None:
    """As many as there are threads, and the one that is yielded."""
    taken: list[int] = []

    def given() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    made = in_order(lambda one: one, given(), 3)
    assert next(made) == 0
    assert len(taken) <= min(3, processors) + 1
    made.close()  # type: ignore[attr-defined]  # a generator
    assert len(taken) <= min(3, processors) + 1


def test_the_next_is_made_while_one_is_used(processors: int) -> None:
    """Also by a single thread, where there is another processor."""
    begun = [threading.Event() for _ in range(4)]
    for number in in_order(lambda one: begun[one].set() or one, range(4), 1):
        if processors > 1 and number < 3:
            assert begun[number + 1].wait(60)


def test_an_error_comes_in_its_place(processors: int) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise OSError(28, "No space left on device")
        return number

    made, seen = in_order(work, range(9), 2), []
    with pytest.raises(OSError, match="No space left"):
        seen += made  # what came before it was seen
    assert seen in ([], [0, 1, 2])
