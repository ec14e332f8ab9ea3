"""What runs cost and take: counted exactly, foreseen roughly, and kept within a budget."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_driver import row_of_tiles

import tilevision as tv
from tilevision.errors import Failure
from tilevision.events import TileChanged
from tilevision.findings import Findings
from tilevision.modelspec import Answers, ModelSpec, Price, Usage
from tilevision.pipeline.estimate import Budgeted, Pace, Part, Spending, add_up, earlier_paces
from tilevision.schedule import Policy, Scheduler
from tilevision.schedule.messages import (
    ClusterChanged,
    Committed,
    End,
    Happening,
    Submit,
    TaskFinished,
)

FLAKY = Failure("transient", "OSError", "try again")
counts = st.integers(0, 10**7)


@given(counts, counts, counts, st.integers(1, 70))
def test_shares_of_a_request_add_up_to_it(calls, read, written, tiles):
    """Whatever the number of tiles, nothing is lost or made up, and no tile gets much more."""
    usage = Usage(calls, read, written)
    shares = usage.split(tiles)
    assert len(shares) == tiles and sum(shares, Usage()) == usage
    assert max(s.input_tokens for s in shares) - min(s.input_tokens for s in shares) <= 1


def test_spending_is_counted_by_model_and_by_tile():
    """Tiles that several models saw cost what all of them cost; what has no price is free."""
    spending, tile = Spending(), row_of_tiles(1)[0]
    cheap = ModelSpec("cheap", "x:y", "c", price=Price(call=0.5))
    dear = ModelSpec("dear", "x:y", "d", price=Price(input=1e6, output=2e6))
    free = ModelSpec("free", "x:y", "f")
    spending.charge(cheap, "cheap", Usage(1), tile)
    spending.charge(dear, "dear", Usage(1, 3, 1), tile)
    spending.charge(free, "free", Usage(1, 9, 9), tile)
    spending.charge(dear, "dear", Usage(1, 1, 0))
    assert spending.costs == {"cheap": 0.5, "dear": 6.0}
    assert spending.total == 6.5 and spending.of(tile) == 5.5
    assert spending.tokens("dear", tile) == Usage(1, 3, 1)
    assert spending.used("dear") == (2, Usage(2, 4, 1))


# The budget ------------------------------------------------------------------------------


class Backend:
    """Runs a budgeted scheduler to its end; tasks come back in any order, some fail."""

    def __init__(self, price: Price, budget: float, seed: int, **policy: Any) -> None:
        self.spec = ModelSpec("m", "x:y", "f", price=price, hosted=True)
        self.spending, self.random = Spending(), random.Random(seed)
        self.budget = budget
        tiles = row_of_tiles(60)
        self.scheduler = Budgeted(
            Scheduler(tiles, Policy(hosted=True, **policy)), budget, self.spending, self.spec, "m"
        )
        self.open: list[Submit] = []
        self.most_aloft = self.done = 0

    def run(self, usage: Any) -> End:
        """Return the end; `usage()` is what an attempt uses."""
        happenings: list[Happening] = [ClusterChanged({"a": 2})]
        now = 0.0
        while True:
            aloft = self._aloft()
            for action in self.scheduler.advance(happenings, now):
                if isinstance(action, Submit):
                    self.open.append(action)
                if isinstance(action, End):
                    return action
            self.check(sent=self._aloft() > aloft)
            happenings = []
            if self.open:
                happenings = self._back(usage)
            else:
                wake = self.scheduler.wake_at(now)
                assert wake is not None, "it waits for nothing"
                now = wake
            now += 0.01

    def check(self, *, sent: bool) -> None:
        """Hold the guarantee: what is spent, and what flies at the mean, is within the budget."""
        self.most_aloft = max(self.most_aloft, self._aloft())
        attempts, used = self.spending.used("m")
        price = self.spec.price
        assert price is not None
        if sent and attempts:
            mean = price.of(used) / attempts
            assert self.spending.total + self._aloft() * mean <= self.budget * (1 + 1e-6)

    def _aloft(self) -> int:
        return sum(len(submit.tiles) for submit in self.open)

    def _back(self, usage: Any) -> list[Happening]:
        submit = self.open.pop(self.random.randrange(len(self.open)))
        outcomes: dict[Any, Failure | None] = {}
        for tile in submit.tiles:
            self.spending.charge(self.spec, "m", usage(), tile)
            outcomes[tile] = FLAKY if self.random.random() < 0.1 else None
        good = tuple(tile for tile, failure in outcomes.items() if failure is None)
        self.done += len(good)
        return [Committed(good), TaskFinished(submit.task, outcomes, 0.01)]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 3), st.integers(1, 40))
def test_a_constant_price_is_never_passed(seed, budget, concurrency):
    """With a price per call the run spends at most the budget, and all of it that buys a tile."""
    backend = Backend(Price(call=0.02), budget, seed, concurrency=concurrency)
    end = backend.run(lambda: Usage(calls=1))
    assert backend.spending.total <= budget + 1e-9
    if end.status == "stopped":
        assert budget - backend.spending.total < 0.02
        assert f"The budget of {budget:g} covers no further tile" in end.reason
    else:
        assert backend.done + len(end.failures) == 60


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_with_tokens_one_tile_goes_first_and_the_mean_decides(seed, concurrency):
    """Before anything is known of a tile's tokens, only one is on its way."""
    backend = Backend(Price(input=1.0), 30e-6 * 1000, seed, concurrency=concurrency)
    tokens = random.Random(seed)
    first: list[int] = []

    def usage() -> Usage:
        if not first:
            first.append(backend.most_aloft)
        return Usage(1, tokens.randint(500, 1500), 0)

    end = backend.run(usage)
    assert first == [1] and end.status == "stopped"
    # Only those in flight can cost more than was foreseen: at most half a mean tile each.
    assert backend.spending.total <= backend.budget + concurrency * 500e-6


