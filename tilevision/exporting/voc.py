"""Pascal VOC: boxes of one image as XML."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from tilevision.exporting.detectionrows import Detection, detections
from tilevision.files import element

if TYPE_CHECKING:
    from tilevision.analysis.resultdata import ResultData

__all__ = ["write"]


def write(result: ResultData, stream: TextIO) -> None:
    """Write an annotation: boxes alone, for VOC has no place for other shapes.

    Pixels of the full-resolution image to 0.01 px, counted from 0, xmax and ymax excluded,
    as labelImg, CVAT and most readers of today count (the challenge of 2007 counted whole
    pixels from 1). The score is in ``confidence``; ``source`` says what was not analysed.

    Parameters
    ----------
    result : Result
    stream : text stream
    """
    width, height = result.source.size
    stream.write("<annotation>\n")
    stream.write(element("folder") + element("filename", result.name) + "\n")
    source = element("database", "tilevision") + element("annotation", result.coverage)
    stream.write(f"<source>{source}</source>\n")
    size = element("width", width) + element("height", height) + element("depth", 3)
    stream.write(f"<size>{size}</size>{element('segmented', 0)}\n")
    stream.writelines(_object(detection) + "\n" for detection in detections(result))
    stream.write("</annotation>\n")


def _object(detection: Detection) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(element(n, f"{v:.2f}") for n, v in zip(names, detection.box, strict=True))
    said = element("name", detection.label) + element("pose", "Unspecified")
    said += element("truncated", 0) + element("difficult", 0) + f"<bndbox>{box}</bndbox>"
    if detection.score is not None:
        said += element("confidence", detection.score)
    return f"<object>{said}</object>"
