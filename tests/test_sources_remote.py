"""Images on a web server: what is fetched, what is noticed, what is told."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from range_server import Asked, RangeServer, range_server

from tilevision.errors import Failure, SourceError, Throttled, TransientError
from tilevision.geometry import Box
from tilevision.sources import open_reference, open_source, pages
from tilevision.sources.addresses import address_of
from tilevision.sources.remote import remotefile
from tilevision.sources.remote.http import WebFile
from tilevision.sources.remote.rangedfile import runs_of
from tilevision.sources.staging.stagingfile import staging_folder

SIDE = 2048


@pytest.fixture
def server() -> Iterator[RangeServer]:
    """A web server on this machine."""
    with range_server() as running:
        yield running


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temp folder of its own, and no waiting between attempts."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(remotefile, "_PAUSE", 0.0)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiled pyramid of noise, deflated: 256 px tiles, three levels."""
    path = tmp_path_factory.mktemp("remote") / "scene.tif"
    pixels = np.random.default_rng(0).integers(0, 64, (SIDE, SIDE, 3), np.uint8)
    options = {"tile": (256, 256), "compression": "zlib", "photometric": "rgb"}
    with tifffile.TiffWriter(path) as tif:
        tif.write(pixels, subifds=2, **options)
        for step in (2, 4):
            tif.write(pixels[::step, ::step], subfiletype=1, **options)
    return path