def test_a_budget_below_the_first_tile_sends_nothing():
    """Nothing is tried that could not be paid."""
    backend = Backend(Price(call=2), 1.5, 0)
    end = backend.run(Usage)
    assert end.status == "stopped" and backend.spending.total == 0


def test_a_model_without_a_price_is_no_matter_of_the_budget():
    """Next to a model with a price, a free one runs as ever."""
    backend = Backend(Price(), 0.1, 0)
    assert backend.run(lambda: Usage(1)).status in ("complete", "partial")


# Foreseen --------------------------------------------------------------------------------


def test_an_estimate_says_what_it_rests_on():
    """Parts add up; of what is not known of one it says so."""
    spec = ModelSpec("m", "x:y", "f", price=Price(call=0.01))
    token = ModelSpec("t", "x:y", "g", price=Price(call=0.01, input=1))
    free = ModelSpec("f", "x:y", "h")
    whole = add_up([Part.of(spec, "m", 10, None, 2)])
    assert (whole.tiles, whole.seconds, whole.cost) == (10, None, pytest.approx(0.1))
    assert str(whole) == "time not known, cost about 0.1 (cost by the price per call)"
    assert "how many tokens a tile takes is not known" in str(
        add_up([Part.of(token, "t", 1, None, 1)])
    )
    assert "m is not counted" in str(
        add_up([Part.of(free, "f", 5, None, 1), Part.of(spec, "m", None, None, 1)])
    )
    assert add_up([Part.of(free, "f", 5, None, 1)]).cost is None
    assert str(add_up([])) == "nothing left to run"
    seen = add_up([Part.of(spec, "m", 10, Pace(20, 1.0), 2).measured(20, 0.02)])
    assert (seen.seconds, seen.cost) == (None, pytest.approx(0.2))  # the time is for the run to say
    assert "by 20 tiles of m in this run" in str(seen)


# Real runs -------------------------------------------------------------------------------


class Hosted:
    """A hosted model that takes its time and counts tokens by what it is shown."""

    name, hosted, batch_size, fingerprint = "hosted", True, 4, "v1"

    def __init__(self, log: str, seconds: float = 0.0, fails: int = 0) -> None:
        self.log, self.seconds, self.fails = log, seconds, fails

    def encode(self, batch: Sequence[np.ndarray]) -> list[int]:
        """Return what tells the tiles apart."""
        return [int(pixels[0, 0, 2]) for pixels in batch]

    def request(self, payload: list[int]) -> Answers:
        """Fail on the first calls, then answer; each call is noted with its tokens."""
        time.sleep(self.seconds)
        log = Path(self.log)
        calls = len(list(log.iterdir()))
        tokens = 100 + 7 * sum(payload)
        if calls < self.fails:
            (log / f"{time.time_ns()}-0-0").touch()
            raise tv.TransientError("try again")
        (log / f"{time.time_ns()}-{tokens}-{len(payload)}").touch()
        found = Findings([[0, 0, 5, 5]], [0.5], ["a"])
        return Answers([found] * len(payload), Usage(1, tokens, len(payload)))


@pytest.fixture
def numbered() -> np.ndarray:
    """An 8×8 grid of tiles of 20×20; blue is the number of the tile."""
    numbers = np.arange(64, dtype=np.uint8).reshape(8, 8).repeat(20, 0).repeat(20, 1)
    return np.dstack([numbers * 0, numbers * 0, numbers])


