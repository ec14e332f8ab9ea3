"""The few images that a worker keeps open between its tasks."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable

from tilevision.sources.source import ImageSource

__all__ = ["Handles"]


class Handles:
    """The images used last; what falls out closes itself when nobody reads it any more.

    Those with a file in the temp folder take as much of it as all their pixels, so fewer are
    kept, and none that has not been used for a while: after the last of many, no task may come.

    Parameters
    ----------
    most : int
        Images.
    most_staged : int
        Of those, with a file in the temp folder.
    patience : float
        Seconds for which such a one is kept unused.
    """

    def __init__(self, most: int, most_staged: int, patience: float) -> None:
        self._most = most
        self._most_staged = most_staged
        self._patience = patience
        self._sources: OrderedDict[Hashable, ImageSource] = OrderedDict()
        self._used: dict[Hashable, float] = {}  # those with a file, by when they were asked for
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def get(self, key: Hashable) -> ImageSource | None:
        """Return an image that is open, or None."""
        with self._lock:
            source = self._sources.get(key)
            if source is not None:
                self._touch(key)
            return source

    def keep(self, key: Hashable, source: ImageSource, instead: ImageSource | None) -> ImageSource:
        """Keep an image, or return the one that another thread has opened meanwhile.

        `instead` is what `get` returned, and shall not be used any more.
        """
        with self._lock:
            held = self._sources.get(key)
            if held is None or held is instead:
                self._sources[key] = held = source
            if getattr(source, "is_staged", False):
                self._used[key] = 0.0
            self._touch(key)
            staged = [one for one in self._sources if one in self._used]
            for old in staged[: -self._most_staged]:
                self._drop(old)
            while len(self._sources) > self._most:
                self._drop(next(iter(self._sources)))
            self._watch()
            return held

    def _touch(self, key: Hashable) -> None:
        self._sources.move_to_end(key)
        if key in self._used:
            self._used[key] = time.monotonic()

    def _drop(self, key: Hashable) -> None:
        del self._sources[key]
        self._used.pop(key, None)

    def _watch(self) -> None:
        if self._used and self._timer is None:
            self._timer = threading.Timer(self._patience, self._look)
            self._timer.daemon = True
            self._timer.start()

    def _look(self) -> None:
        with self._lock:
            old = time.monotonic() - self._patience
            for key in [key for key, used in self._used.items() if used <= old]:
                self._drop(key)
            self._timer = None
            self._watch()
