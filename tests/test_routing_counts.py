"""Which model decides on a tile: told the same by plan, events, result, files and the journal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_tiles import SIDE, Inline, inline_runs  # noqa: F401 - fixtures

import tilevision as tv
from tilevision.events import Journal, TileChanged, journal_path
from tilevision.history import cascade_steps, stored_result
from tilevision.history.runrecord import ModelName, Recording
from tilevision.history.storedresult import ReadRun
from tilevision.modelspec import ModelSpec
from tilevision.pipeline.manifest import _routing
from tilevision.pipeline.planning import labels
from tilevision.pipeline.run import open_checkpoint
from tilevision.routing import last_label, sent_on, steps_of

Make = Callable[..., Inline]


def cheap(pixels: np.ndarray) -> Any:
    """Be sure of dark tiles: those of the picture are 10, 20, … 60 bright."""
    value = int(pixels[0, 0, 0])
    return [{"box": (4, 4, 10, 10), "label": "cheap", "score": 0.4 if value >= 30 else 0.9}]


def careful(pixels: np.ndarray) -> Any:
    """Find two objects in a tile, and fail on the brightest."""
    if int(pixels[0, 0, 0]) == 60:
        raise ValueError("too bright")
    boxes = [(4, 4, 10, 10), (20, 20, 30, 30)]
    return [{"box": box, "label": "careful", "score": 0.8} for box in boxes]


CASCADE = tv.Cascade(cheap, careful, when=(0.25, 0.6))
ONCE = {"retry": tv.Retry(attempts=1)}


# The order of models -------------------------------------------------------------------------


def _dark(facts: tv.TileFacts) -> bool:
    return facts.brightness[0] < 25


def _bright(facts: tv.TileFacts) -> bool:
    return facts.brightness[0] > 45


def _spec(name: str, **params: Any) -> ModelSpec:
    return tv.model(lambda pixels: [], name=name, fingerprint=f"{name}{params}", **params)


A, B, C, D = (_spec(name) for name in "abcd")
BLOBS, OTHER_BLOBS = tv.model("blobs"), tv.model("blobs", contrast=0.3)

ORDERS = {
    "one model": A,
    "cascade": tv.Cascade(A, B),
    "route": tv.Route(A, [(_dark, B)]),
    "a rule leads back": tv.Route(A, [(_dark, B), (_bright, A)]),
    "cascade, then a rule": tv.Route(tv.Cascade(A, B), [(_dark, C)]),
    "a rule, then a cascade": tv.Route(C, [(_dark, tv.Cascade(A, B))]),
    "two cascades": tv.Route(tv.Cascade(A, B), [(_dark, tv.Cascade(C, D))]),
    "two cascades to one": tv.Route(tv.Cascade(A, C), [(_dark, tv.Cascade(B, C, when=(0.1, 0.2)))]),
    "one name twice": tv.Cascade(BLOBS, OTHER_BLOBS),
}


def _asked(inline: Make, asked: Any) -> tuple[Any, list[Any]]:
    made = inline(asked).plan
    return made.stages.asked, list(made.passes)


@pytest.mark.parametrize("name", ORDERS)
def test_models_are_known_in_the_order_in_which_they_come(inline: Make, name: str) -> None:
    """By the models and by the journal alike: the last one is that of the last pass."""
    asked, passes = _asked(inline, ORDERS[name])
    kept = _routing(asked)
    for told in (asked, *([] if kept is None else [json.loads(json.dumps(kept))])):
        assert [step.label for step in steps_of(told)] == [one.label for one in passes]
        assert [bool(step.why) for step in steps_of(told)] == [
            one.after is not None for one in passes
        ]
        assert last_label(told) == (passes[-1].label if len(passes) > 1 else "")


def test_where_events_do_not_say_which_way_a_tile_came_no_model_is_last(inline: Make) -> None:
    """The second model of a cascade that other tiles come to first, and journals of old."""
    asked, passes = _asked(inline, tv.Route(tv.Cascade(A, B), [(_dark, B)]))
    named = {one.label for one in passes}
    assert last_label(asked) not in {*named, ""} and sent_on(asked) == {}
    assert last_label(ModelName("a or b", ("a", "b"))) not in {"a", "b", ""}
    assert last_label(ModelName("a", ("a",))) == last_label(ModelName("a")) == ""


def test_why_tiles_are_sent_on_is_said_for_each_cascade() -> None:
    """Two that lead to one model, each by a band of its own."""
    why = sent_on(ORDERS["two cascades to one"])
    assert why == {"c": "a score from 0.25 to 0.6 or a score from 0.1 to 0.2"}


# Whose findings count ------------------------------------------------------------------------


@pytest.fixture
def mixed(inline: Make, tmp_path: Path) -> Inline:
    """A cascade with a region of five of six tiles: two sure, two sent on, one that fails."""
    region = (0, 0, 3 * SIDE, 2 * SIDE - 1)
    made = inline(CASCADE, region=region, min_score=0.3, **ONCE)
    made.result = made.conduct()  # type: ignore[attr-defined]
    return made


def test_each_tile_counts_once_by_the_model_that_decided(mixed: Inline, tmp_path: Path) -> None:
    """A tile that failed in the second model is missing: the first one's answer is no stand-in."""
    result = mixed.result  # type: ignore[attr-defined]
    assert result.status == "partial" and not result.complete
    assert result.models == {"cheap": 2, "careful": 3}
    assert Counter(map(str, result.findings.labels)) == {"cheap": 2, "careful": 6}
    assert len(result.tile_findings) == 5
    (row,) = [row for row in result.rows if row.status == "failed"]
    assert row.model == "careful" and row.n_findings == 0 and "too bright" in row.error
    for told in (result.summary, result.coverage, repr(result)):
        assert "INCOMPLETE: 1 of 6 tiles" in told and "2 by cheap, 3 by careful" in told
    assert "a score from 0.25 to 0.6" not in result.summary
    assert int(result.regions["detections"].sum()) == 8


