"""One GPU for each process of a machine, shared out by locks on files."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

from tilevision.files import try_lock

__all__ = ["claimed_gpu"]

_claims: list[IO[str]] = []


@lru_cache
def claimed_gpu(count: int) -> int:
    """Return the GPU that this process has for itself, as long as it lives; by turns if none."""
    user = ""
    if sys.platform != "win32":  # a user's temp folder is his own there
        user = f"-{os.getuid()}"
    for index in range(count):
        path = Path(tempfile.gettempdir()) / f"tilevision-gpu{user}-{index}.lock"
        with suppress(OSError), ExitStack() as opened:
            file = opened.enter_context(path.open("a"))
            if try_lock(file.fileno()):
                opened.pop_all()
                _claims.append(file)
                return index
    return os.getpid() % max(1, count)
