"""How text files are written: JSON row by row, and XML.

Labels and texts are a model's words, and may hold anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TextIO
from xml.sax.saxutils import escape, quoteattr

__all__ = ["as_text", "dumps", "element", "opening", "stream_json", "stream_list"]

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


def as_text(value: Any) -> str | None:
    """Return `value` as JSON for a column of texts; None for nothing."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if value else None


def stream_json(stream: TextIO, head: dict[str, Any], rows: Iterable[Any], name: str) -> None:
    """Write the object `head` with one more member, a list: a line for each member and row."""
    stream.write("{\n")
    for key, value in head.items():
        stream.write(f"{dumps(key)}: {dumps(value)},\n")
    stream.write(f"{dumps(name)}: ")
    stream_list(stream, rows)
    stream.write("}\n")


def stream_list(stream: TextIO, rows: Iterable[Any]) -> None:
    """Write a list, a line for each row."""
    stream.write("[")
    separator = "\n"
    for row in rows:
        stream.write(separator + dumps(row))
        separator = ",\n"
    stream.write("\n]\n")


def dumps(value: Any) -> str:
    """Return strict JSON, readable as it is."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
