"""Every layout of TIFF comes out as its reference reader has it, window by window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_source
from tilevision.sources.formats.tiff import open_tiff

WINDOWS = [(0, 0, 1, 1), (0, 0, 150, 110), (149, 109, 150, 110), (30, 17, 97, 80), (60, 0, 70, 110)]


def smooth(height: int, width: int, bands: int, dtype: str) -> np.ndarray:
    """Return a picture that lossy codecs keep well: slow gradients, different in each band."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / (9 + 4 * b)) + np.cos(y / (7 + 3 * b)) for b in range(bands)]
    unit = (np.stack(planes, axis=-1) + 2) / 4
    if dtype == "bool":
        return unit > 0.5
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (unit * 100 - 50).astype(kind)
    return (unit * np.iinfo(kind).max).astype(kind)


def check_windows(path: Path, expected: np.ndarray, **options: Any) -> None:
    source = open_tiff(str(path), **options) if options else open_source(path)
    if expected.ndim == 2:
        expected = expected[..., np.newaxis]
    assert (source.size, source.bands) == (expected.shape[1::-1], expected.shape[2])
    assert source.dtype == expected.dtype
    for x0, y0, x1, y1 in WINDOWS:
        found = source.read(Box(x0, y0, x1, y1))
        np.testing.assert_array_equal(found, expected[y0:y1, x0:x1])
    for bands in ([source.bands - 1], [source.bands - 1, 0]):
        found = source.read(Box(30, 17, 97, 80), bands=bands)
        np.testing.assert_array_equal(found, expected[17:80, 30:97, bands])
    source.close()


KINDS = [
    (1, "uint8"),
    (3, "uint8"),
    (4, "uint8"),
    (1, "uint16"),
    (3, "uint16"),
    (1, "float32"),
    (2, "int16"),
]
CODECS = [
    (None, False),
    ("zlib", False),
    ("zlib", True),
    ("lzw", True),
    ("zstd", True),
    ("lzma", False),
]


@pytest.mark.parametrize("layout", [{"tile": (48, 32)}, {"rowsperstrip": 7}, {"rowsperstrip": 110}])
@pytest.mark.parametrize(
    ("bands", "dtype", "codec", "predictor"),
    [(*kind, *codec) for kind in KINDS for codec in CODECS]
    + [(3, "uint8", "packbits", False), (1, "bool", "packbits", False)],
)
def test_lossless_layouts_are_read_exactly(
    tmp_path: Path,
    layout: dict[str, Any],
    codec: str | None,
    predictor: bool,
    bands: int,
    dtype: str,
) -> None:
    """Tiles and strips, whatever the codec, depth and bands, hold what was written."""
    pixels = smooth(110, 150, bands, dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        pixels[..., 0] if bands == 1 else pixels,
        photometric="rgb" if bands >= 3 else "minisblack",
        planarconfig="contig" if bands > 1 else None,
        compression=codec,
        predictor=predictor,
        metadata=None,
        **layout,
    )
    check_windows(path, pixels)