def stored_bytes(path: Path, box: Box) -> int:
    """Bytes of the tiles that a window of the full resolution touches."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        across = -(-page.imagewidth // page.tilewidth)
        rows = range(int(box.y0) // page.tilelength, -(-int(box.y1) // page.tilelength))
        columns = range(int(box.x0) // page.tilewidth, -(-int(box.x1) // page.tilewidth))
        return sum(page.databytecounts[row * across + column] for row in rows for column in columns)


def test_a_window_costs_the_bytes_of_its_blocks(server: RangeServer, pyramid: Path) -> None:
    """Opening reads the header and one tile; a window its tiles, a row of them by one request."""
    source = open_source(server.put("scene.tif", pyramid))
    block = stored_bytes(pyramid, Box(0, 0, 256, 256))
    nothing_beside = 2 * len(b"not here") + 50
    assert server.sent <= 3 * remotefile.FIRST_BYTES + block + nothing_beside
    assert len(server.asked) <= 8
    box = Box(300, 700, 1324, 1724)
    server.forget()
    pixels = source.read(box)
    assert np.array_equal(pixels, open_source(pyramid).read(box))
    assert server.sent == pytest.approx(stored_bytes(pyramid, box), rel=0.01)
    assert len(server.asked) <= 5
    server.forget()
    assert np.array_equal(source.read(box), pixels)
    assert server.sent == 0  # neighbours share tiles


def test_a_coarse_read_takes_the_coarse_level(server: RangeServer, pyramid: Path) -> None:
    """At a quarter of the scale a quarter of a quarter of the bytes are fetched."""
    source = open_source(server.put("scene.tif", pyramid))
    server.forget()
    whole = Box(0, 0, SIDE, SIDE)
    assert np.array_equal(source.read(whole, 0.25), open_source(pyramid).read(whole, 0.25))
    assert server.sent < stored_bytes(pyramid, whole) / 10


def test_a_worker_fetches_its_own_header_and_blocks(server: RangeServer, pyramid: Path) -> None:
    """A reference is small, opens the same picture elsewhere, and the last ones stay open."""
    source = open_source(server.put("scene.tif", pyramid))
    blob = pickle.dumps(source.reference)
    assert len(blob) < 1000
    server.forget()
    there = open_reference(pickle.loads(blob))
    assert there.fingerprint == source.fingerprint
    assert open_reference(pickle.loads(blob)) is there
    assert np.array_equal(there.thumbnail(200), open_source(pyramid).thumbnail(200))
    assert server.sent < len(server.files["/scene.tif"]) / 4


def test_threads_read_the_same_pixels(server: RangeServer, pyramid: Path) -> None:
    """Several threads may read one source at once."""
    source, local = open_source(server.put("scene.tif", pyramid)), open_source(pyramid)
    boxes = [Box(x, y, x + 600, y + 600) for x in (0, 500, 1400) for y in (100, 900, 1400)]
    wrong = []

    def read(box: Box) -> None:
        if not np.array_equal(source.read(box), local.read(box)):
            wrong.append(box)

    threads = [threading.Thread(target=read, args=(box,)) for box in boxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", ["cog-uint16.tif", "cmu-1-small-region.svs", "pyramid-boxes.tiff"])
def test_real_files_are_the_same_from_afar(
    server: RangeServer, shared_data: Path, name: str
) -> None:
    """Slides, scenes and pyramids: size, scale, place and pixels are those of the local file."""
    far, near = open_source(server.put(name, shared_data / name)), open_source(shared_data / name)
    assert far.metadata == near.metadata
    width, height = near.size
    random = np.random.default_rng(1)
    for scale in (1.0, 0.5, 0.2):
        x, y = (int(random.integers(0, side // 2)) for side in near.size)
        box = Box(x, y, min(width, x + 400), min(height, y + 300))
        assert np.array_equal(far.read(box, scale), near.read(box, scale))


def test_flat_formats_are_downloaded_once_and_go(server: RangeServer, tmp_path: Path) -> None:
    """A PNG is fetched whole, once for all who read it here, and removed with the last of them."""
    path = tmp_path / "photo.png"
    Image.effect_noise((300, 200), 60).save(path)
    url = server.put("photo.png", path)
    source = open_source(url)
    assert source.fingerprint == open_source(path).fingerprint
    assert any("downloaded once: 0.1 MB" in note for note in source.metadata.notes)
    assert np.array_equal(source.thumbnail(300), open_source(path).thumbnail(300))
    server.forget()
    there = open_reference(pickle.loads(pickle.dumps(source.reference)))
    assert server.asked == []  # shared by all workers of a host
    assert np.array_equal(there.read(Box(5, 5, 50, 40)), source.read(Box(5, 5, 50, 40)))
    assert len(list(staging_folder().glob("*download.png"))) == 1
    there.close()
    source.close()
    assert list(staging_folder().glob("*download*")) == []


def test_downloads_do_not_pile_up_on_a_worker(server: RangeServer, tmp_path: Path) -> None:
    """A worker that goes from one to the next holds two of the files, as it does of staged ones."""
    held = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.new("L", (20, 10), number).save(path)
        client = open_source(server.put(path.name, path))
        open_reference(client.reference)
        client.close()
        held.append(len(list(staging_folder().glob("*download.png"))))
    assert max(held) == 2


def test_strips_and_arrays_are_downloaded(server: RangeServer, tmp_path: Path) -> None:
    """What has no cheap windows by ranges is fetched once."""
    pixels = np.random.default_rng(0).integers(0, 255, (700, 900), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    tifffile.imwrite(tmp_path / "b.tif", pixels, rowsperstrip=1)
    for name in ("a.npy", "b.tif"):
        source = open_source(server.put(name, tmp_path / name))
        server.forget()
        assert np.array_equal(source.read(Box(10, 20, 300, 400))[..., 0], pixels[20:400, 10:300])
        assert server.asked == []


def test_a_server_without_ranges_is_downloaded_from(server: RangeServer, pyramid: Path) -> None:
    """It is told, and the pixels are the same."""
    server.ranges = False
    source = open_source(server.put("scene.tif", pyramid))
    assert source.fingerprint == open_source(pyramid).fingerprint
    assert any("downloaded once" in note for note in source.metadata.notes)
    assert np.array_equal(
        source.read(Box(9, 9, 99, 99)), open_source(pyramid).read(Box(9, 9, 99, 99))
    )


@pytest.mark.parametrize("weak", [False, True])
def test_without_a_tag_the_content_itself_is_the_identity(
    server: RangeServer, pyramid: Path, weak: bool
) -> None:
    """No ETag, or a weak one without a date, identifies nothing: the file is fetched and hashed."""
    server.tags, server.weak = weak, weak
    url = server.put("scene.tif", pyramid)
    first = open_source(url)
    assert first.fingerprint == open_source(pyramid).fingerprint
    changed = pyramid.read_bytes()[:-1] + b"\0"
    server.put("scene.tif", changed)
    assert open_source(url).fingerprint != first.fingerprint


def test_a_settled_date_identifies_where_there_is_no_tag(
    server: RangeServer, pyramid: Path
) -> None:
    """Size and date of change serve, once the date cannot stand for two contents."""
    server.tags, server.dates = False, True
    source = open_source(server.put("scene.tif", pyramid))
    assert not source.metadata.notes  # read by ranges
    assert source.read(Box(0, 0, 9, 9)).shape == (9, 9, 3)


def test_the_same_tag_at_another_address_is_another_image(
    server: RangeServer, pyramid: Path
) -> None:
    """Servers make tags of size and second, so the address is in the identity; a signature not."""
    one, two = (open_source(server.put(name, pyramid)) for name in ("a.tif", "b.tif"))
    assert one.fingerprint != two.fingerprint
    signed = open_source(server.put("a.tif", pyramid) + "?X-Amz-Signature=hunter2hunter2")
    assert signed.fingerprint == one.fingerprint
    assert "hunter2" not in repr(signed) + repr(signed.reference)


def test_a_file_that_changes_is_refused(server: RangeServer, pyramid: Path) -> None:
    """Whoever goes on reading, or opens a reference, is told; never the pixels of both."""
    url = server.put("scene.tif", pyramid)
    source = open_source(url)
    source.read(Box(0, 0, 200, 200))
    other = bytearray(pyramid.read_bytes())
    other[-1] ^= 255
    server.put("scene.tif", bytes(other))
    with pytest.raises(SourceError, match=r"scene\.tif has changed since it was opened"):
        source.read(Box(1000, 1000, 1200, 1200))
    with pytest.raises(SourceError, match="has changed since it was opened"):
        open_reference(source.reference)
    assert open_source(url).fingerprint != source.fingerprint


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "404 Not Found; check the address"),
        (403, "403 Forbidden: the credentials are missing or wrong"),
        (401, "401 Unauthorized: the credentials"),
        (500, "500 Internal Server Error: the server is in trouble; try again later"),
        (429, "429 Too Many Requests"),
        (418, "418"),
    ],
)
def test_refusals_are_one_clear_line(server: RangeServer, status: int, words: str) -> None:
    """The message has the status, what it means and the remedy, and no secret."""
    server.fault = lambda number, path: status
    secret = "hunter2" * 2
    with pytest.raises(SourceError, match=words) as error:
        open_source(f"{server.url}/x.tif?sig={secret}")
    assert "/x.tif?*** is answered" in str(error.value)  # not what was tried beside it
    assert "hunter2" not in Failure.of(error.value).traceback + str(error.value)


def test_what_lies_past_the_end_is_nothing(server: RangeServer) -> None:
    """A chunk that is shorter than its store says has no such bytes, not a server's page."""
    file = WebFile(address_of(server.put("chunk", b"0123")))
    assert file.part(2, 9) == b"23"
    assert file.part(4, 9) == b""
    assert WebFile(address_of(server.put("bare", b""))).part(-8, None) == b""


