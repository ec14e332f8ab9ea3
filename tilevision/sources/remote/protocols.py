"""Which protocol reads an address."""

from __future__ import annotations

from tilevision.sources.addresses import Address
from tilevision.sources.remote.http import WebFile
from tilevision.sources.remote.remotefile import Remote
from tilevision.sources.remote.stores import StoredFile

__all__ = ["remote_file"]


def remote_file(address: Address) -> Remote:
    """Return the file at an address; nothing is asked yet.

    Raises
    ------
    SourceError
        If the protocol is unknown, or its package is not installed.
    """
    return WebFile(address) if address.scheme in ("http", "https") else StoredFile(address)
