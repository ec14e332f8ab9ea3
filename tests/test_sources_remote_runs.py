"""Runs on images at URLs: the same result, killed or not, and no secret in what they write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from range_server import RangeServer, range_server

import tilevision as tv
from tilevision.batch.imagenames import export_name, named_images, stands_for_many
from tilevision.errors import RunError, SourceError
from tilevision.readiness import examine
from tilevision.sources import open_source

SECRET = "hunter2hunter2"


def bright(pixels: np.ndarray) -> list[dict[str, object]]:
    """Find the bright squares, by their top left pixels."""
    ys, xs = (pixels.min(axis=2) == 255).nonzero()
    return [
        {"box": (int(x), int(y), int(x) + 1, int(y) + 1), "label": "spot"}
        for x, y in zip(xs, ys, strict=True)
    ]


@pytest.fixture
def server() -> Iterator[RangeServer]:
    """A web server on this machine."""
    with range_server() as running:
        yield running


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A tiled picture of noise with some bright pixels."""
    pixels = np.random.default_rng(0).integers(0, 200, (900, 1100, 3), np.uint8)
    pixels[50::173, 40::191] = 255
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, pixels, tile=(128, 128), compression="zlib", photometric="rgb")
    return path


HELD = """
import time
from pathlib import Path

CALLS = Path(__file__).with_name("calls")


def bright(pixels):
    # The first four tiles, and the others once there is a file.
    with CALLS.open("ab") as file:
        file.write(b".")
    while CALLS.stat().st_size > 4 and not CALLS.with_name("killed").exists():
        time.sleep(0.01)
    ys, xs = (pixels.min(axis=2) == 255).nonzero()
    return [
        {"box": (int(x), int(y), int(x) + 1, int(y) + 1), "label": "spot"}
        for x, y in zip(xs, ys, strict=True)
    ]
"""


