"""The data of a result: findings, what became of each tile, and all that follows from both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from tilevision.analysis.account import (
    Digest,
    Ground,
    RunFacts,
    TileRow,
    class_numbers,
    class_table,
    coverage,
    describe,
    digest,
    labels_of,
    most_probable,
    provenance,
    remarks,
    tiles_by_model,
    vectors_told,
)
from tilevision.analysis.resultarrays import ResultArrays
from tilevision.errors import RunError
from tilevision.findings import Findings, TileFindings
from tilevision.seams import MergeSettings, Sightings
from tilevision.status import TileStatus

if TYPE_CHECKING:
    from collections import Counter

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from tilevision.analysis.heatmap import Heatmap
    from tilevision.analysis.units import Units
    from tilevision.corrections import Applied, CorrectionCounts, CorrectionLayer
    from tilevision.rasters import MapSettings, RasterMap
    from tilevision.seams import Detections, OverlapCheck, SeamBias
    from tilevision.sources import ImageSource

__all__ = ["ResultData"]

_T = TypeVar("_T")

# Fewer objects than this vary more from place to place than any seam would make them.
ENOUGH_FOR_BIAS = 500

_FIELDS = (
    *("source", "rows", "tile_findings", "settings", "facts", "name", "blending", "by_hand"),
    "_sightings",
)
_SAME: Any = type("_Same", (), {"__repr__": lambda _: "…"})()  # None says: no limit, every class


class ResultData(ResultArrays):
    """The findings of one image, and an account of every tile.

    Nothing here depends on the order in which tiles finished.

    Parameters
    ----------
    source : ImageSource
        The image; asked for its size and metadata, and for pixels when plotting.
    rows : sequence of TileRow
        One per tile of the grid.
    tile_findings : sequence of TileFindings
        Of the tiles that were analysed.
    settings : MergeSettings
    facts : RunFacts
    name : str
        Of the image, for people.
    blending : MapSettings, optional
        How maps of tiles become one.
    by_hand : CorrectionLayer, optional
        What a person corrected; None: nothing is applied.
    """

    def __init__(
        self,
        source: ImageSource,
        rows: Sequence[TileRow],
        tile_findings: Sequence[TileFindings],
        settings: MergeSettings,
        facts: RunFacts,
        name: str,
        blending: MapSettings | None = None,
        by_hand: CorrectionLayer | None = None,
    ) -> None:
        self.source = source
        self.rows = tuple(sorted(rows, key=lambda row: row.tile))
        self.tile_findings = tuple(sorted(tile_findings, key=lambda found: found.tile))
        self.settings, self.facts, self.name = settings, facts, name
        self.blending, self.by_hand = blending, by_hand
        self._sightings = Sightings(self.tile_findings, source.size)

    def _changed(self, **fields: Any) -> Self:
        """Return the result with some of what it was made of replaced; tiles stay sorted."""
        made = object.__new__(type(self))
        made.__dict__ |= {name: getattr(self, name) for name in _FIELDS} | fields
        return made

    @property
    def run_id(self) -> str:
        """Identifier of the run, as `tv.runs` lists it."""
        return self.facts.run_id

    @property
    def status(self) -> str:
        """How the run ended: ``complete``, ``partial``, ``stopped`` or ``cancelled``."""
        return self.facts.status

    @property
    def verdict(self) -> Any:
        """What moderation said of the image; None where nobody was asked."""
        return self.facts.verdict

    @property
    def cost(self) -> float | None:
        """Price of all calls made, failed ones too; None where no model has a price."""
        return self.facts.cost

    @property
    def costs(self) -> Mapping[str, float]:
        """The cost of each model that has a price and was asked, moderation and synthesis too."""
        return self.facts.costs

    @cached_property
    def models(self) -> dict[str, int]:
        """How many tiles' findings are each model's."""
        return tiles_by_model(self.facts, self.rows)

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Microns per pixel in x and y, where known."""
        return self.source.metadata.mpp

    @cached_property
    def units(self) -> Units:
        """Of areas and densities: µm² and mm², m² and hectares, or pixels."""
        from tilevision.analysis.units import units_of

        return units_of(self.source.metadata)

    @cached_property
    def complete(self) -> bool:
        """True if every tile of the region was analysed."""
        met = {row.status for row in self.rows}
        return bool(met) and all(TileStatus(status).finished for status in met)

    @cached_property
    def classes(self) -> dict[str, int]:
        """Class names and their numbers: the model's, whatever was found, filtered or merged."""
        names, seen = self.facts.classes, self.tile_findings
        table = self._once("classes", lambda: class_table(names, seen))
        if self.by_hand is None:
            return table
        from tilevision.analysis.handwork import with_classes

        return with_classes(table, self.by_hand)

    @property
    def labels_in_tiles(self) -> Counter[str]:
        """How many detections the tiles have of each class, before anything else."""
        return self._once("labels", lambda: labels_of(self.tile_findings))

    @property
    def class_numbers(self) -> NDArray[np.int64]:
        """The class number ``(n,)`` of each of `findings`."""
        return class_numbers(self.findings, self.classes)

    @property
    def _chosen(self) -> Detections:
        """What the tiles saw, of the classes and scores asked for."""
        how = self.settings
        return self._sightings.detections(
            how.min_score, how.classes, class_agnostic=how.class_agnostic
        )

    @cached_property
    def findings(self) -> Findings:
        """Detections in pixels of the full-resolution image, merged across tiles.

        Where a region was asked for, those whose box has its centre in it; where limits of score
        or area were, those that keep them. What a person corrected has no limit of score.
        """
        found = self._merged if self.by_hand is None else self._corrected.findings
        if self.facts.region is not None:
            found = found.take(self.facts.region.holds(_centres(found)))
        if self.settings.limits:
            from tilevision.analysis.handwork import free_scores

            scores = free_scores(found) if self.by_hand else found.scores
            found = found.take(self.settings.within(scores, self._areas_of(found)))
        return found

    @cached_property
    def _corrected(self) -> Applied:
        from tilevision.analysis.handwork import applied

        assert self.by_hand is not None
        region, how = self.facts.region, self.settings
        return applied(self.by_hand, self._merged, self.tile_findings, region, how)

    @property
    def correction_counts(self) -> CorrectionCounts | None:
        """How many objects a person corrected; None where no corrections are applied."""
        return None if self.by_hand is None else self._corrected.counts

    @property
    def origins(self) -> NDArray[np.object_]:
        """What a person did to each ``(n,)`` of `findings`; ``"model"`` where nobody did."""
        from tilevision.corrections import origins

        return origins(self.findings)

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """The area ``(n,)`` of each of `findings`, in the unit ``units.area``: µm², m² or px²."""
        return self._areas_of(self.findings)

    def _areas_of(self, found: Findings) -> NDArray[np.float64]:
        from tilevision.analysis.units import areas

        return self.units.of(_centres(found), areas(found))

    @cached_property
    def _merged(self) -> Findings:
        """What the tiles saw together; tiles that reach out of a region saw beyond it as well."""
        from tilevision.seams import merged_by

        how = self.settings
        if how.method == "seam":
            return self._merged_and_checked[0]
        return merged_by(how.method, self._chosen, how.match_metric, how.match_threshold)

    @cached_property
    def _merged_and_checked(self) -> tuple[Findings, OverlapCheck]:
        """Both of which need the objects that the tiles saw, by seam."""
        from tilevision.seams import merge_and_check

        how = self.settings
        matching = how.class_agnostic, how.match_metric, how.match_threshold
        return merge_and_check(self._chosen, self._saturated, *matching)

    @property
    def _saturated(self) -> tuple[str, ...]:
        from tilevision.seams import saturated_tiles

        return self._once("saturated", lambda: saturated_tiles(self.tile_findings))

    @cached_property
    def seam_bias(self) -> SeamBias:
        """How many more objects stand near the seams than elsewhere: 0 is right."""
        from tilevision.seams import Seams

        tiles = [found.tile for found in self.tile_findings]
        return self._once("seams", lambda: Seams(tiles, self.source.size)).bias(self._merged)

    @cached_property
    def overlap_check(self) -> OverlapCheck:
        """How many objects the tiles cut, and the overlap that would be enough."""
        from tilevision.seams import overlap_checked

        if self.settings.method == "seam":
            return self._merged_and_checked[1]
        return overlap_checked(self._chosen, self._saturated)

    @cached_property
    def digest(self) -> Digest:
        """The bounded facts that the summary is written from."""
        return digest(
            self.findings,
            self._once("ground", self._ground),
            size=self.source.size,
            units=self.units,
            mpp=self.mpp,
            model=self.facts.model,
            n_saturated=len(self._saturated),
            region=self.facts.region,
            classified=self._once("classified", lambda: most_probable(self.tile_findings)),
            left_out=self._left_out,
        )

    @property
    def _left_out(self) -> str:
        """What the filters left out, in a sentence, where they left nothing; else empty."""
        how, tiles = self.settings, self.tile_findings
        seen = 0 if len(self.findings) else sum(len(one.findings) for one in tiles)
        asked = [] if how.classes is None else [f"class {' or '.join(how.classes)[:80] or 'none'}"]
        limits = {} if how.min_score is None else {"min_score": how.min_score}
        asked += [f"{name} {limit:g}" for name, limit in (limits | how.limits).items()]
        if not seen or not asked:
            return ""
        labels = sorted({str(label)[:40] for one in tiles for label in one.findings.labels})
        more = f" and {len(labels) - 5} more classes" if len(labels) > 5 else ""
        return (
            f"The filters ({', '.join(asked)}) keep none of the {seen:,} detections of its tiles: "
            f"{', '.join(labels[:5])}{more}."
        )

    def _once(self, name: str, make: Callable[[], _T]) -> _T:
        """Return what follows from the tiles alone, the same for all results of `with_`."""
        return cast("_T", self._sightings.once(name, make))

    def _ground(self) -> Ground:
        return Ground.of(
            [(row.tile, row.status) for row in self.rows],
            size=self.source.size,
            units=self.units,
            region=self.facts.region,
            data_share=self.data_share,
        )

    @property
    def data_share(self) -> NDArray[np.float32] | None:
        """The share of each cell of the image that has data; None where all has, or none says."""
        from tilevision.analysis.units import data_share_of

        return data_share_of(self.source)

    @property
    def coverage(self) -> str:
        """How much of the image was analysed, by which models, and what was corrected by hand."""
        return " ".join(filter(None, [coverage(self.digest), self._by_whom]))

    @property
    def _by_whom(self) -> str:
        shares = [f"{n:,} by {name}" for name, n in self.models.items()]
        told = f"Tiles: {', '.join(shares)}." if len(self.facts.models) > 1 and shares else ""
        return " ".join(filter(None, [told, str(self.correction_counts or "")]))

    @property
    def description(self) -> str:
        """The scene in sentences, without a word on when or how it was computed."""
        if self.facts.synthesis is None:
            arrays = filter(None, [vectors_told(self.tile_findings), self._map_told[0]])
            scene = describe(self.digest, " and ".join(arrays))
            text = " ".join(filter(None, [scene, self._by_whom]))
        else:
            text = f"{self.facts.synthesis.strip()} {self.coverage}"
        if self._map_told[1]:
            text = f"{text} {self._map_told[1][:1].upper()}{self._map_told[1][1:]}."
        if len(self.tile_findings) < 2 or not len(self.findings):
            return text
        checks: list[object] = [self.overlap_check]
        if len(self.findings) >= ENOUGH_FOR_BIAS:
            checks.insert(0, self.seam_bias)
        return " ".join([text, *(f"{str(c)[:1].upper()}{str(c)[1:]}." for c in checks)])

    @cached_property
    def _map_told(self) -> tuple[str, str]:
        """What the map has, and how far its tiles agree, in words; empty without a map."""
        if all(seen.raster is None for seen in self.tile_findings):
            return "", ""
        from tilevision.rasters import map_told

        try:
            raster = self.raster
        except RunError as error:  # several kinds
            return f"maps ({str(error).rstrip('.')})", ""
        return ("", "") if raster is None else map_told(raster)

    @property
    def summary(self) -> str:
        """The description, how much of it was restored and from when, and what it cost."""
        cost = f"The calls cost {self.cost:.4g}." if self.cost else ""
        if self.cost and self.facts.uncounted:
            cost = (
                f"The calls cost at most {self.cost:.4g}: the server did not count the tokens of "
                f"{self.facts.uncounted:,} of them."
            )
        notes, restored = remarks(self.tile_findings), provenance(self.facts, len(self.rows))
        return " ".join(filter(None, [self.description, notes, restored, cost]))

    @property
    def tiles(self) -> pd.DataFrame:
        """One row a tile: position, status, attempts, times (NaN if restored), error."""
        from tilevision.analysis.tables import tile_table

        return tile_table(self.rows)

    @cached_property
    def raster(self) -> RasterMap | None:
        """The map of the image, blended from those of its tiles as it is read; None without any.

        See `tilevision.rasters.rastermap.RasterMap`; `with_` changes how it is blended.

        Raises
        ------
        RunError
            If maps of several kinds are among them, or settings of `with_` do not suit them.
        """
        if all(seen.raster is None for seen in self.tile_findings):
            return None
        from tilevision.rasters import MapSettings, map_of

        how = replace(self.blending or MapSettings(), classes=self.settings.classes)
        tiles = [row.tile for row in self.rows]
        about = self.source, how, self.units, self.facts.region, self.facts.checkpoint
        return map_of(tiles, self.tile_findings, *about)

    def _of_tiles(self, found: Sequence[TileFindings]) -> ResultData:
        rest = (self.settings, self.facts, self.name, self.blending, self.by_hand)
        return type(self)(self.source, self.rows, found, *rest)

    def _of_areas(self, found: Sequence[TileFindings], facts: RunFacts) -> Self:
        how = MergeSettings(method="none")
        return type(self)(self.source, self.rows, found, how, facts, self.name)

    @property
    def failed(self) -> pd.DataFrame:
        """The failed tiles: where they lie, and why, after how many attempts, on what worker.

        ``details`` says where the error came from: the last lines of the model's own code, the
        causes and notes, and the last lines that the model printed; empty where the tile failed
        without an exception.
        """
        columns = ["id", "xmin", "ymin", "xmax", "ymax", "error", "attempts", "worker"]
        failed = self.tiles.query("status == 'failed'")[columns].reset_index(drop=True)
        return failed.assign(details=[r.details for r in self.rows if r.status == "failed"])

    @property
    def first_failure(self) -> str:
        """One sentence: why the first of the failed tiles failed; empty where none did."""
        row = next((row for row in self.rows if row.status == TileStatus.FAILED), None)
        return "" if row is None else f"Tile {row.tile.id}: {row.error.rstrip('.')}."

    def to_dataframe(self, geometry: str | None = None) -> pd.DataFrame:
        """Return one row per detection, in pixels of the full-resolution image.

        Parameters
        ----------
        geometry : str, optional
            ``"wkb"`` or ``"shapely"`` adds the column ``geometry``: the outline, else the rotated
            box, else the point of an empty box, else the box. See also `Result.to_geodataframe`.

        Returns
        -------
        DataFrame
            xmin, ymin, xmax, ymax, label, class_id, score (NaN where the model gives none),
            area (px²) and, where microns per pixel or a reference system are known, area_um2
            (µm²) or area_m2 (m², geodesic). Where there are such: text; point_x, point_y;
            corner0_x … corner3_y of rotated boxes; keypoint0_x, keypoint0_y, keypoint0_score, …;
            attributes.NAME, and attributes.NAME.INNER of nested mappings. Of a corrected result
            origin: ``"model"``, or what a person did. ``attrs`` holds the units and what was not
            analysed.

        Raises
        ------
        RunError
            If `geometry` is unknown.
        """
        from tilevision.analysis.tables import detection_table

        said = {"complete": self.complete, "coverage": self.coverage}
        table = detection_table(self.findings, self.class_numbers, self.units, said, geometry)
        if self.by_hand is None:
            return table
        from tilevision.analysis.handwork import with_origins

        return with_origins(table, self.findings)

    @property
    def tile_scores(self) -> pd.DataFrame:
        """One row per classified tile: id, box, and one column of probabilities per class."""
        from tilevision.analysis.tables import tile_score_table

        return tile_score_table(self.tile_findings)

    def heatmap(self, cell: float | None = None) -> Heatmap:
        """Return tile probabilities as a map. See `tilevision.analysis.heatmap.heatmap`."""
        from tilevision.analysis.heatmap import heatmap

        return heatmap(self.tile_findings, self.source.size, cell)

    def with_(
        self,
        *,
        min_score: float | None = _SAME,
        classes: Iterable[str] | None = _SAME,
        merge: str = _SAME,
        class_agnostic: bool = _SAME,
        match_metric: str = _SAME,
        match_threshold: float = _SAME,
        max_score: float | None = _SAME,
        min_area: float | None = _SAME,
        max_area: float | None = _SAME,
        region: Any = _SAME,
        blend: str = _SAME,
        margin: int = _SAME,
        thresholds: Mapping[str, float] | None = _SAME,
        unsure: float | None = _SAME,
    ) -> Self:
        """Return the result under other thresholds or another merge; nothing is inferred.

        What is not given stays; None lifts `classes`, and limits of score and area. Areas are in
        the unit ``units.area`` of the image. `region` is as `tilevision.start` takes it: tiles
        that do not touch it are left out as if they had been skipped, and those that it touches
        and that were not analysed are said to be missing.

        Of maps: `blend` is ``"smooth"``, ``"linear"``, ``"core"`` or ``"mean"``, `margin` pixels
        along inner edges of tiles that count only where no other tile has any, `thresholds` the
        share from which a class counts, `unsure` the share below which the best class is none
        (254); classes other than `classes` are none as well.

        Raises
        ------
        RunError
            If a name is unknown or a number lies outside 0 to 1.
        GridError, SourceError
            If the region is not understood.
        """
        asked: dict[str, Any] = {
            "min_score": min_score,
            "classes": classes,
            "method": merge,
            "class_agnostic": class_agnostic,
            "match_metric": match_metric,
            "match_threshold": match_threshold,
            "max_score": max_score,
            "min_area": min_area,
            "max_area": max_area,
        }
        changed = {name: value for name, value in asked.items() if value is not _SAME}
        fields: dict[str, Any] = {
            "settings": replace(self.settings, **changed),
            "blending": self._blending({"blend": blend, "margin": margin}, thresholds, unsure),
        }
        if region is _SAME:
            self._sightings.keep = True  # for the next time, too
        else:
            from tilevision.analysis.regionrows import within_region

            now = self.source, self.rows, self.tile_findings, self.facts
            rows, seen, facts = within_region(region, *now)
            fields |= {"rows": rows, "tile_findings": seen, "facts": facts}
            fields["_sightings"] = Sightings(seen, self.source.size)
        return self._changed(**fields)

    def _blending(
        self, given: dict[str, Any], thresholds: Any, unsure: float | None
    ) -> MapSettings | None:
        """Return how maps are blended with what was given changed; None: nothing ever was."""
        from tilevision.rasters import MapSettings

        none = () if thresholds is None else thresholds
        asked = given | {"thresholds": none, "unsure": unsure}
        if thresholds is _SAME:
            del asked["thresholds"]
        changed = {name: value for name, value in asked.items() if value is not _SAME}
        return replace(self.blending or MapSettings(), **changed) if changed else self.blending

    @property
    def regions(self) -> pd.DataFrame:
        """One row per region that was asked for: name, detections, area, density, analysed share.

        Areas and densities are of the analysed part, in the units of the image (``attrs``). A
        region from GeoJSON with named features has a row for each name; without a region the one
        row is the whole image.
        """
        from tilevision.analysis.regionrows import region_table

        return region_table(
            self.findings,
            self.rows,
            self.facts.region,
            size=self.source.size,
            units=self.units,
            data_share=self.data_share,
        )

    def __repr__(self) -> str:
        return (
            f"<Result {self.name}: {len(self.findings):,} detections, {self.status}. "
            f"{self.coverage}>"
        )

    def _repr_html_(self) -> str:
        from tilevision.analysis.resulthtml import map_html, result_html

        mapped = map_html(lambda: self.raster)
        missing = "" if self.complete else self.coverage
        return result_html(self.name, self.status, self.summary, missing, self.digest, mapped)


def _centres(found: Findings) -> NDArray[np.float64]:
    middles: NDArray[np.float64] = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    return middles
