"""The journal: the events of a run as lines of a file, without secrets; written, read, followed."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from tilevision import checks
from tilevision.errors import CheckpointError, RunError
from tilevision.events.bus import Event, RunChanged, StageDone, TileChanged
from tilevision.grid import Tile
from tilevision.status import RunStatus, TileStatus

__all__ = [
    "JOURNAL_SCHEMA",
    "Journal",
    "from_line",
    "is_listed",
    "journal_parts",
    "journal_path",
    "part_path",
    "read_manifest",
    "redact",
    "redact_settings",
    "to_line",
]

HIDDEN = "***"
_NAME = (
    r"(?:access[_-]?|auth[_-]?|bearer[_-]?|refresh[_-]?|session[_-]?|security[_-]?)?token"
    r"|secret|password|passwd|pwd|api[_-]?key|access[_-]?key(?:[_-]?id)?|secret[_-]?key"
    r"|private[_-]?key|authorization|credentials?|signature|sig|sas"
)
_SETTING = re.compile(rf"(?:^|.*[_-])(?:{_NAME})$", re.IGNORECASE)
_PATTERNS = (
    # scheme://user:password@host
    (re.compile(r"(?<=://)[^/\s@]+@"), f"{HIDDEN}@"),
    # name=value in an address or a message, "name": "value" in a quoted reply
    (
        re.compile(
            rf"((?:^|[?&\s;,'\"{{_-])(?:{_NAME})['\"]?\s*[=:]\s*['\"]?)(?!\s*(?:Bearer|Basic)\b)"
            r"[^\s&'\",;}]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # the forms of well-known services' keys
    (re.compile(r"\b(?:sk|pk|hf|ghp|gho|glpat|xox[abp])[-_][\w-]{10,}"), HIDDEN),
    (re.compile(r"\bA(?:KIA|SIA)[A-Z0-9]{12,}\b"), HIDDEN),
)


def redact(text: str) -> str:
    """Return `text` with whatever looks like a secret replaced by ``***``."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_settings(value: Any) -> Any:
    """Return `value` (plain JSON types) with secrets replaced, by name and by form."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            str(name): HIDDEN
            if isinstance(item, str) and item and _SETTING.fullmatch(str(name))
            else redact_settings(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_settings(item) for item in value]
    return value


_KINDS: dict[str, type[RunChanged] | type[StageDone] | type[TileChanged]] = {
    "run": RunChanged,
    "stage": StageDone,
    "tile": TileChanged,
}
_NAMES = {cls: kind for kind, cls in _KINDS.items()}
_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "float | None": (int, float, type(None)),
}
_FIELDS = {
    cls: tuple(
        (field.name, field.default, _TYPES.get(str(field.type), object)) for field in fields(cls)
    )
    for cls in _NAMES
}
_RUN_STATUSES, _TILE_STATUSES = frozenset(RunStatus), frozenset(TileStatus)
_TEXTS = {"reason", "message", "error", "link", "details"}
JOURNAL_SCHEMA = 1
LINES_HELD_BACK = 10_000
LINES_AT_ONCE = 256
BEGINNING_SECONDS = 1.0
SYNC_SECONDS = 0.25
_log = logging.getLogger("tilevision.events")


def to_line(event: Event) -> bytes:
    """Return `event` as one line of UTF-8 JSON with its newline; secrets are replaced.

    Status and tile id come first, so that a reader can count without parsing the rest.
    Fields that hold their default are left out.
    """
    kind = type(event)
    raw: dict[str, Any] = {"kind": _NAMES[kind]}
    if isinstance(event, TileChanged):
        raw |= {"status": event.status, "id": event.tile.id}
    for name, default, _ in _FIELDS[kind]:
        value = getattr(event, name)
        if value is default or value == default:
            continue
        if name in _TEXTS:
            value = redact(value)
        elif name == "tile":
            value = value.to_dict()
            del value["id"]
        elif isinstance(value, float) and not math.isfinite(value):
            value = None
        raw[name] = value
    return json_line(raw)


def from_line(line: bytes | str) -> Event | None:
    """Read what `to_line` wrote; None for a kind of a later version.

    Raises
    ------
    ValueError
        If the line is torn or is no event.
    """
    raw = parse_line(line)
    cls = _KINDS.get(raw.get("kind", ""))
    if cls is None:
        return None
    try:
        values = {name: raw[name] for name, _, _ in _FIELDS[cls] if name in raw}
        if cls is TileChanged:
            values["tile"] = Tile.from_dict({**raw["tile"], "id": str(raw["id"])})
            values["boxes"] = tuple(_box(box) for box in raw.get("boxes", ()))
            values["scores"] = tuple(_score(score) for score in raw.get("scores", ()))
        event = cls(**values)
        _check(event)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {error}") from None
    return event


def json_line(raw: dict[str, Any]) -> bytes:
    """Return `raw` as one line; text that UTF-8 cannot hold (odd file names) is escaped."""
    return _ENCODER.encode(raw).encode("utf-8", "backslashreplace") + b"\n"


def parse_line(line: bytes | str) -> dict[str, Any]:
    """Return the object that a line holds; `ValueError` if it holds none."""
    try:
        raw = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        raise ValueError("not an event")  # noqa: TRY004 - callers catch one kind for bad lines
    return raw


def _plain(value: Any) -> Any:
    """Turn NumPy numbers into Python's; anything else is written as text."""
    return value.item() if hasattr(value, "item") else str(value)


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=_plain)


