"""Maps as files: each opened by the library that people read it with."""

from __future__ import annotations

import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from inline_tiles import Inline, inline_runs  # noqa: F401 - fixtures
from matplotlib.text import Text

import tilevision as tv
from tilevision.exporting.maps import inorder, mapgeotiff
from tilevision.exporting.maps.mapfile import MapFile
from tilevision.payloads import StoredArray
from tilevision.rasters import blending
from tilevision.rasters.mapareas import _by_row
from tilevision.rasters.mapwords import map_told
from tilevision.rasterspec import STEPS

rasterio = pytest.importorskip("rasterio")
Make = Callable[..., Inline]
HEIGHT, WIDTH = 700, 900
PLACE = (0.5, 0.0, 420_000.0, 0.0, -0.5, 5_600_000.0)
NAMES = ("water", "tree & <bush>", "road")


def shares(pixels: np.ndarray) -> np.ndarray:
    raw = np.stack([pixels[..., 0], 255 - pixels[..., 0], np.full(pixels.shape[:2], 60)]) + 1.0
    return raw / raw.sum(axis=0)


def height(pixels: np.ndarray) -> np.ndarray:
    values = pixels[..., 0] / 7.0
    values[:3] = np.nan
    return values


MODELS = {
    "probabilities": tv.model(shares, returns="probabilities", classes=NAMES),
    "values": tv.model(height, returns="values", unit="m"),
}


