"""What a model printed reaches the user where it failed."""

from __future__ import annotations

import io
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilevision as tv
from tilevision.printed import HEADING, noting_what_is_printed


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


@noting_what_is_printed()
def _fail(*texts: str, error: BaseException | None = None) -> None:
    for text in texts:
        print(text)
    raise error or ValueError("no")


def _failing(*texts: str, error: BaseException | None = None) -> BaseException:
    with pytest.raises(ValueError, match="no") as raised:
        _fail(*texts, error=error)
    return raised.value


def test_the_last_lines_become_a_note_and_are_printed_as_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Six lines at most, of 600 characters, in order."""
    error = _failing(*(f"line {number}" for number in range(20)))
    assert _notes(error) == [HEADING + "\n".join(f"line {n}" for n in range(14, 20))]
    assert capsys.readouterr().out.splitlines() == [f"line {n}" for n in range(20)]
    (note,) = _notes(_failing("x" * 10_000))
    assert len(note) == len(HEADING) + 600


def test_standard_error_and_log_lines_count() -> None:
    """Whatever of Python's writes to either stream."""
    handlers = []

    @noting_what_is_printed()
    def load() -> None:
        print("careful", file=sys.stderr)
        handlers.append(logging.StreamHandler())
        handlers[0].emit(logging.makeLogRecord({"msg": "weights loaded"}))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as raised:
        load()
    assert _notes(raised.value) == [HEADING + "careful\nweights loaded"]
    handlers[0].emit(logging.makeLogRecord({"msg": "later"}))  # it holds the stream for ever


def test_a_progress_bar_is_its_last_state() -> None:
    """What was written over is not repeated."""
    assert _notes(_failing("\r10%\r50%\r90%")) == [HEADING + "90%"]


def test_silence_adds_nothing_and_the_users_own_notes_stay() -> None:
    """An error that comes again keeps one note, of its last time."""
    error = ValueError("no")
    error.add_note("try again")
    for text in ("first", "second"):
        _failing(text, error=error)
    assert _notes(error) == ["try again", HEADING + "second"]
    assert _notes(_failing()) == []


def test_threads_are_told_apart_and_the_streams_come_back() -> None:
    """What a neighbour prints belongs to the neighbour; afterwards nothing is in between."""
    before, meet = sys.stdout, threading.Barrier(2)
    errors: dict[str, BaseException] = {}

    @noting_what_is_printed()
    def say(name: str) -> None:
        meet.wait()
        print(f"I am {name}")
        meet.wait()
        raise ValueError(name)

    def work(name: str) -> None:
        try:
            say(name)
        except ValueError as error:
            errors[name] = error

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: _notes(error) for name, error in errors.items()} == {
        name: [f"{HEADING}I am {name}"] for name in ("a", "b")
    }
    assert sys.stdout is before


def test_no_stream_or_one_of_the_users_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services have no standard output; a model may redirect its own."""
    monkeypatch.setattr(sys, "stdout", None)
    assert _notes(_failing("unheard")) == []
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)
    _failing("heard")
    assert own.getvalue() == "heard\n"
    assert sys.stdout is own


@pytest.mark.slow
def test_a_failed_tile_says_what_its_model_printed(cluster: None, elsewhere: Path) -> None:
    """In `Result.failed`, and in the journal, with secrets masked."""

    def look(pixels: Any) -> Any:
        print("loading anchors from anchors.txt")
        print("api_key=sk-abcdefghijklmnopqrstuvwxyz123456")
        raise KeyError("anchors")

    result = tv.analyze(
        np.zeros((64, 64, 3), np.uint8), look, grid=64, retry=tv.Retry(attempts=1), progress=False
    )
    (details,) = result.failed["details"]
    assert "KeyError: 'anchors'" in details
    assert "Printed before it failed:\nloading anchors from anchors.txt" in details
    (journal,) = Path(".tilevision/runs").glob("*.jsonl")
    kept = journal.read_text()
    assert "loading anchors" in kept
    assert "sk-abcdefghij" not in kept + details
