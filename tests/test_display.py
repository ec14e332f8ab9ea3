"""A display never stops the work, and never fills what keeps it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tilevision import display
from tilevision.batch.batch import ImageRow
from tilevision.batch.batchprogress import Headway
from tilevision.cli.failing import warn
from tilevision.events import StageDone, TileChanged
from tilevision.grid import Grid
from tilevision.pipeline import progress
from tilevision.pipeline.progress import Bar, ProgressBar
from tilevision.sources import StagingProgress

TILES = tuple(Grid.parse("10x20").tiles((400, 200)))

WORK = """
import sys
from tilevision import display
from tilevision.pipeline import progress
from tilevision.cli.failing import warn
from tilevision.events import StageDone, TileChanged
from tilevision.grid import Grid
progress.is_live = lambda stream: sys.argv[1] == "live"
{before}
bar = progress.ProgressBar("a.tif", 200)
for number, tile in enumerate(Grid.parse("10x20").tiles((400, 200))):
    bar(TileChanged(1.0, tile, "done"))
    if number == 100:
        bar(StageDone(1.0, "cluster", 1.0, "it is up"))
        warn("something")
        {amid}
bar.close()
warn("the end")
open(sys.argv[2], "w").write("worked")
"""

GONE = {
    "a closed pipe": ("", ""),
    "a full disk": ("", ""),
    "none": ("sys.stderr = None", ""),
    "none half way": ("", "sys.stderr = None"),
    "a closed stream": ("sys.stderr.close()", ""),
    "closed half way": ("", "sys.stderr.close()"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["live", "lines"])
@pytest.mark.parametrize("gone", GONE)
def test_work_ends_well_whatever_becomes_of_standard_error(tmp_path, gone, mode):
    """No reader, no space, no stream: the work is done, and the process exits with 0 in time."""
    if gone == "a full disk" and not os.path.exists("/dev/full"):  # noqa: PTH110 - a device
        pytest.skip("this system has no /dev/full; the closed pipe is tried everywhere")
    before, amid = GONE[gone]
    command = [sys.executable, "-c", WORK.format(before=before, amid=amid), mode, "said"]
    if gone == "a full disk":
        with open("/dev/full", "w") as target:  # noqa: PTH123 - a device
            process = subprocess.Popen(command, cwd=tmp_path, stderr=target)
    else:
        reader, writer = os.pipe()
        process = subprocess.Popen(command, cwd=tmp_path, stderr=writer)
        os.close(writer)
        if gone != "a closed pipe":  # somebody reads, as far as anything comes
            drain = threading.Thread(target=Path(f"/dev/fd/{reader}").read_bytes, daemon=True)
            drain.start()
        else:
            os.close(reader)
    assert process.wait(200) == 0
    assert (tmp_path / "said").read_text() == "worked"


STALLED = """
import sys, time
from tilevision import display
from tilevision.pipeline.progress import ProgressBar
from tilevision.pipeline import progress
from tilevision.events import TileChanged, StageDone
from tilevision.grid import Grid
progress.is_live = lambda stream: sys.argv[1] == "live"
display.STALLED_SECONDS = 0.05
began = time.monotonic()
bar = ProgressBar("a.tif", 200)
for number, tile in enumerate(Grid.parse("10x20").tiles((400, 200))):
    bar(StageDone(1.0, "cluster", 1.0, f"{number} " + "ü" * 3000))
    bar(TileChanged(1.0, tile, "done"))
