"""Frames of a video, each an image: found by their time stamps, exactly, and decoded once.

Players jump to the nearest key frame. Here all stamps are listed first, without decoding; then
decoding starts at the key frame before the wanted stamp and continues until it is reached.

Colours follow the video's own tags (BT.601, BT.709, BT.2020, full or limited range), as PyAV
converts them from version 17 on; older ones take everything for BT.601.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevision import checks
from tilevision.errors import SourceError
from tilevision.sources.addresses import page_name
from tilevision.sources.capacity import check_decodes
from tilevision.sources.formats.imageformat import ImageFormat
from tilevision.sources.identity import (
    FileStamp,
    file_options,
    fingerprint_of_array,
    known_fingerprint,
)
from tilevision.sources.source import ImageMetadata, Pixels, SourceRef
from tilevision.sources.staging.staged import StagedSource, staged_note
from tilevision.sources.staging.stagingfile import stage

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["FORMAT", "frames", "open_video"]

_SUFFIXES = frozenset(
    {
        *(".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".ogv", ".webm", ".wmv"),
    }
)
_DECODER = "video1"
_QUARTER = 90
_PALETTE = "pal8"
_OLDEST = 17  # of PyAV
_FURTHER_BACK = 10.0  # seconds: few films have their key frames further apart
_known: dict[tuple[str, FileStamp], tuple[list[int], float]] = {}
_listing = threading.Lock()


def frames(
    path: str | Path,
    *,
    stride: int = 1,
    seconds: float | None = None,
    times: Sequence[float] | None = None,
) -> list[str]:
    """Return names of frames of a video, as ``"clip.mp4#page=31"``, counted from 1.

    Such a name stands for the frame wherever an image is asked for.

    Parameters
    ----------
    path : str or Path
    stride : int
        Every how many frames.
    seconds : float, optional
        Instead: the frame that is shown at every so many seconds.
    times : sequence of float, optional
        Instead: the frames that are shown at these seconds from the first.

    Raises
    ------
    SourceError
        If the video cannot be read, or an argument is not valid.
    """
    name = os.fspath(checks.path("path", path, SourceError))
    stamps, tick = _stamps(name)
    if times is None and seconds is None:
        checks.whole("stride", stride, SourceError)
        return [page_name(name, number + 1) for number in range(0, len(stamps), stride)]
    shown = [(stamp - stamps[0]) * tick for stamp in stamps]
    if times is None:
        apart = checks.positive("seconds", seconds, SourceError, what="the time between two")
        times = [float(time) for time in np.arange(0, shown[-1] + 1e-9, apart)]
    given = list(times) if isinstance(times, Iterable) else [times]
    if not all(checks.is_number(time) and 0 <= time <= shown[-1] for time in given):
        raise SourceError(
            f"times is {times!r:.80}; give seconds in a list, from 0 to {shown[-1]:g}, the last of "
            f"{name}."
        )
    # Half a tick: 0.1 s in the clock of the file is a hair more or less.
    numbers = [bisect.bisect_right(shown, time + tick / 2) for time in given]
    return [page_name(name, number) for number in dict.fromkeys(numbers)]


def open_video(
    path: str,
    *,
    frame: int = 0,
    mpp: tuple[float, float] | None = None,
    stamp: tuple[int, int] | None = None,
    fingerprint: str = "",
) -> StagedSource:
    """Open one frame of a video.

    Parameters
    ----------
    path : str
    frame : int
        From 0, in the order they are shown.
    mpp : tuple of float, optional
        Microns per pixel in x and y.
    stamp : tuple of int, optional
        Size and modification time under which the file had `fingerprint`.
    fingerprint : str
        Of the file.

    Raises
    ------
    SourceError
        If PyAV is not installed, the video is damaged, or has no such frame.
    """
    content = known_fingerprint(path, stamp, fingerprint)
    stamps, tick = _stamps(path)
    if not 0 <= frame < len(stamps):
        raise SourceError(
            f"{path} has {len(stamps)} frames, counted from 1; there is no {frame + 1}."
        )
    picture, revised = _picture(path, stamps, stamps[frame], tick)
    own = sha256(f"{content} frame {frame}{revised}".encode()).hexdigest()

    def write(out: Pixels) -> Iterator[int]:
        out[...] = picture
        yield len(picture)

    key = f"{own}-{_DECODER}-{fingerprint_of_array(picture)[:16]}"
    staged = stage(key, picture.shape, picture.dtype, write)
    metadata = ImageMetadata(
        format="video", mpp=mpp, frames=len(stamps), notes=(staged_note(staged),)
    )
    options: dict[str, Any] = {"frame": frame, "mpp": mpp, **file_options(path, content)}
    reference = SourceRef("tilevision.sources.formats.video:open_video", path, options, own)
    return StagedSource(path, staged, metadata, reference)


def _stamps(path: str) -> tuple[list[int], float]:
    """Return the time stamps of all frames as they are shown, and the seconds of one tick."""
    key = (path, FileStamp.of(path))
    with _listing:
        if key not in _known:
            with _opened(path) as container:
                stream = container.streams.video[0]
                packets = [packet for packet in container.demux(stream) if packet.size]
                stamps = sorted({p.pts for p in packets if p.pts is not None and not p.is_discard})
                tick = float(stream.time_base or 0)
            if not stamps or any(packet.pts is None for packet in packets):
                raise SourceError(
                    f"{path} has no time stamps, so its frames cannot be found. Copy it into a "
                    "container that has them: ffmpeg -i IN -c copy OUT.mkv."
                )
            _known[key] = stamps, tick
        return _known[key]


def _picture(path: str, stamps: Sequence[int], stamp: int, tick: float) -> tuple[Pixels, str]:
    """Return the frame of a time stamp, and what earlier releases read wrongly in it, if any."""
    # Some containers seek by the order of decoding, and land on a key frame that is shown
    # later: then from further back, and at last from the beginning.
    back = round(_FURTHER_BACK / tick)
    for start in (stamp, max(stamps[0], stamp - back), None):
        found, palette = _decoded(path, stamp, start)
        if found is None:
            continue
        if not palette or start is None:
            return found, ""
        # FFmpeg hands the palette of a stream over once, before its first frame: after a jump
        # the frames of some codecs (raw, QuickTime animation) are black.
        whole, _ = _decoded(path, stamp, None)
        if whole is None or np.array_equal(whole, found):
            return found, ""
        return whole, " revised: palette"
    raise SourceError(f"{path}: PyAV cannot decode this frame; get the video again.")


def _decoded(path: str, stamp: int, start: int | None) -> tuple[Pixels | None, bool]:
    """Return a frame, decoding from the key frame before `start`, and whether it has a palette."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        check_decodes(path, stream.width, stream.height, 8)
        if start is not None:
            container.seek(start, stream=stream, backward=True)
        for found in container.decode(stream):
            if found.pts == stamp:
                pixels: Pixels = found.to_ndarray(format="rgb24")
                # As the camera was held, counter-clockwise.
                turned = np.rot90(pixels, round(found.rotation / _QUARTER))
                return turned, found.format.name == _PALETTE
            if found.pts is not None and found.pts > stamp:
                break
    return None, False


@contextmanager
def _opened(path: str) -> Iterator[InputContainer]:
    try:
        import av
    except ImportError:
        raise FORMAT.missing(path) from None
    if int(av.__version__.partition(".")[0]) < _OLDEST:
        raise SourceError(
            f"{path} is a video, which needs PyAV {_OLDEST} or later; PyAV {av.__version__} gives "
            "wrong colours. Upgrade it: pip install -U av."
        )
    try:
        with av.open(path) as container:
            _check_video(path, container)
            yield container
    except SourceError:
        raise
    except Exception as error:  # also names in it that are no text
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(f"PyAV cannot read {path} ({reason}); get the video again.") from error


def _check_video(path: str, container: InputContainer) -> None:
    if not container.streams.video or container.streams.video[0].codec_context is None:
        raise SourceError(f"{path} holds no video that PyAV can decode.")


FORMAT = ImageFormat(
    "a video",
    accepts=lambda file: file.suffix in _SUFFIXES,
    opener=open_video,
    suffixes=_SUFFIXES,
    pages=True,
    library="PyAV",
    extra="video",
)