def files_with(secret: str, folder: Path) -> list[str]:
    """Names of the files in a folder that hold `secret`."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in found if secret.encode() in path.read_bytes()]


def test_urls_have_names_and_collisions_are_told(tmp_path: Path) -> None:
    """Lists of URLs are named by their files; two of one name are refused, without secrets."""
    urls = [f"https://host/{name}?token={SECRET}" for name in ("a/x.tif", "b/y%20z.tif")]
    named = named_images([*urls, "s3://bucket/z.tif#page=2"])
    assert list(named) == ["x.tif", "y z.tif", "z.tif#page=2"]
    assert [export_name(name) for name in named] == ["x", "y z", "z-page2"]
    with pytest.raises(RunError, match=r"Two images are named x\.tif") as error:
        named_images([urls[0], "https://other/x.tif"])
    assert SECRET not in str(error.value)
    assert not stands_for_many(urls[0])
    assert stands_for_many("s3://bucket/*.tif")


def test_a_pattern_of_a_store_stands_for_its_files() -> None:
    """``*`` in the address of a store that lists."""
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("b.tif", "a.tif", "c.txt"):
        memory.pipe_file(f"/scans/{name}", b"x")
    assert list(named_images("memory://scans/*.tif")) == ["a.tif", "b.tif"]
    memory.rm("/scans", recursive=True)


def test_a_host_is_asked_whether_it_reaches_the_url(server: RangeServer, scene: Path) -> None:
    """The examination of a worker opens the image there, and says what is wrong."""
    good, other, gone = (open_source(server.put(f"{n}.tif", scene)).reference for n in "abc")
    server.put("b.tif", scene.read_bytes() + b"more")
    del server.files["/c.tif"]
    assert examine(good).troubles == ()
    assert "has changed since it was opened" in examine(other).troubles[0]
    assert "404 Not Found" in examine(gone).troubles[0]


@pytest.mark.slow
def test_a_run_writes_no_secret_and_finds_the_same(
    cluster: None, server: RangeServer, scene: Path, tmp_path: Path
) -> None:
    """Journal, records, exports, report and result: none has the signature or the password."""
    server.put("scene.tif", scene)
    server.secret = SECRET
    url = f"{server.url}/scene.tif?token={SECRET}"
    work = tmp_path / "work"
    work.mkdir()
    seen: list[str] = []
    run = tv.start(url, bright, grid=256, checkpoint=work / "kept", report=work / "report.html")
    run.subscribe(lambda event: seen.append(repr(event)))
    far = run.result()
    near = tv.analyze(scene, bright, grid=256, checkpoint=None)
    assert np.array_equal(far.findings.boxes, near.findings.boxes) and len(far.findings) > 20
    for suffix in ("geojson", "json", "csv", "recipe.json", "coco.json", "cvat.xml", "parquet"):
        far.save(work / f"out.{suffix}")
    assert files_with(SECRET, work) == []
    said = [
        *seen,
        repr(far),
        repr(run),
        far.summary,
        far.methods(),
        repr(far.source),
        repr(run.source.reference),
    ]
    assert not any(SECRET in text for text in said)
    assert "by address, size and the server's tag" in far.methods()
    assert far.name == "scene.tif"
    again = tv.analyze(url, bright, grid=256, checkpoint=work / "kept")
    assert set(again.tiles.status) == {"restored"}


@pytest.mark.slow
def test_a_run_goes_on_with_the_address_given_again(
    cluster: None, server: RangeServer, scene: Path, tmp_path: Path
) -> None:
    """Of an address with secrets only the rest is kept, and going on says so; others are known."""
    server.put("scene.tif", scene)
    for query, kept in ((f"?token={SECRET}", False), ("", True)):
        run = tv.start(
            f"{server.url}/scene.tif{query}", bright, grid=300, checkpoint=tmp_path / "c"
        )
        run.result()
        if kept:
            assert tv.resume(run.id, tmp_path / "c", model=bright).result().complete
            continue
        with pytest.raises(
            SourceError, match=r"scene\.tif\?\*\*\*, whose credentials .* pass image="
        ):
            tv.resume(run.id, tmp_path / "c", model=bright)
        image = f"{server.url}/scene.tif?token=another"
        assert tv.resume(run.id, tmp_path / "c", image=image, model=bright).result().complete


@pytest.mark.slow
def test_tiles_outlive_a_server_in_trouble(
    cluster: None, server: RangeServer, scene: Path, tmp_path: Path
) -> None:
    """A server that fails now and then costs attempts, no tile."""
    url = server.put("scene.tif", scene)
    opened = open_source(url)
    server.fault = lambda number, path: 503 if number % 5 == 1 else None
    retry = tv.Retry(attempts=8, wait=0.01)
    result = tv.analyze(opened, bright, grid=256, checkpoint=None, retry=retry)
    assert result.complete
    assert 503 in {one.status for one in server.asked}


@pytest.mark.slow
def test_a_file_that_changes_stops_the_run(
    cluster: None, server: RangeServer, scene: Path, tmp_path: Path
) -> None:
    """Nothing of the other content is taken for the first's."""
    opened = open_source(server.put("scene.tif", scene))
    other = bytearray(scene.read_bytes())
    other[-1] ^= 255
    server.put("scene.tif", bytes(other))
    with pytest.raises(SourceError, match="has changed since it was opened"):
        tv.analyze(opened, bright, grid=256, checkpoint=None)


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_the_same(
    cluster: None, server: RangeServer, scene: Path, tmp_path: Path
) -> None:
    """``kill -9`` in the middle of a run on a signed URL, then the same command again."""
    server.put("scene.tif", scene)
    url = f"{server.url}/scene.tif?token={SECRET}"
    work = tmp_path / "work"
    work.mkdir()
    (work / "held.py").write_text(HELD)
    options = ["--model", "held.py:bright", "--grid", "300", "--workers", "1", "--checkpoint", "c"]
    command = [sys.executable, "-m", "tilevision", "run", url, *options, "--out", "x.csv"]
    first = subprocess.Popen(command, cwd=work, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 200
    while not any(b'"done"' in path.read_bytes() for path in work.glob("c/runs/*")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    (work / "killed").touch()
    said = first.communicate()[1]
    again = subprocess.run(command, cwd=work, capture_output=True, check=True)
    tv.analyze(scene, bright, grid=300, checkpoint=None).save(work / "y.csv")
    assert b"spot" in (work / "x.csv").read_bytes()
    assert (work / "x.csv").read_bytes() == (work / "y.csv").read_bytes()
    assert files_with(SECRET, work) == []
    assert SECRET.encode() not in said + again.stdout + again.stderr
    assert list(tv.runs(work / "c").status) == ["complete", "interrupted"]