def test_a_page_of_a_web_site_is_no_image(server: RangeServer) -> None:
    """HTML in place of an image is told by the address, not by a temporary file."""
    url = server.put("login", b"<html><body>Please log in</body></html>")
    with pytest.raises(SourceError, match=f"{url} is not an image .* looks like text"):
        open_source(url)
    with pytest.raises(SourceError, match=r"is empty \(0 bytes\)"):
        open_source(server.put("empty.tif", b""))


def _faulty(server: RangeServer, fault: object, count: int) -> Callable[[int, str], object]:
    first = server.number
    return lambda number, path: fault if number < first + count else None


@pytest.mark.parametrize(
    ("fault", "kind"), [(503, TransientError), (429, Throttled), ("cut", TransientError)]
)
def test_trouble_that_passes_is_worth_another_attempt(
    server: RangeServer, pyramid: Path, fault: object, kind: type[Exception]
) -> None:
    """A tile whose read meets it fails in a way that is retried; then it reads what is there."""
    source = open_source(server.put("scene.tif", pyramid))
    server.fault, server.retry_after = _faulty(server, fault, 100), "7"
    with pytest.raises(kind) as error:
        source.read(Box(700, 700, 900, 900))
    failure = Failure.of(error.value)
    assert failure.kind == ("throttled" if kind is Throttled else "transient")
    assert failure.retry_after == (None if fault == "cut" else 7)
    server.fault = lambda number, path: None
    assert source.read(Box(700, 700, 900, 900)).shape == (200, 200, 3)


