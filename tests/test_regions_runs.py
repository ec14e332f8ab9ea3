"""Runs of a region: what is skipped, what counts, and who knows of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from PIL import Image

import tilevision as tv
from tilevision.batch.collection import analyze_many
from tilevision.cli import main
from tilevision.events import TileChanged, journal_path, read_journal
from tilevision.findings import Findings, TileFindings
from tilevision.regions import Region
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.sources import ImageMetadata

LEFT = (0, 0, 110, 300)  # holds two of the four columns of spots


def bright(pixels: np.ndarray) -> list[dict[str, Any]]:
    """Find bright squares by connected components."""
    from skimage.measure import label, regionprops

    return [
        {"box": (r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]), "score": 0.9, "label": "spot"}
        for r in regionprops(label(pixels[..., 0] > 128))
    ]


class Picture:
    """A source that says what it is and is never read."""

    size = (200, 100)
    fingerprint = "ab12"
    metadata = ImageMetadata(mpp=(0.5, 0.5))


def _result(statuses: tuple[str, ...], region: Any) -> Result:
    """Return a result of 4 columns of tiles, each with a detection at its centre."""
    tiles = tv.Grid(rows=1, cols=4, overlap=0).tiles(Picture.size)
    rows = [TileRow(0.0, tile, status) for tile, status in zip(tiles, statuses, strict=True)]
    found = Findings([[20, 40, 30, 60]], [0.9], ["cell"])
    seen = [TileFindings(row.tile, found) for row in rows if row.status in ("done", "restored")]
    facts = RunFacts("r1", "complete", model="cells", region=Region(region, "box"))
    return Result(Picture(), rows, seen, MergeSettings(), facts, "a.tif")  # type: ignore[arg-type]


def test_what_lies_outside_the_region_does_not_count() -> None:
    """By the centre of its box, after the merge; thresholds keep the region."""
    result = _result(("done", "done", "skipped", "skipped"), shapely.box(0, 0, 70, 100))
    assert result.findings.boxes.tolist() == [[20, 40, 30, 60]]
    assert len(result.with_(min_score=0.1).findings) == 1
    assert result.complete
    assert "1 detection (1 cell) within the region (box)" in result.summary
    assert result.coverage.startswith("The region (box), 35% of the image, was analysed: 2 of 4")


def test_densities_divide_by_the_region_not_by_its_tiles() -> None:
    """70 × 100 px at 0.5 µm are 0.00175 mm²."""
    result = _result(("done", "done", "skipped", "skipped"), shapely.box(0, 0, 70, 100))
    assert result.digest.analysed_area == 7000
    assert result.digest.density == (pytest.approx(1 / 0.00175), "mm²")


def test_what_is_missing_is_a_share_of_the_region() -> None:
    """A failed tile with 20 of the region's 70 columns."""
    result = _result(("done", "failed", "skipped", "skipped"), shapely.box(0, 0, 70, 100))
    assert not result.complete
    assert result.digest.analysed_area == 5000
    assert result.coverage.startswith("INCOMPLETE: 1 of 2 tiles, 29% of the region,")
    assert result.digest.analysed_share == pytest.approx(5 / 7)


def test_a_file_says_of_which_region_it_is(tmp_path: Path) -> None:
    """With its outline in pixels, readable as a region again; skipped tiles are not missing."""
    result = _result(("done", "done", "skipped", "skipped"), shapely.box(0, 0, 70, 100))
    raw = json.loads(result.save(tmp_path / "a.json").read_text())
    assert Region.from_dict(raw["region"]) == result.facts.region
    assert raw["not_analysed"] == []
    assert raw["analysed"]["skipped"] == 2


def test_the_picture_has_the_regions_outline_and_says_so(spots: np.ndarray) -> None:
    """Dashed, with an entry of its own; a region around a hole has two rings."""
    from tilevision.plot import draw_result

    result = _result(("done", "done", "skipped", "skipped"), shapely.box(0, 0, 70, 100))
    around = shapely.box(0, 0, 70, 100).difference(shapely.box(10, 10, 60, 90))
    outline = Region(around, "ring").outline()
    assert [len(ring) for ring in outline] == [5, 5]
    tiles = [(row.tile, row.status) for row in result.rows]
    with_it, without = (
        draw_result(None, spots[:100, :200], tiles, result.findings, outline=rings)
        for rings in (outline, ())
    )
    for figure, count in ((with_it, 1), (without, 0)):
        (axes,) = figure.axes
        words = [text.get_text() for text in axes.get_legend().get_texts()]
        assert words.count("region") == count
        assert words.count("2 tiles skipped") == 1
    assert len(with_it.axes[0].collections) == len(without.axes[0].collections) + 2


