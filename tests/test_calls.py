"""Threads of one process that ask one model: turns, joined batches, who waits for what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import Answers, Calls, Usage, Wish
from tilevision.modelspec.calls import Growing, _engaged, joined

PATIENCE = 200.0


class Gated:
    """A model whose calls wait until they are let through; answers each tile with itself."""

    def __init__(self, *, turn: bool = True) -> None:
        self.turn = threading.RLock() if turn else None
        self.called: list[list[int]] = []
        self.gate = threading.Event()

    def predict(self, tiles: list[int]) -> list[int]:
        """Answer, once the gate is open."""
        self.called.append(list(tiles))
        assert self.gate.wait(PATIENCE)
        if -1 in tiles:
            raise ValueError("bad tile")
        return list(tiles)


class Asked:
    """A thread that asks for tiles, and what it was told of its turn."""

    def __init__(self, calls: Calls, tiles: list[int], most: int, *, alone: bool = False) -> None:
        self.told: list[str] = []
        self.wish = Wish(
            tiles,
            calls.model.predict,
            queues=lambda: self.told.append("queues"),
            begins=lambda: self.told.append("begins"),
            alone=alone,
        )
        self.thread = threading.Thread(target=calls.ask, args=(self.wish, most), daemon=True)
        self.thread.start()

    def ended(self) -> Wish:
        """Return what became of it."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.wish


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def line_of(model: Gated, *batches: list[int], most: int, alone: int = -1) -> list[Asked]:
    """Have the first batch called and the others wait behind it, in this order; let all through."""
    calls, line = Calls(model), []
    for number, tiles in enumerate(batches):
        line.append(Asked(calls, tiles, most, alone=number == alone))
        until(lambda: model.called if len(line) == 1 else "queues" in line[-1].told)
    model.gate.set()
    for one in line:
        one.ended()
    return line


def test_batches_that_wait_share_a_call_up_to_its_size() -> None:
    """Those that queue behind a call are joined in order; nobody waits for a batch to be full."""
    model = Gated()
    line = line_of(model, [1], [2, 3], [4], [5, 6], [7], most=4)
    assert model.called == [[1], [2, 3, 4], [5, 6, 7]]
    assert [one.wish.answers for one in line] == [[1], [2, 3], [4], [5, 6], [7]]


def test_who_waits_is_told_so_once_and_of_its_turn_once() -> None:
    """The one that finds the model free is told nothing: its clock runs from its own start."""
    line = line_of(Gated(), [1], [2], [3], most=2)
    assert [one.told for one in line] == [[], ["queues", "begins"], ["queues", "begins"]]


def test_a_tile_to_be_found_out_about_shares_no_call() -> None:
    """Neither with those before it nor with those behind it."""
    model = Gated()
    line_of(model, [1], [2], [3], [4], [5], most=8, alone=2)
    assert model.called == [[1], [2], [3], [4, 5]]


def test_a_joined_call_that_fails_is_made_again_for_each() -> None:
    """Only the batch that is to blame fails; the others have what they would have had alone."""
    model = Gated()
    line = line_of(model, [1], [2], [-1, 3], [4], most=4)
    assert model.called == [[1], [2, -1, 3, 4], [2], [-1, 3], [4]]
    assert [one.wish.answers for one in line] == [[1], [2], None, [4]]
    assert isinstance(line[2].wish.error, ValueError)
    assert all(one.wish.error is None for one in (*line[:2], line[3]))


def test_models_without_turns_are_called_side_by_side() -> None:
    """Two calls are under way at once, and none is joined."""
    model = Gated(turn=False)
    calls = Calls(model)
    both = [Asked(calls, [1], 4), Asked(calls, [2], 4)]
    until(lambda: len(model.called) == 2)
    model.gate.set()
    assert [one.ended().answers for one in both] == [[1], [2]]


def test_what_a_joined_call_used_is_shared_among_its_tiles() -> None:
    """Usage, remarks and what is full go to whom they belong, and add up."""

    def predict(tiles: list[int]) -> Answers:
        full = [tile == 3 for tile in tiles]
        return Answers([Findings()] * len(tiles), Usage(1, 10, len(tiles)), ["Odd."], full)

    model = Gated()
    calls = Calls(model)
    first = Asked(calls, [1], 4)
    until(lambda: model.called)
    model.predict = predict  # type: ignore[method-assign]
    others = [Asked(calls, [2], 4)]
    until(lambda: "queues" in others[0].told)
    others.append(Asked(calls, [3, 4], 4))
    until(lambda: "queues" in others[1].told)
    model.gate.set()
    first.ended()
    two, more = (one.ended().answers for one in others)
    assert two.usage + more.usage == Usage(1, 10, 3)
    assert two.full == (False,) and more.full == (True, False)
    assert two.remarks == more.remarks == ("Odd.",)


