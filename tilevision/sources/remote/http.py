"""Files on web servers, asked for by HTTP ranges.

Every answer says by its headers which file it is of, so a file that changes under a run is
noticed without a further request, also where a server does not heed ``If-Match``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING

from tilevision.errors import SourceError, Throttled, TilevisionError, TransientError
from tilevision.sources.addresses import Address
from tilevision.sources.remote.remotefile import FIRST_BYTES, Look, changed

if TYPE_CHECKING:
    from requests import Response, Session

__all__ = ["WebFile"]

_SECONDS = (10.0, 30.0)  # to connect, and between two bytes
_CONNECTIONS = 32
_PIECE = 1 << 18
_BUSY = {408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524}
_DENIED = {401, 403, 407}
_MISSING = {404, 410}
_MOVED_OR_EXPIRED = {401, 403, 404, 410}
# A date of change that is as young as this may stand for two contents within one second.
_SETTLED_SECONDS = 2.0


class WebFile:
    """A file at an ``http`` or ``https`` address.

    Parameters
    ----------
    address : Address
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._url = address.url  # where it redirects to, once that is known

    def look(self) -> Look:
        """Ask what it is, and for its beginning; a server may forbid to ask for less (HEAD)."""
        with self._answer(0, FIRST_BYTES) as answer:
            if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return Look(0, "", ranges=False, start=b"")
            plain = answer.headers.get("Content-Encoding", "identity") == "identity"
            _, size = _place(answer)
            partial = answer.status_code == HTTPStatus.PARTIAL_CONTENT and plain and size >= 0
            if not partial:
                length = answer.headers.get("Content-Length", "") if plain else ""
                size = int(length) if length.isdecimal() else -1
            with self._surviving():
                start = answer.raw.read(FIRST_BYTES, decode_content=True)
        tag = _tag(answer)
        return Look(size, tag, ranges=partial and bool(tag), start=start)

    def read(self, offset: int, count: int, look: Look) -> bytes:
        """Return exactly these bytes of the file that `look` saw.

        Raises
        ------
        SourceError
            If it is gone, denied, or another file by now.
        TransientError, Throttled
            If the server is busy, or the connection broke.
        """
        try:
            return self._piece(offset, count, look)
        except TransientError:  # perhaps only a connection that was kept open too long
            return self._piece(offset, count, look)

    def check(self, look: Look) -> None:
        """Do nothing: every answer was checked."""

    def part(self, start: int | None, stop: int | None) -> bytes | None:
        """Return bytes of a file of which nothing is known, None where there is none."""
        with self._answer(start, stop, missing=True) as answer, self._surviving():
            data: bytes = answer.raw.read(decode_content=True)
        if answer.status_code in _MISSING:
            return None
        if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""  # the file ends before; what came is a page about that
        return data[start:stop] if answer.status_code == HTTPStatus.OK else data

    def tag(self) -> str | None:
        """Return size and tag, as one text; None where there is no such file."""
        with self._answer(0, 1, missing=True) as answer, self._surviving():
            size = str(_place(answer)[1])
            if answer.status_code == HTTPStatus.OK:
                size = answer.headers.get("Content-Length", "-1")
            else:
                answer.raw.read()  # so that the connection can be used again
        return None if answer.status_code in _MISSING else f"{size} {_tag(answer)}".strip()

    def pieces(self, look: Look, offset: int) -> Iterator[bytes]:
        """Yield the whole file from `offset`, which is 0 where there are no ranges."""
        with self._answer(offset, None) as answer:
            self._check(answer, look, offset)
            done = offset
            with self._surviving():
                while piece := answer.raw.read(_PIECE, decode_content=True):
                    done += len(piece)
                    yield piece
        if look.size >= 0 and done != look.size:
            raise TransientError(f"{self.address} broke off after {done:,} of {look.size:,} bytes.")

    def _piece(self, offset: int, count: int, look: Look) -> bytes:
        with self._answer(offset, offset + count) as answer:
            self._check(answer, look, offset)
            if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise SourceError(
                    f"{self.address} is not served by ranges of bytes any more; download it, and "
                    "pass the path of the file."
                )
            with self._surviving():
                data: bytes = answer.raw.read(count + 1, decode_content=False)
        if len(data) != count:
            raise TransientError(f"{self.address} broke off: {len(data):,} of {count:,} bytes.")
        return data

    def _check(self, answer: Response, look: Look, offset: int) -> None:
        start, size = _place(answer)
        partial = answer.status_code == HTTPStatus.PARTIAL_CONTENT
        gone = answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        other = bool(look.tag) and _tag(answer) != look.tag
        if gone or other or (partial and size not in (-1, look.size)):
            raise changed(self.address)
        if offset and (not partial or start != offset):
            raise SourceError(f"The server of {self.address} does not serve ranges of bytes.")

    @contextmanager
    def _answer(
        self, start: int | None, stop: int | None, *, missing: bool = False
    ) -> Iterator[Response]:
        """Ask for bytes; whatever is no answer is an error, but that it is `missing`."""
        headers = {"Accept-Encoding": "identity"}
        if start is not None and start < 0:
            headers["Range"] = f"bytes={start}"
        elif start or stop is not None:
            headers["Range"] = f"bytes={start or 0}-{'' if stop is None else stop - 1}"
        with self._surviving():
            answer = self._asked(headers)
        try:
            if not (missing and answer.status_code in _MISSING):
                self._refuse(answer)
            yield answer
        finally:
            answer.close()

    def _asked(self, headers: dict[str, str]) -> Response:
        session = _session(os.getpid())
        answer = session.get(self._url, headers=headers, stream=True, timeout=_SECONDS)
        if self._url != self.address.url and answer.status_code in _MOVED_OR_EXPIRED:
            answer.close()
            url = self.address.url
            answer = session.get(url, headers=headers, stream=True, timeout=_SECONDS)
        if answer.ok:
            self._url = answer.url if answer.history else self._url
        return answer

    def _refuse(self, answer: Response) -> None:
        code = answer.status_code
        if answer.ok or code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        said = f"{self.address} is answered with {code} {_phrase(code)}"
        wait = answer.headers.get("Retry-After", "")
        seconds = float(wait) if wait.isdecimal() else None
        if code == HTTPStatus.TOO_MANY_REQUESTS:
            raise Throttled(f"{said}: the server asks for fewer requests.", seconds)
        if code in _BUSY:
            error = TransientError(f"{said}: the server is in trouble; try again later.")
            error.retry_after = seconds
            raise error
        if code in _DENIED:
            raise SourceError(
                f"{said}: the credentials are missing or wrong, or a signed address has expired; "
                "give an address that may be read."
            )
        if code in _MISSING:
            raise SourceError(f"{said}; check the address.")
        raise SourceError(f"{said}; give the address of the file itself.")

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Turn what the HTTP library raises, which repeats the address, into plain words."""
        found: TilevisionError | None = None
        try:
            yield
        except OSError as error:  # the root of what requests raises, and sockets
            found = self._translated(error)
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("urllib3", "http"):
                raise
            found = self._translated(error)
        if found is not None:
            raise found from None  # no traceback may lead to the library's words

    def _translated(self, error: Exception) -> TilevisionError:
        from requests import exceptions

        host, kind = self.address.host, type(error).__name__
        if isinstance(error, exceptions.SSLError):
            return SourceError(
                f"{self.address}: the certificate of {host} is not trusted here; set "
                "REQUESTS_CA_BUNDLE where your institution has its own."
            )
        if isinstance(error, (exceptions.InvalidURL, exceptions.InvalidSchema)):
            return SourceError(f"{self.address} is no address that can be asked for; check it.")
        if isinstance(error, exceptions.TooManyRedirects):
            return SourceError(f"{self.address} redirects in a circle; give the file's address.")
        if isinstance(error, (exceptions.Timeout, TimeoutError)) or "Timeout" in kind:
            return TransientError(f"{self.address}: {host} does not answer in time; try again.")
        return TransientError(
            f"{self.address}: the connection to {host} failed ({kind}); check the address and the "
            "network, and try again."
        )


@cache
def _session(process: int) -> Session:  # noqa: ARG001 - a forked child must not share connections
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=16, pool_maxsize=_CONNECTIONS))
    return session


def _tag(answer: Response) -> str:
    """Return what changes with the content: a strong ETag, else one with the date of change.

    A weak ETag stands for what means the same, which bytes need not be; a date alone is trusted
    once it cannot stand for two contents any more.
    """
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    changed, now = answer.headers.get("Last-Modified", ""), answer.headers.get("Date", "")
    try:
        age = parsedate_to_datetime(now) - parsedate_to_datetime(changed)
        settled = age.total_seconds() >= _SETTLED_SECONDS
    except (ValueError, TypeError):
        return ""
    return f"{etag} {changed}" if settled else ""


def _place(answer: Response) -> tuple[int, int]:
    """Return where the bytes begin and how long the file is, each -1 where it is not said."""
    unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
    span, _, size = rest.partition("/")
    start = span.partition("-")[0]
    if unit.lower() != "bytes":
        return -1, -1
    return int(start) if start.isdecimal() else -1, int(size) if size.isdecimal() else -1


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return "(unknown)"
