"""Stored work outlives the code that stored it: identities, records and journals of version 0.1.0.

`tests/stored/record.py` wrote them with the code as it was then. What holds here holds for every
later layout and release: no stored tile runs again because a file moved or a number went up.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

import tilevision as tv
from tilevision.catalogue import resolve
from tilevision.fingerprint import fingerprint_function, provenance
from tilevision.fingerprint.values import state
from tilevision.modelspec import ModelSpec
from tilevision.pipeline import plan
from tilevision.rasterspec import RasterSpec

STORED = Path(__file__).resolve().parent / "stored"
RECORDED = json.loads((STORED / "v010" / "identities.json").read_text())

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11),
    reason="fingerprints hold one minor version of Python; these were recorded with 3.11",
)


@pytest.fixture(autouse=True)
def as_recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The libraries' versions of then, and a release of tilevision that is long past it."""
    found = importlib.metadata.version
    then = RECORDED["versions"] | {"tilevision": "99.1.0"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: then.get(name) or found(name))
    monkeypatch.setattr(sys, "path", [str(STORED), *sys.path])
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    provenance.version.cache_clear()
    yield
    sys.modules.pop("stored_models", None)
    provenance.version.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The recorded images and checkpoint, copied to a folder of their own."""
    home = tmp_path / "then"
    shutil.copytree(STORED / "v010", home)
    for journal in (home / "checkpoint" / "runs").glob("*.jsonl"):
        journal.write_text(journal.read_text().replace("@HERE@", str(home)))
    return home


def _models(folder: Path) -> dict[str, str]:
    import stored_models

    hosted = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "prompt": "ships"}
    tv.register_model("registered", stored_models.make)
    tv.register_model("registered by text", "stored_models:load")
    specs = {
        "blobs": tv.model("blobs"),
        "blobs with a parameter": tv.model("blobs", contrast=0.2),
        "nuclei": tv.model("nuclei"),
        "nuclei with nms": tv.model("nuclei", nms=0.5),
        "textlines": tv.model("textlines"),
        "limits": resolve("limits", "moderation"),
        "summary": resolve("summary", "synthesis"),
        "hosted": tv.model("openai", labels=["ship"], **hosted),
        "ONNX file": tv.model(str(folder / "means.onnx"), names=["r", "g", "b"]),
        "function": tv.model(stored_models.squares),
        "function that names tv.Findings": tv.model(stored_models.names_findings),
        "function that names tv.Box and a module": tv.model(stored_models.names_deep_path),
        "function with a stated fingerprint": tv.model(stored_models.squares, fingerprint="v1"),
        "object": tv.model(stored_models.Detector(3)),
        "object that holds a tv.Grid": tv.model(stored_models.Detector(tv.Grid(2, 2))),
        "registered": tv.model("registered", size=4),
        "registered by text": tv.model("registered by text"),
    }
    return {name: spec.fingerprint for name, spec in specs.items()}


def test_models_keep_their_fingerprints(folder):
    """A model of any kind is what it was, wherever its code lies and whatever the release."""
    assert _models(folder) == RECORDED["models"]


def test_tiles_of_a_file_keep_their_keys(folder):
    """So do the tiles of a TIFF file, as displayed and as stored."""
    import stored_models

    scene = folder / "scene.tif"
    shown = plan(scene, "blobs", grid=48, checkpoint=None)
    raw = tv.model(stored_models.squares, bands=(1,), dtype="raw")
    deep = plan(scene, raw, checkpoint=None)
    assert shown.source.fingerprint == RECORDED["scene"]
    assert {tile.id: key for tile, key in shown.passes[0].keys.items()} == RECORDED["tiles"]
    assert {tile.id: key for tile, key in deep.passes[0].keys.items()} == RECORDED["raw tiles"]
    options = json.loads(json.dumps(asdict(shown.passes[0].options)))
    assert options.items() >= RECORDED["options"].items()


def test_recorded_runs_are_listed(folder):
    """Every run of then is listed with its status, image and model."""
    store = folder / "checkpoint"
    listed = tv.runs(store).set_index("id")
    wanted = {"complete": "complete", "partial": "partial", "many": "complete"}
    wanted["cut off"] = "interrupted"
    for which, status in wanted.items():
        assert listed.loc[RECORDED["runs"][which], "status"] == status


def test_a_recorded_run_is_followed_and_replayed(folder):
    """Its tiles, their statuses and their boxes are read from the journal."""
    store, run_id = folder / "checkpoint", RECORDED["runs"]["partial"]
    followed = tv.FollowedRun(run_id, store)
    assert followed.status == "partial"
    assert followed.counts["failed"] > 0
    assert sum(followed.counts.values()) == len(followed.tiles) == 12
    replayed = tv.history.ReplayedRun(run_id, store, seconds=0)
    heard: list[Any] = []
    over = threading.Event()

    def listen(event: Any) -> None:
        heard.append(event)
        if getattr(event, "status", "") == "partial":
            over.set()

    replayed.subscribe(listen)
    assert over.wait(200)
    failed = {event.tile.id for event in heard if getattr(event, "status", "") == "failed"}
    assert len(failed) == followed.counts["failed"]


@pytest.mark.slow
def test_the_same_call_restores_every_tile(folder):
    """The call that wrote the checkpoint finds all of it, and the file it writes is the same."""
    told = {"grid": tv.Grid.by_tile(48, overlap=0.25), "progress": False}
    store = folder / "checkpoint"
    result = tv.analyze(folder / "scene.tif", "blobs", checkpoint=store, workers=1, **told)
    assert set(result.tiles["status"]) == {"restored"}
    result.save(folder / "again.json")
    then, now = (json.loads((folder / n).read_text()) for n in ("complete.json", "again.json"))
    assert now["detections"] == then["detections"]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["complete", "partial", "many", "cut off"])
def test_a_recorded_run_is_resumed(folder, which):
    """`tv.resume` goes on with it: what is stored is restored, what failed is tried again."""
    import stored_models

    model = {"cut off": stored_models.squares}.get(which)
    if which == "partial":
        stubborn = stored_models.fails_on_the_right
        model = tv.model(stubborn, fingerprint="v1", name="stubborn")
    asked = {} if model is None else {"model": model}
    found = tv.resume(RECORDED["runs"][which], folder / "checkpoint", **asked)
    if which == "many":
        assert len(found) == 2 and found.complete
        return
    result = found.result() if hasattr(found, "result") else found
    statuses = result.tiles["status"].value_counts().to_dict()
    if which == "partial":
        assert statuses.get("restored", 0) > 0 and statuses.get("failed", 0) > 0
    else:
        assert statuses == {"restored": 12}


def test_public_names_stand_in_identities_as_they_were_recorded():
    """Wherever a public class or function stands today, a function that names it stays itself."""
    recorded = json.loads((STORED / "public_names.json").read_text())
    assert len(recorded) > 50
    for name, identity in recorded.items():
        value = getattr(tv, name)
        here = provenance.own_identity(value.__module__, value.__qualname__)
        assert ".".join(here) == identity


class Holds:
    """A model that has another one at hand."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def __call__(self, image: Any) -> list[Any]:
        """Find nothing."""
        return []


RECORDED_FIELDS = {
    ModelSpec: "name factory fingerprint params payload stages batch_size input_size mpp bands "
    "dtype max_detections nms min_score hosted price device shrinks names class_agnostic notes "
    "auto_batch",
    RasterSpec: "kind classes unit precision",
}


@pytest.mark.parametrize("kind", RECORDED_FIELDS)
def test_a_field_that_came_later_is_in_no_identity_until_it_is_given(kind):
    """Whatever holds a declaration is what it was, though a release knows more to declare."""
    recorded = RECORDED_FIELDS[kind].split()
    later = [one for one in fields(kind) if one.name not in recorded]
    assert later
    assert all("later" in one.metadata for one in later)
    whole = {
        ModelSpec: ModelSpec("m", "module:load", "0" * 64),
        RasterSpec: RasterSpec("probabilities", ("a", "b")),
    }[kind]
    assert sorted(state(whole)) == sorted(recorded)
    for one in later:
        given = replace(whole, **{one.name: "classes" if one.name == "keep" else 8})
        assert sorted(state(given)) == sorted([*recorded, one.name])
        assert fingerprint_function(Holds(given)) != fingerprint_function(Holds(whole))
