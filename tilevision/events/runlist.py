"""Lists the runs of a checkpoint folder from their journals."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tilevision import checks
from tilevision.errors import RunError
from tilevision.events.bus import RunChanged, TileChanged, TileCounts
from tilevision.events.images import ImageChanged, read_image
from tilevision.events.journal import from_line, journal_parts, journal_path, read_manifest
from tilevision.status import RunStatus, TileStatus

__all__ = ["KnownRuns", "RunSummary", "list_runs", "lost_tiles", "tell_lost", "together"]

_LATEST = 253_402_300_800 - 86_400  # seconds: the last day of the year 9999
_log = logging.getLogger("tilevision.events")
_said: set[tuple[Path, int]] = set()
_STATUSES = frozenset(status.encode() for status in TileStatus)
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


# What was read of journals before, by path, and how long they were and when written then.
KnownRuns = dict[Path, tuple[tuple[Any, ...], RunSummary]]


def list_runs(
    folder: str | os.PathLike[str],
    most: int | None = None,
    known: KnownRuns | None = None,
    *,
    of_one: bool = False,
) -> list[RunSummary]:
    """Return the runs of a checkpoint folder, the latest first; reads journals only.

    A multi-image run is listed beside the runs of its images; see `together`.

    Parameters
    ----------
    folder : path-like
    most : int, optional
        So many, the latest: of older ones only the first line is read. Default: all.
    known : KnownRuns, optional
        Journals in it that have not changed are not read again; what is read is added to it.
    of_one : bool
        Whether multi-image runs are left out.

    Raises
    ------
    RunError
        If the folder is there and cannot be read.
    """
    known = {} if known is None else known
    heads = list(_heads(journal_path(folder, "x").parent, known))
    heads = [head for head in heads if not of_one or "images" not in (head.manifest or {})]
    heads.sort(key=lambda head: (head.started, head.path.stem), reverse=True)
    for head in heads[:most]:
        if head.known is None:
            known[head.path] = (head.stamp, _summary(head))
    return [known[head.path][1] for head in heads[:most]]


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


@dataclass(frozen=True, slots=True)
class _Head:
    """A journal before its events are read; one without a manifest cannot be read."""

    path: Path
    stamp: tuple[Any, ...]
    manifest: dict[str, Any] | None
    started: float
    changed: float
    known: RunSummary | None = None


def _heads(place: Path, known: KnownRuns) -> Iterator[_Head]:
    """Yield each journal in a folder; one that goes away meanwhile is none."""
    try:
        for path in place.iterdir():
            if path.suffix == ".jsonl":
                with suppress(FileNotFoundError):
                    yield _head(path, known)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:  # an empty list would say that there are no runs
        raise RunError(f"The runs in {place} cannot be read ({error.strerror}).") from error


def _head(path: Path, known: KnownRuns) -> _Head:
    parts = [part.stat() for part in journal_parts(path)]
    stamp = tuple((part.st_size, part.st_mtime_ns) for part in parts)
    changed = max(part.st_mtime for part in parts)
    before, run = known.get(path, ((), None))
    if run is not None and before == stamp:
        return _Head(path, stamp, run.manifest, run.started, changed, run)
    try:
        manifest = read_manifest(path)
    except RunError:
        return _Head(path, stamp, None, changed, changed)
    if not isinstance(manifest.get("images", []), list):
        return _Head(path, stamp, None, changed, changed)
    started = manifest.get("started")
    dated = checks.is_number(started) and 0 <= started < _LATEST
    at = float(started or 0) if dated else changed
    return _Head(path, stamp, manifest, at, changed)


def _summary(head: _Head) -> RunSummary:
    path, manifest = head.path, head.manifest
    if manifest is None:
        return RunSummary(path.stem, "", "", "unreadable", {}, head.started, head.changed, path)
    status, tiles, images = _fold(path)
    counts = Counter(tiles.by_status())
    total = manifest.get("n_tiles")
    if isinstance(total, int) and total > len(tiles):
        counts[TileStatus.PENDING] += total - len(tiles)
    if "images" in manifest:
        lost = set(map(str, manifest["images"])) - set(images)
        tell_lost(path, len(lost) if status == RunStatus.COMPLETE else 0, "image")
    else:
        tell_lost(path, lost_tiles(status, counts), "tile")
    return RunSummary(
        id=path.stem,
        image=str(manifest.get("image", "")),
        model=str(manifest.get("model", "")),
        status=status,
        counts=dict(counts),
        started=head.started,
        changed=head.changed,
        path=path,
        manifest=manifest,
        images=images if "images" in manifest else None,
        batch=str(manifest.get("batch", "")),
    )


def lost_tiles(status: str, counts: Mapping[str, int]) -> int:
    """Return of how many tiles a journal must have lost the end, for its run says it came to it.

    A torn line alone is no loss: what a crash or a full disk tore is written again.
    """
    if status not in (RunStatus.COMPLETE, RunStatus.PARTIAL):
        return 0
    ends = [s for s in TileStatus if (s.finished if status == RunStatus.COMPLETE else s.ended)]
    return sum(n for s, n in counts.items() if s not in ends)


def tell_lost(path: Path, lost: int, what: str) -> None:
    """Say once in this process that a journal does not say what became of some tiles or images."""
    if lost and (path, lost) not in _said:
        _said.add((path, lost))
        _log.warning(
            "The journal %s is damaged: it does not say what became of %d %s. Finished tiles are "
            "kept in the checkpoint; tv.resume(%r) restores them and says so again.",
            path,
            lost,
            what if lost == 1 else f"{what}s",
            path.stem,
        )


def _fold(path: Path) -> tuple[str, TileCounts, dict[str, ImageChanged]]:
    """Return the last status of run, tiles and images; most lines need no parsing."""
    status: str = RunStatus.RUNNING
    tiles, images = TileCounts(), dict[str, ImageChanged]()
    for line in chain.from_iterable(map(_whole_lines, journal_parts(path))):
        match = _TILE.match(line)
        if match and match[1] in _STATUSES:
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
