"""Tiles grouped by what they look like, and laid out on a plane: with scikit-learn, on vectors.

Vectors are compared by their directions, as `Result.similar` does: each is divided by its length.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.checks import whole
from tilevision.errors import RunArgumentError, RunError
from tilevision.grid import Tile

if TYPE_CHECKING:
    import pandas as pd

    from tilevision.analysis.embeddings import Embeddings

__all__ = ["MAPS", "clusters", "directions", "flat_map", "needs_sklearn", "spread"]

MAPS = ("pca", "tsne")
_SAMPLE = 20_000  # tiles, evenly spread, that the principal components are worked out from
_COMPONENTS = 50
_MOST_CLUSTERS = 100
_LEAST_TSNE = 3  # tiles that differ: fewer have a place each by PCA, and t-SNE adds nothing
_MOST_TSNE = 20_000  # tiles; more take hours
_SEED = 0


def clusters(embeddings: Embeddings, tiles: Sequence[Tile], k: int) -> pd.DataFrame:
    """Return the cluster of each tile that has a vector; see `Result.cluster`."""
    import pandas as pd

    whole("k", k, RunArgumentError)
    rows = np.flatnonzero(embeddings.present)
    if not 2 <= k <= min(_MOST_CLUSTERS, len(rows)):
        raise RunArgumentError(
            f"k is {k}; give 2 to {min(_MOST_CLUSTERS, len(rows))} clusters for these "
            f"{len(rows):,} tiles."
        )
    needs_sklearn("Clusters")
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer differ than are asked for
        found = KMeans(k, n_init=4, random_state=_SEED).fit_predict(_reduced(embeddings, rows))
    found = _numbered(found)
    if (count := int(found.max()) + 1) < k:
        warnings.warn(
            f"The tiles fall into {count} of the {k} clusters that were asked for: their vectors "
            "have no more directions.",
            stacklevel=3,
        )
    mine = [tiles[row] for row in rows.tolist()]
    boxes = np.array([tile.box.as_tuple() for tile in mine], dtype=np.float64).reshape(-1, 4)
    sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), boxes.T, strict=True))
    return pd.DataFrame({"id": [tile.id for tile in mine], **sides, "cluster": found})


def _numbered(found: NDArray[Any]) -> NDArray[np.int64]:
    """Return cluster numbers by size, the largest 0; of equal ones the first seen."""
    names, first, counts = np.unique(found, return_index=True, return_counts=True)
    rank = np.empty(int(names.max()) + 1, dtype=np.int64)
    rank[names[np.lexsort((first, -counts))]] = np.arange(len(names))
    return np.asarray(rank[found])


def flat_map(embeddings: Embeddings, tiles: Sequence[Tile], method: str) -> pd.DataFrame:
    """Return a place on a plane for each tile with a vector; see `Result.embedding_map`."""
    import pandas as pd

    if method not in MAPS:
        raise RunArgumentError(f"method is {method!r:.40}; give {' or '.join(MAPS)}.")
    rows = np.flatnonzero(embeddings.present)
    if method == "tsne" and not 4 <= len(rows) <= _MOST_TSNE:
        raise RunArgumentError(
            f"A map by t-SNE takes 4 to {_MOST_TSNE:,} tiles, and these are {len(rows):,}; give "
            "method='pca'."
        )
    needs_sklearn("A map of tiles")
    reduced = _reduced(embeddings, rows)
    if method == "tsne" and len(np.unique(reduced.round(5), axis=0)) >= _LEAST_TSNE:
        from sklearn.manifold import TSNE

        reduced = np.pad(reduced, ((0, 0), (0, max(0, 2 - reduced.shape[1]))))
        nearby = min(30.0, (len(rows) - 1) / 3)
        places = TSNE(perplexity=nearby, init="pca", random_state=_SEED).fit_transform(reduced)
    else:
        places = np.zeros((len(rows), 2))
        places[:, : reduced.shape[1]] = reduced[:, :2]
    ids = [tiles[row].id for row in rows.tolist()]
    return pd.DataFrame({"id": ids, "x": places[:, 0], "y": places[:, 1]})


def _reduced(embeddings: Embeddings, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the first principal components of the directions of `rows`: ``(n, at most 50)``."""
    from sklearn.decomposition import PCA

    sample = directions(embeddings, spread(rows, _SAMPLE))
    count = min(_COMPONENTS, *sample.shape)
    fitted = PCA(count, svd_solver="full" if min(sample.shape) < 500 else "covariance_eigh")
    with np.errstate(invalid="ignore"):  # shares of a variance of 0, which nobody asks for
        fitted.fit(sample)
    del sample
    parts = [
        fitted.transform(directions(embeddings, rows[start : start + embeddings.step]))
        for start in range(0, len(rows), embeddings.step)
    ]
    return np.concatenate(parts).astype(np.float32)


def directions(embeddings: Embeddings, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the vectors of `rows`, which are present, divided by their lengths; 0 stays 0."""
    found: NDArray[np.float32] = np.empty((len(rows), embeddings.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), embeddings.step):
        part = embeddings[rows[start : start + embeddings.step]].astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
        lengths[lengths == 0] = 1
        found[start : start + len(part)] = part / lengths[:, None]
    return found


def spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return `rows`, or `most` of them, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def needs_sklearn(what: str) -> None:
    """Make sure that scikit-learn is installed.

    Raises
    ------
    RunError
        If it is not: says what needs it.
    """
    if find_spec("sklearn") is None:
        raise RunError(
            f"{what} need scikit-learn, which is not installed: pip install "
            "'tilevision[embeddings]'."
        )
