"""A result with every kind of detection, for the tests of what it is saved in."""

from __future__ import annotations

import numpy as np

from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.sources import ImageMetadata

SIZE = (400, 300)
TILE, OTHER = Tile(0, 0, Box(0, 0, 400, 200)), Tile(1, 0, Box(0, 150, 400, 300))
RING = [[10, 10], [60, 10], [60, 60], [10, 60]]
HOLE = [[20, 20], [30, 20], [30, 30], [20, 30]]
PART = [[70, 10], [80, 10], [80, 20], [70, 20]]
NO_CORNERS = [[np.nan, np.nan]] * 4
DIAMOND = [[125, 20], [130, 25], [125, 30], [120, 25]]


class Picture:
    size = SIZE
    fingerprint = "ab12"

    def __init__(self, **metadata):
        self.metadata = ImageMetadata(**metadata)


def found():
    return Findings(
        [[10, 10, 80, 60], [120, 20, 130, 30], [200, 100, 210.126, 104], [5, 5, 5, 5]],
        [0.9, 0.8, np.nan, 0.123456],
        ["nucleus, big", "ship", 'say "µ"\n=1', "point"],
        polygons=[[[np.array(RING), np.array(HOLE)], [np.array(PART)]], None, None, None],
        oriented=[NO_CORNERS, DIAMOND, NO_CORNERS, NO_CORNERS],
        points=[[np.nan, np.nan]] * 3 + [[5, 5]],
        texts=[None, None, "Ünïcode", None],
        attributes=[{"roundness": 0.5, "stain": "HE", "flags": [1]}, None, None, None],
    )


def result_of(findings=None, rows=None, metadata=None, **facts):
    rows = rows or [
        TileRow(0.0, TILE, "done", 1, "tcp://x", read_seconds=0.1, infer_seconds=0.2),
        TileRow(0.0, OTHER, "done"),
    ]
    seen = [TileFindings(TILE, found() if findings is None else findings)]
    about = RunFacts(**({"run_id": "run-77", "status": "complete", "model": "m"} | facts))
    return Result(Picture(**(metadata or {})), rows, seen, MergeSettings(), about, "scan.tif")


def partial(findings=None, metadata=None):
    rows = [TileRow(0.0, TILE, "done"), TileRow(0.0, OTHER, "failed", 3, error="ModelError: broke")]
    return result_of(findings, rows=rows, metadata=metadata, status="partial")
