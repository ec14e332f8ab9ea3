"""Arguments are checked before anything is opened."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from PIL import Image

import tilevision as tv
from tilevision import checks
from tilevision.batch.imagenames import label_of
from tilevision.errors import GridArgumentError, GridError, RunError, TilevisionError
from tilevision.grid import Grid
from tilevision.pipeline.settings import Delivery, Execution, Settings, Subject
from tilevision.result import Result
from tilevision.schedule import Policy, Quota, Retry

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("workers", 0),
        ("workers", -1),
        ("workers", 1.5),
        ("workers", True),
        ("workers", 32 * (os.cpu_count() or 1) + 1),
        ("concurrency", 0),
        ("batch_size", "4"),
        ("timeout", 0),
        ("timeout", "soon"),
        ("timeout", INFINITE),
        ("timeout", float("nan")),
        ("timeout", True),
        ("budget", INFINITE),
        ("budget", "1 EUR"),
        ("max_failures", 1.5),
        ("max_failures", INFINITE),
        ("max_failures", True),
        ("max_failures", "half"),
        ("min_score", float("nan")),
        ("min_score", "high"),
        ("classes", 3),
        ("classes", [3]),
        ("classes", b"car"),
        ("full_image", "no"),
        ("reuse", "no"),
        ("strict", 1),
        ("progress", "bar"),
        ("report", 3),
        ("checkpoint", True),
        ("max_failures", -1),
        ("min_score", 2),
        ("max_score", -0.1),
        ("min_area", -1),
        ("max_area", "large"),
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
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).endswith(".")
    assert name.partition("_")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


ODD: list[Any] = [
    *([], {}, (), set(), [1], {"a": 1}, ["x"], [[]], {1, 2}, (1, 2), range(3), [None]),
    *(0, -1, 5, 0.5, 1e300, 10**30, INFINITE, float("nan"), 1 + 2j, True, None, np.float32(2)),
    *("", "x", "\0", "é" * 300, b"x", object(), np.array([1, 2]), len),
]


def _in_words(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.20}"


@pytest.mark.parametrize("bad", ODD, ids=_in_words)
def test_no_argument_of_any_type_is_a_traceback(bad: Any, elsewhere: Path) -> None:
    """It is taken, or refused in one line: also what cannot be hashed, compared or gone through."""
    Image.new("RGB", (60, 40)).save("a.png")
    fine = {"image": "a.png", "model": "blobs", "checkpoint": None}
    for name in signature(tv.plan).parameters:
        with suppress(tv.TilevisionError):
            tv.plan(**(fine | {name: bad}))
    for name in signature(Grid.by_tile).parameters:
        with suppress(tv.TilevisionError):
            Grid.by_tile(**({"tile": 640} | {name: bad}))
    for name in signature(tv.merge).parameters:
        with suppress(tv.TilevisionError):
            tv.merge(**({"tile_findings": []} | {name: bad}))
    for name in signature(tv.open_source).parameters:
        with suppress(tv.TilevisionError):
            tv.open_source(**({"image": "a.png"} | {name: bad}))


def test_workers_and_client_exclude_each_other() -> None:
    """A user's cluster has the workers it has."""
    with pytest.raises(RunError, match="client="):
        Settings("blobs", workers=2, client=object())


def test_one_class_may_be_given_as_text() -> None:
    """``classes="car"`` means the class, not its letters."""
    assert Settings("blobs", classes="car").merging().classes == ("car",)


@pytest.mark.parametrize(
    "given",
    [
        {"timeout": 0.5, "max_failures": 0.1, "concurrency": 3, "batch_size": 2},
        {"timeout": 3, "max_failures": 4},
        {"max_failures": 4.0},
        {"concurrency": np.int64(3), "timeout": np.float32(1.5), "max_failures": np.int16(2)},
    ],
)
def test_what_settings_accept_the_policy_accepts(given: dict[str, Any]) -> None:
    """No argument that `start` lets through stops the run later, in its own thread."""
    settings = Settings("blobs", **given)
    policy = Policy(**{name: getattr(settings, name) for name in given})
    assert policy.failure_limit(1000) in (None, 100, 4, 2)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (Retry, {"attempts": 1.5}),
        (Retry, {"attempts": "3"}),
        (Retry, {"wait": "1"}),
        (Retry, {"max_wait": INFINITE}),
        (Retry, {"wait": 3, "max_wait": 2}),
        (Quota, {"concurrency": 1.5}),
        (Quota, {"concurrency": "4"}),
        (Quota, {"per_minute": INFINITE}),
        (Quota, {"per_minute": "60"}),
    ],
)
def test_retry_and_quota_refuse_nonsense_in_one_line(kind: Any, bad: dict[str, Any]) -> None:
    """They are made by the user too: a wrong type is no TypeError from within."""
    with pytest.raises(RunError) as caught:
        kind(**bad)
    assert isinstance(caught.value, ValueError)
    assert kind.__name__ in str(caught.value)


