"""Many images: names, files, the table, and a batch that holds no more than it must."""

from __future__ import annotations

import csv
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import tilevision as tv
from tilevision.batch.batch import ImageRow, write_summary
from tilevision.batch.imagenames import export_name, named_images, stands_for_many, targets


def bright(pixels: Any) -> Any:
    """Find one thing in a tile that is not dark."""
    return [{"box": (1, 1, 9, 9), "score": 0.5, "label": "thing"}] * int(pixels.max() > 0)


def _pictures(*names: str) -> None:
    for number, name in enumerate(names, 1):
        Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(name)


def test_what_stands_for_images(elsewhere: Path) -> None:
    """Folder, pattern, pages and a list of such are the images, in order, by name."""
    Path("scans").mkdir()
    _pictures("scans/b.png", "scans/a.png", "c.png")
    tifffile.imwrite("doc.tif", np.zeros((2, 16, 16, 3), np.uint8), photometric="rgb")
    assert list(named_images("scans")) == ["a.png", "b.png"]
    assert list(named_images("scans/*.png")) == ["a.png", "b.png"]
    assert list(named_images("doc.tif#pages")) == ["doc.tif#page=1", "doc.tif#page=2"]
    several = ["c.png", "scans", Path("gone.png"), "none/*.tif", np.zeros((4, 4, 3), np.uint8)]
    names = ["c.png", "a.png", "b.png", "gone.png", "*.tif", "0005-array"]
    assert list(named_images(several)) == names
    assert [stands_for_many(one) for one in ("scans", "scans/*.png", "doc.tif#pages")] == [True] * 3
    assert not stands_for_many("c.png")
    assert not stands_for_many("doc.tif#page=1")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ([], "no image in"),
        ("none/*.tif", "no image in"),
        (["x/a.png", "y/a.png"], "Two images are named a.png"),
        (np.zeros((4, 4, 3), np.uint8), r"Give a list of images"),
        (7, "single int"),
    ],
)
def test_what_is_no_list_of_images_is_refused(elsewhere: Path, images: Any, told: str) -> None:
    """One line, before anything is opened."""
    with pytest.raises(tv.RunError, match=told):
        tv.analyze_many(images, bright)


def test_files_are_named_after_images(elsewhere: Path) -> None:
    """The suffix is the format's, and a page's number stays in the name."""
    assert export_name("scan.tif#page=3") == "scan-page3"
    files = targets("out", ["a.png", "b.ome.tif", "scan.tif#page=3"], "coco")
    names = [path.name for path in files.values()]
    assert names == ["a.coco.json", "b.ome.coco.json", "scan-page3.coco.json"]


@pytest.mark.parametrize(
    ("names", "form", "told"),
    [
        (["a.png", "a.tif"], "geojson", r"a\.png and a\.tif would both be written to a\.geojson"),
        (["a.png", "A.tif"], "geojson", r"a\.png and A\.tif"),
        (["summary.png"], "csv", r"the table of all images and summary\.png"),
        (["a.png"], "docx", "format is 'docx'"),
    ],
)
def test_files_that_cannot_be_are_refused(
    elsewhere: Path, names: list[str], form: str, told: str
) -> None:
    """Names that collide, on any disk, and unknown formats: nothing is made, nothing runs."""
    with pytest.raises(tv.RunError, match=told):
        targets("out", names, form)
    assert not Path("out").exists()


def test_the_table_is_safe_to_open(elsewhere: Path) -> None:
    """A file's name is no formula to a spreadsheet, and no markup to a notebook."""
    rows = [ImageRow("=cmd().png"), ImageRow("<b>.png", "error", error="a,b")]
    write_summary(rows, Path("summary.csv"))
    with Path("summary.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["image"] for row in read] == ["'=cmd().png", "<b>.png"]
    assert read[1]["error"] == "a,b"
    assert "<b>" not in tv.Batch(rows, {}, {})._repr_html_()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["kept", None])
def test_results_are_held_one_at_a_time(
    elsewhere: Path, cluster: None, checkpoint: str | None
) -> None:
    """Asked for by name, a result is the one that was; the one before is let go."""
    _pictures("a.png", "b.png")
    Path("c.png").write_text("no picture")
    batch = tv.analyze_many(".", bright, grid="1x2", checkpoint=checkpoint, progress=False)
    assert list(batch) == ["a.png", "b.png"]
    assert "c.png" not in batch
    assert "c.png is not an image" in str(batch.errors["c.png"])
    assert batch.errors["c.png"].__traceback__ is None
    first = batch.results["a.png"]
    assert batch["a.png"] is first
    assert first.complete
    assert len(first.findings) == 2
    assert first.name == "a.png"
    assert first.source.thumbnail(4)[0, 0, 0] == 40
    gone = weakref.ref(first)
    del first
    assert batch["b.png"].source.thumbnail(4)[0, 0, 0] == 80
    gc.collect()
    assert gone() is None


@pytest.mark.slow
def test_the_budget_is_for_all_images(elsewhere: Path, cluster: None) -> None:
    """What one image has cost is not there for the next."""
    _pictures("a.png", "b.png", "c.png")
    model = tv.model(bright, price=1.0)
    batch = tv.analyze_many(".", model, grid="1x2", budget=3.0, progress=False)
    assert [row.status for row in batch.rows] == ["complete", "stopped", "error"]
    assert "3 of the budget of 3 is spent" in batch.rows[2].error
    assert not batch.complete
    again = tv.analyze_many(".", model, grid="1x2", budget=3.0, progress=False)
    assert again.complete


@pytest.mark.slow
def test_pages_are_images_of_their_own(elsewhere: Path, cluster: None) -> None:
    """Two equally large pages are analysed apart, and a page's file says which it is."""
    dark, light = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 99, np.uint8)
    tifffile.imwrite("doc.tif", np.stack([dark, light]), photometric="rgb")
    batch = tv.analyze_many("doc.tif#pages", bright, grid="1x1", out_dir="out", progress=False)
    assert [row.detections for row in batch.rows] == [0, 1]
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["doc-page1.geojson", "doc-page2.geojson", "summary.csv"]
    assert len(batch["doc.tif#page=2"].findings) == 1
