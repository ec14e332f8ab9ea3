"""Errors cross processes as text and sort into kinds."""

import pickle

import pytest

from tilevision import errors
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
