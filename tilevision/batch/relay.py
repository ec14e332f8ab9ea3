"""Many images on one cluster: the next is begun when the tiles of the last run out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tilevision.events import Event
from tilevision.pipeline.conductor import ENDED
from tilevision.pipeline.run import Run
from tilevision.sources import ImageSource

__all__ = ["Relay", "UnderWay"]

# As many tiles may be waiting for a worker when the next image is begun. It takes as long to
# open that one as to work a few of them off.
FEW_TILES = 8
LOOK_SECONDS = 1.0
CLOSING_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class UnderWay:
    """An image that was begun.

    Parameters
    ----------
    name : str
    image
    began : float
        By `time.perf_counter`.
    run : Run or None
    error : Exception or None
        Why there is no run.
    """

    name: str
    image: Any
    began: float
    run: Run | None = None
    error: Exception | None = None

    def let_go(self) -> None:
        """Close the image, unless whoever gave it opened it."""
        if self.run is not None and not isinstance(self.image, ImageSource):
            self.run.source.close()

    @property
    def settled(self) -> bool:
        """Whether waiting for its result takes no time, but for what a run ends with."""
        return self.run is None or self.run.status in (*ENDED, "paused")

    @property
    def runs_out(self) -> bool:
        """Whether it has next to no tile left that waits for a worker."""
        if self.run is None or self.run.status in ENDED:
            return True
        return self.run.counts.get("pending", 0) <= FEW_TILES


class Relay:
    """Begins images in their order, and gives each when its turn has come.

    Parameters
    ----------
    images : mapping of str to image
    begin : callable
        ``begin(name, image) -> Run``.
    ahead : int
        So many images may be under way beside the one whose turn it is.
    """

    def __init__(
        self, images: Mapping[str, Any], begin: Callable[[str, Any], Run], ahead: int
    ) -> None:
        self._waiting = deque(images.items())
        self._under_way: deque[UnderWay] = deque()
        self._begin = begin
        self._most = ahead + 1
        self._news = threading.Event()

    def __iter__(self) -> Iterator[UnderWay]:
        """Yield image after image once it is settled; whoever takes it ends it."""
        while self._waiting or self._under_way:
            self._news.clear()
            if self._may_begin():
                self._under_way.append(self._begun(*self._waiting.popleft()))
            elif self._under_way[0].settled:
                yield self._under_way[0]
                self._under_way.popleft()  # not before: who is interrupted ends it, too
            else:
                self._news.wait(LOOK_SECONDS)

    def _may_begin(self) -> bool:
        if not self._waiting or len(self._under_way) >= self._most:
            return False
        return not self._under_way or self._under_way[-1].runs_out

    def _begun(self, name: str, image: Any) -> UnderWay:
        began = time.perf_counter()
        try:
            run = self._begin(name, image)
        except Exception as error:  # noqa: BLE001 - told when its turn has come
            return UnderWay(name, image, began, error=error)
        run.subscribe(self._hear)
        return UnderWay(name, image, began, run)

    def _hear(self, event: Event) -> None:
        del event
        self._news.set()

    def close(self) -> None:
        """End what is under way; tiles in flight are kept."""
        runs = [one.run for one in self._under_way if one.run is not None]
        until = time.monotonic() + CLOSING_SECONDS
        for run in runs:
            run.cancel()
        for run in runs:
            run.wait(max(0.0, until - time.monotonic()))
        for one in self._under_way:
            one.let_go()
        self._under_way.clear()
