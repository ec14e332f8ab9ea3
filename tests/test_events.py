"""Events, their bus and their lines."""

import json
import logging
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision.events import (
    BOXES_PER_EVENT,
    Bus,
    RunChanged,
    StageDone,
    TileChanged,
    from_line,
    to_line,
)
from tilevision.events.bus import BOXES_REMEMBERED
from tilevision.events.journal import redact, redact_settings
from tilevision.geometry import Box
from tilevision.grid import Grid, Tile

TILES = Grid(rows=3, cols=4).tiles((400, 300))

whole = st.integers(-(2**31), 2**31)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
seconds = st.floats(0, 2e9)
tiles = st.builds(
    Tile,
    row=st.integers(0, 9999),
    col=st.integers(0, 9999),
    box=st.builds(Box, whole, whole, whole, whole),
    scale=st.floats(0.001, 10),
    id=texts,
)
tile_events = st.builds(
    TileChanged,
    time=seconds,
    tile=tiles,
    status=st.sampled_from(["pending", "running", "done", "failed"]),
    attempt=st.integers(0, 9),
    worker=texts,
    read_seconds=st.none() | seconds,
    infer_seconds=st.none() | seconds,
    n_findings=st.integers(0, 10**6),
    saturated=st.booleans(),
    error=st.sampled_from(["", "ValueError: no such thing"]),
    boxes=st.lists(st.tuples(whole, whole, whole, whole, texts), max_size=5).map(tuple),
    scores=st.lists(st.none() | st.floats(0, 1), max_size=5).map(tuple),
)
events = st.one_of(
    tile_events,
    st.builds(RunChanged, seconds, st.sampled_from(["running", "paused"])),
    st.builds(StageDone, seconds, st.sampled_from(["open", "merge"]), seconds),
)


def boxes(count: int) -> tuple[tuple[int, int, int, int, str], ...]:
    return tuple((number, 0, number + 1, 1, "cell") for number in range(count))


@given(events)
def test_a_line_reads_back_as_the_event_it_was_made_from(event):
    """One event is one line of JSON, and no text in it can break the line."""
    line = to_line(event)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert from_line(line) == event


@given(tile_events, st.integers(1, 400))
def test_a_torn_line_is_refused_not_misread(event, cut):
    """Whatever is missing from a line's end, it never becomes another event."""
    line = to_line(event)
    with pytest.raises(ValueError):
        from_line(line.rstrip(b"\n")[: -min(cut, len(line) - 1)])


def test_kinds_and_fields_of_later_versions_are_passed_over():
    """A journal of a newer tilevision is still readable: what is unknown is left out."""
    assert from_line(b'{"kind":"weather","time":1}') is None
    assert from_line(b'{"kind":"run","time":1,"status":"running","mood":"good"}') == RunChanged(
        1, "running"
    )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[1]",
        b'{"time":1}',
        b'{"kind":["run"]}',
        b'{"kind":"run","status":"running"}',
        b'{"kind":"run","time":"noon","status":"running"}',
        b'{"kind":"run","time":NaN,"status":"running"}',
        b'{"kind":"run","time":1,"status":7}',
        b'{"kind":"tile","time":1,"status":"done","id":"a","tile":{}}',
        b'{"kind":"tile","time":1,"status":"done","id":"a","tile":7}',
        b'{"kind":"tile","time":1,"status":"done","id":"a",'
        b'"tile":{"row":0,"col":0,"box":["a",0,1,1],"scale":1}}',
        b'{"kind":"tile","time":1,"status":"done","id":"a","boxes":[[1,2]],'
        b'"tile":{"row":0,"col":0,"box":[0,0,1,1],"scale":1}}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_event_is_a_value_error(line):
    """Every malformed line fails in the one way that readers pass over."""
    with pytest.raises(ValueError):
        from_line(line)


def test_boxes_and_errors_of_an_event_are_bounded():
    """An event is for drawing: 256 boxes and one line of error, however many there were."""
    event = TileChanged(
        1.0, TILES[0], "failed", error="a\n  b" + "c" * 1000, boxes=boxes(300), scores=(0.5,) * 300
    )
    assert event.boxes == boxes(BOXES_PER_EVENT)
    assert len(event.scores) == BOXES_PER_EVENT
    assert event.error.startswith("a bc") and len(event.error) == 500


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host/slide.svs",
        "s3://bucket/x.tif?X-Amz-Signature=hunter2&X-Amz-Date=1",
        "https://h/x?sv=2020&sig=hunter2",
        "401 for Authorization: Bearer hunter2hunter2",
        "api_key=hunter2 was refused",
        "{'api_key': 'hunter2', 'model': 'm'}",
        "Incorrect API key provided: sk-hunter2hunter2",
        'password: "hunter2"',
    ],
)
def test_secrets_in_text_are_not_written(text):
    """A message may quote an address or a header; what it gives access with is left out."""
    assert "hunter2" not in redact(text)
    assert b"hunter2" not in to_line(RunChanged(1.0, "paused", text))
    assert b"hunter2" not in to_line(TileChanged(1.0, TILES[0], "failed", error=text))


def test_text_that_only_looks_alike_stays():
    """Redaction must not eat ordinary words, paths and settings."""
    plain = "tile r003c017: 40 tokens, signal 9, /data/signature.png, design=new, key lime"
    assert redact(plain) == plain
    settings = {"max_tokens": 40, "token": "hunter2", "deep": [{"API-Key": "hunter2"}], "key": "v1"}
    assert redact_settings(settings) == {
        "max_tokens": 40,
        "token": "***",
        "deep": [{"API-Key": "***"}],
        "key": "v1",
    }


