"""Notebooks as they are committed; that they run is nbval's to say."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

import tilevision as tv

# Where things lie on one machine only. What a notebook writes goes to a temporary folder.
OF_A_MACHINE = re.compile(
    r"""(?<![\w.:/])(~|/[a-z]+|[A-Z]:)[/\\]\w|localhost:(?!8787)|127\.0\.0\.1"""
)
NAMES = re.compile(r"\btv\.(\w+)")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def test_there_is_a_quick_start() -> None:
    """The notebook that `tilevision lab` opens is there."""
    assert "01_quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_committed_clean(path: Path) -> None:
    """Valid, without outputs or counts, for any Python kernel, each cell with an id."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}  # and no state of widgets
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert not cell.metadata
        assert not cell.get("attachments")
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_begin_with_what_they_are_for(path: Path) -> None:
    """The first cell is a title and says in words what will happen."""
    first = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert len(first.source.split()) > 20


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_of_no_machine(path: Path) -> None:
    """No path, no host and no port of where they were written."""
    for cell in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells:
        assert not OF_A_MACHINE.findall(cell.source), cell.id


@pytest.mark.parametrize("place", ["/home/me/x", 'open("/tmp/a")', "C:\\data", "~/x", "127.0.0.1"])
def test_a_path_of_a_machine_is_noticed(place: str) -> None:
    """The pattern finds what it is for, and passes URLs and relative paths."""
    assert OF_A_MACHINE.search(place)
    assert not OF_A_MACHINE.search("https://host/a/b scans/*.tif out / name a/b ./x 0.3 * n/m")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_what_notebooks_name_is_there(path: Path) -> None:
    """Each ``tv.name`` in code and words is public: words are not run by anybody."""
    cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
    named = {name for cell in cells for name in NAMES.findall(cell.source)}
    assert named
    assert named <= set(tv.__all__), named - set(tv.__all__)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_write_to_a_temporary_folder(path: Path) -> None:
    """The folder that a notebook lies in stays as it is, its checkpoint included."""
    code = "\n".join(
        cell.source
        for cell in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
        if cell.cell_type == "code"
    )
    assert 'out = Path(mkdtemp(prefix="tilevision-"))' in code
    assert "checkpoint" in code
    assert not re.search(r"""\.(save|write\w*)\(["']""", code)
