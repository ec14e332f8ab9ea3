"""One GPU for each process of a machine, shared out by locks on files; functions at their own."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from tilevision.errors import ModelError
from tilevision.files import try_lock
from tilevision.modelspec import ModelSpec

__all__ = ["at_its_gpu", "claimed_gpu", "device_of", "gpus", "processes", "runtime"]

_claims: list[IO[str]] = []


@lru_cache
def gpus() -> int:
    """Return how many NVIDIA GPUs this process may use; CUDA_VISIBLE_DEVICES counts."""
    count = ctypes.c_int(0)
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    good = cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if good else 0


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


def device_of(spec: ModelSpec) -> str:
    """Return the device of this process: ``"cuda:0"``, ``"mps"``, ``"cpu"``; empty: none declared.

    Without a number, processes on one machine share its GPUs out.

    Raises
    ------
    ModelError
        If it is not here, or is none that a function can be given.
    """
    if spec.device == "auto":
        return ""
    kind, _, number = spec.device.partition(":")
    if kind not in ("cpu", "cuda", "mps"):
        raise ModelError(
            f"Device {spec.device!r} of model {spec.name} is none for functions; give 'cpu', "
            "'cuda', 'cuda:0' or 'mps'."
        )
    if kind == "mps" and not (sys.platform == "darwin" and platform.machine() == "arm64"):
        raise ModelError(
            f"Device 'mps' of model {spec.name} was asked for, but this is no Mac with an Apple "
            "processor; leave device out."
        )
    if kind != "cuda":
        return kind
    count = gpus()
    index = int(number) if number else claimed_gpu(count)
    if index >= count:
        there = f"{count} GPU{'s' if count != 1 else ''}, numbered from 0"
        raise ModelError(
            f"Device {spec.device!r} of model {spec.name} was asked for, but this machine shows "
            f"{there if count else 'no NVIDIA GPU'}; check the driver and CUDA_VISIBLE_DEVICES, or "
            "leave device out."
        )
    return f"cuda:{index}"


def runtime(spec: ModelSpec) -> str:
    """Return on what this process would call the function; empty where no device was declared.

    Raises
    ------
    ModelError
        As `device_of`.
    """
    return device_of(spec)


def processes(spec: ModelSpec) -> int | None:
    """Return how many processes of this machine should hold it: one for each device.

    None on processors: as many as there are.
    """
    kind, _, number = spec.device.partition(":")
    if kind == "cuda":
        return 1 if number else max(1, gpus())
    return 1 if kind == "mps" else None


def at_its_gpu(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Return the function so that ``"cuda"`` within it is this GPU, where it uses PyTorch."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return function

    def called(*given: Any) -> Any:
        torch = sys.modules.get("torch")  # others than PyTorch are told by `setup`
        if torch is None or not torch.cuda.is_available():
            return function(*given)
        with torch.cuda.device(int(number)):
            return function(*given)

    return called
