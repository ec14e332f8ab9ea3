"""Files in object stores and on other servers, through fsspec: s3, gs, az, sftp, memory, …

Credentials come from where the protocol's package looks for them: its environment variables
and files, and fsspec's own configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tilevision.errors import SourceError, TilevisionError, TransientError
from tilevision.sources.addresses import Address, address_of
from tilevision.sources.remote.remotefile import FIRST_BYTES, Look, changed

__all__ = [
    "StoredFile",
    "addresses_like",
    "file_system",
    "is_pattern",
    "stored_tag",
    "translated",
]

_PIECE = 1 << 23
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "smb": "smbprotocol",
    "hf": "huggingface_hub",
}
# Of what a store tells of a file, the first that is there changes with the content.
_TAGS = (
    *("ETag", "etag", "generation", "md5Hash", "crc32c", "checksum", "VersionId", "version_id"),
    *("LastModified", "last_modified", "mtime", "modified", "created"),
)
# Of this process alone: the workers get what it holds through the staging folder.
_PRIVATE = ("memory",)
_MAGIC = ("*", "[")
_DENIED = (
    "AccessDenied",
    "Forbidden",
    "Unauthorized",
    "NoCredentials",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "AuthenticationFailed",
    "HttpError 403",
)
_BUSY = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "ThrottlingException")

T = TypeVar("T")


class StoredFile:
    """A file that a package of fsspec's reads.

    Parameters
    ----------
    address : Address

    Raises
    ------
    SourceError
        If the protocol is unknown, or its package is not installed.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._files, self._path = file_system(address)

    def look(self) -> Look:
        """Ask what it is, and for its beginning."""
        told = self._told()
        if told.get("type") == "directory":
            raise SourceError(f"{self.address} is a folder and no Zarr store; give one image file.")
        size = -1 if told.get("size") is None else int(told["size"])
        tag = _tag(told)
        start = self._asked(lambda: self._files.cat_file(self._path, start=0, end=FIRST_BYTES))
        ranges = bool(tag) and size >= 0 and self.address.scheme not in _PRIVATE
        return Look(size, tag, ranges=ranges, start=bytes(start))

    def read(self, offset: int, count: int, look: Look) -> bytes:
        """Return exactly these bytes."""
        end = offset + count
        data = self._asked(lambda: self._files.cat_file(self._path, start=offset, end=end))
        if len(data) != count:
            self.check(look)  # of a shorter file by now?
            raise TransientError(
                f"{self.address} broke off: {len(data):,} of {count:,} bytes came; try again."
            )
        return bytes(data)

    def check(self, look: Look) -> None:
        """Ask whether it is still the file that `look` saw: what was read does not say."""
        told = self._told()
        if _tag(told) != look.tag or told.get("size") != look.size:
            raise changed(self.address)

    def part(self, start: int | None, stop: int | None) -> bytes | None:
        """Return bytes of a file of which nothing is known, None where there is none."""

        def ask() -> bytes | None:
            try:
                return bytes(self._files.cat_file(self._path, start, stop))
            except FileNotFoundError:
                return None

        return self._asked(ask)

    def tag(self) -> str | None:
        """Return size and tag, as one text; None where there is no such file."""

        def ask() -> str | None:
            try:
                return stored_tag(self._files.info(self._path))
            except FileNotFoundError:
                return None

        return self._asked(ask)

    def pieces(self, look: Look, offset: int) -> Iterator[bytes]:
        """Yield the whole file from `offset`."""
        if look.size < 0:
            yield bytes(self._asked(lambda: self._files.cat_file(self._path)))[offset:]
            return
        for start in range(offset, look.size, _PIECE):
            yield self.read(start, min(_PIECE, look.size - start), look)
        if look.tag:
            self.check(look)

    def _told(self) -> dict[str, Any]:
        self._files.invalidate_cache()  # else it may be what was told an hour ago
        told: dict[str, Any] = self._asked(lambda: self._files.info(self._path))
        return told

    def _asked(self, ask: Callable[[], T]) -> T:
        found: TilevisionError
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - each protocol has errors of its own
            found = translated(error, self.address)
        raise found from None  # no traceback may lead to the package's words


def stored_tag(told: dict[str, Any]) -> str:
    """Return of what a store tells of a file its size and tag, as one text."""
    return f"{told.get('size')} {_tag(told)}".strip()


def file_system(address: Address) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it.

    Raises
    ------
    SourceError
        If the protocol is unknown, its package is not installed, or it cannot be set up.
    """
    import fsspec

    scheme = address.scheme
    found: TilevisionError
    try:
        files, path = fsspec.url_to_fs(address.url)
        return files, str(path)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        remedy = f"pip install {package}" if package else address.cleaned(str(error))
        found = SourceError(f"{scheme}:// needs {package or 'another package'}: {remedy}")
    except ValueError as error:
        if scheme not in fsspec.available_protocols():
            found = SourceError(
                f"{address}: nothing here reads {scheme}://; give http, https, s3, gs, az or "
                "another protocol of fsspec's, or the path of a file."
            )
        else:
            found = translated(error, address)
    except Exception as error:  # noqa: BLE001 - each protocol has errors of its own
        found = translated(error, address)
    raise found from None


def translated(error: Exception, address: Address) -> TilevisionError:
    """Return in plain words, without secrets, what a protocol's package raised."""
    kind = type(error).__name__
    said = address.cleaned(str(error))[:200] or kind
    if isinstance(error, FileNotFoundError):
        hint = ""
        if address.scheme == "memory":
            hint = "; memory:// is in the memory of the process that wrote it, and of no other"
        return SourceError(f"{address} does not exist{hint or '; check the address'}")
    if isinstance(error, (PermissionError, ImportError)) or _names(error, _DENIED):
        return SourceError(
            f"{address} may not be read with the credentials of this environment ({said}); set "
            "those of the store, as its package wants them."
        )
    busy = isinstance(error, (TimeoutError, ConnectionError)) or _names(error, _BUSY)
    if busy or "Timeout" in kind or "Connection" in kind:
        return TransientError(f"{address} cannot be reached ({kind}: {said}); try again.")
    return SourceError(f"{address} cannot be read ({kind}: {said}); check the address.")


def is_pattern(name: str) -> bool:
    """Return True if an address stands for many; web servers list nothing, so theirs do not."""
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


def _names(error: Exception, words: tuple[str, ...]) -> bool:
    text = f"{type(error).__name__} {error}"
    return any(word in text for word in words)


def _tag(told: dict[str, Any]) -> str:
    return next((f"{name} {told[name]}" for name in _TAGS if told.get(name)), "")
