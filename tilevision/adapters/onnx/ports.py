"""What a model's file says of itself: inputs, outputs, and the notes its exporter left."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.onnx.providers import open_session
from tilevision.errors import ModelError

__all__ = ["Facts", "Port", "by_name", "listed", "read_facts", "trial"]

DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(np.bool_),
}
MOST_CHANNELS = 16  # an axis longer than this is a side of the picture

# Inputs besides the picture that models have, as they are known to be filled.
_BESIDE: dict[str, Callable[[int, tuple[int, int]], NDArray[Any]]] = {
    "orig_target_sizes": lambda n, size: np.tile(np.array(size, np.int64), (n, 1)),
    "pixel_mask": lambda n, size: np.ones((n, size[1], size[0]), np.int64),
}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output.

    Parameters
    ----------
    name : str
    shape : tuple
        Each axis an int, or None where it is decided when the model runs.
    dtype : str
        As onnxruntime writes it: ``"tensor(float)"``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        shape = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} ({shape}) {self.dtype.removeprefix('tensor(').removesuffix(')')}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model without running it.

    Parameters
    ----------
    inputs, outputs : tuple of Port
    notes : mapping
        What the exporter wrote into the file, read as Python or JSON where it is: ``names``,
        ``task``, ``imgsz``, ``stride``, … as Ultralytics writes them.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def picture(self) -> Port:
        """The input that takes the picture."""
        return self.inputs[0]

    @property
    def channels_first(self) -> bool:
        """Return True if the picture's channels come before its rows and columns."""
        first, last = self.picture.shape[-3], self.picture.shape[-1]
        if first is not None and first <= MOST_CHANNELS:
            return True
        return last is None or last > MOST_CHANNELS

    @property
    def channels(self) -> int | None:
        """How many channels the picture has; None: as many as come."""
        return self.picture.shape[-3 if self.channels_first else -1]

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height that the model takes; None where it takes any."""
        rows, columns = (
            self.picture.shape[-2:] if self.channels_first else self.picture.shape[-3:-1]
        )
        return None if rows is None or columns is None else (columns, rows)

    @property
    def keypoints(self) -> tuple[int, int] | None:
        """How many key points an object has, and how many numbers each, as Ultralytics notes it."""
        noted = self.notes.get("kpt_shape")
        if not isinstance(noted, (list, tuple)) or len(noted) != 2:
            return None
        count, each = noted
        whole = isinstance(count, int) and isinstance(each, int)
        return (count, each) if whole and count > 0 and each in (2, 3) else None

    @property
    def batch(self) -> int | None:
        """How many pictures it takes at once; None: as many as come."""
        return self.picture.shape[0] if len(self.picture.shape) == 4 else 1

    def feeds(self, pictures: NDArray[Any], size: tuple[int, int]) -> dict[str, NDArray[Any]]:
        """Return what to run the model on: pictures as they go in, of `size` (width, height)."""
        feeds = {self.picture.name: pictures}
        count = len(pictures) if pictures.ndim == 4 else 1
        for port in self.inputs[1:]:
            feeds[port.name] = _BESIDE[port.name](count, size).astype(DTYPES[port.dtype])
        return feeds


def read_facts(path: Path, name: str) -> Facts:
    """Read what a model says of itself.

    Raises
    ------
    ModelError
        If it cannot be opened, or takes no picture.
    """
    return _facts(path, path.stat().st_mtime_ns, name)


def trial(path: Path, name: str, size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Run a model once, on noise of `size` (width, height), and return its outputs.

    Some layouts differ in nothing but the range of their values.

    Raises
    ------
    ModelError
        If it does not run.
    """
    return _trial(path, path.stat().st_mtime_ns, name, size)


def by_name(facts: Facts, outputs: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return a session's outputs by name, none in half precision."""
    return {
        port.name: out.astype(np.float32) if out.dtype == np.float16 else out
        for port, out in zip(facts.outputs, outputs, strict=True)
    }


def listed(facts: Facts) -> str:
    """Return all inputs and outputs in one line, for errors."""
    inputs, outputs = (", ".join(map(str, ports)) for ports in (facts.inputs, facts.outputs))
    return f"inputs: {inputs}; outputs: {outputs}"


@lru_cache(maxsize=16)
def _facts(path: Path, changed: int, name: str) -> Facts:  # noqa: ARG001 - part of the key
    session = open_session(path, name, device="cpu", optimise=False)
    inputs = tuple(_port(port) for port in session.get_inputs())
    pictures = [port for port in inputs if len(port.shape) in (3, 4)]
    others = [port for port in inputs if port not in pictures[:1]]
    facts = Facts(
        (*pictures[:1], *others),
        tuple(_port(port) for port in session.get_outputs()),
        {k: _read(v) for k, v in session.get_modelmeta().custom_metadata_map.items()},
    )
    if not pictures or any(p.name not in _BESIDE or p.dtype not in DTYPES for p in others):
        raise ModelError(
            f"Model {name} does not take one picture ({listed(facts)}); pass a function that "
            "makes the session once (with @functools.cache) and returns boxes."
        )
    if DTYPES.get(facts.picture.dtype, np.dtype(bool)).kind not in "fu":
        raise ModelError(
            f"Model {name} takes pictures as {facts.picture.dtype}; export it with float or uint8 "
            "input."
        )
    return facts


def _port(port: Any) -> Port:
    shape = (side if isinstance(side, int) and side > 0 else None for side in port.shape)
    return Port(port.name, tuple(shape), port.type)


def _read(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


@lru_cache(maxsize=4)
def _trial(path: Path, changed: int, name: str, size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    facts = _facts(path, changed, name)
    channels = facts.channels or 3
    sides = (channels, size[1], size[0]) if facts.channels_first else (size[1], size[0], channels)
    batch = (facts.batch or 1,) if len(facts.picture.shape) == 4 else ()
    noise = np.random.default_rng(0).integers(0, 256, (*batch, *sides), np.uint8)
    dtype = DTYPES[facts.picture.dtype]
    picture = noise if dtype.kind == "u" else (noise / 255).astype(dtype)
    session = open_session(path, name, device="cpu", optimise=False)
    try:
        outputs = session.run(None, facts.feeds(picture, size))
    except Exception as error:
        raise ModelError(
            f"Model {name} does not run on {size[0]}×{size[1]} px ({_line(error)}); "
            f"pass input_size=(width, height) as it was exported ({listed(facts)})."
        ) from error
    return by_name(facts, outputs)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