def _box(raw: Any) -> tuple[int, int, int, int, str]:
    x0, y0, x1, y1, label = raw
    return int(x0), int(y0), int(x1), int(y1), str(label)


def _score(raw: Any) -> float | None:
    """Read a score; None where it is none, so that no reader meets NaN."""
    return float(raw) if raw is not None and math.isfinite(raw) else None


def _check(event: Event) -> None:
    """Refuse values of another type: they would surprise a reader far from here."""
    for name, _, accepted in _FIELDS[type(event)]:
        value = getattr(event, name)
        if not isinstance(value, accepted):
            raise TypeError(f"{name} is of another type")
        if isinstance(value, float) and not math.isfinite(value):
            raise TypeError(f"{name} is not finite")
    if isinstance(event, RunChanged) and event.status not in _RUN_STATUSES:
        raise TypeError("no status of a run")
    if isinstance(event, TileChanged):
        if event.status not in _TILE_STATUSES:
            raise TypeError("no status of a tile")
        tile = event.tile
        whole = isinstance(tile.row, int) and isinstance(tile.col, int)
        if not whole or not all(isinstance(value, (int, float)) for value in tile.region):
            raise TypeError("the tile's numbers are not numbers")


def journal_path(folder: str | os.PathLike[str], run_id: str) -> Path:
    """Return the path of the journal of a run in a checkpoint folder."""
    return checks.path("checkpoint", folder, CheckpointError) / "runs" / f"{run_id}.jsonl"


def part_path(path: str | os.PathLike[str], epoch: int) -> Path:
    """Return where the owner of a run with this number writes, if it is not the first.

    On a share two machines that append to one file lose each other's lines: each owner there has
    a file of its own, which begins with the manifest too.
    """
    return Path(path).with_suffix(".lease") / f"{epoch:06}.jsonl"


