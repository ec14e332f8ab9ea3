"""A model hub on this machine: repositories with commits, private and gated ones, and its cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


def commit_of(number: int) -> str:
    """A commit hash that shows its number."""
    return f"{number:x}" * 40


@dataclass
class Repository:
    """What the hub knows of one.

    Attributes
    ----------
    commits : dict of str to dict of str to bytes
        Files by path, by commit.
    branches : dict of str to str
    locked : str
        ``""``, ``"private"`` or ``"gated"``.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    locked: str = ""

    def push(self, folder: Path, number: int, branch: str = "main") -> str:
        """Make the files of a folder a commit, and `branch` point at it."""
        commit = commit_of(number)
        files = (file for file in folder.rglob("*") if file.is_file())
        self.commits[commit] = {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}
        self.branches[branch] = commit
        return commit


@dataclass
class Hub:
    """What a test sees of the server.

    Attributes
    ----------
    url : str
    repositories : dict of str to Repository
    asked : list of str
        Each request, as "GET /path".
    status : int or None
        What everything is answered with instead.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    status: int | None = None

    def repository(self, name: str) -> Repository:
        """The repository of that name, made where there is none."""
        return self.repositories.setdefault(name, Repository())

    def downloaded(self) -> list[str]:
        """Names of the files that were fetched."""
        return [
            one.rpartition("/")[2]
            for one in self.asked
            if one.startswith("GET /") and "/resolve/" in one
        ]


def cached(cache: Path, name: str, folder: Path, number: int, branch: str = "main") -> Path:
    """Lay a folder into a cache as the hub's library does; return the snapshot."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / commit_of(number)
    for file in folder.rglob("*"):
        if file.is_file():
            place = snapshot / file.relative_to(folder)
            blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(file.read_bytes())
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            place.symlink_to(blob)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / branch).write_text(commit_of(number))
    return snapshot


def point_at(monkeypatch: pytest.MonkeyPatch, cache: Path, url: str = "") -> None:
    """Have the library use a cache and, unless `url` is empty, a hub; else it is offline."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "" if url else "1")
    monkeypatch.setattr(constants, "ENDPOINT", url or "http://127.0.0.1:9")
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for home in ("constants", "file_download"):  # releases before 1.0 copy it
        module = importlib.import_module(f"huggingface_hub.{home}")
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    # The library keeps an HTTP client, made offline or not.
    for name in ("close_session", "reset_sessions"):
        with contextlib.suppress(AttributeError):
            getattr(importlib.import_module("huggingface_hub.utils"), name)()


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub while the block lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *words: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            status, headers, content = _reply(hub, path)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _reply(hub: Hub, path: str) -> tuple[int, dict[str, str], bytes]:
    if hub.status is not None:
        return hub.status, {}, b"{}"
    api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
    plain = re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)
    file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
    found = api or plain or file
    name = found[1] if found else ""
    repository = hub.repositories.get(name)
    if repository is None or repository.locked == "private":
        return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
    revision = "main" if plain else (api or file)[3 if api else 2]
    commit = repository.branches.get(revision, revision)
    if commit not in repository.commits:
        return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
    files = repository.commits[commit]
    if not file:
        return 200, {"Content-Type": "application/json"}, _told(api, name, commit, files)
    if repository.locked == "gated":
        return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
    if file[3] not in files:
        return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
    content = files[file[3]]
    tag = hashlib.sha256(content).hexdigest()
    return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": commit}, content


def _told(api: re.Match[str] | None, name: str, commit: str, files: dict[str, bytes]) -> bytes:
    if api and api[2] == "tree":
        listed = [
            {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for path, content in files.items()
        ]
        return json.dumps(listed).encode()
    siblings = [{"rfilename": path} for path in files]
    return json.dumps({"id": name, "sha": commit, "siblings": siblings, "tags": []}).encode()
