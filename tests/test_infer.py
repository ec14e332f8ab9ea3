"""What a worker does for a batch: one outcome per tile, in order, whatever the model does."""

import pickle
import threading
import time
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_onnx import finding_red

from tilevision import codec
from tilevision.adapters.compaction import POLYGON_TOLERANCE, compact, suppress
from tilevision.adapters.function import FunctionModel
from tilevision.catalogue import model
from tilevision.errors import Failure, ModelError, PermanentError, SourceError, Throttled
from tilevision.findings import Findings
from tilevision.geometry import Box, iou
from tilevision.grid import Grid, Tile
from tilevision.infer import Hooks, TileOutcome, Work, infer
from tilevision.modelspec import Answers, Calls, ModelSpec, Steps, Usage, build
from tilevision.sources import ImageMetadata, ReadOptions, SourceRef

SIZE = (96, 64)
TILES = Grid(2, 3, overlap=0).tiles(SIZE)


class Picture:
    """A source whose pixels tell where they are, and whose third column cannot be read."""

    size = SIZE
    bands = 3
    dtype = np.dtype("uint8")
    fingerprint = "picture"
    metadata = ImageMetadata()

    def __init__(self, broken=()):
        self.broken = set(broken)
        y, x = np.mgrid[: SIZE[1], : SIZE[0]]
        self.pixels = np.dstack([x, y, x + y]).astype(np.uint8)
        self.pixels.setflags(write=False)
        self.reference = SourceRef("nobody:opens", "/picture")

    def read(self, box, scale=1.0, bands=None):
        """Return a view, not a copy."""
        if box.x0 in self.broken:
            raise SourceError("tile is damaged")
        return self.pixels[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]

    def thumbnail(self, max_side):
        """Return everything."""
        return self.pixels

    def close(self):
        """Hold nothing."""


@pytest.fixture
def picture(monkeypatch):
    """Have the fake source opened whatever the reference says."""

    def make(*broken):
        source = Picture(broken)
        monkeypatch.setattr("tilevision.infer.open_reference", lambda reference: source)
        monkeypatch.setattr("tilevision.infer.check_unchanged", lambda reference: None)
        return source

    return make


def work(source, spec) -> Work:
    return Work(source.reference, ReadOptions(), spec)


def where(pixels):
    """Find one box, whose score is where the tile lies."""
    return [[1, 2, 9, 8, pixels[0, 0, 0] / 100]]


def test_one_outcome_per_tile_in_order(picture):
    """Records decode to the tile's findings; seconds and counts are there."""
    outcomes = infer(work(picture(), model(where)), TILES)
    assert [outcome.tile for outcome in outcomes] == list(TILES)
    for outcome in outcomes:
        assert outcome.failure is None and outcome.n_findings == 1
        found = codec.decode(outcome.records)
        assert found.scores.tolist() == [outcome.tile.box.x0 / 100]
        assert outcome.read_seconds > 0 and outcome.infer_seconds > 0


def test_an_outcome_travels_whole():
    """It is pickled by hand, which is quicker: with each field that it has, or will have."""
    tile = Tile(3, 4, Box(1.0, 2.0, 33.0, 34.5), 0.5, "another name")
    outcome = TileOutcome(
        *(tile, (b"record",), Failure("permanent", "ValueError", "said"), 5, True, 0.25, 0.5, True),
        usage=Usage(1, 2, 3, 4, 5, 6),
        remarks=("remark",),
        payloads=((b"digest", b"bytes"),),
    )
    plain = TileOutcome(tile)
    others = [one.name for one in fields(TileOutcome) if one.name != "tile"]
    assert all(getattr(outcome, name) != getattr(plain, name) for name in others)
    back = pickle.loads(pickle.dumps(outcome))
    assert back == outcome and back.tile.id == "another name"
    assert [getattr(back.usage, one.name) for one in fields(Usage)] == [1, 2, 3, 4, 5, 6]
    assert hash(back.tile) == hash(tile) and back.tile.box == tile.box


def test_batches_are_no_larger_than_the_model_allows(picture):
    """Six tiles and a batch size of four are two calls, and the same records."""

    def sizes(batch):
        return [[[0, 0, len(batch), 1]] for _ in batch]

    outcomes = infer(work(picture(), model(sizes, batched=True, batch_size=4)), TILES)
    widths = [codec.decode(outcome.records).boxes[0, 2] for outcome in outcomes]
    assert widths == [4, 4, 4, 4, 2, 2]


