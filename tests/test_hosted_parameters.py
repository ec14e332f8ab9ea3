"""What is said about a hosted model is checked at once, and no secret is ever among it."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict

import pytest

import tilevision as tv
from tilevision.catalogue import models, resolve
from tilevision.errors import ModelError
from tilevision.modelspec import build, runtime

KEY = "sk-proj-0123456789abcdefghij"


def hosted(**given):
    return tv.model("openai", **{"model": "gpt-4.1-mini", **given})


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No address and no key but those a test sets."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_one_name_serves_three_stages():
    """A chat model serves all stages; a moderation model only that one."""
    assert hosted().stages == ("tile", "synthesis", "moderation")
    assert tv.model("openai:omni-moderation-latest").stages == ("moderation",)
    (known,) = [known for known in models() if known.name == "openai"]
    assert (known.extra, known.installed) == ("vlm", True)
    assert set(known.stages) == {"tile", "synthesis", "moderation"}


def test_a_model_at_the_wrong_stage_is_refused_with_those_that_can():
    """The line names the stage and the models that serve it."""
    with pytest.raises(ModelError, match=r"serves moderation, not tile; for tile there is .*nucl"):
        resolve("openai:omni-moderation-latest", "tile")
    with pytest.raises(ModelError, match=r"serves tile, not synthesis; .*openai.*summary"):
        resolve("nuclei", "synthesis")


def test_the_short_form_is_the_same_model():
    """``"openai:NAME"`` and ``model="NAME"`` agree, colons in the name included."""
    assert tv.model("openai:qwen2.5vl:7b") == tv.model("openai", model="qwen2.5vl:7b")
    spec = hosted(prompt="Find ships.")
    assert tv.model(spec.name, **spec.params) == spec  # as a resumed run rebuilds it


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"model": None}, "say which model"),
        ({"model": ""}, "say which model"),
        ({"model": 4}, "model is 4; give a text"),
        ({"bogus": 1}, "has no parameter 'bogus'; it has api_key_env"),
        ({"base_url": "localhost:8000"}, "base_url is no address"),
        ({"base_url": "ftp://host/v1"}, "base_url is no address"),
        ({"base_url": 7}, "base_url is no address"),
        ({"base_url": "http://host:99999/v1"}, "base_url is no address"),
        ({"box_format": "0-999"}, "box_format is '0-999'; give a unit"),
        ({"box_format": "pixels zyx"}, "box_format is 'pixels zyx'"),
        ({"box_format": 3}, "box_format is 3"),
        ({"labels": []}, "labels is"),
        ({"labels": "ship"}, "give a list of different texts"),
        ({"labels": ["a", "a"]}, "give a list of different texts"),
        ({"fields": ["colour"]}, "fields is"),
        ({"fields": "score"}, "fields is"),
        ({"max_side": 0}, "max_side is 0"),
        ({"quality": 101}, "quality is 101"),
        ({"quality": 9.5}, "quality is 9.5; give a whole number"),
        ({"timeout": 0}, "timeout is 0"),
        ({"reasks": True}, "reasks is True"),
        ({"temperature": -1}, "temperature is -1"),
        ({"detail": "huge"}, "detail is 'huge'"),
        ({"response_format": "xml"}, "response_format is 'xml'"),
        ({"prompt": " "}, "prompt is ' '; give a text"),
        ({"extra": ["a"]}, "extra is a list"),
        ({"extra": {"seed": {1}}}, "extra is {'seed': {1}}; give text, numbers"),
        ({"batch_size": 4}, "one request has one tile"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(given, line):
    """Before anything runs, and saying what would make sense."""
    with pytest.raises(ModelError) as refused:
        hosted(**given)
    assert line in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"api_key": KEY},
        {"api_key": KEY.encode()},
        {"apikey": KEY},
        {"openai_api_key": KEY},
        {"token": KEY},
        {"api_key_env": KEY},
        {"api_key_env": "hf_abcdefghijklmnop"},
        {"base_url": f"https://user:{KEY}@host/v1"},
        {"base_url": f"https://{KEY}@host/v1"},
        {"base_url": f"https://host/v1?api-key={KEY}"},
        {"base_url": f"user:{KEY}@host"},
        {"extra": {"api_key": KEY}},
        {"extra": {"extra_headers": {"X": KEY}}},
        {"extra": {"routes": [{"authorization": KEY}]}},
    ],
)
def test_a_secret_is_refused_unseen(given):
    """The line tells of the environment and never repeats what was given."""
    with pytest.raises(ModelError) as refused:
        hosted(**given)
    said = f"{refused.value} {refused.value!r}"
    assert KEY not in said and "hf_abc" not in said
    assert "api_key_env" in said or "environment" in said or "address" in said


def test_an_address_with_credentials_in_the_environment_is_refused_too(monkeypatch):
    """``OPENAI_BASE_URL`` becomes a parameter, so the same holds for it."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"https://u:{KEY}@host/v1")
    with pytest.raises(ModelError) as refused:
        hosted()
    assert KEY not in str(refused.value)


