"""When a task is given up."""

from __future__ import annotations

import heapq
import math

from tilevision.schedule.tilestates import Task

__all__ = ["LOADING_SECONDS", "Deadlines"]

LOADING_SECONDS = 120.0  # for a model to load, until it is known how long that takes
SLOWER = 3.0  # than it was so far, on a worker that is busier
AT_LEAST = 5.0


class Deadlines:
    """Deadlines of the tasks in flight, the earliest first.

    The clock of a task starts anew with each tile that begins, since its tiles run one
    after the other (as many at once as the model takes). A task that never reports a
    beginning may be queued behind others: it gets the time that all of them may take.

    A process that is new has libraries and the model to load before its first answer. That
    takes more than any tile, so the tasks it begins with get as much on top: or every tile
    would be late, and the next process have it all to do again.

    Parameters
    ----------
    timeout : float, optional
        Seconds a tile may run; None: no deadlines.
    model_batch : int
        Tiles that the model takes at once.
    """

    def __init__(self, timeout: float | None, model_batch: int) -> None:
        self._timeout = timeout
        self._model_batch = model_batch
        self._heap: list[tuple[float, str]] = []
        self._loading: float | None = None
        self._loading_until = -math.inf

    def loaded(self, seconds: float) -> None:
        """Learn from the first task of a process, which took `seconds`."""
        self._loading = max(AT_LEAST, SLOWER * seconds, self._loading or 0.0)

    def submitted(self, task: Task, in_flight: int, threads: int) -> None:
        """Start the clock of a task that may have to wait for `in_flight` tiles."""
        if self._timeout is not None:
            turns = math.ceil(in_flight / max(1, threads)) + task.size
            self._push(task, task.submitted + turns * self._timeout)

    def started(self, task: Task, now: float) -> None:
        """Start the clock anew, since a tile has begun."""
        if self._timeout is None:
            return
        deadline = now + self._timeout * min(self._model_batch, task.size)
        if task.cold:
            deadline += LOADING_SECONDS if self._loading is None else self._loading
            self._loading_until = max(self._loading_until, deadline)
        if len(task.started) <= 1:
            self._push(task, deadline)
        else:
            task.deadline = deadline  # later than its entry, which is put right when it is met

    def next(self, open_tasks: dict[str, Task]) -> float | None:
        """Return the earliest deadline of the tasks in flight."""
        self._compact(open_tasks)
        while self._heap:
            entry, key = self._heap[0]
            task = open_tasks.get(key)
            if task is not None and entry >= task.deadline:
                return entry
            heapq.heappop(self._heap)
            if task is not None:
                heapq.heappush(self._heap, (task.deadline, key))
        return None

    def due(self, open_tasks: dict[str, Task], now: float) -> list[Task]:
        """Take the tasks whose deadline has passed."""
        late: dict[str, Task] = {}
        while (deadline := self.next(open_tasks)) is not None and deadline <= now:
            key = heapq.heappop(self._heap)[1]
            task = open_tasks[key]
            if not task.started and now < self._loading_until:
                self._push(task, self._loading_until)  # it may be queued behind one that loads
            else:
                late[key] = task
        return list(late.values())

    def _push(self, task: Task, deadline: float) -> None:
        task.deadline = deadline
        heapq.heappush(self._heap, (deadline, task.key))

    def _compact(self, open_tasks: dict[str, Task]) -> None:
        """Drop what is over before it outweighs what is open."""
        if len(self._heap) > 64 + 4 * len(open_tasks):
            live = {key for _, key in self._heap if key in open_tasks}
            self._heap = [(open_tasks[key].deadline, key) for key in live]
            heapq.heapify(self._heap)
