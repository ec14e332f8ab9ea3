"""Images named by address: ``file://`` is the local file it is, others are not read yet."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from tilevision.errors import SourceError

__all__ = ["local_path"]

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def local_path(name: str) -> str:
    """Return the path that `name` stands for: itself, or that of a ``file://`` address.

    Raises
    ------
    SourceError
        If it is the address of something elsewhere. What may be secret in it, the user and the
        query, is not repeated.
    """
    if not _ADDRESS.match(name):
        return name
    try:
        parts = urlsplit(name)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        raise SourceError("the address of the image cannot be understood; check it") from None
    if parts.scheme == "file" and host in ("", "localhost"):
        page = f"#{parts.fragment}" if parts.fragment else ""
        return unquote(parts.path) + page
    raise SourceError(
        f"{parts.scheme}://{host}{parts.path} is a URL: download it first, and pass the path of "
        "the file"
    )