def test_the_key_is_in_no_form_of_the_spec(monkeypatch):
    """Not in parameters, repr, pickle or identity, though the environment has it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    spec = hosted(prompt="Find ships.")
    assert KEY not in repr(spec) + json.dumps(dict(spec.params)) + repr(build(spec))
    assert KEY.encode() not in pickle.dumps(spec)


def test_the_address_is_fixed_when_the_model_is_declared(monkeypatch):
    """A worker with another environment asks the same server."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://Gateway:8080/v1/")
    spec = hosted()
    assert spec.params["base_url"] == "http://gateway:8080/v1"
    assert runtime(spec) == "gateway:8080"


CHANGES = {
    "model": "gpt-4.1",
    "base_url": "http://other:8000/v1",
    "prompt": "Find boats.",
    "labels": ["boat"],
    "box_format": "pixels",
    "fields": ["score"],
    "max_side": 512,
    "quality": 80,
    "detail": "low",
    "temperature": None,
    "max_tokens": 100,
    "response_format": "json_object",
    "categories": ["violence"],
    "extra": {"seed": 1},
    "backend": "weights-2",
    "nms": 0.5,
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_answers_changes_the_identity(name):
    """So the tiles are asked about again, and never restored from another question."""
    assert hosted(**{name: CHANGES[name]}).fingerprint != hosted().fingerprint


@pytest.mark.parametrize(
    "given", [{"timeout": 5}, {"reasks": 0}, {"api_key_env": "OTHER"}, {"price": 1.0}]
)
def test_whatever_does_not_change_answers_leaves_the_identity(given):
    """Nothing is paid for twice; still the model in this process is another."""
    spec = hosted(**given)
    assert spec.fingerprint == hosted().fingerprint
    assert "price" in given or build(spec) is not build(hosted())


def test_a_named_backend_takes_the_place_of_the_address():
    """Weights that move to another node keep their tiles."""
    first, second = (hosted(base_url=f"http://node{n}:8000/v1", backend="qwen-awq") for n in (1, 2))
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != hosted(base_url="http://node1:8000/v1").fingerprint


def test_every_parameter_is_sorted_into_changing_or_not():
    """A new parameter has to be thought about."""
    unseen = {"timeout", "reasks", "api_key_env"}
    names = set(asdict(build(hosted())._parameters))
    assert names == (CHANGES.keys() - {"nms"}) | unseen


def test_a_missing_library_is_one_line(monkeypatch):
    """Which package, and the pip command."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'tilevision\[vlm\]'"):
        hosted(prompt="one that no other test has built")
    (known,) = [known for known in models() if known.name == "openai"]
    assert not known.installed


def test_the_default_grid_follows_the_picture_that_is_sent():
    """Tiles are as large as what is sent of them, so nothing is shrunk."""
    assert hosted(max_side=768).input_size == (768, 768)
    assert hosted(max_side=768, input_size=640).input_size == (640, 640)
