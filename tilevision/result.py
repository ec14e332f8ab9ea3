"""What the user keeps of a run: the data of a result, and the ways it leaves in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tilevision.analysis.account import RunFacts, TileRow
from tilevision.analysis.resultdata import ResultData
from tilevision.errors import RunArgumentError, RunError
from tilevision.seams import MergeSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tilevision.analysis.heatmap import Heatmap
    from tilevision.corrections import CorrectionLayer, Corrections
    from tilevision.exporting.crops import Choice

__all__ = ["MergeSettings", "Result", "RunFacts", "TileRow"]

_MERGED = ("_merged", "_merged_and_checked", "seam_bias", "overlap_check", "raster")


class Result(ResultData):
    """The findings of one image, and an account of every tile.

    Nothing here depends on the order in which tiles finished.

    Parameters
    ----------
    source : ImageSource
        The image; asked for its size and metadata, and for pixels when plotting.
    rows : sequence of TileRow
        One for each tile of the grid.
    tile_findings : sequence of TileFindings
        Of the tiles that were analysed.
    settings : MergeSettings
    facts : RunFacts
    name : str
        Name of the image, for people.
    blending : MapSettings, optional
        How maps of tiles become one.
    by_hand : CorrectionLayer, optional
        What a person corrected; None: nothing is applied.
    """

    def save(
        self,
        path: str | PathLike[str],
        format: str | None = None,  # noqa: A002  # the word people look for
        **options: Any,
    ) -> Path:
        """Write the detections; suffix or name decides. See `tilevision.exporting.save`."""
        from tilevision.exporting import save

        return save(self, path, format, **options)

    @cached_property
    def corrections(self) -> Corrections:
        """Corrects this result: delete, add, relabel, reshape, accept, undo, redo.

        Steps are kept in the checkpoint folder, for this image and model, and belong to the rows of
        this result. It stays what it is: `corrected` returns one in which they are applied. See
        `tilevision.corrections.editing.Corrections`.

        Raises
        ------
        RunError
            If the run had no checkpoint folder, or corrections there cannot be read.
        """
        from tilevision.corrections import CorrectionLog, Corrections, log_path

        facts, mark = self.facts, self.source.fingerprint
        if facts.checkpoint is None:
            raise RunError(
                "Corrections are kept in the checkpoint folder, and this result has none. Run with "
                "checkpoint=."
            )
        path = log_path(facts.checkpoint, mark, facts.model)
        about = {"image": self.name, "image_fingerprint": mark, "model": facts.model}
        return Corrections(self, CorrectionLog(path, about))

    def corrected(self, layer: CorrectionLayer | None = None) -> Self:
        """Return the result as a person corrected it; counts, exports and texts say how much.

        Parameters
        ----------
        layer : CorrectionLayer, optional
            Default: all corrections of this image and model in the checkpoint folder, as they are
            now.

        Raises
        ------
        RunError
            If the run had no checkpoint folder, or corrections there cannot be read.
        """
        return self._by_hand_of(self.corrections.layer if layer is None else layer)

    @property
    def uncorrected(self) -> Self:
        """The result as the model gave it."""
        return self if self.by_hand is None else self._by_hand_of(None)

    def _by_hand_of(self, layer: CorrectionLayer | None) -> Self:
        made = self._changed(by_hand=layer)
        # What tiles saw together does not depend on corrections, and takes longest.
        made.__dict__ |= {name: self.__dict__[name] for name in _MERGED if name in self.__dict__}
        return made

    def set_colours(self, colours: Mapping[str, str | None]) -> None:
        """Choose the colours of classes in pictures, maps, the panel and files that have colours.

        They are kept in the run's checkpoint folder (``colours.json``), for all results in it;
        without one they end with the process.

        Parameters
        ----------
        colours : mapping of str to (str or None)
            ``#rrggbb`` by class, as in ``{"nucleus": "#ee1188"}``; None: the class has its usual
            colour again, which people with a colour vision deficiency can tell from the others.

        Raises
        ------
        RunError
            If it is no such mapping, or the folder cannot be written.
        """
        from tilevision.colouring import choose

        choose(colours, self.facts.checkpoint)

    def uncertain(self) -> pd.DataFrame:
        """Return the analysed tiles, those first where a person's hour of correction counts most.

        By scores near the limit and by what overlapping tiles disagree on. See
        `tilevision.analysis.doubt.doubt_table`.
        """
        from tilevision.analysis.doubt import doubt_table

        return doubt_table(self.tile_findings, self.settings.min_score)

    def export_tiles(
        self,
        folder: str | PathLike[str],
        which: Choice = "uncertain",
        *,
        limit: int | None = None,
        yolo: bool = False,
    ) -> Path:
        """Write tiles as PNG with labels. See `tilevision.exporting.crops.export_tiles`."""
        from tilevision.exporting.crops import export_tiles

        return export_tiles(self, folder, which, limit=limit, yolo=yolo)

    def plot(
        self,
        target: Figure | Axes | None = None,
        label: str | None = None,
        *,
        ax: Axes | None = None,
    ) -> Figure:
        """Draw the image, its tiles by status and its detections; say what is missing.

        Parameters
        ----------
        target : matplotlib Figure or Axes, optional
            Where to draw; None makes a figure that a notebook shows by itself.
        label : str, optional
            Class whose probability is drawn as a heatmap, if the model classifies tiles.
            Default: if it finds nothing else, the class that varies most.
        ax : matplotlib Axes, optional
            The same as `target`, by the name that pandas and seaborn use.

        Raises
        ------
        RunError
            If there is no such class, or both `target` and `ax` are given.
        """
        from tilevision.colouring import load_colours
        from tilevision.plot import draw_result

        load_colours(self.facts.checkpoint)
        if ax is not None and target is not None:
            raise RunArgumentError("Give either target= or ax=, not both.")
        target = target if ax is None else ax

        region, heat = self.facts.region, self._heat(label)
        title = f"{self.name}: {len(self.findings):,} detections"
        if heat is not None and not len(self.findings):
            title = f"{self.name}: probability of {heat[1]}"
        elif self.raster is not None and not len(self.findings):
            title = f"{self.name}: map of {self.raster.spec.kind}"
        return draw_result(
            target,
            self.source,
            [(row.tile, row.status) for row in self.rows],
            self.findings,
            title=title,
            note=self.coverage,
            outline=() if region is None else region.outline(),
            heat=heat,
            cover=None if self.raster is None else self.raster.cover(),
        )

    def _heat(self, label: str | None) -> tuple[Heatmap, str] | None:
        classified = any(found.findings.tile_scores for found in self.tile_findings)
        if label is None and (len(self.findings) or not classified):
            return None
        heat = self.heatmap()
        chosen = heat.most_varied if label is None else label
        heat.of(chosen)  # an unknown class raises before anything is drawn
        return heat, chosen

    def methods(self) -> str:
        """Return a paragraph for a paper. See `tilevision.exporting.statement.methods`."""
        from tilevision.exporting.statement import methods

        return methods(self)

    def to_geodataframe(self) -> Any:
        """Return `to_dataframe` as a `geopandas.GeoDataFrame`.

        Geometries are in the image's reference system where it has one, else in pixels (x right,
        y down) without one.

        Raises
        ------
        RunError
            If geopandas is not installed.
        """
        from tilevision.exporting.bridges.handover import to_geodataframe

        return to_geodataframe(self)

    def to_napari(self) -> list[tuple[Any, dict[str, Any], str]]:
        """Return layers for napari. See `tilevision.exporting.bridges.handover.to_napari`."""
        from tilevision.exporting.bridges.handover import to_napari

        return to_napari(self)

    def to_qupath(
        self,
        *,
        port: int = 25333,
        token: str | None = None,
        gateway: Any = None,
        object_type: str = "detection",
        replace: bool = True,
        anyway: bool = False,
    ) -> str:
        """Send the detections to the image that is open in QuPath; return what happened.

        See `tilevision.exporting.bridges.qupathgateway.to_qupath`.
        """
        from tilevision.exporting.bridges.qupathgateway import to_qupath

        how: dict[str, Any] = {"object_type": object_type, "replace": replace, "anyway": anyway}
        return to_qupath(self, port=port, token=token, gateway=gateway, **how)

    def to_spatialdata(self, *, picture: bool | float = False) -> Any:
        """Return `spatialdata.SpatialData`.

        See `tilevision.exporting.bridges.spatialdataset.to_spatialdata`.
        """
        from tilevision.exporting.bridges.spatialdataset import to_spatialdata

        return to_spatialdata(self, picture=picture)

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`.

        See `tilevision.exporting.bridges.handover.to_supervision`.
        """
        from tilevision.exporting.bridges.handover import to_supervision

        return to_supervision(self)

    def to_fiftyone(self, filepath: str | None = None) -> Any:
        """Return a `fiftyone.Sample`. See `tilevision.exporting.bridges.handover.to_fiftyone`."""
        from tilevision.exporting.bridges.handover import to_fiftyone

        return to_fiftyone(self, filepath)
