"""Lists the runs of a checkpoint folder from their journals."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilevision.errors import RunError
from tilevision.events.facts import RunChanged, TileChanged
from tilevision.events.lines import from_line
from tilevision.events.reading import journal_path, read_manifest

__all__ = ["RunSummary", "list_runs"]

_TILE = re.compile(rb'\{"kind":"tile","status":"(\w+)","id":"([^"\\]+)"')


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a journal says of its run.

    Parameters
    ----------
    id : str
    image, model : str
    status : str
        The last the run was in; ``unreadable`` where the journal has no manifest. A killed
        run still says ``running``: only its lock tells.
    counts : dict of str to int
        Tiles by latest status; ``pending`` for those that no line tells of.
    started, changed : float
        Seconds since the epoch: by the manifest; when the journal was last written.
    manifest : dict
    path : Path
    """

    id: str
    image: str
    model: str
    status: str
    counts: dict[str, int]
    started: float
    changed: float
    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)


def list_runs(folder: str | os.PathLike[str]) -> list[RunSummary]:
    """Return the runs of a checkpoint folder, the latest first; reads journals only."""
    journals = journal_path(folder, "*")
    runs = [_summary(path) for path in journals.parent.glob(journals.name)]
    return sorted(runs, key=lambda run: (run.started, run.id), reverse=True)


def _summary(path: Path) -> RunSummary:
    changed = path.stat().st_mtime
    try:
        manifest = read_manifest(path)
    except RunError:
        return RunSummary(path.stem, "", "", "unreadable", {}, changed, changed, path)
    status, tiles = _fold(path)
    counts = Counter(tiles.values())
    known = manifest.get("n_tiles")
    if isinstance(known, int) and known > len(tiles):
        counts["pending"] += known - len(tiles)
    started = manifest.get("started")
    return RunSummary(
        id=path.stem,
        image=str(manifest.get("image", "")),
        model=str(manifest.get("model", "")),
        status=status,
        counts=dict(counts),
        started=float(started) if isinstance(started, (int, float)) else changed,
        changed=changed,
        path=path,
        manifest=manifest,
    )


def _fold(path: Path) -> tuple[str, dict[bytes, str]]:
    """Return the run's last status and each tile's; most lines need no parsing."""
    status, tiles = "running", dict[bytes, str]()
    for line in _whole_lines(path):
        match = _TILE.match(line)
        if match:
            tiles[match[2]] = match[1].decode()
            continue
        try:
            event = from_line(line)
        except ValueError:
            continue
        if isinstance(event, RunChanged):
            status = event.status
        elif isinstance(event, TileChanged):
            tiles[event.tile.id.encode("utf-8", "backslashreplace")] = event.status
    return status, tiles


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"}\n"))
