"""What can be known of Windows without one: locks and paths.

Nobody has run it there. CI has mypy look for what its standard library lacks, and `test_cluster`
starts workers that are not forked.
"""

from __future__ import annotations

import os
import sys
from pathlib import PureWindowsPath
from types import ModuleType

import pytest
import windows

from tilevision.cli.options import model_argument
from tilevision.sources.addresses import is_address
from tilevision.sources.staging import stagingfile


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`tilevision.files` as Windows has it."""
    import tilevision.files  # noqa: F401 - so that there is one to stand in for

    return windows.imported_there("tilevision.files")


@pytest.mark.skipif(sys.platform != "linux", reason="plays Windows with locks of Linux")
def test_locks_without_flock(files, tmp_path) -> None:
    """Readers share, a writer is alone; a lock is changed, and ends with its handle."""
    path = tmp_path / "a.lock"
    path.write_text("the content is read whoever holds the lock")
    one, two, three = (os.open(path, os.O_RDWR) for _ in range(3))
    assert files.try_lock(one)
    assert not files.try_lock(two)
    assert not files.try_lock(two, shared=True)
    files.lock(one, shared=True)
    assert files.try_lock(two, shared=True)
    assert files.try_lock(three, shared=True)
    assert not files.try_lock(one)
    assert not files.try_lock(one, shared=False), "and what it had is gone: it asks anew"
    os.close(two)
    os.close(three)
    assert files.try_lock(one)
    assert path.read_text() == "the content is read whoever holds the lock"
    os.close(one)
    again = os.open(path, os.O_RDWR)
    assert files.try_lock(again)
    os.close(again)


@pytest.mark.skipif(sys.platform != "linux", reason="plays Windows with locks of Linux")
def test_staged_images_are_shared_without_flock(files, tmp_path, monkeypatch) -> None:
    """The last reader takes the image away, as on any system."""
    monkeypatch.setattr(stagingfile, "try_lock", files.try_lock)
    monkeypatch.setattr(stagingfile, "lock_file", files.lock)
    monkeypatch.setattr(stagingfile, "_place", lambda: tmp_path)
    path = tmp_path / "image.npy"
    first = stagingfile.hold(path, lambda: path.write_bytes(b"pixels"))
    second = stagingfile.join(path)
    assert second is not None
    stagingfile.leave(path, first)
    assert path.exists()
    stagingfile.leave(path, second)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path", [r"C:\scans\a.tif", r"c:\a.tif", r"\\host\share\a.tif", r"C:\scans\a.tif#page=3"]
)
def test_a_drive_is_no_address(path) -> None:
    """``C:`` is not the scheme of a URL."""
    assert not is_address(path)
    assert PureWindowsPath(path).name.startswith("a.tif")


def test_a_function_of_a_file_on_a_drive(tmp_path, monkeypatch) -> None:
    """The last colon parts file and function."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "C:").mkdir()
    (tmp_path / "C:" / "drive_model.py").write_text("def find(pixels):\n    return []\n")
    assert model_argument("C:/drive_model.py:find").__name__ == "find"
    sys.modules.pop("drive_model", None)
