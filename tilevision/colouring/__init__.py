"""Colours that people chose for classes, kept beside the checkpoint."""

from tilevision.colouring.classcolours import (
    CHOSEN,
    FILE,
    choose,
    chosen_colour,
    chosen_colours,
    colours_version,
    load_colours,
)

__all__ = [
    "CHOSEN",
    "FILE",
    "choose",
    "chosen_colour",
    "chosen_colours",
    "colours_version",
    "load_colours",
]
