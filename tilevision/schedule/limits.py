"""What bounds a run: tiles in flight, their rate, their batches, their time, failures in a row."""

from __future__ import annotations

import heapq
import math

from tilevision.errors import Failure
from tilevision.schedule.policy import Backoff, Policy, asked_for
from tilevision.schedule.tilestates import Task, TileState

__all__ = ["HOSTED_CAP", "LOADING_SECONDS", "Batches", "Bucket", "Circuit", "Deadlines", "Window"]

HOSTED_CAP = 32  # requests at once where neither a quota nor a number was given
MINUTE = 60.0
BURST = 20  # a twentieth of the quota at once; what the burst takes, the steady rate gives up
# For a task. Dask, the client and the worker spend some 10 ms of all processors on one. Longer ones
# would save more of that, but with a worker that dies all tiles that its task began are suspects.
TARGET_SECONDS = 0.25
LARGEST = 128
TASKS_A_SECOND = 400
HOSTED_TASKS = 30  # a second: beyond, Dask's work beside the calls takes much of two processors
AT_FIRST = 2  # tasks ahead of each thread's own: one to read during the first call, one at hand
FASTER, SLOWER = 0.5, 0.2  # a slow first task (a model being built) is soon forgotten


class Window:
    """Tiles in flight, additive increase and multiplicative decrease (AIMD).

    Automatic and local, it is a little above the number of threads, in tasks: enough that
    no thread waits for the client, few enough that little is lost with a worker.

    Parameters
    ----------
    policy : Policy

    Attributes
    ----------
    ahead : int
        Tasks that each thread takes beside the one it is for: what the worker that wants most
        said last; 0 until one has said it.
    """

    def __init__(self, policy: Policy) -> None:
        self._quota = policy.quota.concurrency
        self._hosted = policy.hosted
        self._size: float | None = None
        self._explicit: int | None = None
        self.ahead = 0
        # Until a worker has said: a model that takes batches most likely waits for a device.
        self._foreseen = AT_FIRST if policy.model_batch > 1 else 0
        self._ahead: dict[str, int] = {}
        self.limit(policy.concurrency)
        self._last_cut = 0

    def limit(self, concurrency: int | None) -> None:
        """Set the number of tiles; None is automatic. The quota holds in any case."""
        given = [n for n in (concurrency, self._quota) if n is not None]
        self._explicit = max(1, min(given)) if given else None

    def reads_ahead(self, worker: str, tasks: int) -> None:
        """Note how many tasks a worker takes beside the one that each of its threads is for."""
        if self._ahead.get(worker) != tasks:
            self._ahead[worker] = tasks
            self.ahead = self._foreseen = max(self._ahead.values())

    def tasks(self, threads: int) -> float:
        """Return how many tasks may be in flight; infinity where only tiles are counted."""
        if self._hosted or self._explicit is not None:
            return math.inf
        return self._wanted(threads)

    @property
    def follows_threads(self) -> bool:
        """Return True if nothing but the number of threads bounds it."""
        return not self._hosted and self._explicit is None and self._size is None

    def tiles(self, threads: int, batch: int) -> int:
        """Return how many tiles may be in flight or uncommitted, at least 1."""
        size = self._size
        if size is None:
            size = _above(threads) if self._hosted and self._explicit is None else math.inf
        return max(1, int(min(self._cap(threads, batch), size)))

    def share(self, threads: int) -> float:
        """Return the largest batch that leaves every thread its part of the window."""
        if self._hosted or self._explicit is None:
            return math.inf
        return max(1, self._explicit // max(1, threads))

    def succeeded(self, tiles: int, threads: int, batch: int) -> None:
        """Grow by one for every window's worth of tiles that came back well."""
        current = self.tiles(threads, batch)
        cap = self._cap(threads, batch)
        if self._size is None and current >= cap:
            return  # never cut: it follows the cap, whatever that becomes
        self._size = (self._size or current) + tiles / current
        if self._size >= cap:
            self._size = cap if self._hosted and self._explicit is None else None

    def throttled(self, task: int, latest: int, threads: int, batch: int) -> None:
        """Halve, but once for all tasks that were sent before the last cut.

        Parameters
        ----------
        task : int
            Serial of the task that was refused.
        latest : int
            Serial of the task sent last.
        threads, batch : int
        """
        if task > self._last_cut:
            self._size = max(1.0, self.tiles(threads, batch) / 2)
            self._last_cut = latest

    def _cap(self, threads: int, batch: int) -> int:
        if self._explicit is not None:
            return self._explicit
        if self._hosted:
            return max(HOSTED_CAP, _above(threads))
        return self._wanted(threads) * batch

    def _wanted(self, threads: int) -> int:
        return _above(threads) + threads * self._foreseen


class Bucket:
    """Tokens that come back steadily; each request takes one.

    A bucket of `b` tokens lets `b` requests through at once, then one every `1 / rate`
    seconds: at most ``b + ceil(60 * rate) - 1`` start in any half-open minute. The rate is
    set so that this is the quota.

    Parameters
    ----------
    per_minute : float, optional
        Requests that may start in any minute; None: as many as wanted.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.per_minute = per_minute
        self._last: float | None = None
        if per_minute is None:
            return
        whole = math.floor(per_minute) if per_minute >= 1 else per_minute
        self._capacity = max(1, int(whole // BURST))
        self._rate = (whole - self._capacity + 1 if whole >= 1 else whole) / MINUTE
        self._tokens = float(self._capacity)

    def available(self, now: float) -> float:
        """Return how many requests may start now: a whole number, or infinity."""
        if self.per_minute is None:
            return math.inf
        if self._last is None or now > self._last:
            gained = 0.0 if self._last is None else (now - self._last) * self._rate
            self._tokens = min(self._capacity, self._tokens + gained)
            self._last = now
        return math.floor(self._tokens)

    def take(self, requests: int) -> None:
        """Use up tokens that are available."""
        if self.per_minute is not None:
            self._tokens -= requests

    def ready_at(self, now: float) -> float:
        """Return when the next request may start; a millisecond late, for rounding."""
        if self.available(now) >= 1 or self._last is None:
            return now
        return self._last + (1 - self._tokens) / self._rate + 0.001


class Batches:
    """The automatic batch size, from measured seconds per tile.

    A hosted model's tiles are all asked about at once, and their task lasts as long as the
    slowest of them: batches stay as small as the number of tasks a second allows.

    Parameters
    ----------
    fixed : int, optional
        The batch size where the user gave one.
    model_batch : int
        Tiles that the model takes at once; automatic sizes are multiples of it.
    hosted : bool
        Whether tiles wait on a network.
    """

    def __init__(self, fixed: int | None, model_batch: int, *, hosted: bool = False) -> None:
        self._fixed = fixed
        self._unit = model_batch
        self._hosted = hosted
        self._seconds: float | None = None
        self._target = TARGET_SECONDS
        self.size = fixed or 1

    @property
    def task_seconds(self) -> float | None:
        """Seconds that a task takes; None until one has come back."""
        if self._seconds is None:
            return None
        return self._seconds * (1 if self._hosted else self.size)

    @property
    def settled(self) -> bool:
        """Return True if the size is what was asked for, or as large as it should become."""
        if self._fixed is not None or self._hosted:
            return True
        if self._seconds is None:
            return False
        return self.size >= self.whole(min(LARGEST, max(1, int(self._target / self._seconds))))

    def measured(self, seconds: float, tiles: int, threads: int = 1) -> None:
        """Learn from a task that took `seconds` for `tiles`; at most doubles the size.

        On many threads tasks get longer, so that all of them together are no more than
        `TASKS_A_SECOND`: beyond, the client does little but send them.
        """
        if seconds <= 0 or tiles < 1:
            return
        self._target = max(TARGET_SECONDS, threads / TASKS_A_SECOND)
        each = seconds if self._hosted else seconds / tiles
        if self._seconds is None:
            self._seconds = each
        else:
            weight = FASTER if each < self._seconds else SLOWER
            self._seconds += weight * (each - self._seconds)
        if self._fixed is None and not self._hosted:
            wanted = min(LARGEST, 2 * self.size, int(self._target / self._seconds))
            self.size = max(self._unit, self.whole(wanted))

    def sent(self, tasks: int, threads: int) -> None:
        """Note that `tasks` were sent: those behind the first on each thread fill a model's batch.

        The first has one tile: all that it has begun is suspect if loading the model kills the
        process. What waits behind it has not begun; and a device takes as long for one tile as for
        a batch.
        """
        if self._seconds is None and self._fixed is None and not self._hosted and tasks >= threads:
            self.size = max(self.size, self._unit)

    def next(self, untried: int, threads: int, window: int) -> int:
        """Return the size of the next batch: the last tiles are shared among the threads.

        Parameters
        ----------
        untried : int
        threads : int
        window : int
            Tiles that may be in flight.
        """
        if self._fixed:
            return self._fixed
        size = self._sustained(window, threads) if self._hosted else self.size
        least = 1 if self._seconds is None else self._unit  # then a few are shared
        return min(size, max(least, -(-untried // threads)))

    def _sustained(self, window: int, threads: int) -> int:
        """Return the size with which a full window of calls is `HOSTED_TASKS` tasks a second."""
        tasks = HOSTED_TASKS * (1.0 if self._seconds is None else self._seconds)
        size = min(LARGEST, math.ceil(window / tasks), window // (2 * threads))
        return max(self._unit, self.whole(size))

    def whole(self, size: int) -> int:
        """Return `size`, cut to whole batches of the model where it is larger than one."""
        return size if self._fixed or size < self._unit else size - size % self._unit


def _above(threads: int) -> int:
    """Return a little more than `threads`, so that each finds its next task waiting."""
    return threads + min(threads, max(2, threads // 4))


LOADING_SECONDS = 120.0  # for a model to load, until it is known how long that takes
LOADING_FACTOR = 3.0  # by which loading may take longer than before, on a busier worker
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
        self._loading = max(AT_LEAST, LOADING_FACTOR * seconds, self._loading or 0.0)

    def submitted(self, task: Task, in_flight: int, threads: int) -> None:
        """Start the clock of a task that may have to wait for `in_flight` tiles."""
        if self._timeout is not None:
            turns = math.ceil(in_flight / max(1, threads)) + task.size
            self._push(task, task.submitted + turns * self._timeout)

    def waits(self, task: Task, now: float, others: int) -> None:
        """Stop the clock of a task whose tile waits for `others` on its worker, each in time."""
        if self._timeout is not None:
            task.deadline = max(task.deadline, now + (others + 1) * self._allowance(task))

    def started(self, task: Task, now: float) -> None:
        """Start the clock anew, since a tile has begun, or has its turn."""
        if self._timeout is None:
            return
        deadline = now + self._allowance(task)
        if task.cold:
            self._loading_until = max(self._loading_until, deadline)
        if len(task.started) <= 1 or deadline < task.deadline:
            self._push(task, deadline)
        else:
            task.deadline = deadline  # later than its entry, which is put right when it is met

    def _allowance(self, task: Task) -> float:
        """Return the seconds that a tile of a task may take from its beginning."""
        seconds = (self._timeout or 0.0) * min(self._model_batch, task.size)
        if task.cold:
            seconds += LOADING_SECONDS if self._loading is None else self._loading
        return seconds

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

    def due(self, open_tasks: dict[str, Task], now: float, later: float = 0.0) -> list[Task]:
        """Take the tasks whose deadline has passed.

        Parameters
        ----------
        open_tasks : dict of str to Task
        now : float
        later : float
            Above 0, tasks that have not begun are not late: they get this many seconds more.
        """
        late: dict[str, Task] = {}
        while (deadline := self.next(open_tasks)) is not None and deadline <= now:
            key = heapq.heappop(self._heap)[1]
            task = open_tasks[key]
            if not task.started and now < self._loading_until:
                self._push(task, self._loading_until)  # it may be queued behind one that loads
            elif not task.started and later > 0:
                self._push(task, now + later)
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


IN_A_ROW = 10  # failed tiles that make an outage, or a window's worth where that is more
BRAKE = 3  # busy or unreachable so often in a row: one tile at a time, with waits between
DIED = ("workers",)
PROBES = 8  # single tiles that fail before it is an outage: a minute and a half by default


class Circuit:
    """Counts failures in a row.

    A backend that is busy, or hosted and unreachable, is first probed with single tiles
    at growing intervals, since most such outages pass.

    Parameters
    ----------
    backoff : Backoff
    hosted : bool
    """

    def __init__(self, backoff: Backoff, *, hosted: bool) -> None:
        self._backoff = backoff
        self._hosted = hosted
        self._proven = False
        self.reset()

    def reset(self) -> None:
        """Forget all failures: the user has resumed the run."""
        self._row: set[int] = set()
        self._kind: tuple[str, ...] = ()
        self._last: Failure | None = None
        self._trouble = 0
        self._rounds = 0
        self._probe: Task | None = None
        self.shut = False
        self.shut_until = 0.0

    @property
    def suspicious(self) -> bool:
        """Return True if so many failed in a row that it may be an outage."""
        return len(self._row) >= IN_A_ROW

    @property
    def probing(self) -> bool:
        """Return True if a single tile is on its way to see if the backend is back."""
        return self._probe is not None

    @property
    def trouble(self) -> str:
        """The last failure, for people."""
        return str(self._last) if self._last else ""

    def succeeded(self) -> None:
        """Note a tile that came back well."""
        self._proven = True
        if self._last is not None:
            self.reset()

    def failed(self, state: TileState, failure: Failure, task: Task, now: float) -> None:
        """Count a tile that failed in `task`.

        Refusals, errors and timeouts add up; permanent errors only where they are the same.
        """
        permanent = failure.kind == "permanent"
        self._count((failure.error, failure.message) if permanent else (), state.order, failure)
        if failure.kind == "throttled" or (self._hosted and not permanent):
            self._trouble += 1
            if self._trouble >= BRAKE:
                self._brake(failure, task, now)

    def died(self, failure: Failure, now: float) -> None:
        """Count a worker's death, until something has succeeded: few bad tiles can kill many."""
        if not self._proven:
            self._count(DIED, int(now), failure)  # what is lost in the same second died together

    def _count(self, kind: tuple[str, ...], item: int, failure: Failure) -> None:
        if kind != self._kind:
            self.reset()
        self._kind, self._last = kind, failure
        self._row.add(item)

    def sent(self, task: Task) -> None:
        """Note a task; the first one after the circuit shut is its probe."""
        if self.shut and self._probe is None:
            self._probe = task

    def closed(self, task: Task) -> None:
        """Note that a task is over, whatever became of it."""
        if self._probe is task:
            self._probe = None

    def protects(self, untried: int) -> bool:
        """Return True if slowing down spares enough tiles to be worth it."""
        return self.shut and untried >= IN_A_ROW

    def outage(self, window: int, untried: int) -> str:
        """Return why the run should pause; empty while it should not."""
        died = self._kind == DIED
        enough = IN_A_ROW if died else max(IN_A_ROW, window)
        if len(self._row) < enough or untried < enough:
            return ""
        if self.shut and self._rounds < PROBES:
            return ""
        what = "workers died before any tile was done" if died else "tiles in a row failed"
        return (
            f"{len(self._row)} {what} (last error: {self.trouble}). Fix the cause, then "
            "call run.resume()."
        )

    def _brake(self, failure: Failure, task: Task, now: float) -> None:
        wait = asked_for(failure)
        if not self.shut or task is self._probe:  # not one sent before the circuit shut
            self._rounds += 1
            wait = max(self._backoff.bound(self._rounds), wait)
        self.shut = True
        self.shut_until = max(self.shut_until, now + wait)