def test_seconds_of_a_joined_call_are_shared_by_tiles() -> None:
    """Each has its tiles' share of the call that answered them, and none of the wait."""
    one, *both = line_of(Gated(), [1], [2], [3, 4, 5], most=4)
    assert one.wish.seconds > 0
    assert both[1].wish.seconds == pytest.approx(3 * both[0].wish.seconds)


@pytest.mark.parametrize(
    ("engaged", "waits"),
    [(0.0, True), (0.1, True), (0.9, False), (1.0, False)],
)
def test_a_model_that_leaves_the_processor_to_others_is_found_out(
    engaged: float, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the share of its calls' time in which its thread neither worked nor wanted to."""
    clock = [0.0]

    def work(tiles: list[int]) -> list[int]:
        clock[0] += 1.0
        return tiles

    class Model:
        predict = staticmethod(work)

    monkeypatch.setattr("tilevision.modelspec.calls.perf_counter", lambda: clock[0])
    monkeypatch.setattr("tilevision.modelspec.calls._engaged", lambda: clock[0] * engaged)
    calls = Calls(Model())
    assert not calls.waits  # as long as nothing is known
    for _ in range(3):
        calls.ask(Wish([1], work, queues=lambda: None, begins=lambda: None), 1)
    assert calls.waits is waits


def test_a_model_that_is_known_is_measured_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """To measure takes system calls: with each the lock goes to others, and the device waits."""
    looks: list[float] = []

    def engaged() -> float:
        looks.append(0.0)
        return 0.0

    class Model:
        predict = staticmethod(list)

    monkeypatch.setattr("tilevision.modelspec.calls._engaged", engaged)
    calls = Calls(Model())
    for _ in range(40):
        calls.ask(Wish([1], list, queues=lambda: None, begins=lambda: None), 1)
    assert len(looks) == 2 * (4 + 2)


def test_to_be_kept_from_the_processor_is_no_rest() -> None:
    """A thread that works, on however busy a machine, is engaged; one that sleeps is not."""

    def measured(act: Callable[[], None]) -> float:
        began, engaged = time.perf_counter(), _engaged()
        act()
        return (_engaged() - engaged) / (time.perf_counter() - began)

    def work() -> None:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass

    if Path("/proc/thread-self/schedstat").exists():
        # A busy machine may take as long to go on after one of the naps, but not after each; and
        # one that stands still for a moment in the middle of work does so not each time.
        naps = [measured(lambda: time.sleep(0.05)) for _ in range(10)]
        assert any(measured(work) > 0.5 for _ in range(10))
        assert min(naps) < 0.5


def test_a_model_on_a_device_waits_whatever_is_measured() -> None:
    """Libraries wait for a GPU in a loop, which looks like work."""

    class Model:
        on_device = True

    assert Calls(Model()).waits


class OnDevice(Gated):
    """Waits for a device; notes the thread of each call, and for whom it is made."""

    on_device = True

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.contexts: list[str] = []

    def predict(self, tiles: list[int]) -> list[int]:
        """Answer, once the gate is open."""
        self.threads.append(threading.get_ident())
        self.contexts.append(whose.get())
        return super().predict(tiles)


whose: ContextVar[str] = ContextVar("whose", default="nobody")


def test_calls_that_wait_for_a_device_are_made_by_one_thread() -> None:
    """It goes on to the next call while those who asked read their answers."""
    model = OnDevice()
    line = line_of(model, [1], [2, 3], [4, 5], [6], most=3)
    assert model.called == [[1], [2, 3], [4, 5, 6]]
    assert [one.wish.answers for one in line] == [[1], [2, 3], [4, 5], [6]]
    assert len(set(model.threads)) == 1
    assert not set(model.threads) & {one.thread.ident for one in line}
    assert [one.told for one in line] == [[]] + [["queues", "begins"]] * 3


def test_a_call_for_another_thread_is_made_in_its_context() -> None:
    """What Dask keeps there, the task and where its seconds are counted, is found as usual."""
    model = OnDevice()
    model.gate.set()
    whose.set("the test")
    Calls(model).ask(Wish([1], model.predict, lambda: None, lambda: None), 1)
    assert model.contexts == ["the test"]


def test_the_thread_that_makes_calls_ends_when_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And another one makes the next call."""
    monkeypatch.setattr("tilevision.modelspec.calls.UNASKED", 0.01)
    model = OnDevice()
    model.gate.set()
    calls = Calls(model)
    for number in (1, 2):
        assert Asked(calls, [number], 1).ended().answers == [number]
        until(lambda: not calls._serving)
    assert model.called == [[1], [2]]


def test_who_cannot_be_told_of_its_turn_gets_the_error() -> None:
    """The thread that makes the calls goes on with those behind it."""

    def gone() -> None:
        raise OSError("the scheduler is gone")

    model = OnDevice()
    calls = Calls(model)
    first = Asked(calls, [1], 1)
    until(lambda: model.called)
    second = Asked(calls, [2], 1)
    second.wish.begins = gone
    until(lambda: "queues" in second.told)
    third = Asked(calls, [3], 1)
    until(lambda: "queues" in third.told)
    model.gate.set()
    assert first.ended().answers == [1] and third.ended().answers == [3]
    assert isinstance(second.ended().error, OSError)


# How many tiles to a call -----------------------------------------------------------------


class Device:
    """Has memory for so many tiles; a call takes a fixed time and some for each tile."""

    turn = None

    def __init__(self, memory: int = 1000, clock: list[float] | None = None) -> None:
        self.memory = memory
        self.sizes: list[int] = []
        self.clock = clock or [0.0]
        self.error: Callable[[], BaseException] = MemoryError

    def predict(self, tiles: list[int]) -> list[int]:
        """Answer, or say in one way or another that it is full."""
        self.sizes.append(len(tiles))
        if len(tiles) > self.memory:
            raise self.error()
        self.clock[0] += 8 + (len(tiles) if len(tiles) <= 16 else 3 * len(tiles))
        return tiles

    def asked(self, *counts: int, auto: bool = False) -> list[Wish]:
        """Ask for so many tiles, one batch after the other."""
        calls, wishes = Calls(self), []
        for count in counts:
            wish = Wish(list(range(count)), self.predict, lambda: None, lambda: None)
            calls.ask(wish, 64, auto=auto)
            wishes.append(wish)
        return wishes


def wrapped() -> BaseException:
    error = ModelError("Model m does not run on 8 pictures.")
    error.__cause__ = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return error


FULL = {
    "PyTorch": lambda: type("OutOfMemoryError", (RuntimeError,), {})("no room"),
    "an adapter": wrapped,
    "onnxruntime": lambda: Exception("Failed to allocate memory for requested buffer of size 9"),
    "Python": MemoryError,
}


@pytest.mark.parametrize("said", FULL)
def test_a_device_that_is_full_is_given_fewer_tiles(said: str) -> None:
    """Half as many until they fit, for good; no tile fails, and it is said once."""
    device = Device(memory=3)
    device.error = FULL[said]
    first, second = device.asked(8, 8)
    assert device.sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert first.answers == second.answers == list(range(8))
    (remark,) = first.answers.remarks
    assert "ran out of memory with 4 tiles to a call" in remark and "took 2" in remark
    assert not getattr(second.answers, "remarks", ())


def test_a_tile_that_fills_the_device_alone_fails() -> None:
    """There is nothing to halve; other errors are never tried again in parts."""
    device = Device(memory=0)
    (wish,) = device.asked(4)
    assert isinstance(wish.error, MemoryError) and device.sizes == [4, 2, 1]
    device = Device(memory=0)
    device.error = lambda: ValueError("bad picture")
    (wish,) = device.asked(4)
    assert isinstance(wish.error, ValueError) and device.sizes == [4]


def test_an_automatic_batch_grows_as_long_as_that_saves_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to the size from which on a tile takes as long; the first call of each does not count."""
    device = Device()
    monkeypatch.setattr("tilevision.modelspec.calls.perf_counter", lambda: device.clock[0])
    wishes = device.asked(64, 64, 64, 64, auto=True)
    assert device.sizes[:11] == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 2]
    assert device.sizes[11:15] == [32] * 4 and set(device.sizes[15:]) == {16}
    assert all(wish.answers == list(range(64)) for wish in wishes)


