"""What a name such as ``hf:owner/repository/file.onnx@revision`` says."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tilevision.errors import ModelError

__all__ = ["SCHEME", "HubName"]

SCHEME = "hf:"
_WORD = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?|[A-Za-z0-9_]+"
_ID = re.compile(rf"(?:{_WORD})/(?:{_WORD})", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FORM = "write hf:owner/repository, hf:owner/repository@revision or hf:owner/repository/file.onnx"


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository of a model hub, and what of it is meant.

    Parameters
    ----------
    text : str
        As it was written.
    repository : str
        ``"owner/name"``.
    file : str
        A path in it; ``""`` for the model that the repository is.
    revision : str
        A branch, a tag or a commit; ``""`` where none was written, which is ``main``.
    """

    text: str
    repository: str
    file: str = ""
    revision: str = ""

    @property
    def commit(self) -> str:
        """The revision, if it is a whole commit hash, which never moves."""
        return self.revision if _COMMIT.fullmatch(self.revision) else ""

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Read a name.

        Raises
        ------
        ModelError
            If it does not say which repository, or leads out of it.
        """
        place, at, revision = text.removeprefix(SCHEME).partition("@")
        parts = place.split("/")
        repository, file = "/".join(parts[:2]), "/".join(parts[2:])
        if not _ID.fullmatch(repository) or (at and not revision.strip()):
            raise ModelError(f"{text!r} names no model of the hub; {_FORM}.")
        steps = [*parts[2:], *revision.split("/")] if revision else parts[2:]
        if any(step in ("", ".", "..") or "\\" in step or not step.isprintable() for step in steps):
            raise ModelError(f"{text!r} names no file or revision of a repository; {_FORM}.")
        return cls(text, repository, file, revision)
