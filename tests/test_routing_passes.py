"""Routes and cascades on a real cluster: who decides on a tile, what is stored, what runs again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tilevision as tv
from tilevision.events import TileChanged

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

GRID = tv.Grid(4, 6, overlap=0)
DARK, BRIGHT = 12, 12  # tiles of the left and of the right half


class Models:
    """A cheap and a capable model that note each call by the tile's first pixel."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        log = self.folder

        def fast(pixels: np.ndarray) -> Any:
            with (Path(log) / "fast").open("a") as file:
                file.write(f"{int(pixels[0, 0, 2])}\n")
            return [(0, 0, 5, 5, 0.5 if pixels[..., 0].mean() > 128 else 0.9)]

        def capable(pixels: np.ndarray) -> Any:
            with (Path(log) / "capable").open("a") as file:
                file.write(f"{int(pixels[0, 0, 2])}\n")
            if (Path(log) / f"refuse-{int(pixels[0, 0, 2])}").exists():
                raise tv.PermanentError("not yet")
            return [(0, 0, 9, 9, 0.95)]

        self.fast, self.capable = fast, capable

    def calls(self, name: str) -> list[int]:
        """Return the numbers of the tiles that a model has seen, a number for each call."""
        path = Path(self.folder) / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def refuse(self, number: int) -> Path:
        """Make the capable model fail on a tile until the file returned is removed."""
        path = Path(self.folder) / f"refuse-{number}"
        path.touch()
        return path


@pytest.fixture
def picture(elsewhere: Path) -> Path:
    """24 tiles of 50×50, the left half dark; blue is the number of the tile."""
    pixels = np.zeros((200, 300, 3), dtype=np.uint8)
    pixels[:, 150:, 0] = 255
    for row in range(4):
        for col in range(6):
            pixels[row * 50 : row * 50 + 50, col * 50 : col * 50 + 50, 2] = row * 6 + col
    Image.fromarray(pixels).save("picture.png")
    return elsewhere / "picture.png"


@pytest.fixture
def models(elsewhere: Path) -> Models:
    """Fresh logs."""
    folder = elsewhere / "log"
    folder.mkdir()
    return Models(folder)


def bright(facts: tv.TileFacts) -> bool:
    """Say whether a tile lies in the right half."""
    return facts.brightness[0] > 128


def run(picture: Path, model: Any, **arguments: Any) -> tv.Result:
    """Analyse the picture's 24 tiles."""
    return tv.analyze(picture, model, grid=GRID, progress=False, **arguments)


def by_model(result: tv.Result) -> dict[tuple[str, str], int]:
    """Return how many tiles there are of each model and status."""
    return dict(Counter(zip(result.tiles["model"], result.tiles["status"], strict=True)))


def test_each_tile_of_a_route_is_its_models_alone(picture: Path, models: Models) -> None:
    """Half the tiles go to each; the table, the summary and every export say so."""
    result = run(picture, tv.Route(models.fast, [(bright, models.capable)]))
    assert by_model(result) == {("fast", "done"): DARK, ("capable", "done"): BRIGHT}
    assert result.models == {"fast": DARK, "capable": BRIGHT}
    assert sorted(models.calls("fast") + models.calls("capable")) == list(range(24))
    assert "Tiles: 12 by fast, 12 by capable." in result.summary
    assert "12 by capable" in repr(result)
    for row in result.rows:
        assert row.model == ("capable" if row.tile.box.x0 >= 150 else "fast")


def test_a_route_and_its_models_alone_share_their_tiles(picture: Path, models: Models) -> None:
    """A tile's key is that of its model: other rules, or no rules, run only what is new."""
    run(picture, tv.Route(models.fast, [(bright, models.capable)]))
    alone = run(picture, models.capable)
    assert by_model(alone) == {("capable", "restored"): 12, ("capable", "done"): 12}
    assert len(models.calls("capable")) == 24
    other = run(picture, tv.Route(models.capable, [(tv.Within(0, 0, 150, 50), models.fast)]))
    assert by_model(other) == {("fast", "restored"): 3, ("capable", "restored"): 21}
    assert (len(models.calls("fast")), len(models.calls("capable"))) == (12, 24)


