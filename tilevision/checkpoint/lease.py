"""The lease of a run where locks cannot be trusted: numbered owners, each with a beat.

``runs/<id>.lease/`` holds a file for each owner there has been: ``000001``, ``000002``, …, created
exclusively, so that of two who want to be the next one gets it. The owner rewrites its
``000001.beat`` every ten seconds; a beat that has stopped for a minute makes the run free. Beats
are judged by the clock of the folder's file system and by one's own watching: two machines'
clocks are never compared. An owner that finds a later one stops. None of that is needed for
safety: whoever stores a tile twice stores the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilevision.checkpoint.filesystem import BATCH_JOBS, names_in
from tilevision.errors import RunBusy

__all__ = ["Lease", "Owner", "is_leased", "lease_folder", "lease_owner"]

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
DEAD_SECONDS = 900.0  # then nobody has to watch whether the beat goes on
_LOOK_AGAIN_SECONDS = 1.0
_CLOCK_SECONDS = 300.0
_UNKNOWN = {"pid": 0, "host": "unknown", "since": 0.0}


@dataclass(frozen=True, slots=True)
class Owner:
    """Who is at work on a run.

    Parameters
    ----------
    pid : int
    host : str
    since : float
        Seconds since the epoch.
    job : str
        Its number in a batch system; empty where there is none.
    age : float or None
        Seconds since its last sign of life; None where it is known to live.
    """

    pid: int
    host: str
    since: float
    job: str = ""
    age: float | None = None

    def __str__(self) -> str:
        job = f" (job {self.job})" if self.job else ""
        sign = "" if self.age is None else f", last sign {max(0.0, self.age):.0f} s ago"
        return f"process {self.pid} on {self.host}{job}{sign}"


@dataclass(frozen=True, slots=True)
class _Sight:
    """What one look at a lease showed."""

    epoch: int
    note: dict[str, Any]
    released: bool
    beat: bytes
    written: float  # by the clock of the file system

    @property
    def token(self) -> tuple[int, bytes, float]:
        return self.epoch, self.beat, self.written


def lease_folder(runs: Path, run_id: str) -> Path:
    """Return the folder of the lease of a run."""
    return runs / f"{run_id}.lease"


class Lease:
    """Makes this process the only one at work on a run, as long as it gives signs of life.

    Parameters
    ----------
    folder : Path
        See `lease_folder`; made where it is missing.
    run_id : str
    on_lost : callable
        Called with a sentence, on a thread of the lease, when another has taken the run over.

    Attributes
    ----------
    epoch : int
        The number of this owner; 0 before `acquire`.
    """

    def __init__(self, folder: Path, run_id: str, on_lost: Callable[[str], None]) -> None:
        self._folder = folder
        self._run_id = run_id
        self._on_lost = on_lost
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None
        self.epoch = 0

    def acquire(self) -> None:
        """Become the owner, or raise `RunBusy`; watches a doubtful owner for two beats first."""
        while True:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sight = _look(self._folder)
            if sight is not None and not self._is_free(sight):
                raise RunBusy(_busy(self._run_id, _owner(sight, self._folder)))
            if self._take(1 if sight is None else sight.epoch + 1):
                break
        self._ended.clear()
        name = f"tilevision-lease-{self._run_id}"
        self._beating = threading.Thread(target=self._beat, name=name, daemon=True)
        self._beating.start()

    def release(self) -> None:
        """Give the run back; does nothing where it is not held."""
        if self._beating is None:
            return
        self._stop()
        # Where that fails, the run is free once the beat is old enough.
        with contextlib.suppress(OSError), self._path.open("ab") as file:
            file.write(b"released\n")
            _flush(file)

    def remove(self) -> None:
        """Give the run back and remove every trace of its lease, which must be held."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self) -> None:
        with _looking:
            _seen.pop(str(self._folder), None)
        beating, self._beating = self._beating, None
        self._ended.set()
        if beating is not None and beating is not threading.current_thread():
            beating.join(BEAT_SECONDS)

    @property
    def _path(self) -> Path:
        return self._folder / f"{self.epoch:06}"

    def _is_free(self, sight: _Sight) -> bool:
        if sight.released or _has_died(sight.note):
            return True
        age = _age(sight, self._folder)
        if -STALE_SECONDS <= age <= STALE_SECONDS:  # far in the future: the clock was set back
            return False
        return age > DEAD_SECONDS or self._stays_still(sight)

    def _stays_still(self, sight: _Sight) -> bool:
        """Watch for two beats, by the clock of this machine alone."""
        until = time.monotonic() + 2 * BEAT_SECONDS
        while time.monotonic() < until:
            time.sleep(min(1.0, BEAT_SECONDS / 4))
            now = _look(self._folder)
            if now is None or now.token != sight.token:
                return False
        return True

    def _take(self, epoch: int) -> bool:
        """Create the file of the next owner; return False if another has been faster."""
        self.epoch = epoch
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            file = os.open(self._path, flags, 0o600)
        except FileExistsError:
            return False
        with os.fdopen(file, "wb") as stream:
            stream.write(json.dumps(_myself()).encode() + b"\n")
            _flush(stream)
        return True

    def _beat(self) -> None:
        beat, count = self._path.with_suffix(".beat"), 0
        while not self._ended.wait(BEAT_SECONDS if count else 0.0):
            count += 1
            try:
                later = _look(self._folder)
                if later is not None and later.epoch > self.epoch:
                    if not self._ended.is_set():
                        self._on_lost(_lost(self._run_id, _owner(later, self._folder)))
                    return
                with beat.open("wb") as file:
                    file.write(b"%016d" % count)
                    _flush(file)
            except OSError:  # the share is away; so are those who might take the run over
                continue


