"""Opening: one clear line for what is no image, and the same image again on a worker."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import ImageMetadata, ImageSource, SourceRef, open_reference, open_source
from tilevision.sources.identity import fingerprint_of_array


@pytest.fixture
def tiff(tmp_path: Path) -> Path:
    """A small tiled TIFF."""
    path = tmp_path / "a.tif"
    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="rgb", metadata=None)
    return path


def refuses(image: Any, *words: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(image)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_file_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path that is not there names the current folder."""
    monkeypatch.chdir(tmp_path)
    refuses("slide.svs", "slide.svs does not exist", str(tmp_path))
    refuses(tmp_path / "no" / "slide.svs", "does not exist")


def test_an_empty_path_is_called_that() -> None:
    """A shell variable that is not set names no folder."""
    with pytest.raises(SourceError, match="The image's path is empty"):
        open_source("")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Folders and devices are no images."""
    refuses(tmp_path, "folder")
    refuses("/dev/zero", "device")


def test_text_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    """The content decides, and the message says what it looks like."""
    files = {
        "text.png": (b"hello, I am no picture\n", "looks like text"),
        "empty.png": (b"", "0 bytes"),
        "paper.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3 and more", "PDF"),
        "noise.jpg": (bytes(range(128, 255)), "convert"),
        "short.tif": (b"II*\0", "damaged"),
        "header.tif": (b"II*\0\x08\0\0\0\0\0", "0×0 px"),
        "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "looks like text"),
    }
    for name, (content, word) in files.items():
        (tmp_path / name).write_bytes(content)
        refuses(tmp_path / name, str(tmp_path / name), word)


def test_a_file_without_read_rights_is_refused(tiff: Path) -> None:
    """Rights are named as the reason."""
    tiff.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may read everything
        refuses(tiff, "Permission denied")
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, ""])
def test_impossible_names_are_refused(name: str) -> None:
    """Names that no file can have are one line, too."""
    with pytest.raises(SourceError):
        open_source(name)


@pytest.mark.parametrize("image", [None, 5, ["a.png"], {"path": "a.png"}, object(), b"\x89PNG"])
def test_other_things_are_refused(image: Any) -> None:
    """What is neither path nor picture says what would be."""
    with pytest.raises(SourceError):
        open_source(image)


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((0, 5)), "empty"),
        (np.zeros((5, 5, 0)), "empty"),
        (np.zeros(5), "shape (5,)"),
        (np.zeros((2, 5, 5, 3)), "shape (2, 5, 5, 3)"),
        (np.array([[object()]]), "object"),
        (np.zeros((5, 5), complex), "complex128"),
        (np.zeros((5, 5), "datetime64[s]"), "datetime64"),
        (np.array([["a"]]), "<U1"),
        (np.zeros((3, 200, 300), np.uint8), "moveaxis"),
        (np.zeros((100, 2, 5000), np.uint8), "5000 bands"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray, word: str) -> None:
    """Empty, of objects, of another number of axes, bands first: each says what is wrong."""
    refuses(array, word)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int32", "uint64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (6, 9, 3), (6, 9, 7), (1, 1), (20, 6, 224)])
def test_arrays_hold_what_they_held(dtype: str, shape: tuple[int, ...]) -> None:
    """Every plain dtype and band count is read back exactly."""
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    source = open_source(array)
    assert source.dtype == np.dtype(dtype)
    assert source.size == (shape[1], shape[0])
    np.testing.assert_array_equal(
        source.read(Box(0, 0, shape[1], shape[0])), array.reshape(shape[0], shape[1], -1)
    )
    source.close()


def test_memory_layout_does_not_change_an_arrays_identity() -> None:
    """Views, byte order and Fortran order: the same values are the same image."""
    array = np.arange(6 * 8 * 3, dtype=np.uint16).reshape(6, 8, 3)
    same = [np.asfortranarray(array), array.astype(">u2"), np.repeat(array, 2, axis=1)[:, ::2]]
    assert {fingerprint_of_array(other) for other in same} == {fingerprint_of_array(array)}
    others = [array.astype(np.int32), array.reshape(8, 6, 3), array + 1]
    assert fingerprint_of_array(array) not in {fingerprint_of_array(other) for other in others}
    source = open_source(same[1])
    np.testing.assert_array_equal(source.read(Box(0, 0, 8, 6)), array)
    assert source.dtype.isnative


def test_sources_pass_through(tiff: Path) -> None:
    """What is a source already stays the very object; a scale makes a view of it."""
    source = open_source(tiff)
    assert open_source(source) is source
    scaled = open_source(source, mpp=(0.5, 0.25))
    assert scaled.metadata.mpp == (0.5, 0.25)
    assert source.metadata.mpp is None
    assert scaled.fingerprint == source.fingerprint


class Chequers:
    """A source that nobody but a user could write."""

    size = (40, 30)
    bands = 1
    dtype = np.dtype(np.uint8)
    fingerprint = "chequers"
    metadata = ImageMetadata(format="chequers")
    reference = SourceRef(f"{__name__}:open_chequers", "nowhere", {}, "chequers")

    def read(self, box: Box, scale: float = 1.0, bands: Any = None) -> np.ndarray:
        """Black, whatever is asked for."""
        return np.zeros((int(box.height), int(box.width), 1), np.uint8)

    def thumbnail(self, max_side: int) -> np.ndarray:
        """Black."""
        return np.zeros((3, 4, 1), np.uint8)

    def close(self) -> None:
        """Nothing is open."""
        return


def open_chequers(path: str) -> Chequers:
    return Chequers()


def test_a_users_own_source_is_one() -> None:
    """Any object with the protocol's members is opened as it is, also by its reference."""
    source = Chequers()
    assert isinstance(source, ImageSource)
    assert open_source(source) is source
    assert isinstance(open_reference(source.reference), Chequers)
    with pytest.raises(SourceError, match="metadata"):
        open_source(source, mpp=1)
    with pytest.raises(SourceError, match="opener"):
        open_reference(SourceRef("no.such:thing", "x"))