def test_a_cascade_asks_the_second_where_the_first_is_unsure(picture: Path, models: Models) -> None:
    """What it says of these tiles is all that counts of them."""
    events: list[TileChanged] = []
    started = tv.start(picture, tv.Cascade(models.fast, models.capable), grid=GRID)
    started.subscribe(lambda e: events.append(e) if isinstance(e, TileChanged) else None)
    result = started.result(200)
    assert by_model(result) == {("fast", "done"): DARK, ("capable", "done"): BRIGHT}
    assert sorted(models.calls("fast")) == list(range(24))
    assert Counter(round(float(s), 2) for s in result.findings.scores) == {0.9: 12, 0.95: 12}
    handed = [e for e in events if e.status == "pending" and e.model == "capable"]
    assert len(handed) == BRIGHT and not any(e.boxes for e in handed)
    final = {e.tile: e.model for e in started.events() if isinstance(e, TileChanged)}
    assert Counter(final.values()) == {"fast": 12, "capable": 12}


def test_another_when_runs_nothing_that_is_stored(picture: Path, models: Models) -> None:
    """Each model's findings are stored for themselves; a stricter or laxer `when` only chooses."""
    cascade = tv.Cascade(models.fast, models.capable)
    first = run(picture, cascade)
    again = run(picture, cascade)
    assert by_model(again) == {("fast", "restored"): 12, ("capable", "restored"): 12}
    assert again.findings == first.findings
    assert first.save("a.json").read_bytes() == again.save("b.json").read_bytes()
    never = run(picture, tv.Cascade(models.fast, models.capable, when=lambda found: False))
    assert by_model(never) == {("fast", "restored"): 24}
    assert (len(models.calls("fast")), len(models.calls("capable"))) == (24, 12)
    plan = tv.plan(picture, tv.Cascade(models.fast, models.capable, when=(0.5, 1)), grid=GRID)
    assert (len(plan.restored), len(plan.to_run), plan.estimate.tiles) == (12, 12, 12)
    everywhere = run(picture, tv.Cascade(models.fast, models.capable, when=(0.5, 1)))
    assert by_model(everywhere) == {("capable", "restored"): 12, ("capable", "done"): 12}
    assert (len(models.calls("fast")), sorted(models.calls("capable"))) == (24, list(range(24)))


def test_a_route_may_lead_to_a_cascade(picture: Path, models: Models) -> None:
    """The first row is sure to be capable's; elsewhere fast decides what else is."""
    route = tv.Route(
        tv.Cascade(models.fast, models.capable), [(lambda facts: facts.row == 0, models.capable)]
    )
    result = run(picture, route)
    assert result.models == {"fast": 9, "capable": 15}
    assert len(models.calls("fast")) == 18 and len(models.calls("capable")) == 15
    assert set(run(picture, route).tiles["status"]) == {"restored"}


def test_a_tile_that_fails_in_the_second_phase_has_failed(picture: Path, models: Models) -> None:
    """The first model's findings do not stand in for it; retried, only that tile runs again."""
    mended = models.refuse(5)
    started = tv.start(picture, tv.Cascade(models.fast, models.capable), grid=GRID)
    result = started.result(200)
    assert result.status == "partial" and result.facts.reason == "1 of 24 tiles failed."
    (row,) = [row for row in result.rows if row.status == "failed"]
    assert (row.tile.id, row.model) == ("r000c005", "capable") and "not yet" in row.error
    assert len(result.tile_findings) == 23
    mended.unlink()
    started.retry_failed()
    result = started.result(200)
    assert result.complete and result.models == {"fast": 12, "capable": 12}
    assert len(models.calls("fast")) == 24
    assert Counter(models.calls("capable"))[5] == 2 and len(models.calls("capable")) == 13


