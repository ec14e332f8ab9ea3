"""Faults in the middle of many images: each costs what it must, and is told where it belongs."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numbered
import pytest
from drills_disk import small_disk
from PIL import Image

import tilevision as tv

pytestmark = pytest.mark.slow

MODEL = """
import time
from pathlib import Path

def look(pixels):
    time.sleep(0.2)
    while pixels.max() > 50 and not Path(__file__).with_name("gate").exists():
        time.sleep(0.01)
    return [{"box": (1, 1, 9, 9), "score": 0.5, "label": f"thing {pixels.max()}"}]
"""


def bright(pixels: Any) -> Any:
    """Find one thing; refuse tiles that are very bright."""
    if pixels.max() > 250:
        raise tv.PermanentError("too bright")
    return [{"box": (1, 1, 9, 9), "score": 0.5, "label": "thing"}]


def wordy(pixels: Any) -> Any:
    """Find what takes a megabyte to write down."""
    return [{"box": (1, 1, 9, 9), "label": f"{n} {pixels.max()} {'x' * 900}"} for n in range(1100)]


def modest(thumbnail: Any) -> Any:
    """Let no bright picture pass."""
    return bool(thumbnail.max() < 100)


def _pictures(*greys: int) -> None:
    Path("scans").mkdir()
    for number, grey in enumerate(greys):
        Image.new("RGB", (32, 32), (grey,) * 3).save(f"scans/{number:02d}.png")


def _summary() -> list[dict[str, str]]:
    with Path("out/summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_faults_stay_where_they_belong(elsewhere: Path, cluster: None) -> None:
    """A blocked image, one that is gone, one with a failed tile: the others are whole."""
    _pictures(10, 200, 20, 30, 40, 50)
    picture = Image.new("RGB", (64, 32), (60,) * 3)
    picture.paste((90, 90, 90), (40, 0, 64, 32))
    picture.save("scans/06.png")

    def picky(pixels: Any) -> Any:
        Path(GONE).unlink(missing_ok=True)
        if pixels.max() == 90:
            raise tv.PermanentError("no")
        return bright(pixels)

    GONE = str(elsewhere / "scans/05.png")  # noqa: N806 - found by the model in any process
    batch = tv.analyze_many(
        "scans",
        tv.model(picky, fingerprint="picky"),
        grid=tv.Grid.by_tile(32, overlap=0),
        moderation=modest,
        out_dir="out",
        progress=False,
    )
    rows = {row.image: row for row in batch.rows}
    assert [row.status for row in rows.values()] == [
        *("complete", "blocked", "complete", "complete", "complete", "error", "partial")
    ]
    assert isinstance(batch.errors["01.png"], tv.Blocked)
    assert "05.png" in rows["05.png"].error
    assert "1 of 2 tiles" in rows["06.png"].error
    assert batch.statement == (
        "4 of 7 images complete; 1 analysed in part: 06.png; 1 blocked by moderation: 01.png; "
        "1 could not be analysed: 05.png."
    )
    assert [row["status"] for row in _summary()] == [row.status for row in rows.values()]
    assert "not analysed" in Path("out/06.geojson").read_text()
    assert not Path("out/05.geojson").exists()


def test_a_strict_run_says_what_it_lacks(elsewhere: Path, cluster: None) -> None:
    """No file is written for an image with failed tiles, and its row still counts them."""
    _pictures(10, 255)
    batch = tv.analyze_many("scans", bright, grid="1x1", strict=True, out_dir="out", progress=False)
    assert isinstance(batch.errors["01.png"], tv.IncompleteRun)
    assert (batch.rows[1].status, batch.rows[1].tiles, batch.rows[1].failed) == ("error", 1, 1)
    assert sorted(path.name for path in Path("out").iterdir()) == ["00.geojson", "summary.csv"]


def test_a_full_disk_costs_the_files_it_has_no_room_for(elsewhere: Path, cluster: None) -> None:
    """What was found is stored elsewhere: with room again, the same call writes the file."""
    _pictures(10, 20)
    with small_disk(1.8) as disk:
        call: dict[str, Any] = {"grid": "1x1", "out_dir": disk / "out", "progress": False}
        batch = tv.analyze_many("scans", wordy, **call)
        assert [row.status for row in batch.rows] == ["complete", "error"]
        assert "01.geojson" in batch.rows[1].error
        assert sorted(p.name for p in (disk / "out").iterdir()) == ["00.geojson", "summary.csv"]
        (disk / "out/00.geojson").unlink()
        again = tv.analyze_many(["scans/01.png"], wordy, **call)
        assert again.complete
        assert set(again["01.png"].tiles["status"]) == {"restored"}


def test_who_interrupts_many_images_goes_on_with_the_same_line(elsewhere: Path) -> None:
    """Ctrl-C: exit 130, how far it came, and the line; finished images have their files."""
    _pictures(*range(10, 130, 10))
    Path("seen.py").write_text(MODEL)
    words = ["run", "scans", "--model", "seen.py:look", "--grid", "1x1", "--workers", "1"]
    command = [sys.executable, "-m", "tilevision", *words, "--out-dir", "out"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        numbered.wait_until(lambda: len(list(Path().glob("out/*.geojson"))) > 3, "four are done")
        process.send_signal(signal.SIGINT)
        Path("gate").touch()
        _, told = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert "of 12 images complete" in told
    assert "run the same command again: python -m tilevision run scans" in told
    whole = [row["image"] for row in _summary() if row["status"] == "complete"]
    written = {f"{path.stem}.png" for path in Path("out").glob("*.geojson")}
    assert 3 <= len(whole) < 12
    assert written >= set(whole)
    assert len(written) <= len(whole) + 1  # the one that was interrupted after its file
    assert tv.runs()["status"].tolist() == ["cancelled"]

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "12 of 12 images complete" in again.stdout
    assert len(list(Path("out").glob("*.geojson"))) == 12
    assert tv.runs()["images"].tolist() == ["12/12", f"{len(whole)}/12"]