def test_a_tile_that_cannot_be_read_costs_its_mates_nothing(picture):
    """Read errors belong to their tile."""
    source = picture(32)
    outcomes = infer(work(source, model(lambda b: [None] * len(b), batched=True)), TILES)
    failed = [outcome for outcome in outcomes if outcome.failure]
    assert {outcome.tile.box.x0 for outcome in failed} == {32} and len(failed) == 2
    for outcome in failed:
        assert outcome.failure.kind == "permanent" and "damaged" in outcome.failure.message
        assert not outcome.batched and outcome.records == ()


class Unspeakable(Exception):
    """An error whose text cannot be had."""

    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("odd\nlines"), "transient"),
        (SystemExit(3), "transient"),
        (KeyboardInterrupt(), "transient"),
        (GeneratorExit(), "transient"),
        (StopIteration(), "transient"),
        (MemoryError(), "transient"),
        (Unspeakable(), "transient"),
        (PermanentError("never"), "permanent"),
        (ModelError("nonsense"), "permanent"),
        (Throttled("slow", retry_after=7), "throttled"),
    ],
)
def test_whatever_a_model_raises_is_an_outcome(picture, monkeypatch, error, kind):
    """Nothing is raised, not even SystemExit; a batch's failure blames no single tile."""

    class Raises:
        def predict(self, batch):
            raise error

    monkeypatch.setattr("tilevision.infer.calls_of", lambda spec: Calls(Raises()))
    spec = ModelSpec("bad", "x:y", "f", batch_size=4)
    outcomes = infer(work(picture(), spec), TILES[:5])
    assert [outcome.failure.kind for outcome in outcomes] == [kind] * 5
    assert [outcome.batched for outcome in outcomes] == [True] * 4 + [False]
    assert outcomes[0].failure.error == type(error).__name__
    assert outcomes[0].failure.retry_after == getattr(error, "retry_after", None)
    assert "\n" not in outcomes[0].failure.message


def test_model_that_cannot_be_built_fails_each_tile_by_name(picture):
    """It is no batch's fault, so no tile is tried alone."""
    spec = ModelSpec("lost", "no_such_package:load", "f", batch_size=6)
    outcomes = infer(work(picture(), spec), TILES)
    assert {outcome.failure.kind for outcome in outcomes} == {"permanent"}
    assert not any(outcome.batched for outcome in outcomes)
    assert "no_such_package" in outcomes[0].failure.message


@pytest.mark.parametrize("answers", [[], [Findings()] * 3, None, "ab", [None, None]])
def test_answers_must_match_the_tiles(picture, monkeypatch, answers):
    """Too few, too many, or no findings at all is the model's error."""

    class Wrong:
        def predict(self, batch):
            return answers

    monkeypatch.setattr("tilevision.infer.calls_of", lambda spec: Calls(Wrong()))
    outcomes = infer(work(picture(), ModelSpec("wrong", "x:y", "f", batch_size=2)), TILES[:2])
    for outcome in outcomes:
        assert outcome.failure.error == "ModelError" and "Model wrong" in outcome.failure.message


def test_one_tile_too_large_to_store_costs_its_mates_nothing(picture, monkeypatch):
    """The record limit is met tile by tile."""
    long = Findings([[0, 0, 1, 1]], texts=["x" * 300_000])

    class Mixed:
        def predict(self, batch):
            return [Findings(), long, Findings()]

    monkeypatch.setattr("tilevision.infer.calls_of", lambda spec: Calls(Mixed()))
    outcomes = infer(work(picture(), ModelSpec("m", "x:y", "f", batch_size=3)), TILES[:3])
    assert [o.failure and o.failure.error for o in outcomes] == [None, "CheckpointTooLarge", None]


def test_a_model_that_scribbles_hurts_nobody(picture):
    """Each model gets pixels of its own, contiguous and writable."""

    def scribble(pixels):
        assert pixels.flags.c_contiguous and pixels.flags.writeable
        pixels[:] = 0
        return where(pixels)

    source = picture()
    before = source.pixels.copy()
    outcomes = infer(work(source, model(scribble)), TILES)
    assert not any(outcome.failure for outcome in outcomes)
    assert (source.pixels == before).all()


