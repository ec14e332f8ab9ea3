"""What a worker does for a batch of tiles: read, predict, compact. Plain, no Dask."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from tilevision.errors import Failure
from tilevision.grid import Tile
from tilevision.modelspec import ModelSpec
from tilevision.sources import ReadOptions, SourceRef

__all__ = ["Hooks", "TileOutcome", "Work", "infer"]


@dataclass(frozen=True, slots=True)
class Work:
    """What stays the same for all tiles of a run; pickled into every task.

    Parameters
    ----------
    source : SourceRef
    options : ReadOptions
        Bands, depth and stretch: what turns stored values into what the model sees.
    model : ModelSpec
    """

    source: SourceRef
    options: ReadOptions
    model: ModelSpec


@dataclass(frozen=True, slots=True)
class TileOutcome:
    """What became of one tile in one task.

    Parameters
    ----------
    tile : Tile
    records : tuple of bytes
        The findings as `codec.encode` writes them; empty where the tile failed.
    failure : Failure, optional
    n_findings : int
    saturated : bool
    read_seconds, infer_seconds : float
        A batch's time is shared equally among its tiles.
    batched : bool
        Whether the failure hit a call with several tiles, so no single tile is to blame.
    """

    tile: Tile
    records: tuple[bytes, ...] = ()
    failure: Failure | None = None
    n_findings: int = 0
    saturated: bool = False
    read_seconds: float = 0.0
    infer_seconds: float = 0.0
    batched: bool = False


def _nothing(_: str) -> None:
    return None


def _no_span(_: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the executor wants to know or do around a tile.

    Parameters
    ----------
    started : callable
        Called with the tile's id before the tile is read.
    waiting : callable
        Called once before a hosted model's request: gives the processor slot back.
    span : callable
        ``span("read" | "infer" | "encode")``: a context that measures.
    """

    started: Callable[[str], None] = _nothing
    waiting: Callable[[], None] = field(default=lambda: None)
    span: Callable[[str], AbstractContextManager[None]] = _no_span


def infer(work: Work, tiles: tuple[Tile, ...], hooks: Hooks = Hooks()) -> list[TileOutcome]:
    """PLACEHOLDER-CONTRACT: to be written by its owner."""
    raise RuntimeError("not written yet")
