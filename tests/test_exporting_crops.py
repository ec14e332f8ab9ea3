"""Tiles with their labels, and folders that replace nothing of anyone else's."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import yaml
from exported import result_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from tilevision.errors import RunError, SourceError
from tilevision.exporting.crops import uncertainty
from tilevision.exporting.folders import filling
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.sources import ImageMetadata, open_source

PIXELS = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
TILES = [
    Tile(0, 0, Box(0, 0, 200, 150), 0.5),
    Tile(0, 1, Box(200, 0, 400, 150), 0.5),
    Tile(1, 0, Box(0, 150, 200, 300), 0.5),
    Tile(1, 1, Box(200, 150, 400, 300), 0.5),
]
SURE = Findings([[10, 10, 30, 30.5]], [0.99], ["ship"], class_ids=[3])
UNSURE = Findings([[5, 6, 7, 8], [20, 20, 40, 40]], [0.55, 0.95], ["ship", "car"], class_ids=[3, 0])
HALF_SURE = Findings([[1, 1, 9, 9]], [0.3], ["car"], class_ids=[0])


def _result(
    source=None, statuses=("done", "restored", "done", "failed"), checkpoint=None, **settings
):
    seen = [SURE, UNSURE, HALF_SURE]
    return Result(
        open_source(PIXELS) if source is None else source,
        [TileRow(0.0, tile, status) for tile, status in zip(TILES, statuses, strict=True)],
        [TileFindings(tile, found) for tile, found in zip(TILES, seen, strict=False)],
        MergeSettings(**settings),
        RunFacts(run_id="run-77", status="partial", model="m", checkpoint=checkpoint),
        "scan.tif",
    )


def _names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def _coco(folder):
    return json.loads((folder / "annotations.coco.json").read_text("utf-8"))


def test_crops_are_the_pixels_the_model_saw(tmp_path):
    """A crop has the size of the tile at its scale, and the pixels `read` gives for it."""
    result = _result()
    folder = result.export_tiles(tmp_path / "crops", "all")
    for tile in TILES:
        pixels = np.asarray(Image.open(folder / "images" / f"{tile.id}.png"))
        assert pixels.shape == (75, 100, 3)
        np.testing.assert_array_equal(pixels, result.source.read(tile.box, tile.scale))


def test_labels_are_in_the_frame_of_the_crop(tmp_path):
    """Pycocotools reads boxes in the crop's pixels; box and scale lead back to the image."""
    result = _result()
    folder = result.export_tiles(tmp_path / "crops", "all")
    coco = COCO(folder / "annotations.coco.json")
    back = []
    for image in coco.loadImgs(coco.getImgIds()):
        assert Image.open(folder / image["file_name"]).size == (image["width"], image["height"])
        for row in coco.loadAnns(coco.getAnnIds(image["id"])):
            x, y, w, h = row["bbox"]
            name = coco.loadCats(row["category_id"])[0]["name"]
            corner = np.tile(image["box"][:2], 2)
            back.append((name, *(np.array([x, y, x + w, y + h]) / image["scale"] + corner)))
    found = [seen.in_image() for seen in result.tile_findings]
    mine = [(str(n), *b) for f in found for n, b in zip(f.labels, f.boxes, strict=True)]
    assert sorted(row[0] for row in back) == sorted(row[0] for row in mine)
    np.testing.assert_allclose(
        sorted(row[1:] for row in back), sorted(row[1:] for row in mine), atol=0.01
    )


def _objects(folder):
    """Tile, class and box in pixels of the image, of each annotation."""
    coco = _coco(folder)
    images = {image["id"]: image for image in coco["images"]}
    names = {one["id"]: one["name"] for one in coco["categories"]}
    found = []
    for row in coco["annotations"]:
        image, (x, y, w, h) = images[row["image_id"]], row["bbox"]
        left, top = image["box"][:2]
        box = np.array([x, y, x + w, y + h]) / image["scale"] + [left, top, left, top]
        found.append((image["tile"], names[row["category_id"]], tuple(box.round(2).tolist())))
    return sorted(found)


