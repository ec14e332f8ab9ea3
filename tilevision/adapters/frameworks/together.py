"""Tiles of one batch in one call of a library, where it says of them what it says of each alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import thread_time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tilevision.findings import Findings
from tilevision.modelspec import ModelSpec, is_out_of_memory
from tilevision.rasterspec import Raster

__all__ = ["PIXELS", "SCORES", "NetworkInput", "Together", "alike"]

PIXELS = 0.1  # by which corners may differ
SCORES = 1e-3  # by which scores may, and numbers of a vector in proportion to its length,
# classes of pixels as a share of them; shares of a map by a step
HALF = 20  # times as much in half precision
TRIED = 2  # tiles to a trial: each is asked about twice
TRIALS = 5  # that may find nothing before nothing is taken for agreement
WATCHED = 2  # larger calls, whose time is looked at as well: two tiles do not tell what more take


class NetworkInput(NamedTuple):
    """A tile, and what a network is given of it.

    Parameters
    ----------
    tile : ndarray
    values : object
    ratio : float
        Pixels of `values` per pixel of the tile.
    """

    tile: NDArray[Any]
    values: Any
    ratio: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tile."""
        return self.tile.shape


class Together:
    """Asks a library about the tiles of a batch at once, or one by one where it must be.

    Tiles of different sizes share no call: libraries fill up the smaller ones, and see more of them
    than there is. Whether tiles that do share one keep their answers is tried on the first two. So
    is, on a processor, which way takes less time.

    Parameters
    ----------
    one : callable
        ``one(tile)``: the `Findings` of a tile, or what `read` makes them of. A tile may be
        `NetworkInput`.
    many : callable or None
        ``many(tiles)``: those of tiles of one shape, in their order. None: there is no such way.
    measure : bool
        Whether the way that takes less of the processor is taken; False: one call, if it gives the
        same.
    half : bool
        Whether the network computes in half precision.
    read : callable, optional
        Makes `Findings` of an answer. None: it is some.
    """

    def __init__(
        self,
        one: Callable[[Any], Any],
        many: Callable[[list[Any]], list[Any]] | None,
        *,
        measure: bool = True,
        half: bool = False,
        read: Callable[[Any], Findings] | None = None,
    ) -> None:
        self._read = read
        self._one = one
        self._many = many
        self._measure = measure
        self._slack = HALF if half else 1
        self._left = TRIALS
        self._seconds = [0.0, 0.0]
        self._single = np.inf  # seconds of the quickest tile alone
        self._watched: list[float] = []  # seconds a tile of larger calls

    @classmethod
    def of(
        cls, spec: ModelSpec, on_device: bool, one: Any, many: Any, read: Any = None
    ) -> Together:
        """Return one for a model on a device or on a processor."""
        half = bool(spec.params.get("half"))
        return cls(one, many, measure=not on_device, half=half, read=read)

    def __call__(self, tiles: Sequence[Any]) -> list[Any]:
        """Return the answers for tiles ``(h, w, c)``, in their order."""
        found: dict[int, Any] = {}
        for shape in dict.fromkeys(tile.shape for tile in tiles):
            rows = [row for row, tile in enumerate(tiles) if tile.shape == shape]
            found.update(zip(rows, self._alike([tiles[row] for row in rows]), strict=True))
        return [found[row] for row in range(len(tiles))]

    def _alike(self, tiles: list[Any]) -> list[Any]:
        tried: list[Any] = []
        if self._left and self._many is not None and len(tiles) >= TRIED:
            tried, tiles = self._trial(tiles[:TRIED]), tiles[TRIED:]
        if self._many is None or self._left or len(tiles) < 2:
            return tried + [self._one(tile) for tile in tiles]
        return tried + self._watch(self._many, tiles)

    def _watch(self, many: Callable[[list[Any]], list[Any]], tiles: list[Any]) -> list[Any]:
        """Call for several tiles; once the quickest such call was slower, for one at a time."""
        if not self._measure or len(self._watched) == WATCHED or len(tiles) <= TRIED:
            return many(tiles)
        began = thread_time()
        answers = many(tiles)
        self._watched.append((thread_time() - began) / len(tiles))
        if len(self._watched) == WATCHED and min(self._watched) > self._single:
            self._many = None
        return answers

    def _trial(self, tiles: list[Any]) -> list[Any]:
        """Ask both ways, and return the answers of each tile alone."""
        assert self._many is not None
        alone, times = [], [thread_time()]
        for tile in tiles:
            alone.append(self._one(tile))
            times.append(thread_time())
        try:
            both = self._many(tiles)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._many = None  # it takes one at a time
            return alone
        # The first call of all may have something to prepare: the quickest stands for each.
        single, both_took = len(tiles) * min(np.diff(times).tolist()), thread_time() - times[-1]
        if self._measure and both_took > single:
            began = thread_time()
            self._many(tiles)
            both_took = min(both_took, thread_time() - began)
        self._single = min(self._single, single / len(tiles))
        self._seconds[0] += single
        self._seconds[1] += both_took
        told, again = self._told(alone), self._told(both)
        same = len(told) == len(again) and all(
            alike(*pair, self._slack) for pair in zip(told, again, strict=True)
        )
        if not same:
            self._many = None
            return alone
        nothing = not any(_says(one) for one in told)
        self._left = self._left - 1 if nothing else 0
        if not self._left and self._measure and self._seconds[1] > self._seconds[0]:
            self._many = None
        return alone

    def _told(self, answers: list[Any]) -> list[Findings]:
        return answers if self._read is None else [self._read(one) for one in answers]