def lease_owner(folder: Path) -> Owner | None:
    """Return who is at work according to a lease folder; None if nobody is, as far as can be seen.

    Writes nothing where that is not allowed. Looks once a second at most, however often it is
    asked.
    """
    key, now = str(folder), time.monotonic()
    with _looking:
        known = _seen.get(key)
        if known is not None and known.owner and now - known.at < _LOOK_AGAIN_SECONDS:
            return None if _has_died(known.note) else known.owner
        sight = _look(folder)
        if sight is None or sight.released or _has_died(sight.note):
            _seen.pop(key, None)
            return None
        if known is not None and now - known.at > STALE_SECONDS:
            known = None  # nobody has watched meanwhile
        moved = known is not None and known.token != sight.token
        since = now if known is None or moved else known.since
        alive = moved or (known is not None and known.alive)
        age = now - since
        # What moved while it was watched is alive, and what stood still that long is not,
        # whatever the clocks of the machines say.
        if not alive and age <= STALE_SECONDS:
            age = max(age, _age(sight, folder))
        owner = _owner(sight, folder, age) if age <= STALE_SECONDS else None
        _seen[key] = _Known(now, since, sight.token, sight.note, owner, alive)
        return owner


def is_leased(checkpoint: Path) -> bool:
    """Return True if a process is at work on any run of a checkpoint folder."""
    try:
        names = names_in(checkpoint / "runs")
    except FileNotFoundError:
        return False
    leases = (checkpoint / "runs" / name for name in names if name.endswith(".lease"))
    return any(lease_owner(lease) is not None for lease in leases)


@dataclass(frozen=True, slots=True)
class _Known:
    """What was seen of a lease, by the clock of this machine."""

    at: float
    since: float
    token: tuple[int, bytes, float]
    note: dict[str, Any]
    owner: Owner | None
    alive: bool  # its beat has gone on


_looking = threading.Lock()
_seen: dict[str, _Known] = {}


