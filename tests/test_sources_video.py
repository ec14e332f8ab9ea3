"""Frames of a video: exactly the one asked for, by number and by time."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import tilevision as tv
from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source

av = pytest.importorskip("av", reason="PyAV (extra video) is not installed")

FRAMES = 60
SIDE = 32


def _film(path: Path, codec: str, stamps: list[int] | None = None) -> Path:
    """Write a film of 10 frames a second whose frames show their number, in 8 black or white bits.

    B-frames and few key frames, so that neither order nor seeking is simple.
    """
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 8 * SIDE, 2 * SIDE, "yuv420p"
        stream.codec_context.gop_size = 25
        stream.codec_context.max_b_frames = 2
        for number in range(FRAMES):
            bits = [255 * (number >> bit & 1) for bit in range(8)]
            row = np.repeat(np.array(bits, np.uint8), SIDE)
            # The lower half is dark: it tells how the picture is turned.
            pixels = np.concatenate([np.tile(row, (SIDE, 1)), np.zeros((SIDE, row.size), np.uint8)])
            frame = av.VideoFrame.from_ndarray(np.repeat(pixels[..., None], 3, 2), format="rgb24")
            frame.pts = number if stamps is None else stamps[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _number(source: tv.ImageSource) -> int:
    shown = source.read(Box(0, 0, *source.size))[SIDE // 2, SIDE // 2 :: SIDE, 1]
    return int(sum((value > 127) << bit for bit, value in enumerate(shown)))


@pytest.mark.parametrize(("name", "codec"), [("a film.mp4", "mpeg4"), ("film.mkv", "libx264")])
def test_every_frame_is_the_one_asked_for(tmp_path: Path, name: str, codec: str) -> None:
    """In whatever order they are asked for, each frame shows its own number; so on a worker."""
    path = _film(tmp_path / name, codec)
    names = tv.frames(path)
    assert len(names) == FRAMES
    for number in np.random.default_rng(1).permutation(FRAMES)[:25]:
        source = open_source(names[number])
        assert _number(source) == number
        assert source.metadata.frames == FRAMES
    again = open_reference(open_source(path, page=42).reference)
    assert _number(again) == 41


def test_frames_by_stride_and_time(tmp_path: Path) -> None:
    """Names are of every nth frame, of the frame shown every so many seconds, or at times."""
    path = _film(tmp_path / "film.mp4", "mpeg4")

    def numbers(**how: object) -> list[int]:
        return [_number(open_source(name)) for name in tv.frames(path, **how)]

    assert numbers(stride=20) == [0, 20, 40]
    assert numbers(seconds=1.5) == [0, 15, 30, 45]
    assert numbers(times=[5.9, 0.14, 0.3]) == [59, 1, 3]


def test_uneven_times_are_the_films_own(tmp_path: Path) -> None:
    """Where frames come at uneven times, a time finds the one that is shown then."""
    stamps = [number * number for number in range(FRAMES)]
    path = _film(tmp_path / "film.mkv", "libx264", stamps)
    found = [_number(open_source(name)) for name in tv.frames(path, times=[0.1, 0.39, 0.4, 40.0])]
    assert found == [1, 2, 20]  # named once


def test_a_film_held_upright_is_upright(tmp_path: Path) -> None:
    """A phone's quarter turn to the right, in the track's header, is done."""
    path = _film(tmp_path / "film.mov", "mpeg4")
    content = path.read_bytes()
    plain = b"".join(v.to_bytes(4, "big") for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    turned = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
    header = content.index(plain, content.index(b"tkhd"))
    matrix = b"".join(v.to_bytes(4, "big", signed=True) for v in turned)
    straight = open_source(path, page=60)
    path.write_bytes(content[:header] + matrix + content[header + 36 :])
    source = open_source(path, page=60)
    assert source.size == (2 * SIDE, 8 * SIDE)
    expected = np.rot90(straight.read(Box(0, 0, *straight.size)), -1)
    np.testing.assert_array_equal(source.read(Box(0, 0, *source.size)), expected)


def test_what_is_no_frame_says_so_in_a_line(tmp_path: Path) -> None:
    """No such frame, times outside the film, and damaged films are one line each."""
    path = _film(tmp_path / "film.mp4", "mpeg4")
    with pytest.raises(SourceError, match="has 60 frames, counted from 1; there is no 61"):
        open_source(path, page=61)
    with pytest.raises(SourceError, match=r"times is \[7\]; .* from 0 to 5\.9"):
        tv.frames(path, times=[7])
    for stride in (0, 2.5, "5", None):
        with pytest.raises(SourceError, match=r"stride is .*; give a whole number of 1 or more"):
            tv.frames(path, stride=stride)
    for seconds in (0, "1", [1], float("nan")):
        with pytest.raises(SourceError, match=r"seconds is .*; give the time between two above 0"):
            tv.frames(path, seconds=seconds)
    for times in (7.5, ["1"], "12", [None], True):
        with pytest.raises(SourceError, match=r"times is .*; give seconds in a list, from 0"):
            tv.frames(path, times=times)
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SourceError, match=r"PyAV cannot read .*cut\.mp4") as error:
        open_source(tmp_path / "cut.mp4")
    assert "\n" not in str(error.value)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video names the extra that reads it."""
    path = _film(tmp_path / "film.mp4", "mpeg4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SourceError, match=r"pip install 'tilevision\[video\]'"):
        open_source(path)


# Share of red and blue in luma, by the number that H.273 gives a matrix (5 and 6 are BT.601).
_LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
_LUMA |= {9: (0.2627, 0.0593)}


def _tagged(path: Path, colour: tuple[int, int, int], matrix: int, full: bool) -> Path:
    """Write a film of one colour, turned into YCbCr by ITU-T H.273's formulas, and so tagged."""
    r, g, b = (value / 255 for value in colour)
    red, blue = _LUMA[matrix]
    y = red * r + (1 - red - blue) * g + blue * b
    parts = y, (b - y) / 2 / (1 - blue), (r - y) / 2 / (1 - red)
    ranges = ((255, 0), (255, 128), (255, 128)) if full else ((219, 16), (224, 128), (224, 128))
    stored = [round(part * scale + zero) for part, (scale, zero) in zip(parts, ranges, strict=True)]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv444p"
        frame = av.VideoFrame(64, 64, "yuv444p")
        for plane, value in zip(frame.planes, stored, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        for one in (stream.codec_context, frame):
            one.colorspace, one.color_range = matrix, 2 if full else 1
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", list(_LUMA))
def test_colours_follow_the_tags(tmp_path: Path, matrix: int, full: bool) -> None:
    """A colour is what its film's matrix and range say (ITU-T H.273), not always BT.601."""
    colour = (220, 30, 40)
    path = _tagged(tmp_path / "film.mp4", colour, matrix, full)
    seen = open_source(path).read(Box(0, 0, 64, 64))[32, 32]
    assert np.abs(seen.astype(int) - colour).max() <= 3


def test_a_pyav_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would give wrong colours is refused, with its version and the remedy."""
    path = _film(tmp_path / "film.mp4", "mpeg4")
    monkeypatch.setattr(av, "__version__", "16.1.0")
    with pytest.raises(SourceError, match=r"PyAV 17 or later; PyAV 16\.1\.0 .* pip install -U av"):
        open_source(path)


@pytest.mark.parametrize(
    ("name", "codec", "kind"),
    [("a.avi", "rawvideo", "pal8"), ("b.mov", "qtrle", "gray"), ("c.avi", "msrle", "pal8")],
)
def test_frames_with_a_palette_keep_it(tmp_path: Path, name: str, codec: str, kind: str) -> None:
    """Each frame has the colours that PyAV 18 gives it when it plays the film from the start.

    FFmpeg 8 forgets the palette of raw video and QuickTime animation when it jumps.
    """
    path = tmp_path / name
    numbers = np.arange(32 * 48, dtype=np.uint8).reshape(32, 48)
    table = np.stack([np.full(256, 255), np.arange(256), 255 - np.arange(256), np.full(256, 7)], 1)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, kind
        for step in range(4):
            values = numbers + np.uint8(20 * step)
            shown = values if kind == "gray" else (values, table.astype(np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format=kind)))
        container.mux(stream.encode())
    with av.open(path) as container:
        played = [one.to_ndarray(format="rgb24") for one in container.decode(video=0)]
    for number in (2, 0):
        source = open_source(path, page=number + 1)
        np.testing.assert_array_equal(source.read(Box(0, 0, 48, 32)), played[number])
        assert played[number].max() > 200


@pytest.mark.parametrize("downwards", [False, True])
def test_uncompressed_avi_is_blue_green_red(tmp_path: Path, downwards: bool) -> None:
    """BI_RGB of 24 bits: blue, green, red; the last row first, or, of negative height, the first.

    By BITMAPINFOHEADER of Windows. RGB24 written into AVI as it lies therefore changes red and
    blue: FFmpeg 8 warns that it cannot be written to AVI.
    """
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16], pixels[16:] = (200, 30, 10), (5, 60, 250)
    rows = pixels if downwards else pixels[::-1]
    data = rows[..., ::-1].tobytes()

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content

    main = struct.pack("<14I", 200_000, 0, 0, 0x10, 1, 0, 1, len(data), 48, 32, *[0] * 4)
    about = struct.pack("<I2H8I4h", *[0] * 4, 1, 5, 0, 1, len(data), 2**32 - 1, 0, 0, 0, 48, 32)
    height = -32 if downwards else 32
    form = struct.pack("<Iii2H6I", 40, 48, height, 1, 24, 0, len(data), *[0] * 4)
    track = chunk(b"LIST", b"strl" + chunk(b"strh", b"vidsDIB " + about) + chunk(b"strf", form))
    head = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + track)
    body = chunk(b"LIST", b"movi" + chunk(b"00db", data))
    index = chunk(b"idx1", b"00db" + struct.pack("<3I", 0x10, 4, len(data)))
    path = tmp_path / "raw.avi"
    path.write_bytes(chunk(b"RIFF", b"AVI " + head + body + index))
    np.testing.assert_array_equal(open_source(path).read(Box(0, 0, 48, 32)), pixels)
