"""What GDAL keeps of an image in files beside it, by the rules of GDAL 3.10 (by rasterio).

Overviews (``.ovr``), masks (``.msk``), and in ``.aux.xml`` the no-data value, scale and name of
each band (``PAMDataset``, GDAL's Persistent Auxiliary Metadata).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source, read_options, read_pixels

rasterio = pytest.importorskip("rasterio")
copy = pytest.importorskip("rasterio.shutil").copy
Resampling = rasterio.enums.Resampling

WIDTH, HEIGHT = 320, 192
WHOLE = Box(0, 0, WIDTH, HEIGHT)
Y, X = np.mgrid[:HEIGHT, :WIDTH]
VALID = (X >= 100) & (Y < 120)

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


def ramp(dtype: str, bands: int = 1) -> np.ndarray:
    """Return values of 50 and more that rise, ``(bands, h, w)``."""
    step = 1 if dtype == "uint8" else 7
    return np.stack([50 + (X * step + Y) // 4 + band for band in range(bands)]).astype(dtype)


def save(path: Path, pixels: np.ndarray, driver: str = "GTiff", **options: Any) -> Path:
    bands, height, width = pixels.shape
    profile = {"width": width, "height": height, "count": bands, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver=driver, **profile, **options) as dataset:
        dataset.write(pixels)
    return path


@contextmanager
def updated(path: Path, **settings: Any) -> Iterator[Any]:
    """Open a file to be updated by GDAL under some of its settings."""
    with rasterio.Env(**settings), rasterio.open(path, "r+") as dataset:
        yield dataset


def auxiliary(path: Path, bands: dict[int, str], metadata: str = "") -> None:
    said = "".join(f'<PAMRasterBand band="{n}">{text}</PAMRasterBand>' for n, text in bands.items())
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{metadata}{said}</PAMDataset>")


def by_gdal(path: Path, level: int | None = None) -> np.ndarray:
    options = {} if level is None else {"overview_level": level}
    with rasterio.open(path, **options) as dataset:
        return np.moveaxis(dataset.read(), 0, -1)


def valid_by_gdal(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return np.moveaxis(dataset.read_masks() != 0, 0, -1)


def with_overviews(path: Path, dtype: str, method: Any = Resampling.nearest) -> Path:
    save(path, ramp(dtype, 3), tiled=True, blockxsize=64, blockysize=64)
    with updated(path, TIFF_USE_OVR=True) as dataset:
        dataset.build_overviews([2, 4], method)
    assert path.with_name(f"{path.name}.ovr").is_file()
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_overviews_beside_a_tiff_are_its_levels(tmp_path: Path, dtype: str) -> None:
    """A shrunk tile is read from the level that GDAL has in the file beside it."""
    path = with_overviews(tmp_path / "a.tif", dtype)
    source = open_source(path)
    assert source.metadata.levels == ((320, 192), (160, 96), (80, 48))
    for number, scale in enumerate((0.5, 0.25)):
        np.testing.assert_array_equal(source.read(WHOLE, scale), by_gdal(path, number))
    np.testing.assert_array_equal(source.read(WHOLE), by_gdal(path))
    worker = open_reference(source.reference)
    np.testing.assert_array_equal(worker.read(WHOLE, 0.25), by_gdal(path, 1))


def test_overviews_in_a_tiff_go_before_those_beside_it(tmp_path: Path) -> None:
    """As in GDAL, which has no use for the file beside it then."""
    with_overviews(tmp_path / "a.tif", "uint8")
    kept = (tmp_path / "a.tif.ovr").read_bytes()
    inside = save(tmp_path / "b.tif", ramp("uint8", 3))
    with updated(inside) as dataset:
        dataset.build_overviews([2], Resampling.nearest)
    (tmp_path / "b.tif.ovr").write_bytes(kept)
    assert open_source(inside).metadata.levels == ((320, 192), (160, 96))


def test_overviews_beside_change_the_keys_of_shrunk_tiles_alone(tmp_path: Path) -> None:
    """Full-size tiles were right without them: they keep image, stretch and key."""
    path = with_overviews(tmp_path / "a.tif", "uint16", Resampling.average)
    with_them = open_source(path)
    kept = (tmp_path / "a.tif.ovr").read_bytes()
    (tmp_path / "a.tif.ovr").unlink()
    without = open_source(path)
    assert with_them.fingerprint == without.fingerprint
    for dtype in ("uint8", "raw"):
        new, old = (read_options(source, dtype=dtype) for source in (with_them, without))
        assert new.identity(1.0) == old.identity(1.0)
        assert new.identity(0.5) != old.identity(0.5)
    (tmp_path / "a.tif.ovr").write_bytes(kept)
    reference = open_source(path).reference
    with updated(path, TIFF_USE_OVR=True) as dataset:
        dataset.build_overviews([2], Resampling.nearest)
    with pytest.raises(SourceError, match="have changed since"):
        open_reference(reference).read(WHOLE, 0.5)


def test_damaged_overviews_cost_a_note(tmp_path: Path) -> None:
    """The picture is whole without them; the note says what is not read."""
    path = save(tmp_path / "a.tif", ramp("uint8", 3))
    (tmp_path / "a.tif.ovr").write_bytes(b"II*\0" + bytes(20))
    source = open_source(path)
    assert source.metadata.levels == ((320, 192),)
    assert any("a.tif.ovr" in note for note in source.metadata.notes)
    np.testing.assert_array_equal(source.read(WHOLE), by_gdal(path))


CONTAINERS = {"GTiff": "tif", "COG": "tif", "HFA": "img", "PNG": "png"}


@pytest.mark.parametrize("driver", CONTAINERS)
def test_no_data_is_the_value_beside_the_file(tmp_path: Path, driver: str) -> None:
    """For each band its own; it goes before the value in the file (GDAL: PAM first)."""
    pixels = np.where(VALID, ramp("uint16", 3), np.array([3, 4, 5], "uint16")[:, None, None])
    own = {"nodata": 60} if driver in ("GTiff", "COG") else {}  # other formats go before PAM
    first = save(tmp_path / "first.tif", pixels, **own)
    path = tmp_path / f"a.{CONTAINERS[driver]}"
    copy(first, path, driver=driver)
    said = {n + 1: f"<NoDataValue>{n + 3}</NoDataValue>" for n in range(3)}
    auxiliary(path, said)
    source = open_source(path)
    with rasterio.open(path) as dataset:
        assert dataset.nodatavals == (3, 4, 5)
    assert source.metadata.band_nodata == (3, 4, 5)
    share = source.data_share(320)
    np.testing.assert_array_equal(share, valid_by_gdal(path).any(axis=2))
    shown = read_pixels(source, WHOLE, 1.0, read_options(source))
    assert (shown[~VALID] == 0).all() and shown[VALID].max() == 255
    half = source.read(WHOLE, 0.5)
    assert half[:50, 60:].min() >= 50
    assert read_options(source, dtype="raw").identity(0.5)["resampled"] == "no data"


def test_scale_names_and_colours_beside_a_file(tmp_path: Path) -> None:
    """As GDAL has them of the same TIFF."""
    path = save(tmp_path / "a.tif", ramp("int16", 3))
    facts = "<Description>b{0}</Description><Offset>{0}</Offset><Scale>0.5</Scale>{1}"
    colours = ["Blue", "Green", "Red"]
    said = {
        n + 1: facts.format(n, f"<ColorInterp>{name}</ColorInterp>")
        for n, name in enumerate(colours)
    }
    auxiliary(path, said)
    source = open_source(path)
    with rasterio.open(path) as dataset:
        assert source.metadata.channels == dataset.descriptions
        assert source.metadata.scaling == tuple(zip(dataset.scales, dataset.offsets, strict=True))
        names = [kind.name for kind in dataset.colorinterp]
    assert source.colours == tuple(names.index(name) for name in ("red", "green", "blue"))


@pytest.mark.parametrize("where", ["in the file", "beside it", "in a mosaic"])
def test_no_data_of_all_bands_together(tmp_path: Path, where: str) -> None:
    """GDAL's NODATA_VALUES: no data is where every band has its value, not where one has."""
    pixels = np.where(VALID, ramp("uint8", 3), np.array([7, 8, 9], "uint8")[:, None, None])
    pixels[0, :, 200:] = 7
    path = save(tmp_path / "a.tif", pixels)
    if where == "beside it":
        auxiliary(path, {}, '<Metadata><MDI key="NODATA_VALUES">7 8 9</MDI></Metadata>')
    else:
        with updated(path) as dataset:
            dataset.update_tags(NODATA_VALUES="7 8 9")
    if where == "in a mosaic":
        copy(path, tmp_path / "a.vrt", driver="VRT")
        path = tmp_path / "a.vrt"
    expected = valid_by_gdal(path)
    np.testing.assert_array_equal(expected.all(axis=2), VALID)
    source = open_source(path)
    there = source.read_masked(WHOLE)[1]
    np.testing.assert_array_equal(np.broadcast_to(there, expected.shape), expected)
    np.testing.assert_array_equal(source.data_share(320), VALID)


