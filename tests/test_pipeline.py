"""From an image to a result, on a real local cluster."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilevision as tv
from tilevision.events import RunChanged, StageDone, TileChanged

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def bright(pixels: np.ndarray) -> list[dict[str, Any]]:
    """Find bright squares by connected components."""
    from skimage.measure import label, regionprops

    return [
        {"box": (r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]), "score": 0.9, "label": "spot"}
        for r in regionprops(label(pixels[..., 0] > 128))
    ]


def test_objects_across_seams_are_counted_once(elsewhere: Path, spots: np.ndarray) -> None:
    """12 squares under a 3x4 grid are 12 detections, each where it lies."""
    result = tv.analyze(spots, bright, grid="3x4", progress=False)
    assert result.complete
    assert len(result.findings) == 12
    corners = {(round(x), round(y)) for x, y, *_ in result.findings.boxes}
    assert corners == {(x, y) for x in (30, 95, 195, 320) for y in (20, 145, 260)}


def test_what_no_tile_sees_whole_is_seen_in_the_whole_image(elsewhere: Path) -> None:
    """A square of 200 px under tiles of 100: a model that refuses what an edge cuts finds it."""
    picture = np.zeros((400, 400, 3), dtype=np.uint8)
    picture[100:300, 90:290] = 255
    picture[350:360, 350:360] = 255

    def uncut(pixels: np.ndarray) -> Any:
        rim = np.ones(pixels.shape[:2], dtype=bool)
        rim[1:-1, 1:-1] = False
        return [] if pixels[rim].any() else bright(pixels)

    for resolution, full_image in ((None, True), ([1.0, 0.25], False)):
        result = tv.analyze(
            picture, uncut, grid=100, resolution=resolution, full_image=full_image, progress=False
        )
        areas = sorted(np.sqrt(result.to_dataframe()["area"]))
        assert areas == pytest.approx([10, 200], abs=4)
    assert len(tv.analyze(picture, uncut, grid=100, progress=False).findings) == 1


def test_a_second_run_restores_every_tile(elsewhere: Path, spots: np.ndarray) -> None:
    """The same work is not done twice, no cluster is started, and the findings are equal."""
    first = tv.analyze(spots, bright, grid="3x4", progress=False)
    run = tv.start(spots, bright, grid="3x4")
    second = run.result()
    assert set(second.tiles["status"]) == {"restored"}
    assert run.dashboard_link is None
    assert second.findings == first.findings
    assert "restored" in second.summary
    assert first.save("a.json").read_bytes() == second.save("b.json").read_bytes()


STORED = """
import sys
import numpy as np
import psutil
import tilevision as tv

run = tv.start(np.zeros((90, 120, 3), np.uint8), tv.model(lambda pixels: [], fingerprint="none"),
               grid="3x4", workers=1)
run.result()
print(run.counts, "distributed" in sys.modules, len(psutil.Process().children()))
"""


def test_what_is_all_stored_takes_neither_dask_nor_another_process(elsewhere: Path) -> None:
    """In a fresh process; while there are tiles to run it has both."""
    said = [
        subprocess.run([sys.executable, "-c", STORED], check=True, capture_output=True, text=True)
        for _ in range(2)
    ]
    first, second = (one.stdout.strip() for one in said)
    assert first.startswith("{'done': 12} True ") and not first.endswith(" 0")
    assert second == "{'restored': 12} False 0"


def test_the_same_region_under_another_grid_is_the_same_work(
    elsewhere: Path, spots: np.ndarray
) -> None:
    """Identity is box and scale: a 1x1 grid and one big tile are one and the same."""
    tv.analyze(spots, bright, grid="1x1", progress=False)
    plan = tv.plan(spots, bright, grid=tv.Grid.by_tile(400, 0))
    assert len(plan.restored) == len(plan.tiles) == 1


def test_reuse_false_recomputes(elsewhere: Path, spots: np.ndarray) -> None:
    """Nothing is taken from the checkpoint when told so."""
    tv.analyze(spots, bright, grid="2x2", progress=False)
    again = tv.analyze(spots, bright, grid="2x2", progress=False, reuse=False)
    assert set(again.tiles["status"]) == {"done"}


CELL = """
import numpy as np

