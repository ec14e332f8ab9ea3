"""Patterns of addresses: which files of a store they stand for."""

from __future__ import annotations

from tilevision.errors import SourceError, TilevisionError
from tilevision.sources.addresses import address_of
from tilevision.sources.remote.stores import file_system, translated

__all__ = ["addresses_like", "is_pattern"]

_MAGIC = ("*", "[")


def is_pattern(name: str) -> bool:
    """Say whether an address stands for many; those of web servers, which list nothing, do not."""
    address = address_of(name.partition("#")[0])
    web = address.scheme in ("http", "https")
    return not web and any(sign in name for sign in _MAGIC)


def addresses_like(name: str) -> list[str]:
    """Return the addresses of the files that a pattern stands for, sorted.

    Raises
    ------
    SourceError
        If the store cannot be listed.
    """
    address = address_of(name)
    files, path = file_system(address)
    found: TilevisionError
    try:
        return sorted(files.unstrip_protocol(one) for one in files.glob(path))
    except Exception as error:  # noqa: BLE001 - each protocol has errors of its own
        found = translated(error, address)
    raise SourceError(str(found)) from None
