"""What has become of each image of a multi-image run, as its journal holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from tilevision.events.journal import json_line, parse_line, redact
from tilevision.status import ImageStatus

__all__ = ["ImageChanged", "image_line", "read_image"]


@dataclass(frozen=True, slots=True)
class ImageChanged:
    """One image of a multi-image run has begun or ended.

    Parameters
    ----------
    time : float
        Seconds since the epoch.
    image : str
        Its name in the run.
    status : str
        The text of an `ImageStatus`.
    run : str
        Id of the run of this image; empty if it could not be started.
    detections, tiles, failed : int
    seconds : float
    error : str
        Why something is missing, in one line.
    """

    time: float
    image: str
    status: str
    run: str = ""
    detections: int = 0
    tiles: int = 0
    failed: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def complete(self) -> bool:
        """Return True if every tile of the image was analysed."""
        return self.status == ImageStatus.COMPLETE and not self.error


_KINDS: dict[str, Any] = {"str": str, "int": int, "float": (int, float)}


def image_line(event: ImageChanged) -> bytes:
    """Return `event` as one line of UTF-8 JSON with its newline; secrets are replaced."""
    return json_line({"kind": "image", **asdict(event), "error": redact(event.error)})


def read_image(line: bytes) -> ImageChanged | None:
    """Read what `image_line` wrote; None for a line of another kind.

    Raises
    ------
    ValueError
        If the line is torn, or holds values of another type.
    """
    raw = parse_line(line)
    if raw.pop("kind") != "image":
        return None
    for field in fields(ImageChanged):
        if not isinstance(raw.get(field.name), _KINDS[str(field.type)]):
            raise ValueError(f"not an image's event: {field.name}")  # noqa: TRY004 - as from_line
    return ImageChanged(**{field.name: raw[field.name] for field in fields(ImageChanged)})