def test_each_argument_is_in_one_group() -> None:
    """Subject, execution and delivery share no name, and a manifest holds what they say."""
    groups = [{one.name for one in fields(group)} for group in (Subject, Execution, Delivery)]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert set().union(*groups) == {one.name for one in fields(Settings)}
    for group, names in zip((Subject, Execution, Delivery), groups, strict=True):
        assert names.issuperset(group.RECORDED)
    assert Settings("blobs", workers=2).recorded(Execution)["workers"] == 2


def test_a_check_raises_the_kind_that_its_caller_names() -> None:
    """An error stays the class that callers catch, and is a ValueError besides."""
    with pytest.raises(GridError, match=r"^min_tile is 'x'; give a whole number of 2 or more\.$"):
        checks.whole("min_tile", "x", GridArgumentError, least=2)
    assert checks.whole("n", np.uint8(3)) == 3 and type(checks.whole("n", np.uint8(3))) is int
    assert checks.share("s", 1) == 1
    with pytest.raises(ValueError, match="above 0"):
        checks.share("s", 0.0, zero=False)


def test_start_analyze_and_plan_take_what_settings_hold() -> None:
    """One list of arguments with one set of defaults; what each returns is in its own help."""
    held = {one.name: one for one in signature(Settings).parameters.values()}
    for verb, returned in ((tv.start, tv.Run), (tv.analyze, Result), (tv.plan, tv.Plan)):
        taken = {one.name: one for one in signature(verb).parameters.values()}
        assert [*taken][:2] == ["image", "model"]
        del taken["image"]
        assert taken.keys() == held.keys()
        for name in held.keys() - {"model", "retry"}:
            assert taken[name].default == held[name].default, name
        assert get_type_hints(verb)["return"] is returned
        assert signature(verb).return_annotation == returned.__name__


def test_no_argument_of_start_is_lost_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each argument arrives in `Settings` under its own name."""
    from tilevision.pipeline import api

    seen: list[Any] = []
    monkeypatch.setattr(api, "launch", lambda image, settings: seen.append((image, settings)))
    given: dict[str, Any] = {
        "model": "blobs",
        "grid": "2x3",
        "resolution": 0.5,
        "full_image": True,
        "mpp": 0.25,
        "region": "tissue",
        "min_score": 0.125,
        "max_score": 0.875,
        "min_area": 2.0,
        "max_area": 3.0,
        "classes": ["a"],
        "moderation": "limits",
        "synthesis": None,
        "merge": "nms",
        "class_agnostic": True,
        "match_metric": "ios",
        "match_threshold": 0.25,
        "blend": "core",
        "margin": 4,
        "thresholds": {"a": 0.25},
        "unsure": 0.5,
        "checkpoint": "elsewhere",
        "client": None,
        "workers": 3,
        "concurrency": 5,
        "batch_size": 7,
        "device": "cpu",
        "retry": Retry(9),
        "quota": Quota(11),
        "timeout": 13.0,
        "max_failures": 17,
        "budget": 19.0,
        "reuse": False,
        "strict": True,
        "progress": False,
        "report": None,
    }
    tv.start("scan.tif", **given)
    ((image, settings),) = seen
    assert image == "scan.tif"
    assert given == {one.name: getattr(settings, one.name) for one in fields(Settings)}


@pytest.mark.parametrize("odd", ["x" * 300, "~nosuchuser/x", "a\0b", "half \ud83d", 5, None])
def test_what_can_be_no_path_is_one_line(odd: Any, elsewhere: Path) -> None:
    """Wherever a path is taken: too long for the system, of no user, no text at all."""
    picture = np.zeros((40, 40, 3), dtype=np.uint8)
    calls: dict[str, Callable[[], object]] = {
        "model": lambda: tv.model(odd),
        "image": lambda: tv.plan(odd, "blobs", checkpoint=None),
        "runs": lambda: tv.runs(odd),
        "recipe": lambda: tv.recipe(odd),
        "path": lambda: checks.path("path", odd),
    }
    if odd is not None:  # else there is none
        calls["region"] = lambda: tv.plan(picture, "blobs", checkpoint=None, region=odd)
        calls["checkpoint"] = lambda: tv.plan(picture, "blobs", checkpoint=odd)
    if isinstance(odd, str):
        assert isinstance(label_of(odd), str)  # many images tell of a bad one, and go on
    for name, call in calls.items():
        with pytest.raises(TilevisionError) as raised:
            call()
        assert len(str(raised.value).splitlines()) == 1, name
        assert str(raised.value).endswith("."), name
