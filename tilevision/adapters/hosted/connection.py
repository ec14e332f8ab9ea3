"""Connections to servers: one client a server, bounded in time whatever trickles in."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from tilevision.adapters.hosted.httperrors import unusable
from tilevision.adapters.hosted.parameters import Parameters

__all__ = ["NO_KEY", "client_of", "last_headers"]

CLIENTS = 8  # servers (and keys) that a process keeps connections to
NO_KEY = "none"  # a server that wants no key still gets the header

_clients: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()
_answered = threading.local()


def client_of(parameters: Parameters, key: str | None) -> Any:
    """Return the client for a server; the settings of proxies and certificates are read once.

    Raises
    ------
    PermanentError
        If those settings cannot be used.
    """
    from openai import OpenAI

    named = (parameters.base_url, key or NO_KEY)
    with _lock:
        client = _clients.get(named)
        if client is None:
            try:
                # Retries are the scheduler's: it alone knows the quota and what else has failed.
                client = OpenAI(
                    base_url=named[0], api_key=named[1], max_retries=0, http_client=_bounded()()
                )
            except Exception as error:  # noqa: BLE001 - whatever a proxy or certificate setting does
                failed = unusable(error, parameters)
            else:
                _clients[named] = client
                while len(_clients) > CLIENTS:
                    _clients.pop(next(iter(_clients)))  # closed once its last request is over
                return client
    if client is None:
        raise failed
    return client


def last_headers() -> Any:
    """Return the headers of the last reply that this thread received; empty before the first."""
    return getattr(_answered, "headers", {})


@cache
def _bounded() -> type[Any]:
    """Return the class of HTTP clients whose timeout bounds the whole reply.

    The library's own timeout starts again with every byte, so that a server which sends a blank
    now and then is waited for without end. Made here because the library is optional.
    """
    import openai

    http = importlib.import_module(
        openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]
    )

    class Deadline(http.SyncByteStream):  # type: ignore[misc, name-defined] # known at run time only
        def __init__(self, stream: Any, request: Any, until: float) -> None:
            self._stream = stream
            self._request = request
            self._until = until

        def __iter__(self) -> Iterator[bytes]:
            # The connection reads this when the body begins: no single wait passes the end.
            left = max(0.01, self._until - time.monotonic())
            self._request.extensions.setdefault("timeout", {})["read"] = left
            for chunk in self._stream:
                if time.monotonic() > self._until:
                    raise http.ReadTimeout("the whole answer took too long", request=self._request)
                yield chunk

        def close(self) -> None:
            self._stream.close()

    class BoundedClient(openai.DefaultHttpxClient):
        def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            seconds = (request.extensions.get("timeout") or {}).get("read")
            until = time.monotonic() + seconds if seconds else float("inf")
            response = super().send(request, stream=True, **options)
            _answered.headers = response.headers
            response.stream = Deadline(response.stream, request, until)
            if not stream:
                try:
                    response.read()
                finally:
                    response.close()
            return response

    return BoundedClient