def journal_parts(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a journal, in order: one, unless owners have files of their own."""
    more = part_path(path, 0).parent
    try:
        found = sorted(entry for entry in more.iterdir() if entry.suffix == ".jsonl")
    except OSError:
        found = []
    return [Path(path), *found]


def is_listed(path: str | os.PathLike[str]) -> bool:
    """Return True if a file is there, as its folder lists it.

    A share may keep saying that a file is missing for half a minute, once it was asked for it.
    """
    place = Path(path)
    try:
        return any(entry.name == place.name for entry in place.parent.iterdir())
    except OSError:
        return False


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the first line of a journal: what the run is.

    Raises
    ------
    RunError
        If there is no journal, it does not start with a manifest, or a later version wrote it.
    """
    until = time.monotonic() + BEGINNING_SECONDS
    try:
        while True:
            with Path(path).open("rb") as file:
                line = file.readline()
                young = time.time() - os.fstat(file.fileno()).st_mtime < BEGINNING_SECONDS
            if line.endswith(b"\n") or not young or time.monotonic() > until:
                return _manifest(path, line)
            time.sleep(0.01)  # the file was just made, and its first line is on its way
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(f"There is no journal {path} ({error.strerror}).") from error
    except OSError as error:
        raise RunError(f"The journal {path} cannot be read ({error.strerror}).") from error


def _manifest(path: str | os.PathLike[str], line: bytes) -> dict[str, Any]:
    try:
        raw = parse_line(line)
    except ValueError:
        raw = {"kind": ""}
    if raw.pop("kind") != "manifest":
        raise RunError(
            f"{path} is not a journal of tilevision: its first line is not a manifest. If it was "
            "one and is damaged, finished tiles are kept: the same tv.analyze call restores them."
        )
    schema = raw.get("schema", JOURNAL_SCHEMA)
    if not checks.is_whole(schema) or schema > JOURNAL_SCHEMA:
        raise RunError(
            f"The journal {path} was written by a later tilevision (schema {schema!r:.20}, this "
            f"one knows {JOURNAL_SCHEMA}). Update tilevision."
        )
    return raw


class Journal:
    """A listener that appends each event to a file.

    The first line is the manifest. Each line is one write to a file opened for appending,
    so lines never mix. A disk that fills up does not end the run: it is logged once,
    `error` holds the reason, and the latest lines are kept and written once that works again.

    Parameters
    ----------
    path : path
        Its folder is made where it is missing. Readable by its owner only.
    manifest : mapping, optional
        Plain JSON types: ``id``, ``image``, ``model``, ``started`` (epoch), ``n_tiles`` and
        the run's settings. Secrets are replaced by ``***``. None appends to the existing
        journal; see `reopen`.
    synced : bool
        Hand lines over to the disk several times a second, so that other machines see them; a
        share may else show them half a minute later.

    Raises
    ------
    RunError
        If there already is a journal at `path`, or there is none to append to.
    CheckpointError
        If the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        manifest: Mapping[str, Any] | None = None,
        *,
        synced: bool = False,
    ) -> None:
        self.path = Path(path)
        self.error: OSError | None = None
        self._lock = threading.Lock()
        self._held_back: deque[bytes] = deque(maxlen=LINES_HELD_BACK)
        self._together = 0
        self._reported = False
        self._synced_at = 0.0 if synced else math.inf
        self._late: threading.Timer | None = None
        if manifest is None:
            read_manifest(path)
            self._torn = _ends_torn(self.path)
            self._file = _open(self.path, 0)
            return
        self._torn = False
        self._file = _open(self.path, os.O_CREAT | os.O_EXCL)
        raw = {"kind": "manifest", "schema": JOURNAL_SCHEMA, **redact_settings(manifest)}
        try:
            self._held_back.append(json_line(raw))
            self._append(self._held_back)
            self._settle()
        except OSError as error:
            self.close()
            self.path.unlink(missing_ok=True)
            raise _unwritable(self.path, error) from error

    @classmethod
    def reopen(cls, path: str | os.PathLike[str]) -> Journal:
        """Append to the journal at `path`, on a new line where the last one is torn.

        Raises
        ------
        RunError
            If there is no journal with a manifest at `path`.
        CheckpointError
            If the file cannot be written.
        """
        return cls(path, None)

    @classmethod
    def begin(
        cls, path: str | os.PathLike[str], manifest: Mapping[str, Any], epoch: int = 0
    ) -> Journal:
        """Append to the journal at `path`, or begin it where there is none.

        Parameters
        ----------
        path : path
        manifest : mapping
            First line of a new file.
        epoch : int
            On a share, the number of the run's owner, which has a file of its own; else 0.

        Raises
        ------
        RunError, CheckpointError
            As for the class.
        """
        if not epoch:
            return cls.reopen(path) if Path(path).exists() else cls(path, manifest)
        own = part_path(path, epoch) if is_listed(path) else path
        return cls(own, manifest, synced=True)

    def __call__(self, event: Event) -> None:
        """Append `event`; a disk that refuses raises nothing."""
        self.write(to_line(event))

    def write(self, line: bytes) -> None:
        """Append a line with its newline; a disk that refuses raises nothing."""
        with self._lock:
            if self._file < 0:
                return
            self._held_back.append(line)
            if not self._together or len(self._held_back) >= LINES_AT_ONCE:
                self._write_out()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write the lines that come meanwhile at the end, many with one call."""
        with self._lock:
            self._together += 1
        try:
            yield
        finally:
            with self._lock:
                self._together -= 1
                if self._held_back and self._file >= 0:
                    self._write_out()

    def _write_out(self) -> None:
        try:
            while self._held_back:
                self._append(islice(self._held_back, LINES_AT_ONCE))
            self._settle()
        except OSError as error:
            self._report(error)
        else:
            self.error = None

    def close(self) -> None:
        """Close the file; later events are ignored."""
        with self._lock:
            if self._late is not None:
                self._late.cancel()
            if self._file >= 0:
                if self._synced_at < math.inf:
                    self._sync()
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _settle(self) -> None:
        """Hand over what was written: now, or with what comes in the next moment."""
        if time.monotonic() - self._synced_at >= SYNC_SECONDS:
            os.fsync(self._file)
            self._synced_at = time.monotonic()
        elif self._synced_at < math.inf and self._late is None:
            self._late = threading.Timer(SYNC_SECONDS, self._settle_late)
            self._late.daemon = True
            self._late.start()

    def _settle_late(self) -> None:
        with self._lock:
            self._late = None
            if self._file >= 0:
                self._sync()

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
            self._synced_at = time.monotonic()
        except OSError as error:
            self._report(error)

    def _append(self, lines: Iterable[bytes]) -> None:
        """Write the oldest lines held back with one call, and hold them back no longer.

        After a short write the next starts with the line that was torn, on a new line.
        """
        begin = b"\n" if self._torn else b""
        data = begin + b"".join(lines)
        written = os.write(self._file, data)
        if written:
            self._torn = data[written - 1 : written] != b"\n"
        left = written - len(begin)
        while self._held_back and left >= len(self._held_back[0]):
            left -= len(self._held_back.popleft())
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _report(self, error: OSError) -> None:
        self.error = error
        if not self._reported:
            self._reported = True
            _log.warning(
                "The journal %s cannot be written (%s); the run continues, and its latest events "
                "are written once that works again. %s",
                self.path,
                error.strerror,
                _remedy(error),
            )


def _open(path: Path, flags: int) -> int:
    no_links = getattr(os, "O_NOFOLLOW", 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | no_links | flags, 0o600)
    except OSError as error:
        if flags and os.path.lexists(path):
            raise RunError(
                f"There already is a journal {path}. Resume that run, or start one with another id."
            ) from error
        raise _unwritable(path, error) from error


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"The journal {path} cannot be written ({error.strerror}). {_remedy(error)}"
    )


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space on its disk, or use another checkpoint folder."
    return "Use another checkpoint folder."
