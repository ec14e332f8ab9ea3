"""The vectors of a result: an array that is read as it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunError
from tilevision.findings import TileFindings
from tilevision.grid import Tile
from tilevision.payloads import ArrayStore, PayloadRef, StoredArray, little

__all__ = ["Embeddings", "embeddings_of"]

_BLOCK = 8 * 2**20  # bytes that are read at once


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
        step = self._step
        for start in range(0, len(self), step):
            yield from self[start : start + step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("The vectors are read from files, which makes a copy; leave copy out.")
        whole = np.empty(self.shape, dtype=self.dtype if dtype is None else dtype)
        for start in range(0, len(self), self._step):
            whole[start : start + self._step] = self[start : start + self._step]
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
        for start in range(0, len(rows), self._step):
            few = rows[start : start + self._step]
            yield few, self._read(few)

    @property
    def _step(self) -> int:
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
