"""What a result offers to those who take it elsewhere."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tilevision.analysis.heatmap import Heatmap
    from tilevision.exporting.crops import Choice
    from tilevision.result import Result

__all__ = ["Exportable"]


class Exportable:
    """The ways out of a `Result`, which inherits them: each in a module of its own."""

    def save(
        self,
        path: str | PathLike[str],
        format: str | None = None,  # noqa: A002  # the word people look for
        **options: Any,
    ) -> Path:
        """Write the detections; suffix or name decides. See `tilevision.exporting.save`."""
        from tilevision.exporting import save

        return save(cast("Result", self), path, format, **options)

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

        return export_tiles(cast("Result", self), folder, which, limit=limit, yolo=yolo)

    def plot(self, target: Figure | Axes | None = None, label: str | None = None) -> Figure:
        """Draw image, tiles, detections or heatmap. See `tilevision.exporting.picture.plot`."""
        from tilevision.exporting.picture import plot

        return plot(cast("Result", self), target, label)

    def heatmap(self, cell: float | None = None) -> Heatmap:
        """Return tile probabilities as a map. See `tilevision.analysis.heatmap.heatmap`."""
        from tilevision.analysis.heatmap import heatmap

        result = cast("Result", self)
        return heatmap(result.tile_findings, result.source.size, cell)

    @property
    def tile_scores(self) -> pd.DataFrame:
        """One row a tile that was classified: id, box, a column of probabilities a class."""
        from tilevision.analysis.tables import tile_score_table

        return tile_score_table(cast("Result", self).tile_findings)

    def methods(self) -> str:
        """Return a paragraph for a paper. See `tilevision.exporting.methods`."""
        from tilevision.exporting.methods import methods

        return methods(cast("Result", self))

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`. See `tilevision.exporting.handover`."""
        from tilevision.exporting.handover import to_supervision

        return to_supervision(cast("Result", self))

    def to_fiftyone(self, filepath: str | None = None) -> Any:
        """Return a `fiftyone.Sample`. See `tilevision.exporting.handover`."""
        from tilevision.exporting.handover import to_fiftyone

        return to_fiftyone(cast("Result", self), filepath)