def test_a_tile_retried_in_the_first_phase_goes_on_to_the_second(
    picture: Path, models: Models
) -> None:
    """Mended after the end, it is seen by the first model and, being unsure, by the second."""
    mended, swapped = models.refuse(5), tv.Cascade(models.capable, models.fast, when=(0.9, 1))
    started = tv.start(picture, swapped, grid=GRID)
    assert started.result(200).models == {"fast": 23}
    mended.unlink()
    started.retry_failed()
    assert started.result(200).models == {"fast": 24}
    assert sorted(models.calls("fast")) == list(range(24))
    assert Counter(models.calls("capable"))[5] == 2 and len(models.calls("capable")) == 25


def test_failed_tiles_of_an_earlier_pass_are_retried_while_a_later_one_runs(
    picture: Path, models: Models
) -> None:
    """`retry_failed` during the second pass reaches the first one's as well, in the same run."""
    mended = models.refuse(0)
    gate = Path(models.folder) / "gate"
    path = str(gate)

    def waits(pixels: np.ndarray) -> Any:
        import time

        while not Path(path).exists():
            time.sleep(0.01)
        return models.fast(pixels)

    started = tv.start(picture, tv.Route(models.capable, [(bright, waits)]), grid=GRID)
    second = threading.Event()
    started.subscribe(lambda e: second.set() if getattr(e, "model", "") == "waits" else None)
    assert second.wait(200)
    mended.unlink()
    started.retry_failed()
    gate.touch()
    assert started.result(200).complete
    assert Counter(models.calls("capable")) == {n: 1 + (n == 0) for n in range(24) if n % 6 < 3}
    assert len(models.calls("fast")) == 12


def test_a_pause_and_a_limit_hold_for_the_passes_that_follow(picture: Path, models: Models) -> None:
    """Paused as the first pass ends, the second waits; `set_concurrency` stays in force."""
    started = tv.start(picture, tv.Cascade(models.fast, models.capable), grid=GRID)
    handed = threading.Event()

    def look(event: Any) -> None:
        if getattr(event, "model", "") == "capable" and not handed.is_set():
            handed.set()
            started.pause()
            started.set_concurrency(1)

    started.subscribe(look)
    assert handed.wait(200)
    assert not started.wait(0.5)
    assert started.status == "paused" and models.calls("capable") == []
    aloft: list[int] = []
    started.subscribe(lambda _: aloft.append(started.counts.get("running", 0)))
    started.resume()
    assert started.result(200).complete and max(aloft) == 1


def test_failures_of_all_passes_count_together(picture: Path, models: Models) -> None:
    """One failed tile in each of two passes is two, where two stop the run."""
    for number in (0, 3):
        models.refuse(number)

    def fails_too(pixels: np.ndarray) -> Any:
        return models.capable(pixels)

    route = tv.Route(models.capable, [(bright, tv.model(fails_too))])
    with pytest.warns(UserWarning, match="INCOMPLETE"):
        result = run(picture, route, max_failures=2, batch_size=1, concurrency=1)
    assert result.status == "stopped"
    assert result.facts.reason == "2 of 24 tiles failed, which is the limit."
    assert set(result.failed["id"]) == {"r000c000", "r000c003"}
    assert (result.tiles["status"] == "pending").sum() == 11


def test_cancelled_in_the_first_pass_the_others_do_not_begin(picture: Path, models: Models) -> None:
    """What is done is kept; the next run goes on from there."""
    gate = Path(models.folder) / "gate"
    path = str(gate)

    def waits(pixels: np.ndarray) -> Any:
        import time

        while pixels[0, 0, 2] > 3 and not Path(path).exists():
            time.sleep(0.01)
        return models.fast(pixels)

    cascade = tv.Cascade(waits, models.capable)
    started = tv.start(picture, cascade, grid=GRID, batch_size=1)
    some = threading.Event()
    started.subscribe(lambda e: some.set() if getattr(e, "status", "") == "done" else None)
    assert some.wait(200)
    started.cancel()
    gate.touch()
    result = started.result(200)
    assert result.status == "cancelled" and models.calls("capable") == []
    done = (result.tiles["status"] == "done").sum()
    assert 0 < done < 24 and len(result.tile_findings) == done
    assert run(picture, cascade).complete
    assert len(models.calls("fast")) == 24


