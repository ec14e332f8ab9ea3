"""Corrections by hand: a layer over the model's objects, applied, counted, undone, kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from exported import Picture
from hypothesis import given, settings
from hypothesis import strategies as st

import tilevision as tv
from tilevision.corrections import CorrectionLog, Corrections
from tilevision.errors import RunError
from tilevision.findings import Findings, TileFindings
from tilevision.geometry import Box
from tilevision.grid import Tile
from tilevision.result import MergeSettings, Result, RunFacts, TileRow
from tilevision.view.picture.counting import count
from tilevision.view.picture.viewstate import initial

BOXES = [(10.0, 10.0, 40.0, 40.0), (100.0, 50.0, 140.0, 90.0), (200.0, 60.0, 230.0, 90.0)]
ROOT = os.geteuid() == 0


def tiled(*boxes: tuple[int, int, int, int]) -> list[Tile]:
    return [Tile(0, i, Box(*box)) for i, box in enumerate(boxes)]


WHOLE = tiled((0, 0, 400, 300))


def result_of(
    folder: Path | None,
    found: Findings | Sequence[Findings] | None = None,
    tiles: Sequence[Tile] = WHOLE,
    **merging,
) -> Result:
    """A result of the tiles' findings, in pixels of their tile."""
    given = Findings(BOXES, [0.9, 0.8, 0.3], ["cell"] * 3) if found is None else found
    parts = [given] if isinstance(given, Findings) else given
    rows = [TileRow(0.0, tile, "done") for tile in tiles]
    seen = [TileFindings(tile, part) for tile, part in zip(tiles, parts, strict=True)]
    facts = RunFacts("r", "complete", model="m", checkpoint=folder and str(folder))
    return Result(Picture(), rows, seen, MergeSettings(**merging), facts, "plot_1.png")


def told(result: Result) -> list[tuple[str, str, tuple[float, ...]]]:
    """Origin, label and box of each detection."""
    table = result.to_dataframe()
    origin = table.get("origin", ["model"] * len(table))
    boxes = map(tuple, result.findings.boxes.tolist())
    return list(zip(origin, table["label"], boxes, strict=True))


# What is done ---------------------------------------------------------------------------------


def test_each_verb_does_what_it_says_and_is_counted(tmp_path):
    """Delete, re-label, reshape, accept, add: the result says which objects are by hand."""
    result = result_of(tmp_path)
    hand = result.corrections
    hand.delete(0)
    hand.relabel(1, "mitosis")
    hand.reshape(1, box=(100, 50, 150, 90))
    hand.accept(2)
    hand.add("cell", outline=[(300, 200), (340, 200), (300, 240)])
    done = result.corrected()
    assert told(done) == [
        ("re-labelled and reshaped", "mitosis", (100, 50, 150, 90)),
        ("accepted", "cell", BOXES[2]),
        ("added", "cell", (300, 200, 340, 240)),
    ]
    words = "1 added, 1 deleted, 1 re-labelled, 1 reshaped, 1 accepted"
    assert f"Corrected by hand: {words}." in done.coverage
    assert all(words in text for text in (done.summary, done.methods(), repr(done)))
    assert len(result.findings) == 3 and "by hand" not in result.summary  # it stays what it was


def test_corrections_are_found_again_by_another_process(tmp_path):
    """They stand in the checkpoint folder, for the image and the model's name."""
    result_of(tmp_path).corrections.delete([0, 1])
    again = result_of(tmp_path).corrected()
    assert len(again.findings) == 1
    assert again.correction_counts.deleted == 2
    again.corrections.undo()  # both were one step
    assert len(result_of(tmp_path).corrected().findings) == 3


def test_what_was_corrected_is_corrected_further(tmp_path):
    """A row of a corrected result is the object it came from, and not a new one."""
    result_of(tmp_path).corrections.add("cell", box=(300, 200, 340, 240))
    done = result_of(tmp_path).corrected()
    added = done.to_dataframe().query("origin == 'added'").index[0]
    done.corrections.relabel(added, "mitosis")
    done = done.corrected()
    assert ("added", "mitosis", (300, 200, 340, 240)) in told(done)
    done.corrections.delete(int(done.to_dataframe().query("label == 'mitosis'").index[0]))
    assert told(done.corrected()) == told(result_of(tmp_path))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["delete", "accept", "relabel", "add", "undo", "redo"])))