def test_a_plan_says_what_is_skipped(elsewhere: Path, spots: np.ndarray) -> None:
    """Nothing runs, and the outline is there for those who draw."""
    plan = tv.plan(spots, bright, grid="3x4", region=LEFT)
    assert plan.region is not None
    assert plan.region.geometry.bounds == LEFT
    assert len(plan.skipped) + len(plan.to_run) == len(plan.tiles) == 12
    assert plan.skipped == {t for t in plan.tiles if t.box.x0 >= 110}
    assert f"{len(plan.skipped)} tiles lie outside and are skipped: region (box)" in repr(plan)
    crossed = tv.plan(spots, bright, region=[(0, 0), (9, 9), (9, 0), (0, 9)])
    assert "crosses itself" in repr(crossed)
    assert tv.plan(spots, bright, grid="3x4").region is None


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_only_the_region_is_analysed_and_the_rest_is_told(
    elsewhere: Path, spots: np.ndarray
) -> None:
    """Skipped tiles are told once, never run; a larger region restores what is stored."""
    run = tv.start(spots, bright, grid="3x4", region=LEFT)
    result = run.result()
    _, events = read_journal(journal_path(".tilevision", run.id))
    seen = [event for event in events if isinstance(event, TileChanged)]
    told = [event.tile for event in seen if event.status == "skipped"]
    skipped = set(told)
    assert len(told) == len(skipped)
    assert skipped == {tile for tile in run.tiles if tile.box.x0 >= 110}
    assert not skipped & {event.tile for event in seen if event.status != "skipped"}
    assert run.counts == {"skipped": len(skipped), "done": 12 - len(skipped)}
    assert len(result.findings) == 6
    assert set(result.tiles["status"]) == {"done", "skipped"}
    again = tv.analyze(spots, bright, grid="3x4", region=[LEFT, (300, 0, 400, 300)], progress=False)
    assert (again.tiles["status"] == "restored").sum() == 12 - len(skipped)
    assert len(again.findings) == 9
    assert len(tv.analyze(spots, bright, grid="3x4", progress=False).findings) == 12


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_goes_on_and_is_followed_within_its_region(
    elsewhere: Path, spots: np.ndarray
) -> None:
    """The journal holds region and detail: tiles, statuses and findings are the same anywhere."""
    Image.fromarray(spots).save("spots.png")
    mask = np.zeros((30, 40), dtype=bool)
    mask[:, :11] = True
    grid = tv.Grid.adaptive(64, 256)
    first = tv.analyze("spots.png", bright, grid=grid, region=mask, progress=False)
    assert {"skipped", "done"} == set(first.tiles["status"])
    assert len(first.findings) == 6
    followed = tv.FollowedRun(first.run_id)
    assert followed.region == first.facts.region
    assert followed.counts == first.tiles["status"].value_counts().to_dict()
    code = (
        "import sys, json, tilevision as tv; run = tv.FollowedRun(sys.argv[1]);"
        "print(json.dumps([[t.to_dict() for t in run.tiles], run.region.to_dict(), run.counts]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, first.run_id], capture_output=True, text=True, check=True
    ).stdout
    tiles, region, counts = json.loads(out)
    assert tiles == [tile.to_dict() for tile in followed.tiles]
    assert Region.from_dict(region) == first.facts.region
    assert counts == followed.counts
    resumed = tv.resume(first.run_id, model=bright).result()
    assert resumed.facts.region == first.facts.region
    assert resumed.findings == first.findings
    assert set(resumed.tiles["status"]) == {"skipped", "restored"}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_failures_are_counted_among_the_tiles_of_the_region(
    elsewhere: Path, spots: np.ndarray
) -> None:
    """Half of 3 tiles is the limit where 9 of 12 are skipped, and the end says of how many."""

    def broken(pixels: np.ndarray) -> Any:
        raise tv.PermanentError("no")

    with pytest.warns(UserWarning, match="tiles"):
        result = tv.analyze(
            spots, broken, grid="3x4", region=(0, 0, 70, 300), max_failures=0.5, progress=False
        )
    assert result.status == "stopped"
    asked = (result.tiles["status"] != "skipped").sum()
    assert asked == 3
    assert result.coverage.startswith("INCOMPLETE: 3 of 3 tiles, 100% of the region")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_many_images_take_one_region_each_their_own_tissue(elsewhere: Path) -> None:
    """A slide without tissue is an error of its own and stops nothing."""
    slide = np.full((300, 400, 3), 240, dtype=np.uint8)
    Image.fromarray(slide).save("glass.png")
    slide[100:200, 100:200] = (200, 60, 160)
    Image.fromarray(slide).save("tissue.png")
    batch = analyze_many(
        ["glass.png", "tissue.png"], bright, grid="3x4", region="tissue", progress=False
    )
    assert "no tissue" in str(batch.errors["glass.png"])
    assert (batch.results["tissue.png"].tiles["status"] == "skipped").any()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_shell_takes_a_region(elsewhere: Path, spots: np.ndarray) -> None:
    """Numbers, a file, and one line with exit code 2 for what is none."""
    Image.fromarray(spots).save("spots.png")
    Path("f.py").write_text("def none(pixels):\n    return []\n")
    Path("left.geojson").write_text(json.dumps(shapely.geometry.mapping(shapely.box(*LEFT))))

    def run(region: str) -> Any:
        command = ["run", "spots.png", "--model", "f.py:none", "--grid", "3x4", "--region", region]
        return CliRunner().invoke(main, command)

    for region, name in (("0,0,110,300", "box"), ("left.geojson", "left.geojson")):
        done = run(region)
        assert done.exit_code == 0, done.output
        assert f"The region ({name}), 28% of the image, was analysed" in done.output
    bad = run("500,0,600,100")
    assert bad.exit_code == 2
    assert "misses the image" in bad.output
    assert "Traceback" not in bad.output
