"""YOLO folders of results and of tiles, read by the rules of Ultralytics' own reader."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import yaml
from framework_models import needs
from PIL import Image

from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.sources import open_source

SIZE = (200, 100)
TILES = (Tile(0, 0, Box(0, 0, 120, 100)), Tile(0, 1, Box(80, 0, 200, 100), scale=0.5))
NAMES = ("car", "ship")
TURNED = [[30, 20], [50, 40], [30, 60], [10, 40]]


def columns(kind: str) -> dict[str, Any]:
    """Return what a model of this kind gives besides boxes, for a ship and a car without."""
    if kind == "obb":
        return {"oriented": [TURNED, [[np.nan] * 2] * 4]}
    if kind == "pose":
        return {"keypoints": [[[20, 30, 0.9], [-30, 50, 0.8]], [[np.nan] * 3] * 2]}
    return {}


def result_of(kind: str) -> Result:
    boxes = [[10, 20, 50, 60], [60, 10, 80, 30]]
    found = Findings(boxes, [0.9, 0.6], ["ship", "car"], [1, 0], **columns(kind))
    half = Findings(found.boxes / 2, found.scores, found.labels, found.class_ids)
    seen = [TileFindings(TILES[0], found)]
    seen.append(TileFindings(TILES[1], half if kind == "detect" else Findings()))
    rows = [TileRow(0.0, tile, "done") for tile in TILES]
    picture = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    facts = RunFacts("r", "complete", classes=NAMES)
    return Result(open_source(picture), rows, seen, MergeSettings("none"), facts, "scan.png")


def read(image: Path, label: Path, said: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return boxes, segments and key points as Ultralytics reads them, or fail with its words."""
    needs("torch", "ultralytics")
    from ultralytics.data.utils import verify_image_label

    points, dims = said.get("kpt_shape", (0, 0))
    given = (str(image), str(label), "", bool(points), len(said["names"]), points, dims, False)
    _, rows, _, segments, poses, missing, _, _, corrupt, words = verify_image_label(given)
    assert not (missing or corrupt or words), words
    return rows, segments, poses


@pytest.mark.parametrize("kind", ["detect", "obb", "pose"])
@pytest.mark.parametrize("what", ["tiles", "whole"])
def test_folders_are_what_ultralytics_reads(kind: str, what: str, tmp_path: Path) -> None:
    """Ultralytics 8.3/8.4, `verify_image_label`: every row has the columns of its task, in 0..1."""
    needs("torch", "ultralytics")
    result = result_of(kind)
    if what == "tiles":
        folder = result.export_tiles(tmp_path / "out", "all", yolo=True)
        stem, size = TILES[0].id, TILES[0].output_size
    else:
        folder = result.save(tmp_path / "out", {"detect": "yolo"}.get(kind, f"yolo-{kind}"))
        stem, size = "scan", SIZE
        (folder / "images").mkdir()
        Image.new("RGB", SIZE).save(folder / "images" / "scan.png")
    said = yaml.safe_load((folder / "data.yaml").read_text())
    assert [said["names"][i] for i in (0, 1)] == list(NAMES)
    rows, segments, poses = read(
        folder / "images" / f"{stem}.png", folder / "labels" / f"{stem}.txt", said
    )
    of_ship = np.flatnonzero(rows[:, 0] == 1)
    ship = rows[of_ship[0], 1:] * np.tile(size, 2)
    np.testing.assert_allclose(ship, [30, 40, 40, 40], atol=0.01)
    if kind == "obb":
        corners = shapely.Polygon(segments[of_ship[0]] * size)
        assert corners.symmetric_difference(shapely.Polygon(TURNED)).area < 0.5
    if kind == "pose":
        expected = [[20 / size[0], 30 / size[1], 2], [0, 0, 0]]  # the second lies outside
        np.testing.assert_allclose(poses[of_ship[0]], expected, atol=1e-6)
        assert not poses[rows[:, 0] == 0].any()


@pytest.mark.parametrize("kind", ["detect", "obb", "pose"])
def test_a_folder_of_tiles_makes_a_dataset_for_training(kind: str, tmp_path: Path) -> None:
    """`YOLODataset` takes pictures and labels of all tiles, with boxes turned or with poses."""
    _, ultralytics = needs("torch", "ultralytics")
    from ultralytics.data.dataset import YOLODataset

    folder = result_of(kind).export_tiles(tmp_path / "out", "all", yolo=True)
    said = yaml.safe_load((folder / "data.yaml").read_text())
    said |= {"nc": len(said["names"]), "channels": 3}
    settings = ultralytics.utils.DEFAULT_CFG
    made = YOLODataset(
        img_path=str(folder / "images"), data=said, task=kind, imgsz=96, augment=False, hyp=settings
    )
    assert len(made) == len(TILES)
    one = next(made[i] for i in range(len(made)) if TILES[0].id in made[i]["im_file"])
    assert sorted(one["cls"].flatten().tolist()) == [0, 1]
    assert one["bboxes"].shape[1] == (5 if kind == "obb" else 4)
    if kind == "pose":
        assert tuple(one["keypoints"].shape) == (2, 2, 3)
    shutil.rmtree(folder / "labels", ignore_errors=True)
