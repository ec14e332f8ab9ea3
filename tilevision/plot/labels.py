"""Labels as text that is safe to show: they come from models and may hold anything."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

__all__ = ["drawable", "shown"]

LIMIT = 40


def shown(label: str, limit: int = LIMIT) -> str:
    """Return `label` on one line, with at most `limit` characters and without invisible ones.

    With control characters, or those that reverse the direction of the text, a label could
    look like something else on the page.
    """
    # A label may have millions of characters: look only at those that can be shown.
    text = "".join(_visible(char) for char in str(label)[: 8 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def drawable(label: str, limit: int = LIMIT) -> str:
    """Return `shown`, with a box for each character that is not in matplotlib's font."""
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