@pytest.mark.parametrize("mpp", [0, -1, "fine", (1, 2, 3), float("nan"), (0.5, 0)])
def test_senseless_scales_are_refused(tiff: Path, mpp: Any) -> None:
    """Microns per pixel are positive, one or two of them."""
    with pytest.raises(SourceError, match="mpp"):
        open_source(tiff, mpp=mpp)


@pytest.mark.parametrize(
    "box",
    [
        Box(-1, 0, 5, 5),
        Box(0, 0, 65, 5),
        Box(0, 0, 5, 65),
        Box(5, 5, 5, 9),
        Box(9, 0, 5, 5),
        Box(0, 0, 5.5, 5),
        Box(0, 0, float("nan"), 5),
        Box(0, 0, float("inf"), 5),
    ],
)
def test_boxes_that_leave_the_image_are_refused(tiff: Path, box: Box) -> None:
    """Only whole pixels inside the image can be read."""
    with pytest.raises(SourceError, match="Box"):
        open_source(tiff).read(box)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_senseless_read_scales_are_refused(tiff: Path, scale: float) -> None:
    """A scale is a positive number."""
    with pytest.raises(SourceError, match="scale"):
        open_source(tiff).read(Box(0, 0, 5, 5), scale)


@pytest.mark.parametrize("bands", [[3], [-1], []])
def test_bands_that_do_not_exist_are_refused(tiff: Path, bands: list[int]) -> None:
    """Bands are numbered from 0, and at least one is asked for."""
    with pytest.raises(SourceError, match="band"):
        open_source(tiff).read(Box(0, 0, 5, 5), bands=bands)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.26, 1 / 64, 0.001, 1.5, 3.0])
def test_the_output_has_the_promised_size(tiff: Path, scale: float) -> None:
    """``max(1, round(side * scale))``, for every scale; bands in the order asked for."""
    found = open_source(tiff).read(Box(3, 5, 50, 64), scale, bands=[2, 0])
    assert found.shape == (max(1, round(59 * scale)), max(1, round(47 * scale)), 2)


def test_a_reference_opens_the_same_file_once_per_process(tiff: Path) -> None:
    """References survive pickling, and a worker keeps what it opened."""
    source = open_source(tiff)
    reference = pickle.loads(pickle.dumps(source.reference))
    again = open_reference(reference)
    assert again is open_reference(reference)
    assert again.fingerprint == source.fingerprint
    np.testing.assert_array_equal(
        again.read(Box(1, 2, 60, 50), 0.7), source.read(Box(1, 2, 60, 50), 0.7)
    )


def test_a_file_that_changed_is_refused(tiff: Path) -> None:
    """A reference is to a content: another content under the same name is an error."""
    reference = open_source(tiff).reference
    open_reference(reference)
    tifffile.imwrite(tiff, np.zeros((64, 64, 3), np.uint8), photometric="rgb", metadata=None)
    with pytest.raises(SourceError, match="has changed"):
        open_reference(reference)
    tiff.unlink()
    with pytest.raises(SourceError, match="moved or removed"):
        open_reference(reference)


def test_a_picture_that_changed_is_refused(tmp_path: Path) -> None:
    """So it is for pictures that were staged."""
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "a.png")
    with pytest.raises(SourceError, match="has changed"):
        open_reference(source.reference)


def test_a_copy_with_another_date_is_the_same_image(tiff: Path) -> None:
    """A touched file is read again, found the same, and used."""
    reference = open_source(tiff).reference
    os.utime(tiff, ns=(1, 1))
    assert open_reference(reference).fingerprint == reference.fingerprint


def test_few_files_stay_open(tmp_path: Path) -> None:
    """A worker that sees many images keeps handles of the last few only."""
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("open handles are counted in /proc, which this system lacks")
    before = len(list(handles.iterdir()))
    for number in range(40):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, np.full((32, 32), number, np.uint8), tile=(16, 16), metadata=None)
        reference = open_source(path).reference
        assert (open_reference(reference).read(Box(0, 0, 32, 32)) == number).all()
    gc.collect()
    assert len(list(handles.iterdir())) - before <= 2 * 8


def test_threads_read_at_once(tmp_path: Path) -> None:
    """Eight threads on one source see the same pixels as one."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (512, 512, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, pixels, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None
    )
    source = open_source(path)
    wrong: list[Box] = []

    def work(seed: int) -> None:
        mine = np.random.default_rng(seed)
        for _ in range(30):
            x0, y0 = (int(value) for value in mine.integers(0, 400, 2))
            box = Box(x0, y0, x0 + 100, y0 + 90)
            if not np.array_equal(source.read(box), pixels[y0 : y0 + 90, x0 : x0 + 100]):
                wrong.append(box)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_symlinks_and_odd_names_open(tiff: Path) -> None:
    """Links, spaces and other scripts in a name make no difference."""
    link = tiff.parent / "bild mit ümlaut 图.tif"
    link.symlink_to(tiff)
    assert open_source(link).fingerprint == open_source(str(tiff)).fingerprint