@pytest.mark.parametrize("driver", ["GTiff", "HFA", "PNG"])
@pytest.mark.parametrize("turned", [1, 6])
def test_masks_beside_a_file_are_its_masks(tmp_path: Path, driver: str, turned: int) -> None:
    """Of all bands alike; turned upright with the picture."""
    path = tmp_path / f"a.{CONTAINERS[driver]}"
    save(path, ramp("uint8", 3), driver)
    with updated(path, GDAL_TIFF_INTERNAL_MASK=False) as dataset:
        dataset.write_mask(VALID)
    assert path.with_name(f"{path.name}.msk").is_file()
    expected = VALID
    if turned != 1:
        if driver == "HFA":
            pytest.skip("ERDAS files know no orientation")
        exif = Image.Exif()
        exif[0x0112] = turned
        with Image.open(path) as image:
            image.load()
        image.save(path, exif=exif)
        expected = np.rot90(VALID, -1)
    source = open_source(path)
    there = source.read_masked(Box(0, 0, *source.size))[1]
    assert there is not None
    np.testing.assert_array_equal(there[..., 0], expected)
    np.testing.assert_array_equal(source.data_share(320), expected)


@pytest.mark.parametrize("driver", ["GTiff", "PNG"])
def test_a_mask_beside_that_hides_nothing_leaves_the_identity(tmp_path: Path, driver: str) -> None:
    """Such a file was read rightly without its mask; one hidden pixel makes another of it."""
    path = save(tmp_path / f"a.{CONTAINERS[driver]}", ramp("uint8", 3), driver)
    alone = open_source(path)
    holes = np.ones_like(VALID)
    for hidden in (False, True):
        holes[-1, -1] = not hidden
        with updated(path, GDAL_TIFF_INTERNAL_MASK=False) as dataset:
            dataset.write_mask(holes)
        source = open_source(path)
        assert (source.fingerprint != alone.fingerprint) == hidden
        for scale in (1.0, 0.5):
            options, before = (read_options(one).identity(scale) for one in (source, alone))
            assert (options != before) == (hidden and scale != 1)