def _corrected(tmp_path):
    result = _result(checkpoint=str(tmp_path))
    hand = result.corrections
    hand.delete(int(np.flatnonzero(result.findings.scores == 0.99)[0]))
    hand.relabel(int(np.flatnonzero(result.findings.scores == 0.95)[0]), "lorry")
    hand.add("ship", outline=[(150, 60), (250, 60), (250, 100), (150, 100)])
    hand.add("ship", box=(20, 100, 60, 152))  # 2 of its 52 rows lie in the tile below
    return result


def test_tiles_have_what_a_person_made_of_them(tmp_path):
    """Each object is cut to its tile, unless less than a tenth lies there; counts are said."""
    result = _corrected(tmp_path)
    folder = result.corrected().export_tiles(tmp_path / "crops", "all")
    assert _objects(folder) == [
        ("r000c000", "ship", (20, 100, 60, 150)),
        ("r000c000", "ship", (150, 60, 200, 100)),
        ("r000c001", "lorry", (240, 40, 280, 80)),
        ("r000c001", "ship", (200, 60, 250, 100)),
        ("r000c001", "ship", (210, 12, 214, 16)),
        ("r001c000", "car", (2, 152, 18, 168)),
    ]
    said = "Corrected by hand: 2 added, 1 deleted, 1 re-labelled."
    assert said in _coco(folder)["info"]["description"]
    assert said in (folder / "tilevision.json").read_text("utf-8")
    outline = [
        row for row in _coco(folder)["annotations"] if row["bbox"] == [75.0, 30.0, 25.0, 20.0]
    ]
    assert outline[0]["segmentation"], "what was drawn as an outline stays one"
    plain = result.export_tiles(tmp_path / "plain", "all")
    assert "Corrected" not in _coco(plain)["info"]["description"]
    assert len(_objects(plain)) == 4


def test_yolo_labels_have_what_a_person_made_of_them(tmp_path):
    """The class that only a person gave has a number, and its line."""
    result = _corrected(tmp_path)
    folder = result.corrected().export_tiles(tmp_path / "crops", "all", yolo=True)
    names = yaml.safe_load((folder / "data.yaml").read_text())["names"]
    lines = (folder / "labels" / "r000c001.txt").read_text().splitlines()
    assert sorted(names[int(line.split()[0])] for line in lines) == ["lorry", "ship", "ship"]


@pytest.mark.parametrize(
    ("which", "tiles"),
    [
        ("uncertain", ["r000c001", "r001c000"]),
        ("failed", ["r001c001"]),
        ("all", ["r000c000", "r000c001", "r001c000", "r001c001"]),
        (lambda row, found: len(found) == 1 and row.status == "done", ["r000c000", "r001c000"]),
        (lambda row, found: False, []),
    ],
    ids=["uncertain", "failed", "all", "predicate", "none"],
)
def test_which_tiles_are_written(tmp_path, which, tiles):
    """Doubtful, failed, all, or as a function of row and findings says; none is fine too."""
    folder = _result().export_tiles(tmp_path / "crops", which)
    images = [f"images/{tile}.png" for tile in tiles]
    assert _names(folder) == sorted(["annotations.coco.json", "tilevision.json", *images])
    assert [image["file_name"] for image in _coco(folder)["images"]] == images


def test_the_most_uncertain_come_first(tmp_path):
    """`limit` keeps the tiles that are most in doubt."""
    folder = _result().export_tiles(tmp_path / "crops", "all", limit=1)
    assert _names(folder)[1] == "images/r000c001.png"
    for limit in (0, -1, True, "2"):
        with pytest.raises(RunError, match=r"limit is .*give a whole number"):
            _result().export_tiles(tmp_path / "crops", limit=limit)


