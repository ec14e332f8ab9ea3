"""How a vision model writes a box, and what that is in pixels of the tile.

Families were trained on different conventions, and a box read by the wrong one lands
somewhere else without any error, so the convention is always known and always stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import ModelError

__all__ = ["FAMILIES", "ORDERS", "BoxFormat", "family_of", "parse_format"]

# Unit to what the full width and height are in it; None: pixels of the picture as sent.
UNITS: dict[str, float | None] = {"pixels": None, "0-1": 1.0, "0-100": 100.0, "0-1000": 1000.0}
ORDERS = {
    "xyxy": "[xmin, ymin, xmax, ymax]",
    "yxyx": "[ymin, xmin, ymax, xmax]",
    "cxcywh": "[x_center, y_center, width, height]",
    "xywh": "[xmin, ymin, width, height]",
}
DEFAULT = "0-1000 xyxy"  # does not depend on how a server resizes the picture


@dataclass(frozen=True, slots=True)
class BoxFormat:
    """One way of writing boxes.

    Parameters
    ----------
    name : str
        As parameters and identity have it.
    unit : str
        ``"pixels"`` (of the picture as sent), ``"0-1"``, ``"0-100"`` or ``"0-1000"``.
    order : str
        ``"xyxy"``, ``"yxyx"``, ``"cxcywh"`` or ``"xywh"``.
    key : str
        What the model calls a box.
    multiple : int
        The sides of the picture are made multiples of this, where the server would do so
        otherwise and count pixels after it.
    """

    name: str
    unit: str
    order: str
    key: str = "box"
    multiple: int = 1

    def explain(self, size: tuple[int, int]) -> str:
        """Say to a model how boxes are to be written, for a picture of `size` (width, height)."""
        full = UNITS[self.unit]
        if full is None:
            unit = f"in pixels of this image, which is {size[0]} pixels wide and {size[1]} high"
        else:
            unit = (
                f"on a scale from 0 to {full:g} across the image's width for x, and "
                f"from 0 to {full:g} down its height for y"
            )
        return (
            f'"{self.key}" is {ORDERS[self.order]}, {unit}; x grows to the right, y grows downward'
        )

    def to_pixels(
        self, written: NDArray[np.float64], sent: tuple[int, int], tile: tuple[int, int]
    ) -> NDArray[np.float64]:
        """Return boxes ``(n, 4)`` as xmin, ymin, xmax, ymax in pixels of the tile.

        Parameters
        ----------
        written : array (n, 4)
            As the model wrote them.
        sent, tile : tuple of int
            Width and height of the picture as sent, and of the tile.
        """
        a, b, c, d = written.T
        if self.order == "yxyx":
            a, b, c, d = b, a, d, c
        elif self.order == "xywh":
            c, d = a + c, b + d
        elif self.order == "cxcywh":
            a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
        corners = np.stack([np.minimum(a, c), np.minimum(b, d), np.maximum(a, c), np.maximum(b, d)])
        full = UNITS[self.unit]
        width, height = (full, full) if full is not None else sent
        scale = np.array([tile[0] / width, tile[1] / height] * 2)
        return np.asarray(corners.T * scale, dtype=np.float64)


# What families were trained to write. Qwen2.5-VL counts pixels after its server has made the
# sides multiples of 28.
FAMILIES = {
    "gemini": BoxFormat("gemini", "0-1000", "yxyx", "box_2d"),
    "qwen2.5-vl": BoxFormat("qwen2.5-vl", "pixels", "xyxy", "bbox_2d", multiple=28),
    "qwen2-vl": BoxFormat("qwen2-vl", "0-1000", "xyxy", "bbox_2d"),
    "qwen3-vl": BoxFormat("qwen3-vl", "0-1000", "xyxy", "bbox_2d"),
    "internvl": BoxFormat("internvl", "0-1000", "xyxy", "box"),
    "glm-4v": BoxFormat("glm-4v", "0-1000", "xyxy", "bbox_2d"),
    "moondream": BoxFormat("moondream", "0-1", "xyxy", "box"),
}
_SPELLINGS = {
    "gemini": "gemini",
    "qwen25vl": "qwen2.5-vl",
    "qwen2vl": "qwen2-vl",
    "qwen3vl": "qwen3-vl",
    "internvl": "internvl",
    "glm4v": "glm-4v",
    "glm41v": "glm-4v",
    "glm45v": "glm-4v",
    "moondream": "moondream",
}


def family_of(model: str) -> str:
    """Return the format of the family that a model's name tells of, or one that suits any."""
    plain = "".join(character for character in model.lower() if character.isalnum())
    return next((name for part, name in _SPELLINGS.items() if part in plain), DEFAULT)


def parse_format(text: Any) -> BoxFormat:
    """Read ``"pixels"``, ``"0-1000 yxyx"``, ``"0-1 cxcywh"``, ``"gemini"``, ….

    Raises
    ------
    ModelError
        If the unit, the order or the family is unknown.
    """
    words = text.lower().split() if isinstance(text, str) else []
    if len(words) == 1 and words[0] in FAMILIES:
        return FAMILIES[words[0]]
    order = words[1] if len(words) == 2 else "xyxy"
    if len(words) not in (1, 2) or words[0] not in UNITS or order not in ORDERS:
        raise ModelError(
            f"box_format is {text!r:.60}; give a unit ({', '.join(UNITS)}), with an order where "
            f"it is not xyxy ({', '.join(ORDERS)}), as '0-1000 yxyx'; "
            f"or a family: {', '.join(FAMILIES)}."
        )
    return BoxFormat(f"{words[0]} {order}", words[0], order)