LIMIT = {limit}

def helper(pixels):
    return pixels[..., 0] > {factor} * LIMIT

def model(pixels):
    ys, xs = np.nonzero(helper(pixels))
    return [(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, 0.5)] if len(xs) else []
"""


def _cell(limit: int = 100, factor: int = 1) -> Any:
    """Run a notebook cell that defines a model, its helper and a constant; return the model."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(CELL.format(limit=limit, factor=factor), names)
    return names["model"]


def test_an_edited_cell_runs_again_and_an_unchanged_one_does_not(
    elsewhere: Path, spots: np.ndarray
) -> None:
    """A helper or a constant that the function reads counts as much as its own code."""
    tv.analyze(spots, _cell(), grid="2x2", progress=False)
    assert len(tv.plan(spots, _cell(), grid="2x2").restored) == 4
    assert len(tv.plan(spots, _cell(limit=101), grid="2x2").restored) == 0
    assert len(tv.plan(spots, _cell(factor=2), grid="2x2").restored) == 0


def test_failed_tiles_do_not_take_the_others_along(elsewhere: Path, spots: np.ndarray) -> None:
    """One raising tile: the others are kept, the result says what is missing, a warning too."""

    def picky(pixels: np.ndarray) -> Any:
        if pixels[20:30, 30:40].min() == 255:  # only the top left tile has a square here
            raise tv.PermanentError("I do not like this one")
        return bright(pixels)

    with pytest.warns(UserWarning, match=r"INCOMPLETE: 1 of 12.*I do not like this one"):
        result = tv.analyze(spots, picky, grid="3x4", progress=False)
    assert result.status == "partial"
    assert not result.complete
    assert list(result.failed["id"]) == ["r000c000"]
    assert "I do not like this one" in result.failed["error"][0]
    assert "INCOMPLETE" in result.summary


def test_strict_raises_with_the_result(elsewhere: Path, spots: np.ndarray) -> None:
    """`strict=True` turns failed tiles into IncompleteRun, which carries what was found."""

    def fails(_pixels: np.ndarray) -> Any:
        raise tv.PermanentError("no")

    with pytest.raises(
        tv.IncompleteRun, match=r"2 of 2 tiles.*r000c000: PermanentError: no"
    ) as caught:
        tv.analyze(spots, fails, grid="1x2", progress=False, strict=True)
    assert len(caught.value.result.failed) == 2


def test_no_model_is_one_clear_line(elsewhere: Path, spots: np.ndarray) -> None:
    """Whichever way a run is asked for."""
    for ask in (tv.analyze, tv.start, tv.plan):
        with pytest.raises(tv.ModelError, match="pass model="):
            ask(spots)


def test_a_flaky_tile_is_tried_again(elsewhere: Path, spots: np.ndarray) -> None:
    """A tile that fails once succeeds on its second attempt, and says so."""
    marks = elsewhere / "marks"
    marks.mkdir()
    folder = str(marks)

    def flaky(pixels: np.ndarray) -> Any:
        mark = Path(folder) / f"{pixels.shape}-{int(pixels.sum())}-{hash(pixels.tobytes())}"
        if not mark.exists():
            mark.touch()
            raise RuntimeError("only once")
        return bright(pixels)

    result = tv.analyze(
        spots, flaky, grid="1x2", progress=False, retry=tv.Retry(attempts=8, wait=0.01)
    )
    assert result.complete
    assert result.tiles["attempts"].max() >= 2


def test_a_model_that_returns_nonsense_is_named(elsewhere: Path, spots: np.ndarray) -> None:
    """Every tile fails with one clear line; nothing is retried."""

    def nonsense(_pixels: np.ndarray) -> Any:
        return "three ships"

    with pytest.warns(UserWarning, match="INCOMPLETE"):
        result = tv.analyze(spots, nonsense, grid="1x2", progress=False)
    assert set(result.failed["attempts"]) == {1}
    assert "ModelError" in result.failed["error"][0]