SCRIPT = """
import sys
from pathlib import Path
import tilevision as tv

def fast(pixels):
    with open("log/fast", "a") as file:
        file.write(f"{int(pixels[0, 0, 2])}\\n")
    return [(0, 0, 5, 5, 0.5 if pixels[..., 0].mean() > 128 else 0.9)]

def capable(pixels):
    import time
    with open("log/capable", "a") as file:
        file.write(f"{int(pixels[0, 0, 2])}\\n")
    while pixels[0, 0, 2] > 10 and not Path("gate").exists():
        time.sleep(0.01)
    return [(0, 0, 9, 9, 0.95)]

def main():
    cascade = tv.Cascade(fast, capable)
    if sys.argv[1] == "begin":
        result = tv.analyze("picture.png", cascade, grid=tv.Grid(4, 6, overlap=0), batch_size=1)
    else:
        result = tv.resume(sys.argv[1], model=cascade).result()
    print(result.status, result.models, dict(result.tiles["status"].value_counts()))
"""


def test_a_cascade_that_is_killed_goes_on_where_it_was(picture: Path, models: Models) -> None:
    """`kill -9` in the second phase: no committed call of either model is made again."""
    Path("script.py").write_text(SCRIPT + "\nmain()\n")
    command = [sys.executable, "script.py"]
    killed = subprocess.Popen([*command, "begin"], stderr=subprocess.DEVNULL, text=True)
    try:
        _wait_for(lambda: _done_by("capable") >= 3, killed)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    before, (listed,) = _done_by("capable"), tv.runs().itertuples()
    assert listed.status == "interrupted" and listed.model == "fast then capable"
    Path("gate").touch()
    with pytest.raises(tv.RunError, match=r"fast then capable, with a function.*pass model="):
        tv.resume(listed.id)
    resumed = subprocess.run(
        [*command, listed.id], check=False, capture_output=True, text=True, timeout=120
    )
    assert "complete {'fast': 12, 'capable': 12}" in resumed.stdout, resumed.stderr
    assert sorted(models.calls("fast")) == list(range(24))
    again = Counter(models.calls("capable"))
    assert set(again) == {n for n in range(24) if n % 6 >= 3}
    assert sum(1 for n in again if again[n] == 1) >= before


def _done_by(model: str) -> int:
    journals = list(Path(".tilevision/runs").glob("*.jsonl"))
    text = journals[0].read_text() if journals else ""
    wanted = f'"model":"{model}"'
    return sum('"status":"done"' in line and wanted in line for line in text.splitlines())


def _wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_route_of_names_and_ready_made_rules_is_resumed_by_its_id(picture: Path) -> None:
    """Nothing has to be given again, prices included; a watcher sees the name and the models."""
    priced = tv.model(tv.model("blobs", contrast=0.1), price=0.5)
    route = tv.Route("blobs", [(tv.Within(0, 0, 100, 100), tv.Cascade(priced, "nuclei"))])
    first = run(picture, route)
    assert first.cost == 4 * 0.5 and first.costs == {"blobs (2)": 2.0}
    again = tv.resume(first.run_id).result(200)
    assert set(again.tiles["status"]) == {"restored"} and again.cost == 0
    assert again.models == first.models
    followed = tv.FollowedRun(first.run_id)
    assert followed.model.name == "blobs or blobs then nuclei"
    told = Counter(e.model for e in followed.events() if isinstance(e, TileChanged))
    assert told == first.models
    with pytest.raises(tv.ModelError, match="is not what run"):
        tv.resume(first.run_id, model=tv.Route("blobs"))


def test_a_when_that_fails_stops_the_run_and_keeps_what_is_done(
    picture: Path, models: Models
) -> None:
    """The error names it; mended, no tile of the first model runs again."""
    with pytest.raises(tv.ModelError, match="when= of the cascade failed: ZeroDivisionError"):
        run(picture, tv.Cascade(models.fast, models.capable, when=lambda found: 1 / 0))
    assert run(picture, tv.Cascade(models.fast, models.capable)).complete
    assert sorted(models.calls("fast")) == list(range(24))
