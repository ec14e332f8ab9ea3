"""The file of corrections: lines that are only ever added, one step of the user's in one write.

A step is on the disk before it counts. Undo and redo are lines too, so nothing a person did is
lost. Several panels may write to one file: each first reads what the others wrote.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tilevision.corrections.correctionlayer import CorrectionLayer, HandEntry
from tilevision.corrections.handobject import HandObject
from tilevision.errors import ModelError, RunError
from tilevision.files import lock, refusing

__all__ = ["CorrectionLog", "log_path"]

FORMAT = "tilevision corrections"
SCHEMA = 1
_BAD = (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, ModelError)


def log_path(checkpoint: str | os.PathLike[str], image: str, model: str) -> Path:
    """Return the file with the corrections of an image.

    They belong to the image's content and the model's name: an edited function or other weights
    keep them, and those that no longer find their object are counted.

    Parameters
    ----------
    checkpoint : path-like
        The folder.
    image : str
        Its fingerprint.
    model : str
        Its name.
    """
    words = json.dumps([image, model])
    name = hashlib.sha256(words.encode()).hexdigest()[:24]
    return Path(checkpoint).expanduser().absolute() / "corrections" / f"{name}.jsonl"


@dataclass(slots=True)
class _Steps:
    """What the lines so far come to."""

    entries: dict[str, HandEntry] = field(default_factory=dict)
    done: list[tuple[str, dict[str, HandEntry | None]]] = field(default_factory=list)
    undone: list[tuple[str, list[Mapping[str, Any]]]] = field(default_factory=list)
    lines: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    unreadable: int = 0
    position: int = 0

    def take(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Do what the lines of one step say; an entry as it was before is kept, for undo."""
        step = str(lines[0]["step"])
        verb = lines[0]["verb"]
        if verb == "undo":
            self._undo(str(lines[0]["of"]))
        elif verb == "redo":
            self._redo(str(lines[0]["of"]))
        else:
            self.undone.clear()
            self._do(step, lines)
        self.position += 1

    def _do(self, step: str, lines: Sequence[Mapping[str, Any]]) -> None:
        before: dict[str, HandEntry | None] = {}
        for line in lines:
            entry = _entry(line, self.entries)
            before.setdefault(entry.id, self.entries.get(entry.id))
            self.entries[entry.id] = entry
            if entry.was is None and entry.now is None:  # added, and deleted again
                del self.entries[entry.id]
        self.lines[step] = list(lines)
        self.done.append((step, before))

    def _undo(self, of: str) -> None:
        if not self.done or self.done[-1][0] != of:
            return  # another panel undid it first
        step, before = self.done.pop()
        for name, entry in before.items():
            if entry is None:
                self.entries.pop(name, None)
            else:
                self.entries[name] = entry
        self.undone.append((step, self.lines[step]))

    def _redo(self, of: str) -> None:
        if not self.undone or self.undone[-1][0] != of:
            return
        step, lines = self.undone.pop()
        self._do(step, lines)


def _entry(line: Mapping[str, Any], entries: Mapping[str, HandEntry]) -> HandEntry:
    """Return the entry that a line makes, or makes of an earlier one."""
    verb = line["verb"]
    if verb == "add":
        made = HandObject.from_dict(line["object"])
        return HandEntry(str(line["id"]), None, made, beside=bool(line.get("beside")))
    if "on" in line:
        old = entries[str(line["on"])]
    else:
        was = HandObject.from_dict(line["was"])
        old = HandEntry(str(line["id"]), was, was)
    if verb == "delete":
        return replace(old, now=None)
    now = old.now or old.was
    if now is None:
        raise ValueError("no object")
    if verb == "relabel":
        now = now.named(str(line["label"]))
    elif verb == "reshape":
        now = now.shaped(HandObject.from_dict({"label": ""} | dict(line["shape"])))
    elif verb != "accept":
        raise ValueError("no verb")
    return replace(old, now=now, verbs=old.verbs | {verb})


# Logs whose owners show what they hold: a file may be corrected in two panels, or in a cell.
_listeners: weakref.WeakSet[CorrectionLog] = weakref.WeakSet()
_listening = threading.Lock()