def test_thresholds_hold_for_the_labels(tmp_path):
    """What `with_` drops from the result is no label, and its class keeps its number."""
    whole = _coco(_result().export_tiles(tmp_path / "a", "all"))
    strict = _coco(_result(min_score=0.9).export_tiles(tmp_path / "b", "all"))
    assert len(whole["annotations"]) == 4
    assert [row["score"] for row in strict["annotations"]] == [0.99, 0.95]
    assert (
        strict["categories"]
        == whole["categories"]
        == [
            {"id": 1, "name": "car"},
            {"id": 4, "name": "ship"},
        ]
    )


def test_skipped_tiles_are_nobodys_work(tmp_path):
    """Tiles outside the region are not written, nor are findings of a tile that failed later."""
    result = _result(statuses=("done", "failed", "skipped", "skipped"))
    folder = result.export_tiles(tmp_path / "crops", "all")
    images = _coco(folder)["images"]
    assert [(i["tile"], i["status"]) for i in images] == [
        ("r000c000", "done"),
        ("r000c001", "failed"),
    ]
    assert len(_coco(folder)["annotations"]) == 1


def test_crops_for_yolo(tmp_path):
    """With `yolo`, a text of labels beside each picture, empty where nothing was found."""
    folder = _result().export_tiles(tmp_path / "crops", "all", yolo=True)
    names = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))["names"]
    rows = np.loadtxt(folder / "labels" / "r000c001.txt")
    assert sorted(names[int(c)] for c in rows[:, 0]) == ["car", "ship"]
    boxes = rows[np.argsort(rows[:, 0]), 1:] * [100, 75, 100, 75]
    np.testing.assert_allclose(boxes, [[30, 30, 20, 20], [6, 7, 2, 2]], atol=0.01)
    assert (folder / "labels" / "r001c001.txt").read_text() == ""


def test_crops_say_what_was_not_analysed_and_no_time(tmp_path):
    """The folder names missing tiles; a resumed run leaves the same bytes."""
    a = _result().export_tiles(tmp_path / "a", "all", yolo=True)
    b = _result(statuses=("restored", "done", "restored", "failed")).export_tiles(
        tmp_path / "b", "all", yolo=True
    )
    assert "25% of the area, were not analysed" in _coco(a)["info"]["description"]
    assert json.loads((a / "tilevision.json").read_text())["not_analysed"][0]["tile"] == "r001c001"
    assert _names(a) == _names(b)
    for name in _names(a):
        assert (a / name).read_bytes() == (b / name).read_bytes()
        assert b"run-77" not in (a / name).read_bytes()


def test_another_choice_replaces_the_first(tmp_path):
    """A second export to the folder leaves nothing of the one before."""
    folder = _result().export_tiles(tmp_path / "crops", "all", yolo=True)
    _result().export_tiles(folder, "failed")
    assert _names(folder) == ["annotations.coco.json", "images/r001c001.png", "tilevision.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["crops"]


class Damaged:
    """A picture of which one corner cannot be read."""

    size, bands, dtype, fingerprint = (400, 300), 3, np.dtype(np.uint8), "ab"
    metadata = ImageMetadata()

    def read(self, box, scale=1.0, bands=None):
        """Refuse the corner."""
        if box.x0 and box.y0:
            raise SourceError("damaged")
        return open_source(PIXELS).read(box, scale, bands)


def test_tiles_that_cannot_be_read_are_left_out_aloud(tmp_path):
    """A damaged tile costs neither the others nor the silence."""
    with pytest.warns(UserWarning, match="pixels of r001c001 cannot be read"):
        folder = _result(Damaged()).export_tiles(tmp_path / "crops", "all")
    assert len(_coco(folder)["images"]) == len(_names(folder)) - 2 == 3


def test_a_rule_of_tiles_that_fails_is_one_line(tmp_path):
    """A user's function that takes one argument is told what it is called with."""
    with pytest.raises(
        RunError, match=r"which= failed for tile r000c000: .*which\(row, findings\)"
    ):
        _result().export_tiles(tmp_path / "crops", lambda row: True)
    assert not (tmp_path / "crops").exists()


def test_an_unknown_choice_is_one_line(tmp_path):
    """A word that is no choice is refused with those that are, before anything is written."""
    with pytest.raises(
        RunError, match=r"which='best' .*'uncertain', 'failed', 'all' or a function"
    ):
        _result().export_tiles(tmp_path / "crops", "best")
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(0, 1), max_size=5))
def test_uncertainty_is_a_share(scores):
    """Uncertainty lies in 0 to 1, is 1 at a score of 0.5, and grows with more detections."""
    boxes = [[0, 0, 1, 1]] * len(scores)
    doubt = uncertainty(Findings(boxes, scores))
    assert 0 <= doubt <= 1
    assert doubt >= uncertainty(Findings(boxes[1:], scores[1:]))
    assert uncertainty(Findings([*boxes, [0, 0, 1, 1]], [*scores, 0.5])) == 1


