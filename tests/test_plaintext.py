"""File names and errors that no output could hold, and errors that say where they came from."""

from __future__ import annotations

import os
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tilevision as tv
from tilevision.batch.batch import ImageRow
from tilevision.batch.imagenames import export_name, label_of, named_images
from tilevision.display import readable
from tilevision.errors import Failure
from tilevision.events import ImageChanged, Journal, TileChanged, from_line, image_line, to_line
from tilevision.grid import Grid
from tilevision.pipeline.planning import image_name
from tilevision.status import TileStatus

TILE = Grid.parse("1x1").tiles((10, 10))[0]


@pytest.mark.parametrize("name", ["sc\udce9ne.png", "\udcff\udcfe", "é\udc80", "\ud800", "a\udfff"])
def test_every_output_can_hold_a_readable_name(name):
    """What UTF-8 cannot hold (Python's surrogateescape, PEP 383) is spelled; the rest stays."""
    spelled = readable(name)
    assert spelled.encode().decode() == spelled
    assert readable(spelled) == spelled
    assert readable("déjà vu.tif") == "déjà vu.tif"
    assert readable(os.fsdecode(b"sc\xe9ne.png")) == "sc%E9ne.png"


def test_names_of_images_are_readable_and_stay_apart():
    """Two names that differ in such a byte are two images, and their exports two files."""
    images = ["x/sc\udce9ne.png", "x/sc\udce8ne.png"]
    named = named_images(images)
    assert list(named) == ["sc%E9ne.png", "sc%E8ne.png"]
    assert list(named.values()) == images  # what is opened is the name as it is
    assert [export_name(name) for name in named] == ["sc%E9ne", "sc%E8ne"]
    assert image_name(images[0]) == "sc%E9ne.png"
    assert label_of("sc\udce9ne*.png") == "sc%E9ne*.png"


def test_errors_about_such_a_file_fit_into_every_table():
    """An error quotes the name; tables of Arrow strings and UTF-8 files take it all the same."""
    error = tv.SourceError("sc\udce9ne.png is damaged")
    row = ImageRow.without("a", error, 0.0)
    failure = Failure.of(error)
    event = TileChanged(1.0, TILE, TileStatus.FAILED, error=str(error))
    for text in (row.error, failure.message, failure.traceback, event.error):
        assert text.encode() and "sc%E9ne.png" in text
        pd.DataFrame({"error": [text]})


def test_journals_of_earlier_versions_are_listed_with_such_names(tmp_path):
    """The name stands in them as it was given; one of them must not cost the whole list."""
    one = {"id": "one", "image": "sc\udce9ne.png", "model": "m", "started": 1.0, "n_tiles": 1}
    many = one | {"id": "many", "image": "list", "images": ["sc\udce9ne.png"]}
    Journal(tmp_path / "runs" / "one.jsonl", one).close()
    with Journal(tmp_path / "runs" / "many.jsonl", many) as journal:
        journal.write(image_line(ImageChanged(1.0, "sc\udce9ne.png", "error", error="\udce9")))
    assert set(tv.runs(tmp_path)["image"]) == {"sc%E9ne.png", "list"}
    images = tv.runs(tmp_path, images="many")
    assert images.loc[0, ["image", "error", "status"]].tolist() == ["sc%E9ne.png", "%E9", "error"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_an_image_with_such_a_name_is_analysed_listed_and_saved(tmp_path, monkeypatch):
    """In every format, and in the table of many images."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"sc\xe9ne.png")
    Image.fromarray(np.zeros((60, 60, 3), np.uint8)).save(name)
    batch = tv.analyze_many([name], "blobs", grid="1x1", out_dir="out", progress=False)
    assert batch.complete and list(batch.to_dataframe()["image"]) == ["sc%E9ne.png"]
    assert "sc%E9ne.png" in (tmp_path / "out" / "summary.csv").read_text("utf-8")
    assert (tmp_path / "out" / "sc%E9ne.geojson").is_file()
    assert list(tv.runs()["image"]) == ["a list"]
    for suffix in (".csv", ".json", ".coco.json", ".cvat.xml", ".voc.xml", ".label-studio.json"):
        batch["sc%E9ne.png"].save(f"saved{suffix}")
        (tmp_path / f"saved{suffix}").read_text("utf-8")


def helper(values):
    return values["boxes"][7]


def broken(values):
    try:
        return helper(values)
    except KeyError as error:
        raise RuntimeError("postprocessing failed") from error


def _failure(function, *args):
    try:
        function(*args)
    except Exception as error:
        return Failure.of(error)
    raise AssertionError("it did not fail")


def test_a_failure_says_where_it_came_from():
    """The helper's name, its line, the cause and what came of it; notes as well (PEP 678)."""
    place = _failure(broken, {"bboxes": []}).traceback
    for said in ("in helper", "test_plaintext.py", "KeyError: 'boxes'", "postprocessing failed"):
        assert said in place

    def noted():
        error = ValueError("bad")
        error.add_note("tile 3 of the corpus")
        raise error

    assert "tile 3 of the corpus" in _failure(noted).traceback


def test_frames_of_our_own_hide_nobody_elses():
    """What lies between the caller and the model's code is left out."""

    def model():
        tv.Grid.parse("nonsense")

    assert "in model" in _failure(model).traceback
    assert "grid.py" not in _failure(model).traceback


@pytest.mark.parametrize("depth", [3, 300])
def test_the_place_is_bounded_and_keeps_both_ends(depth):
    """A long chain keeps its first cause, which explains, and its last error, which is known."""

    def fall(n):
        try:
            fall(n - 1) if n else {}["the first cause"]
        except Exception as error:
            raise RuntimeError(f"level {n} {'x' * 50}") from error

    place = _failure(fall, depth).traceback
    assert len(place) <= 2000
    assert f"level {depth}" in place
    if depth < 10:
        assert "the first cause" in place


def test_the_place_is_journaled_without_secrets():
    """As every text of a line: what looks like a key is replaced."""
    details = 'File "m.py", line 3, in ask\nValueError: token=abcdef0123456789'
    event = TileChanged(1.0, TILE, TileStatus.FAILED, error="ValueError", details=details)
    read = from_line(to_line(event))
    assert isinstance(read, TileChanged)
    assert "line 3, in ask" in read.details and "abcdef0123456789" not in read.details


def test_a_result_a_strict_run_and_a_journal_say_the_place():
    """Wherever its author looks for it."""
    pixels = np.zeros((50, 50, 3), np.uint8)
    how = {"grid": "1x1", "retry": tv.Retry(attempts=1), "progress": False, "synthesis": None}

    def model(pixels):
        return helper({"bboxes": pixels})

    run = tv.start(pixels, model, checkpoint="kept", **how)
    run.wait(200)
    failed = run.result().failed
    assert "in helper" in failed.loc[0, "details"]
    (journal,) = (e for e in tv.FollowedRun(run.id, "kept").events() if isinstance(e, TileChanged))
    assert journal.details == failed.loc[0, "details"]
    with pytest.raises(tv.IncompleteRun) as caught:
        tv.analyze(pixels, model, checkpoint=None, strict=True, **how)
    assert "in helper" in "".join(caught.value.__notes__)
