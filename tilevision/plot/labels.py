"""Labels as text that can be shown: they come from models, and nobody vouches for them."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

__all__ = ["drawable", "shown"]

LIMIT = 40


def shown(label: str, limit: int = LIMIT) -> str:
    """Return `label` on one line, at most `limit` characters, nothing invisible in it.

    Control characters and those that turn the direction of the text around are what a
    label could use to pass for something else on the page.
    """
    # No more than can matter is looked at: a label may have millions of characters.
    text = "".join(_visible(char) for char in str(label)[: 8 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def drawable(label: str, limit: int = LIMIT) -> str:
    """Return `shown`, with a box in place of what matplotlib's font cannot draw."""
    return "".join(char if _in_font(char) else "□" for char in shown(label, limit))


def _visible(char: str) -> str:
    kind = unicodedata.category(char)
    if kind in ("Cc", "Zl", "Zp"):
        return " "
    return "" if kind in ("Cf", "Cs", "Co", "Cn") else char


@lru_cache(maxsize=4096)
def _in_font(char: str) -> bool:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return bool(get_font(findfont(FontProperties())).get_char_index(ord(char)))
