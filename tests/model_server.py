"""A model behind HTTP on this machine that misbehaves as hosted ones do, and keeps count."""

import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from types import TracebackType

__all__ = ["ModelServer", "troubles"]

HANG_SECONDS = 60.0


def troubles(requests: int, seed: int = 0) -> list[str]:
    """Return what the first `requests` requests meet: 10 % busy, 5 % error, 2 % hang, 1 % garbage.

    Every hundred has exactly these shares, in random order.
    """
    random, script = Random(seed), []
    while len(script) < requests:
        hundred = ["busy"] * 10 + ["error"] * 5 + ["hang"] * 2 + ["garbage"] + ["well"] * 82
        random.shuffle(hundred)
        script += hundred
    return script[:requests]


@dataclass
class Served:
    """What the server has seen.

    Parameters
    ----------
    in_flight : list of int
        For each request in order, how many were there with it, itself included.
    answers : Counter of str
        How often each kind of answer was given.
    """

    in_flight: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)


class ModelServer:
    """Answers ``POST`` of ``{"number": n}`` with one detection, after `seconds`.

    A request counts as in flight until its answer is about to be sent, or its client has
    hung up: whatever is sent after either is sent by one who knows that it is over.

    Parameters
    ----------
    script : iterable of str
        What each request meets: ``well``, ``busy``, ``error``, ``hang``, ``garbage``; all
        later ones go well.
    seconds : float
        That an answer takes.
    retry_after : str
        Header that goes with ``busy``.
    calm : float
        Seconds that an answer takes after the script.
    """

    def __init__(
        self, script: Iterable[str], seconds: float, retry_after: str, calm: float
    ) -> None:
        self.served = Served()
        self.seconds = {"well": seconds, "garbage": seconds, "calm": calm}
        self.retry_after = retry_after
        self._script = iter(script)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._hanging: set[socket.socket] = set()
        self._closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/detect"

    def __enter__(self) -> "ModelServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def arrive(self, connection: socket.socket) -> str:
        """Count a request; return what it is to meet."""
        with self._lock:
            for hung in [hung for hung in self._hanging if _has_hung_up(hung)]:
                self._hanging.discard(hung)
                self._open.discard(hung)
            self._open.add(connection)
            self.served.in_flight.append(len(self._open))
            trouble = next(self._script, "calm")
            self.served.answers[trouble] += 1
            if trouble == "hang":
                self._hanging.add(connection)
            return trouble

    def leave(self, connection: socket.socket) -> None:
        """Note that a request is as good as answered."""
        with self._lock:
            self._open.discard(connection)
            self._hanging.discard(connection)

    def hang(self, connection: socket.socket) -> None:
        """Say nothing until the client has had enough."""
        deadline = time.monotonic() + HANG_SECONDS
        while time.monotonic() < deadline and not self._closing.wait(0.05):
            if _has_hung_up(connection):
                return

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler's self is another
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                trouble = server.arrive(self.connection)
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if trouble == "hang":
                    server.hang(self.connection)
                    self.close_connection = True
                else:
                    time.sleep(server.seconds.get(trouble, 0))
                server.leave(self.connection)
                if trouble != "hang":
                    self._answer(trouble, asked["number"])

            def _answer(self, trouble: str, number: int) -> None:
                box = {"box": [2, 2, 6 + number % 7, 9], "score": 0.5, "label": "cell"}
                whole = json.dumps({"detections": [box]}).encode()
                status, body = {
                    "well": (200, whole),
                    "calm": (200, whole),
                    "garbage": (200, whole[: len(whole) // 2]),
                    "busy": (429, b""),
                    "error": (500, b""),
                }[trouble]
                self.send_response(status)
                if trouble == "busy":
                    self.send_header("Retry-After", server.retry_after)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def _has_hung_up(connection: socket.socket) -> bool:
    try:
        readable, _, _ = select.select([connection], [], [], 0)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):  # closed on our side, too
        return True
