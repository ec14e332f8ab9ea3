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


def test_a_mask_that_changes_is_noticed(server: RangeServer, scene: Path) -> None:
    """A worker that opens the image later does not mix two masks."""
    _mask(scene)
    url = _put(server, scene)
    reference = pickle.dumps(open_source(url).reference)
    server.files["/maps/scene.tif.msk"] += b"more"
    with pytest.raises(SourceError, match="has changed since"):
        open_reference(pickle.loads(reference))
