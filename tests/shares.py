"""Checkpoint folders as they are on a share, on whatever disk the tests run."""

import json
import secrets
from pathlib import Path


def as_share(folder: Path) -> Path:
    """Make a checkpoint folder that says it is made of segments, as one copied from a share."""
    folder.mkdir(mode=0o700, parents=True)
    meta = {
        "format": "tilevision checkpoint",
        "schema": 2,
        "store": "segments",
        "id": secrets.token_hex(16),
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def segments(folder: Path) -> list[Path]:
    """Return the segments of a checkpoint folder, in order."""
    return sorted((folder / "segments").glob("*.seg"))