def test_moderation_that_refuses_spends_nothing(elsewhere: Path, spots: np.ndarray) -> None:
    """A blocked image runs no tile; the reason is in the error."""
    run = tv.start(spots, bright, grid="2x2", moderation=lambda _rgb: (False, "too dark"))
    with pytest.raises(tv.Blocked, match="too dark"):
        run.result()
    assert run.status == "blocked"
    assert not any(isinstance(event, TileChanged) for event in run.events())


@pytest.mark.parametrize(
    ("answer", "says"), [("yes", "returned str"), (None, "returned NoneType"), (1 / 3, "float")]
)
def test_moderation_without_a_verdict_is_no_permission(
    elsewhere: Path, spots: np.ndarray, answer: Any, says: str
) -> None:
    """Only True or a verdict lets an image through; an error does not either."""
    with pytest.raises(tv.ModelError, match=says):
        tv.analyze(spots, bright, moderation=lambda _rgb: answer, progress=False)
    with pytest.raises(tv.ModelError, match="nothing was analysed: ZeroDivisionError"):
        tv.analyze(spots, bright, moderation=lambda _rgb: 1 / 0, progress=False)


def test_moderation_is_asked_once(elsewhere: Path, spots: np.ndarray) -> None:
    """Its verdict is kept under what it looked at."""
    asked = elsewhere / "asked"
    path = str(asked)

    def look(_rgb: np.ndarray) -> bool:
        with Path(path).open("a") as file:
            file.write("x")
        return True

    for _ in range(2):
        tv.analyze(spots, bright, grid="1x2", moderation=look, progress=False)
    assert asked.read_text() == "x"


def test_synthesis_by_a_function(elsewhere: Path, spots: np.ndarray) -> None:
    """It gets a digest and a thumbnail; the coverage sentence stays whatever it says."""

    def tell(facts: dict[str, Any], rgb: np.ndarray) -> str:
        return f"{facts['n_findings']} squares on {rgb.shape[2]} channels."

    result = tv.analyze(spots, bright, grid="2x2", synthesis=tell, progress=False)
    assert result.summary.startswith("12 squares on 3 channels.")
    assert "All 4 tiles" in result.summary


def test_a_failing_synthesis_costs_no_tile(elsewhere: Path, spots: np.ndarray) -> None:
    """Its error is in the summary; the findings are complete."""

    def broken(_facts: Any, _rgb: Any) -> str:
        raise ValueError("no words")

    result = tv.analyze(spots, bright, grid="2x2", synthesis=broken, progress=False)
    assert result.complete
    assert "no words" in result.summary


def test_events_tell_the_whole_story(elsewhere: Path, spots: np.ndarray) -> None:
    """A listener sees each tile done after its commit, with boxes to draw, then the end."""
    seen: list[Any] = []
    run = tv.start(spots, bright, grid="2x2")
    unsubscribe = run.subscribe(seen.append)
    assert run.wait(200)
    unsubscribe()
    story = {event.tile.id: event for event in run.events() if isinstance(event, TileChanged)}
    assert {event.status for event in story.values()} == {"done"}
    assert sum(len(event.boxes) for event in story.values()) >= 12
    assert {e.stage for e in run.events() if isinstance(e, StageDone)} >= {"moderation", "merge"}
    assert [e for e in run.events() if isinstance(e, RunChanged)][-1].status == "complete"
    assert run.counts == {"done": 4}
    assert run.dashboard_link


def test_await_does_not_block_the_loop(elsewhere: Path, spots: np.ndarray) -> None:
    """Other coroutines go on while a run is awaited; a cancelled await leaves the run alone."""
    gate = elsewhere / "gate"

    def gated(pixels: np.ndarray) -> Any:
        while not gate.exists():
            time.sleep(0.01)
        return bright(pixels)

    async def both() -> tuple[Any, int]:
        run = tv.start(spots, gated, grid="2x2")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_wait(run), 0.001)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while run.status == "running":
                ticks += 1
                if ticks == 3:
                    gate.touch()
                await asyncio.sleep(0.005)

        result, _ = await asyncio.gather(_wait(run), tick())
        return result, ticks

    result, ticks = asyncio.run(both())
    assert result.complete
    assert ticks >= 3


