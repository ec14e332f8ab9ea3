"""What is told while an image without windows is decoded, once, into the temp folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tilevision.sources import Preparation, following, is_followed

__all__ = ["shown"]

_PATIENCE = 1.0  # seconds: what is over sooner is not worth a bar


@contextmanager
def shown(name: str, *, wanted: bool) -> Iterator[None]:
    """Within the block, draw how far images are, on standard error.

    Parameters
    ----------
    name : str
        What people call the image.
    wanted : bool
        False: nothing is drawn. Nor is it where somebody follows already.
    """
    if not wanted or is_followed():
        yield
        return
    bar = _Bar(name)
    with following(bar):
        try:
            yield
        finally:
            bar.close()


class _Bar:
    """Draws the latest preparation; a new one starts when another image comes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None

    def __call__(self, preparation: Preparation) -> None:
        from tqdm import tqdm

        if self._bar is None or preparation.done < self._bar.n:
            self.close()
            self._bar = tqdm(
                total=preparation.total,
                desc=f"preparing {self._name[-30:]} in {preparation.folder}",
                unit="B",
                unit_scale=True,
                file=sys.stderr,
                dynamic_ncols=True,
                leave=False,
                delay=_PATIENCE,
            )
        self._bar.update(preparation.done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