def _look(folder: Path) -> _Sight | None:
    """Return the latest owner's files; None where there has been no owner."""
    try:
        names = names_in(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    epochs = [int(name) for name in names if name.isdecimal()]
    if not epochs:
        return None
    path = folder / f"{max(epochs):06}"
    try:
        with path.open("rb") as file:  # opened anew, or the share may show what it was
            lines = file.read(8192).split(b"\n")
            written = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    beat = b""
    if f"{path.name}.beat" in names:
        with contextlib.suppress(OSError), path.with_suffix(".beat").open("rb") as file:
            beat = file.read(64)
            written = max(written, os.fstat(file.fileno()).st_mtime)
    return _Sight(max(epochs), _note(lines[0]), b"released" in lines[1:], beat, written)


def _note(line: bytes) -> dict[str, Any]:
    """Return what an owner says of itself; an unknown one where it has not said it yet."""
    try:
        raw = json.loads(line)
        return _UNKNOWN | {
            "pid": int(raw["pid"]),
            "host": str(raw["host"]),
            "since": float(raw["since"]),
            **{name: str(raw.get(name, "")) for name in ("job", "machine", "begun")},
        }
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return dict(_UNKNOWN)


def _owner(sight: _Sight, folder: Path, age: float | None = None) -> Owner:
    note = sight.note
    seen = _age(sight, folder) if age is None else age
    return Owner(note["pid"], note["host"], note["since"], note.get("job", ""), seen)


def _busy(run_id: str, owner: Owner) -> str:
    left = min(max(0.0, STALE_SECONDS - (owner.age or 0.0)), STALE_SECONDS)
    return (
        f"Run {run_id} is in progress in {owner}. Follow it with tv.watch({run_id!r}), or end "
        f"that process and resume the run. If it has died, the run is free in {left:.0f} s."
    )


def _lost(run_id: str, owner: Owner) -> str:
    return (
        f"Run {run_id} was taken over by process {owner.pid} on {owner.host}, since this process "
        f"gave no sign of life for a minute. What is done is kept; tv.watch({run_id!r}) follows "
        "the run."
    )


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


# Processes --------------------------------------------------------------------------------------


def _myself() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.time(),
        "job": next((os.environ[name] for name in BATCH_JOBS if os.environ.get(name)), ""),
        "machine": _machine(),
        "begun": _begun(os.getpid()),
        "token": secrets.token_hex(8),
    }


def _machine() -> str:
    """Return what is the same for two processes only if one can look for the other.

    Containers share the start of a machine and may share its name, but not their processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _begun(pid: int) -> str:
    """Return when a process began, in the system's own unit; its number may be given again."""
    try:
        state, *more = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else more[18]
    except (OSError, IndexError):
        return ""


def _has_died(note: dict[str, Any]) -> bool:
    """Return True if the owner was a process of this machine, and is no more."""
    machine = note.get("machine")
    return bool(machine) and machine == _machine() and _begun(note["pid"]) != note["begun"]


# Clocks -----------------------------------------------------------------------------------------

_offsets: dict[str, tuple[float, float]] = {}


def _age(sight: _Sight, folder: Path) -> float:
    """Return how long ago a beat was written, by the clock that wrote its time.

    Before anybody is taken for dead the clock is read anew, for it may have been set meanwhile.
    """
    age = _folder_time(folder, _CLOCK_SECONDS) - sight.written
    if not 0.0 <= age <= STALE_SECONDS:
        age = _folder_time(folder, _LOOK_AGAIN_SECONDS) - sight.written
    return age


def _folder_time(folder: Path, known_for: float) -> float:
    """Return the time by the clock of the file system, which is its server's.

    It goes on from what was read in the last `known_for` seconds, where that was. Where nothing
    may be written it is this machine's, for want of a better one.
    """
    now = time.monotonic()
    known = _offsets.get(str(folder))
    if known is None or now - known[1] > known_for:
        try:
            with tempfile.TemporaryFile(prefix=".clock-", dir=folder) as file:
                file.write(b"now")
                _flush(file)
                offset = os.fstat(file.fileno()).st_mtime - time.monotonic()
        except OSError:
            offset = time.time() - now
        known = _offsets[str(folder)] = (offset, now)
    return known[0] + time.monotonic()
