"""The vectors and the map of a result: what tiles have beside detections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from tilevision.analysis.account import RunFacts, TileRow
from tilevision.findings import TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile

if TYPE_CHECKING:
    import pandas as pd

    from tilevision.analysis.embeddings import Embeddings
    from tilevision.analysis.probing import Probe
    from tilevision.rasters import RasterMap
    from tilevision.sources import ImageSource

__all__ = ["ResultArrays"]


class ResultArrays(ABC):
    """The part of a result that rests on vectors and maps of tiles."""

    source: ImageSource
    rows: tuple[TileRow, ...]
    tile_findings: tuple[TileFindings, ...]
    facts: RunFacts

    @property
    @abstractmethod
    def raster(self) -> RasterMap | None:
        """The map of the image."""

    @abstractmethod
    def _of_tiles(self, found: Sequence[TileFindings]) -> Any:
        """Return the result with other findings of its tiles."""

    @abstractmethod
    def _of_areas(self, found: Sequence[TileFindings], facts: RunFacts) -> Self:
        """Return a result of findings of the image as a whole, which nothing merges."""

    @cached_property
    def embeddings(self) -> Embeddings | None:
        """The vectors of the tiles, in step with `tiles`; None where no tile has one.

        An array ``(tiles, d)`` that is read from the checkpoint as it is asked for: see
        `tilevision.analysis.embeddings.Embeddings`.

        Raises
        ------
        RunError
            If vectors of several widths or types are among them.
        """
        if all(seen.vector is None for seen in self.tile_findings):
            return None
        from tilevision.analysis.embeddings import embeddings_of

        return embeddings_of([row.tile for row in self.rows], self.tile_findings)

    def similar(self, what: Any, k: int = 20, metric: str = "cosine") -> pd.DataFrame:
        """Return the tiles whose vectors are nearest to one: exactly, of all tiles.

        Parameters
        ----------
        what : str or array (d,)
            The id of a tile, which is not among the answers; or a vector.
        k : int
            How many tiles, at most.
        metric : str
            ``"cosine"``, by which a zero vector is near nothing; or ``"euclidean"``.

        Returns
        -------
        DataFrame
            The nearest first: id, xmin, ymin, xmax, ymax (pixels of the full-resolution image),
            and ``similarity`` (-1 to 1), or ``distance``.

        Raises
        ------
        RunError
            If no tile has a vector, or there is no such tile or metric.
        """
        from tilevision.analysis.embeddings import similar

        return similar(*self._vectors(), what, k, metric)

    def cluster(self, k: int = 8) -> pd.DataFrame:
        """Group the tiles by what they look like: k-means on the directions of their vectors.

        The same result gives the same clusters. Vectors are first brought to their 50 principal
        components.

        Parameters
        ----------
        k : int
            How many clusters, 2 to 100.

        Returns
        -------
        DataFrame
            A row for each tile with a vector: id, xmin, ymin, xmax, ymax (pixels of the
            full-resolution image) and ``cluster``, 0 for the largest.

        Raises
        ------
        RunError
            If no tile has a vector, `k` makes no sense, or scikit-learn is not installed.
        """
        from tilevision.analysis.clustering import clusters

        return clusters(*self._vectors(), k)

    def embedding_map(self, method: str = "pca") -> pd.DataFrame:
        """Lay the tiles out on a plane, those that look alike near each other.

        Parameters
        ----------
        method : str
            ``"pca"``: the two principal components; ``"tsne"``: t-SNE, of 20,000 tiles at most.

        Returns
        -------
        DataFrame
            A row for each tile with a vector: id, x, y.

        Raises
        ------
        RunError
            As `cluster` does.
        """
        from tilevision.analysis.clustering import flat_map

        return flat_map(*self._vectors(), method)

    def probe(self, labels: Mapping[str, Iterable[str]]) -> Probe:
        """Tell all tiles apart by a few that are labelled: a linear probe on their vectors.

        Parameters
        ----------
        labels : mapping of str to sequence of str
            Ids of tiles by class: ``{"tumour": ["r003c017", …], "stroma": [...]}``.

        Returns
        -------
        Probe
            Probabilities of all tiles, as a table and as a result with a heat map; how many of the
            labelled tiles are classified correctly when left out, and what that is worth.

        Raises
        ------
        RunError
            If no tile has a vector, the labels make no sense, or scikit-learn is not installed.
        """
        from tilevision.analysis.probing import probed

        return probed(self.tile_findings, *self._vectors(), labels, self._of_tiles)

    def _vectors(self) -> tuple[Embeddings, list[Tile]]:
        if self.embeddings is None:
            from tilevision.analysis.tables import NO_VECTOR, lacking

            raise lacking(self.rows, NO_VECTOR)
        return self.embeddings, [row.tile for row in self.rows]

    def to_polygons(self, min_area: float = 0.0, simplify: float = 0.0) -> Self:
        """Return the result with an outline for each area of one class in its map.

        Its `findings` are those polygons, holes kept, one for what goes over blocks, in pixels of
        the image; it is saved as any detections are (``.geojson``, ``.gpkg``, …).

        Parameters
        ----------
        min_area : float
            Smaller ones are left out; in the unit ``units.area``.
        simplify : float
            By how many pixels of the image a simplified outline may be off; 0: along pixels.

        Raises
        ------
        RunError
            If there is no map of classes, or rasterio is not installed.
        """
        if self.raster is None:
            from tilevision.analysis.tables import lacking

            raise lacking(
                self.rows,
                "This result has no map; use tv.model(f, returns='probabilities', classes=…).",
            )
        from tilevision.rasters import polygons_of

        found = polygons_of(self.raster, min_area, simplify)
        whole = Tile(0, 0, Box(0, 0, *self.source.size))
        facts = replace(self.facts, region=None)
        return self._of_areas([TileFindings(whole, found)], facts)
