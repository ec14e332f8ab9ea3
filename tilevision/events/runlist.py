"""Lists the runs of a checkpoint folder from their journals."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tilevision.errors import RunError
from tilevision.events.bus import RunChanged, TileChanged, TileCounts
from tilevision.events.images import ImageChanged, read_image
from tilevision.events.journal import from_line, journal_parts, journal_path, read_manifest
from tilevision.status import RunStatus, TileStatus

__all__ = ["RunSummary", "list_runs", "together"]

_TILE = re.compile(rb'\{"kind":"tile","status":"(\w+)","id":"([^"\\]+)"')


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a journal says of its run.

    Parameters
    ----------
    id : str
    image, model : str
    status : str
        The last one in the journal; ``unreadable`` if the journal has no manifest. A killed
        run still has ``running`` there: only its lock shows that it is gone.
    counts : dict of str to int
        Tiles by latest status; ``pending`` for those without a line.
    started, changed : float
        Seconds since the epoch: by the manifest; when the journal was last written.
    manifest : dict
    path : Path
    images : dict of str to ImageChanged or None
        Of a multi-image run: the latest event of each image. None: the run of one image.
    batch : str
        Id of the multi-image run that this run of one image is part of.
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
    images: dict[str, ImageChanged] | None = None
    batch: str = ""


def list_runs(folder: str | os.PathLike[str]) -> list[RunSummary]:
    """Return the runs of a checkpoint folder, the latest first; reads journals only.

    A multi-image run is listed beside the runs of its images; see `together`.
    """
    journals = journal_path(folder, "*")
    runs = [_summary(path) for path in journals.parent.glob(journals.name)]
    return sorted(runs, key=lambda run: (run.started, run.id), reverse=True)


def together(runs: Iterable[RunSummary]) -> list[RunSummary]:
    """Return `runs` with each multi-image run as one, its images' tiles counted together."""
    known = {run.id: run for run in runs}
    merged = []
    for run in known.values():
        if run.images is not None:
            counts = Counter[str]()
            for image in run.images.values():  # of one that was begun again, its later run
                counts.update(known[image.run].counts if image.run in known else {})
            merged.append(replace(run, counts=dict(counts)))
        elif run.batch not in known:
            merged.append(run)
    return merged


def _summary(path: Path) -> RunSummary:
    changed = max(part.stat().st_mtime for part in journal_parts(path))
    try:
        manifest = read_manifest(path)
    except RunError:
        return RunSummary(path.stem, "", "", "unreadable", {}, changed, changed, path)
    status, tiles, images = _fold(path)
    counts = Counter(tiles.by_status())
    known = manifest.get("n_tiles")
    if isinstance(known, int) and known > len(tiles):
        counts[TileStatus.PENDING] += known - len(tiles)
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
        images=images if "images" in manifest else None,
        batch=str(manifest.get("batch", "")),
    )


def _fold(path: Path) -> tuple[str, TileCounts, dict[str, ImageChanged]]:
    """Return the last status of run, tiles and images; most lines need no parsing."""
    status: str = RunStatus.RUNNING
    tiles, images = TileCounts(), dict[str, ImageChanged]()
    for line in chain.from_iterable(map(_whole_lines, journal_parts(path))):
        match = _TILE.match(line)
        if match:
            tiles.change(match[2], match[1].decode())
            continue
        try:
            event, image = from_line(line), read_image(line)
        except ValueError:
            continue
        if image is not None:
            images[image.image] = image
        if isinstance(event, RunChanged):
            status = event.status
        elif isinstance(event, TileChanged):
            tiles.change(event.tile.id.encode("utf-8", "backslashreplace"), event.status)
    return status, tiles, images


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"}\n"))