@pytest.mark.parametrize("kept", [True, False])
def test_pixels_that_somebody_keeps_are_copied(picture, monkeypatch, kept):
    """Whatever the model writes; an array that nobody else has is handed on as it is."""
    source, handed, seen = picture(), [], []

    def read(box, scale=1.0, bands=None):
        handed.append(np.full((32, 32, 3), 7, np.uint8))
        handed.append(id(handed[-1]))
        return handed[-2] if kept else handed.pop(-2)

    class Scribbles:
        def predict(self, batch):
            (pixels,) = batch
            seen.append((id(pixels), int(pixels.max())))
            pixels[:] = 9
            return [Findings()]

    source.read = read
    monkeypatch.setattr("tilevision.infer.calls_of", lambda spec: Calls(Scribbles()))
    infer(work(source, model(where)), TILES[:2])
    assert [value for _, value in seen] == [7, 7]
    if kept:
        assert {int(array.max()) for array in handed[::2]} == {7}
    else:
        assert [place for place, _ in seen] == handed


def test_a_model_on_a_device_is_asked_in_steps(picture, tmp_path):
    """Its tiles are prepared, and its answers read, on the thread that brings them; same bytes."""
    spec = model(str(finding_red(tmp_path / "red.onnx")), batch_size=4)
    source = picture()
    source.pixels = np.zeros((64, 96, 3), np.uint8)
    source.pixels[10:20, 40:60] = (250, 10, 10)
    plain = infer(work(source, spec), TILES)
    built, threads = build(spec), {}

    def noted(name, step):
        def called(given):
            threads.setdefault(name, set()).add(threading.get_ident())
            return step(given)

        return called

    built.turn, built.on_device = threading.RLock(), True  # as on a GPU
    names = Steps._fields
    built.steps = Steps(*(noted(*one) for one in zip(names, built.steps, strict=True)))
    built.predict = None
    stepped = infer(work(source, spec), TILES)
    assert [one.failure for one in stepped] == [None] * 6 and plain[1].n_findings == 1
    assert [one.records for one in stepped] == [one.records for one in plain]
    assert threads["prepare"] == threads["read"] == {threading.get_ident()}
    assert len(threads["compute"]) == 1 and threads["compute"] != threads["read"]


def test_arrays_of_a_function_are_read_once_it_has_been_called_for_others():
    """Also where it fills the same array each time: each answer is kept as it was."""
    answer = np.array([[0, 0, 5, 5, 0.5, 0]])

    def counting(tiles):
        answer[0, 5] += 1
        return [answer for _ in tiles]

    built = build(model(counting, batched=True, batch_size=2))
    built.on_device = True
    steps = Calls(built).steps
    said = [steps.compute(TILES[:2]) for _ in range(3)]
    assert all(type(one) is np.ndarray for one in said[0])  # nothing is read between calls
    read = [[int(one.class_ids[0]) for one in steps.read(answers)] for answers in said]
    assert read == [[1, 1], [2, 2], [3, 3]]


def test_a_hosted_function_is_asked_side_by_side():
    """Whatever it says of threads: its requests are answered elsewhere."""
    met, answers = threading.Barrier(2), []
    function = FunctionModel(lambda _: met.wait(60) * [], "hosted")
    ask = partial(function.request, [np.zeros((4, 4, 3), np.uint8)])
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(answer) for answer in answers] == [1, 1]


def test_hooks_are_called_around_each_tile(picture):
    """Each tile is announced before it is read, and each phase is measured."""
    log: list[Any] = []

    @contextmanager
    def span(name):
        log.append(name)
        yield

    hooks = Hooks(started=log.append, span=span, waiting=lambda: log.append("waiting"))
    infer(work(picture(), model(where)), TILES[:2], hooks)
    first, second = [TILES[0]], [TILES[1]]
    assert log == [first, "read", "infer", "encode", second, "read", "infer", "encode"]


def test_the_tiles_of_a_batch_are_announced_at_once(picture):
    """One piece of news before the first is read, and one measure: each costs more than it says."""
    log: list[Any] = []

    @contextmanager
    def span(name):
        log.append(name)
        yield

    spec = replace(model(where), batch_size=2)
    infer(work(picture(), spec), TILES[:3], Hooks(started=log.append, span=span))
    assert [entry for entry in log if entry != "encode"] == [
        [*TILES[:2]],
        *("read", "infer"),
        [TILES[2]],
        *("read", "infer"),
    ]


