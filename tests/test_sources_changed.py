"""Files that change while they are used: found out for every tile, told in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile
import zarr
from mirax import write_mirax
from PIL import Image

from tilevision.errors import SourceError
from tilevision.findings import Findings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.infer import Work, infer
from tilevision.modelspec import ModelSpec
from tilevision.sources import (
    ReadOptions,
    check_unchanged,
    filetree,
    open_reference,
    open_source,
    read_options,
)
from tilevision.sources.filetree import FileWatch, tree_of
from tilevision.sources.levels import LevelReader

PIXELS = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)


def write_tiff(folder: Path) -> tuple[Path, Path]:
    path = folder / "a.tif"
    tifffile.imwrite(path, PIXELS, tile=(64, 64), photometric="rgb", metadata=None)
    return path, path


def write_png(folder: Path) -> tuple[Path, Path]:
    path = folder / "a.png"
    Image.fromarray(PIXELS).save(path)
    return path, path


def write_npy(folder: Path) -> tuple[Path, Path]:
    np.save(folder / "a.npy", PIXELS)
    return folder / "a.npy", folder / "a.npy"


def write_pdf(folder: Path) -> tuple[Path, Path]:
    Image.fromarray(PIXELS).save(folder / "a.pdf")
    return folder / "a.pdf", folder / "a.pdf"


def write_video(folder: Path, name: str = "a.mkv") -> tuple[Path, Path]:
    with av.open(str(folder / name), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        for number in range(4):  # two and two alike
            frame = av.VideoFrame.from_ndarray(PIXELS // (1 + number // 2), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder / name, folder / name


def write_slide(folder: Path) -> tuple[Path, Path]:
    pytest.importorskip("openslide", reason="OpenSlide (extra slides) is not installed")
    write_mirax(folder / "a.mrxs", PIXELS)
    return folder / "a.mrxs", folder / "a" / "Data0000.dat"


def write_raster(folder: Path) -> tuple[Path, Path]:
    rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")
    profile = {"width": 192, "height": 128, "count": 3, "dtype": "uint8", "driver": "ENVI"}
    with rasterio.open(folder / "a.img", "w", **profile) as dataset:
        dataset.write(np.moveaxis(PIXELS, -1, 0))
    return folder / "a.img", folder / "a.hdr"


def write_zarr(folder: Path) -> tuple[Path, Path]:
    array = zarr.create_array(
        store=str(folder / "a.zarr"), shape=PIXELS.shape, chunks=(64, 64, 3), dtype="uint8",
        zarr_format=2,
    )  # fmt: skip
    array[:] = PIXELS
    return folder / "a.zarr", folder / "a.zarr" / "1.2.0"


ONE_FILE = [write_tiff, write_png, write_npy, write_pdf, write_video]
SEVERAL = [write_slide, write_raster, write_zarr]
Writer = Callable[[Path], tuple[Path, Path]]


def other_bytes(part: Path) -> None:
    """Replace a file's content by other bytes of the same number."""
    content = bytearray(part.read_bytes())
    content[-8:] = bytes(byte ^ 255 for byte in content[-8:])
    part.write_bytes(content)


def cut(part: Path) -> None:
    os.truncate(part, part.stat().st_size // 2)


def remove(part: Path) -> None:
    part.unlink()


@pytest.mark.parametrize("write", ONE_FILE + SEVERAL)
@pytest.mark.parametrize("harm", [other_bytes, cut, remove])
def test_a_changed_file_is_refused(
    tmp_path: Path, write: Writer, harm: Callable[[Path], None]
) -> None:
    """Other content of the same size, half of it, or none, also of a file beside: one line."""
    path, part = write(tmp_path)
    reference = open_source(path).reference
    open_reference(reference).read(Box(0, 0, 20, 20))
    harm(part)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"a\.") as said:
            open_reference(reference)
        assert "\n" not in str(said.value)


@pytest.mark.parametrize("write", ONE_FILE + SEVERAL)
def test_a_touched_file_is_the_same(tmp_path: Path, write: Writer) -> None:
    """Another date on the same content changes nothing, and is not looked into again and again."""
    path, part = write(tmp_path)
    reference = open_source(path).reference
    before = open_reference(reference).read(Box(0, 0, 20, 20))
    os.utime(part, ns=(10**18, 10**18))
    again = open_reference(reference)
    np.testing.assert_array_equal(again.read(Box(0, 0, 20, 20)), before)
    assert open_reference(reference) is again


