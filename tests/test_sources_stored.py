"""The same picture through every container and reader: values and colours beside GDAL and Pillow.

GDAL 3.10 (rasterio 1.4), tifffile 2026.3 and Pillow 12 say what is stored; the photometric tags are
those of TIFF 6.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

import tilevision as tv
from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source, read_options, read_pixels

rasterio = pytest.importorskip("rasterio")
copy = pytest.importorskip("rasterio.shutil").copy

WIDTH, HEIGHT = 200, 140
WHOLE = Box(0, 0, WIDTH, HEIGHT)
TILES = {"tiled": True, "blockxsize": 64, "blockysize": 48}
LOSSLESS = {"QUALITY": 100, "REVERSIBLE": "YES"}

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

CONTAINERS = {
    "tiles.tif": ("GTiff", {**TILES, "compress": "deflate"}),
    "strips.tif": ("GTiff", {"compress": "lzw"}),
    "rows.tif": ("GTiff", {}),
    "bands.tif": ("GTiff", {**TILES, "interleave": "band", "compress": "zstd"}),
    "lerc.tif": ("GTiff", {**TILES, "compress": "lerc"}),
    "lerc-zstd.tif": ("GTiff", {"compress": "lerc_zstd"}),
    "cloud.tif": ("COG", {"blocksize": 128}),
    "a.img": ("HFA", {}),
    "a.dat": ("ENVI", {}),
    "a.vrt": ("VRT", {}),
    "a.jp2": ("JP2OpenJPEG", LOSSLESS),
}


def values(dtype: str, bands: int = 1) -> np.ndarray:
    """Return waves over most of the range of a type, ``(bands, h, w)``."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / (9 + 4 * band)) + np.cos(y / (7 + 5 * band)) + 2 for band in range(bands)]
    spread = np.stack(waves) / 4
    if dtype.startswith("float"):
        return ((spread - 0.5) * 1e4).astype(dtype)
    info = np.iinfo(dtype)
    return (info.min + spread * (int(info.max) - int(info.min))).astype(dtype)


def save(path: Path, pixels: np.ndarray, driver: str = "GTiff", **options: Any) -> Path:
    bands, height, width = pixels.shape
    colours = options.pop("colours", None)
    table = options.pop("table", None)
    if driver in ("VRT", "COG"):
        below = save(path.with_suffix(".below.tif"), pixels, colours=colours, table=table)
        copy(below, path, driver=driver, **options)
        return path
    profile = {"width": width, "height": height, "count": bands, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver=driver, **profile, **options) as dataset:
        if table is not None:
            dataset.write_colormap(1, table)
        dataset.write(pixels)
        if colours is not None:
            dataset.colorinterp = [getattr(rasterio.enums.ColorInterp, name) for name in colours]
    return path


def raw(path: Path | str, scale: float = 1.0) -> np.ndarray:
    """Return what a model with ``dtype="raw"`` is given, on a worker, ``(h, w, bands)``."""
    source = open_source(path)
    options = read_options(source, dtype="raw")
    return read_pixels(open_reference(source.reference), WHOLE, scale, options)


def shown(path: Path | str) -> np.ndarray:
    """Return what a model of pictures is given."""
    source = open_source(path)
    return read_pixels(open_reference(source.reference), WHOLE, 1.0, read_options(source))