def test_a_mask_of_each_band_beside_a_tiff(tmp_path: Path) -> None:
    """A ``.msk`` whose flags do not say that it is of all bands masks each with its own."""
    path = save(tmp_path / "a.tif", ramp("uint8", 2))
    masks = np.stack([VALID, ~VALID]).astype(np.uint8) * 255
    mask = save(tmp_path / "m.tif", masks)
    with updated(mask) as dataset:
        dataset.update_tags(INTERNAL_MASK_FLAGS_1="0", INTERNAL_MASK_FLAGS_2="0")
    mask.rename(tmp_path / "a.tif.msk")
    np.testing.assert_array_equal(valid_by_gdal(path), np.moveaxis(masks != 0, 0, -1))
    there = open_source(path).read_masked(WHOLE)[1]
    np.testing.assert_array_equal(there, np.moveaxis(masks != 0, 0, -1))


def test_what_lies_beside_an_image_without_saying_anything_changes_nothing(tmp_path: Path) -> None:
    """Statistics, damaged and foreign files: metadata and keys as without them."""
    path = save(tmp_path / "a.tif", ramp("uint16", 1))
    before = open_source(path)
    for text in ("<PAMDataset><PAMRasterBand band='1'/></PAMDataset>", "<PAM", "<a/>"):
        (tmp_path / "a.tif.aux.xml").write_text(text)
        after = open_source(path)
        assert after.metadata == before.metadata
        assert after.fingerprint == before.fingerprint
        assert read_options(after).identity(0.5) == read_options(before).identity(0.5)