def test_a_snapshot_is_enough_to_fold_the_state():
    """The latest of the run and of each tile, all stages, in the order they happened."""
    bus = Bus()
    a, b = TILES[:2]
    story = [
        RunChanged(0, "running"),
        StageDone(1, "open", 0.1),
        TileChanged(2, a, "running"),
        TileChanged(3, b, "running"),
        StageDone(4, "plan", 0.1),
        TileChanged(5, a, "done"),
        RunChanged(6, "paused"),
        TileChanged(7, b, "done"),
    ]
    for event in story:
        bus.emit(event)
    assert [event.time for event in bus.snapshot()] == [1, 4, 5, 6, 7]


@given(st.lists(events, max_size=30), st.integers(0, 30))
def test_a_late_listener_learns_what_an_early_one_knows(story, late):
    """Replayed or live, the latest status of every tile is the same."""
    bus = Bus()
    early: list[object] = []
    caught_up: list[object] = []
    bus.subscribe(early.append)
    for number, event in enumerate(story):
        if number == late:
            bus.subscribe(caught_up.append, replay=True)
        bus.emit(event)
    if late >= len(story):
        bus.subscribe(caught_up.append, replay=True)
    assert early == story

    def fold(heard):
        return {
            getattr(event, "tile", type(event)): event
            for event in heard
            if not isinstance(event, StageDone)
        }

    assert fold(caught_up) == fold(early)
    stages = [event for event in early if isinstance(event, StageDone)]
    assert [event for event in caught_up if isinstance(event, StageDone)] == stages


@given(st.lists(events, max_size=30))
def test_counts_are_those_of_the_snapshot(story):
    """Each tile counts once, under its latest status."""
    bus = Bus()
    for event in story:
        bus.emit(event)
    assert bus.counts() == Counter(e.status for e in bus.snapshot() if isinstance(e, TileChanged))


def test_a_listener_that_raises_is_logged_once_and_hurts_nobody(caplog):
    """Views are guests: a broken one costs neither the run nor the other listeners."""
    bus = Bus()
    heard: list[object] = []

    def broken(_):
        raise RuntimeError("cannot draw")

    bus.subscribe(broken)
    bus.subscribe(heard.append)
    with caplog.at_level(logging.ERROR, "tilevision.events"):
        for number in range(3):
            bus.emit(RunChanged(number, "running"))
    assert len(heard) == 3
    assert len(caplog.records) == 1 and "cannot draw" in caplog.text


def test_unsubscribed_means_silence():
    """After unsubscribing, and twice, a listener hears nothing more."""
    bus = Bus()
    heard: list[object] = []
    unsubscribe = bus.subscribe(heard.append)
    bus.emit(RunChanged(1, "running"))
    unsubscribe()
    unsubscribe()
    bus.emit(RunChanged(2, "complete"))
    assert [event.time for event in heard] == [1]


def test_a_listener_may_emit():
    """What a listener emits follows the event it heard, for every listener."""
    bus = Bus()
    first, second = [], []

    def chatty(event):
        first.append(event.time)
        if event.time < 3:
            bus.emit(RunChanged(event.time + 1, "running"))

    bus.subscribe(chatty)
    bus.subscribe(lambda event: second.append(event.time))
    bus.emit(RunChanged(1, "running"))
    assert first == second == [1, 2, 3]


def test_all_listeners_hear_one_order_from_many_threads():
    """However many threads emit, nothing is lost and the order is one."""
    bus = Bus()
    first: list[float] = []
    second: list[float] = []
    bus.subscribe(lambda event: first.append(event.time))
    bus.subscribe(lambda event: second.append(event.time))

    def emit(start):
        for number in range(200):
            bus.emit(RunChanged(start + number, "running"))

    threads = [threading.Thread(target=emit, args=(start * 1000,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first == second and len(set(first)) == 800


def test_memory_for_boxes_is_bounded_and_shared_fairly():
    """A crowded slide keeps fewer boxes of every tile, never none of some tiles."""
    bus = Bus()
    many = Grid(rows=40, cols=40).tiles((8000, 8000))
    for tile in many:
        bus.emit(TileChanged(1.0, tile, "done", boxes=boxes(256)))
    kept = [event.boxes for event in bus.snapshot()]
    assert len(kept) == len(many)
    assert sum(map(len, kept)) <= BOXES_REMEMBERED
    assert {len(some) for some in kept} == {len(kept[0])} and len(kept[0]) > 10
    assert kept[0] == boxes(256)[: len(kept[0])]


@pytest.mark.slow
def test_more_tiles_than_boxes_keep_an_even_sample():
    """A late listener of a huge run sees boxes all over the image, not none."""
    bus = Bus()
    many = Grid(rows=260, cols=250).tiles((25000, 26000))
    for tile in many:
        bus.emit(TileChanged(1.0, tile, "done", boxes=boxes(3)))
    rows = [event.tile.row for event in bus.snapshot() for _ in event.boxes]
    assert BOXES_REMEMBERED // 4 < len(rows) <= BOXES_REMEMBERED
    upper = sum(row < 130 for row in rows)
    assert 0.4 < upper / len(rows) < 0.6


def test_to_line_leaves_numbers_that_json_lacks_out():
    """A time that was never measured does not make a line unreadable."""
    line = to_line(TileChanged(1.0, TILES[0], "done", read_seconds=float("nan")))
    assert json.loads(line)["read_seconds"] is None
    assert from_line(line).read_seconds is None