def test_one_slow_call_does_not_keep_an_automatic_batch_small() -> None:
    """Whatever else the machine did meanwhile; what is slow each time is."""
    growing = Growing(16)
    for size in (1, 2, 4, 8):
        growing.measured(size, 1.0)
        if size > 1:
            growing.measured(size, 60.0)
        growing.measured(size, 1.0)
    assert growing.size == 16 and not growing.settled
    for _ in range(4):
        growing.measured(16, 60.0)
    assert growing.size == 8 and growing.settled


def test_an_automatic_batch_stops_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much again must be free as was taken; and what filled the device is not tried again."""
    monkeypatch.setattr("tilevision.modelspec.calls.free_for_more", lambda: growing.size < 4)
    growing = Growing(64)
    for _ in range(20):
        growing.measured(growing.size, 1.0)
    assert growing.size == 4
    growing.ends(2)
    growing.measured(2, 0.001)
    assert growing.size == 2


def test_answers_of_several_calls_are_those_of_one() -> None:
    """What they used adds up; a call that does not say counts once for each tile."""
    one = Answers([Findings()] * 2, Usage(1, 10, 4), ["Odd."], [True, False])
    whole = joined([one, [Findings()]], ["New."])
    assert len(whole) == 3 and whole.usage == Usage(2, 10, 4)
    assert whole.remarks == ("New.", "Odd.") and whole.full == (True, False, False)