def test_uncertainty_of_a_classified_tile_is_its_margin():
    """Two classes close together are doubtful; unscored detections and one class say nothing."""
    assert uncertainty(Findings(tile_scores={"a": 0.45, "b": 0.4, "c": 0.15})) == pytest.approx(
        0.95
    )
    assert uncertainty(Findings(tile_scores={"a": 0.9})) == 0
    assert uncertainty(Findings([[0, 0, 1, 1]])) == 0


def _foreign(folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")


@pytest.mark.parametrize("mark", [None, "{", '{"files": ["../other.txt"]}', "[]", '{"files": 3}'])
def test_a_folder_of_others_is_refused(tmp_path, mark):
    """Whatever no export wrote stays, whatever a file named like ours may claim."""
    folder = tmp_path / "out"
    _foreign(folder)
    (tmp_path / "other.txt").write_text("mine")
    if mark is not None:
        (folder / "tilevision.json").write_text(mark)
    for write in (
        lambda: _result().export_tiles(folder),
        lambda: result_of().save(folder, format="yolo"),
    ):
        with pytest.raises(RunError, match="which no earlier export wrote; give a new folder"):
            write()
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "other.txt").read_text() == "mine"


def test_what_is_put_into_an_export_is_not_lost(tmp_path):
    """A file added to an export refuses the next; pictures for YOLO stay where they are."""
    crops = _result().export_tiles(tmp_path / "crops", "failed")
    (crops / "images" / "r000c000.png").write_bytes(b"mine")
    with pytest.raises(RunError, match=r"holds images/r000c000\.png"):
        _result().export_tiles(crops, "all")
    labels = result_of().save(tmp_path / "a.yolo")
    (labels / "images").mkdir()
    (labels / "images" / "scan.tif").write_bytes(b"mine")
    result_of(Findings()).save(labels)
    assert (labels / "images" / "scan.tif").read_bytes() == b"mine"
    assert (labels / "labels" / "scan.txt").read_text() == ""


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    """A link is foreign; what it points to stays."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels").symlink_to(tmp_path / "far")
    with pytest.raises(RunError, match="holds labels, which no earlier export"):
        result_of().save(tmp_path / "out", format="yolo")
    assert (tmp_path / "far" / "a.txt").read_text() == "mine"


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    """Whole or not at all: an error while filling leaves the earlier export and no draft."""
    folder = result_of().save(tmp_path / "a.yolo")
    before = (folder / "labels" / "scan.txt").read_bytes()

    def break_off():
        with filling(folder, {}) as draft:
            (draft / "half").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"Cannot write .*a\.yolo: No space left on device"):
        break_off()
    assert (folder / "labels" / "scan.txt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.yolo"]


def test_a_folder_has_the_permissions_of_any_other(tmp_path):
    """An exported folder is as readable as the user's umask says."""
    (tmp_path / "other").mkdir()
    folder = result_of().save(tmp_path / "a.yolo")
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_nothing_is_warned_of_without_reason(tmp_path):
    """A clean export is silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _result().export_tiles(tmp_path / "crops", "all", yolo=True)