def test_a_file_that_is_replaced_while_it_is_read_costs_the_tile(tmp_path: Path) -> None:
    """What was read of the new content is not passed off as the old: the tile fails."""
    path, part = write_tiff(tmp_path)
    source = open_source(path)
    tile = Tile(row=0, col=0, box=Box(0, 0, 64, 64), scale=1.0)
    spec = ModelSpec(name="f", factory=f"{__name__}:Careless", fingerprint="1")
    work = Work(source.reference, read_options(source), spec)
    assert infer(work, [tile])[0].failure is None
    taken = LevelReader.read

    def replaced(*args: object) -> np.ndarray:
        other_bytes(part)
        return taken(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LevelReader, "read", replaced)
        failure = infer(work, [tile])[0].failure
    assert failure is not None
    assert "has changed since it was opened" in failure.message


def test_a_file_that_is_replaced_while_a_batch_is_read_costs_all_of_it(tmp_path: Path) -> None:
    """Nobody knows which tiles of the batch are of the new content: no model sees any of them."""
    path, part = write_tiff(tmp_path)
    source = open_source(path)
    tiles = [Tile(row=0, col=n, box=Box(16 * n, 0, 16 * n + 16, 16), scale=1.0) for n in range(4)]
    spec = ModelSpec(name="f", factory=f"{__name__}:Careless", fingerprint="1", batch_size=4)
    taken, reads = LevelReader.read, []

    def replaced(*args: object) -> np.ndarray:
        reads.append(1)
        if len(reads) == 3:
            other_bytes(part)
        return taken(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LevelReader, "read", replaced)
        outcomes = infer(Work(source.reference, read_options(source), spec), tiles)
    assert len(reads) == 4
    for outcome in outcomes:
        assert outcome.failure is not None and not outcome.batched
        assert "has changed since it was opened" in outcome.failure.message


class Careless:
    """A model that finds nothing."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def predict(self, batch: list[np.ndarray]) -> list[object]:
        """Nothing, for each."""
        return [Findings(boxes=np.zeros((0, 4))) for _ in batch]


def test_a_long_look_is_not_taken_at_once_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at very many files takes a twentieth of the time, not all of it."""
    part = tmp_path / "a"
    part.write_bytes(b"1")
    looks, clock = [], [100.0]
    monkeypatch.setattr(filetree, "perf_counter", lambda: clock[0])

    def slowly() -> list[Path]:
        looks.append(clock[0])
        clock[0] += 0.05
        return [part]

    watch = FileWatch("a", slowly, tree_of("a", [part]))
    for _ in range(100):
        assert watch.unchanged()
        clock[0] += 0.02
    assert np.diff(looks).tolist() == pytest.approx([1.06], abs=0.03)


def test_pages_and_frames_that_are_alike_are_told_apart(tmp_path: Path) -> None:
    """Equal pages of a PDF, frames of a video or pages of a TIFF have fingerprints of their own."""
    picture = Image.fromarray(PIXELS)
    picture.save(tmp_path / "a.pdf", save_all=True, append_images=[picture])
    picture.save(tmp_path / "a.tif", save_all=True, append_images=[picture])
    write_video(tmp_path)
    for name in ("a.pdf", "a.tif", "a.mkv"):
        pages = [open_source(tmp_path / f"{name}#page={number}") for number in (1, 2)]
        box = Box(0, 0, 50, 50)
        if name != "a.mkv":
            np.testing.assert_array_equal(pages[0].read(box), pages[1].read(box))
        assert pages[0].fingerprint != pages[1].fingerprint
        assert pages[0].reference.fingerprint != pages[1].reference.fingerprint
        assert open_source(tmp_path / name).fingerprint == pages[0].fingerprint
        check_unchanged(pages[1].reference)


def test_read_options_are_unharmed_by_a_changed_file() -> None:
    """A reference to an array has no file that could change."""
    source = open_source(PIXELS)
    check_unchanged(source.reference)
    assert read_options(source) == ReadOptions(bands=(0, 1, 2))
