"""The picture that a saved notebook keeps: without a kernel it shows no widgets."""

from __future__ import annotations

import time
from base64 import b64encode
from io import BytesIO
from typing import Any

from tilevision.view.notebook import display
from tilevision.view.picture.overlay import Frame

__all__ = ["SNAPSHOT_BYTES", "Snapshot", "smaller"]

SNAPSHOT_SECONDS = 10.0
SNAPSHOT_BYTES = 500_000


class Snapshot:
    """A plain picture below the widget, updated from time to time and at the end."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._drawn = float("-inf")

    def display(self, text: str) -> None:
        """Add the picture below the current cell."""
        handle = display({"text/plain": text}, raw=True, display_id=True)
        self._handle, self._drawn = handle, float("-inf")

    def update(self, frame: Frame, text: str, *, now: bool) -> None:
        """Update the picture if it is old, or `now`."""
        if self._handle is None or not (now or time.monotonic() - self._drawn > SNAPSHOT_SECONDS):
            return
        self._drawn = time.monotonic()
        picture = b64encode(smaller(frame.jpeg)).decode()
        self._handle.update({"image/jpeg": picture, "text/plain": text}, raw=True)


def smaller(jpeg: bytes) -> bytes:
    """Return the picture in at most `SNAPSHOT_BYTES` of base64, at half its size if necessary."""
    from PIL import Image

    while len(jpeg) * 4 / 3 > SNAPSHOT_BYTES:
        picture = Image.open(BytesIO(jpeg))
        out = BytesIO()
        picture.reduce(2).save(out, "JPEG", quality=80)
        jpeg = out.getvalue()
    return jpeg