@pytest.mark.parametrize("layout", [{"tile": (32, 32)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("codec", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_separate_planes_and_byte_orders(
    tmp_path: Path, layout: dict[str, Any], codec: str | None, byteorder: Any
) -> None:
    """Bands stored one after the other, in either byte order, are put together again."""
    pixels = smooth(110, 150, 3, "uint16")
    path = tmp_path / "planes.tif"
    tifffile.imwrite(
        path,
        pixels.transpose(2, 0, 1),
        photometric="rgb",
        planarconfig="separate",
        compression=codec,
        byteorder=byteorder,
        metadata=None,
        **layout,
    )
    check_windows(path, pixels)


@pytest.mark.parametrize("codec", ["jpeg", "webp", "jpeg2000", "jpegxl", "png", "lerc"])
@pytest.mark.parametrize("tile", [(64, 48), (256, 256)])
def test_picture_codecs_match_tifffile(tmp_path: Path, codec: str, tile: tuple[int, int]) -> None:
    """Tiles compressed as pictures decode to the very pixels that tifffile gives."""
    path = tmp_path / "lossy.tif"
    pixels = smooth(110, 150, 3, "uint8")
    tifffile.imwrite(path, pixels, photometric="rgb", compression=codec, tile=tile, metadata=None)
    check_windows(path, tifffile.imread(path))


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), (2, 1)])
def test_ycbcr_jpeg_with_shared_tables_comes_out_as_rgb(
    tmp_path: Path, subsampling: tuple[int, int]
) -> None:
    """JPEG tiles in YCbCr, as slides have them, are RGB and close to what was written."""
    path = tmp_path / "ycbcr.tif"
    pixels = smooth(110, 150, 3, "uint8")
    tifffile.imwrite(
        path,
        np.asarray(Image.fromarray(pixels).convert("YCbCr")),
        photometric="ycbcr",
        compression="jpeg",
        compressionargs={"level": 95},
        subsampling=subsampling,
        tile=(64, 64),
        metadata=None,
    )
    check_windows(path, tifffile.imread(path))
    source = open_source(path)
    assert np.abs(source.read(Box(0, 0, 150, 110)).astype(int) - pixels).mean() < 4


def test_palette_matches_pillow(tmp_path: Path) -> None:
    """Palette indices become the RGB colours Pillow shows."""
    path = tmp_path / "palette.tif"
    picture = Image.fromarray(smooth(110, 150, 3, "uint8")).quantize(64)
    picture.save(path, compression="tiff_lzw")
    check_windows(path, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "LA", "RGBA", "I;16", "F"])
@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate"])
def test_files_pillow_writes(tmp_path: Path, mode: str, compression: str | None) -> None:
    """Modes of TIFF files that Pillow writes come out as Pillow reads them back."""
    path = tmp_path / "pillow.tif"
    if mode in ("I;16", "F"):
        picture = Image.fromarray(smooth(110, 150, 1, {"F": "float32"}.get(mode, "uint16"))[..., 0])
    else:
        picture = Image.fromarray(smooth(110, 150, 3, "uint8")).convert(mode)
    picture.save(path, compression=compression)
    expected = np.asarray(picture.convert("RGB") if mode == "CMYK" else picture)
    check_windows(path, expected)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_pages(tmp_path: Path, compression: str) -> None:
    """Bilevel document scans in fax compression are read as booleans."""
    path = tmp_path / "fax.tif"
    picture = Image.fromarray(smooth(110, 150, 1, "uint8")[..., 0]).convert("1")
    picture.save(path, compression=compression)
    check_windows(path, np.asarray(picture))


def test_white_is_zero_is_turned_round(tmp_path: Path) -> None:
    """Where 0 means white, the values are inverted, at 8 and at 1 bit."""
    grey = smooth(110, 150, 1, "uint8")[..., 0]
    tifffile.imwrite(tmp_path / "grey.tif", grey, photometric="miniswhite", metadata=None)
    check_windows(tmp_path / "grey.tif", 255 - grey)
    line = grey > 100
    tifffile.imwrite(tmp_path / "line.tif", line, photometric="miniswhite", metadata=None)
    check_windows(tmp_path / "line.tif", ~line)