def _save_as(path: Path, mode: str, picture: Image.Image) -> np.ndarray:
    """Save a picture in one of Pillow's modes, and return what was stored."""
    stored = picture.quantize(17) if mode == "P" else picture.convert(mode)
    options = {"lossless": True, "exact": True} if path.suffix == ".webp" else {}
    stored.save(path, **options)
    pixels = np.asarray(stored).astype(np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


PICTURES = [
    *(("png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
    ("gif", "P"),
    *(("bmp", mode) for mode in ("L", "P", "RGB")),
    *(("webp", mode) for mode in ("RGB", "RGBA")),
    *(("tif", mode) for mode in ("L", "P", "RGB", "RGBA", "CMYK")),
]


@pytest.mark.parametrize(("suffix", "mode"), PICTURES)
def test_raw_values_of_a_picture_are_what_it_stores(tmp_path: Path, suffix: str, mode: str) -> None:
    """Class numbers, single bits and alpha, whichever file they are in; GDAL has the same."""
    rgb = np.moveaxis(ramp("uint8", 3), 0, -1).copy()
    picture = Image.fromarray(rgb)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(np.where(VALID, 200, 0).astype(np.uint8)))
    path = tmp_path / f"a.{suffix}"
    expected = _save_as(path, mode, picture)
    source = open_source(path)
    options = read_options(source, dtype="raw")
    found = read_pixels(source, WHOLE, 1.0, options)
    np.testing.assert_array_equal(found, expected)
    if suffix != "gif" and mode != "CMYK":  # GDAL's GIF is no part of every build
        np.testing.assert_array_equal(found, by_gdal(path))
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(source.data_share(320), VALID)
    changed = mode in ("1", "P", "LA", "RGBA") and suffix != "tif"
    assert options.revision == ("stored" if changed else options.revision)
    shown = open_source(path)
    with Image.open(path) as image:
        if mode == "P":
            shown_pixels = read_pixels(shown, WHOLE, 1.0, read_options(shown))
            np.testing.assert_array_equal(shown_pixels, np.asarray(image.convert("RGB")))
    source.close()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_a_png_are_raw_as_stored(tmp_path: Path, bits: int) -> None:
    """Grey of 1, 2 and 4 bits: raw 0 to 2**bits - 1, as GDAL has it; shown it is spread to 8."""
    values = (X % 2**bits).astype(np.uint8)[np.newaxis]
    path = save(tmp_path / "a.png", values, "PNG", nbits=bits)
    source = open_source(path)
    raw = read_pixels(source, WHOLE, 1.0, read_options(source, dtype="raw"))
    np.testing.assert_array_equal(raw, by_gdal(path))
    np.testing.assert_array_equal(raw[..., 0], values[0])
    shown = read_pixels(source, WHOLE, 1.0, read_options(source))
    assert shown.max() == 255


@pytest.mark.parametrize("bands", [2, 4])
def test_deep_pictures_with_alpha_are_raw_as_stored(tmp_path: Path, bands: int) -> None:
    """A PNG of 16 bits keeps its alpha as a band, and its transparent part is no data."""
    pixels = ramp("uint16", bands)
    pixels[-1] = np.where(VALID, 65535, 0)
    path = save(tmp_path / "a.png", pixels, "PNG")
    source = open_source(path)
    raw = read_pixels(source, WHOLE, 1.0, read_options(source, dtype="raw"))
    np.testing.assert_array_equal(raw, by_gdal(path))
    np.testing.assert_array_equal(source.data_share(320), VALID)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_transparent_colour_of_a_png_is_no_data(tmp_path: Path, mode: str) -> None:
    """PNG's tRNS chunk: a grey, a colour, or the opacity of the palette's entries."""
    colours = np.where(VALID[..., None], np.moveaxis(ramp("uint8", 3), 0, -1), 9).astype("uint8")
    stored = Image.fromarray(colours).quantize(20) if mode == "P" else Image.fromarray(colours)
    stored = stored.convert("L") if mode == "L" else stored
    clear = {"RGB": (9, 9, 9), "L": 9}.get(mode) or stored.getpixel((0, 0))
    stored.save(tmp_path / "a.png", transparency=clear)
    expected = np.asarray(stored).reshape(HEIGHT, WIDTH, -1)
    holes = (expected == np.asarray(clear)).all(axis=2)
    source = open_source(tmp_path / "a.png")
    np.testing.assert_array_equal(source.data_share(320), ~holes)
    raw = read_pixels(source, WHOLE, 1.0, read_options(source, dtype="raw"))
    np.testing.assert_array_equal(raw, expected)


def test_class_numbers_of_a_picture_have_no_average(tmp_path: Path) -> None:
    """A shrunk class map holds only classes that are there; on a worker as well."""
    classes = np.where(VALID, 3, 200).astype(np.uint8)
    image = Image.fromarray(classes)
    image.putpalette([n for n in range(256) for _ in range(3)])
    image.save(tmp_path / "a.png")
    source = open_reference(open_source(tmp_path / "a.png").reference)
    options = read_options(source, dtype="raw")
    found = read_pixels(source, WHOLE, 0.3, options)
    assert found.shape[2] == 1 and set(np.unique(found)) == {3, 200}


def test_tifffile_s_pages_are_no_files_beside(tmp_path: Path) -> None:
    """The mask and overviews of the first page are none of the second."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.repeat(ramp("uint8", 1), 2, axis=0), photometric="minisblack")
    mask = save(tmp_path / "m.tif", VALID[np.newaxis].astype(np.uint8) * 255)
    mask.rename(tmp_path / "a.tif.msk")
    assert open_source(path).masked and not open_source(path, page=2).masked


@pytest.mark.parametrize("turned", [1, 3, 6])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_the_mask_inside_a_jpeg_is_its_mask(tmp_path: Path, bands: int, turned: int) -> None:
    """GDAL keeps it after the picture's end; other programs show the picture without it."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        first = save(tmp_path / "a.tif", ramp("uint8", bands), photometric="minisblack")
        with rasterio.open(first, "r+") as dataset:
            dataset.write_mask(VALID)
        path = tmp_path / "a.jpg"
        copy(first, path, driver="JPEG", INTERNAL_MASK="YES")
    np.testing.assert_array_equal(valid_by_gdal(path).all(axis=2), VALID)
    expected = {1: VALID, 3: VALID[::-1, ::-1], 6: np.rot90(VALID, -1)}[turned]
    if turned != 1:  # GDAL writes no EXIF here; the offset at the end counts from the start
        kept = path.read_bytes()
        exif = Image.Exif()
        exif[0x0112] = turned
        block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
        told = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
        start = int.from_bytes(kept[-4:], "little") + len(told)
        path.write_bytes(kept[:2] + told + kept[2:-4] + start.to_bytes(4, "little"))
    source = open_source(path)
    np.testing.assert_array_equal(source.data_share(320), expected)
    there = source.read_masked(Box(0, 0, *source.size))[1]
    assert there is not None
    np.testing.assert_array_equal(there.all(axis=2), expected)
    assert read_options(source).identity(1.0) == read_options(_without_mask(path)).identity(1.0)


def _without_mask(path: Path) -> Any:
    kept = path.read_bytes()
    other = path.with_name(f"plain-{path.name}")
    other.write_bytes(kept[: int.from_bytes(kept[-4:], "little")])
    return open_source(other)


NETPBM = [("P6", 65535), ("P6", 1000), ("P6", 100), ("P5", 4095), ("P5", 65535), ("P5", 15)]


@pytest.mark.parametrize(("kind", "highest"), [*NETPBM, ("P3", 300), ("P2", 7)])
def test_netpbm_values_are_raw_as_stored(tmp_path: Path, kind: str, highest: int) -> None:
    """PGM and PPM of any range (netpbm 11, ppm(5)); Pillow 12 spreads them, or keeps 8 bits."""
    bands = 3 if kind in ("P3", "P6") else 1
    values = np.stack([(X * 211 + Y * 7 + band) % (highest + 1) for band in range(bands)], axis=-1)
    path = tmp_path / "a.ppm"
    header = f"{kind}\n# made here\n{WIDTH} {HEIGHT}\n{highest}\n".encode()
    if kind in ("P5", "P6"):
        path.write_bytes(header + values.astype("u1" if highest < 256 else ">u2").tobytes())
    else:
        path.write_bytes(header + b"# values\n" + " ".join(map(str, values.ravel())).encode())
    source = open_source(path)
    options = read_options(source, dtype="raw")
    found = read_pixels(source, WHOLE, 1.0, options)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == ("uint8" if highest < 256 else "uint16")
    assert options.revision == "stored"
    if kind in ("P5", "P6") and (highest == 65535 or (kind == "P6" and highest > 255)):
        np.testing.assert_array_equal(found, by_gdal(path))


@pytest.mark.parametrize("steps", [[3, 5], [2, 3], [5, 25], [2, 4, 6]])
@pytest.mark.parametrize("pages", [1, 2])
def test_overviews_of_any_step_are_levels(tmp_path: Path, steps: list[int], pages: int) -> None:
    """GDAL's overviews in the file, also where tifffile 2026.3 takes them for pictures."""
    path = save(tmp_path / "a.tif", ramp("uint16", 3), photometric="rgb")
    with updated(path) as dataset:
        dataset.build_overviews(steps, Resampling.average)
    if pages == 2:
        tifffile.imwrite(path, np.zeros((HEIGHT, WIDTH, 3), "uint16"), append=True, metadata=None)
    source = open_source(path)
    sizes = [(-(-WIDTH // step), -(-HEIGHT // step)) for step in steps]
    assert source.metadata.levels == (source.size, *sizes)
    assert source.metadata.frames == pages
    for number, (width, height) in enumerate(sizes):
        found = source.thumbnail(max(width, height))
        np.testing.assert_array_equal(found, by_gdal(path, number))


def test_overviews_of_any_step_change_the_keys_of_shrunk_tiles_alone(tmp_path: Path) -> None:
    """Full-size tiles were right without them: they keep image, stretch and key."""
    path = save(tmp_path / "a.tif", ramp("uint16", 3), photometric="rgb")
    with updated(path) as dataset:
        dataset.build_overviews([3, 5], Resampling.average)
    source = open_source(path)
    later = source.metadata.levels[2:]
    assert source.later_levels == later
    options = read_options(source)
    source.later_levels = ()
    before = read_options(source)
    assert options.stretch == before.stretch
    assert options.identity(1.0) == before.identity(1.0)
    assert options.identity(0.2) != before.identity(0.2)
