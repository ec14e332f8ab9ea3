"""XML text: labels and texts are a model's words, and may hold anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

__all__ = ["element", "opening"]

# What XML 1.0 cannot hold, escaped or not.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"


def element(tag: str, content: Any = "", **attributes: Any) -> str:
    """Return ``<tag …>content</tag>``, with `content` as text."""
    return f"{opening(tag, attributes)}{escape(_legal(content))}</{tag}>"


def opening(tag: str, attributes: Mapping[str, Any]) -> str:
    """Return ``<tag …>``."""
    said = "".join(f" {name}={quoteattr(_legal(value))}" for name, value in attributes.items())
    return f"<{tag}{said}>"


def _legal(value: Any) -> str:
    return _ILLEGAL.sub(_REPLACEMENT, str(value))