@pytest.mark.usefixtures("elsewhere")
def test_an_asynchronous_client_is_not_waited_for_on_its_own_thread(spots: np.ndarray) -> None:
    """It answers from its loop alone: whoever stops that is told so, and `await` works."""
    from distributed import Client, get_client

    from tilevision.errors import ClusterError

    async def work() -> None:
        address = get_client().scheduler.address
        async with Client(address, asynchronous=True) as client:
            given = {"model": bright, "grid": "2x2", "progress": False}
            for wait in (
                lambda: tv.analyze(spots, client=client, **given),
                lambda: tv.analyze(spots, **given),  # it is the current client
                lambda: tv.analyze_many({"a": spots}, client=client, **given),
            ):
                with pytest.raises(ClusterError, match=r"await tv\.start"):
                    wait()
            assert tv.runs().empty
            run = tv.start(spots, client=client, **given)
            with pytest.raises(ClusterError, match=r"await tv\.start"):
                run.result()
            assert (await run).complete and run.result().complete

    asyncio.run(work())


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("client", ["tcp://127.0.0.1:8786", 3])
def test_what_is_no_client_is_refused_before_there_is_a_run(
    client: object, spots: np.ndarray
) -> None:
    """The call itself raises, and no run is listed that never could have done anything."""
    from tilevision.errors import ClusterError

    for call in (tv.start, tv.analyze):
        with pytest.raises(ClusterError, match=r"give a dask\.distributed\.Client"):
            call(spots, bright, client=client)
    assert tv.runs().empty


async def _wait(run: tv.Run) -> Any:
    return await run


def test_pause_then_resume_loses_nothing(elsewhere: Path, spots: np.ndarray) -> None:
    """A paused run starts no further tile; resumed, it completes."""
    gate = elsewhere / "gate"
    path = str(gate)

    def slow(pixels: np.ndarray) -> Any:
        while not Path(path).exists():
            time.sleep(0.01)
        return bright(pixels)

    run = tv.start(spots, slow, grid="4x4", batch_size=1)
    first = threading.Event()
    run.subscribe(lambda e: first.set() if isinstance(e, TileChanged) else None)
    assert first.wait(200)
    run.pause()
    gate.touch()
    assert run.status == "paused"
    assert not run.wait(1)
    run.resume()
    assert run.result(200).complete


def test_cancel_keeps_what_is_done(elsewhere: Path, spots: np.ndarray) -> None:
    """A cancelled run ends early as partial work, and the next one starts from there."""

    def slow(pixels: np.ndarray) -> Any:
        time.sleep(0.2)
        return bright(pixels)

    run = tv.start(spots, slow, grid="6x6", batch_size=1)
    some = threading.Event()
    run.subscribe(lambda e: some.set() if getattr(e, "status", "") == "done" else None)
    assert some.wait(200)
    run.cancel()
    result = run.result(200)
    assert result.status == "cancelled"
    assert 0 < (result.tiles["status"] == "done").sum() < 36
    plan = tv.plan(spots, slow, grid="6x6")
    assert len(plan.restored) == (result.tiles["status"] == "done").sum()


def test_retry_failed_after_the_end(elsewhere: Path, spots: np.ndarray) -> None:
    """Once the cause is mended, only the failed tiles run again, in the same run."""
    mended = elsewhere / "mended"
    path = str(mended)

    def picky(pixels: np.ndarray) -> Any:
        if pixels[20:30, 30:40].min() == 255 and not Path(path).exists():
            raise tv.PermanentError("not yet")
        return bright(pixels)

    run = tv.start(spots, picky, grid="3x4")
    assert len(run.result().failed) == 1
    mended.touch()
    run.retry_failed()
    result = run.result(200)
    assert result.complete
    assert len(result.findings) == 12


