"""The calls of a model in this process: threads take turns, and short batches are joined."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from time import perf_counter, thread_time
from typing import Any

from tilevision.modelspec.spec import Answers, Steps, Usage

__all__ = ["Calls", "Growing", "Wish", "free_for_more", "is_out_of_memory", "joined", "part"]

WAITS = 0.5  # of a call's time without the processor, from which on something else computes
WORTH_MORE = 0.95  # of a tile's time that may be left for twice as many to be worth their memory
RECENT = 0.3  # how much the last call counts
TRIES = 3  # calls of a size that must all be slow: a busy machine may make one so
MEASURED = 4  # so many calls at first, and one of so many later
SELDOM = 16  # one of so many, where it waits: to measure keeps the device waiting
UNASKED = 5.0  # seconds without a wish after which the thread that made the calls ends
# In the words of CUDA and Metal, of onnxruntime, and of PyTorch on a processor.
_FULL = ("out of memory", "failed to allocate memory", "not enough memory")
_QUEUED = "/proc/thread-self/schedstat"  # nanoseconds: at work, and ready to work


@dataclass(slots=True, eq=False)
class Wish:
    """Tiles that a thread wants answers for.

    Parameters
    ----------
    tiles : list
        As the model's `prepare` has made them, or as they were read.
    call : callable
        ``call(tiles)`` asks the model, and raises unless it has an answer for each tile. Where
        batches are joined, that of one thread does for all.
    queues, begins : callable
        Called once each if the thread has to wait for its turn: when it begins to wait, and when
        its tiles have their turn (on whatever thread that is).
    alone : bool
        True if these tiles share a call with no others.

    Attributes
    ----------
    answers : sequence
        One for each tile.
    error : BaseException or None
        What the call raised instead.
    seconds : float
        Their share of the call's time.
    """

    tiles: list[Any]
    call: Callable[[list[Any]], Any]
    queues: Callable[[], None]
    begins: Callable[[], None]
    alone: bool = False
    answers: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    queued: bool = False
    over: bool = False
    _ended: Event = field(default_factory=Event)
    _context: Context = field(default_factory=copy_context)

    def ends(self) -> None:
        """Let the thread that wants the answers go on."""
        self.over = True
        self._ended.set()

    def wait(self) -> None:
        """Wait until it is over."""
        self._ended.wait()

    def made(self, tiles: list[Any]) -> Any:
        """Call for tiles as if on the thread that wants them: Dask finds there whose they are."""
        return self._context.run(self.call, tiles)


@dataclass(slots=True)
class Growing:
    """How many tiles a call takes, found out: twice as many as long as each then takes less time.

    Parameters
    ----------
    most : int

    Attributes
    ----------
    size : int
    settled : bool
        Whether it is found out.
    """

    most: int
    size: int = 1
    settled: bool = False
    _before: float | None = None
    _warm: bool = False
    _slow: list[float] = field(default_factory=list)

    def measured(self, tiles: int, seconds: float) -> None:
        """Learn from a call; of those of a new size the first does not count, as it prepares."""
        if self.settled or tiles != self.size:
            return
        if not self._warm:
            self._warm = True
            return
        each = seconds / tiles
        if self._before is not None and each > WORTH_MORE * self._before:
            self._slow.append(each)
            if len(self._slow) == TRIES:
                self.ends(max(1, self.size // 2) if min(self._slow) > self._before else self.size)
        elif 2 * self.size > self.most or not free_for_more():
            self.ends(self.size)
        else:
            self._before, self.size, self._warm, self._slow = each, 2 * self.size, False, []

    def ends(self, size: int) -> None:
        """Keep this size."""
        self.size, self.settled = size, True


@dataclass(slots=True)
class Calls:
    """The calls of one model in this process.

    Where they wait for a device, one thread makes all of them, and does nothing else. If the one
    whose batch it is made each, the device would stand still while Python's lock goes from thread
    to thread, and while answers are read.

    Parameters
    ----------
    model : object
        Threads take turns if its ``turn`` is a lock, and call it side by side if that is None or
        missing. If its ``on_device`` is true, its calls wait for a device, whatever is measured: to
        wait for a GPU can look like work.
    """

    model: Any
    _waiting: deque[Wish] = field(default_factory=deque)
    _changed: Condition = field(default_factory=Condition)
    _busy: bool = False
    _serving: bool = False
    _most_asked: int = 1
    _made: int = 0
    _idle: float | None = None
    _growing: Growing | None = None
    _most: int | None = None  # tiles that did not fill the device, since more did
    _remarks: list[str] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Return True if calls leave the processor to others for most of their time."""
        return bool(getattr(self.model, "on_device", False)) or (self._idle or 0.0) >= WAITS

    @property
    def may_wait(self) -> bool:
        """Return True if no call has shown yet whether they wait; threads take turns at them."""
        return self._idle is None and getattr(self.model, "turn", None) is not None

    @property
    def steps(self) -> Steps | None:
        """How the model's calls are taken apart; None where they keep the processor busy anyway."""
        steps = getattr(self.model, "steps", None)
        return steps if isinstance(steps, Steps) and self.waits else None

    def at_once(self, most: int, *, auto: bool = False) -> int:
        """Return how many tiles are worth bringing together, where a call takes `most`."""
        growing = self._growing
        if not auto or growing is None:
            return most if not auto else 1
        return min(most, growing.size if growing.settled else 2 * growing.size)

    def ask(self, wish: Wish, most: int, *, auto: bool = False) -> None:
        """Have the tiles answered, in turn where the model needs that; sets `wish` and returns.

        Parameters
        ----------
        wish : Wish
        most : int
            Tiles that a call takes at most; fewer, once the device has been full.
        auto : bool
            True if the number is found out: it grows up to `most` as long as that saves time and
            there is memory for more.
        """
        if auto and self._growing is None:
            self._growing = Growing(most)
        if getattr(self.model, "turn", None) is None:
            self._call([wish])
            return
        with self._changed:
            self._waiting.append(wish)
            wish.queued = self._busy or self._waiting[0] is not wish
            served = self._serve(most)
        if wish.queued:
            wish.queues()
        if served:
            self._wait(wish)
            return
        group = self._in_turn(wish, most)
        if group:
            self._answer(group)

    def _answer(self, group: list[Wish]) -> None:
        """Make the call of wishes whose turn it is, and let the next ones have theirs."""
        try:
            self._call(group)
        except BaseException as error:  # noqa: BLE001  # of whoever was told of a turn
            for one in group:
                one.error = one.error or (error if one.answers is None else None)
        finally:
            with self._changed:
                self._busy = False
                for one in group:
                    one.ends()
                self._changed.notify_all()

    def _serve(self, most: int) -> bool:
        """See to it that a thread makes the calls, if they wait for a device; return whether."""
        self._most_asked = most
        if self.waits and not self._serving:
            self._serving = True
            Thread(target=self._calling, name="tilevision-calls", daemon=True).start()
        elif self._serving:
            self._changed.notify_all()
        return self._serving

    def _calling(self) -> None:
        """Make calls as long as anybody wants answers."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting and not self._busy, UNASKED)
                if not self._waiting:
                    self._serving = False
                    return
                if self._busy:
                    continue
                self._busy = True
                group = self._joined(self._most_asked)
            self._answer(group)

    def _wait(self, wish: Wish) -> None:
        """Wait for the thread that makes the calls."""
        try:
            wish.wait()
        except BaseException:  # interrupted: nobody is left to take its answers
            with self._changed, suppress(ValueError):
                self._waiting.remove(wish)
            raise

    def _in_turn(self, wish: Wish, most: int) -> list[Wish]:
        """Wait; return the wishes to call for, or none where another thread has called for this."""
        with self._changed:
            try:
                self._changed.wait_for(lambda: wish.over or self._has_turn(wish))
            except BaseException:  # interrupted: those behind it must not wait for ever
                if wish in self._waiting:
                    self._waiting.remove(wish)
                    self._changed.notify_all()
                raise
            if wish.over:
                return []
            self._busy = True
            return self._joined(most)

    def _has_turn(self, wish: Wish) -> bool:
        return not self._busy and bool(self._waiting) and self._waiting[0] is wish

    def _joined(self, most: int) -> list[Wish]:
        """Take the wish whose turn it is, and those behind it that fit into the same call."""
        group = [self._waiting.popleft()]
        room = 0 if group[0].alone else most - len(group[0].tiles)
        while self._waiting and not self._waiting[0].alone:
            room -= len(self._waiting[0].tiles)
            if room < 0:
                break
            group.append(self._waiting.popleft())
        return group

    def _call(self, group: list[Wish]) -> None:
        for one in group:
            if one.queued:
                one.begins()
        if len(group) > 1 and self._together(group):
            return
        for number, one in enumerate(group):
            if number:
                one.queues()
                one.begins()
            one.seconds = 0.0
            try:
                one.answers = self._timed([one])
            except BaseException as error:  # noqa: BLE001  # raised again by the thread it is for
                one.error = error

    def _together(self, group: list[Wish]) -> bool:
        """Answer several wishes with one call; False if it fails: then nobody knows whose fault."""
        try:
            answers = self._timed(group)
        except BaseException:  # noqa: BLE001  # each is tried alone, and raises what it must
            return False
        first = 0
        for one in group:
            one.answers = part(answers, first, first + len(one.tiles))
            first += len(one.tiles)
        return True

    def _in_parts(self, tiles: list[Any], call: Callable[[list[Any]], Any]) -> Any:
        """Call for all tiles, with as many at once as there is memory for."""
        found: list[Any] = []
        first = 0
        while first < len(tiles):
            size = min(n for n in (len(tiles), self._most, self._size()) if n is not None)
            some, began = tiles[first : first + size], perf_counter()
            try:
                found.append(call(some))
            except BaseException as error:
                if len(some) == 1 or not is_out_of_memory(error):
                    raise
                self._fewer(len(some))
                continue
            if self._growing is not None:
                self._growing.measured(len(some), perf_counter() - began)
            first += len(some)
        remarks, self._remarks = self._remarks, []
        return found[0] if len(found) == 1 and not remarks else joined(found, remarks)

    def _size(self) -> int | None:
        return None if self._growing is None else self._growing.size

    def _fewer(self, tiles: int) -> None:
        """Take fewer tiles to a call, since `tiles` filled the memory."""
        self._most = tiles // 2
        if self._growing is not None:
            self._growing.ends(self._most)
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()  # of what the failed call has left in pieces
        self._remarks = [
            f"The device ran out of memory with {tiles} tiles to a call; from then on a call took "
            f"{self._most}. A smaller batch_size= avoids that."
        ]

    def _timed(self, group: list[Wish]) -> Any:
        tiles = [tile for one in group for tile in one.tiles]
        self._made += 1
        rate = SELDOM if self.waits else MEASURED
        measured = self._made <= MEASURED or not self._made % rate
        began, engaged = perf_counter(), _engaged() if measured else 0.0
        try:
            return self._in_parts(tiles, group[0].made)
        finally:
            took = perf_counter() - began
            for one in group:
                one.seconds = took * len(one.tiles) / len(tiles)
            if measured:  # else the device would wait for files to be read, twice a call
                idle = 1 - (_engaged() - engaged) / took if took > 0 else 0.0
                before = idle if self._idle is None else self._idle
                self._idle = before + RECENT * (idle - before)


def _engaged() -> float:
    """Return the seconds in which this thread has had a processor, or has wanted one.

    On a busy machine a model that computes is kept waiting as well, and does not wait for a device.
    """
    try:
        file = os.open(_QUEUED, os.O_RDONLY)  # twice a call, in a fifth of the time of `open`
        try:
            queued = int(os.read(file, 128).split()[1]) / 1e9
        finally:
            os.close(file)
    except (OSError, ValueError, IndexError):  # elsewhere than on Linux
        queued = 0.0
    return thread_time() + queued


def free_for_more() -> bool:
    """Return False if PyTorch's GPU has less memory free than this process has taken of it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return True
    return bool(torch.cuda.mem_get_info()[0] >= torch.cuda.memory_reserved())


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error, or what it came of, says that a device or the machine is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        with suppress(Exception):  # the text of an error may be anybody's code
            if any(said in str(seen).lower() for said in _FULL):
                return True
        seen = seen.__cause__ or seen.__context__
    return False


def part(answers: Sequence[Any], first: int, last: int) -> Sequence[Any]:
    """Return the answers for some of a call's tiles, with their share of what it used."""
    some = answers[first:last]
    if not isinstance(answers, Answers):
        return some
    usage = answers.usage
    if usage is not None:
        shares = usage.split(len(answers))[first:last]
        usage = sum(shares[1:], shares[0])
    return Answers(some, usage, answers.remarks, answers.full[first:last])


def joined(parts: Sequence[Sequence[Any]], remarks: Sequence[str] = ()) -> Answers:
    """Return the answers of several calls as those of one, with further remarks."""
    told = [one if isinstance(one, Answers) else Answers(one) for one in parts]
    usage = None
    if any(one.usage is not None for one in told):
        each = [one.usage or Usage(calls=len(one)) for one in told]
        usage = sum(each[1:], each[0])
    said = dict.fromkeys([*remarks, *(line for one in told for line in one.remarks)])
    full = [filled for one in told for filled in one.full]
    return Answers([answer for one in told for answer in one], usage, tuple(said), full)
