"""Zarr stores say themselves where their image is, which axis is which and where levels lie."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilevision as tv
from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source
from tilevision.sources.formats.arrays import zarrstore

zarr = pytest.importorskip("zarr", reason="zarr (extra zarr) is not installed")
RNG = np.random.default_rng(11)
SPACE = {"type": "space", "unit": "micrometer"}


def _whole(source: tv.ImageSource) -> np.ndarray:
    return source.read(Box(0, 0, *source.size))


def _array(path: Path, data: np.ndarray, names: Any, version: int, **more: Any) -> Path:
    chunks = tuple(min(64, n) for n in data.shape)
    if version == 3:
        zarr.create_array(str(path), data=data, chunks=chunks, dimension_names=names, **more)
    else:
        said = {"_ARRAY_DIMENSIONS": list(names)}
        zarr.create_array(
            str(path), data=data, chunks=chunks, zarr_format=2, attributes=said, **more
        )
    return path


CUBE = RNG.integers(0, 255, (20, 90, 120), dtype=np.uint8)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("names", "data", "right"),
    [
        (("band", "y", "x"), CUBE, CUBE.transpose(1, 2, 0)),
        (("x", "y"), CUBE[0].T, CUBE[0, ..., None]),
        (("lat", "lon"), CUBE[0], CUBE[0, ..., None]),
        (("x", "band", "y"), CUBE[:5].transpose(2, 0, 1), CUBE[:5].transpose(1, 2, 0)),
        (("time", "band", "y", "x"), CUBE[None, :3], CUBE[:3].transpose(1, 2, 0)),
        (("time", "y", "x"), CUBE[:3], CUBE[0, ..., None]),
        (("variable", "y", "x"), CUBE, CUBE.transpose(1, 2, 0)),
        (("dim_0", "dim_1", "dim_2"), CUBE[:3], CUBE[:3].transpose(1, 2, 0)),
    ],
)
def test_names_say_which_axis_is_which(tmp_path, version, names, data, right) -> None:
    """Zarr 3's dimension names and xarray's in Zarr 2 decide; names of no meaning leave the guess.

    Oracle: the array itself, transposed by hand.
    """
    source = open_source(_array(tmp_path / "a.zarr", data, names, version))
    assert (source.size, source.bands) == ((120, 90), right.shape[2])
    np.testing.assert_array_equal(_whole(source), right)
    again = open_reference(source.reference)
    np.testing.assert_array_equal(_whole(again), right)


def test_axes_without_x_or_y_are_named_in_the_error(tmp_path) -> None:
    """An array with a y alone is no image; the line says what its axes are called."""
    path = _array(tmp_path / "a.zarr", CUBE, ("y", "lines", "samples"), 3)
    with pytest.raises(SourceError, match=r"dimensions y, lines, samples, .* rename"):
        open_source(path)


def test_only_what_was_read_wrongly_is_another_image(tmp_path) -> None:
    """Names that say what was guessed change no fingerprint; others do."""

    def content(path: Path) -> str:
        return zarrstore._fingerprint(str(path))

    as_guessed = _array(tmp_path / "a.zarr", CUBE[:3], ("c", "y", "x"), 3)
    assert open_source(as_guessed).fingerprint == content(as_guessed)
    otherwise = _array(tmp_path / "b.zarr", CUBE, ("band", "y", "x"), 3)
    assert open_source(otherwise).fingerprint != content(otherwise)


def _image(
    parent: Any, path: str, levels: list[np.ndarray], version: str, transformed: list[list[Any]]
) -> dict[str, Any]:
    """Put levels into a group, and return what describes them."""
    group = parent.require_group(path) if path else parent
    axes: list[dict[str, str]] = [{"name": "y", **SPACE}, {"name": "x", **SPACE}]
    if levels[0].ndim == 3:
        axes.insert(0, {"name": "c", "type": "channel"})
    datasets = []
    for number, (level, told) in enumerate(zip(levels, transformed, strict=True)):
        chunks = tuple(min(64, n) for n in level.shape)
        group.create_array(f"s{number}", data=level, chunks=chunks)
        datasets.append({"path": f"s{number}", "coordinateTransformations": told})
    image: dict[str, Any] = {"axes": axes, "datasets": datasets}
    if version == "0.6":
        image = {"coordinateSystems": [{"name": "physical", "axes": axes}], "datasets": datasets}
        for dataset in datasets:
            steps = dataset["coordinateTransformations"]
            dataset["coordinateTransformations"] = [
                {"type": "sequence", "transformations": steps, "output": "physical"}
            ]
    said = {"version": version, "multiscales": [image]}
    group.attrs.update({"multiscales": [image]} if version == "0.4" else {"ome": said})
    return image


def _root(path: Path, version: str) -> Any:
    return zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
@pytest.mark.parametrize("translated", [True, False])
def test_levels_lie_where_the_store_declares(tmp_path, version, translated) -> None:
    """A level whose sides were rounded down lies by its scale, not by the ratio of the sizes.

    Each level halves the one before and drops the last odd row and column, so pixel i of level n
    covers pixels i·2ⁿ to (i + 1)·2ⁿ of the full resolution (NGFF 0.4, coordinateTransformations).
    """
    levels = [np.zeros((1023, 1023), np.uint8)]
    levels[0][992:1008, 976:992] = 255
    for _ in range(4):
        n = levels[-1].shape[0] // 2
        levels.append(levels[-1][: 2 * n, : 2 * n].reshape(n, 2, n, 2).mean((1, 3)).astype("u1"))
    transformed = [
        [{"type": "scale", "scale": [0.5 * 2**n] * 2}]
        + [{"type": "translation", "translation": [0.25 * (2**n - 1)] * 2}] * translated
        for n in range(5)
    ]
    path = tmp_path / "cells.zarr"
    _image(_root(path, version), "", levels, version, transformed)
    source = open_source(path)
    assert source.metadata.mpp == (0.5, 0.5)
    seen = source.read(Box(960, 960, 1008, 1024 - 16), 1 / 16)[..., 0]
    expected = np.zeros((3, 3), np.uint8)
    expected[2, 1] = 255
    np.testing.assert_array_equal(seen, expected)
    edge = source.read(Box(991, 991, 1023, 1023), 1 / 16)  # past the level's last pixel
    assert edge.shape == (2, 2, 1)
    assert source.thumbnail(64).shape[:2] == (64, 64)
    assert source.fingerprint != zarrstore._fingerprint(str(path))


def test_levels_that_cover_the_image_keep_their_fingerprint(tmp_path) -> None:
    """Scales that say what the sizes say change nothing."""
    levels = [CUBE[0, :64, :64], CUBE[0, :32, :32]]
    scales = [[{"type": "scale", "scale": [2.0**n] * 2}] for n in range(2)]
    path = tmp_path / "cells.zarr"
    _image(_root(path, "0.5"), "", levels, "0.5", scales)
    source = open_source(path)
    assert source.fingerprint == zarrstore._fingerprint(str(path))
    np.testing.assert_array_equal(source.read(Box(0, 0, 64, 64), 0.5)[..., 0], levels[1])


def test_a_level_that_begins_elsewhere(tmp_path) -> None:
    """A translation is that of the first pixel's centre: every second pixel, from the second on."""
    base = RNG.integers(0, 255, (64, 64), dtype=np.uint8)
    told = [
        [{"type": "scale", "scale": [1.0, 1.0]}],
        [
            {"type": "scale", "scale": [2.0, 2.0]},
            {"type": "translation", "translation": [1.5, 1.5]},
        ],
    ]
    path = tmp_path / "cells.zarr"
    _image(_root(path, "0.5"), "", [base, base[2::2, 2::2]], "0.5", told)
    seen = open_source(path).read(Box(1, 1, 63, 63), 0.5)[..., 0]
    np.testing.assert_array_equal(seen, base[2::2, 2::2])


