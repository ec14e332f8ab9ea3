"""The calls of a model in this process: threads take turns, and short batches are joined."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition
from time import perf_counter, thread_time
from typing import Any

from tilevision.modelspec.spec import Answers

__all__ = ["Calls", "Wish", "is_out_of_memory"]

WAITS = 0.5  # of a call's time without the processor, from which on something else computes
RECENT = 0.3  # how much the last call counts
# Of libraries that raise a plain RuntimeError: CUDA's and Metal's, onnxruntime's, PyTorch's own.
_FULL = ("out of memory", "failed to allocate memory", "not enough memory")
_QUEUED = Path("/proc/thread-self/schedstat")  # nanoseconds: at work, and ready to work


@dataclass(slots=True, eq=False)
class Wish:
    """Tiles that a thread wants answers for.

    Parameters
    ----------
    tiles : list of array (h, w, c)
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


@dataclass(slots=True)
class Calls:
    """The calls of one model in this process.

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
    _idle: float = 0.0

    @property
    def waits(self) -> bool:
        """Return True if calls leave the processor to others for most of their time."""
        return bool(getattr(self.model, "on_device", False)) or self._idle >= WAITS

    def ask(self, wish: Wish, most: int) -> None:
        """Have the tiles answered, in turn where the model needs that; sets `wish` and returns.

        Parameters
        ----------
        wish : Wish
        most : int
            Tiles that a call takes at most.
        """
        if getattr(self.model, "turn", None) is None:
            self._call([wish])
            return
        with self._changed:
            self._waiting.append(wish)
            wish.queued = self._busy or self._waiting[0] is not wish
        if wish.queued:
            wish.queues()
        group = self._in_turn(wish, most)
        if not group:
            return
        try:
            self._call(group)
        finally:
            with self._changed:
                self._busy = False
                for one in group:
                    one.over = True
                self._changed.notify_all()

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

    def _timed(self, group: list[Wish]) -> Any:
        tiles = [tile for one in group for tile in one.tiles]
        began, engaged = perf_counter(), _engaged()
        try:
            return group[0].call(tiles)
        finally:
            took, engaged = perf_counter() - began, _engaged() - engaged
            for one in group:
                one.seconds = took * len(one.tiles) / len(tiles)
            idle = 1 - engaged / took if took > 0 else 0.0
            self._idle += RECENT * (idle - self._idle)


def _engaged() -> float:
    """Return the seconds in which this thread has had a processor, or has wanted one.

    On a busy machine a model that computes is kept waiting as well, and does not wait for a device.
    """
    try:
        queued = int(_QUEUED.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # elsewhere than on Linux
        queued = 0.0
    return thread_time() + queued


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error, or what it came of, says that a device or the machine is full."""
    seen: BaseException | None = error
    while seen is not None:
        words = str(seen).lower()
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        if isinstance(seen, RuntimeError) and any(said in words for said in _FULL):
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
