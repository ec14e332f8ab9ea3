"""Runs steered, cut off and gone on with, through the public functions alone."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tilevision as tv
from tilevision.sources import identity


def nothing(pixels: np.ndarray) -> list[dict[str, object]]:
    """Find nothing."""
    return []


def test_a_large_file_is_read_through_once_for_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint remembers its fingerprint by path, size, time and inode; a change is seen."""
    read: list[str] = []
    whole = identity._digest
    monkeypatch.setattr(identity, "_digest", lambda path: read.append(path) or whole(path))
    image = tmp_path / "large.tif"
    for value, reads in ((1, 1), (2, 2)):
        pixels = np.full((3584, 3584, 3), value, np.uint8)
        tifffile.imwrite(image, pixels, tile=(256, 256), photometric="rgb")
        os.utime(image, (value, value))
        fingerprints = set()
        for _ in range(3):
            identity._known.clear()  # as in another process
            plan = tv.plan(image, nothing, checkpoint=tmp_path / "kept")
            fingerprints.add(plan.source.fingerprint)
            plan.source.close()
        assert len(fingerprints) == 1 and len(read) == reads
