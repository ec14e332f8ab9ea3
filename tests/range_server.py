"""A web server on this machine that serves files by ranges, counts, and misbehaves on demand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes
    ----------
    path : str
        With the query.
    span : (int, int) or None
        Bytes asked for, half-open; None: all.
    status, sent : int
        What was answered, and the bytes of its body.
    """

    path: str
    span: tuple[int, int] | None
    status: int
    sent: int
    headers: dict[str, str]


@dataclass
class RangeServer:
    """What a test sees of the server.

    Attributes
    ----------
    url : str
        Without a slash at its end.
    files : dict of str to bytes
        Content by path.
    asked : list of Asked
    ranges, tags, dates : bool
        Whether it heeds ranges, sends ETags, and dates of change.
    fault : callable
        Gets the number of the request and its path; returns a status to answer instead, ``"cut"``
        to drop the connection in the middle of the body, or None.
    retry_after : str
        Header of faults.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    ranges: bool = True
    tags: bool = True
    weak: bool = False
    dates: bool = False
    fault: Callable[[int, str], int | str | None] = lambda number, path: None
    retry_after: str = ""
    redirects: dict[str, str] = field(default_factory=dict)
    secret: str = ""
    number: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, content: bytes | Path) -> str:
        """Serve `content` under a name; return its URL."""
        self.files[f"/{name}"] = content if isinstance(content, bytes) else content.read_bytes()
        return f"{self.url}/{name}"

    def folder(self, name: str, folder: Path) -> str:
        """Serve the files of a folder; return the folder's URL."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"{name}/{file.relative_to(folder).as_posix()}", file)
        return f"{self.url}/{name}"

    def forget(self) -> None:
        """Begin to count anew."""
        self.asked.clear()

    @property
    def sent(self) -> int:
        """Bytes of all bodies so far."""
        return sum(one.sent for one in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        this: RangeServer = self.server.this
        with this.lock:
            number = this.number
            this.number += 1
        path = unquote(urlsplit(self.path).path)
        fault = this.fault(number, path)
        if isinstance(fault, float):
            time.sleep(fault)
            fault = None
        content = this.files.get(path)
        if path in this.redirects:
            self._answer(302, b"", {"Location": this.redirects[path]})
        elif isinstance(fault, int):
            self._answer(fault, b"<html>no</html>", {"Retry-After": this.retry_after})
        elif this.secret and parse_qs(urlsplit(self.path).query).get("token") != [this.secret]:
            self._answer(403, b"denied", {})
        elif content is None:
            self._answer(404, b"not here", {})
        else:
            self._serve(this, content, cut=fault == "cut")

    do_HEAD = do_GET  # noqa: N815 - the library calls it so

    def _serve(self, this: RangeServer, content: bytes, *, cut: bool) -> None:
        headers = {}
        if this.tags:
            tag = f'"{hashlib.md5(content).hexdigest()}"'
            headers["ETag"] = f"W/{tag}" if this.weak else tag
        if this.dates:
            headers["Last-Modified"] = formatdate(1_700_000_000, usegmt=True)
        span = self._span(len(content)) if this.ranges else None
        if span is None:
            self._answer(200, content, headers, cut=cut)
        elif span[0] >= len(content):
            where = {"Content-Range": f"bytes */{len(content)}"}
            self._answer(416, b"<html>no such range</html>", headers | where)
        else:
            start, stop = span
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            self._answer(206, content[start:stop], headers, cut=cut)

    def _span(self, size: int) -> tuple[int, int] | None:
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        if not asked:
            return None
        start, _, last = asked.partition("-")
        if not start:
            return max(0, size - int(last)), size
        return int(start), min(size, int(last) + 1 if last else size)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False
    ) -> None:
        this: RangeServer = self.server.this
        sent = 0 if self.command == "HEAD" else len(body) // 2 if cut else len(body)
        this.asked.append(Asked(self.path, self._span(1 << 60), status, sent, dict(self.headers)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body[:sent])
        except OSError:  # the client has seen enough
            self.close_connection = True
        if cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    this: RangeServer

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients hang up."""


@contextmanager
def range_server() -> Iterator[RangeServer]:
    """Serve on a free port of 127.0.0.1."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.this = this = RangeServer(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield this
    finally:
        server.shutdown()
        server.server_close()