COLOUR = [CUBE[:3]]
ONE = [[{"type": "scale", "scale": [1, 0.5, 0.5]}]]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("series", [["0"], ["second", "first"], None])
def test_a_bioformats2raw_folder_is_its_first_image(tmp_path, version, series) -> None:
    """The root that the converter writes opens as the first of its series (layout 3)."""
    path = tmp_path / "slide.zarr"
    root = _root(path, version)
    layout = {"bioformats2raw.layout": 3}
    root.attrs.update(layout if version == "0.4" else {"ome": {"version": version, **layout}})
    for number, name in enumerate(series or ["0"]):
        _image(root, name, [COLOUR[0] + number], version, ONE)
    if series:
        described = {"series": series}
        ome = root.create_group("OME")
        ome.attrs.update(described if version == "0.4" else {"ome": described})
    source = open_source(path)
    assert (source.size, source.bands, source.metadata.mpp) == ((120, 90), 3, (0.5, 0.5))
    np.testing.assert_array_equal(_whole(source), COLOUR[0].transpose(1, 2, 0))
    several = [note for note in source.metadata.notes if "holds 2 images" in note]
    assert len(several) == (len(series or ["0"]) > 1)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_is_its_first_field(tmp_path, version) -> None:
    """A plate, and a well of it, open as the first field; a note names the others."""
    path = tmp_path / "plate.zarr"
    root = _root(path, version)
    plate = {"wells": [{"path": "A/1"}, {"path": "B/2"}]}
    root.attrs.update({"plate": plate} if version == "0.4" else {"ome": {"plate": plate}})
    for well in ("A/1", "B/2"):
        group = root.require_group(well)
        fields = {"images": [{"path": "0"}, {"path": "1"}]}
        group.attrs.update({"well": fields} if version == "0.4" else {"ome": {"well": fields}})
        for field in ("0", "1"):
            _image(group, field, COLOUR, version, ONE)
    source = open_source(path)
    np.testing.assert_array_equal(_whole(source), COLOUR[0].transpose(1, 2, 0))
    assert any("holds 4 images; this is A/1/0" in note for note in source.metadata.notes)
    assert open_source(path / "B" / "2").metadata.mpp == (0.5, 0.5)


