"""A repository at one commit, on this machine: listed, and downloaded as far as it is wanted."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from tilevision.adapters.hub.hubname import HubName
from tilevision.errors import ModelError

__all__ = ["Listing", "download", "found", "remember"]

LIBRARY = "huggingface_hub"
_WAIT = 10  # seconds for an answer of the hub, before what is here is used
_HELD = (429, 500, 502, 503, 504)  # the hub is there and cannot answer now
_FULL_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository has at one commit.

    Parameters
    ----------
    name : HubName
    commit : str
        40 hexadecimal digits.
    folder : Path
        Where the commit's files are, or will be, on this machine.
    files : tuple of str
        Paths in the repository; where the hub was not asked, of those that are here.
    asked : bool
        Whether the hub was asked.
    excuse : str
        Why the hub did not answer; empty where it did, or had no need to.
    """

    name: HubName
    commit: str
    folder: Path
    files: tuple[str, ...]
    asked: bool
    excuse: str = ""


def found(name: HubName, commit: str = "", files: Iterable[str] = ()) -> Listing:
    """Return what the repository has, from the hub or, where that is out of reach, from the cache.

    Parameters
    ----------
    name : HubName
    commit : str
        The commit that a run was planned with; ``""``: what the revision is now.
    files : iterable of str
        Those the run was planned with. If all are here, nobody is asked.

    Raises
    ------
    ModelError
        If there is no such repository or revision, it may not be read, or the hub is out of reach
        and the cache has nothing of it.
    """
    pinned = commit or name.commit
    files = tuple(files)
    if pinned and files:
        folder = _folder(name, pinned)
        if all((folder / file).is_file() for file in files):
            return Listing(name, pinned, folder, _here(folder), asked=False)
    hub = _library()
    try:
        told = hub.HfApi().model_info(
            name.repository, revision=pinned or name.revision or None, timeout=_WAIT
        )
    except Exception as error:  # noqa: BLE001 its errors and those of two HTTP libraries
        return _cached(name, pinned, _excuse(name, error))
    names = tuple(sorted(one.rfilename for one in told.siblings or ()))
    if not _FULL_COMMIT.fullmatch(str(told.sha)):
        raise ModelError(f"The hub gave no commit for {name.text}; check HF_ENDPOINT.")
    return Listing(name, told.sha, _folder(name, told.sha), names, asked=True)


def download(listing: Listing, files: Iterable[str]) -> None:
    """Bring files of a repository to this machine, those that are not here yet.

    Raises
    ------
    ModelError
        If one cannot be downloaded.
    """
    missing = [file for file in files if not (listing.folder / file).is_file()]
    if not missing:
        return
    name = listing.name
    if not listing.asked:
        raise ModelError(
            f"{listing.excuse or 'The hub was not asked'}, and the copy of {name.repository} at "
            f"{listing.commit[:12]} in {listing.folder} lacks {missing[0]}; connect, then retry."
        )
    try:
        _library().snapshot_download(
            name.repository,
            revision=listing.commit,
            allow_patterns=[escape(file) for file in missing],
        )
    except Exception as error:
        raise ModelError(_refusal(name, error) or _unreached(name, error)) from error
    lacking = [file for file in missing if not (listing.folder / file).is_file()]
    if lacking:
        raise ModelError(f"The hub did not send {lacking[0]} of {name.text}; try again.")


def remember(listing: Listing) -> None:
    """Note in the cache which commit the revision was, once all of it that is wanted is there.

    The library notes that only where it resolves the revision itself; without a network, it is what
    the name stands for.
    """
    if not listing.asked or listing.name.commit:
        return
    note = _home(listing.name) / "refs" / (listing.name.revision or "main")
    try:
        if note.is_file() and note.read_text() == listing.commit:
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh = note.with_name(f"{note.name}.{os.getpid()}")
        fresh.write_text(listing.commit)
        fresh.replace(note)
    except OSError:  # a cache of others: it works as long as there is a network
        return


def _library() -> Any:
    try:
        return importlib.import_module(LIBRARY)
    except ImportError:
        raise ModelError(f"Models by name need {LIBRARY}: pip install 'tilevision[hub]'.") from None


def _folder(name: HubName, commit: str) -> Path:
    return _home(name) / "snapshots" / commit


def _home(name: HubName) -> Path:
    constants = importlib.import_module(f"{_library().__name__}.constants")
    return Path(constants.HF_HUB_CACHE) / f"models--{name.repository.replace('/', '--')}"


def _here(folder: Path) -> tuple[str, ...]:
    every = (file for file in folder.rglob("*") if file.is_file())
    return tuple(sorted(file.relative_to(folder).as_posix() for file in every))


def _cached(name: HubName, pinned: str, excuse: str) -> Listing:
    """Return what the cache has, where the hub does not answer.

    Raises
    ------
    ModelError
        If it has nothing.
    """
    home, revision = _home(name), name.revision or "main"
    commit = pinned
    if not commit:
        reference = home / "refs" / revision
        commit = reference.read_text().strip() if reference.is_file() else ""
    folder = home / "snapshots" / commit
    if not commit or not folder.is_dir():
        raise ModelError(
            f"{excuse}, and {home.parent} has no copy of {name.repository} at "
            f"{pinned[:12] or revision}; connect, or run hf download {name.repository} where there "
            "is a network and copy that folder here."
        )
    return Listing(name, commit, folder, _here(folder), asked=False, excuse=excuse)


def _excuse(name: HubName, error: Exception) -> str:
    """Return why the hub gives no answer, in words.

    Raises
    ------
    ModelError
        If it gives one, and that is a refusal.
    """
    refusal = _refusal(name, error)
    if refusal:
        raise ModelError(refusal) from error
    if _is(error, "OfflineModeIsEnabled"):
        return "HF_HUB_OFFLINE is set"
    status = _status(error)
    words = f"HTTP {status}" if status else type(error).__name__
    return f"The hub cannot be reached ({words})"


def _refusal(name: HubName, error: Exception) -> str:
    """Return what the hub refuses and the remedy; nothing where it is only out of reach."""
    where = _endpoint()
    login = "run hf auth login, or set HF_TOKEN, as somebody who may read it"
    if _is(error, "GatedRepoError"):
        return (
            f"{name.repository} is gated: its owner asks everybody to accept terms first. Accept "
            f"them on {where}/{name.repository}, then {login}."
        )
    if _is(error, "RevisionNotFoundError"):
        return f"{name.repository} has no revision {name.revision or 'main'!r}; see {where}/" + (
            f"{name.repository}/commits/main."
        )
    if _is(error, "DisabledRepoError"):
        return f"{where} has disabled {name.repository}; choose another model."
    if _is(error, "RepositoryNotFoundError"):
        return (
            f"There is no model {name.repository} on {where}, or it is private; check the name, "
            f"or {login}."
        )
    status = _status(error)
    if status and status not in _HELD:
        return f"{where} refuses {name.repository} (HTTP {status}); check HF_ENDPOINT and HF_TOKEN."
    return ""


def _unreached(name: HubName, error: Exception) -> str:
    words = " ".join(str(error).split())[:160].rstrip(".")
    return (
        f"Cannot download {name.text} ({type(error).__name__}: {words}); check the network and the "
        f"free space of {_home(name).parent}, then try again: what has arrived is kept."
    )


def _is(error: Exception, kind: str) -> bool:
    """Return True if an error, or what it came from, is of a class, wherever that is defined."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    return any(base.__name__ == kind for one in causes for base in type(one).__mro__)


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _endpoint() -> str:
    return str(importlib.import_module(f"{LIBRARY}.constants").ENDPOINT)
