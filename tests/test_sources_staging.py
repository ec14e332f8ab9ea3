"""Staging: decoded once for all processes, gone when the last of them leaves."""

from __future__ import annotations

import contextvars
import gc
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tifffile import imwrite

import tilevision as tv
from tilevision.errors import SourceError
from tilevision.geometry import Box
from tilevision.sources import StagingProgress, following, open_reference, open_source
from tilevision.sources.staging import stagingfile
from tilevision.sources.staging.stagingfile import StagedPixels, open_staged, stage, staging_folder


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temp folder of this test's own, for this process and those it starts."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that runs `code`."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def staged(key: str = "key", value: int = 7) -> StagedPixels:
    def write(out: np.ndarray) -> Iterator[int]:
        out[...] = value
        yield len(out)

    return stage(key, (4, 5, 3), np.dtype(np.uint8), write)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_is_private(temp: Path) -> None:
    """Decoded images are for their owner's eyes: folder 0700, files 0600."""
    one = staged()
    assert staging_folder().parent == temp
    assert staging_folder().stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in staging_folder().iterdir()} == {0o600}
    one.close()


def test_a_folder_that_others_can_write_is_refused(temp: Path) -> None:
    """Somebody may have put the folder there before us, to read or to swap our images."""
    folder = temp / f"tilevision-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(SourceError, match="private folder"):
        staged()
    folder.rmdir()
    folder.symlink_to(temp)
    with pytest.raises(SourceError, match="private folder"):
        staged()


def test_the_last_user_removes_the_file() -> None:
    """While anybody reads it, it stays; then nothing is left."""
    first, second = staged(), staged(value=9)
    assert (second.window(0, 0, 5, 4) == 7).all()
    first.close()
    assert first.path.exists()
    second.close()
    assert left(staging_folder()) == []


def test_a_forgotten_source_lets_go_too() -> None:
    """Without close, garbage collection gives the share up."""
    source = open_source(np.ones((8, 8), np.uint8))
    assert len(left(staging_folder())) == 2
    del source
    assert left(staging_folder()) == []


def test_a_process_that_ends_leaves_nothing(temp: Path) -> None:
    """At a normal exit the staging file goes, without close."""
    code = """
        import numpy as np, tilevision.sources as s
        source = s.open_source(np.ones((8, 8), np.uint8))
        print(source.metadata.notes)
    """
    process = python(code)
    out, err = process.communicate(timeout=200)
    assert "removed when no longer in use" in out, err
    assert left(staging_folder()) == []


def test_what_a_killed_process_left_is_swept_at_the_next_staging(temp: Path) -> None:
    """A kill -9 leaves files whose locks are gone; whoever stages next removes them."""
    code = """
        import numpy as np, tilevision.sources as s
        source = s.open_source(np.ones((8, 8), np.uint8))
        print("ready", flush=True)
        input()
    """
    process = python(code)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    mine = staged("mine")
    assert len(left(staging_folder())) == 4
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
    assert len(left(staging_folder())) == 4
    other = staged("other")
    assert left(staging_folder()) == ["mine.lock", "mine.npy", "other.lock", "other.npy"]
    mine.close()
    other.close()