def test_the_one_array_beside_coordinates_is_the_image(tmp_path) -> None:
    """A store of xarray's with one variable opens as that; its coordinates are no images."""
    root = zarr.open_group(str(tmp_path / "scene.zarr"), mode="w")
    for name, length in (("x", 120), ("y", 90)):
        root.create_array(name, data=np.arange(length, dtype=float), dimension_names=[name])
    data = CUBE[:4]
    root.create_array("reflectance", data=data, dimension_names=("band", "y", "x"))
    np.testing.assert_array_equal(
        _whole(open_source(tmp_path / "scene.zarr")), data.transpose(1, 2, 0)
    )


@pytest.mark.parametrize("suffix", [".ozx", ".zarr.zip"])
def test_a_zipped_store_opens(tmp_path, suffix) -> None:
    """An OME-Zarr in one zip file (NGFF RFC-9) is read as the folder is, here and on a worker."""
    folder = tmp_path / "cells.zarr"
    _image(_root(folder, "0.5"), "", COLOUR, "0.5", ONE)
    path = tmp_path / f"cells{suffix}"
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder))
    source = open_source(path)
    np.testing.assert_array_equal(_whole(source), COLOUR[0].transpose(1, 2, 0))
    assert source.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    again = open_reference(source.reference)
    np.testing.assert_array_equal(_whole(again), _whole(source))


@pytest.mark.parametrize(
    ("fill", "said", "dtype", "right"),
    [
        (-9999.0, {"_FillValue": -9999.0}, "float32", -9999.0),
        (0, {"_FillValue": -1}, "int16", -1.0),
        (0, {"missing_value": 7}, "uint16", 7.0),
        (65535, {}, "uint16", 65535.0),
        (0, {"_FillValue": 0}, "uint16", 0.0),
        (0, {}, "uint16", None),
        (255, {}, "uint8", None),
        (255, {"_FillValue": 255}, "uint8", 255.0),
        (float("nan"), {}, "float32", None),
    ],
)
def test_the_fill_value_is_no_data(tmp_path, fill, said, dtype, right) -> None:
    """What is declared as fill value is no data; a 0 that nobody declared, or a background, is not.

    Rule: CF conventions 2.5.1, and the fill value of Zarr for what was never written.
    """
    path = tmp_path / "heights.zarr"
    size: dict[str, Any] = {"shape": (64, 64), "chunks": (32, 32), "dtype": dtype}
    array = zarr.create_array(str(path), fill_value=fill, attributes=said, **size)
    array[:32, :32] = 9
    assert open_source(path).metadata.nodata == right


@pytest.mark.parametrize("dtype", ["int16", "uint8"])
def test_a_fill_value_changes_the_keys_of_shrunk_tiles_alone(tmp_path, dtype) -> None:
    """Stored values at full size were right without it, and so was what 8-bit pictures show."""
    path = tmp_path / "a.zarr"
    size: dict[str, Any] = {"shape": (64, 64), "chunks": (32, 32), "dtype": dtype}
    zarr.create_array(str(path), fill_value=9, attributes={"_FillValue": 9}, **size)
    source = open_source(path)
    assert source.metadata.nodata == 9
    assert source.fingerprint == zarrstore._fingerprint(str(path))
    options = tv.sources.read_options(source, dtype="raw")
    assert "resampled" not in options.identity(1.0)
    assert options.identity(0.5).get("resampled") == ("no data" if dtype == "int16" else None)