bar.close()
open(sys.argv[2], "w").write(str(time.monotonic() - began))
sys.stdin.read(1)
bar.note("the reader is back")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a pipe cannot be asked there")
@pytest.mark.parametrize("mode", ["live", "lines"])
def test_a_reader_that_stands_still_stops_nothing_and_is_told_what_it_missed(tmp_path, mode):
    """More than a pipe holds is written to it while nobody reads; the work ends all the same.

    Once somebody reads again, a line says that messages are left out. Linux gives a pipe 64 KiB
    (pipe(7)), a fifth of what is written here.
    """
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", STALLED, mode, "took"],
        cwd=tmp_path,
        stderr=writer,
        stdin=subprocess.PIPE,
    )
    os.close(writer)
    took = tmp_path / "took"
    deadline = time.monotonic() + 200
    while not (took.exists() and took.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline, "the work waits for the reader"
        time.sleep(0.02)
    read = os.read(reader, 1 << 20)
    assert len(read) > 16_000  # it had what the pipe holds
    time.sleep(0.1)
    process.stdin.write(b"x")
    process.stdin.close()
    with os.fdopen(reader, "rb") as rest:
        said = rest.read().decode()
    assert process.wait(200) == 0
    assert "messages are left out" in said
    assert said.rstrip().endswith("the reader is back")


def _log(monkeypatch):
    """A stream that keeps what is written, in place of standard error; and a clock."""
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return stream, now


@pytest.mark.parametrize("seconds", [20, 600, 36_000])
def test_where_lines_stay_a_handful_is_written(monkeypatch, seconds):
    """Few for a minute's work; at most one in five minutes after an hour, and the end is there."""
    stream, now = _log(monkeypatch)
    bar = ProgressBar("a.tif", 1000)
    for number in range(1000):
        now[0] = seconds * number / 1000
        bar._bar.move(number)
    bar._bar.move(1000)
    bar.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) <= 12 + seconds / 300
    assert "\r" not in stream.getvalue()
    assert "1000/1000" in lines[-1]


def test_notes_are_lines_of_their_own_and_come_at_once(monkeypatch):
    """A log has the note where it was made."""
    stream, _ = _log(monkeypatch)
    bar = ProgressBar("a.tif", len(TILES))
    bar(StageDone(1.0, "cluster", 1.0, "local cluster of 2 workers"))
    assert stream.getvalue().splitlines()[-1] == "local cluster of 2 workers"
    for tile in TILES:
        bar(TileChanged(1.0, tile, "failed"))
    bar.close()
    assert "200/200" in stream.getvalue().splitlines()[-1]
    assert "failed=200" in stream.getvalue()


def test_what_is_left_is_what_the_run_foretells(monkeypatch):
    """The bar has no estimate of its own: before the run can tell there is none."""
    stream, now = _log(monkeypatch)
    answers = {1.0: None, 5.0: 75.0}
    bar = ProgressBar("a.tif", len(TILES), lambda: answers[now[0]])
    for now[0], tile in zip(answers, TILES, strict=False):
        bar(TileChanged(1.0, tile, "done"))
    bar.close()
    before, amid, ended = stream.getvalue().splitlines()
    assert "about 01:15 left" in amid
    assert not any("left" in line for line in (before, ended)) and "<" not in amid


def test_many_images_are_a_handful_of_lines_too(monkeypatch):
    """One bar over all of them, and a line for each that is not complete."""
    stream, now = _log(monkeypatch)
    headway = Headway(100, shown=True)
    for number in range(100):
        now[0] += 1.0
        status = "error" if number == 50 else "complete"
        headway.end(ImageRow(f"{number}.png", status, error="It is damaged." * (number == 50)))
    headway.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) <= 14
    assert "50.png: error. It is damaged." in lines
    assert "100%" in lines[-1]


def test_names_and_errors_cannot_steer_the_terminal(monkeypatch):
    """A file may be called anything; its bar stays one line, and nothing of it is obeyed."""
    stream, now = _log(monkeypatch)
    name = "\x1b[2Jred\r\n\x07.tif"
    bar = ProgressBar(name, 2)
    bar(StageDone(1.0, "waiting", 0.0, "a worker said \x1b]0;title\x07"))
    bar(TileChanged(1.0, TILES[0], "done"))
    bar.close()
    headway = Headway(1, shown=True)
    headway.say(f"Run 1: 1 images from {name}")
    headway.end(ImageRow(name, "error", error="\x1b[31mIt is damaged."))
    headway.close()
    preparing = progress._PreparationBar(name)
    for done in (0, 1):
        preparing(StagingProgress(done, 2, "/tmp/\x1b[31m"))
        now[0] += 5.0
    preparing.close()
    assert "preparing" in stream.getvalue() and "damaged" in stream.getvalue()
    assert all(line.isprintable() for line in stream.getvalue().split("\n"))
    assert "1/2" in next(line for line in stream.getvalue().split("\n") if ".tif: " in line)


