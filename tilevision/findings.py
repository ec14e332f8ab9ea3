"""What a model saw: columns of findings, in the tile's frame or the image's.

People read "detections" in the interface and the exports, since a finding is a
diagnosis in pathology.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilevision.errors import ModelError
from tilevision.geometry import MultiPolygon, map_polygon, polygon
from tilevision.grid import Tile
from tilevision.payloads import StoredArray
from tilevision.rasterspec import Raster

__all__ = ["SOME", "Findings", "TileFindings", "assembled", "plain", "stacked"]

MOST_NUMBERS = 8192  # of a vector
SCORE_SLACK = 1e-3  # by which a sigmoid in half precision passes 1
_ROW_COLUMNS = ("polygons", "texts", "attributes")
_COLUMNS = (
    *("boxes", "scores", "labels", "class_ids", "oriented", "points", *_ROW_COLUMNS),
    "keypoints",
    "embeddings",
)
SOME = _COLUMNS[4:]  # which not all findings have


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Findings:
    """Detections of one tile or one image, as columns of equal length. Immutable, sorted.

    Rows stand in a canonical order (highest score first, those without a score last,
    then by box and content), so the same findings are equal however they were found.

    Parameters
    ----------
    boxes : array (n, 4)
        xmin, ymin, xmax, ymax in pixels of the frame, half-open.
    scores : array (n,), optional
        Confidence, 0 to 1; NaN where the model gives none. Default all NaN. Scores that pass 0
        or 1 by a thousandth at most are clipped.
    labels : sequence of str, optional
        Class names. Default ``"object"``.
    class_ids : array (n,) of int, optional
        Class numbers of the model; -1 where it has none. Default all -1.
    oriented : array (n, 4, 2), optional
        Corners x, y of rotated boxes; NaN in rows that have none.
    points : array (n, 2), optional
        x, y; NaN in rows that have none.
    polygons : sequence, optional
        Per row None, a ring ``(k, 2)``, or parts of rings (exterior, then holes).
    texts : sequence of str or None, optional
        What is written there.
    attributes : sequence of dict or None, optional
        Further values of plain JSON types.
    tile_scores : mapping of str to float, optional
        Class to probability for the tile as a whole.
    note : str
        A remark about the tile as a whole.
    keypoints : array (n, k, 3), optional
        x, y and confidence (or visibility, 0 for none) of each of a pose's key points; NaN in
        rows that have none.
    embedding : array (d,), optional
        A vector for the tile as a whole: 1 to 8,192 finite numbers. Kept as float16 if given so,
        else as float32. It goes to a side file of the checkpoint: the findings of a `Result` have
        none, `Result.embeddings` has them all.
    embeddings : array (n, d), optional
        A vector for each detection, of 1 to 8,192 finite numbers, float16 or float32 as above. It
        stays with its detection: of what several tiles saw, the best view's. NaN in rows of a
        `Result` that come from tiles without.
    raster : Raster, optional
        A map of the tile: probabilities, classes or values of its pixels. Like an embedding it goes
        to a side file, and `Result.raster` has the maps of all tiles as one.

    Raises
    ------
    ModelError
        If columns differ in length, boxes are not finite or inverted, scores lie
        outside 0 to 1, or an embedding is no such vector.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.object_]
    class_ids: NDArray[np.int64]
    oriented: NDArray[np.float64] | None
    points: NDArray[np.float64] | None
    polygons: tuple[MultiPolygon | None, ...] | None
    texts: tuple[str | None, ...] | None
    attributes: tuple[Mapping[str, Any] | None, ...] | None
    tile_scores: Mapping[str, float]
    note: str
    keypoints: NDArray[np.float64] | None
    embedding: NDArray[Any] | None
    embeddings: NDArray[Any] | None
    raster: Raster | None

    def __init__(
        self,
        boxes: ArrayLike = (),
        scores: ArrayLike | None = None,
        labels: Sequence[str] | NDArray[Any] | None = None,
        class_ids: ArrayLike | None = None,
        oriented: ArrayLike | None = None,
        points: ArrayLike | None = None,
        polygons: Sequence[Any] | None = None,
        texts: Sequence[str | None] | None = None,
        attributes: Sequence[Mapping[str, Any] | None] | None = None,
        tile_scores: Mapping[str, float] | None = None,
        note: str = "",
        keypoints: ArrayLike | None = None,
        embedding: ArrayLike | None = None,
        embeddings: ArrayLike | None = None,
        raster: Raster | None = None,
    ) -> None:
        box = _array("boxes", boxes, (4,))
        n = len(box)
        names = np.empty(n, dtype=object)
        names[:] = "object" if labels is None else _sized("labels", list(map(str, labels)), n)
        columns = {
            "boxes": box,
            "scores": np.full(n, np.nan) if scores is None else _clipped(scores),
            "labels": names,
            "class_ids": np.full(n, -1) if class_ids is None else _integers(class_ids),
            "oriented": None if oriented is None else _array("oriented", oriented, (4, 2)),
            "points": None if points is None else _array("points", points, (2,)),
            "polygons": None if polygons is None else tuple(map(polygon, polygons)),
            "texts": None if texts is None else tuple(texts),
            "attributes": None if attributes is None else tuple(attributes),
            "keypoints": None if keypoints is None else _keypoints(keypoints),
            "embeddings": None if embeddings is None or not n else _vectors(embeddings),
        }
        _check(columns, n)
        vector = None if embedding is None else _vector(embedding)
        if not (raster is None or isinstance(raster, Raster)):
            raise ModelError(f"raster is a {type(raster).__name__}; give tv.Raster(array, …).")
        _fill(self, _sort(columns), tile_scores or {}, note, vector, raster)

    def __len__(self) -> int:
        return len(self.boxes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Findings):
            return NotImplemented
        mine, theirs = self.columns, other.columns
        return (
            len(self) == len(other)
            and mine.keys() == theirs.keys()
            and (self.note, self.tile_scores) == (other.note, other.tile_scores)
            and _same(self.embedding, other.embedding)
            and self.raster == other.raster
            and _same(mine.pop("embeddings", None), theirs.pop("embeddings", None))
            and all(plain(mine[name]) == plain(theirs[name]) for name in mine)
        )

    __hash__ = None  # type: ignore[assignment]  # compared by content, too large to hash

    def __repr__(self) -> str:
        names, counts = np.unique(self.labels.astype(str), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:5]
        kinds = ", ".join(f"{counts[i]} {names[i][:40]}" for i in order)
        more = f", {len(names) - 5} more classes" if len(names) > 5 else ""
        return f"Findings({len(self)} detections{': ' if kinds else ''}{kinds}{more})"

    def _repr_html_(self) -> str:
        names, counts = np.unique(self.labels.astype(str), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:10]
        rows = "".join(
            f"<tr><td><bdi>{escape(names[i][:60])}</bdi></td><td>{counts[i]:,}</td></tr>"
            for i in order
        )
        more = f"<tr><td>{len(names) - 10:,} more classes</td></tr>" if len(names) > 10 else ""
        return f"<b>{len(self):,} detections</b><table>{rows}{more}</table>"

    @property
    def columns(self) -> dict[str, Any]:
        """The columns that are present, by name."""
        present = {name: getattr(self, name) for name in _COLUMNS}
        return {name: column for name, column in present.items() if column is not None}

    def take(self, rows: ArrayLike) -> Findings:
        """Return the rows that a mask ``(n,)`` of bool or an index of int selects."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        return _build(
            _select(self.columns, index), self.tile_scores, self.note, self.embedding, self.raster
        )

    def filter(
        self, min_score: float | None = None, classes: Iterable[str] | None = None
    ) -> Findings:
        """Keep rows scored `min_score` or higher (rows without a score stay) in `classes`."""
        if not len(self):  # as most tiles of most images
            return self
        keep = np.ones(len(self), dtype=bool)
        if min_score is not None:
            keep &= ~(self.scores < min_score)
        if classes is not None:
            wanted = {classes} if isinstance(classes, str) else set(classes)
            keep &= np.fromiter((label in wanted for label in self.labels), bool, len(self))
        return self if keep.all() else self.take(keep)

    @classmethod
    def concat(cls, parts: Sequence[Findings]) -> Findings:
        """Return the rows of all `parts`; what belongs to a whole tile is dropped."""
        names = {name for part in parts for name in part.columns}
        columns = {
            name: _join(name, [(getattr(part, name), len(part)) for part in parts])
            for name in _COLUMNS
            if name in names
        }
        return assembled(columns) if columns else cls()

    def mapped(self, factor: tuple[float, float], offset: tuple[float, float]) -> Findings:
        """Return the findings with every coordinate times `factor` (x, y) plus `offset`."""
        f, o = np.asarray(factor, dtype=np.float64), np.asarray(offset, dtype=np.float64)
        columns = self.columns
        columns["boxes"] = self.boxes * (*factor, *factor) + (*offset, *offset)
        for name in ("oriented", "points"):
            if name in columns:
                columns[name] = columns[name] * f + o
        if self.keypoints is not None:
            columns["keypoints"] = self.keypoints.copy()
            columns["keypoints"][..., :2] = self.keypoints[..., :2] * f + o
        if self.polygons is not None:
            columns["polygons"] = tuple(map_polygon(p, f, o) for p in self.polygons)
        return _build(_sort(columns), self.tile_scores, self.note, self.embedding, self.raster)

    def with_scores(self, tile_scores: Mapping[str, float]) -> Findings:
        """Return the findings with other probabilities of the tile, which are not checked."""
        return _build(self.columns, tile_scores, self.note, self.embedding)

    def with_embeddings(self, embeddings: NDArray[Any]) -> Findings:
        """Return the findings with a vector for each row ``(n, d)``, which are not checked."""
        columns = self.columns | {"embeddings": embeddings}
        return _build(columns, self.tile_scores, self.note, self.embedding, self.raster)

    def with_raster(self, raster: Raster) -> Findings:
        """Return the findings with another map of the tile."""
        return _build(self.columns, self.tile_scores, self.note, self.embedding, raster)

    def rounded(self) -> Findings:
        """Return the findings as a record holds them: to 0.01 px, scores to 1e-5."""
        if not len(self) and not self.tile_scores:
            return self
        columns = self.columns
        for name, digits in (("boxes", 2), ("oriented", 2), ("points", 2), ("scores", 5)):
            if name in columns:
                columns[name] = np.round(columns[name], digits) + 0.0  # no -0.0
        if self.keypoints is not None:
            digits_of = np.array([100.0, 100.0, 1e5])
            columns["keypoints"] = np.round(self.keypoints * digits_of) / digits_of + 0.0
        if self.polygons is not None:
            columns["polygons"] = tuple(
                p and tuple(tuple(np.round(ring, 2) + 0.0 for ring in part) for part in p)
                for p in self.polygons
            )
        scores = {name: round(value, 5) for name, value in self.tile_scores.items()}
        return _build(_sort(columns), scores, self.note, self.embedding, self.raster)


@dataclass(frozen=True, slots=True)
class TileFindings:
    """The findings of one tile, in that tile's frame.

    Parameters
    ----------
    tile : Tile
    findings : Findings
        In pixels of the tile as the model saw it (``tile.output_size``).
    saturated : bool
        True if the model returned as many detections as it can, so some may be missing.
    vector : StoredArray, optional
        The tile's embedding, in the side files of the checkpoint.
    raster : StoredArray, optional
        The tile's map, there too.
    """

    tile: Tile
    findings: Findings
    saturated: bool = False
    vector: StoredArray | None = None
    raster: StoredArray | None = None

    @property
    def arrays(self) -> list[StoredArray]:
        """The arrays of the tile that are read later."""
        return [one for one in (self.vector, self.raster) if one is not None]

    def in_image(self) -> Findings:
        """Return the findings in pixels of the full-resolution image."""
        box, (width, height) = self.tile.box, self.tile.output_size
        factor = (box.width / width, box.height / height)
        return self.findings.mapped(factor, (box.x0, box.y0))


def assembled(columns: dict[str, Any]) -> Findings:
    """Return findings of `columns` that come from findings: they are sorted, and not checked."""
    whole = {
        name: tuple(column) if isinstance(column, list) else column
        for name, column in columns.items()
    }
    return _build(_sort(whole), {}, "")


def _build(
    columns: dict[str, Any],
    tile_scores: Mapping[str, float],
    note: str,
    embedding: NDArray[Any] | None = None,
    raster: Raster | None = None,
) -> Findings:
    findings = object.__new__(Findings)
    _fill(findings, columns, tile_scores, note, embedding, raster)
    return findings


def _fill(
    findings: Findings,
    columns: dict[str, Any],
    tile_scores: Mapping[str, float],
    note: str,
    embedding: NDArray[Any] | None,
    raster: Raster | None,
) -> None:
    """Set the fields of a frozen instance; arrays become read-only."""
    for name in _COLUMNS:
        column = columns.get(name)
        if isinstance(column, np.ndarray):  # ours: the constructor copies what it is given
            column.setflags(write=False)
        object.__setattr__(findings, name, column)
    object.__setattr__(findings, "tile_scores", dict(sorted(tile_scores.items())))
    object.__setattr__(findings, "note", note)
    object.__setattr__(findings, "embedding", embedding)
    object.__setattr__(findings, "raster", raster)


def _vector(values: ArrayLike) -> NDArray[Any]:
    """Return a vector of numbers that can be stored, ours and read-only."""
    try:
        given = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged; a tensor that is not detached
        given = np.empty(0, dtype=object)
    if given.ndim != 1 or given.dtype.kind not in "iuf" or not 0 < len(given) <= MOST_NUMBERS:
        raise ModelError(
            f"An embedding has shape {given.shape} of {given.dtype}; give one vector of 1 to "
            f"{MOST_NUMBERS:,} numbers for the tile."
        )
    with np.errstate(over="ignore"):
        vector = given.astype(np.float16 if given.dtype == np.float16 else np.float32)
    bad = np.flatnonzero(~np.isfinite(vector))
    if len(bad):
        raise ModelError(
            f"An embedding holds {given[bad[0]]:g} at place {bad[0]}; give finite numbers."
        )
    vector.setflags(write=False)
    return vector


def _vectors(values: ArrayLike) -> NDArray[Any]:
    """Return a vector for each row ``(n, d)``, of numbers that can be stored."""
    try:
        given = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged; a tensor that is not detached
        given = np.empty(0, dtype=object)
    numbers = given.ndim == 2 and given.dtype.kind in "iuf" and 0 < given.shape[1] <= MOST_NUMBERS
    if not numbers:
        raise ModelError(
            f"Embeddings have shape {given.shape} of {given.dtype}; give (n, d): one vector of 1 "
            f"to {MOST_NUMBERS:,} numbers for each box, all of one length."
        )
    with np.errstate(over="ignore"):
        vectors = given.astype(np.float16 if given.dtype == np.float16 else np.float32)
    bad = np.argwhere(~np.isfinite(vectors))
    if len(bad):
        row, place = bad[0]
        raise ModelError(
            f"The embedding of row {row} holds {given[row, place]:g} at place {place}; give finite "
            "numbers."
        )
    return vectors


def _same(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)


def _array(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        array = np.array(values, dtype=np.float64)
        if array.ndim and array.shape[1:] == shape:  # as it is: a view would double what is kept
            return array
        return array.reshape(-1, *shape) if array.size == 0 else array.reshape(len(array), *shape)
    except (TypeError, ValueError):
        expected = ", ".join(["n", *map(str, shape)])
        raise ModelError(f"{name} must be numbers of shape ({expected}).") from None


def _clipped(scores: ArrayLike) -> NDArray[np.float64]:
    """Return scores, those that arithmetic took past 0 or 1 by a hair brought back."""
    array = _array("scores", scores, ())
    near = (array >= -SCORE_SLACK) & (array <= 1 + SCORE_SLACK)
    return np.where(near, np.clip(array, 0, 1), array)


def _keypoints(values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.shape == (0,):  # so a tile of a pose model without a detection is stored
        array = np.empty((0, 1, 3))
    if array.ndim != 3 or array.shape[2] != 3 or not array.shape[1]:
        raise ModelError(
            f"Key points have shape {array.shape}; give (n, k, 3): x, y, confidence of k points."
        )
    return array


def _integers(values: ArrayLike) -> NDArray[np.int64]:
    array = np.array(values)
    if array.size and array.dtype.kind not in "iuf":
        raise ModelError("class_ids must be whole numbers; names go in labels.")
    return array.astype(np.int64).reshape(-1)


def _sized(name: str, column: Sequence[Any], n: int) -> Sequence[Any]:
    if len(column) != n:
        raise ModelError(f"{name} has {len(column)} rows, boxes has {n}; give one for each box.")
    return column


def _check(columns: dict[str, Any], n: int) -> None:
    for name, column in columns.items():
        if column is not None:
            _sized(name, column, n)
    boxes, scores = columns["boxes"], columns["scores"]
    if not np.isfinite(boxes).all():
        raise ModelError("A box is not finite (NaN or infinite); drop it in the model.")
    inverted = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if len(inverted):
        raise ModelError(
            f"Box {boxes[inverted[0]].tolist()} is inverted; give xmin, ymin, xmax, ymax."
        )
    bad = scores[(scores < 0) | (scores > 1)]
    if len(bad):
        raise ModelError(
            f"Score {bad[0]:g} lies outside 0 to 1; scale the scores, or leave them out."
        )


def _sort(columns: dict[str, Any]) -> dict[str, Any]:
    """Put rows in canonical order; only exact ties need a look at their content."""
    if len(columns["boxes"]) < 2:
        return columns
    keys = np.column_stack([-columns["scores"], columns["boxes"]])
    order = np.argsort(keys[:, 0], kind="stable")
    if not (np.diff(keys[order, 0]) > 0).all():  # few scores tie, and then boxes decide
        order = np.lexsort(keys.T[::-1])
    keys = keys.take(order, axis=0)
    same = ((keys[1:] == keys[:-1]) | (np.isnan(keys[1:]) & np.isnan(keys[:-1]))).all(axis=1)
    if same.any():
        run = np.concatenate([[0], np.cumsum(~same)])
        tied = np.flatnonzero(np.bincount(run)[run] > 1)
        ranked = sorted(tied, key=lambda i: (run[i], _row_text(columns, int(order[i]))))
        order[tied] = order[np.array(ranked)]
    if (order == np.arange(len(order))).all():
        return columns
    return _select(columns, order)


def _row_text(columns: dict[str, Any], row: int) -> str:
    names = (name for name in _COLUMNS[2:-1] if columns.get(name) is not None)
    vectors = columns.get("embeddings")
    last = "" if vectors is None else vectors[row].tobytes().hex()
    return repr([plain(columns[name][row]) for name in names]) + last


def _select(columns: dict[str, Any], index: NDArray[np.int64]) -> dict[str, Any]:
    return {
        name: column[index] if isinstance(column, np.ndarray) else tuple(column[i] for i in index)
        for name, column in columns.items()
        if column is not None
    }


def _join(name: str, parts: list[tuple[Any, int]]) -> Any:
    """Concatenate one column; parts that lack it get NaN or None rows."""
    if name in _ROW_COLUMNS:
        return tuple(value for column, n in parts for value in (column or (None,) * n))
    return stacked(name, parts)


def stacked(name: str, parts: Sequence[tuple[NDArray[Any] | None, int]]) -> NDArray[Any]:
    """Return one column of numbers; parts that lack it (or some key points) get NaN.

    Parameters
    ----------
    name : str
        Of the column.
    parts : sequence of (array or None, int)
        Each part's column, and its number of rows.
    """
    shape = {"oriented": (4, 2), "points": (2,), "boxes": (4,)}.get(name, ())
    if name == "keypoints":
        most = max((column.shape[1] for column, _ in parts if column is not None), default=1)
        shape = (most, 3)
    dtype = np.dtype(np.float64)
    if name == "embeddings":
        shape, dtype = _one_kind([column for column, _ in parts if column is not None])
    filled = []
    for column, n in parts:
        if column is None or column.shape[1:] != shape:
            wide = np.full((n, *shape), np.nan, dtype=dtype)
            if column is not None and column.ndim == 3:
                wide[:, : column.shape[1]] = column
            column = wide  # noqa: PLW2901  # as wide as the others
        filled.append(column)
    return np.concatenate(filled) if filled else np.empty((0, *shape))


def _one_kind(columns: Sequence[NDArray[Any]]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the one width and type of vectors that are to stand in one column.

    Raises
    ------
    ModelError
        If they differ.
    """
    kinds = sorted({(column.shape[1], column.dtype.name) for column in columns})
    if len(kinds) > 1:
        told = " and ".join(f"{width:,} numbers ({dtype})" for width, dtype in kinds[:3])
        raise ModelError(
            f"The detections have vectors of {told}, which are no one column; run each model by "
            "itself."
        )
    width, dtype = kinds[0]
    return (width,), np.dtype(dtype)


def plain(value: Any) -> Any:
    """Return arrays and tuples as lists, and NaN and pandas' NA as None, at any depth."""
    if isinstance(value, np.ndarray):
        known = value.dtype.kind in "biu" or (value.dtype.kind == "f" and not np.isnan(value).any())
        value = value.tolist()
        if known:
            return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and np.isnan(value):
        return None
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value
