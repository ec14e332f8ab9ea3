"""What a family of models is, and what recognition and decoding see of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.classnames import count
from tilevision.adapters.onnx.graph import Node, maker_of
from tilevision.adapters.onnx.ports import Facts, Port
from tilevision.errors import ModelError

__all__ = [
    "MULTIPLE",
    "Candidates",
    "DecodeInfo",
    "Family",
    "Layout",
    "Outputs",
    "from_centres",
    "single",
]

MULTIPLE = 32  # of what an input of any size is one: the coarsest stride

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class DecodeInfo:
    """What a decoder gets beside the outputs.

    Parameters
    ----------
    input_size : tuple of int
        Width and height of what the model was given, pixels.
    tile_size : tuple of int
        Width and height of the tile, pixels.
    names : list or dict, optional
        Class names by class number.
    score_floor : float
        What scores lower is dropped afterwards.
    keypoints : tuple of int, optional
        How many key points an object has, and how many numbers each, where the file says so.
    """

    input_size: tuple[int, int]
    tile_size: tuple[int, int]
    names: Any
    score_floor: float
    keypoints: tuple[int, int] | None = None

    @property
    def n_classes(self) -> int | None:
        """How many classes there are, where the names tell."""
        return count(self.names)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a family's decoder makes of one tile, in pixels of the model's input.

    Parameters
    ----------
    boxes : array (n, 4)
        xmin, ymin, xmax, ymax.
    scores : array (n,)
    class_ids : array (n,) of int
    oriented : array (n, 4, 2), optional
        Corners of rotated boxes.
    coefficients : array (n, k), optional
        Of each detection's mask: how much of each prototype.
    prototypes : array (k, h, w), optional
        Over the whole input.
    masks : array (n, h, w), optional
        Over the whole input, or over each box, at any resolution.
    mask_level : float
        Value of `masks` from which a pixel belongs to the object: 0.5 of probabilities, 0 of
        logits.
    masks_in_boxes : bool
        Whether each mask is one of its box instead of the whole input.
    tile_scores : array (classes,), optional
        Of the tile as a whole.
    keypoints : array (n, k, 3), optional
        x, y in pixels of the model's input, and confidence.
    embedding : array (d,), optional
        Of the tile as a whole.
    planes : array (k, h, w), optional
        A map of the whole input.
    """

    boxes: NDArray[Any]
    scores: NDArray[Any]
    class_ids: NDArray[Any]
    oriented: NDArray[Any] | None = None
    coefficients: NDArray[Any] | None = None
    prototypes: NDArray[Any] | None = None
    masks: NDArray[Any] | None = None
    mask_level: float = 0.5
    masks_in_boxes: bool = False
    tile_scores: NDArray[Any] | None = None
    keypoints: NDArray[Any] | None = None
    embedding: NDArray[Any] | None = None
    planes: NDArray[Any] | None = None


@dataclass(frozen=True)
class Layout:
    """What recognition goes by.

    Parameters
    ----------
    facts : Facts
    size : tuple of int
        Width and height of the input; for a model that takes any, of the trial.
    n_classes : int, optional
        Where names are known.
    trial : callable
        Runs the model once, on noise, and returns its outputs by name.
    nodes : tuple of Node
        Its graph; empty where it is not known.
    """

    facts: Facts
    size: tuple[int, int]
    n_classes: int | None
    trial: Callable[[], Outputs]
    nodes: tuple[Node, ...] = ()

    @cached_property
    def outputs(self) -> tuple[Port, ...]:
        """The outputs, with every axis known but the batch's."""
        ports = self.facts.outputs
        if all(side is not None for port in ports for side in port.shape[1:]):
            return ports
        found = self.sample
        return tuple(
            Port(p.name, (p.shape[:1] or ()) + found[p.name].shape[1:], p.dtype) for p in ports
        )

    @cached_property
    def sample(self) -> Outputs:
        """The outputs for a picture of noise: some layouts differ in their values only."""
        return self.trial()

    @property
    def maker(self) -> str:
        """The operator that makes the first output, as ``"Softmax"``; empty where unknown."""
        return maker_of(self.nodes, self.facts.outputs[0].name)

    @property
    def names(self) -> set[str]:
        """The names of the outputs."""
        return {port.name for port in self.facts.outputs}

    @property
    def task(self) -> str | None:
        """What Ultralytics says the model is for: detect, segment, obb, classify, …"""
        return self.facts.notes.get("task")

    @property
    def transformer(self) -> bool:
        """Return True if Ultralytics says it is an RT-DETR."""
        notes = self.facts.notes
        told = (str(notes.get(key, "")).lower() for key in ("head", "description"))
        return any("rtdetr" in text.replace("-", "") for text in told)

    def alone(self, axes: int) -> tuple[int, ...] | None:
        """Return the shape, without the batch, of the one output, where it has so many axes."""
        if len(self.outputs) != 1 or len(self.outputs[0].shape) != axes + 1:
            return None
        return tuple(int(side) for side in self.outputs[0].shape[1:] if side is not None)

    def counts(self, columns: int) -> bool:
        """Return True if so many columns can be one for each class."""
        return columns >= 1 if self.n_classes is None else columns == self.n_classes


@dataclass(frozen=True, slots=True)
class Family:
    """A way in which models lay out their outputs.

    Parameters
    ----------
    name : str
    shape : str
        What the outputs look like, for people.
    matches : callable
        Says of a `Layout` whether it can be one of these.
    decode : callable
        Makes `Candidates` of the outputs for one tile and a `DecodeInfo`.
    channels, normalize, letterbox
        What such models are fed, unless the user says otherwise.
    suppresses : bool
        Whether several detections of one object are usual, so that they must be suppressed.
    finite : bool
        Whether the rows of its outputs are all the objects that a tile can have: a tile that
        fills them may have more.
    queries : bool
        Whether these rows are queries: as many for any picture, whatever their shape says.
    antialias : bool
        Whether a larger tile is averaged when it is shrunk, as Pillow and torchvision do it, or
        sampled between neighbouring pixels, as OpenCV does it: what such models are trained with.
    rounds : bool
        Whether the sides of a tile that keeps its proportions are rounded to whole pixels, or cut.
    multiple : int
        Of what both sides of an input of any size are a multiple: smaller tiles are filled up.
        1 where the library takes a picture of any size as it is.
    reads : tuple of str
        The outputs that are read, where they go by their names; others are named in a warning.
    """

    name: str
    shape: str
    matches: Callable[[Layout], bool]
    decode: Callable[[Outputs, DecodeInfo], Candidates]
    channels: str = "rgb"
    normalize: str = "0..1"
    letterbox: bool | str = True
    suppresses: bool = False
    finite: bool = False
    queries: bool = False
    antialias: bool = True
    rounds: bool = True
    multiple: int = MULTIPLE
    reads: tuple[str, ...] = ()


def single(outputs: Outputs, axes: int, family: str) -> NDArray[Any]:
    """Return the first output, of a batch of one tile, with so many axes for the tile.

    Raises
    ------
    ModelError
        If it has others.
    """
    name, out = next(iter(outputs.items()))
    if out.ndim != axes + 1 or len(out) != 1:
        raise ModelError(
            f"Output {name} of shape {out.shape} is not what family {family!r} gives; leave family "
            "out, or pass decode=."
        )
    return np.asarray(out[0])


def from_centres(rows: NDArray[Any]) -> NDArray[Any]:
    """Return boxes ``(n, 4)`` of centre x, centre y, width, height as corners."""
    half = rows[:, 2:4] / 2
    return np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
