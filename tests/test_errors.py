"""Errors cross processes as text and sort into kinds."""

import importlib
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from tilevision import errors
from tilevision.adapters.packing import pack, unpack
from tilevision.errors import Failure


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.Throttled("slow down", retry_after=3), "throttled"),
        (errors.TransientError("later"), "transient"),
        (ValueError("who knows"), "transient"),
        (errors.PermanentError("never"), "permanent"),
        (errors.ModelError("nonsense"), "permanent"),
        (errors.SourceError("damaged"), "permanent"),
        (errors.CheckpointTooLarge("crowded"), "permanent"),
    ],
)
def test_only_what_is_declared_permanent_is_permanent(error: Exception, kind: str) -> None:
    """An unknown error may pass; a declared one says itself."""
    assert Failure.of(error).kind == kind


def test_a_failure_is_one_bounded_line() -> None:
    """A message of many lines and megabytes becomes one short line; Retry-After survives."""
    failure = Failure.of(errors.Throttled("a\n" * 10_000, retry_after=7))
    assert "\n" not in str(failure)
    assert len(failure.message) <= 500
    assert len(failure.traceback) <= 4000
    assert failure.retry_after == 7
    assert pickle.loads(pickle.dumps(failure)) == failure


def test_every_error_is_a_tilevision_error() -> None:
    """One except clause catches all that is raised on purpose."""
    raised = [getattr(errors, name) for name in errors.__all__ if name != "Failure"]
    assert all(issubclass(error, errors.TilevisionError) for error in raised)


class _NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("its author's fault")


class _NumberText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307 - what people do


class _NoRepr(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("its author's fault")


def _noted(notes: object) -> Exception:
    error = ValueError("noted")
    error.__notes__ = notes  # type: ignore[assignment]  # anybody may
    return error


def _chain(length: int) -> Exception:
    error = ValueError("level 0")
    for level in range(1, length):
        error, error.__cause__ = ValueError(f"level {level}"), error
    return error


def _circle() -> Exception:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    return one


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_NoText(), "cannot be read"),
        (_NumberText(), "cannot be read"),
        (_NoRepr("words"), "words"),
        (ValueError(threading.Lock()), "lock"),
        (ValueError(1, _NoRepr("a")), "cannot be read"),
        (_noted(5), "noted"),
        (_noted([5, None]), "noted"),
        (_chain(3000), "level 2999"),
        (_circle(), "one"),
        (ExceptionGroup("many", [ValueError(), ExceptionGroup("in", [OSError()])]), "many"),
        (BaseExceptionGroup("base", [KeyboardInterrupt(), SystemExit(3)]), "base"),
        (ValueError("x" * 5_000_000), "xxx"),
        (ValueError("half \udce9"), "half %E9"),
        (SystemExit("bye"), "bye"),
    ],
)
def test_any_error_says_what_it_is_and_where_it_came_from(error: Any, words: str) -> None:
    """Whatever its author made of it: class, words and line, all bounded and plain text."""
    try:
        raise error  # noqa: TRY301 - its place is looked for
    except BaseException as raised:
        failure = Failure.of(raised)
    assert failure.error == type(error).__name__
    assert words in failure.message
    assert "test_any_error_says" in failure.traceback
    assert len(failure.message) <= 500 and len(failure.traceback) <= 2000
    assert pickle.loads(pickle.dumps(failure)) == failure
    str(failure).encode()


def test_an_error_of_a_function_that_travelled_names_its_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code of one's own modules travels by value, of which cloudpickle drops the file."""
    name = f"mine_{tmp_path.name}".replace("-", "_")
    source = tmp_path / f"{name}.py"
    source.write_text(
        "def helper(row):\n    return row['box']\n\n\nmodel = lambda px: helper({})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    travelled = unpack(pack(importlib.import_module(name).model, "mine"))
    with pytest.raises(KeyError) as raised:
        travelled(None)
    where = Failure.of(raised.value).traceback
    assert f'File "{source}", line 2, in helper\n    return row[' in where
    assert f'File "{source}", line 5' in where
