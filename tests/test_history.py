"""Runs can be listed, and gone on with under their own id."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tilevision as tv
from tilevision.checkpoint import RunLock
from tilevision.events import read_journal

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def _picky(picture: Path) -> Any:
    """Make a model that refuses a tile with a white corner until there is a file ``mended``."""
    mended = picture.with_name("mended")

    def picky(pixels: np.ndarray) -> Any:
        if pixels[0, 0].min() == 255 and not mended.exists():
            raise tv.PermanentError("not yet")
        return [(0, 0, 5, 5, 0.5)]

    return picky


@pytest.fixture
def picture(elsewhere: Path) -> Path:
    """Four tiles of 50×50, the first of them with a white corner."""
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    pixels[:10, :10] = 255
    Image.fromarray(pixels).save("picture.png")
    return elsewhere / "picture.png"


@pytest.fixture
def partial(picture: Path) -> tv.Result:
    """A run of four tiles, one of which failed."""
    with pytest.warns(UserWarning, match="INCOMPLETE"):
        return tv.analyze(
            "picture.png", _picky(picture), grid=tv.Grid(2, 2, overlap=0), progress=False
        )


def test_runs_lists_what_became_of_each(partial: tv.Result, picture: Path) -> None:
    """One row a run, the latest first."""
    tv.analyze("picture.png", "blobs", grid="1x1", progress=False)
    table = tv.runs()
    assert list(table["model"]) == ["blobs", "picky"]
    assert list(table["status"]) == ["complete", "partial"]
    assert table.iloc[1][["id", "tiles", "done", "failed"]].tolist() == [partial.run_id, 4, 3, 1]


def test_resume_runs_only_what_is_missing_under_the_same_id(
    partial: tv.Result, picture: Path
) -> None:
    """Three tiles are restored, one runs; the journal is appended to."""
    picture.with_name("mended").touch()
    run = tv.resume(partial.run_id, model=_picky(picture))
    result = run.result(200)
    assert run.id == partial.run_id
    assert result.complete
    assert sorted(result.tiles["status"]) == ["done", "restored", "restored", "restored"]
    assert list(tv.runs()["status"]) == ["complete"]
    _, events = read_journal(Path(".tilevision/runs") / f"{run.id}.jsonl")
    assert [e.status for e in events if hasattr(e, "reason")].count("running") == 2


def test_resume_from_another_folder(
    partial: tv.Result,
    picture: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image is found by the absolute path it had."""
    checkpoint = Path(".tilevision").absolute()
    monkeypatch.chdir(tmp_path_factory.mktemp("other"))
    picture.with_name("mended").touch()
    assert tv.resume(partial.run_id, checkpoint, model=_picky(picture)).result(200).complete


def test_a_named_model_needs_nothing_to_resume(picture: Path) -> None:
    """A run of a built-in model is rebuilt from its manifest, parameters included."""
    spec = tv.model("blobs", contrast=0.1)
    first = tv.analyze("picture.png", spec, grid="2x2", progress=False)
    again = tv.resume(first.run_id).result(200)
    assert set(again.tiles["status"]) == {"restored"}


def _journal(run_id: str) -> Path:
    return Path(".tilevision/runs") / f"{run_id}.jsonl"


def test_resume_mends_a_journal_that_lost_lines(picture: Path) -> None:
    """Every tile is restored, none runs again, and the journal says so of each."""
    first = tv.analyze("picture.png", "blobs", grid="2x2", progress=False)
    path = _journal(first.run_id)
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"status":"done","id":"r000c001"' not in line]
    path.write_bytes(b"".join(kept)[:-9])
    assert len(kept) == len(lines) - 1
    again = tv.resume(first.run_id).result(60)
    assert set(again.tiles["status"]) == {"restored"}
    assert tv.runs().iloc[0][["status", "done"]].tolist() == ["complete", 4]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": {"mpp": None, "telepathy": True}}, "made with telepathy=.*Update tilevision"),
        ({"retry": 3}, "does not say what it analysed .*Finished tiles are kept"),
        ({"tiling": {}}, "does not say what it analysed"),
        ({"models": [{}]}, "does not say what it analysed"),
        ({"routing": []}, "does not say what it analysed"),
        ({"source": None}, "is not the image that run"),
    ],
)
def test_resume_of_what_another_version_began_is_one_line(
    picture: Path, changes: dict[str, Any], words: str
) -> None:
    """Or of what is damaged."""
    first = tv.analyze("picture.png", "blobs", grid="2x2", progress=False)
    path = _journal(first.run_id)
    manifest, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(json.dumps(json.loads(manifest) | changes).encode() + b"\n" + rest)
    with pytest.raises(tv.TilevisionError, match=words):
        tv.resume(first.run_id)


def test_a_journal_that_was_renamed_is_a_run_of_its_own(picture: Path) -> None:
    """Its id is that of its file: the first one's journal gets no line of it."""
    first = tv.analyze("picture.png", "blobs", grid="2x2", progress=False)
    path = _journal(first.run_id)
    _journal("copy").write_bytes(path.read_bytes())
    before = path.read_bytes()
    run = tv.resume("copy")
    assert run.result(60).run_id == "copy"
    assert path.read_bytes() == before


def test_resume_says_what_has_to_be_given_again(partial: tv.Result, picture: Path) -> None:
    """A function is not stored; an image that was in memory neither; an unknown id is named."""
    with pytest.raises(tv.RunError, match="pass model="):
        tv.resume(partial.run_id)
    array = np.asarray(Image.open("picture.png"))
    in_memory = tv.analyze(array, "blobs", grid="1x1", progress=False)
    with pytest.raises(tv.RunError, match="pass image="):
        tv.resume(in_memory.run_id)
    assert tv.resume(in_memory.run_id, image=array).result(200).complete
    with pytest.raises(tv.RunError, match=f"no run nonsense.*{in_memory.run_id}"):
        tv.resume("nonsense")


def test_resume_refuses_another_image_or_model(partial: tv.Result, picture: Path) -> None:
    """A changed file or an edited function would be another run."""
    with pytest.raises(tv.ModelError, match="start a new run"):
        tv.resume(partial.run_id, model=lambda _pixels: [])
    Image.new("RGB", (100, 100), "red").save("picture.png")
    with pytest.raises(tv.SourceError, match="changed"):
        tv.resume(partial.run_id, model=_picky(picture))


def _hold(folder: str, run_id: str, held: Any, release: Any) -> None:
    with RunLock(folder, run_id):
        held.set()
        release.wait()


def test_resume_refuses_a_run_that_is_going_on(partial: tv.Result, picture: Path) -> None:
    """RunBusy names the owner; when that process is gone, the run is free."""
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(".tilevision", partial.run_id, held, release))
    owner.start()
    assert held.wait(200)
    with pytest.raises(tv.RunBusy, match=str(owner.pid)):
        tv.resume(partial.run_id, model=_picky(picture))
    owner.kill()
    owner.join()
    picture.with_name("mended").touch()
    assert tv.resume(partial.run_id, model=_picky(picture)).result(200).complete
