"""Arguments are checked before anything is opened."""

from typing import Any

import pytest

from tilevision.errors import RunError
from tilevision.pipeline.settings import Settings


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("workers", 0),
        ("workers", -1),
        ("workers", 1.5),
        ("workers", True),
        ("concurrency", 0),
        ("batch_size", "4"),
        ("timeout", 0),
        ("timeout", "soon"),
        ("max_failures", -1),
        ("min_score", 2),
        ("device", "gpu"),
        ("device", 0),
        ("retry", 3),
        ("quota", 10),
        ("merge", "magic"),
        ("checkpoint", ""),
    ],
)
def test_nonsense_is_one_line_naming_the_argument(name: str, bad: Any) -> None:
    """What is wrong, with which argument, and what it takes."""
    with pytest.raises(RunError) as caught:
        Settings("blobs", **{name: bad})
    assert name.partition("_")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_workers_and_client_exclude_each_other() -> None:
    """A user's cluster has the workers it has."""
    with pytest.raises(RunError, match="client="):
        Settings("blobs", workers=2, client=object())


def test_one_class_may_be_given_as_text() -> None:
    """``classes="car"`` means the class, not its letters."""
    assert Settings("blobs", classes="car").merging().classes == ("car",)