class CorrectionLog:
    """The corrections of one image under one model, as its file has them.

    Parameters
    ----------
    path : Path, optional
        The file; it is made with the first correction. None: nothing is kept.
    about : mapping
        What its first line says of image and model, for people.
    heard : callable, optional
        Called after another log of this process has written to the same file, on its thread.

    Raises
    ------
    RunError
        If it is there and cannot be read, or a later version wrote it.
    """

    def __init__(
        self,
        path: Path | None,
        about: Mapping[str, str] | None = None,
        heard: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.heard = heard
        self._about = dict(about or {})
        self._steps = _Steps()
        self._read_to = 0
        self._identity: tuple[int, int] | None = None
        self._layer = CorrectionLayer()
        self._lock = threading.RLock()
        self.refresh()
        if heard is not None:
            with _listening:
                _listeners.add(self)

    def close(self) -> None:
        """Hear of nothing any more."""
        self.heard = None

    @property
    def layer(self) -> CorrectionLayer:
        """The corrections as they are now."""
        with self._lock:
            if self._layer.position != self._steps.position:
                entries = tuple(self._steps.entries.values())
                steps = self._steps
                self._layer = CorrectionLayer(entries, steps.position, steps.unreadable)
            return self._layer

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return bool(self._steps.done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo."""
        return bool(self._steps.undone)

    @property
    def unreadable(self) -> int:
        """How many lines of the file are damaged; they are passed over."""
        return self._steps.unreadable

    def refresh(self) -> None:
        """Read what others wrote since.

        Raises
        ------
        RunError
            If the file cannot be read, or a later version wrote it.
        """
        with self._lock:
            if self.path is None:
                return
            try:
                with self.path.open("rb") as file:
                    self._read(file.fileno())
            except (FileNotFoundError, NotADirectoryError):
                self._forget(None)
            except OSError as error:
                raise RunError(f"Cannot read {self.path}: {error.strerror or error}.") from error

    def write(self, lines: Sequence[dict[str, Any]]) -> None:
        """Add one step of the user's, which may be about many objects.

        Parameters
        ----------
        lines : sequence of dict
            ``verb`` and what belongs to it: ``was`` (an object of the model's) or ``on`` (the id of
            an entry), ``label``, ``shape``, ``object``, ``beside``.

        Raises
        ------
        RunError
            If it cannot be written; then nothing has changed.
        """
        step = secrets.token_hex(6)
        head: dict[str, Any] = {"step": step, "lines": len(lines), "at": round(time.time(), 3)}
        if who := _who():
            head["by"] = who
        self._append([head | {"id": f"{step}-{i}"} | line for i, line in enumerate(lines)])

    def undo(self) -> bool:
        """Undo the latest step, whoever made it; return False where there is none.

        Raises
        ------
        RunError
            If that cannot be written.
        """
        return self._turn("undo")

    def redo(self) -> bool:
        """Do the step again that was undone last; return False where there is none.

        Raises
        ------
        RunError
            If that cannot be written.
        """
        return self._turn("redo")

    def _turn(self, verb: str) -> bool:
        with self._lock:
            self.refresh()
            stack: Sequence[tuple[str, Any]] = self._steps.done
            if verb == "redo":
                stack = self._steps.undone
            if not stack:
                return False
            line = {"step": secrets.token_hex(6), "at": round(time.time(), 3), "verb": verb}
            self._append([line | {"of": stack[-1][0]}])
            return True

    # The file -----------------------------------------------------------------------------

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        with self._lock:
            if self.path is None:
                self._check_lines(lines)
                self._steps.take(lines)
                return
            with refusing(self.path):
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
                file = os.open(self.path, flags, 0o600)
                try:
                    lock(file)  # let go when the file is closed
                    self._write(file, lines)
                finally:
                    os.close(file)
        self._tell_others()

    def _tell_others(self) -> None:
        with _listening:
            others = [log for log in _listeners if log is not self and log.path == self.path]
        for log in others:
            if log.heard is not None:
                log.heard()

    def _check_lines(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Make sure that what a step is about is still there."""
        for line in lines:
            if "on" in line and line["on"] not in self._steps.entries:
                raise RunError("Another panel has undone this object meanwhile. Select it again.")

    def _write(self, file: int, lines: Sequence[dict[str, Any]]) -> None:
        self._read(file)
        self._check_lines(lines)
        size = os.fstat(file).st_size
        head = [] if size else [{"kind": FORMAT, "schema": SCHEMA} | self._about]
        # A line that a crash tore is ended, so that it spoils no other.
        torn = b"\n" if size and _read_at(file, size - 1, 1) != b"\n" else b""
        data = torn + b"".join(json.dumps(line).encode() + b"\n" for line in [*head, *lines])
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        except OSError:
            with suppress(OSError):  # no half of a step stays: the disk is full
                os.ftruncate(file, size)
            raise
        if not size and self.path is not None:
            from tilevision.checkpoint.segmentfile import sync_folder

            sync_folder(self.path.parent)
        self._read(file)

    def _read(self, file: int) -> None:
        """Take in the whole lines that were added since; of another file, all of them."""
        stat = os.fstat(file)
        identity = (stat.st_dev, stat.st_ino)
        if identity != self._identity or stat.st_size < self._read_to:
            self._forget(identity)
        if stat.st_size == self._read_to:
            return
        data = b""
        while len(data) < stat.st_size - self._read_to:
            offset = self._read_to + len(data)
            more = _read_at(file, offset, stat.st_size - offset)
            if not more:
                break
            data += more
        self._read_to += self._take(data[: data.rfind(b"\n") + 1])

    def _forget(self, identity: tuple[int, int] | None) -> None:
        position = self._steps.position + 1 if self._read_to else self._steps.position
        self._steps, self._read_to, self._identity = _Steps(position=position), 0, identity

    def _take(self, data: bytes) -> int:
        """Do what whole lines say; return how many bytes of them are over and done with.

        The lines of a step whose last is not there yet are read again later.
        """
        step: list[Mapping[str, Any]] = []
        end = over = 0
        for text in data.split(b"\n")[:-1]:
            first, end = self._read_to + end == 0, end + len(text) + 1
            try:
                line = json.loads(text)
                if first and line.get("kind") == FORMAT:
                    self._check(line)
                elif step and step[0]["step"] == line["step"]:
                    step.append(line)
                else:
                    self._steps.unreadable += len(step)  # its last line never came
                    step = [line]
                if step and (step[0]["verb"] in ("undo", "redo") or len(step) == line["lines"]):
                    self._steps.take(step)
                    step = []
            except _BAD:
                self._steps.unreadable += len(step) or bool(text.strip())
                step = []
            over = over if step else end
        return over

    def _check(self, head: Mapping[str, Any]) -> None:
        if head.get("schema") != SCHEMA:
            raise RunError(
                f"The corrections in {self.path} were written by a later tilevision (schema "
                f"{head.get('schema')}, this one knows {SCHEMA}). Update tilevision."
            )


def _read_at(file: int, offset: int, size: int) -> bytes:
    """Read up to `size` bytes; `os.pread` is not everywhere, and appending needs no position."""
    os.lseek(file, offset, os.SEEK_SET)
    return os.read(file, size)


def _who() -> str:
    """Return the user's name, as the system knows it; empty where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""
