"""What GDAL keeps beside a TIFF on a web server: masks, overviews, bands and place (GDAL 3.10)."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from range_server import RangeServer, range_server

from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source, read_options
from tilevision.sources.remote import remotefile

rasterio = pytest.importorskip("rasterio")

WIDTH, HEIGHT = 320, 192
WHOLE = Box(0, 0, WIDTH, HEIGHT)
Y, X = np.mgrid[:HEIGHT, :WIDTH]
VALID = (X >= 100) & (Y < 120)

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")


@pytest.fixture
def server() -> Iterator[RangeServer]:
    """A web server on this machine."""
    with range_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotefile, "_PAUSE", 0.0)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A tiled TIFF that says nothing of place, mask or levels."""
    path = tmp_path / "scene.tif"
    how = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    profile = {"width": WIDTH, "height": HEIGHT, "count": 1, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", **profile, **how) as dataset:
        dataset.write((50 + X * 3 + Y).astype("uint16"), 1)
    return path


def _mask(path: Path) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(VALID)


def _overviews(path: Path) -> None:
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.nearest)


def _bands(path: Path) -> None:
    text = "<NoDataValue>200</NoDataValue><Scale>0.5</Scale><Description>heights</Description>"
    said = f'<PAMDataset><PAMRasterBand band="1">{text}</PAMRasterBand></PAMDataset>'
    path.with_name("scene.tif.aux.xml").write_text(said)


def _place(path: Path) -> None:
    path.with_suffix(".tfw").write_text("10\n0\n0\n-10\n404005\n3285995\n")
    path.with_name("scene.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:32617</SRS></PAMDataset>")


def _put(server: RangeServer, path: Path) -> str:
    return f"{server.folder('maps', path.parent)}/{path.name}"


@pytest.mark.parametrize("add", [_mask, _overviews, _bands, _place])
def test_what_lies_beside_a_url_is_read_as_beside_a_file(
    server: RangeServer, scene: Path, add
) -> None:
    """Metadata, pixels of every scale and missing data are the local file's; on a worker too."""
    add(scene)
    near, far = open_source(scene), open_source(_put(server, scene))
    assert far.metadata == near.metadata
    server.forget()
    worker = open_reference(pickle.loads(pickle.dumps(far.reference)))
    assert len(server.asked) <= 6
    assert worker.fingerprint == far.fingerprint
    for source in (far, worker):
        for scale in (1.0, 0.5, 0.25):
            np.testing.assert_array_equal(source.read(WHOLE, scale), near.read(WHOLE, scale))
        share = near.data_share(100)
        if share is None:
            assert source.data_share(100) is None
        else:
            np.testing.assert_array_equal(source.data_share(100), share)
    for number in (1.0, 0.5):
        of_both = [read_options(one, dtype="raw").identity(number) for one in (near, far)]
        assert of_both[0].keys() == of_both[1].keys()


def test_nothing_beside_a_url_costs_four_short_requests(server: RangeServer, scene: Path) -> None:
    """Once, by who opens it: workers ask for nothing that is not there."""
    url = _put(server, scene)
    source = open_source(url)
    assert sorted(one.path for one in server.asked if one.status == 404) == [
        *("/maps/scene.tfw", "/maps/scene.tif.aux.xml", "/maps/scene.tif.msk"),
        "/maps/scene.tif.ovr",
    ]
    server.forget()
    open_reference(pickle.loads(pickle.dumps(source.reference))).read(WHOLE)
    assert all(one.status < 400 for one in server.asked)
    plain = open_source(scene)
    assert source.metadata == plain.metadata


def test_a_server_in_trouble_beside_the_file_costs_a_note(server: RangeServer, scene: Path) -> None:
    """The image opens; the note says what is not known."""
    url = _put(server, scene)
    server.fault = lambda number, path: 503 if path.endswith(".msk") else None
    source = open_source(url)
    assert any(
        "Whether a mask or overviews lie beside it is not known" in note
        for note in source.metadata.notes
    )
    np.testing.assert_array_equal(source.read(WHOLE), open_source(scene).read(WHOLE))


def test_pages_that_stand_for_what_is_missing_are_no_files(
    server: RangeServer, scene: Path
) -> None:
    """Some servers answer 200 with a page for whatever they have not."""
    for name in ("scene.tif.aux.xml", "scene.tif.msk", "scene.tif.ovr", "scene.tfw"):
        server.put(f"maps/{name}", b"<!DOCTYPE html><html><body>Sorry</body></html>")
    source = open_source(_put(server, scene))
    assert source.metadata == open_source(scene).metadata
    assert "beside" not in source.reference.options  # nor do they travel with the tiles


def test_a_mask_that_changes_is_noticed(server: RangeServer, scene: Path) -> None:
    """A worker that opens the image later does not mix two masks."""
    _mask(scene)
    url = _put(server, scene)
    reference = pickle.dumps(open_source(url).reference)
    server.files["/maps/scene.tif.msk"] += b"more"
    with pytest.raises(SourceError, match="has changed since"):
        open_reference(pickle.loads(reference))