GRID = tv.Grid(8, 8, overlap=0)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_costs_what_its_calls_cost(elsewhere: Path, numbered: np.ndarray) -> None:
    """Calls and tokens as the server counted them, failed calls too; restored tiles are free."""
    log = elsewhere / "log"
    log.mkdir()
    spec = tv.model(Hosted(str(log), fails=3), price={"call": 0.01, "input": 1000.0, "output": 2e4})
    retry = tv.Retry(attempts=9, wait=0.01)
    run = tv.start(numbered, spec, grid=GRID, retry=retry)
    result = run.result(120)
    calls = [tuple(map(int, path.name.split("-")[1:])) for path in log.iterdir()]
    used = Usage(len(calls), sum(c[0] for c in calls), sum(c[1] for c in calls))
    assert result.complete and used.output_tokens == 64
    assert result.cost == pytest.approx(spec.price.of(used))
    assert result.costs == {"hosted": pytest.approx(result.cost)}
    events = [event for event in run.events() if isinstance(event, TileChanged)]
    assert sum(event.cost or 0 for event in events) == pytest.approx(result.cost)
    assert sum(event.input_tokens for event in events) == used.input_tokens
    assert f"The calls cost {result.cost:.4g}." in result.summary
    again = tv.analyze(numbered, spec, grid=GRID, progress=False)
    assert again.cost == 0 and again.costs == {} and "cost" not in again.summary
    paces = earlier_paces(".tilevision", {spec.fingerprint})
    assert paces[spec.fingerprint].input_tokens == pytest.approx(used.input_tokens / 64)
    for journal in Path(".tilevision/runs").glob("*.jsonl"):  # damaged: nothing is known of it
        line, rest = journal.read_text().split("\n", 1)
        damaged = json.loads(line)
        damaged["models"][0]["name"] = []
        journal.write_text(f"{json.dumps(damaged)}\n{rest}")
    assert earlier_paces(".tilevision", {spec.fingerprint}).keys() <= {spec.fingerprint}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_every_attempt_and_every_stage_is_paid(elsewhere: Path, numbered: np.ndarray) -> None:
    """A tile that fails three times has cost three calls; moderation and synthesis one each."""

    def fails(pixels: np.ndarray) -> Any:
        if pixels[0, 0, 2] == 5:
            raise RuntimeError("never")
        return []

    result = tv.start(
        numbered,
        tv.model(fails, price=0.5),
        moderation=tv.model(lambda _: True, name="gate", price=0.1),
        synthesis=tv.model(lambda *_: "Dull.", name="writer", price=0.2),
        grid=GRID,
        retry=tv.Retry(attempts=3, wait=0.01),
    ).result(200)
    assert result.status == "partial"
    assert result.costs == {
        "gate": pytest.approx(0.1),
        "fails": pytest.approx(0.5 * 66),
        "writer": pytest.approx(0.2),
    }
    assert result.cost == pytest.approx(33.3)
    assert tv.analyze(numbered, lambda _: [], grid="1x1", progress=False).cost is None


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("hosted", [False, True])
def test_after_thirty_tiles_time_and_cost_are_foreseen(
    elsewhere: Path, numbered: np.ndarray, *, hosted: bool
) -> None:
    """What is left then costs what was said, within 25 %; so is the time, or why it is not."""
    log = elsewhere / "log"
    log.mkdir()

    def slow(_pixels: np.ndarray) -> Any:
        time.sleep(0.2)
        return []

    server = Hosted(str(log), seconds=0.5)
    asked: Any = tv.model(server, batch_size=1, price={"call": 0.01, "input": 10.0})
    local = tv.model(slow, price=0.02)
    quota = tv.Quota(concurrency=10) if hosted else None
    run = tv.start(numbered, asked if hosted else local, grid=GRID, batch_size=1, quota=quota)
    done, thirty = [0], threading.Event()

    def look(event: Any) -> None:
        if getattr(event, "status", "") == "done":
            done[0] += 1
            if done[0] == 30:
                foreseen.append(run.estimate)
                thirty.set()

    foreseen: list[Any] = []
    run.subscribe(look)
    result = run.result(120)
    assert thirty.is_set() and 30 <= foreseen[0].tiles <= 35
    spent = sum((e.cost or 0) for e in run.events() if isinstance(e, TileChanged))
    # How well the time holds is measured without a real clock: tests/test_view_estimates.py.
    assert (foreseen[0].seconds is None) == ("no time can be given" in foreseen[0].basis)
    per_tile = spent / 64
    assert foreseen[0].cost == pytest.approx(per_tile * foreseen[0].tiles, rel=0.25)
    assert result.cost == pytest.approx(spent)
    assert "30 tiles of" in str(foreseen[0])
    assert run.estimate.tiles == 0


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_plan_learns_from_earlier_runs(elsewhere: Path, numbered: np.ndarray) -> None:
    """Before anything ran it knows the price, afterwards the time and the tokens as well."""
    log = elsewhere / "log"
    log.mkdir()
    spec = tv.model(Hosted(str(log), seconds=0.1), price={"call": 0.04, "input": 1000.0})
    quota = tv.Quota(concurrency=4)
    before = tv.plan(numbered, spec, grid=GRID, quota=quota).estimate
    assert before.seconds is None and before.cost == pytest.approx(64 * 0.04 / 4)
    assert "how many tokens a tile takes is not known" in before.basis
    run = tv.start(numbered, spec, grid=GRID, quota=quota)
    cost = run.result(120).cost
    done = [e for e in run.events() if isinstance(e, TileChanged) and e.status == "done"]
    took = median(event.read_seconds + event.infer_seconds for event in done)
    after = tv.plan(numbered, spec, grid=GRID, quota=quota, reuse=False).estimate
    assert after.cost == pytest.approx(cost, rel=0.01)
    assert len(done) == 64 and took >= 0.1 / 4  # four tiles a call, however slow the machine is
    assert after.seconds == pytest.approx(64 * took / 4, rel=0.01)
    assert "by 64 tiles of hosted in earlier runs" in after.basis
    assert "nothing left to run" in repr(tv.plan(numbered, spec, grid=GRID))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_budget_stops_the_run_and_keeps_what_was_paid(
    elsewhere: Path, numbered: np.ndarray
) -> None:
    """Ten tiles at 0.05 for 0.5; the next run has them, and a budget that is enough completes."""

    def looks(_pixels: np.ndarray) -> Any:
        return []

    spec = tv.model(looks, price=0.05)
    with pytest.warns(UserWarning, match=r"INCOMPLETE: 54 of 64.*The budget of 0.5 covers no"):
        result = tv.analyze(numbered, spec, grid=GRID, budget=0.5, progress=False)
    assert (result.status, result.cost) == ("stopped", pytest.approx(0.5))
    assert (result.tiles["status"] == "done").sum() == 10
    assert "0.5 is spent, and looks costs about 0.05 a tile" in result.facts.reason
    rest = tv.resume(result.run_id, image=numbered, model=spec, budget=2.7).result(200)
    assert (rest.status, rest.cost) == ("complete", pytest.approx(2.7))
    assert rest.facts.restored == 10


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_budget_covers_all_passes_and_stages(elsewhere: Path, numbered: np.ndarray) -> None:
    """What moderation and the first pass cost is not there for the second, nor for synthesis."""

    def first(_pixels: np.ndarray) -> Any:
        return [(0, 0, 5, 5, 0.5)]

    def second(_pixels: np.ndarray) -> Any:
        return []

    cascade = tv.Cascade(tv.model(first, price=0.01), tv.model(second, price=0.1))
    gate = tv.model(lambda _: True, name="gate", price=0.06)
    writer = tv.model(lambda *_: "Dull.", name="writer", price=0.2)
    result = tv.start(
        numbered, cascade, grid=GRID, moderation=gate, synthesis=writer, budget=1.25
    ).result(200)
    assert result.status == "stopped" and result.models == {"second": 5}
    assert result.cost == pytest.approx(0.06 + 0.64 + 0.5)
    assert "The budget of 1.25 does not cover synthesis by writer" in result.summary
    with pytest.raises(tv.RunError, match="does not cover moderation by gate"):
        tv.analyze(numbered, cascade, moderation=gate, budget=0.05, reuse=False, progress=False)


