"""One region of an image, as a model will see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tilevision.geometry import Box

__all__ = ["Size", "Tile"]

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One region of an image, as a model will see it.

    Two tiles are equal if row, column, box and scale are; they sort in that order. Stored
    work is found by `region`, box and scale alone: the same region in another grid is the same
    work. The id is a name for people.

    Parameters
    ----------
    row, col : int
        Position in the grid, from 0; in an adaptive one the rank of the corner of its cell.
    box : Box
        Region in whole pixels of the full-resolution image, half-open.
    scale : float
        Output pixels per image pixel: 0.5 halves each side.
    id : str
        ``r003c017``, at least three digits each; ``a000017`` in an adaptive grid.
    """

    row: int
    col: int
    box: Box
    scale: float = 1.0
    id: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", f"r{self.row:03d}c{self.col:03d}")

    @property
    def output_size(self) -> Size:
        """Width and height of the pixels the model gets; at least 1 each."""
        return (
            max(1, round(self.box.width * self.scale)),
            max(1, round(self.box.height * self.scale)),
        )

    @property
    def region(self) -> tuple[float, float, float, float, float]:
        """What stored work is found by: ``(x0, y0, x1, y1, scale)``."""
        return (*self.box.as_tuple(), self.scale)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` reads them back."""
        return {
            "id": self.id,
            "row": self.row,
            "col": self.col,
            "box": list(self.box.as_tuple()),
            "scale": self.scale,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Tile:
        """Read what `to_dict` wrote."""
        return cls(raw["row"], raw["col"], Box(*raw["box"]), raw["scale"], raw["id"])