def test_one_tile_can_be_retried(elsewhere: Path, spots: np.ndarray) -> None:
    """Of two failed tiles only the one that is named runs again; what did not fail never does."""
    mended = elsewhere / "mended"
    path = str(mended)

    def picky(pixels: np.ndarray) -> Any:
        if not Path(path).exists():
            raise tv.PermanentError("not yet")
        return bright(pixels)

    run = tv.start(spots, picky, grid="1x2")
    assert len(run.result().failed) == 2
    assert len(run.so_far().failed) == 2
    mended.touch()
    run.retry(run.tiles[1:])
    result = run.result(200)
    assert [row.status for row in result.rows] == ["failed", "done"]
    run.retry(run.tiles[1:])
    assert run.status == "partial"
    with pytest.raises(tv.RunError, match="r009c009 is not part of run"):
        run.retry([tv.Tile(9, 9, tv.Box(0, 0, 1, 1))])


def test_many_images_and_a_bad_one(elsewhere: Path, spots: np.ndarray) -> None:
    """A folder in sorted order; the damaged file is reported and stops nothing."""
    from PIL import Image

    Image.fromarray(spots).save("a.png")
    Path("b.png").write_text("not a picture")
    Image.fromarray(spots[:, ::-1].copy()).save("c.png")
    batch = tv.analyze_many(".", bright, grid="2x2", out_dir="out", progress=False)
    assert list(batch) == ["a.png", "c.png"]
    assert list(batch.errors) == ["b.png"]
    assert not batch.complete
    written = sorted(path.name for path in Path("out").iterdir())
    assert written == ["a.geojson", "c.geojson", "summary.csv"]
    assert list(batch.to_dataframe()["image"]) == ["a.png", "b.png", "c.png"]


def test_images_that_would_be_written_to_one_file_are_refused(elsewhere: Path) -> None:
    """``a.tif`` and ``a.png`` both mean ``a.geojson``: nothing runs, nothing is overwritten."""
    with pytest.raises(tv.RunError, match=r"a\.png and a\.tif.*a\.geojson"):
        tv.analyze_many(["a.png", "a.tif"], bright, out_dir="out")


def test_checkpoint_none_keeps_nothing(elsewhere: Path, spots: np.ndarray) -> None:
    """No folder appears, and the result is whole."""
    assert tv.analyze(spots, bright, grid="2x2", checkpoint=None, progress=False).complete
    assert not Path(".tilevision").exists()


def test_an_interrupt_pauses_the_run_and_says_how_to_go_on(
    elsewhere: Path, spots: np.ndarray
) -> None:
    """Ctrl-C while waiting: nothing is lost, the run is paused, and resumed it completes."""
    gate = elsewhere / "gate"
    path = str(gate)

    def slow(pixels: np.ndarray) -> Any:
        while not Path(path).exists():
            time.sleep(0.01)
        return bright(pixels)

    run = tv.start(spots, slow, grid="4x4", batch_size=1)
    first = threading.Event()
    run.subscribe(lambda e: first.set() if isinstance(e, TileChanged) else None)
    assert first.wait(200)
    waiting = threading.Thread(target=_interrupt_when_waiting, daemon=True)
    waiting.start()
    with pytest.raises(KeyboardInterrupt, match=r"paused, 0 of 16 tiles.*run\.resume"):
        run.result()
    assert run.status == "paused"
    gate.touch()
    run.resume()
    assert run.result(200).complete


def test_an_interrupted_analysis_says_that_the_same_call_goes_on(
    elsewhere: Path, spots: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """Who called `analyze` has no run to resume: the line is about what they have."""
    gate = elsewhere / "gate"

    def slow(pixels: np.ndarray) -> Any:
        while not gate.exists():
            time.sleep(0.01)
        return bright(pixels)

    model = tv.model(slow, fingerprint="slow")
    threading.Thread(target=_interrupt_when_waiting, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match="finished tiles are kept; the same call continues"):
        tv.analyze(spots, model, grid="4x4", batch_size=1, progress=False)
    assert "paused" in caplog.text
    assert "run.resume" not in caplog.text
    gate.touch()
    assert tv.analyze(spots, model, grid="4x4", progress=False).complete


def _interrupt_when_waiting() -> None:
    """Send this process a Ctrl-C once its main thread waits in `Run.result`."""
    main = threading.main_thread().ident
    while True:
        frame = sys._current_frames().get(main or 0)
        while frame is not None and frame.f_code.co_name != "wait_for":
            frame = frame.f_back
        if frame is not None:
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.01)