def test_four_bit_grey_is_spread_to_eight(tmp_path: Path) -> None:
    """Of 4-bit greys, 0 is black and 15 is white."""
    grey = (smooth(110, 150, 1, "uint8") // 16)[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", grey, bitspersample=4, metadata=None)
    check_windows(tmp_path / "a.tif", grey * 17)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("sub_ifds", [False, True])
def test_pyramids_use_the_best_level(tmp_path: Path, bigtiff: bool, sub_ifds: bool) -> None:
    """Reduced levels, in SubIFDs or as pages, serve the scales they were made for."""
    full = smooth(256, 384, 3, "uint8")
    marked = [full, np.full((128, 192, 3), 50, np.uint8), np.full((64, 96, 3), 90, np.uint8)]
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tif:
        options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
        tif.write(marked[0], subifds=2 if sub_ifds else 0, **options)
        for level in marked[1:]:
            tif.write(level, subfiletype=1, **options)
    source = open_source(path)
    assert source.metadata.levels == ((384, 256), (192, 128), (96, 64))
    np.testing.assert_array_equal(source.read(Box(10, 20, 90, 100)), full[20:100, 10:90])
    assert (source.read(Box(64, 64, 192, 128), 0.5) == 50).all()
    assert (source.read(Box(64, 64, 192, 128), 0.3) == 50).all()
    assert (source.read(Box(64, 64, 192, 128), 0.25) == 90).all()
    assert (source.thumbnail(50) == 90).all()
    assert source.read(Box(64, 64, 192, 128), 0.7).std() > 1


def test_a_thumbnail_page_is_no_level(tmp_path: Path) -> None:
    """A second page of another shape is another frame, never a level of the first."""
    path = tmp_path / "two.tif"
    first, second = smooth(200, 300, 3, "uint8"), smooth(110, 150, 3, "uint8")[:, :100]
    with tifffile.TiffWriter(path) as tif:
        tif.write(first, photometric="rgb", metadata=None)
        tif.write(second, photometric="rgb", metadata=None)
    source = open_source(path)
    assert source.metadata.levels == ((300, 200),)
    assert source.metadata.frames == 2
    np.testing.assert_array_equal(open_tiff(str(path), frame=1).read(Box(0, 0, 100, 110)), second)
    with pytest.raises(SourceError, match="has 2 pages"):
        open_tiff(str(path), frame=2)


def test_multi_page_files_give_their_first_page_and_the_others_by_number(tmp_path: Path) -> None:
    """Pages of equal shape are frames."""
    pages = np.stack([smooth(110, 150, 1, "uint8")[..., 0] // (n + 1) for n in range(4)])
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="minisblack", compression="zlib")
    assert open_source(tmp_path / "pages.tif").metadata.frames == 4
    for number, page in enumerate(pages):
        check_windows(tmp_path / "pages.tif", page, frame=number)


@pytest.mark.parametrize("axes", ["CYX", "ZCYX", "CZYX"])
def test_ome_channels_are_bands(tmp_path: Path, axes: str) -> None:
    """The channels of an OME-TIFF become bands, its slices frames, its size microns per pixel."""
    channels = np.moveaxis(smooth(110, 150, 4, "uint16"), -1, 0)
    shape = [{"C": 4, "Z": 3, "Y": 110, "X": 150}[axis] for axis in axes]
    data = np.zeros(shape, np.uint16)
    for z in range(3):
        place: list[Any] = [slice(None)] * len(axes)
        if "Z" in axes:
            place[axes.index("Z")] = z
        data[tuple(place)] = channels // (z + 1)
        if "Z" not in axes:
            data[...] = channels
    path = tmp_path / "a.ome.tif"
    size = {
        "PhysicalSizeX": 0.5,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 600,
        "PhysicalSizeYUnit": "nm",
    }
    tifffile.imwrite(path, data, metadata={"axes": axes, **size}, tile=(32, 32))
    check_windows(path, np.moveaxis(channels, 0, -1))
    source = open_source(path)
    assert source.metadata.mpp == pytest.approx((0.5, 0.6))
    assert source.metadata.frames == (3 if "Z" in axes else 1)
    if "Z" in axes:
        check_windows(path, np.moveaxis(channels // 3, 0, -1), frame=2)


def test_the_resolution_tag_of_a_plain_tiff_is_not_believed(tmp_path: Path) -> None:
    """72 dpi is a default of writers, not a scale."""
    path = tmp_path / "dpi.tif"
    tifffile.imwrite(path, smooth(110, 150, 1, "uint8"), resolution=(72, 72), metadata=None)
    assert open_source(path).metadata.mpp is None
    assert open_source(path, mpp=0.25).metadata.mpp == (0.25, 0.25)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [{"tile": (32, 48)}, {"rowsperstrip": 8}])
def test_orientation_tags_are_applied(
    tmp_path: Path, orientation: int, layout: dict[str, Any]
) -> None:
    """A scan stored turned or mirrored comes out upright, as Pillow shows it."""
    path = tmp_path / "turned.tif"
    pixels = smooth(110, 150, 3, "uint8")
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        compression="zlib",
        extratags=[tag],
        metadata=None,
        **layout,
    )
    with Image.open(path) as picture:
        expected = np.asarray(picture)
    source = open_source(path)
    assert source.metadata.orientation == orientation
    width, height = source.size
    assert expected.shape == (height, width, 3)
    for x0, y0, x1, y1 in [(0, 0, width, height), (3, 5, 40, 90), (width - 1, 0, width, height)]:
        np.testing.assert_array_equal(source.read(Box(x0, y0, x1, y1)), expected[y0:y1, x0:x1])


def test_wide_strips_are_staged_once_and_narrow_ones_are_not(tmp_path: Path) -> None:
    """Where a window would decode many times its pixels, the file is decoded once instead."""
    wide = np.zeros((2000, 6000), np.uint8)
    wide[::7, ::5] = 200
    tifffile.imwrite(
        tmp_path / "wide.tif", wide, compression="zlib", rowsperstrip=64, metadata=None
    )
    source = open_source(tmp_path / "wide.tif")
    assert "12.0 MB" in source.metadata.notes[0]
    box = Box(5000, 900, 5999, 1999)
    np.testing.assert_array_equal(source.read(box)[..., 0], wide[900:1999, 5000:5999])
    tifffile.imwrite(
        tmp_path / "narrow.tif", wide[:, :900], compression="zlib", rowsperstrip=64, metadata=None
    )
    assert open_source(tmp_path / "narrow.tif").metadata.notes == ()
    tifffile.imwrite(tmp_path / "raw.tif", wide, metadata=None)
    assert open_source(tmp_path / "raw.tif").metadata.notes == ()


def test_tiles_that_were_never_written_are_no_data(tmp_path: Path) -> None:
    """A sparse file leaves empty tiles out; they read as its no-data value."""
    path = tmp_path / "sparse.tif"
    pixels = np.full((64, 64), 7, np.uint8)
    nodata = (42113, "s", 0, "99", True)

    def tiles() -> Any:
        yield pixels
        yield None
        yield pixels
        yield pixels

    tifffile.imwrite(
        path, tiles(), shape=(128, 128), dtype="uint8", tile=(64, 64), compression="zlib",
        extratags=[nodata], metadata=None,
    )  # fmt: skip
    source = open_source(path)
    assert source.metadata.nodata == 99
    assert (source.read(Box(64, 0, 128, 64)) == 99).all()
    assert (source.read(Box(0, 0, 64, 128)) == 7).all()


def test_complex_and_volume_pages_are_refused(tmp_path: Path) -> None:
    """What is no picture gets one line that says why."""
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((20, 20), np.complex64), metadata=None)
    with pytest.raises(SourceError, match="does not read"):
        open_source(tmp_path / "c.tif")
    tifffile.imwrite(
        tmp_path / "v.tif", np.zeros((16, 32, 32), np.uint8), volumetric=True, tile=(16, 16, 16),
        metadata=None,
    )  # fmt: skip
    with pytest.raises(SourceError, match="volume of 16 slices"):
        open_source(tmp_path / "v.tif")


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("layout", [{"tile": (32, 32)}, {"rowsperstrip": 8}])
def test_truncated_files_are_found_on_opening(
    tmp_path: Path, kept: float, layout: dict[str, Any]
) -> None:
    """A download that stopped early is refused before any tile is analysed."""
    path = tmp_path / "cut.tif"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", metadata=None, **layout)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(SourceError, match=r"incomplete|damaged"):
        open_source(path)


def test_a_damaged_tile_is_found_when_it_is_read(tmp_path: Path) -> None:
    """One bad tile is an error that names it; the others still read."""
    path = tmp_path / "bad.tif"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (128, 128), dtype=np.uint8)
    tifffile.imwrite(path, pixels, compression="zlib", tile=(64, 64), metadata=None)
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[offset + 2 : offset + 60] = bytes(58)
    path.write_bytes(content)
    source = open_source(path)
    np.testing.assert_array_equal(source.read(Box(0, 0, 64, 128))[..., 0], pixels[:, :64])
    with pytest.raises(SourceError, match="tile 3"):
        source.read(Box(0, 0, 128, 128))


