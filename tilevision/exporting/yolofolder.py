"""YOLO: a folder with a line of text for each detection, as Ultralytics reads it.

Positions are shares of the image's width and height, 0 to 1, from the top left corner.
Scores, outlines and texts have no place here: a training label has none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tilevision.analysis.account import positions
from tilevision.errors import RunError
from tilevision.exporting.detectionrows import Detection, detections
from tilevision.exporting.folders import filling
from tilevision.exporting.statement import statement

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = [
    "KEEPS",
    "box_line",
    "pose_line",
    "turned_line",
    "write",
    "write_names",
    "write_poses",
    "write_turned",
]

# Pictures that people put beside the labels, and what Ultralytics leaves there.
KEEPS = ("images", "labels.cache")

Size = tuple[int, int]
Line = Callable[[Detection, Size], str]


def write(result: ResultData, folder: Path) -> None:
    """Write ``labels/NAME.txt`` (class, centre x, y, width, height) and ``data.yaml``.

    Ultralytics looks for the picture as ``images/NAME`` in the same folder. Detections
    beyond the image's edge are cut there. ``tilevision.json`` says what was not analysed.

    Parameters
    ----------
    result : Result
    folder : Path
        Missing, or an earlier export; pictures in it stay.
    """
    _write(result, folder, box_line)


def write_turned(result: ResultData, folder: Path) -> None:
    """Write ``labels/NAME.txt`` (class, four corners x, y) and ``data.yaml``: YOLO-OBB.

    The corners of the rotated box, where there is none those of the box. See `write`.

    Parameters
    ----------
    result : Result
    folder : Path
        Missing, or an earlier export.
    """
    _write(result, folder, turned_line)


def write_poses(result: ResultData, folder: Path) -> None:
    """Write ``labels/NAME.txt`` (class, box, x, y, visibility of each key point): YOLO-pose.

    Detections without key points have them as not visible. See `write`.

    Parameters
    ----------
    result : Result
    folder : Path
        Missing, or an earlier export.

    Raises
    ------
    RunError
        If there are detections, and they have no key points.
    """
    found = result.findings.keypoints
    if found is None and len(result.findings):
        raise RunError("The detections have no key points; save .yolo or .yolo-obb.")
    count = 0 if found is None else found.shape[1]  # an image of many may have nothing
    _write(result, folder, partial(pose_line, count=count), count)


def box_line(detection: Detection, size: Size) -> str:
    """Return centre x, y, width and height of the box as shares of `size`."""
    width, height = size
    x0, y0, x1, y1 = detection.box
    left, right = _share(x0, width), _share(x1, width)
    top, bottom = _share(y0, height), _share(y1, height)
    return _numbers([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])


def turned_line(detection: Detection, size: Size) -> str:
    """Return the corners of the rotated box, else of the box, as shares of `size`."""
    x0, y0, x1, y1 = detection.box
    corners = detection.oriented or [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    return _numbers(_share(v, side) for c in corners for v, side in zip(c, size, strict=True))


def pose_line(detection: Detection, size: Size, count: int) -> str:
    """Return the box and `count` key points (x, y, visibility) as shares of `size`.

    Those that lie outside are zeros: not labelled.
    """
    points = detection.keypoints or []
    points = points + [[0.0, 0.0, 0.0]] * (count - len(points))
    # A point outside cannot be seen; at the edge it would be in the wrong place.
    shares = [
        (x / size[0], y / size[1], 2.0 if score > 0 else 0.0)
        if 0 <= x <= size[0] and 0 <= y <= size[1]
        else (0.0, 0.0, 0.0)
        for x, y, score in points
    ]
    return f"{box_line(detection, size)} {_numbers(v for point in shares for v in point)}"


def write_names(folder: Path, names: Iterable[str], said: str, keypoints: int = 0) -> None:
    """Write ``data.yaml``: where the pictures are, the classes, and how many key points."""
    lines = [f"# {_one_line(said)}", "train: images", "val: images", "names:"]
    lines += [f"  {i}: {_yaml(name)}" for i, name in enumerate(names)]
    if lines[-1] == "names:":
        lines[-1] = "names: []"
    if keypoints:
        lines.append(f"kpt_shape: [{keypoints}, 3]")
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", "utf-8")


def _write(result: ResultData, folder: Path, line: Line, keypoints: int = 0) -> None:
    numbers = positions(result.classes)
    with filling(folder, statement(result), KEEPS) as draft:
        write_names(draft, numbers, result.coverage, keypoints)
        labels = draft / "labels"
        labels.mkdir()
        size = result.source.size
        with (labels / f"{_stem(result.name)}.txt").open("w", encoding="utf-8") as stream:
            for found in detections(result):
                stream.write(f"{numbers[found.label]} {line(found, size)}\n")


def _stem(name: str) -> str:
    """Return what the picture's file is called without its suffix."""
    return PurePosixPath(name.replace("\\", "/").replace("\0", "")).stem or "image"


def _share(value: float, side: int) -> float:
    return min(max(value / side, 0.0), 1.0)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.9f}" for value in values)


def _yaml(text: str) -> str:
    """Return a quoted YAML string: JSON's, but for characters beyond 16 bits."""

    def joined(pair: re.Match[str]) -> str:
        high, low = (int(half, 16) for half in pair.groups())
        return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"

    quoted = json.dumps(text.encode("utf-8", "replace").decode())
    return re.sub(r"\\u(d[89ab]..)\\u(d[c-f]..)", joined, quoted)


def _one_line(text: str) -> str:
    return _yaml(" ".join(text.split()))
