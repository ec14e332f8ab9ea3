"""A few labelled tiles make a classifier of all: a linear probe on the vectors of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevision.analysis.clustering import directions, needs_sklearn, spread
from tilevision.errors import RunArgumentError
from tilevision.findings import TileFindings
from tilevision.grid import Tile

if TYPE_CHECKING:
    import pandas as pd

    from tilevision.analysis.embeddings import Embeddings

__all__ = ["Labelled", "Probe", "fit_probe", "labelled", "probed"]

_STRENGTH = 10.0  # inverse of the penalty, for vectors whose mean squared length is 1
_SAMPLE = 2000  # tiles that centre and spread are worked out from
_ONE_BY_ONE = 200  # labels; more are left out in ten parts
_PARTS = 10
_FEW = 10  # labels of a class below which the figures say little
_NORMAL = 1.959964  # of a 95 % interval
_WORST = 1000  # rounds of the solver


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """The tiles that a user has named.

    Parameters
    ----------
    names : tuple of str
        Classes, in alphabetical order.
    rows : array (m,) of int
        Of `Result.tiles`.
    classes : array (m,) of int
        Which of `names` each is.
    """

    names: tuple[str, ...]
    rows: NDArray[np.int64]
    classes: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Probe:
    """A linear probe: what it says of every tile, and how far that can be trusted.

    Attributes
    ----------
    labels : tuple of str
        Classes, in alphabetical order.
    counts : dict of str to int
        How many tiles were labelled, by class.
    probabilities : DataFrame
        A row for each tile with a vector: ``id``, and the probability of each class.
    right, tested : int
        How many of the labelled tiles are classified correctly by a probe that did not see them,
        and how many that was tried with: all, or none where a class has only one.
    parts : int
        In how many parts they were left out: as many as there are, up to 200 labels; else 10.
    touching : int
        How many labelled tiles overlap or adjoin another of their class. They look alike, so that
        leaving one out says less.
    result : Result
        The result with these probabilities as those of its tiles: ``heatmap()``, ``plot()`` and
        ``save("x.heatmap.tif")`` show and write them.
    """

    labels: tuple[str, ...]
    counts: Mapping[str, int]
    probabilities: pd.DataFrame
    right: int
    tested: int
    parts: int
    touching: int
    result: Any

    @property
    def accuracy(self) -> float:
        """Share of labelled tiles classified correctly when left out; NaN where none was tried."""
        return self.right / self.tested if self.tested else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies with 95 % confidence (Wilson); 0 to 1 where none was tried."""
        if not self.tested:
            return 0.0, 1.0
        n, share, z = self.tested, self.accuracy, _NORMAL
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def summary(self) -> str:
        """What is known of it, in a few sentences."""
        told = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        lines = [f"A linear probe on {sum(self.counts.values())} labelled tiles ({told})."]
        if not self.tested:
            return f"{lines[0]} A class with a single tile cannot be tested: label more."
        low, high = self.interval
        how = "one by one" if self.parts == self.tested else f"in {self.parts} parts"
        usual = max(self.counts.values()) / self.tested
        lines.append(
            f"Left out {how}, {self.right} of {self.tested} are classified correctly: "
            f"{100 * self.accuracy:.0f}%, with 95% confidence {100 * low:.0f} to "
            f"{100 * high:.0f}%; always saying the most frequent class gives {100 * usual:.0f}%."
        )
        if min(self.counts.values()) < _FEW:
            lines.append(f"With fewer than {_FEW} tiles of a class this says little.")
        if self.touching:
            lines.append(
                f"{self.touching} of them overlap or adjoin another of their class and look alike: "
                "label tiles from apart."
            )
        return " ".join(lines)

    def __repr__(self) -> str:
        return f"<Probe: {self.summary}>"


def probed(
    found: Sequence[TileFindings],
    embeddings: Embeddings,
    tiles: Sequence[Tile],
    labels: Mapping[str, Iterable[str]],
    result_of: Callable[[Sequence[TileFindings]], Any],
) -> Probe:
    """Return the probe of a result's tiles by some that are labelled; see `Result.probe`.

    Parameters
    ----------
    found : sequence of TileFindings
    embeddings : Embeddings
    tiles : sequence of Tile
        In step with `embeddings`.
    labels : mapping of str to sequence of str
    result_of : callable
        Returns the result with other findings of the tiles.

    Raises
    ------
    RunError
        If the labels make no sense, or scikit-learn is not installed.
    """
    import pandas as pd

    known = labelled(embeddings, tiles, labels)
    shares, tested = fit_probe(embeddings, tiles, known)
    mine = [tiles[row] for row in np.flatnonzero(embeddings.present).tolist()]
    table = pd.DataFrame(shares, columns=list(known.names))
    table.insert(0, "id", [tile.id for tile in mine])
    scores = {
        tile: dict(zip(known.names, said, strict=True))
        for tile, said in zip(mine, shares.tolist(), strict=True)
    }
    seen = [
        replace(one, findings=one.findings.with_scores(scores[one.tile]))
        for one in found
        if one.tile in scores
    ]
    counts = np.bincount(known.classes, minlength=len(known.names)).tolist()
    by_class = dict(zip(known.names, counts, strict=True))
    return Probe(known.names, by_class, table, result=result_of(seen), **tested)