def _written(folder: Path, name: str) -> Path:
    """Write a small picture of a format that has no windows elsewhere, or a TIFF in one strip."""
    path = folder / name
    driver = {".jpg": "JPEG", ".PNG": "PNG", ".jp2": "JP2OpenJPEG", ".tif": "GTiff"}[path.suffix]
    profile = {"width": WIDTH, "height": HEIGHT, "count": 1, "dtype": "uint8"}
    how = {"compress": "deflate", "blockysize": HEIGHT} if driver == "GTiff" else {}
    with rasterio.open(path, "w", driver=driver, **profile, **how) as dataset:
        dataset.write((50 + X // 3 + Y % 90).astype("uint8"), 1)
    for written in folder.glob("*.aux.xml"):
        written.unlink()
    return path


@pytest.mark.parametrize(
    ("name", "world"), [("a.jpg", "jgw"), ("b.PNG", "PGW"), ("c.jp2", "wld"), ("d.tif", "tfw")]
)
def test_what_lies_beside_a_download_is_read_as_beside_a_file(
    server: RangeServer, tmp_path: Path, name: str, world: str
) -> None:
    """World file, ``.aux.xml`` and ``.msk`` of GDAL 3.10, with the query that an address needs."""
    (folder := tmp_path / "maps").mkdir()
    path = _written(folder, name)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(VALID)
    path.with_suffix(f".{world}").write_text("10\n0\n0\n-10\n404005\n3285995\n")
    band = '<PAMRasterBand band="1"><NoDataValue>60</NoDataValue></PAMRasterBand>'
    aux = f"<PAMDataset><SRS>EPSG:32617</SRS>{band}</PAMDataset>"
    path.with_name(f"{name}.aux.xml").write_text(aux)
    server.secret, server.ranges = "sesame-0123", path.suffix != ".tif"  # which needs no download
    url = f"{_put(server, path)}?token={server.secret}"
    near, far = open_source(path), open_source(url)
    assert far.metadata.crs == "EPSG:32617"
    assert (near.metadata.transform, near.metadata.nodata) == (
        (10.0, 0.0, 404000.0, 0.0, -10.0, 3286000.0),
        60.0,
    )
    for fact in ("crs", "transform", "nodata", "band_nodata", "levels"):
        assert getattr(far.metadata, fact) == getattr(near.metadata, fact)
    reference = pickle.loads(pickle.dumps(far.reference))
    far.close()
    worker = open_reference(reference)
    assert worker.fingerprint == far.fingerprint
    for scale in (1.0, 0.5):
        np.testing.assert_array_equal(worker.read(WHOLE, scale), near.read(WHOLE, scale))
    np.testing.assert_array_equal(worker.data_share(100), near.data_share(100))
    worker.close()


def test_overviews_beside_a_download_are_its_levels(server: RangeServer, tmp_path: Path) -> None:
    """As beside the same file on a disk."""
    server.ranges = False
    (folder := tmp_path / "maps").mkdir()
    path = _written(folder, "d.tif")
    _overviews(path)
    near, far = open_source(path), open_source(_put(server, path))
    assert far.metadata.levels == near.metadata.levels != ((WIDTH, HEIGHT),)
    np.testing.assert_array_equal(far.read(WHOLE, 0.25), near.read(WHOLE, 0.25))
    assert read_options(far).resampled == read_options(near).resampled


def test_what_lies_beside_a_download_is_asked_for_in_four_requests(
    server: RangeServer, tmp_path: Path
) -> None:
    """Nothing there is normal, and leaves identity and metadata; arrays and PDF have none."""
    (folder := tmp_path / "maps").mkdir()
    path = _written(folder, "a.jpg")
    np.save(folder / "e.npy", np.zeros((40, 60, 3), np.uint8))
    source = open_source(_put(server, path))
    assert sorted(one.path for one in server.asked if one.status == 404) == [
        *("/maps/a.jgw", "/maps/a.jpg.aux.xml", "/maps/a.jpg.msk", "/maps/a.wld")
    ]
    assert source.fingerprint == open_source(path).fingerprint
    server.forget()
    open_source(f"{server.url}/maps/e.npy")
    assert all(one.path == "/maps/e.npy" for one in server.asked)


def test_a_mask_beside_a_download_that_changes_is_noticed(
    server: RangeServer, tmp_path: Path
) -> None:
    """A worker on another host does not read another mask than the client."""
    (folder := tmp_path / "maps").mkdir()
    path = _written(folder, "b.PNG")
    _mask(path)
    source = open_source(_put(server, path))
    reference = pickle.dumps(source.reference)
    source.close()
    server.files["/maps/b.PNG.msk"] += b"more"
    with pytest.raises(SourceError, match=r"b\.PNG\.msk has changed since"):
        open_reference(pickle.loads(reference))