def test_hosted_models_wait_once_with_everything_encoded(picture):
    """Reading and encoding come first, then the slot is given back, then the requests go out."""
    log: list[str] = []

    @contextmanager
    def span(name):
        log.append(name)
        yield

    hooks = Hooks(span=span, waiting=lambda: log.append("waiting"))
    outcomes = infer(work(picture(32), model(where, hosted=True)), TILES[:3], hooks)
    assert [bool(outcome.failure) for outcome in outcomes] == [False, True, False]
    requests = ["infer", "encode", "encode"]
    assert log == ["read", "encode", "read", "read", "encode", "waiting", *requests]


class Remote:
    """A hosted model whose requests only end once all of them are under way."""

    def __init__(self, tiles, refused=None):
        self.all_there = threading.Barrier(tiles)
        self.refused = refused

    def encode(self, batch):
        """Send where the tile lies."""
        return [int(pixels[0, 0, 0] + pixels[0, 0, 1]) for pixels in batch]

    def request(self, payload):
        """Wait for the others; the later ones answer first."""
        self.all_there.wait(200)
        (place,) = payload
        time.sleep(0.05 / (1 + place))
        if place == self.refused:
            error = PermanentError("refused")
            error.usage = Usage(2, 20, 0)
            raise error
        return Answers([Findings([[0, 0, 1 + place, 1]])], Usage(1, 10, place))


def remote(monkeypatch, *, refused=None):
    made = Remote(len(TILES), refused)
    monkeypatch.setattr("tilevision.infer.calls_of", lambda spec: Calls(made))
    return ModelSpec("remote", "x:y", "f", hosted=True)


def test_requests_of_a_task_are_under_way_at_once(picture, monkeypatch):
    """Each tile gets its own answer, in order, whichever comes first."""
    outcomes = infer(work(picture(), remote(monkeypatch)), TILES)
    assert [outcome.failure for outcome in outcomes] == [None] * 6
    for outcome in outcomes:
        place = int(outcome.tile.box.x0 + outcome.tile.box.y0)
        width = min(1 + place, 32)
        assert codec.decode(outcome.records).boxes.tolist() == [[0, 0, width, 1]]
        assert outcome.usage == Usage(1, 10, place)


def test_a_request_that_fails_costs_its_mates_nothing(picture, monkeypatch):
    """And is charged for what it used until then."""
    outcomes = infer(work(picture(), remote(monkeypatch, refused=32)), TILES)
    failed = [outcome for outcome in outcomes if outcome.failure]
    assert {int(outcome.tile.box.x0 + outcome.tile.box.y0) for outcome in failed} == {32}
    for outcome in failed:
        assert outcome.failure.kind == "permanent" and not outcome.batched
        assert outcome.usage == Usage(2, 20, 0)


def test_a_slot_that_cannot_be_given_back_is_an_outcome(picture):
    """Nothing was sent, and every tile is tried alone."""

    def broken():
        raise OSError("no scheduler")

    spec = model(where, hosted=True)
    outcomes = infer(work(picture(), spec), TILES[:2], Hooks(waiting=broken))
    assert all("no scheduler" in outcome.failure.message for outcome in outcomes)
    assert all(outcome.batched and outcome.usage == Usage() for outcome in outcomes)


def test_a_hook_that_fails_is_an_outcome(picture):
    """A scheduler that is gone must not lose the task."""

    def broken(tiles):
        raise OSError("scheduler is gone")

    outcomes = infer(work(picture(), model(where)), TILES[:2], Hooks(started=broken))
    assert all("gone" in outcome.failure.message for outcome in outcomes)


def test_saturated_tiles_are_marked(picture):
    """As many detections as the model can give: some may be missing."""
    spec = model(lambda p: [[0, 0, 1, 1], [2, 2, 3, 3]])
    for most, full in ((2, True), (3, False), (None, False)):
        outcome = infer(work(picture(), replace(spec, max_detections=most)), TILES[:1])[0]
        assert outcome.saturated is full


def test_duplicates_of_models_without_nms_are_dropped(picture):
    """Per-tile NMS, where the spec asks for it."""
    rows = [[0, 0, 10, 10, 0.9], [1, 0, 10, 10, 0.8], [20, 20, 30, 30, 0.7]]
    for nms, count in ((None, 3), (0.5, 2)):
        assert (
            infer(work(picture(), model(lambda p: rows, nms=nms)), TILES[:1])[0].n_findings == count
        )


def test_no_tiles_no_outcomes(picture):
    """Nothing in, nothing out."""
    assert infer(work(picture(), model(where)), ()) == []