def test_a_closed_source_says_so(tmp_path: Path) -> None:
    """Reading after close is one clear error, not a crash."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint8), tile=(32, 32), metadata=None)
    source = open_source(tmp_path / "a.tif")
    source.close()
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.read(Box(0, 0, 10, 10))


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        ("uint8", {"compression": "jpeg"}),
        ("uint8", {"compression": "zlib"}),
        ("uint8", {}),
        ("uint8", {"planarconfig": "separate", "compression": "zlib"}),
        ("uint16", {}),
        ("uint16", {"planarconfig": "separate"}),
        ("uint16", {"compression": "zlib", "byteorder": ">"}),
    ],
)
@pytest.mark.parametrize("between", [[], [Box(10, 10, 90, 74), Box(128, 0, 172, 64)]])
def test_windows_that_are_stored_tiles_are_read_as_any_others(tmp_path, dtype, how, between):
    """Whatever came before, and though what was returned is written on."""
    pixels = smooth(128, 192 - 20, 3, dtype)
    stored = np.moveaxis(pixels, -1, 0) if "planarconfig" in how else pixels
    tifffile.imwrite(tmp_path / "a.tif", stored, tile=(64, 64), photometric="rgb", **how)
    whole = open_source(tmp_path / "a.tif").read(Box(0, 0, 172, 128)).copy()
    fresh = open_tiff(str(tmp_path / "a.tif"))
    for x0, y0 in 2 * [(0, 0), (64, 0), (0, 64), (64, 64)]:
        for box in [Box(x0, y0, x0 + 64, y0 + 64), *between]:
            found = fresh.read(box)
            rows, columns = slice(int(box.y0), int(box.y1)), slice(int(box.x0), int(box.x1))
            np.testing.assert_array_equal(found, whole[rows, columns])
            assert (found.dtype, found.flags.writeable) == (np.dtype(dtype), True)
            found[...] = 7
    fresh.close()


def test_tiles_that_lie_like_stored_ones_are_not_kept(tmp_path, monkeypatch) -> None:
    """No neighbour shares them; those of a grid that overlaps are decoded once, and kept."""
    from tilevision.sources.formats import segments

    monkeypatch.setattr(segments, "_recent", segments.SegmentCache(1 << 24))
    pixels = smooth(64, 256, 3, "uint8")
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, tile=(64, 64), photometric="rgb", compression="zlib"
    )
    source = open_source(tmp_path / "a.tif")
    for x0 in (0, 64, 128, 192):
        source.read(Box(x0, 0, x0 + 64, 64))
    assert segments._recent.nbytes == 64 * 64 * 3  # of the first: nobody knew how they lie
    for x0 in (0, 32, 64, 96):
        source.read(Box(x0, 0, x0 + 64, 64))
    assert segments._recent.nbytes == 3 * 64 * 64 * 3


@pytest.mark.parametrize(("given", "threads"), [("1", 1), ("64", 4), ("none", None)])
def test_a_process_decodes_on_as_many_threads_as_it_is_given(monkeypatch, given, threads) -> None:
    """Dask gives its workers one each, since they share the cores; a notebook has them all."""
    from tilevision.sources.formats.segments import _thread_count

    _thread_count.cache_clear()
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    try:
        assert _thread_count() == threads if threads else 1 <= _thread_count() <= 4
    finally:
        _thread_count.cache_clear()