def test_undo_and_redo_are_exact(verbs):
    """After any steps, undoing all gives the model's result, and redoing all what was there."""
    result, log = result_of(None), CorrectionLog(None)
    hand = Corrections(result, log)
    for verb in verbs:
        done = result.corrected(hand.layer)
        steps = {
            "delete": lambda done=done: len(done.findings) and Corrections(done, log).delete(0),
            "accept": lambda done=done: len(done.findings) and Corrections(done, log).accept(0),
            "relabel": lambda done=done: (
                len(done.findings) and Corrections(done, log).relabel(0, "b")
            ),
            "add": lambda: hand.add("cell", box=(5 + len(hand), 200, 60, 250)),
            "undo": hand.undo,
            "redo": hand.redo,
        }
        steps[verb]()
    last = told(result.corrected(hand.layer))
    n = 0
    while hand.undo():
        n += 1
    assert result.corrected(hand.layer).findings == result.findings
    for _ in range(n):
        assert hand.redo()
    assert told(result.corrected(hand.layer)) == last


# Other runs and other limits -----------------------------------------------------------------


def test_an_object_that_moved_a_little_is_still_the_one(tmp_path):
    """Another run or merge gives other pixels: the object is matched by class and overlap."""
    result_of(tmp_path).corrections.delete(0)
    moved = Findings([(12, 9, 43, 38), *BOXES[1:]], [0.9, 0.8, 0.3], ["cell"] * 3)
    done = result_of(tmp_path, moved).corrected()
    assert len(done.findings) == 2 and done.correction_counts.lost == 0


def test_corrections_without_their_object_are_counted_and_change_nothing(tmp_path):
    """Never dropped in silence: the summary says how many no longer find their object."""
    hand = result_of(tmp_path).corrections
    hand.delete(0)
    hand.relabel(1, "mitosis")
    other = result_of(tmp_path, Findings(BOXES[2:], [0.3], ["cell"])).corrected()
    assert len(other.findings) == 1
    assert other.correction_counts.lost == 2
    assert "2 corrections no longer find their objects and change nothing." in other.summary


def test_the_picture_says_corrected_only_where_something_was(tmp_path):
    """A count that no correction touches is not said to be corrected by hand."""
    first = result_of(tmp_path)
    first.corrections.delete(0)
    other = result_of(tmp_path, Findings(BOXES[2:], [0.3], ["cell"]))
    seen = [count(one.corrected(), initial(WHOLE)).words for one in (first, other)]
    assert [words.endswith("corrected by hand") for words in seen] == [True, False]
    assert other.corrected().correction_counts.lost == 1


def test_a_person_outweighs_a_score(tmp_path):
    """What was accepted or re-labelled stays below a limit of score; the rest goes."""
    hand = result_of(tmp_path).corrections
    hand.accept(2)  # of score 0.3
    assert [one[0] for one in told(result_of(tmp_path, min_score=0.85).corrected())] == [
        "model",
        "accepted",
    ]
    assert len(result_of(tmp_path, max_score=0.1).corrected().findings) == 1
    hand.relabel(2, "mitosis")
    chosen = result_of(tmp_path).corrected().with_(classes="mitosis", min_score=0.85)
    assert [one[1] for one in told(chosen)] == ["mitosis"]
    assert chosen.correction_counts.lost == 0


def test_an_added_object_that_the_model_finds_now_counts_once(tmp_path):
    """A limit of score hid it when it was drawn, or another model sees it."""
    high = result_of(tmp_path, min_score=0.5)
    assert len(high.findings) == 2
    high.corrections.add("cell", box=(201, 61, 231, 90))
    assert len(high.corrected().findings) == 3
    low = result_of(tmp_path).corrected()
    assert len(low.findings) == 3 and low.correction_counts.added == 1


