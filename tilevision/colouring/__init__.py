"""Colours of classes: those that people chose, kept beside the checkpoint, and the usual ones."""

from tilevision.colouring.classcolours import (
    CHOSEN,
    FILE,
    choose,
    chosen_colour,
    chosen_colours,
    colours_version,
    load_colours,
)
from tilevision.colouring.usualcolours import CLASS_COLOURS, class_colours

__all__ = [
    "CHOSEN",
    "CLASS_COLOURS",
    "FILE",
    "choose",
    "chosen_colour",
    "chosen_colours",
    "class_colours",
    "colours_version",
    "load_colours",
]