@pytest.fixture
def result(inline: Make, tmp_path: Path) -> Callable[..., Any]:
    """Return what makes the result of a model on a GeoTIFF or a slide with microns."""
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 255, (HEIGHT // 20, WIDTH // 20))
    pixels = np.kron(coarse, np.ones((20, 20))).astype(np.uint8)
    scene, slide = tmp_path / "scene.tif", tmp_path / "slide.tif"
    with rasterio.open(
        scene,
        "w",
        driver="GTiff",
        width=WIDTH,
        height=HEIGHT,
        count=3,
        dtype="uint8",
        crs="EPSG:32633",
        transform=rasterio.Affine(*PLACE),
    ) as out:
        out.write(np.stack([pixels] * 3))
    tifffile.imwrite(
        slide,
        np.stack([pixels] * 3, axis=-1),
        photometric="rgb",
        tile=(256, 256),
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
    )

    def make(kind: str = "probabilities", image: str = "scene", **given: Any) -> Any:
        grid = given.pop("grid", tv.Grid.by_tile(256, 0.2))
        where = {"scene": scene, "slide": slide}[image]
        return Inline(where, MODELS[kind], grid=grid, **given).conduct()

    return make


def test_a_geotiff_of_classes_is_read_with_place_colours_and_names(
    result: Callable[..., Any], tmp_path: Path
) -> None:
    """By rasterio: system, transform, no data, overviews of classes that exist, colour table."""
    made = result()
    path = made.save(tmp_path / "map.tif")
    whole = np.asarray(made.raster)
    with rasterio.open(path) as read:
        assert read.driver == "GTiff" and read.crs.to_epsg() == 32633
        assert tuple(read.transform)[:6] == PLACE
        assert read.nodata == 255 and read.dtypes == ("uint8",)
        assert read.profile["tiled"] and read.block_shapes == [(512, 512)]
        np.testing.assert_array_equal(read.read(1), whole)
        assert read.colormap(1)[1] == tuple(made.raster.colours[1].tolist())
        assert read.overviews(1) == [2, 4]
        small = read.read(1, out_shape=(HEIGHT // 4, WIDTH // 4))
        assert set(np.unique(small)) <= set(np.unique(whole))
        told = json.loads(read.tags()["TILEVISION"])
        assert told["classes"] == dict(zip("012", NAMES, strict=True))
        assert read.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        at = (PLACE[2] + 0.5 * 300.5, PLACE[5] - 0.5 * 200.5)
        assert next(read.sample([at]))[0] == whole[200, 300]
    beside = ET.parse(tmp_path / "map.tif.aux.xml").getroot()
    assert [one.text for one in beside.iter("Category")] == list(NAMES)
    rows = [[cell.text for cell in row] for row in beside.iter("Row")]
    assert [row[:2] for row in rows] == [[str(n), name] for n, name in enumerate(NAMES)]
    assert not list(tmp_path.glob(".*")) and len(list(tmp_path.glob("map*"))) == 2


def test_a_geotiff_of_probabilities_says_its_scale(
    result: Callable[..., Any], tmp_path: Path
) -> None:
    """A band a class, 253 steps."""
    made = result()
    with rasterio.open(made.save(tmp_path / "p.tif", layer="probabilities")) as read:
        assert read.descriptions == NAMES and read.scales == pytest.approx((1 / STEPS,) * 3)
        right = np.moveaxis(np.asarray(made.raster.probabilities), -1, 0)
        np.testing.assert_allclose(read.read() * read.scales[0], right, atol=1e-6)
    assert not (tmp_path / "p.tif.aux.xml").exists()


def test_a_map_without_a_place_is_written_without_a_warning(
    result: Callable[..., Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """A slide has microns, which the file has as its resolution."""
    path = result(image="slide").save(tmp_path / "slide-map.tif")
    assert not [one for one in recwarn if "geotransform" in str(one.message)]
    assert tv.open_source(path).metadata.mpp == pytest.approx((0.25, 0.25))


def test_values_are_floats_with_nan(result: Callable[..., Any], tmp_path: Path) -> None:
    made = result("values")
    with rasterio.open(made.save(tmp_path / "v.tif")) as read:
        assert read.dtypes == ("float32",) and np.isnan(read.nodata) and read.units == ("m",)
        np.testing.assert_array_equal(read.read(1), np.asarray(made.raster))
        assert np.isnan(read.read(1)[:3]).all()


@pytest.mark.parametrize("layer", ["classes", "probabilities"])
def test_an_ome_tiff_is_a_pyramid_with_microns(
    result: Callable[..., Any], tmp_path: Path, layer: str
) -> None:
    """By tifffile: levels by halves, channel names, µm, class names."""
    made = result(image="slide")
    path = made.save(tmp_path / "map.ome.tif", layer=layer)
    k = 3 if layer == "probabilities" else 1
    lazy = made.raster if layer == "classes" else made.raster.probabilities
    with tifffile.TiffFile(path) as read:
        assert read.is_ome and read.series[0].axes.endswith("YX")
        levels = [level.asarray().reshape(k, *level.shape[-2:]) for level in read.series[0].levels]
        assert [level.shape[1:] for level in levels] == [(700, 900), (350, 450), (175, 225)]
        right = np.asarray(lazy).reshape(HEIGHT, WIDTH, k)
        scale = STEPS if layer == "probabilities" else 1
        np.testing.assert_allclose(np.moveaxis(levels[0], 0, -1), right * scale, atol=1e-3)
        assert set(np.unique(levels[-1])) <= set(np.unique(levels[0])) or layer != "classes"
        said = tifffile.xml2dict(read.ome_metadata)["OME"]
        pixels = said["Image"]["Pixels"]
        assert pixels["PhysicalSizeX"] == 0.25 and pixels["PhysicalSizeXUnit"] == "µm"
        channels = pixels["Channel"] if k > 1 else [pixels["Channel"]]
        named = NAMES if k > 1 else ("class",)
        assert tuple(one["Name"] for one in channels) == named
        assert NAMES[0] in read.ome_metadata
    again = tv.open_source(path)
    assert again.size == (WIDTH, HEIGHT) and again.metadata.mpp == (0.25, 0.25)


def test_an_ome_zarr_is_sharded_and_says_its_axes(
    result: Callable[..., Any], tmp_path: Path
) -> None:
    """By zarr, and by our own reader: levels, scales in µm, shards."""
    zarr = pytest.importorskip("zarr")
    made = result(image="slide")
    path = made.save(tmp_path / "map.ome.zarr")
    group = zarr.open_group(str(path), mode="r")
    ome = group.attrs["ome"]
    (multiscale,) = ome["multiscales"]
    assert ome["version"] == "0.5" and [axis["name"] for axis in multiscale["axes"]] == list("cyx")
    np.testing.assert_array_equal(group["0"][0], np.asarray(made.raster))
    assert group["0"].shards == (1, 2048, 2048) and group["0"].chunks == (1, 512, 512)
    scales = [one["coordinateTransformations"][0]["scale"] for one in multiscale["datasets"]]
    assert scales == [[1, 0.25, 0.25], [1, 0.5, 0.5], [1, 1, 1]]
    np.testing.assert_array_equal(group["1"][0], np.asarray(made.raster)[::2, ::2])
    again = tv.open_source(path)
    assert again.size == (WIDTH, HEIGHT) and again.metadata.mpp == (0.25, 0.25)
    made.save(path)  # replaces what it wrote


# Readers of others --------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["classes", "probabilities"])
@pytest.mark.parametrize("image", ["scene", "slide"])
def test_a_geotiff_is_cloud_optimised(
    result: Callable[..., Any], tmp_path: Path, image: str, layer: str
) -> None:
    """By the validator of rio-cogeo: no errors, no warnings."""
    cogeo = pytest.importorskip("rio_cogeo", reason="rio-cogeo is not installed")
    valid, errors, warned = cogeo.cog_validate(
        result(image=image).save(tmp_path / "map.tif", layer=layer), strict=True, quiet=True
    )
    assert (valid, errors, warned) == (True, [], [])


@pytest.mark.parametrize("layer", ["classes", "probabilities"])
def test_an_ome_zarr_keeps_to_the_specification(
    result: Callable[..., Any], tmp_path: Path, layer: str
) -> None:
    """By ome-zarr-models, which checks metadata and arrays of OME-Zarr 0.5 against each other."""
    zarr = pytest.importorskip("zarr")
    models = pytest.importorskip(
        "ome_zarr_models.v05.image", reason="ome-zarr-models is not installed"
    )
    path = result(image="slide").save(tmp_path / "map.ome.zarr", layer=layer)
    image = models.Image.from_zarr(zarr.open_group(str(path), mode="r"))
    (multiscale,) = image.ome_attributes.multiscales
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert [one.path for one in multiscale.datasets] == ["0", "1", "2"]


def test_an_ome_tiff_is_opened_by_openslide(result: Callable[..., Any], tmp_path: Path) -> None:
    """It reads the whole map of a single plane; of pyramids in sub-images it knows nothing."""
    openslide = pytest.importorskip("openslide", reason="OpenSlide is not installed")
    made = result(image="slide")
    with openslide.OpenSlide(made.save(tmp_path / "map.ome.tif")) as read:
        assert read.dimensions == (WIDTH, HEIGHT)
        grey = np.asarray(read.read_region((100, 200), 0, (300, 250)))[..., 0]
    np.testing.assert_array_equal(grey, made.raster[200:450, 100:400])


@pytest.mark.parametrize("layer", ["classes", "probabilities"])
def test_a_numpy_file_is_the_array(result: Callable[..., Any], tmp_path: Path, layer: str) -> None:
    made = result()
    read = np.load(made.save(tmp_path / "map.npy", layer=layer), mmap_mode="r")
    lazy = made.raster if layer == "classes" else made.raster.probabilities
    np.testing.assert_array_equal(read, np.asarray(lazy))


def test_a_map_at_half_scale_lies_where_the_image_lies(
    result: Callable[..., Any], tmp_path: Path
) -> None:
    """Pixels are twice as large, the corner is the same."""
    made = result(grid=tv.Grid.by_tile(128, 0.25), resolution=0.5)
    assert made.raster.shape == (HEIGHT // 2, WIDTH // 2)
    with rasterio.open(made.save(tmp_path / "half.tif")) as read:
        assert tuple(read.transform)[:6] == (1.0, 0.0, PLACE[2], 0.0, -1.0, PLACE[5])


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".npy", ".ome.zarr"])
def test_files_are_the_same_whoever_writes_them(
    result: Callable[..., Any], tmp_path: Path, suffix: str
) -> None:
    """Two runs of the same work leave the same bytes in every format, a second apart as well."""
    if suffix == ".ome.zarr":
        pytest.importorskip("zarr")
    files = []
    for number in range(2):
        path = result(image="slide").save(tmp_path / f"{number}{suffix}")
        whole = sorted(path.rglob("*")) if path.is_dir() else [path]
        files.append([one.read_bytes() for one in whole if one.is_file()])
    assert files[0] == files[1]


@pytest.mark.parametrize("layer", ["classes", "probabilities", "values"])
@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".npy", ".ome.zarr"])
def test_threads_and_room_on_the_disk_change_no_byte(
    result: Callable[..., Any],
    tmp_path: Path,
    suffix: str,
    layer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One processor or four; a disk on which what GDAL copies is to be packed, or need not be."""
    if suffix == ".ome.zarr":
        pytest.importorskip("zarr")
    made, files = result("values" if layer == "values" else "probabilities"), []
    for number, (processors, free) in enumerate([(1, 2**40), (4, 2**40), (2, 2**20)]):
        for module in (inorder, mapgeotiff):
            monkeypatch.setattr(module, "processors", lambda most, n=processors: min(most, n))
        monkeypatch.setattr(mapgeotiff, "shutil", SimpleNamespace(disk_usage=_with(free)))
        path = made.save(tmp_path / f"{number}{suffix}", layer=layer)
        whole = sorted(path.rglob("*")) if path.is_dir() else [path]
        files.append([one.read_bytes() for one in whole if one.is_file()])
    assert files[0] == files[1] == files[2]


def _with(free: int) -> Callable[[Path], SimpleNamespace]:
    return lambda _folder: SimpleNamespace(free=free)


def test_a_refusal_is_told_in_the_words_of_the_system(tmp_path: Path) -> None:
    """Not by the name of the draft that GDAL could not make."""
    pytest.importorskip("rasterio")
    from rasterio.errors import RasterioIOError

    from tilevision.exporting.maps.mapgeotiff import _by_the_system

    said = "Attempt to create new tiff file '.m.tif.part' failed: .m.tif.part: Permission denied"
    with (
        pytest.raises(PermissionError, match=r"^\[Errno 13\] Permission denied$"),
        _by_the_system(tmp_path),
    ):
        raise RasterioIOError(said)


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".ome.zarr"])
def test_what_the_file_says_is_seen_while_it_is_written(
    result: Callable[..., Any], tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Areas and disagreement are those that the map finds itself; no block is blended twice."""
    lone, written = result(), result()
    areas, agreement = lone.raster.areas(), lone.raster.agreement
    blended: list[tuple[int, ...]] = []
    blender = type(written.raster._blender)
    classes = blender.classes

    def counted(self: Any, *window: int) -> Any:
        blended.append(window)
        return classes(self, *window)

    monkeypatch.setattr(blender, "classes", counted)
    written.save(tmp_path / f"map{suffix}")
    assert map_told(written.raster) == map_told(lone.raster)
    once = list(blended)
    assert once and len(set(once)) == len(once)
    assert written.raster.areas().equals(areas)
    assert written.raster.agreement.by_depth.tobytes() == agreement.by_depth.tobytes()
    assert str(written.raster.agreement) == str(agreement)
    assert blended == once


@pytest.mark.parametrize("kept", [1, 2**17, 2**30])
def test_a_map_is_written_in_the_same_windows_whatever_their_order(
    result: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """The columns in which they follow one another depend on how many tiles are at hand."""
    monkeypatch.setattr(blending, "KEPT", kept)  # bytes
    raster = result().raster
    assert sorted(raster.path(64)) == sorted(raster.windows(64))


def test_tiles_are_decoded_ahead_of_the_blocks_of_an_ome_zarr(
    result: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread that blends none; so none of the memory of sums is taken twice."""
    monkeypatch.setattr(inorder, "processors", lambda most: min(most, 2))
    made = result()
    blender = type(made.raster._blender)
    seen: dict[str, set[int]] = {"blended": set(), "decoded": set()}

    def noting(what: str, owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def noted(self: Any, *given: Any) -> Any:
            seen[what].add(threading.get_ident())
            return method(self, *given)

        monkeypatch.setattr(owner, name, noted)

    noting("blended", blender, "_cells")
    noting("decoded", StoredArray, "load")
    made.save(tmp_path / "map.ome.zarr")
    assert len(seen["blended"]) == len(seen["decoded"]) == 1
    assert seen["blended"] != seen["decoded"]


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize("settings", [{}, {"thresholds": {"water": 0.7}, "unsure": 0.6}])
def test_classes_beside_shares_are_counted_from_the_same_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, settings: dict[str, Any]
) -> None:
    """Each window is blended once for the file of shares and for what it says of classes."""
    wide = np.random.default_rng(6).integers(0, 255, (40, 1100, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "wide.tif", wide, photometric="rgb")
    grid = tv.Grid.by_tile(128, 0.2)
    made = Inline(tmp_path / "wide.tif", MODELS["probabilities"], grid=grid).conduct()
    if settings:
        made = made.with_(**settings)
    areas = made.with_(**settings).raster.areas()
    blender = type(made.raster._blender)
    asked: list[tuple[int, ...]] = []
    summed = blender._cells

    def noted(self: Any, *window: int) -> Any:
        asked.append(window[:4])
        return summed(self, *window)

    monkeypatch.setattr(blender, "_cells", noted)
    made.save(tmp_path / f"map{suffix}", layer="probabilities")
    assert sorted(asked) == sorted(made.raster.windows())
    assert len(asked) == 2
    assert made.raster.areas().equals(areas)
    assert len(asked) == 2


@pytest.mark.parametrize("shape", [(5, 2040), (3, 2048), (9, 24), (3, 5), (1, 8)])
@pytest.mark.parametrize("most", [3, 12, 250])
def test_classes_of_a_row_are_counted_right_few_or_many(shape: tuple[int, int], most: int) -> None:
    """With and without pixels that are left out; also no data and none."""
    rng = np.random.default_rng(most)
    block = rng.integers(0, most, shape).astype(np.uint8)
    block[0, :3], block[-1, -2:] = 255, 254
    for within in (np.ones(shape, np.bool_), rng.random(shape) < 0.5, np.zeros(shape, np.bool_)):
        right = [
            np.bincount(row[part], minlength=256) for row, part in zip(block, within, strict=True)
        ]
        np.testing.assert_array_equal(_by_row(block, within), right)


@pytest.mark.parametrize(
    "shape", [(2, 64, 600), (1, 7, 9), (3, 1, 300), (1, 601, 1), (1, 2, 70_000)]
)
@pytest.mark.parametrize("kind", ["probabilities", "values"])
def test_a_level_has_the_mean_of_the_pixels_that_have_data(
    result: Callable[..., Any], kind: str, shape: tuple[int, int, int]
) -> None:
    """Of each two by two, the last row and column counted twice; shares to the nearest step."""
    layer = "probabilities" if kind == "probabilities" else None
    made = MapFile(result(kind), layer)
    rng = np.random.default_rng(shape[1])
    planes = rng.integers(0, STEPS, shape).astype(made.dtype)
    for none in (np.zeros(shape, bool), rng.random(shape) < 0.4):
        planes[none] = made.nodata
        high, wide = (side % 2 for side in shape[1:])
        even = np.pad(planes.astype(float), ((0, 0), (0, high), (0, wide)), mode="edge")
        fours = np.stack([even[:, y::2, x::2] for y in (0, 1) for x in (0, 1)])
        fours = np.ma.masked_invalid(np.where(fours == made.nodata, np.nan, fours))
        right = fours.mean(axis=0)
        if kind == "probabilities":
            right = np.floor(right + 0.5)
        found = made.halved(planes)
        assert found.dtype == made.dtype
        np.testing.assert_array_equal(found, right.filled(made.nodata).astype(made.dtype))


def test_what_is_no_map_is_refused(
    result: Callable[..., Any], inline: Make, tmp_path: Path
) -> None:
    made = result("values")
    with pytest.raises(tv.RunError, match="layer is 'classes', and the map has values"):
        made.save(tmp_path / "a.tif", layer="classes")
    with pytest.raises(tv.RunError, match="has values, not probabilities"):
        made.save(tmp_path / "a.npy", layer="probabilities")
    with pytest.raises(tv.RunError, match="give deflate, zstd, lzw"):
        made.save(tmp_path / "a.tif", compress="best")
    bare = inline().conduct()
    assert bare.raster is None
    with pytest.raises(tv.RunError, match="has no map; use"):
        bare.save(tmp_path / "a.tif")
    assert not list(tmp_path.glob("a.*"))


def test_the_summary_says_what_the_map_has(result: Callable[..., Any]) -> None:
    """Shares of classes, and how tiles agree; nobody is told that nothing was found."""
    text = result().summary
    assert "shares gave a map of probabilities (" in text and "found nothing" not in text
    assert "verlapping tiles say the same" in text
    assert "gave a map of values (mean " in result("values").summary


def test_the_methods_say_how_the_map_was_blended(result: Callable[..., Any]) -> None:
    """And speak of no detections where there are none."""
    made = result()
    text = made.methods()
    assert "maps of overlapping tiles were blended with weights that fall" in text
    assert "Detections" not in text
    anew = made.with_(blend="mean", margin=3).methods()
    assert "blended with equal weights, leaving out the outermost 3 pixels" in anew


# Polygons -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [64, 2048])
def test_areas_of_a_class_become_polygons_with_holes(
    result: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, block: int
) -> None:
    """Whatever the blocks: the pixels of each class to the last, in pieces that share edges."""
    from rasterio.features import rasterize
    from shapely.geometry import Polygon
    from skimage.measure import label

    from tilevision.rasters import mappolygons

    monkeypatch.setattr(mappolygons, "_BLOCK", block)
    made = result()
    whole = np.asarray(made.raster)
    outlined = made.to_polygons()
    found = outlined.findings
    pieces = sum(label(whole == n, connectivity=1).max() for n in range(3))
    assert len(found) == pieces and outlined.units.area == "m²"
    shapes = [
        (Polygon(part[0], part[1:]), n)
        for (part,), n in zip(found.polygons, found.class_ids, strict=True)
    ]
    again = rasterize([(shape, n) for shape, n in shapes], whole.shape, fill=255)
    np.testing.assert_array_equal(again, whole)
    assert any(len(part) > 1 for (part,) in found.polygons)
    few = made.to_polygons(min_area=2000)
    assert 0 < len(few.findings) < len(found) and few.areas.min() >= 1990
    saved = json.loads(few.save(tmp_path / "p.geojson").read_text())
    assert len(saved["features"]) == len(few.findings)
    simple = made.to_polygons(simplify=15).findings
    assert sum(len(p[0][0]) for p in simple.polygons) < sum(len(p[0][0]) for p in found.polygons)


def test_a_plot_shows_the_map_in_its_colours(result: Callable[..., Any]) -> None:
    """As a layer over the image, with the classes in the legend."""
    made = result()
    figure = made.plot()
    pictures = [image for axes in figure.axes for image in axes.get_images()]
    right = made.raster.colours[np.asarray(made.raster)]
    assert any(np.array_equal(np.asarray(one.get_array()), right) for one in pictures)
    words = [one.get_text() for axes in figure.axes for one in axes.findobj(Text)]
    words += [one.get_text() for one in figure.findobj(Text)]
    assert any("water" in one for one in words)
    assert any("map of probabilities" in one for one in words)
