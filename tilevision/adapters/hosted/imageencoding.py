"""A tile as it is sent: resized, JPEG, base64."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tilevision.errors import ModelError

__all__ = ["EncodedPicture", "encode"]


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """An encoded tile.

    Parameters
    ----------
    url : str
        ``data:image/jpeg;base64,…``
    sent : tuple of int
        Width and height of the picture as sent.
    tile : tuple of int
        Width and height of the tile.
    """

    url: str = field(repr=False)
    sent: tuple[int, int]
    tile: tuple[int, int]


def encode(pixels: NDArray[Any], max_side: int, quality: int, multiple: int = 1) -> EncodedPicture:
    """Encode a tile.

    Parameters
    ----------
    pixels : array (h, w, 3) or (h, w, 1) of uint8
        RGB, or grey.
    max_side : int
        A longer side is shrunk to this; pictures are never enlarged, but to fit `multiple`.
    quality : int
        Of the JPEG, 1 to 100.
    multiple : int
        The sides become multiples of this.

    Raises
    ------
    ModelError
        If the pixels are not what can be shown.
    """
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.dtype != "uint8":
        raise ModelError(
            f"A hosted model is sent 1 or 3 bands of uint8, not {pixels.shape} of {pixels.dtype}; "
            "choose them with bands=, and leave dtype='uint8'."
        )
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    shrink = min(1.0, max_side / max(width, height))
    sent = (_side(width * shrink, multiple), _side(height * shrink, multiple))
    if sent != (width, height):
        image = image.resize(sent, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return EncodedPicture(url, sent, (width, height))


def _side(length: float, multiple: int) -> int:
    return max(1, round(length / multiple)) * multiple