def test_what_is_over_soon_is_not_drawn(monkeypatch):
    """A preparation of half a second leaves no trace; a long one does."""
    stream, now = _log(monkeypatch)
    for seconds, drawn in ((0.5, False), (5.0, True)):
        bar = Bar(100, delay=1.0, leave=False, desc="preparing")
        now[0] += seconds
        bar.move(50)
        bar.close()
        assert ("50/100" in stream.getvalue()) is drawn


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("seconds", [0.05, 0.5, 5.0])
def test_a_preparation_leaves_nothing_on_a_terminal(monkeypatch, seconds):
    """One that is over soon draws nothing at all; the bar of a long one is removed."""
    terminal, now = _Terminal(), [0.0]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = Bar(100, delay=1.0, leave=False, ncols=60, desc="preparing")
    for done in (40, 80, 100):
        now[0] += seconds / 3
        bar.move(done)
    bar.close()
    drawings = terminal.getvalue().split("\r")
    assert ("preparing" in terminal.getvalue()) is (seconds > 1)
    assert not "".join(drawings[-2:]).strip()


def test_the_bar_of_a_run_stays_on_a_terminal_with_its_last_count(monkeypatch):
    """Also of a run that is over before a bar is drawn anew, which is every tenth of a second."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = ProgressBar("a.tif", len(TILES))
    for tile in TILES:
        bar(TileChanged(1.0, tile, "failed"))
    bar.close()
    last = terminal.getvalue().rstrip("\n").split("\r")[-1]
    assert "200/200" in last and "failed=200" in last


def test_nothing_is_drawn_where_nothing_is_wanted(monkeypatch):
    """`progress=False` means it."""
    stream, now = _log(monkeypatch)
    headway = Headway(3, shown=False)
    headway.say("a line")
    now[0] = 60.0
    headway.end(ImageRow("a.png", "complete"))
    headway.close()
    assert stream.getvalue() == ""


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_only_where_somebody_sees_it_a_line_is_drawn_over_itself(monkeypatch):
    """A terminal; a notebook of a server or an editor, which name themselves to their kernels."""
    stream = display.ErrorStream()
    for name in ("JPY_SESSION_NAME", "VSCODE_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stderr", None)
    assert not display.is_live(stream)
    monkeypatch.setattr(sys, "stderr", _Terminal())
    assert display.is_live(stream)
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(sys, "stderr", notebook())
    assert not display.is_live(stream)
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    assert display.is_live(stream)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not display.is_live(stream)


def test_the_shell_says_its_lines_on_whatever_standard_error_there_is(monkeypatch):
    """`sys.stderr` is looked up when something is written, not when it was imported."""
    stream, _ = _log(monkeypatch)
    warn("one")
    assert stream.getvalue() == "tilevision: one\n"


@pytest.mark.skipif(sys.platform == "win32", reason="There are no pseudo-terminals.")
def test_a_terminal_shows_at_once_that_the_package_is_being_loaded() -> None:
    """The line stands there while names are resolved for the first time, and is gone afterwards."""
    import pty

    ours, theirs = pty.openpty()
    code = "import tilevision as tv; tv.analyze; tv.start; tv.plan"
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert shown == f"{display.LOADING}\r\x1b[K"


def test_a_log_is_not_told_that_the_package_is_being_loaded() -> None:
    """Where lines stay, none is written."""
    code = "import tilevision as tv; tv.analyze"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (told.stdout, told.stderr) == (b"", b"")


def test_a_notebook_shows_it_until_the_cell_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has an id, by which it is replaced by nothing: once, by the run or by the cell."""
    IPython = pytest.importorskip("IPython")  # noqa: N806
    shown: list[tuple[str, bool]] = []
    waiting: list[object] = []

    class Handle:
        def update(self, data: dict[str, str], **_: object) -> None:
            shown.append((data["text/html"], True))

    class Events:
        register = staticmethod(lambda _, erase: waiting.append(erase))
        unregister = staticmethod(lambda _, erase: waiting.remove(erase))

    class Shell:
        events = Events()

    def show(data: dict[str, str], **_: object) -> Handle:
        shown.append((data["text/html"], False))
        return Handle()

    monkeypatch.setattr(IPython, "get_ipython", Shell)
    monkeypatch.setattr(IPython.display, "display", show)
    monkeypatch.setattr(display, "is_live", lambda _: True)
    monkeypatch.setattr(display.ErrorStream, "isatty", lambda _: False)
    monkeypatch.setattr(display, "_loading", display._Loading())
    for _ in range(2):
        with display.loading():
            pass
    assert shown == [(f"<em>{display.LOADING}</em>", False)] and len(waiting) == 1
    display.loaded()
    display.loaded()
    assert shown[1:] == [("", True)] and not waiting
