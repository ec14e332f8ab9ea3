"""One GPU for each process of a machine, shared out by locks on files."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

__all__ = ["claimed_gpu"]

_claims: list[IO[str]] = []


@lru_cache
def claimed_gpu(count: int) -> int:
    """Return the GPU that this process has for itself, as long as it lives; by turns if none."""
    with suppress(ImportError):  # Windows has no fcntl
        import fcntl

        for index in range(count):
            path = Path(tempfile.gettempdir()) / f"tilevision-gpu-{os.getuid()}-{index}.lock"
            with suppress(OSError):
                file = path.open("a")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    file.close()
                    continue
                _claims.append(file)
                return index
    return os.getpid() % max(1, count)
