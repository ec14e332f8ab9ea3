"""Tiles as pictures with their labels, for labelling tools that cannot open large images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import compress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tilevision import checks
from tilevision.analysis.account import TileRow, categories, positions
from tilevision.checks import whole
from tilevision.errors import Failure, RunArgumentError, SourceError
from tilevision.exporting.coco import annotation, listed
from tilevision.exporting.detectionrows import Detection, unpacked
from tilevision.exporting.folders import filling
from tilevision.exporting.statement import statement
from tilevision.exporting.yolofolder import box_line, pose_line, turned_line, write_names
from tilevision.files import stream_json
from tilevision.findings import Findings
from tilevision.sources import ReadOptions, display_options, read_pixels
from tilevision.status import TileStatus

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["Choice", "export_tiles", "uncertainty"]

Choice = str | Callable[[TileRow, Findings], bool]

UNCERTAIN = 0.5


def export_tiles(
    result: ResultData,
    folder: str | PathLike[str],
    which: Choice = "uncertain",
    *,
    limit: int | None = None,
    yolo: bool = False,
) -> Path:
    """Write tiles as PNG with what the model found in them; return the folder.

    ``images/TILE.png`` is the tile at the scale the model saw, 8-bit RGB (stretched by one
    rule for the whole image). ``annotations.coco.json`` labels all of them: pixels of the
    crop, what the model found in that tile, thresholds applied, nothing merged; each image
    there carries its ``tile``, ``box`` (full-resolution pixels), ``scale`` and ``status``. Of a
    corrected result each tile has what a person made of it, cut to the tile (a part of less than a
    tenth is left out); the file says how many objects were corrected.
    ``tilevision.json`` says what was not analysed.

    Parameters
    ----------
    result : Result
    folder : str or PathLike
        Missing, or an earlier export, which is replaced.
    which : str or callable
        ``"uncertain"``: tiles with a doubtful detection (`uncertainty` of 0.5 or more),
        ``"failed"``, ``"all"`` (skipped ones left out), or ``which(row, findings)`` which
        says whether to take a tile, from its `TileRow` and its findings (in its frame).
    limit : int, optional
        At most so many, the most uncertain first.
    yolo : bool
        True if ``labels/TILE.txt`` and ``data.yaml`` stand beside, as Ultralytics reads them: with
        key points or corners where the model gives poses or rotated boxes.

    Raises
    ------
    RunError
        If `which` is unknown or fails, or the folder cannot be written or holds anything else.

    Warns
    -----
    UserWarning
        If a tile's pixels cannot be read; it is left out.
    """
    target = checks.path("folder", folder)
    chosen = _chosen(result, which, limit)
    numbers, options = categories(result.classes), display_options(result.source)
    with filling(target, statement(result)) as draft:
        pictures = draft / "images"
        pictures.mkdir()
        drawn = [_draw(result, row, options, pictures / f"{row.tile.id}.png") for row, _ in chosen]
        _tell_unread(
            [row.tile.id for (row, _), here in zip(chosen, drawn, strict=True) if not here]
        )
        chosen = list(compress(chosen, drawn))
        with (draft / "annotations.coco.json").open("w", encoding="utf-8", errors="replace") as out:
            _label(result, chosen, numbers, out)
        if yolo:
            _label_for_yolo(result, chosen, numbers, draft)
    return target


def uncertainty(findings: Findings) -> float:
    """Return how doubtful a tile is, 0 (nothing in doubt) to 1.

    Of its detections the one whose score is nearest to 0.5 (1 at 0.5, 0 at 0 and 1); of a
    tile classified as a whole, one minus the margin between the two likeliest classes
    (Scheffer et al. 2001, margin sampling). The greater of both; detections without a score
    say nothing.
    """
    scores = findings.scores[~np.isnan(findings.scores)]
    doubts = [float((1 - np.abs(2 * scores - 1)).max())] if len(scores) else []
    if len(findings.tile_scores) > 1:
        second, first = sorted(findings.tile_scores.values())[-2:]
        doubts.append(1 - (first - second))
    return max(doubts, default=0.0)


def _chosen(result: ResultData, which: Choice, limit: int | None) -> list[tuple[TileRow, Findings]]:
    """Return the tiles to write, by place, with their findings in the tile's frame."""
    wanted = _rule(which)
    if limit is not None:
        limit = whole("limit", limit)
    kept = [(row, found) for row, found in _tiles(result) if wanted(row, found)]
    if limit is not None:
        kept.sort(key=lambda pair: (-uncertainty(pair[1]), pair[0].tile))
    return sorted(kept[:limit], key=lambda pair: pair[0].tile)


