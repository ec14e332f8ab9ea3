"""The colour of each class: the one that somebody chose, else one by the name of the class."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from zlib import crc32

from tilevision.colouring.classcolours import chosen_colours

__all__ = ["CLASS_COLOURS", "class_colours"]

# Bright on the dark edge that every box gets, none a status colour, and any two at least 9 apart
# in Oklab (times 100) as people with and without a colour vision deficiency see them.
CLASS_COLOURS = (
    "#EEDD22",
    "#77FFFF",
    "#EE1188",
    "#88DD99",
    "#FF99FF",
    "#7788CC",
    "#EE7777",
    "#DDFFAA",
    "#CC00FF",
    "#44BBBB",
    "#BBBB00",
    "#998811",
)
MOST_REMEMBERED = 10_000
_slots: dict[str, int] = {}
_choosing = Lock()


def class_colours(labels: Iterable[str]) -> dict[str, str]:
    """Return the colour of each class. A name keeps its colour for as long as the process lives.

    A name has a colour of its own by what it is called, the same in every process. Where that
    is taken by another class that was drawn before, it gets the next free one; once all are
    taken, colours repeat. A colour that somebody chose is used as it is.

    Parameters
    ----------
    labels : iterable of str
        In the order of the result.
    """
    names = list(dict.fromkeys(labels))
    with _choosing:
        for name in sorted(set(names) - _slots.keys()):
            if len(_slots) < MOST_REMEMBERED:
                _slots[name] = _free_slot(name)
        own = {name: CLASS_COLOURS[_slots.get(name, _own_slot(name))] for name in names}
    return own | chosen_colours(names)


def _own_slot(name: str) -> int:
    return crc32(name.encode("utf-8", "surrogatepass")) % len(CLASS_COLOURS)


def _free_slot(name: str) -> int:
    n, own = len(CLASS_COLOURS), _own_slot(name)
    taken = set(_slots.values())
    return next((slot % n for slot in range(own, own + n) if slot % n not in taken), own)