def _says(one: Findings) -> bool:
    whole = one.embedding is not None or one.raster is not None
    return bool(len(one) or one.tile_scores or whole)


def alike(one: Findings, other: Findings, slack: float = 1.0) -> bool:
    """Return True if two answers are the same but for what arithmetic in another order makes.

    Parameters
    ----------
    one, other : Findings
    slack : float
        Times `PIXELS` and `SCORES` by which they may differ.
    """
    if len(one) != len(other) or set(one.tile_scores or ()) != set(other.tile_scores or ()):
        return False
    scores = SCORES * slack
    for name, score in (one.tile_scores or {}).items():
        if abs(score - (other.tile_scores or {})[name]) > scores:
            return False
    if (one.embedding is None) != (other.embedding is None):
        return False
    if one.embedding is not None and other.embedding is not None:
        first, second = (np.asarray(each.embedding, np.float64) for each in (one, other))
        if first.shape != second.shape:
            return False
        return float(np.linalg.norm(first - second)) <= scores * float(np.linalg.norm(first))
    return _same_map(one.raster, other.raster, slack) and _paired(one, other, slack)


def _same_map(one: Raster | None, other: Raster | None, slack: float) -> bool:
    """Return True if two maps differ by no more than a step, or in a few pixels of near ties."""
    if one is None or other is None:
        return one is other
    if one.spec != other.spec or one.kept.shape != other.kept.shape:
        return False
    if one.spec.kind == "classes":
        return float((one.kept != other.kept).mean()) <= SCORES * slack
    first, second = (each.kept.astype(np.float64) for each in (one, other))
    most = slack
    if one.spec.kind == "values" and one.spec.precision is None:
        span = np.ptp(first[np.isfinite(first)]) if np.isfinite(first).any() else 0.0
        most = SCORES * slack * max(float(span), 1e-9)
    apart = np.abs(first - second)
    gaps = np.isnan(first) != np.isnan(second)
    return not gaps.any() and bool((np.nan_to_num(apart) <= most).all())


def _paired(one: Findings, other: Findings, slack: float) -> bool:
    """Return True if each detection has one beside it of its class, score and place."""
    if not len(one):
        return True
    away = np.abs(one.boxes[:, None] - other.boxes[None]).max(axis=2) / (PIXELS * slack)
    scores = np.abs(np.nan_to_num(one.scores)[:, None] - np.nan_to_num(other.scores)[None])
    away = np.maximum(away, scores / (SCORES * slack))
    away[one.labels[:, None] != other.labels[None]] = np.inf
    return bool((away.min(axis=1) <= 1).all() and (away.min(axis=0) <= 1).all())
