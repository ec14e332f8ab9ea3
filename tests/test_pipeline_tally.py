"""What is known about each tile of a run, and what is published of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tilevision import codec
from tilevision.checkpoint import MemoryCheckpoint
from tilevision.errors import Failure
from tilevision.events import BOXES_PER_EVENT, Bus
from tilevision.findings import Findings, TileFindings
from tilevision.grid import Grid
from tilevision.infer import TileOutcome
from tilevision.modelspec import ModelSpec, Price, Usage
from tilevision.pipeline.estimate import Spending
from tilevision.pipeline.planning import Pass
from tilevision.pipeline.tally import Tally
from tilevision.result import MergeSettings
from tilevision.schedule.messages import Announce
from tilevision.status import TileStatus

TILES = Grid(rows=1, cols=3, overlap=0.0).tiles((30, 10))
FIRST, SECOND, OUTSIDE = TILES
SPEC = ModelSpec(name="m", factory="x:y", fingerprint="f", price=Price(call=2.0, input=1e6))


def records(n: int, score: float = 0.5, label: str = "cell") -> tuple[bytes, ...]:
    """Return the records of `n` equal detections."""
    boxes = [(1, 2, 3, 4)] * n
    return codec.encode(Findings(boxes, labels=[label] * n, scores=[score] * n))


def seen(outcome: TileOutcome) -> TileFindings:
    """Return what an outcome's records say."""
    return TileFindings(outcome.tile, codec.decode(outcome.records), outcome.saturated)


@pytest.fixture
def one() -> Pass:
    """A pass of one model over all tiles."""
    keys = {tile: tile.id for tile in TILES}
    options: Any = None
    return Pass(SPEC, "m", options, keys, frozenset())


@pytest.fixture
def tally() -> Tally:
    """A tally that shows scores from 0.25, of three tiles, one outside of the region."""
    plan: Any = SimpleNamespace(tiles=TILES, skipped=frozenset([OUTSIDE]))
    return Tally(plan, Bus(), Spending(), MergeSettings(min_score=0.25))


def events(tally: Tally) -> list[Any]:
    """Return what it publishes, as it grows."""
    found: list[Any] = []
    tally._bus.subscribe(found.append)
    return found


def test_tiles_outside_the_region_are_skipped_from_the_start(tally: Tally) -> None:
    """The others are pending; only the skipped ones are published."""
    news = events(tally)
    assert [row.status for row in tally.rows.values()] == ["pending", "pending", "skipped"]
    tally.publish_skipped()
    assert [(event.tile, event.status) for event in news] == [(OUTSIDE, "skipped")]


def test_a_committed_tile_is_done_with_what_it_saw(tally: Tally, one: Pass) -> None:
    """Attempt, worker and times are in its row and in the event; boxes in image pixels."""
    news = events(tally)
    outcome = TileOutcome(SECOND, records(2), n_findings=2, read_seconds=0.5, infer_seconds=1.5)
    tally.keep(one, outcome, seen(outcome), 3, "tcp://a")
    row = tally.rows[SECOND]
    assert (row.status, row.attempts, row.worker, row.n_findings) == ("done", 3, "tcp://a", 2)
    (event,) = news
    assert (event.status, event.attempt, event.read_seconds) == ("done", 3, 0.5)
    assert event.boxes == ((11, 2, 13, 4, "cell"),) * 2 and event.scores == (0.5, 0.5)
    assert len(tally.found[SECOND].findings) == 2


def test_scores_below_the_minimum_are_kept_and_not_shown(tally: Tally, one: Pass) -> None:
    """What is found stays for other thresholds; what is counted and drawn obeys this one."""
    news = events(tally)
    outcome = TileOutcome(FIRST, records(4, score=0.125), n_findings=4)
    tally.keep(one, outcome, seen(outcome), 1, "w")
    assert tally.rows[FIRST].n_findings == 0 and news[0].boxes == ()
    assert len(tally.found[FIRST].findings) == 4


def test_an_event_has_the_strongest_boxes_alone(tally: Tally, one: Pass) -> None:
    """However many were found, an event stays small."""
    news = events(tally)
    outcome = TileOutcome(FIRST, records(BOXES_PER_EVENT + 9))
    tally.keep(one, outcome, seen(outcome), 1, "w")
    assert len(news[0].boxes) == BOXES_PER_EVENT
    assert news[0].n_findings == BOXES_PER_EVENT + 9


def test_an_announcement_carries_the_error(tally: Tally, one: Pass) -> None:
    """Status, attempt, worker and the failure in one line."""
    failure = Failure("permanent", "ValueError", "no")
    tally.announce(one, Announce(FIRST, TileStatus.FAILED, 2, "w", failure))
    row = tally.rows[FIRST]
    assert (row.status, row.attempts, row.error) == ("failed", 2, "ValueError: no")


def test_an_error_shows_no_secret_and_steers_no_terminal(tally: Tally, one: Pass) -> None:
    """The row that `result.failed` shows is as bounded and masked as the journal's line."""
    news = events(tally)
    words = "password=hunter2 at https://u:p@host/x?sig=abc \x1b[31mred\x1b[0m \u202eturned"
    failure = Failure("permanent", "ValueError", words)
    tally.announce(one, Announce(FIRST, TileStatus.FAILED, 1, "w", failure))
    for text in (tally.rows[FIRST].error, news[0].error):
        assert not [secret for secret in ("hunter2", "u:p@", "sig=abc") if secret in text]
        assert text.isprintable() and "red" in text and "turned" in text


def test_every_attempt_is_charged_also_those_that_never_came_back(tally: Tally, one: Pass) -> None:
    """Usage of what came back; one call for what was lost; nothing for what only waits."""
    news = events(tally)
    tally.back(one, TileOutcome(FIRST, usage=Usage(calls=1, input_tokens=3)))
    tally.announce(one, Announce(FIRST, TileStatus.RETRYING, 1, failure=Failure("lost", "X", "")))
    tally.announce(one, Announce(FIRST, TileStatus.RUNNING, 2))
    assert tally.spending.of(FIRST) == 2.0 + 3.0 + 2.0
    assert [event.cost for event in news] == [7.0, 7.0]
    assert news[-1].input_tokens == 3


def test_what_is_stored_is_restored(tally: Tally, one: Pass) -> None:
    """A record that cannot be read leaves its tile pending; it runs again."""
    store = MemoryCheckpoint()
    store.commit({FIRST.id: records(1), SECOND.id: (b'{"no":"findings"}',)})
    assert tally.restore(one, [FIRST, SECOND], store) == 1
    assert [tally.rows[tile].status for tile in (FIRST, SECOND)] == ["restored", "pending"]
    assert tally.rows[FIRST].attempts == 0 and set(tally.found) == {FIRST}


def test_a_tile_handed_on_is_pending_again(tally: Tally, one: Pass) -> None:
    """The model of the next pass decides on it, so what the first one saw is taken back."""
    outcome = TileOutcome(FIRST, records(1))
    tally.keep(one, outcome, seen(outcome), 1, "w")
    tally.hand_on([FIRST], one)
    assert tally.rows[FIRST].status == "pending" and not tally.found