def by_gdal(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return np.moveaxis(dataset.read(), 0, -1)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, dtype)
        for name in sorted(CONTAINERS)
        for dtype in ("uint8", "uint16", "int16", "int32", "float32")
        if not (name == "a.jp2" and dtype in ("int32", "float32"))  # which the format has not
    ],
)
def test_raw_values_are_those_stored(tmp_path: Path, name: str, dtype: str, bands: int) -> None:
    """Every type in every container: raw values are what was written, and what GDAL reads."""
    driver, options = CONTAINERS[name]
    pixels = values(dtype, bands)
    colours = ("red", "green", "blue") if bands == 3 and driver == "JP2OpenJPEG" else None
    path = save(tmp_path / name, pixels, driver, colours=colours, **options)
    found = raw(path)
    np.testing.assert_array_equal(found, np.moveaxis(pixels, 0, -1))
    np.testing.assert_array_equal(found, by_gdal(path))
    assert found.dtype == np.dtype(dtype)


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 10, 12])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_raw_values_of_few_bits_are_those_stored(
    tmp_path: Path, bits: int, photometric: str
) -> None:
    """Neither spread to 8 bits nor turned round, as the picture is (TIFF 6.0, section 4)."""
    pixels = values("uint8" if bits <= 8 else "uint16") % 2**bits
    options = {"nbits": bits, "photometric": photometric, "compress": "deflate"}
    path = save(tmp_path / "a.tif", pixels, **options)
    np.testing.assert_array_equal(raw(path).astype(pixels.dtype), by_gdal(path))
    np.testing.assert_array_equal(by_gdal(path), np.moveaxis(pixels, 0, -1))
    if bits in (2, 4):
        grey = shown(path)[..., 0].astype(int)
        full = pixels[0].astype(int) * (255 // (2**bits - 1))
        np.testing.assert_array_equal(grey, 255 - full if photometric == "miniswhite" else full)


def test_raw_inks_are_those_stored(tmp_path: Path) -> None:
    """CMYK is four numbers a pixel, as tifffile reads it (GDAL shows it as RGBA)."""
    inks = np.moveaxis(values("uint8", 4), 0, -1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, inks, photometric="separated", metadata=None)
    np.testing.assert_array_equal(raw(path), inks)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(shown(path), np.asarray(picture.convert("RGB")))


def test_jpeg_of_each_band_is_what_gdal_decodes(tmp_path: Path) -> None:
    """A band in a JPEG of its own is grey there, whatever the bands are together."""
    pixels = values("uint8", 3)
    for photometric in ("rgb", "minisblack"):
        how = {"compress": "jpeg", "interleave": "band", "photometric": photometric, **TILES}
        path = save(tmp_path / f"{photometric}.tif", pixels, **how)
        difference = raw(path).astype(int) - by_gdal(path)
        assert np.abs(difference).max() <= 1  # two decoders round in their own way


TABLE = {0: (230, 230, 230, 255), 5: (255, 0, 0, 255), 200: (12, 34, 56, 255)}


@pytest.mark.parametrize(
    "name", ["tiles.tif", "strips.tif", "rows.tif", "cloud.tif", "a.img", "a.vrt"]
)
def test_class_maps_are_colours_or_numbers(tmp_path: Path, name: str) -> None:
    """A colour table is shown by every reader alike; raw are the numbers, never averaged."""
    driver, options = CONTAINERS[name]
    classes = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    classes[0, 30:70, 40:100], classes[0, 71:90, 41:77] = 5, 200
    path = save(tmp_path / name, classes, driver, table=TABLE, **options)
    colours = np.zeros((256, 3), np.uint8)
    for number, colour in TABLE.items():
        colours[number] = colour[:3]
    np.testing.assert_array_equal(shown(path), colours[classes[0]])
    np.testing.assert_array_equal(raw(path), np.moveaxis(classes, 0, -1))
    small = raw(path, 0.25)
    assert small.shape == (35, 50, 1)
    assert set(np.unique(small)) == set(TABLE)


@pytest.mark.parametrize("driver", ["GTiff", "VRT"])
def test_declared_band_order_is_shown(tmp_path: Path, driver: str) -> None:
    """Blue, green, red, near infrared: GDAL names the colours, and red is shown red."""
    pixels = values("uint8", 4)
    order = ("blue", "green", "red", "undefined")
    path = save(tmp_path / "a.tif", pixels, colours=order)
    if driver == "VRT":
        copy(path, tmp_path / "a.vrt", driver="VRT")
        path = tmp_path / "a.vrt"
    np.testing.assert_array_equal(shown(path), np.moveaxis(pixels[[2, 1, 0]], 0, -1))
    np.testing.assert_array_equal(raw(path), np.moveaxis(pixels, 0, -1))


def _lab(tmp_path: Path, pixels: np.ndarray) -> Path:
    rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(pixels), rgb, lab, outputMode="LAB")
    image.save(tmp_path / "lab.tif")
    return tmp_path / "lab.tif"


@pytest.mark.parametrize("kind", ["CIELab", "CIELab of 16 bits", "ICCLab", "ICCLab of 16 bits"])
def test_lab_is_shown_in_its_colours(tmp_path: Path, kind: str) -> None:
    """L*a*b* as littleCMS makes it becomes the sRGB it came from; raw is what is stored."""
    blocks = np.random.default_rng(0).integers(20, 236, (7, 10, 3), np.uint8)
    pixels = blocks.repeat(20, axis=0).repeat(20, axis=1)
    path = _lab(tmp_path, pixels)
    stored = tifffile.imread(path)
    if kind != "CIELab":
        lightness = stored[..., 0].astype(int)
        chroma = stored[..., 1:].view(np.int8).astype(int)
        deep = kind.endswith("bits")
        lightness, chroma = (lightness * 257, chroma * 256) if deep else (lightness, chroma)
        chroma = chroma + (32768 if deep else 128) * kind.startswith("ICC")
        stored = np.dstack([lightness, chroma]).astype(np.uint16 if deep else np.uint8)
        photometric = "icclab" if kind.startswith("ICC") else "cielab"
        tifffile.imwrite(path, stored, photometric=photometric, metadata=None)
    assert np.abs(shown(path).astype(int) - pixels).max() <= 6  # a step of a* or b* is as much
    np.testing.assert_array_equal(raw(path), stored)


