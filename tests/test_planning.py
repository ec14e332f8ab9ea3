"""What a plan costs, and what it leaves as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tilevision as tv
from tilevision.errors import GridError

PICTURE = np.zeros((1200, 1200, 3), np.uint8)


def nothing(pixels: np.ndarray) -> list[Any]:
    """Find nothing."""
    return []


@pytest.fixture(params=[True, False])
def collects(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Have Python's collector as users have it, or as those who have switched it off."""
    (gc.enable if request.param else gc.disable)()
    yield request.param
    gc.enable()


@pytest.mark.parametrize(("grid", "refused"), [(tv.Grid.by_tile(8, 0), False), ("9999x1", True)])
def test_tiles_are_made_without_a_search_for_cycles(
    collects: bool, grid: Any, refused: bool
) -> None:
    """22,500 tiles would set off a hundred; afterwards all is as it was, also after an error."""
    tv.plan(PICTURE, nothing, grid="2x2", checkpoint=None)  # imports what a plan needs
    searches: list[str] = []
    gc.callbacks.append(lambda phase, _: searches.append(phase))
    try:
        tiles: tuple[Any, ...] = ()
        try:
            tiles = tv.plan(PICTURE, nothing, grid=grid, checkpoint=None).tiles
        except GridError:
            assert refused
        assert refused or len(tiles) == 22_500
        assert searches.count("start") < 20  # before and after: the image is opened
        assert gc.isenabled() is collects
    finally:
        gc.callbacks.pop()