@pytest.mark.parametrize("name", ["a.json", "a.geojson", "a.coco.json", "a.qupath.geojson"])
def test_files_say_whose_findings_they_have(mixed: Inline, tmp_path: Path, name: str) -> None:
    """Tiles by model, and the tile that nobody decided on."""
    result = mixed.result  # type: ignore[attr-defined]
    kept = json.loads(result.save(tmp_path / name).read_text())
    said = kept.get("info", {}).get("tilevision", kept) if "coco" in name else kept
    said = said.get("tilevision", said)
    assert [(one["name"], one["tiles"]) for one in said["models"]] == [("cheap", 2), ("careful", 3)]
    assert [one["tile"] for one in said["not_analysed"]] == ["r001c002"]
    assert said["region"] is not None and said["complete"] is False


@pytest.fixture
def stored(inline: Make, tmp_path: Path) -> tuple[Any, str]:
    """The same run, in a checkpoint folder with its journal; as another process reads it."""
    folder = str(tmp_path / "kept")
    with open_checkpoint(folder) as store:
        made = inline(CASCADE, store=store, checkpoint=folder, **ONCE)
        manifest = made.conductor._manifest
        journal = Journal(journal_path(folder, manifest["id"]), manifest)
        made.control.bus.subscribe(journal)
        made.conduct()
        journal.close()
    return ReadRun(Recording(manifest["id"], folder)), folder


def test_a_stored_result_has_the_models_of_the_run(stored: tuple[Any, str]) -> None:
    """Read from the journal: whose findings a tile's are, by what is stored."""
    run, folder = stored
    result = stored_result(run, folder, model=CASCADE)
    assert result.models == {"cheap": 2, "careful": 3}
    assert Counter(map(str, result.findings.labels)) == {"cheap": 2, "careful": 6}


def test_the_first_model_alone_is_told_as_such(stored: tuple[Any, str]) -> None:
    """All its tiles are its own, also those that the second one decided on or failed on."""
    run, folder = stored
    steps = cascade_steps(run, folder, model=CASCADE)
    assert len(steps.went_on) == 4 and steps.words.startswith("4 of 6 tiles were also given")
    first = steps.first
    assert first.complete and first.models == {"cheap": 6}
    assert set(map(str, first.findings.labels)) == {"cheap"} and len(first.findings) == 6
    assert all(row.model == "cheap" and not row.error for row in first.rows)
    assert "careful" not in first.summary


def test_labels_are_those_of_events(inline: Make) -> None:
    """What tiles are counted by is what plan and events call a model."""
    made = inline(CASCADE, **ONCE)
    made.conduct()
    seen = {event.model for event in made.told(TileChanged) if event.model}
    asked = made.plan.stages.asked
    assert seen == set(labels(asked.models).values()) == {step.label for step in steps_of(asked)}