@pytest.mark.parametrize("photometric", ["cfa", "linear_raw", "itulab"])
def test_what_is_no_picture_yet_is_refused_by_name(tmp_path: Path, photometric: str) -> None:
    """A sensor's mosaic and the like are never shown as they lie; their values can be had."""
    stored = values("uint16", 1 if photometric == "cfa" else 3)
    stored = stored[0] if photometric == "cfa" else np.moveaxis(stored, 0, -1)
    path = tmp_path / "a.tif"
    planar = "contig" if stored.ndim == 3 else None  # newer tifffiles take three rows for planes
    tifffile.imwrite(path, stored, photometric=photometric, planarconfig=planar, metadata=None)
    with pytest.raises(tv.SourceError, match=r"sensor|ITU .*dtype='raw'"):
        shown(path)
    np.testing.assert_array_equal(raw(path), stored.reshape(HEIGHT, WIDTH, -1))


def test_deep_jpeg_2000_needs_gdal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rasterio values that Pillow would change are refused, not changed."""
    path = save(tmp_path / "a.jp2", values("int16"), "JP2OpenJPEG", **LOSSLESS)
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    with pytest.raises(tv.SourceError, match=r"tilevision\[geo\]"):
        open_source(path)


def _key(path: Path, dtype: str, scale: float) -> dict[str, Any]:
    source = open_source(path)
    return read_options(source, dtype=dtype).identity(scale) | {"image": source.fingerprint}


def test_only_what_was_read_otherwise_has_other_keys(tmp_path: Path) -> None:
    """Values that earlier releases read as today keep what their keys are made of."""
    same = {"bands", "dtype", "stretch", "nodata", "scaling", "image"}
    classes = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    plain = save(tmp_path / "plain.tif", values("uint8", 3))
    table = save(tmp_path / "table.tif", classes, table=TABLE)
    through_gdal = save(tmp_path / "table.img", classes, "HFA", table=TABLE)
    for path, dtype, scale in (
        *((plain, dtype, scale) for dtype in ("uint8", "raw") for scale in (1.0, 0.5)),
        *((table, "uint8", scale) for scale in (1.0, 0.5)),
        (through_gdal, "raw", 1.0),
    ):
        assert set(_key(path, dtype, scale)) == same
    assert set(_key(table, "raw", 1.0)) == {*same, "revision"}
    assert set(_key(through_gdal, "uint8", 1.0)) == {*same, "revision"}
    assert set(_key(through_gdal, "raw", 0.5)) == {*same, "resampled"}


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("name", ["a.tif", "a.img", "a.jp2", "a.vrt"])
def test_few_bits_are_spread_to_eight_by_every_reader(tmp_path: Path, name: str, bits: int) -> None:
    """0 to 2**bits - 1 (GDAL's NBITS): raw as stored, shown from black to white."""
    driver = {"a.tif": "GTiff", "a.img": "HFA", "a.jp2": "JP2OpenJPEG", "a.vrt": "GTiff"}[name]
    if driver == "HFA" and bits not in (1, 2, 4):
        pytest.skip("ERDAS files have 1, 2 and 4 bits")
    values = np.arange(96 * 64).reshape(1, 64, 96).astype(np.uint8) % 2**bits
    save(tmp_path / "0.tif", values)
    lossless = LOSSLESS if name == "a.jp2" else {}
    first = tmp_path / (name if name != "a.vrt" else "1.tif")
    copy(tmp_path / "0.tif", first, driver=driver, NBITS=str(bits), **lossless)
    if name == "a.vrt":
        copy(first, tmp_path / name, driver="VRT")
    source = open_source(tmp_path / name)
    whole = Box(0, 0, 96, 64)
    raw = read_pixels(source, whole, 1.0, read_options(source, dtype="raw"))
    with rasterio.open(tmp_path / name) as dataset:
        np.testing.assert_array_equal(raw, np.moveaxis(dataset.read(), 0, -1))
    np.testing.assert_array_equal(raw[..., 0], values[0])
    options = read_options(source)
    shown = read_pixels(source, whole, 1.0, options)
    np.testing.assert_array_equal(shown[..., 0], np.rint(values[0] * (255 / (2**bits - 1))))
    kept = name == "a.tif" and bits in (1, 2, 4)  # shown so all along
    by_table = name == "a.vrt" and bits == 1  # GDAL has black and white for it
    assert options.revision == ("" if kept else "colour table" if by_table else "few bits")
    source.close()


def test_the_no_data_value_of_few_bits_is_shown_as_they_are(tmp_path: Path) -> None:
    """Value 3 of 0 to 3 is white, and still no data, in an ERDAS file as in a TIFF."""
    values = (np.arange(96 * 64).reshape(1, 64, 96) // 96 % 4).astype(np.uint8)
    for driver, name in (("GTiff", "a.tif"), ("HFA", "a.img")):
        save(tmp_path / name, values, driver, nodata=3, nbits=2)
        source = open_source(tmp_path / name)
        assert source.metadata.nodata == 255
        np.testing.assert_array_equal(source.data_share(96), values[0] != 3)
        np.testing.assert_array_equal(source.stored.data_share(96), values[0] != 3)


@pytest.mark.parametrize("compression", [34676, 34677])
def test_sgi_s_compression_is_refused_by_name(tmp_path: Path, compression: int) -> None:
    """LogL and LogLuv (libtiff's tif_luv.c): imagecodecs 2026.3.6 and Pillow 12 read neither."""
    path = tmp_path / "a.tif"
    pixels = np.zeros((64, 64, 3), np.int16)
    tifffile.imwrite(path, pixels, photometric=32845, planarconfig="contig", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["Compression"].overwrite(compression)
    with pytest.raises(SourceError, match=r"LogLuv .* convert it to RGB"):
        open_source(path)


@pytest.mark.parametrize("name", ["a.tif", "a.vrt", "a.img", "a.dat"])
def test_bands_have_their_names_by_every_reader(tmp_path: Path, name: str) -> None:
    """GDAL's descriptions: ``bands=("nir",)`` is the same band of each container."""
    first = save(tmp_path / "0.tif", values("uint8", 2))
    with rasterio.open(first, "r+") as dataset:
        dataset.descriptions = ("red edge", "nir")
    copy(first, tmp_path / name, driver=CONTAINERS.get(name, ("GTiff", {}))[0])
    source = open_source(tmp_path / name)
    assert source.metadata.channels == ("red edge", "nir")
    assert read_options(source, ["nir"]).bands == (1,)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("grey", [True, False])
def test_a_colour_table_counts_whatever_the_tag_of_its_colours(
    tmp_path: Path, dtype: str, grey: bool
) -> None:
    """Rasterio 1.4 writes a table after the pixels and leaves the tag at grey: GDAL has colours."""
    classes = (np.arange(140 * 200).reshape(140, 200) % 200).astype(dtype)
    table = {n: (n, 255 - n, n * 7 % 256, 255) for n in range(200)}
    path = tmp_path / "a.tif"
    entries = np.zeros((3, 256 if dtype == "uint8" else 65536), np.uint16)
    entries[:, :200] = np.array([table[n][:3] for n in range(200)]).T * 257
    tag = (320, "H", entries.size, tuple(entries.ravel().tolist()), True)
    if grey:
        tifffile.imwrite(path, classes, photometric="minisblack", extratags=[tag], metadata=None)
    else:
        tifffile.imwrite(path, classes, photometric="palette", colormap=entries, metadata=None)
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[0].name == "palette"
    source = open_source(path)
    options = read_options(source)
    expected = np.array([table[n][:3] for n in range(200)])[classes]
    np.testing.assert_array_equal(read_pixels(source, WHOLE, 1.0, options), expected)
    assert options.revision == ("colour table" if grey else "")
    raw = read_options(source, dtype="raw")
    np.testing.assert_array_equal(read_pixels(source, WHOLE, 1.0, raw)[..., 0], classes)
    assert raw.revision == ("" if grey else "stored")


@pytest.mark.parametrize("name", ["a.tif", "a.img"])
def test_a_table_of_greys_is_a_grey_picture(tmp_path: Path, name: str) -> None:
    """Whose every value has the colour that it has as a grey: shown, averaged, kept as before."""
    pixels = values("uint8", 1)
    save(tmp_path / "plain.tif", pixels)
    path = tmp_path / name
    if name == "a.tif":  # the table beside the tag for grey, as rasterio may leave it
        entries = np.tile(np.arange(256) * 257, 3).tolist()
        tag = (320, "H", 768, tuple(entries), True)
        tifffile.imwrite(path, pixels[0], photometric="minisblack", extratags=[tag], metadata=None)
    else:
        save(path, pixels, "HFA")
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(1, {n: (n, n, n, 255) for n in range(256)})
    plain, source = open_source(tmp_path / "plain.tif"), open_source(path)
    assert read_options(source) == read_options(plain)
    for scale in (1.0, 0.5):
        shown = [read_pixels(one, WHOLE, scale, read_options(one)) for one in (source, plain)]
        np.testing.assert_array_equal(*shown)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
@pytest.mark.parametrize("more", [0, 1])
def test_inks_are_shown_in_their_colours_at_any_depth(
    tmp_path: Path, deep: bool, mode: str, more: int
) -> None:
    """CMYK and YCbCr of 8 and 16 bits, with or without alpha: as Pillow shows the 8-bit picture."""
    picture = Image.fromarray(values("uint8", 3).transpose(1, 2, 0))
    stored = np.asarray(picture.convert(mode))
    right = np.asarray(Image.fromarray(stored, mode).convert("RGB"))
    stored = np.dstack([stored, *[np.full(stored.shape[:2], 255, np.uint8)] * more])
    stored = stored.astype(np.uint16) * 257 if deep else stored
    how: dict[str, Any] = {"photometric": "separated" if mode == "CMYK" else "ycbcr"}
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored,
        extrasamples=["unassalpha"] * more,
        subsampling=(1, 1),
        metadata=None,
        **how,
    )
    source = open_source(tmp_path / "a.tif")
    options = read_options(source)
    whole = Box(0, 0, *source.size)
    np.testing.assert_array_equal(read_pixels(source, whole, 1.0, options), right)
    assert bool(options.revision) == (deep or more == 1)  # those were shown as they lie
    raw = read_options(source, dtype="raw")
    np.testing.assert_array_equal(read_pixels(source, whole, 1.0, raw), stored)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_table_of_any_depth_has_its_colours(tmp_path: Path, bits: int) -> None:
    """GDAL 3.10 writes 1, 2, 4 and 8 bits with a palette: numbers raw, colours shown."""
    classes = (np.arange(140 * 200).reshape(140, 200) % 2**bits).astype(np.uint8)
    table = {n: (200 - n % 60, n, 77 + n % 100, 255) for n in range(2**bits)}
    path = tmp_path / "a.tif"
    profile = {"width": 200, "height": 140, "count": 1, "dtype": "uint8", "nbits": bits}
    with rasterio.open(path, "w", driver="GTiff", photometric="palette", **profile) as dataset:
        dataset.write_colormap(1, table)
        dataset.write(classes, 1)
    source = open_source(path)
    options = read_options(source)
    colours = np.array([table[n][:3] for n in range(2**bits)])[classes]
    np.testing.assert_array_equal(read_pixels(source, WHOLE, 1.0, options), colours)
    assert options.bands == (0, 1, 2) and not options.revision  # as it was all along
    raw = read_pixels(source, WHOLE, 1.0, read_options(source, dtype="raw"))
    np.testing.assert_array_equal(raw[..., 0], classes)


@pytest.mark.parametrize("luma", [(299, 587, 114), (2126, 7152, 722)])
@pytest.mark.parametrize("codes", [(0, 255, 128, 255, 128, 255), (16, 235, 128, 240, 128, 240)])
def test_ycbcr_is_shown_by_its_own_coding(
    tmp_path: Path, luma: tuple[int, ...], codes: tuple[int, ...]
) -> None:
    """YCbCrCoefficients and ReferenceBlackWhite (TIFF 6.0, section 21), as libtiff heeds them."""
    right = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3))
    share = np.array(luma) / sum(luma)
    y = right @ share
    chroma = [(right[..., band] - y) / (2 - 2 * share[band]) for band in (2, 0)]
    steps = [(codes[2 * n + 1] - codes[2 * n]) / (255 if n == 0 else 127) for n in range(3)]
    parts = [part * steps[n] + codes[2 * n] for n, part in enumerate([y, *chroma])]
    stored = np.rint(np.stack(parts, axis=-1)).clip(0, 255).astype(np.uint8)

    def rationals(values: tuple[int, ...], unit: int) -> tuple[int, ...]:
        return tuple(part for value in values for part in (value, unit))

    tags = [
        (529, "2I", 3, rationals(luma, sum(luma)), True),
        (532, "2I", 6, rationals(codes, 1), True),
    ]
    how: dict[str, Any] = {"photometric": "ycbcr", "subsampling": (1, 1), "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=tags, **how)
    source = open_source(tmp_path / "a.tif")
    shown = read_pixels(source, WHOLE, 1.0, read_options(source))
    assert np.abs(shown.astype(int) - right).max() <= 3
    plain = (luma[0], codes[0]) == (299, 0)
    assert bool(read_options(source).revision) == (not plain)
