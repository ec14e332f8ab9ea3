"""A real HTTP server on this machine that speaks OpenAI's protocol, and sees what it is shown.

Its models: ``spots`` finds bright spots in the picture it is sent and writes them in the box
format that its name ends in (``"spots:0-1000 yxyx"``); ``nothing`` finds nothing; ``scene``
writes a text; ``omni-moderation-latest`` flags pictures that are mostly red, and so does
``guard`` in a chat. Faults are a script: what each of the next requests meets, in order.

Run as a program it serves in a process of its own, so that a test's client has its
interpreter to itself: ``python openai_server.py SECONDS``; its port is the line it prints.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import sys
import threading
import urllib.request
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["OpenAIServer", "Reply"]

CATEGORIES = ("sexual", "violence", "violence/graphic")


@dataclass
class Reply:
    """What a request meets instead of the model.

    Parameters
    ----------
    status : int
        0 closes the connection without a word.
    headers : dict
    body : dict, str or bytes, optional
        Of the whole reply; None: an error as the service words it.
    content : str, optional
        What the model says, in an otherwise regular reply.
    message, finish : dict, str
        Further fields of the message, and the finish reason.
    seconds : float
        Before anything is sent.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    content: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    finish: str = "stop"
    seconds: float = 0.0


@dataclass
class Seen:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def picture(self) -> np.ndarray:
        """The picture that was sent, decoded."""
        found = re.search(r"data:image/jpeg;base64,([\w+/=]+)", json.dumps(self.body))
        assert found, "no picture was sent"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))

    @property
    def text(self) -> str:
        """All text of the messages, in order."""
        parts = [message["content"] for message in self.body["messages"]]
        flat = [p for part in parts for p in (part if isinstance(part, list) else [part])]
        return "\n".join(p if isinstance(p, str) else p.get("text", "") for p in flat)


class OpenAIServer:
    """The server, on a thread of its own; a context manager.

    Parameters
    ----------
    seconds : float
        That every answer takes.
    key : str, optional
        The API key that is asked for; None: any, or none.
    together : int
        No request is answered before so many were under way at once.

    Attributes
    ----------
    script : deque of Reply or None
        What the next requests meet; None is a regular answer.
    seen : list of Seen
    most : int
        Most requests that were under way at once.
    """

    def __init__(self, seconds: float = 0.0, key: str | None = None, *, together: int = 1) -> None:
        self.seconds = seconds
        self.key = key
        self.together = together
        self.script: deque[Reply | None] = deque()
        self.seen: list[Seen] = []
        self.count = self.under_way = self.most = 0
        self.keep = True
        self._gathered = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26, backlog=1024), self._loop
        )
        self._server = started.result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            self._server.close()
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(200)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(200)
        self._loop.close()

    @property
    def url(self) -> str:
        """What `base_url` is."""
        return f"http://127.0.0.1:{self.port}/v1"

    def meets(self, replies: Iterable[Reply | None]) -> None:
        """Put what the next requests meet into the script."""
        self.script.extend(replies)

    # HTTP ---------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.strip().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._one(first.split()[1], headers, raw, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(
        self, path: str, headers: dict[str, str], raw: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False closes the connection."""
        if path == "/stats":
            return await self._send(writer, 200, {}, {"count": self.count, "most": self.most})
        self.count += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.most >= self.together:
            self._gathered.set()
        try:
            reply = self.script.popleft() if self.script else None
            await self._gathered.wait()
            await asyncio.sleep(self.seconds + (reply.seconds if reply else 0.0))
            body = json.loads(raw) if self.keep else {"model": "nothing"}
            if self.keep:
                self.seen.append(Seen(path, headers, body))
            if reply is not None and reply.status == 0:
                return False
            status, extra, answer = self._answer(path, headers, body, reply)
            return await self._send(writer, status, extra, answer)
        finally:
            self.under_way -= 1

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: Any
    ) -> bool:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"content-type": "application/json", **headers, "content-length": str(len(data))}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + data)
        await writer.drain()
        return True

    # The protocol -------------------------------------------------------------------------

    def _answer(
        self, path: str, headers: dict[str, str], body: dict[str, Any], reply: Reply | None
    ) -> tuple[int, dict[str, str], Any]:
        reply = reply or Reply()
        if reply.body is not None:
            return reply.status, reply.headers, reply.body
        if reply.status != 200:
            return reply.status, reply.headers, _error(f"status {reply.status}")
        given = headers.get("authorization", "").removeprefix("Bearer ").removeprefix("bearer ")
        if self.key is not None and given != self.key.lower():
            return 401, {}, _error(f"Incorrect API key provided: {given}", "invalid_api_key")
        if path.endswith("/moderations"):
            return 200, {}, _moderation(body)
        if not path.endswith("/chat/completions"):
            return 404, {}, _error(f"no such path {path}")
        text = reply.content if reply.content is not None else _say(body)
        if text is None:
            return 404, {}, _error(f"The model {body['model']!r} does not exist")
        return 200, {}, _completion(body, text, reply)


def _say(body: dict[str, Any]) -> str | None:
    """Return what the model says; None where there is no such model."""
    name, _, form = body["model"].partition(":")
    if name == "nothing":
        return '{"detections": []}'
    picture = Seen("", {}, body).picture
    if name == "spots":
        return json.dumps({"detections": _spots(picture, form or "0-1000 xyxy")})
    if name == "scene":
        return f"A picture of {picture.shape[1]} by {picture.shape[0]} pixels."
    if name == "guard":
        red = _redness(picture) > 0.5
        return json.dumps({"allowed": not red, "reason": "too red" if red else "fine"})
    return None


def _spots(picture: np.ndarray, form: str) -> list[dict[str, Any]]:
    from skimage.measure import label, regionprops

    height, width = picture.shape[:2]
    unit, order = form.split()
    full = {"pixels": (width, height), "0-1": (1, 1), "0-1000": (1000, 1000)}[unit]
    found = []
    for region in regionprops(label(picture.min(axis=2) > 128)):
        y0, x0, y1, x1 = region.bbox
        x0, x1 = x0 * full[0] / width, x1 * full[0] / width
        y0, y1 = y0 * full[1] / height, y1 * full[1] / height
        box = {
            "xyxy": [x0, y0, x1, y1],
            "yxyx": [y0, x0, y1, x1],
            "cxcywh": [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0],
            "xywh": [x0, y0, x1 - x0, y1 - y0],
        }[order]
        found.append({"label": "spot", "box": box})
    return found


def _redness(picture: np.ndarray) -> float:
    return float((picture[..., 0].astype(int) - picture[..., 1:].max(axis=2) > 100).mean())


def _moderation(body: dict[str, Any]) -> dict[str, Any]:
    red = _redness(Seen("", {}, body).picture)
    scores = dict.fromkeys(CATEGORIES, 0.01) | {"violence": round(red, 3)}
    flags = {name: score > 0.5 for name, score in scores.items()}
    applied = {name: ["image"] for name in CATEGORIES}
    result = {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": scores,
        "category_applied_input_types": applied,
    }
    return {"id": "modr-1", "model": body["model"], "results": [result]}


def _completion(body: dict[str, Any], text: str, reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **reply.message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 20, "total_tokens": 1020},
    }


def _error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


def stats(port: int) -> dict[str, int]:
    """Ask a server in another process how many requests it had, and how many at once at most."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=60) as reply:
        return dict(json.load(reply))


if __name__ == "__main__":
    with OpenAIServer(float(sys.argv[1]), together=int(sys.argv[2])) as server:
        server.keep = False
        print(server.port, flush=True)
        sys.stdin.read()
