"""Runs can be listed, and gone on with under their own id."""

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