def test_a_broken_connection_is_tried_again_at_once(server: RangeServer, pyramid: Path) -> None:
    """One that was kept open too long costs no attempt of the tile's."""
    source = open_source(server.put("scene.tif", pyramid))
    server.fault = _faulty(server, "cut", 1)
    assert source.read(Box(700, 700, 900, 900)).shape == (200, 200, 3)


def test_what_passes_while_opening_is_waited_for(server: RangeServer, pyramid: Path) -> None:
    """Also while the header is parsed, which would pass for a damaged file."""
    url = server.put("scene.tif", pyramid)
    server.fault = _faulty(server, 503, 2)
    assert open_source(url).size == (SIDE, SIDE)
    server.fault = lambda number, path: 503 if number > server_first else None
    server_first = server.number
    with pytest.raises(SourceError, match="503 Service Unavailable"):
        open_source(url)


def test_a_download_goes_on_where_it_broke_off(server: RangeServer, tmp_path: Path) -> None:
    """The rest is asked for by its range; a file that changed meanwhile is refused."""
    path = tmp_path / "photo.png"
    Image.effect_noise((2000, 900), 60).save(path)
    url = server.put("photo.png", path)

    def asked() -> list[Asked]:
        return [one for one in server.asked if one.path == "/photo.png"]

    server.fault = lambda number, path: "cut" if len(asked()) == 1 and path in url else None
    source = open_source(url)
    assert source.fingerprint == open_source(path).fingerprint
    spans = [one.span for one in asked()]
    assert spans[1] is None and spans[2] is not None and spans[2][0] > 0
    source.close()
    server.fault = lambda number, path: "cut"
    with pytest.raises(SourceError, match=r"photo\.png.*(broke off|failed)"):
        open_source(url)
    assert list(staging_folder().glob("*download*")) == []


def test_redirects_are_followed_and_remembered(server: RangeServer, pyramid: Path) -> None:
    """Data hosts send readers on to signed addresses: asked once, and anew when that expires."""
    target = server.put("store/scene.tif", pyramid)
    server.redirects["/scene.tif"] = f"{target}?token=one-of-many"
    server.secret = "one-of-many"
    source = open_source(f"{server.url}/scene.tif")
    server.forget()
    source.read(Box(0, 0, 300, 300))
    assert {one.status for one in server.asked} == {206}
    server.secret = "another-one"
    server.redirects["/scene.tif"] = f"{target}?token=another-one"
    assert source.read(Box(1500, 1500, 1700, 1700)).shape == (200, 200, 3)


def test_pages_of_a_file_elsewhere(server: RangeServer, tmp_path: Path) -> None:
    """``#page=`` and ``tv.pages`` work as for files here."""
    path = tmp_path / "fax.tif"
    with tifffile.TiffWriter(path) as tif:
        for value in (10, 20, 30):
            tif.write(np.full((64, 64), value, np.uint8), tile=(32, 32), compression="zlib")
    url = server.put("fax.tif", path)
    assert pages(url) == [f"{url}#page={page}" for page in (1, 2, 3)]
    found = [open_source(name) for name in pages(url)]
    assert [int(one.thumbnail(8).max()) for one in found] == [10, 20, 30]
    assert len({one.fingerprint for one in found}) == 3
    assert open_source(url, page=2).fingerprint == found[1].fingerprint


def test_nobody_at_the_address_is_one_line() -> None:
    """No server, no such host, no such protocol, no package for it: told, with the remedy."""
    with range_server() as gone:
        url = gone.url
    cases = {
        f"{url}/x.tif": "connection to 127.0.0.1:.* failed",
        "nothing://host/x.tif": "nothing here reads nothing://",
        "gs://bucket/x.tif": "gs:// needs gcsfs: pip install gcsfs",
    }
    for address, words in cases.items():
        with pytest.raises(SourceError, match=words):
            open_source(address)


