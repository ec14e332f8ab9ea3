"""Work of a file shared out to threads, whose results come in their order, few at a time.

Blending and packing leave the interpreter to others while they compute. What a file holds depends
on the order of results alone, so it is the same however many threads there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_order", "processors"]

Given = TypeVar("Given")
Made = TypeVar("Made")


def processors(most: int) -> int:
    """Return how many threads are of use: as many as processors are ours, up to `most`."""
    ours = getattr(os, "sched_getaffinity", None)  # not on every system
    return max(1, min(most, len(ours(0)) if ours else os.cpu_count() or 1))


def in_order(
    work: Callable[[Given], Made], given: Iterable[Given], most: int = 2
) -> Generator[Made]:
    """Yield ``work(one)`` for each of `given`, in their order, made by up to `most` threads.

    As many results as threads are made or waiting, besides the one that was yielded; so one thread
    is ahead by one. What is left when the iterator is closed is not begun.

    Raises
    ------
    Exception
        What `work` raises, in its place.
    """
    if processors(2) == 1:
        yield from map(work, given)
        return
    threads = processors(most)
    made: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads, "tilevision-map") as pool:
        try:
            for one in given:
                made.append(pool.submit(work, one))
                if len(made) > threads:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            for future in made:
                future.cancel()