def test_an_object_that_was_added_beside_another_stays_beside_it(tmp_path):
    """Two that overlap by half are two where a person saw both."""
    result_of(tmp_path).corrections.add("cell", box=(101, 52, 141, 92))
    assert len(result_of(tmp_path).corrected().findings) == 4


def test_of_two_that_overlap_the_right_one_is_deleted(tmp_path):
    """One to one, the most alike first: the double goes, the object stays."""
    double = Findings([BOXES[0], (12.0, 12.0, 42.0, 42.0)], [0.9, 0.8], ["cell"] * 2)
    result = result_of(tmp_path, double, method="none")
    result.corrections.delete(1)
    assert [one[2] for one in told(result.corrected())] == [BOXES[0]]


def test_what_is_not_shown_is_neither_applied_nor_missed(tmp_path):
    """Corrections outside the region, or where no tile was analysed, are not lost."""
    tiles = tiled((0, 0, 160, 300), (160, 0, 400, 300))
    left = Findings(BOXES[:2], [0.9, 0.8], ["cell"] * 2)
    right = Findings([(40.0, 60.0, 70.0, 90.0)], [0.3], ["cell"])
    result_of(tmp_path, [left, right], tiles).corrections.delete([1, 2])
    part = result_of(tmp_path, left, tiles[:1]).corrected()
    assert (part.correction_counts.deleted, part.correction_counts.elsewhere) == (1, 1)
    cut = result_of(tmp_path, [left, right], tiles).corrected().with_(region=(0, 0, 90, 300))
    assert (len(cut.findings), cut.correction_counts.elsewhere) == (1, 2)


def test_the_rest_of_an_object_is_the_models(tmp_path):
    """Score, text, attributes, class number and vector stay with what was only accepted."""
    found = Findings(
        BOXES[:1], [0.9], ["cell"], [7], texts=["A"], attributes=[{"x": 1}], embeddings=[[1.0, 2]]
    )
    result = result_of(tmp_path, found)
    result.corrections.accept(0)
    one = result.corrected().findings
    assert (one.scores[0], one.class_ids[0], one.texts[0]) == (0.9, 7, "A")
    assert one.attributes[0] == {"x": 1, "by_hand": "accepted"}
    assert one.embeddings.tolist() == [[1, 2]]


def test_a_class_that_only_a_person_gave_has_a_number_of_its_own(tmp_path):
    """Numbers of the model's classes stay as they are."""
    result = result_of(tmp_path, Findings(BOXES, labels=["b", "c", "d"]))
    result.corrections.relabel(0, "a")
    done = result.corrected()
    assert done.classes == result.classes | {"a": 3}
    assert 3 in done.to_dataframe()["class_id"].tolist()


# As truth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.geojson", "t.coco.json", "t.csv", "t.parquet"])
def test_a_corrected_result_is_truth(tmp_path, name):
    """What a person made of a result measures the model's: two wrong, one missed."""
    result = result_of(tmp_path)
    hand = result.corrections
    hand.delete(0)
    hand.relabel(1, "mitosis")
    hand.reshape(2, outline=[(200, 60), (230, 60), (230, 90), (205, 90)])
    hand.add("cell", box=(300, 200, 340, 240))
    truth = result.corrected().save(tmp_path / name)
    assert tv.evaluate(result.corrected(), truth).f1 == 1
    scored = tv.evaluate(result, truth)
    assert (scored.n_true, scored.n_found, scored.n_matched) == (3, 3, 1)


def test_files_say_what_was_corrected(tmp_path):
    """In the statement of what was analysed, and object by object."""
    result = result_of(tmp_path)
    result.corrections.accept(0)
    said = json.loads(result.corrected().save(tmp_path / "t.coco.json").read_text())
    about = said["info"]["tilevision"]
    assert about["corrections"]["accepted"] == 1 and "1 accepted" in about["coverage"]
    hands = [one.get("attributes") for one in said["annotations"]]
    assert hands == [{"by_hand": "accepted"}, None, None]
    raw = json.loads(result.save(tmp_path / "raw.coco.json").read_text())
    assert "corrections" not in raw["info"]["tilevision"]


