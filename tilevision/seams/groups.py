"""Groups of detections that are views of one object; never two of one tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["group"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


def group(n: int, tile: Index, a: Index, b: Index, alike: Floats) -> Index:
    """Return the number ``(n,)`` of the object that each of the matched detections shows.

    Where matches would chain two detections of one tile into one object, the matches
    that are most alike are kept and those that would close the chain dropped.

    Parameters
    ----------
    n : int
        Number of detections.
    tile : array (n,) of int
        The tile each comes from.
    a, b, alike : array (e,)
        Matched detections and how alike they are.

    Returns
    -------
    array (n,) of int
        Numbers from 0, in the order of each object's first detection.
    """
    number = _components(n, a, b)
    tiles = int(tile.max(initial=0)) + 1
    seen = np.sort(number * tiles + tile)
    twice = seen[1:][seen[1:] == seen[:-1]]
    if not len(twice):
        return _by_first(number)
    torn = np.zeros(n, dtype=bool)
    torn[twice // tiles] = True
    inside = torn[number[a]]
    fine = ~inside
    kept = _without_conflict(tile, a[inside], b[inside], alike[inside])
    keep = np.concatenate([np.flatnonzero(fine), np.flatnonzero(inside)[kept]])
    return _by_first(_components(n, a[keep], b[keep]))


def _components(n: int, a: Index, b: Index) -> Index:
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _by_first(number: Index) -> Index:
    first = np.empty(number.max(initial=-1) + 1, dtype=np.int64)
    first[number[::-1]] = np.arange(len(number))[::-1]  # the last one written stays
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[number]


def _without_conflict(tile: Index, a: Index, b: Index, alike: Floats) -> Index:
    """Return the matches kept, the most alike first, as far as no tile is in a group twice."""
    parent: dict[int, int] = {}
    tiles: dict[int, set[int]] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    kept = []
    for edge in np.lexsort((b, a, -alike)).tolist():
        one, two = root(int(a[edge])), root(int(b[edge]))
        if one == two:
            kept.append(edge)
            continue
        mine = tiles.setdefault(one, {int(tile[one])})
        theirs = tiles.setdefault(two, {int(tile[two])})
        if mine.isdisjoint(theirs):
            parent[two] = one
            mine |= theirs
            kept.append(edge)
    return np.array(sorted(kept), dtype=np.int64)
