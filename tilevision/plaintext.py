"""Text that every output can hold, whatever it was made from."""

from __future__ import annotations

__all__ = ["readable"]


def readable(text: str) -> str:
    """Return `text` so that every output can hold it; a byte of a name that is no UTF-8 as ``%E9``.

    Python hands such bytes on as lone surrogates, which tables, XML and GeoPackages refuse.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(map(_readable, text))
    return text


def _readable(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"%{ord(char) - 0xDC00:02X}"
    return "\ufffd" if "\ud800" <= char <= "\udfff" else char