def labelled(
    embeddings: Embeddings, tiles: Sequence[Tile], given: Mapping[str, Iterable[str]]
) -> Labelled:
    """Return the tiles that are named by id.

    Raises
    ------
    RunArgumentError
        If there are fewer than two classes, one has no tile, a tile is unknown, has no vector or is
        in two.
    """
    if not isinstance(given, Mapping) or len(given) < 2:
        raise RunArgumentError(
            "A probe tells classes apart; give two or more, as "
            "{'tumour': ['r003c017', …], 'stroma': ['r010c002', …]}."
        )
    place = {tile.id: row for row, tile in enumerate(tiles)}
    names = tuple(sorted(str(name) for name in given))
    found: dict[int, int] = {}
    for name, ids in given.items():
        listed = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else [ids]
        if not listed:
            raise RunArgumentError(f"Class {name!r:.40} has no tile; give ids, or leave it out.")
        for one in listed:
            row = place.get(one) if isinstance(one, str) else None
            if row is None:
                raise RunArgumentError(
                    f"There is no tile {one!r:.40} (class {name!r:.40}); result.tiles lists them."
                )
            if not embeddings.present[row]:
                raise RunArgumentError(f"Tile {one} has no vector: it failed, or was skipped.")
            number = names.index(str(name))
            if found.setdefault(row, number) != number:
                raise RunArgumentError(
                    f"Tile {one} is labelled {names[found[row]]!r} and {names[number]!r}; give one."
                )
    rows = np.array(sorted(found), dtype=np.int64)
    return Labelled(names, rows, np.array([found[row] for row in rows.tolist()], dtype=np.int64))


def fit_probe(
    embeddings: Embeddings, tiles: Sequence[Tile], known: Labelled
) -> tuple[NDArray[np.float64], dict[str, int]]:
    """Return the probabilities of all present tiles ``(n, classes)``, and how well it is tested.

    Vectors are divided by their lengths, centred, and brought to a mean squared length of 1, by a
    sample of all tiles. The probe is a logistic regression with a fixed penalty: with few labels
    it stays unsure.

    Returns
    -------
    probabilities : array (present, classes)
    tested : dict
        ``right``, ``tested``, ``parts`` and ``touching``, as in `Probe`.
    """
    needs_sklearn("Probes")
    rows = np.flatnonzero(embeddings.present)
    sample = directions(embeddings, spread(rows, _SAMPLE)).astype(np.float64)
    centre = sample.mean(axis=0)
    size = float(np.sqrt(np.square(sample - centre).sum(axis=1).mean())) or 1.0
    inputs = (directions(embeddings, known.rows) - centre) / size
    # In the space that the labelled tiles span, where the answer lies and is the same.
    turned, lengths, basis = np.linalg.svd(inputs, full_matrices=False)
    inner = turned * lengths
    model = _fitted(inner, known.classes)
    weights, offsets = model.coef_ @ basis / size, model.intercept_
    offsets = offsets - weights @ centre
    probabilities = np.concatenate(
        [
            _shares(directions(embeddings, rows[start : start + embeddings.step]), weights, offsets)
            for start in range(0, len(rows), embeddings.step)
        ]
    )
    return probabilities, {
        **_tested(inner, known.classes),
        "touching": _touching([tiles[row] for row in known.rows.tolist()], known.classes),
    }


def _fitted(inputs: NDArray[Any], classes: NDArray[np.int64]) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=_STRENGTH, max_iter=_WORST).fit(inputs, classes)


def _shares(
    vectors: NDArray[Any], weights: NDArray[Any], offsets: NDArray[Any]
) -> NDArray[np.float64]:
    scores = vectors @ weights.T + offsets
    if scores.shape[1] == 1:  # two classes have one line between them
        scores = np.hstack([np.zeros_like(scores), scores])
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)


def _tested(inputs: NDArray[Any], classes: NDArray[np.int64]) -> dict[str, int]:
    """Count how many labelled tiles are classified correctly by probes that did not see them."""
    n = len(classes)
    if np.bincount(classes).min() < 2:
        return {"right": 0, "tested": 0, "parts": 0}
    if n <= _ONE_BY_ONE:
        parts = [np.array([row]) for row in range(n)]
    else:
        from sklearn.model_selection import StratifiedKFold

        split = StratifiedKFold(_PARTS, shuffle=True, random_state=0).split(inputs, classes)
        parts = [left for _, left in split]
    right = 0
    for left in parts:
        others = np.setdiff1d(np.arange(n), left)
        said = _fitted(inputs[others], classes[others]).predict(inputs[left])
        right += int((said == classes[left]).sum())
    return {"right": right, "tested": n, "parts": len(parts)}


def _touching(tiles: Sequence[Tile], classes: NDArray[np.int64]) -> int:
    """Count tiles that overlap or adjoin another one of their class."""
    boxes = np.array([tile.box.as_tuple() for tile in tiles], dtype=np.float64)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    near = ((low <= boxes[:, 2:]) & (high >= boxes[:, :2])).all(axis=2)
    near &= (classes[:, None] == classes) & ~np.eye(len(tiles), dtype=bool)
    return int(near.any(axis=1).sum())