def test_a_file_in_memory_is_shared_through_the_staging_folder(pyramid: Path) -> None:
    """Workers of this host get what ``memory://`` holds; another process has none of it."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/scene.tif", pyramid.read_bytes())
    source = open_source("memory://scene.tif")
    reference = source.reference
    assert source.fingerprint == open_source(pyramid).fingerprint
    memory.rm("/scene.tif")  # as in a worker, where it never was
    assert open_reference(reference).size == source.size
    source.close()
    with pytest.raises(SourceError, match="in the memory of the process that wrote it"):
        open_source("memory://scene.tif")


@given(st.lists(st.tuples(st.integers(0, 1 << 26), st.integers(1, 1 << 18)), max_size=30))
def test_runs_hold_every_range_once_and_stay_bounded(ranges: list[tuple[int, int]]) -> None:
    """Every range lies in its run; runs do not grow past 8 MiB by joining."""
    runs = runs_of(ranges)
    assert sorted(one for members in runs.values() for one in members) == sorted(set(ranges))
    for (start, count), members in runs.items():
        assert all(start <= a and a + n <= start + count for a, n in members)
        assert count <= (1 << 23) or len(members) == 1


@pytest.mark.parametrize("form", ["chunks", "shards", "pyramid"])
def test_zarr_is_read_by_its_chunks(server: RangeServer, tmp_path: Path, form: str) -> None:
    """Arrays, shards and OME-Zarr: a window fetches what it touches, and is that of the folder."""
    zarr = pytest.importorskip("zarr")
    pixels = np.random.default_rng(0).integers(0, 255, (600, 700, 3), np.uint8)
    options = {"chunks": (128, 128, 3), "dtype": "uint8"}
    folder = tmp_path / "a.zarr"
    if form == "pyramid":
        group = zarr.open_group(folder, mode="w", zarr_format=2)
        for level in range(2):
            part = pixels[:: 2**level, :: 2**level]
            group.create_array(str(level), shape=part.shape, **options)[:] = part
        axes = [{"name": name} for name in "yxc"]
        datasets = [{"path": str(level)} for level in range(2)]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    else:
        shards = {"shards": (256, 256, 3)} if form == "shards" else {}
        zarr.create_array(folder, shape=pixels.shape, **options, **shards)[:] = pixels
    far, near = open_source(server.folder("a.zarr", folder)), open_source(folder)
    assert far.metadata == near.metadata
    there = open_reference(pickle.loads(pickle.dumps(far.reference)))
    server.forget()
    box = Box(130, 140, 250, 250)
    assert np.array_equal(there.read(box), near.read(box))
    assert server.sent < 60_000  # of 1.3 MB
    assert np.array_equal(far.thumbnail(300), near.thumbnail(300))


def test_a_zarr_store_that_changes_is_another_image(server: RangeServer, tmp_path: Path) -> None:
    """A chunk counts; workers are refused where its description changed; trouble is retried."""
    zarr = pytest.importorskip("zarr")
    for value in (1, 2):
        array = zarr.create_array(
            tmp_path / f"{value}.zarr", shape=(300, 300), chunks=(100, 100), dtype="uint8"
        )
        array[:] = value
    url = server.folder("a.zarr", tmp_path / "1.zarr")
    first = open_source(url)
    server.fault = lambda number, path: 503 if "/c/" in path else None
    with pytest.raises(TransientError):
        first.read(Box(0, 0, 50, 50))
    server.fault = lambda number, path: None
    server.folder("a.zarr", tmp_path / "2.zarr")
    assert open_source(url).fingerprint != first.fingerprint
    server.files["/a.zarr/zarr.json"] += b" "
    with pytest.raises(SourceError, match="has changed since it was opened"):
        open_reference(first.reference)
    server.tags = False
    with pytest.raises(SourceError, match=r"nothing tells whether .* changes"):
        open_source(url)


def test_zarr_in_memory_is_told_to_be_of_one_process() -> None:
    """``memory://`` is read where it was written; a worker says why it cannot."""
    fsspec, zarr = pytest.importorskip("fsspec"), pytest.importorskip("zarr")
    memory = fsspec.filesystem("memory")
    store = zarr.storage.FsspecStore.from_url("memory://m.zarr")
    zarr.create_array(store, shape=(64, 64), chunks=(32, 32), dtype="uint8")[:] = 7
    source = open_source("memory://m.zarr")
    assert source.thumbnail(8).max() == 7
    memory.rm("/m.zarr", recursive=True)
    with pytest.raises(SourceError, match="what is in memory:// no other process sees"):
        open_reference(source.reference)