def test_scales_that_shrink_where_levels_do_are_not_believed(tmp_path) -> None:
    """A coarser level has larger pixels; a store that says otherwise is read by its sizes."""
    levels = [np.arange(256 * 256, dtype="u2").reshape(256, 256)[::n, ::n] for n in (1, 2, 4)]
    said = [[{"type": "scale", "scale": [n, n]}] for n in (4, 2, 1)]
    _image(_root(tmp_path / "a.zarr", "0.4"), "", levels, "0.4", said)
    source = open_source(tmp_path / "a.zarr")
    np.testing.assert_array_equal(_whole(source)[..., 0], levels[0])


def test_fill_values_do_not_set_the_stretch(tmp_path) -> None:
    """Valid heights of 10 to 20 span 0 to 255 for an 8-bit model, whatever was never written."""
    path = tmp_path / "heights.zarr"
    size: dict[str, Any] = {"shape": (300, 400), "chunks": (64, 64), "dtype": "float32"}
    array = zarr.create_array(str(path), fill_value=-9999.0, **size)
    valid = np.linspace(10, 20, 192 * 192, dtype="float32").reshape(192, 192)
    array[64:256, 64:256] = valid
    source = open_source(path)
    options = tv.sources.read_options(source)
    low, high = np.percentile(valid, [1, 99])
    assert options.stretch[0] == pytest.approx((low, high), abs=0.05)


def test_declared_scale_and_offset(tmp_path) -> None:
    """CF's scale_factor and add_offset are the scaling of ``dtype="scaled"``."""
    said = {"scale_factor": 0.1, "add_offset": -5.0, "_FillValue": 0}
    stored = np.arange(64 * 64, dtype="uint16").reshape(64, 64)
    path = tmp_path / "sst.zarr"
    zarr.create_array(str(path), data=stored, attributes=said)
    source = open_source(path)
    options = tv.sources.read_options(source, dtype="scaled")
    seen = tv.sources.read_pixels(source, Box(0, 0, 64, 64), 1.0, options)[..., 0]
    expected = np.where(stored == 0, np.nan, stored * 0.1 - 5)
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_a_sparse_scene_opens(tmp_path) -> None:
    """A few bytes for billions of pixels is a sparse store, and reads as one."""
    path = tmp_path / "scene.zarr"
    size: dict[str, Any] = {"shape": (60_000, 60_000), "chunks": (1024, 1024), "dtype": "uint8"}
    array = zarr.create_array(str(path), fill_value=0, **size)
    array[30_000:30_100, 30_000:30_100] = 255
    source = open_source(path)
    seen = source.read(Box(29_990, 29_990, 30_010, 30_010))[..., 0]
    assert (source.size, int(seen[0, 0]), int(seen[15, 15])) == ((60_000, 60_000), 0, 255)


def test_one_huge_chunk_is_staged(tmp_path) -> None:
    """A store in one chunk is decoded once, as a TIFF in one strip is; chunks of tiles are not."""
    data = RNG.integers(0, 60_000, (4096, 4096)).astype("u2")
    stored: dict[str, Any] = {"data": data, "compressors": None}
    zarr.create_array(str(tmp_path / "one.zarr"), chunks=(4096, 4096), **stored)
    zarr.create_array(str(tmp_path / "tiles.zarr"), chunks=(1024, 1024), **stored)
    one, tiles = (open_source(tmp_path / name) for name in ("one.zarr", "tiles.zarr"))
    assert (one.is_staged, tiles.is_staged) == (True, False)
    box = Box(1000, 2000, 1400, 2300)
    np.testing.assert_array_equal(one.read(box), tiles.read(box))
    again = open_reference(one.reference)
    assert again.is_staged and np.array_equal(again.read(box), tiles.read(box))
    for source in (one, again):
        source.close()


def test_planes_are_pages(tmp_path) -> None:
    """Of further axes each combination is a page, the last axis fastest; the first is the image."""
    data = RNG.integers(0, 255, (2, 3, 40, 50), dtype=np.uint8)
    path = _array(tmp_path / "stack.zarr", data, ("t", "z", "y", "x"), 3)
    source = open_source(path)
    assert source.metadata.planes == (("t", 2), ("z", 3))
    assert source.metadata.frames == 6
    named = tv.pages(path)
    for page, plane in zip(named, data.reshape(6, 40, 50), strict=True):
        np.testing.assert_array_equal(_whole(open_source(page))[..., 0], plane)
    assert len({open_source(page).fingerprint for page in named}) == 6
    with pytest.raises(SourceError, match="has 6 planes, counted from 1; there is no 7"):
        open_source(path, page=7)