# What cannot be done -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda hand: hand.delete(3), "There is no detection 3; the last is 2."),
        (lambda hand: hand.delete([]), "rows is empty"),
        (lambda hand: hand.relabel(0, " "), "give the name of a class"),
        (lambda hand: hand.relabel(0, "half \ud83d"), "which no file can hold"),
        (lambda hand: hand.add("\ud83d", box=(1, 2, 3, 4)), "which no file can hold"),
        (lambda hand: hand.add("cell"), "either box= or outline="),
        (lambda hand: hand.add("cell", box=(1, 2, np.nan, 4)), "give xmin, ymin, xmax, ymax"),
        (lambda hand: hand.add("cell", box=(500, 1, 600, 9)), "no area within the image"),
        (lambda hand: hand.reshape(0, outline=[(1, 1), (5, 5)]), "outline is not understood"),
        (lambda hand: hand.reshape(0, outline=[(1, 1), (5, 5), (9, 9)]), "no area"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_kept(tmp_path, step, words):
    """One line says what and the remedy; no file was begun."""
    with pytest.raises(RunError, match=words):
        step(result_of(tmp_path).corrections)
    assert not (tmp_path / "corrections").exists()


def test_a_result_without_a_folder_says_so():
    """Corrections that nothing keeps would be lost with the kernel."""
    with pytest.raises(RunError, match="checkpoint="):
        _ = result_of(None).corrections


# The file ------------------------------------------------------------------------------------


def test_two_panels_write_to_one_layer(tmp_path):
    """Each sees what the other did, and undo takes back the latest, whoever made it."""
    one, two = result_of(tmp_path).corrections, result_of(tmp_path).corrections
    one.delete(0)
    two.delete(1)
    assert len(one) == len(two) == 2
    one.undo()
    assert [entry.was.box for entry in two.layer.entries] == [BOXES[0]]
    two.redo()
    assert len(one) == 2


def test_who_listens_hears_of_what_others_wrote(tmp_path):
    """Each step once it is kept, undo too; neither what it wrote itself nor what was refused."""
    heard = []
    path = tmp_path / "layer.jsonl"
    mine = CorrectionLog(path, heard=lambda: heard.append(len(mine.layer)))
    other, elsewhere = CorrectionLog(path), CorrectionLog(tmp_path / "of-another.jsonl")
    add = {"verb": "add", "object": {"label": "cell", "box": [0, 0, 5, 5]}}
    for log in (mine, elsewhere, other):
        log.write([add])
    assert len(heard) == 1
    with pytest.raises(RunError):
        other.write([{"verb": "delete", "on": "nothing"}])
    assert other.undo()
    assert len(heard) == 2
    mine.close()
    other.write([add])
    assert len(heard) == 2


def test_a_torn_or_damaged_line_costs_itself_alone(tmp_path):
    """A crash in the middle of a write leaves all steps before it, and the next one works."""
    hand = result_of(tmp_path).corrections
    hand.delete(0)
    hand.accept(1)
    whole = hand.path.read_bytes()
    for cut in range(len(whole) - 2, 0, -37):
        hand.path.write_bytes(whole[:cut])
        later = result_of(tmp_path).corrections
        kept = whole[:cut].count(b"\n")
        assert len(later) == max(kept - 1, 0)
        later.accept(2)
        assert len(result_of(tmp_path).corrections) == max(kept - 1, 0) + 1
    hand.path.write_bytes(whole.replace(b'"verb": "delete"', b'"verb": 7', 1))
    damaged = result_of(tmp_path).corrections
    assert len(damaged) == 1 and "1 damaged line" in repr(damaged)
    assert (
        "1 line of the file of corrections cannot be read."
        in result_of(tmp_path).corrected().summary
    )


def test_a_step_of_many_is_done_whole_or_not_at_all(tmp_path):
    """Half of a step that a crash left is none."""
    hand = result_of(tmp_path).corrections
    hand.delete([0, 1, 2])
    lines = hand.path.read_bytes().splitlines(keepends=True)
    hand.path.write_bytes(b"".join(lines[:-1]))
    assert len(result_of(tmp_path).corrections) == 0
    result_of(tmp_path).corrections.accept(0)
    assert len(result_of(tmp_path).corrections) == 1


KILLED = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import test_corrections as t
hand = t.result_of(Path(sys.argv[1])).corrections
n = 0
while True:
    (hand.accept if n % 2 else hand.delete)(n % 3)
    n += 1
    os.write(1, f"{n}\\n".encode())
"""


@pytest.mark.slow
def test_a_killed_process_loses_no_step_that_it_was_told_is_kept(tmp_path):
    """`kill -9` at any moment: every step that had returned is there, and undo still works."""
    path = [str(Path(__file__).parent)]
    command = [sys.executable, "-c", KILLED, str(tmp_path), *path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if int(line) == 25:
                break
        process.kill()
        told = [int(line) for line in process.stdout.read().split()] or [25]
    hand = result_of(tmp_path).corrections
    n = 0
    while hand.undo():
        n += 1
    assert n >= told[-1] and len(hand) == 0


def test_a_file_of_a_later_release_is_refused(tmp_path):
    """It may say what this release does not know."""
    hand = result_of(tmp_path).corrections
    hand.delete(0)
    hand.path.write_text(hand.path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(RunError, match="written by a later tilevision"):
        result_of(tmp_path).corrected()


def test_what_is_no_folder_is_said_in_one_line(tmp_path):
    """A file where the folder of corrections would be."""
    (tmp_path / "corrections").write_text("")
    result = result_of(tmp_path)
    assert result.corrected().findings == result.findings
    said = (
        r"Cannot write .*: File exists; a file has the place of a folder .*: move that file away\.$"
    )
    with pytest.raises(RunError, match=said):
        result.corrections.delete(0)


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path):
    """What is there is still read; nothing is half done."""
    hand = result_of(tmp_path).corrections
    hand.delete(0)
    hand.path.chmod(0o400)
    again = result_of(tmp_path).corrections
    with pytest.raises(RunError, match="Permission denied"):
        again.delete(1)
    assert len(again) == 1
    hand.path.chmod(0o600)


def test_a_full_disk_leaves_no_half_of_a_step(tmp_path, monkeypatch):
    """The line that did not fit is taken back, and the step has not happened."""
    hand = result_of(tmp_path).corrections
    hand.delete(0)
    before, write = hand.path.read_bytes(), os.write

    def full(file, data):
        if len(data) > 40:
            return write(file, data[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(RunError, match="No space left on device"):
        hand.accept(1)
    monkeypatch.undo()
    assert hand.path.read_bytes() == before and len(hand) == 1
    hand.accept(1)
    assert len(result_of(tmp_path).corrections) == 2


# Where to look first -------------------------------------------------------------------------


def test_tiles_in_doubt_come_first():
    """By scores near the limit, on both sides of it, and not by how many there are."""
    tiles = tiled((0, 0, 100, 300), (100, 0, 200, 300), (200, 0, 300, 300), (300, 0, 400, 300))
    box = (10, 10, 30, 30)
    scores = [[0.99] * 3, [0.55, 0.45], [0.5], []]
    found = [Findings([box] * len(each), each) for each in scores]
    table = result_of(None, found, tiles).uncertain()
    assert table["id"].tolist() == [tiles[i].id for i in (1, 2, 0, 3)]
    assert table["doubtful"].tolist() == [1.5, 1.0, 0.0, 0.0]
    at_limit = result_of(None, found, tiles, min_score=0.99).uncertain()
    assert at_limit["doubtful"].tolist() == [3, 0, 0, 0]


def test_tiles_that_disagree_come_first():
    """An object that one tile saw and its neighbour should have; not one that its edge cuts."""
    tiles = tiled((0, 0, 200, 300), (100, 0, 400, 300))
    both, one, cut = (120, 20, 150, 50), (120, 100, 150, 130), (90, 200, 130, 230)
    left = Findings([both, one, cut], [0.9] * 3)
    right = Findings([(20, 20, 50, 50)], [0.9])
    table = result_of(None, [left, right], tiles).uncertain()
    assert table["disagreements"].tolist() == [1, 1]
    assert table["uncertainty"].tolist() == [1, 1]