def _rule(which: Choice) -> Callable[[TileRow, Findings], bool]:
    if callable(which):
        return partial(_asked, which)
    rules: dict[str, Callable[[TileRow, Findings], bool]] = {
        "uncertain": lambda _, found: uncertainty(found) >= UNCERTAIN,
        "failed": lambda row, _: row.status == TileStatus.FAILED,
        "all": lambda row, _: row.status != TileStatus.SKIPPED,
    }
    if which not in rules:
        raise RunArgumentError(
            f"which={which!r} is not understood; give {', '.join(map(repr, rules))} or a function "
            "of a tile's row and findings."
        )
    return rules[which]


def _asked(which: Callable[[TileRow, Findings], bool], row: TileRow, found: Findings) -> bool:
    try:
        return bool(which(row, found))
    except Exception as error:
        raise RunArgumentError(
            f"which= failed for tile {row.tile.id}: {Failure.of(error)}; it is called as "
            "which(row, findings) and says whether to take that tile."
        ) from error


def _tiles(result: ResultData) -> Iterator[tuple[TileRow, Findings]]:
    """Yield every tile with its findings, filtered, corrected; none where it was not analysed."""
    seen = {found.tile: found for found in result.tile_findings}
    how, layer = result.settings, result.by_hand
    for row in result.rows:
        found = seen.get(row.tile) if TileStatus(row.status).analysed else None
        if found is None:
            yield row, Findings()
        elif layer is None:
            yield row, found.findings.filter(how.min_score, how.classes)
        else:
            from tilevision.analysis.handwork import in_tile

            yield row, in_tile(layer, found, how)


def _draw(result: ResultData, row: TileRow, options: ReadOptions, path: Path) -> bool:
    """Write the tile's pixels; say whether they could be read."""
    from PIL import Image

    try:
        pixels = read_pixels(result.source, row.tile.box, row.tile.scale, options)
    except SourceError:
        return False
    Image.fromarray(pixels).save(path, "PNG")
    return True


def _tell_unread(tiles: list[str]) -> None:
    if tiles:
        more = f" and {len(tiles) - 3} more" if len(tiles) > 3 else ""
        warnings.warn(
            f"The pixels of {', '.join(tiles[:3])}{more} cannot be read, so they are left out.",
            stacklevel=4,
        )


def _label(
    result: ResultData,
    chosen: Sequence[tuple[TileRow, Findings]],
    numbers: dict[str, int],
    stream: TextIO,
) -> None:
    """Write a COCO dataset of the crops."""
    head = {
        "info": {"description": result.coverage, "tilevision": statement(result)},
        "images": [_image(i, row) for i, (row, _) in enumerate(chosen, start=1)],
        "categories": listed(numbers, (found for _, found in chosen)),
    }
    rows = (
        annotation(i, image, detection, numbers[detection.label])
        for i, (image, detection) in enumerate(_detections(chosen), start=1)
    )
    stream_json(stream, head, rows, "annotations")


def _image(number: int, row: TileRow) -> dict[str, Any]:
    tile = row.tile
    width, height = tile.output_size
    return {
        "id": number,
        "file_name": f"images/{tile.id}.png",
        "width": width,
        "height": height,
        "tile": tile.id,
        "box": list(tile.box.as_tuple()),
        "scale": tile.scale,
        "status": _status(row),
    }


def _status(row: TileRow) -> str:
    """Return the tile's status; a resumed run leaves the same bytes as a clean one."""
    return TileStatus.DONE.value if TileStatus(row.status).analysed else str(row.status)


def _detections(
    chosen: Sequence[tuple[TileRow, Findings]],
) -> Iterator[tuple[int, Detection]]:
    """Yield the number of the crop and a detection in its frame."""
    for number, (_, found) in enumerate(chosen, start=1):
        for detection in unpacked(found, found.class_ids):
            yield number, detection


def _label_for_yolo(
    result: ResultData,
    chosen: Sequence[tuple[TileRow, Findings]],
    numbers: dict[str, int],
    folder: Path,
) -> None:
    places = positions(numbers)
    # One form for all lines, since Ultralytics takes a set of labels for one task.
    seen = [one.findings for one in result.tile_findings]
    poses = max((one.keypoints.shape[1] for one in seen if one.keypoints is not None), default=0)
    line: Callable[[Detection, tuple[int, int]], str] = box_line
    if poses:
        line = partial(pose_line, count=poses)
    elif any(one.oriented is not None for one in seen):
        line = turned_line
    write_names(folder, places, result.coverage, poses)
    (folder / "labels").mkdir()
    for row, found in chosen:
        size = row.tile.output_size
        with (folder / "labels" / f"{row.tile.id}.txt").open("w", encoding="utf-8") as stream:
            for detection in unpacked(found, found.class_ids):
                stream.write(f"{places[detection.label]} {line(detection, size)}\n")
