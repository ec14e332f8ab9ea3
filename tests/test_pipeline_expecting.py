"""The cluster that is started ahead of a run: used by it, or ended."""

import threading
from typing import Any

import pytest

import tilevision.cluster
from tilevision.pipeline import runner as expecting
from tilevision.pipeline.planning import resolve_stages
from tilevision.pipeline.settings import Settings

PATIENCE = 200.0


class Shelf:
    """Stands in for the cluster: takes as long to come up as the test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.begun, self.may_end, self.ended = (threading.Event() for _ in range(3))
        self.lacks = True
        monkeypatch.setattr(expecting, "_begun", [])
        monkeypatch.setattr(tilevision.cluster, "expect_cluster", self.expect)
        monkeypatch.setattr(tilevision.cluster, "no_cluster_yet", self.ended.set)
        monkeypatch.setattr(tilevision.cluster, "lacks_cluster", lambda _: self.lacks)

    def expect(self, **asked: Any) -> None:
        """Start as slowly as the test lets it."""
        self.asked.append(asked)
        self.begun.set()
        assert self.may_end.wait(PATIENCE)


def _expect(**given: Any) -> None:
    settings = Settings(model=lambda _: [], checkpoint=None, **given)
    expecting.expect("image.tif", settings, resolve_stages(settings))


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return Shelf(monkeypatch)


def test_a_start_that_is_called_off_is_ended_as_soon_as_it_is_up(shelf: Shelf) -> None:
    """Whoever calls it off does not wait for that."""
    _expect(workers=3)
    assert shelf.begun.wait(PATIENCE)
    expecting.stop_expecting()
    assert not shelf.ended.is_set()
    shelf.may_end.set()
    assert shelf.ended.wait(PATIENCE)
    assert shelf.asked == [{"workers": 3, "usual": None}]


def test_one_start_at_a_time(shelf: Shelf) -> None:
    """A second run finds the first one's; after that is over another may begin."""
    shelf.may_end.set()
    for _ in range(2):
        _expect(workers=1)
    assert shelf.begun.wait(PATIENCE)
    expecting.stop_expecting()
    assert shelf.ended.wait(PATIENCE)
    assert len(shelf.asked) == 1
    shelf.begun.clear()
    _expect(workers=2)
    assert shelf.begun.wait(PATIENCE)
    assert len(shelf.asked) == 2


def test_a_run_that_has_a_cluster_starts_none(shelf: Shelf) -> None:
    """Its own client's, or the one that there is."""
    _expect(client=object())
    shelf.lacks = False
    _expect()
    assert expecting._begun == []
    expecting.stop_expecting()
    assert not shelf.asked and not shelf.ended.is_set()
