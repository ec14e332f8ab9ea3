"""Trying a slide in a process of its own, before it is opened in the user's.

OpenSlide trusts what a slide says of itself: over a damaged one (one in a thousand, mutated at
random) it divides by zero, runs out of memory or never returns, and the notebook would go with
it. Workers need no such trial: they are replaced.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from tilevision.errors import SourceError
from tilevision.sources.capacity import available_memory
from tilevision.sources.identity import FileStamp

__all__ = ["try_slide"]

_SECONDS = 30.0
_PROGRAM = """
import sys
from contextlib import suppress
with suppress(ImportError, OSError, ValueError):
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
from openslide import OpenSlide
with suppress(Exception):
    slide = OpenSlide(sys.argv[1])
    for level, (width, height) in enumerate(slide.level_dimensions):
        wide, high = min(width, 512), min(height, 512)
        shrink = slide.level_downsamples[level]
        for x, y in ((0, 0), ((width - wide) // 2, (height - high) // 2), (width - 1, height - 1)):
            with suppress(Exception):
                slide.read_region((round(x * shrink), round(y * shrink)), level, (wide, high))
"""
_sound: set[tuple[str, FileStamp]] = set()


def try_slide(path: str) -> None:
    """Check that OpenSlide survives a slide: that it opens, and reads some of every level.

    Takes some tenths of a second, once in this process for each slide. What OpenSlide refuses
    in words passes here, to be told when the slide is opened.

    Raises
    ------
    SourceError
        If its process ended, or had to be ended.
    """
    key = (path, FileStamp.of(path))
    if key in _sound or not sys.executable:
        return
    command = [sys.executable, "-c", _PROGRAM, path, str(available_memory())]
    with suppress(OSError):  # no process to be had: the slide is opened untried
        try:
            code = subprocess.run(  # noqa: S603  the path is no command
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise SourceError(
                f"{path}: OpenSlide does not get done with it within {_SECONDS:g} s; it is "
                "damaged, or its storage too slow: copy it to a local disk"
            ) from None
        if code < 0:
            raise SourceError(
                f"{path} is a damaged slide that OpenSlide ends its process over (signal {-code}); "
                "get it again"
            )
    _sound.add(key)