# Compaction -----------------------------------------------------------------------------


def test_what_lies_outside_the_tile_is_dropped():
    """Boxes are clipped; what has no area left goes, what never had any stays where inside."""
    boxes = {
        (-5, -5, 5, 5): (0, 0, 5, 5),
        (90, 60, 200, 200): (90, 60, 96, 64),
        (-9, 3, 0, 8): None,
        (96, 3, 99, 8): None,
        (10, 10, 10, 10): (10, 10, 10, 10),
        (10, 10, 10, 20): (10, 10, 10, 20),
        (99, 10, 99, 10): None,
        (96, 64, 96, 64): (96, 64, 96, 64),
    }
    for box, kept in boxes.items():
        found = compact(Findings([box]), SIZE)
        assert found.boxes.tolist() == ([] if kept is None else [list(kept)]), box


def circle(x, y, r, n=400):
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.column_stack([x + r * np.cos(t), y + r * np.sin(t)])


def test_outlines_are_simplified_within_the_tolerance():
    """A circle of 400 points needs a tenth of them to stay within half a pixel."""
    import shapely

    ring, hole = circle(40, 30, 20), circle(40, 30, 6)
    lean = compact(Findings([[20, 10, 60, 50]], polygons=[((ring, hole),)]), SIZE)
    ((exterior, inner),) = lean.polygons[0]
    assert len(exterior) < 40 and len(inner) < 20
    gap = shapely.hausdorff_distance(shapely.LinearRing(ring), shapely.LinearRing(exterior))
    assert gap <= POLYGON_TOLERANCE + 0.01


def test_outlines_are_clipped_to_the_tile():
    """An outline that leaves the tile is cut at its edge; a crossed one is mended first."""
    import shapely

    bow = [[80, 10], [120, 40], [120, 10], [80, 40]]
    lean = compact(Findings([[80, 10, 120, 40]], polygons=[bow]), SIZE)
    shapes = [shapely.Polygon(part[0]) for part in lean.polygons[0]]
    assert max(shape.bounds[2] for shape in shapes) == 96
    assert all(shape.is_valid for shape in shapes)


def test_compaction_keeps_everything_else():
    """Rows without an outline, texts, points and what belongs to the tile stay."""
    found = Findings(
        [[0, 0, 9, 9], [5, 5, 8, 8]],
        [0.9, 0.8],
        polygons=[None, circle(6, 6, 2)],
        texts=["a", None],
        points=[[1, 1], [np.nan, np.nan]],
        tile_scores={"tumour": 0.5},
        note="blurred",
    )
    lean = compact(found, SIZE)
    assert lean.polygons[0] is None and lean.polygons[1] is not None
    assert (lean.texts, lean.note, lean.tile_scores) == (("a", None), "blurred", {"tumour": 0.5})
    assert codec.decode(codec.encode(lean)) == lean.rounded()


box = st.tuples(*[st.integers(0, 20)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1)
)


@given(
    st.lists(st.tuples(box, st.sampled_from([0.2, 0.5, 0.9]), st.sampled_from("ab")), max_size=12)
)
def test_suppression_leaves_no_duplicates_and_drops_nothing_else(rows):
    """Of each label, survivors overlap no more than allowed, and each loser has a better winner."""
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    found = Findings(boxes, scores, labels)
    keep = suppress(found, 0.5)
    for i in range(len(found)):
        better = [
            j
            for j in np.flatnonzero(keep)
            if j < i
            and found.labels[j] == found.labels[i]
            and iou(found.boxes[j], found.boxes[i]) > 0.5
        ]
        assert keep[i] == (not better)


def test_real_source_is_read_through_its_reference(tmp_path):
    """With the real readers: an array, its reference, tiles at half scale."""
    from tilevision.sources import open_source, read_options

    picture = np.zeros((64, 96, 3), np.uint8)
    picture[20:40, 30:50] = 255
    source = open_source(picture)
    try:
        spec = model(
            lambda p: [[*np.argwhere(p[..., 0] > 128).min(0)[::-1], p.shape[1], p.shape[0]]]
        )
        tile = Tile(0, 0, Box(0, 0, 96, 64), 0.5)
        outcome = infer(Work(source.reference, read_options(source), spec), (tile,))[0]
    finally:
        source.close()
    assert outcome.failure is None
    assert codec.decode(outcome.records).boxes.tolist() == [[15, 10, 48, 32]]