def test_a_budget_without_a_price_is_refused():
    """It would hold nothing back; so is one that is no amount."""
    with pytest.raises(tv.ModelError, match=r"A budget needs a price, and blobs has none.*price="):
        tv.plan("missing.png", "blobs", budget=1)
    for budget in (0, -1, "much", True):
        with pytest.raises(tv.RunError, match="budget is"):
            tv.plan("missing.png", "blobs", budget=budget)


@pytest.mark.slow
def test_the_shell_ends_with_3_where_a_budget_stopped_it(
    elsewhere: Path, numbered: np.ndarray
) -> None:
    """`--budget` is the same limit; the reason is on standard error."""
    from click.testing import CliRunner
    from PIL import Image

    from tilevision.cli import main

    Image.fromarray(numbered).save("picture.png")
    Path("mine.py").write_text(
        "import tilevision as tv\n\n"
        "def none(pixels):\n    return []\n\n"
        "priced = tv.model(none, price=0.25)\n"
    )
    command = ["run", "picture.png", "--model", "mine.py:priced", "--grid", "4x4", "--budget", "1"]
    outcome = CliRunner().invoke(main, [*command, "--quiet"])
    assert outcome.exit_code == 3, outcome.output
    assert "The budget of 1 covers no further tile: 1 is spent" in outcome.output
