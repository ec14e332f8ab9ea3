"""What the user commands, brought to the pass that is at work."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from tilevision.grid import Tile
from tilevision.schedule.messages import (
    Cancelled,
    Happening,
    Paused,
    Resumed,
    RetryFailed,
    SetConcurrency,
)

__all__ = ["Commands"]

_KINDS = (Cancelled, Paused, Resumed, RetryFailed, SetConcurrency)


class Commands:
    """Takes commands from any thread, for whichever pass runs.

    Each pass has a queue of its own: what the cluster still says of an earlier pass must not
    be taken for news of this one. Commands that come between two passes are kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._concurrency: SetConcurrency | None = None
        self._retry: frozenset[Tile] | None = frozenset()

    def put(self, command: Happening) -> None:
        """Give a command."""
        with self._lock:
            if isinstance(command, SetConcurrency):
                self._concurrency = command
            if isinstance(command, RetryFailed):
                if self._retry is None or command.tiles is None:
                    self._retry = None
                else:
                    self._retry |= command.tiles
            self._queue.put(command)

    def take(self) -> list[Happening]:
        """Return the commands that no pass has taken, and forget them."""
        with self._lock:
            return self._leftover()

    @property
    def to_be_retried(self) -> bool:
        """Whether there were `RetryFailed` since `to_retry` was last asked."""
        with self._lock:
            return self._retry is None or bool(self._retry)

    def to_retry(self) -> frozenset[Tile] | None:
        """Return the tiles of all `RetryFailed` since this was last asked; None: any tile."""
        with self._lock:
            tiles, self._retry = self._retry, frozenset()
            return tiles

    def hand_over(self, first: Sequence[Happening] = ()) -> SimpleQueue[Any]:
        """Return the queue of the next pass: `first`, what lasts, then what nobody has taken."""
        with self._lock:
            leftover, self._queue = self._leftover(), SimpleQueue()
            lasting = [self._concurrency] if self._concurrency is not None else []
            for command in (*lasting, *first, *leftover):
                self._queue.put(command)
            return self._queue

    def _leftover(self) -> list[Happening]:
        found: list[Happening] = []
        try:
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, _KINDS):
                    found.append(item)
        except Empty:
            return found
