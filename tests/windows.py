"""What Windows lacks and has, as far as another system can play it.

`imported_there` makes a file of the package see Windows: its ``sys.platform``, and an
``msvcrt.locking`` with locks of a handle, as there. That nothing is used which Windows lacks, mypy
says (``mypy --platform win32``).
"""

from __future__ import annotations

import fcntl
import importlib
import os
import struct
import sys
import types

LOCKS = {1: (fcntl.F_WRLCK, "lock"), 2: (fcntl.F_WRLCK, "try"), 0: (fcntl.F_UNLCK, "unlock")}
OFD_SETLK = 37  # Linux: locks that belong to an open file, not to a process


def _locking(file: int, mode: int, length: int) -> None:
    kind, _ = LOCKS[mode]
    start = os.lseek(file, 0, os.SEEK_CUR)
    fcntl.fcntl(file, OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


def msvcrt() -> types.ModuleType:
    """Return a module with what the package uses of ``msvcrt``."""
    module = types.ModuleType("msvcrt")
    vars(module).update(locking=_locking, LK_UNLCK=0, LK_LOCK=1, LK_NBLCK=2)
    return module


def imported_there(name: str) -> types.ModuleType:
    """Return a module of the package as Windows imports it."""
    platform, before = sys.platform, sys.modules.get("msvcrt")
    known = sys.modules.pop(name)
    sys.platform, sys.modules["msvcrt"] = "win32", msvcrt()
    try:
        return importlib.import_module(name)
    finally:
        sys.platform, sys.modules[name] = platform, known
        if before is None:
            del sys.modules["msvcrt"]