@pytest.mark.slow
def test_processes_that_stage_at_once_decode_once(temp: Path, tmp_path: Path) -> None:
    """One writes, the others wait for it and map the same file."""
    code = """
        import sys, time, numpy as np
        from pathlib import Path
        from tilevision.sources.staging.stagingfile import stage
        def write(out):
            with open(sys.argv[1], "a") as log:
                log.write("w")
            time.sleep(0.3)
            out[...] = 5
            return [50]
        print("ready", flush=True)
        input()
        pixels = stage("shared", (50, 50, 3), np.dtype(np.uint8), write)
        print(int(pixels.window(0, 0, 50, 50).sum()), flush=True)
        input()
    """
    processes = [python(code, tmp_path / "log") for _ in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == f"{50 * 50 * 15}\n"
    assert (tmp_path / "log").read_text() == "w"
    for process in processes:
        process.communicate("\n", timeout=200)
    assert left(staging_folder()) == []


def test_nobody_waits_for_a_reader_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever just missed the writer becomes a reader beside it, however long that one stays."""
    first = staged()
    look = stagingfile.join
    answers = [None]
    monkeypatch.setattr(stagingfile, "join", lambda path: (answers or [look(path)]).pop())
    second = staged(value=9)
    assert (second.window(0, 0, 5, 4) == 7).all()
    first.close()
    second.close()


@pytest.mark.slow
def test_a_crowd_that_comes_and_goes_always_reads_whole_images(temp: Path) -> None:
    """Staging, reading, closing and sweeping in six processes: never a torn or missing file."""
    code = """
        import sys, random, numpy as np
        from tilevision.sources.staging.stagingfile import stage
        rng = random.Random(int(sys.argv[1]))
        for _ in range(300):
            number = rng.randrange(3)
            def write(out):
                out[...] = number
                return [64]
            one = stage(f"k{number}", (64, 64, 3), np.dtype(np.uint8), write)
            assert (one.window(0, 0, 64, 64) == number).all()
            one.close()
        print("fine")
    """
    processes = [python(code, seed) for seed in range(6)]
    for process in processes:
        out, err = process.communicate(timeout=200)
        assert out == "fine\n", err
    assert left(staging_folder()) == []


def test_a_forked_child_does_not_take_the_file_away() -> None:
    """A child that closes what it inherited leaves the parent's image in place."""
    one = staged()
    child = os.fork()
    if child == 0:
        one.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert one.path.exists()
    again = staged(value=9)
    assert (again.window(0, 0, 5, 4) == 7).all()
    again.close()
    one.close()
    assert left(staging_folder()) == []


def test_a_failed_decode_leaves_nothing_behind() -> None:
    """What `write` raises comes through, and the half-written file is gone."""

    def write(out: np.ndarray) -> Iterator[int]:
        out[...] = 1
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage("key", (4, 5, 3), np.dtype(np.uint8), write)
    assert left(staging_folder()) == []


def test_a_full_disk_is_one_clear_error(temp: Path) -> None:
    """Space is taken before anything is mapped: an error with folder and size, never a crash."""
    code = """
        import resource, numpy as np, tilevision.sources as s
        from tilevision.errors import SourceError
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            s.open_source(np.ones((2000, 2000), np.uint8))
        except SourceError as error:
            print(error)
    """
    out, err = python(code).communicate(timeout=200)
    assert "4 MB needed" in out and "TMPDIR" in out and str(temp) in out, err
    assert left(staging_folder()) == []
    with pytest.raises(SourceError, match=r"MB needed.*not enough space.*TMPDIR"):
        stage("huge", (10**7, 10**7, 3), np.dtype(np.uint8), lambda out: [])
    assert left(staging_folder()) == []


def test_an_unusable_temp_folder_is_one_clear_error(
    temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be written, the remedy is named."""
    monkeypatch.setattr(tempfile, "tempdir", str(temp / "missing"))
    with pytest.raises(SourceError, match="TMPDIR"):
        staged()


def test_another_process_maps_an_array_by_reference(temp: Path) -> None:
    """Of an array, a task carries only where it is staged: its pixels arrive all the same."""
    pixels = np.random.default_rng(0).integers(0, 65536, (300, 400, 2), dtype=np.uint16)
    source = open_source(pixels)
    blob = pickle.dumps(source.reference)
    assert len(blob) < 1000
    code = """
        import pickle, sys, numpy as np
        from tilevision.geometry import Box
        from tilevision.sources import open_reference
        source = open_reference(pickle.loads(bytes.fromhex(sys.argv[1])))
        print(int(source.read(Box(10, 20, 30, 50)).sum()), source.fingerprint)
    """
    out, err = python(code, blob.hex()).communicate(timeout=200)
    assert out.split() == [str(int(pixels[20:50, 10:30].sum())), source.fingerprint], err
    source.close()
    assert left(staging_folder()) == []
    with pytest.raises(SourceError, match="another host"):
        open_reference(pickle.loads(blob))


def test_a_worker_without_the_staged_file_decodes_the_picture_itself(tmp_path: Path) -> None:
    """On another host the picture file is enough: it is staged there again."""
    Image.fromarray(np.full((20, 30, 3), 9, np.uint8)).save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    reference = source.reference
    source.close()
    assert left(staging_folder()) == []
    assert (open_reference(reference).read(Box(0, 0, 30, 20)) == 9).all()


def test_a_closed_image_says_so() -> None:
    """Reading after close is one clear error."""
    source = open_source(np.ones((8, 8), np.uint8))
    source.close()
    with pytest.raises(SourceError, match="closed"):
        source.read(Box(0, 0, 8, 8))


def test_a_damaged_staging_file_is_not_read() -> None:
    """What is no whole image in the staging folder is an error, not garbage pixels."""
    one = staged()
    one.path.write_bytes(one.path.read_bytes()[:100])
    with pytest.raises(SourceError, match="damaged"):
        open_staged(one.path)
    one.close()


def test_a_staging_file_cut_short_under_a_reader_is_an_error() -> None:
    """Who reads goes on living: touching what is not there would end the process."""
    one = staged()
    with one.path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(SourceError, match="cut short; open the image again"):
        one.window(0, 0, 5, 4)
    one.close()


def test_waiting_ends_when_the_writer_dies(temp: Path) -> None:
    """A writer killed half way frees those that wait; one of them stages instead."""
    code = """
        import time, numpy as np
        from tilevision.sources.staging.stagingfile import stage
        def write(out):
            print("writing", flush=True)
            time.sleep(600)
        stage("key", (4, 5, 3), np.dtype(np.uint8), write)
    """
    process = python(code)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    one = staged()
    process.communicate(timeout=200)
    assert time.monotonic() - begin < 200
    assert (one.window(0, 0, 5, 4) == 7).all()
    one.close()
    assert left(staging_folder()) == []


BIG_PNG = """
    import sys, tilevision.sources as s
    from tilevision.sources import following
    def told(preparation):
        if preparation.done:
            print(preparation, flush=True)
    with following(told):
        source = s.open_source(sys.argv[1])
    print("staged", flush=True)
    input()
"""


@pytest.fixture
def big_png(tmp_path: Path) -> Path:
    """A PNG that takes a second or two to decode, by rows."""
    shades = np.arange(6000, dtype=np.uint16)[:, None] // 24
    Image.fromarray(np.broadcast_to(shades, (6000, 6000)).astype(np.uint8)).convert("RGB").save(
        tmp_path / "big.png", compress_level=1
    )
    return tmp_path / "big.png"


@pytest.mark.slow
def test_who_follows_hears_how_far_it_is(big_png: Path) -> None:
    """From nothing to all of it, with size and folder; deaf are those who do not follow."""
    heard: list[StagingProgress] = []
    with following(heard.append):
        source = open_source(big_png)
    source.close()
    assert heard[0].done == 0 and heard[-1].done == heard[-1].total == 6000 * 6000 * 3
    assert [one.done for one in heard] == sorted(one.done for one in heard)
    assert len(heard) > 20
    assert str(heard[-1]) == f"preparing the image: 100% of 108 MB in {staging_folder()}"
    open_source(np.ones((8, 8), np.uint8)).close()
    assert heard[-1].total == 6000 * 6000 * 3


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_on_its_side_is_whole_at_the_end_too(tmp_path: Path, orientation: int) -> None:
    """What is told is the share of the picture, whichever way its rows are stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (700, 300)).save(tmp_path / "a.jpg", exif=exif)
    heard: list[StagingProgress] = []
    with following(heard.append):
        open_source(tmp_path / "a.jpg").close()
    assert heard[-1].done == heard[-1].total == 700 * 300 * 3


@pytest.mark.slow
def test_an_interrupt_while_staging_leaves_no_file(big_png: Path) -> None:
    """Ctrl-C ends the decoding at once, and the temp folder is as it was."""
    process = python(BIG_PNG, big_png)
    assert process.stdout is not None and "preparing" in process.stdout.readline()
    assert any(name.endswith(".part") for name in left(staging_folder()))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert "KeyboardInterrupt" in err and "staged" not in out
    assert left(staging_folder()) == []


@pytest.mark.slow
def test_what_a_killed_stager_left_is_taken_over(big_png: Path) -> None:
    """Half a file of a process that is gone is begun anew, and is whole then."""
    process = python(BIG_PNG, big_png)
    assert process.stdout is not None and "preparing" in process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=200)
    assert any(name.endswith(".part") for name in left(staging_folder()))
    source = open_source(big_png)
    assert [name.rpartition(".")[2] for name in left(staging_folder())] == ["lock", "npy"]
    assert (source.read(Box(0, 5999, 6000, 6000)) == 5999 // 24).all()
    source.close()
    assert left(staging_folder()) == []


def test_the_next_run_removes_what_a_killed_one_left(temp: Path, tmp_path: Path) -> None:
    """Though its image needs no staging."""
    (staging_folder() / "gone.lock").touch()
    (staging_folder() / "gone.npy").write_bytes(bytes(1000))
    imwrite(tmp_path / "a.tif", np.zeros((64, 64, 3), np.uint8), tile=(16, 16))
    tv.plan(tmp_path / "a.tif", "nuclei", checkpoint=None)
    assert left(staging_folder()) == []


@pytest.mark.slow
def test_a_run_leaves_nothing_in_the_temp_folder(temp: Path, tmp_path: Path) -> None:
    """When a script ends, its own workers' shares end with it, though nobody asks them."""
    Image.new("L", (300, 300)).save(tmp_path / "a.png")
    code = """
        import sys, tilevision as tv
        from tilevision.sources.staging.stagingfile import staging_folder
        def nothing(pixels):
            return []
        run = tv.start(sys.argv[1], nothing, checkpoint=None, workers=1)
        print(run.result().status, len(list(staging_folder().glob("*.npy"))))
    """
    out, err = python(code, tmp_path / "a.png").communicate(timeout=200)
    assert out == "complete 1\n", err
    assert left(staging_folder()) == []


@pytest.mark.slow
def test_a_large_image_takes_the_memory_of_a_band(big_png: Path) -> None:
    """Decoding 108 MB takes little memory; reading keeps no more of it than its bound."""
    code = """
        import sys
        from pathlib import Path
        import tilevision.sources as s
        from tilevision.geometry import Box
        from tilevision.sources.formats import flat
        from tilevision.sources.staging import pngrows
        import imagecodecs, PIL.PngImagePlugin
        def peak():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        before = peak()
        source = s.open_source(sys.argv[1])
        print((peak() - before) / 1024)
        for _ in range(5):
            for y in range(0, 5000, 500):
                source.read(Box(0, y, 1000, y + 1000))
        print((peak() - before) / 1024)
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory is read from /proc")
    out, err = python(code, big_png).communicate(timeout=200)
    decoding, reading = map(float, out.split())
    assert decoding < 60 and reading < 60 + 90, err


def test_closed_pixels_say_so() -> None:
    """Reading what is closed is one clear error, also by who held the pixels themselves."""
    one = staged()
    one.close()
    with pytest.raises(SourceError, match="closed"):
        one.window(0, 0, 5, 4)


def test_a_context_that_outlives_its_block_keeps_no_listener() -> None:
    """Event loops started within copy the context; what listened may go all the same."""

    class Listener:
        def hear(self, _: object) -> None:
            """Listen."""

    def inside() -> tuple[contextvars.Context, weakref.ref[Listener]]:
        listener = Listener()
        with stagingfile.following(listener.hear):
            assert stagingfile.is_followed()
            return contextvars.copy_context(), weakref.ref(listener)

    context, gone = inside()
    gc.collect()
    assert gone() is None
    assert not context.run(stagingfile.is_followed)
    assert not stagingfile.is_followed()


CLOSED = """
import os, sys
import numpy as np
from tilevision.sources import open_source

source = open_source(np.zeros((64, 64, 3), np.uint8))
if sys.argv[1] == "parent" or not os.fork():
    os.closerange(3, 64)
    numbers = [os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND) for _ in range(40)]
    import weakref
    weakref.finalize._exitfunc()
    for number in numbers if sys.argv[1] == "child" else ():
        os.write(number, b".")
    sys.exit()
os.wait()
print(source.metadata)
"""


@pytest.mark.parametrize("who", ["parent", "child"])
def test_descriptors_that_a_process_has_closed_are_nobodys(tmp_path: Path, who: str) -> None:
    """A process that closes all files, as daemons do, ends without a word, and keeps its new ones.

    A descriptor's number is given to the next file that is opened (open(2)).
    """
    target = tmp_path / "target"
    target.touch()
    command = [sys.executable, "-c", CLOSED, who, str(target)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert target.read_text() == "." * (40 if who == "child" else 0)
