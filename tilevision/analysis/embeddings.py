"""The vectors of a result: an array that is read as it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.checks import whole
from tilevision.errors import RunArgumentError, RunError
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.payloads import ArrayStore, PayloadRef, StoredArray, little

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METRICS", "Embeddings", "embeddings_of", "row_of", "similar"]

METRICS = ("cosine", "euclidean")
_BLOCK = 4 * 2**20  # bytes that are read at once
_THREADS = 2
_TINY = 1e-30  # squared lengths of single precision below it are none
_SLACK = 1e-4  # by which a score in single precision may be wrong: of those near, all are looked at


def embeddings_of(tiles: Sequence[Tile], found: Sequence[TileFindings]) -> Embeddings | None:
    """Return the vectors of `tiles`; None where no tile has one.

    Raises
    ------
    RunError
        If they differ in width or type.
    """
    stored = {one.tile: one.vector for one in found if one.vector is not None}
    if not stored:
        return None
    kinds = sorted({(one.ref.dtype, one.ref.shape) for one in stored.values()})
    if len(kinds) > 1:
        told = " and ".join(f"{shape[0]:,} numbers ({dtype})" for dtype, shape in kinds[:3])
        raise RunError(
            f"The tiles of this result have vectors of {told}, which are no one array; run each "
            "encoder by itself."
        )
    return Embeddings(tiles, stored)


class Embeddings:
    """The vectors of the tiles, ``(tiles, d)``: row i is that of row i of `Result.tiles`.

    Rows are read from the checkpoint's side files when they are asked for:
    ``result.embeddings[3]``, ``[10:20]``, ``[[4, 1]]``, or by a mask of the tiles;
    ``np.asarray(result.embeddings)`` reads all. Rows of tiles without a vector (failed, skipped,
    not yet run) are NaN. Reading a damaged one raises `CheckpointCorrupt`.

    Attributes
    ----------
    shape : tuple of int
        Tiles, and numbers of a vector.
    dtype : numpy.dtype
        float16 or float32.
    present : array (tiles,) of bool
        Which tiles have a vector.
    """

    ndim = 2

    def __init__(self, tiles: Sequence[Tile], stored: Mapping[Tile, StoredArray]) -> None:
        mine = [stored.get(tile) for tile in tiles]
        self.present: NDArray[np.bool_] = np.array([one is not None for one in mine], dtype=bool)
        self._digests = [None if one is None else one.ref.digest for one in mine]
        first = next(one for one in mine if one is not None)
        self._ref: PayloadRef = first.ref
        self._store: ArrayStore = first.store
        self.dtype: np.dtype[Any] = np.dtype(self._ref.dtype)
        self.shape: tuple[int, int] = (len(mine), self._ref.shape[0])
        self._squares: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        missing = len(self) - int(self.present.sum())
        lack = f"; {missing:,} tiles without one are NaN" if missing else ""
        return f"<Embeddings {self.shape[0]:,} × {self.shape[1]:,} {self.dtype.name}{lack}>"

    @property
    def nbytes(self) -> int:
        """How many bytes the whole array has."""
        return self.shape[0] * self._ref.size

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, further = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        asked = np.arange(len(self))[rows]
        found = self._read(np.atleast_1d(asked))
        whole = found[0] if asked.ndim == 0 else found
        return whole[(..., *further)] if further else whole

    def __iter__(self) -> Iterator[NDArray[Any]]:
        step = self.step
        for start in range(0, len(self), step):
            yield from self[start : start + step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("The vectors are read from files, which makes a copy; leave copy out.")
        whole = np.empty(self.shape, dtype=self.dtype if dtype is None else dtype)
        for start in range(0, len(self), self.step):
            whole[start : start + self.step] = self[start : start + self.step]
        return whole

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Yield all vectors that are there in the order in which they are best read.

        Yields
        ------
        rows : array (n,) of int
            Of `Result.tiles`.
        vectors : array (n, d)
        """
        rows = np.flatnonzero(self.present)
        rows = rows[self._store.order([self._digest(row) for row in rows.tolist()])]
        for start in range(0, len(rows), self.step):
            few = rows[start : start + self.step]
            yield few, self._read(few)

    def squares(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared lengths of the vectors of `rows`: worked out once."""
        if self._squares is None:
            self._squares = np.full(len(self), np.nan, dtype=np.float32)
        known = self._squares[rows]
        if np.isnan(known).any():
            known = self._squares[rows] = np.einsum("ij,ij->i", vectors, vectors)
        return known

    @property
    def step(self) -> int:
        """How many vectors are read at once."""
        return max(1, _BLOCK // self._ref.size)

    def _digest(self, row: int) -> bytes:
        digest = self._digests[row]
        assert digest is not None  # asked only of those that are present
        return digest

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        there = self.present[rows]
        raw = self._store.gather(
            [self._digest(row) for row in rows[there].tolist()], self._ref.size
        )
        vectors: NDArray[Any] = raw.view(little(self._ref.dtype)).astype(self.dtype, copy=False)
        if there.all():
            return vectors
        found = np.full((len(rows), self.shape[1]), np.nan, dtype=self.dtype)
        found[there] = vectors
        return found


def similar(
    embeddings: Embeddings, tiles: Sequence[Tile], what: Any, k: int = 20, metric: str = "cosine"
) -> pd.DataFrame:
    """Return the tiles whose vectors are nearest; see `Result.similar`."""
    import pandas as pd

    if metric not in METRICS:
        raise RunArgumentError(f"metric is {metric!r:.40}; give {' or '.join(METRICS)}.")
    whole(f"k of {what!r:.40}", k, RunArgumentError)
    query, own = _asked(embeddings, tiles, what)
    if metric == "cosine" and not query.any():
        raise RunArgumentError(
            "The vector is zero, which has no direction; give metric='euclidean'."
        )
    rows = _candidates(embeddings, query, k + 1, metric)
    step = embeddings.step
    exact = np.concatenate(
        [
            _nearness(embeddings[rows[start : start + step]].astype(np.float64), query, metric)
            for start in range(0, len(rows), step)  # thousands, where tiles are alike
        ]
    )
    order = [i for i in np.lexsort((rows, -exact)) if rows[i] != own and np.isfinite(exact[i])][:k]
    chosen = [tiles[rows[i]] for i in order]
    columns: dict[str, Any] = {"id": [tile.id for tile in chosen]}
    for side, name in zip(("xmin", "ymin", "xmax", "ymax"), ("x0", "y0", "x1", "y1"), strict=True):
        columns[side] = np.array([getattr(tile.box, name) for tile in chosen], dtype=np.float64)
    found = exact[order]
    name, values = ("similarity", found) if metric == "cosine" else ("distance", np.sqrt(-found))
    columns[name] = values
    return pd.DataFrame(columns)


def _asked(
    embeddings: Embeddings, tiles: Sequence[Tile], what: Any
) -> tuple[NDArray[np.float64], int]:
    """Return the vector that is asked about, and the row of its tile (-1: it is of none)."""
    if isinstance(what, str):
        row = row_of(embeddings, tiles, what)
        return embeddings[row].astype(np.float64), row
    try:
        query = np.asarray(what, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        query = np.empty(0)
    if len(query) != embeddings.shape[1] or not np.isfinite(query).all():
        raise RunArgumentError(
            f"Similar to {what!r:.40}: give the id of a tile, or a vector of "
            f"{embeddings.shape[1]:,} finite numbers."
        )
    return query, -1


def row_of(embeddings: Embeddings, tiles: Sequence[Tile], tile_id: str) -> int:
    """Return the row of a tile that has a vector.

    Raises
    ------
    RunArgumentError
        If there is no such tile, or it has none.
    """
    row = next((i for i, tile in enumerate(tiles) if tile.id == tile_id), -1)
    if row < 0:
        raise RunArgumentError(
            f"There is no tile {tile_id!r:.40}; result.tiles lists them, as {tiles[0].id!r}."
        )
    if not embeddings.present[row]:
        raise RunArgumentError(f"Tile {tile_id} has no vector: it failed, or was skipped.")
    return row


def _nearness(vectors: NDArray[Any], query: NDArray[Any], metric: str) -> NDArray[Any]:
    """Return what is larger for nearer vectors: the cosine, or minus the distance squared."""
    if metric == "euclidean":
        return np.asarray(-np.square(vectors - query).sum(axis=1))
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    with np.errstate(invalid="ignore", divide="ignore"):  # of a zero vector, which is near nothing
        # Row by row in one order of sums: equal vectors are equally near.
        products = np.einsum("ij,j->i", vectors, query)
        return np.asarray(products / (lengths * np.linalg.norm(query)))


def _candidates(
    embeddings: Embeddings, query: NDArray[np.float64], k: int, metric: str
) -> NDArray[np.int64]:
    """Return the rows that may be among the `k` nearest, by a pass in single precision."""
    asked = query.astype(np.float32)
    with np.errstate(over="ignore"):
        squared = np.float32(query @ query)
    length = np.float32(np.linalg.norm(query))

    def near(block: tuple[NDArray[np.int64], NDArray[Any]]) -> NDArray[np.float32]:
        rows, vectors = block
        wide = vectors.astype(np.float32)
        squares = embeddings.squares(rows, wide)
        # Not @: the threads of a matrix library would wait for each other, and burn both cores.
        products = np.einsum("ij,j->i", wide, asked)
        with np.errstate(all="ignore"):
            if metric == "cosine":
                score = products / (np.sqrt(squares) * length)
                score[squares < _TINY] = np.nan
            else:
                score = 2 * products - squares - squared
        # What single precision cannot say is looked at in double.
        return np.where(np.isfinite(score), score, np.float32(np.inf))

    with ThreadPoolExecutor(_THREADS) as pool:
        order, scores = [], []
        for (rows, _), found in _ahead(pool, near, embeddings.blocks()):
            order.append(rows)
            scores.append(found)
    rows, score = np.concatenate(order), np.concatenate(scores)
    if len(rows) <= k:
        return np.asarray(rows)
    known = score[np.isfinite(score)]
    if len(known) <= k:
        return np.asarray(rows)
    least = np.partition(known, -k)[-k]
    slack = _SLACK * (1 if metric == "cosine" else float(squared + np.abs(least)) + 1)
    return np.asarray(rows[score >= least - slack])


def _ahead(pool: ThreadPoolExecutor, work: Any, items: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield items with what `work` makes of them, in order; a few are under way, not all."""
    waiting: deque[tuple[Any, Any]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) > _THREADS:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()
