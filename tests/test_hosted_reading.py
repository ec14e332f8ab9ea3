"""Answers are read however they are wrapped, and never for more than they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevision import codec
from tilevision.adapters.hosted.imageencoding import EncodedPicture
from tilevision.adapters.hosted.parameters import settle
from tilevision.adapters.hosted.prompt import ask_scene, ask_tile, tile_schema
from tilevision.adapters.hosted.replies import Malformed, read_tile, read_verdict

PICTURE = EncodedPicture("data:", (100, 50), (200, 100))


def parameters(**given):
    return settle("gpt-4.1", {"base_url": "http://host/v1", "box_format": "pixels", **given})


def read(text, **given):
    return read_tile(text, parameters(**given), PICTURE)


ROW = '{"label": "ship", "box": [10, 10, 20, 20]}'
GOOD = f'{{"detections": [{ROW}]}}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"[{ROW}]",
        f"```json\n{GOOD}\n```",
        f"```\n[{ROW}]\n```",
        f"Sure! Here it is:\n{GOOD}\nHope it helps.",
        f"I see one [sic] ship: {GOOD}",
        f"```json\n{GOOD}",
        f"<think>Is [1, 2] a ship? {{no}}</think>\n{GOOD}",
        f'{{"objects": [{ROW}]}}',
        GOOD.replace("box", "bbox_2d"),
        GOOD.replace("label", "class").replace("ship", "Ship"),
    ],
)
def test_wrapping_does_not_matter(text):
    """Fences, words around, thoughts before, and the usual other names."""
    found = read(text, labels=["ship"])
    assert found.boxes.tolist() == [[20, 20, 40, 40]]  # the picture was half the tile's size
    assert found.labels.tolist() == ["ship"] and np.isnan(found.scores).all()
    assert found.note == ""


NONE = '{"detections": []}'
TWO = f'{{"detections": [{ROW}, {ROW.replace("10, 10", "1, 1")}]}}'


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        (f"At first nothing:\n```json\n{NONE}\n```\nBut wait.\n</think>\n\n{GOOD}", 1),
        (f"<think>Maybe {NONE}</think> then <think>or {TWO}</think>{GOOD}", 1),
        (f"```json\n{GOOD}\n```\nI missed one:\n```json\n{TWO}\n```", 2),
        (f"```json\n{GOOD}\n```\nI missed one: {TWO}", 2),
        (f"{TWO}\nNo, the second is a wave: {GOOD} That is all [sic].", 1),
        (f"```json\n{GOOD}\n```\n```python\nprint('done')\n```", 1),
        (f'```json\n{GOOD}\n```\nAs a table:\n```json\n{{"ships": 1}}\n```', 1),
        (f"<|channel|>analysis<|message|>{NONE}<|end|><|start|>assistant<|channel|>final"
         f"<|message|>{GOOD}<|return|>", 1),
        (json.dumps(GOOD), 1),
        (GOOD.replace("10, 10, 20, 20", '"10", "10", "20", "20"'), 1),
        (GOOD.replace("}]}", "},]}"), 1),
        (f"Here: {GOOD.replace('}]}', '},],}')} Done.", 1),
        (GOOD.replace("ship", "ship\nat sea"), 1),
    ],
)  # fmt: skip
def test_the_last_answer_counts(text, objects):
    """Thoughts and drafts never count; small slips of JSON cost no second request."""
    assert len(read(text)) == objects


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{GOOD}\n```\nI missed one:\n```json\n{TWO[:-9]}",
        f"{GOOD} Corrected: {TWO[:-9]}",
        f"<think>Perhaps {GOOD}",
        f"<think>Perhaps {GOOD}</think>",
        f"<|channel|>analysis<|message|>Perhaps {GOOD}<|end|>",
    ],
)
def test_a_draft_is_no_answer(text):
    """Where the last answer is cut off, or there are only thoughts, nothing counts."""
    with pytest.raises(Malformed):
        read(text)


def test_a_verdict_is_the_last_one():
    """A draft that allows an image does not let it through."""
    draft = '{"allowed": true, "reason": "fine"}'
    final = '{"allowed": false, "reason": "not fine"}'
    assert not read_verdict(f"{draft} On second thought: {final}")["allowed"]
    assert not read_verdict(f"{draft}</think>{final}")["allowed"]
    with pytest.raises(Malformed):
        read_verdict(f"<think>{draft}")
    with pytest.raises(Malformed):
        read_verdict(f"{draft} On second thought: {final[:-3]}")


@pytest.mark.parametrize("text", ['{"detections": []}', "[]", "```json\n[]\n```"])
def test_nothing_is_an_answer(text):
    """An empty tile is not malformed."""
    assert len(read(text)) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("<think>hm</think>", "empty"),
        ("I see two ships.", "no JSON"),
        (GOOD[:-8], "no JSON"),
        ("null", "no list"),
        ('{"ships": []}', 'no "detections"'),
        ('{"detections": {}}', "no list"),
        ('{"detections": [1]}', "detection 1 is no object"),
        ('{"detections": [{"label": "a"}]}', "detection 1 is not four numbers"),
        ('{"detections": [{"label": "a", "box": [1, 2, 3]}]}', "not four numbers"),
        ('{"detections": [{"label": "a", "box": [1, 2, 3, "four"]}]}', "not four numbers"),
        ('{"detections": [{"label": "a", "box": [1, 2, 3, true]}]}', "not four numbers"),
        ('{"detections": [{"label": "a", "box": [1, 2, 3, NaN]}]}', "NaN is no number"),
        ('{"detections": [{"label": "a", "box": [1, 2, 3, 1e999]}]}', "not four numbers"),
        ('{"detections": [{"box": [1, 2, 3, 4]}]}', "is no text"),
        ('{"detections": [{"label": 3, "box": [1, 2, 3, 4]}]}', "is no text"),
        ("[" * 100_000, "no JSON|nested too deeply"),
    ],
)
def test_malformed_answers_say_what_is_wrong(text, complaint):
    """In words that the model can act on."""
    with pytest.raises(Malformed, match=complaint):
        read(text)


def test_scores_must_be_shares():
    """A percentage is not taken for a probability."""
    row = {"label": "a", "box": [1, 2, 3, 4], "score": 95}
    with pytest.raises(Malformed, match="0 to 1"):
        read(json.dumps([row]), fields=["score"])
    assert np.isnan(read(json.dumps([row])).scores).all()  # not asked for, not read
    assert read(json.dumps([{**row, "score": 0.5}]), fields=["score"]).scores.tolist() == [0.5]
    assert np.isnan(read(json.dumps([{**row, "score": None}]), fields=["score"]).scores).all()


def test_negative_sizes_are_malformed():
    """Where a box is centre and size."""
    with pytest.raises(Malformed, match="negative"):
        read('[{"label": "a", "box": [5, 5, -1, 2]}]', box_format="pixels cxcywh")


def test_texts_are_read_where_asked_for():
    """Empty ones are none."""
    rows = [
        {"label": "word", "box": [0, 0, 9, 9], "text": "Total"},
        {"label": "word", "box": [20, 0, 29, 9], "text": ""},
    ]
    assert read(json.dumps(rows), fields=["text"]).texts == ("Total", None)


def test_half_a_character_costs_no_tile():
    """JSON writes an emoji as two halves: one alone is replaced, and a record holds the rest."""
    rows = '[{"label": "smile \\ud83d\\ude00", "box": [0, 0, 9, 9], "text": "5 \\ud83d left"}]'
    found = read(rows, fields=["text"])
    assert found.labels.tolist() == ["smile \U0001f600"] and found.texts == ("5 \ufffd left",)
    assert codec.decode(codec.encode(found)) == found.rounded()
    said = read_verdict('{"allowed": false, "reason": "\\ude00 nudity"}')
    assert said["reason"] == "\ufffd nudity"


def test_boxes_outside_are_clipped_and_counted():
    """What is cut, what is dropped, and nothing said of mere rounding."""
    rows = [
        {"label": "in", "box": [0, 0, 100.1, 50]},
        {"label": "cut", "box": [90, 40, 120, 60]},
        {"label": "gone", "box": [300, 300, 400, 400]},
    ]
    found = read(json.dumps(rows))
    assert dict(zip(found.labels, found.boxes.tolist(), strict=True)) == {
        "in": [0, 0, 200, 100],
        "cut": [180, 80, 200, 100],
    }
    assert found.note == "2 of 3 boxes reached outside the tile (1 wholly)."


def test_boxes_that_are_all_outside_question_the_format():
    """A wrong box_format is not silently wrong."""
    found = read('[{"label": "a", "box": [400, 300, 500, 450]}]')
    assert len(found) == 0 and found.note.endswith("Is box_format right?")


def test_labels_not_asked_for_are_kept_and_named():
    """Spelling of case is mended; another word stays what it is."""
    names = ("SHIP", "van\n", "ship")
    rows = [{"label": name, "box": [i, 1, 9, 9]} for i, name in enumerate(names)]
    found = read(json.dumps(rows), labels=["ship"])
    assert sorted(found.labels) == ["ship", "ship", "van"]
    assert found.note == "Labels not asked for: van."


def test_repeated_rows_are_one_detection():
    """A model that loses the thread writes the same line again and again."""
    row = {"label": "ship", "box": [1, 1, 9, 9]}
    other = {"label": "boat", "box": [1, 1, 9, 9]}
    found = read(json.dumps([row] * 40 + [other]))
    assert sorted(found.labels) == ["boat", "ship"]
    assert found.note == "39 repeated detections dropped."


def test_one_class_needs_no_label():
    """Where only one was asked for."""
    assert read('[{"box": [1, 1, 9, 9]}]', labels=["ship"]).labels.tolist() == ["ship"]


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["detections", "box", "label", "score", "x"]), inner)
    ),
    max_leaves=30,
)


@given(st.text(max_size=200) | json_values.map(json.dumps))
def test_anything_is_findings_or_malformed(text):
    """A model may say whatever it likes; boxes stay inside the tile."""
    try:
        found = read(text, fields=["score", "text"])
    except Malformed:
        return
    assert (found.boxes >= 0).all() and (found.boxes <= [200, 100, 200, 100]).all()


@pytest.mark.parametrize("text", ['{"allowed": "yes"}', '{"reason": "x"}', "[true]", "allowed"])
def test_no_verdict_is_no_permission(text):
    """Only a plain true or false counts."""
    with pytest.raises(Malformed):
        read_verdict(text)


def test_verdicts_are_read():
    """With their reason on one line."""
    text = '```json\n{"allowed": false, "reason": "too\\nred"}\n```'
    assert read_verdict(text) == {"allowed": False, "reason": "too red"}


def strict(schema):
    """Check the rules of strict modes: all required, nothing else allowed, all the way down."""
    if schema["type"] == "object":
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False
        for inner in schema["properties"].values():
            strict(inner)
    if schema["type"] == "array":
        strict(schema["items"])
    assert schema.keys() <= {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
    }


def test_the_schema_is_one_that_strict_modes_accept():
    """And asks for what was asked for, under the family's key."""
    schema = tile_schema(parameters(labels=["a", "b"], fields=["text"], box_format="gemini"))
    strict(schema)
    item = schema["properties"]["detections"]["items"]["properties"]
    assert list(item) == ["label", "box_2d", "text"] and item["label"]["enum"] == ["a", "b"]


def test_the_prompt_says_how_to_answer():
    """The request, the labels, and the box format in the picture's own pixels."""
    system, user = ask_tile(parameters(prompt="Find ships.", labels=["ship"]), PICTURE)
    text, image = user["content"]
    assert text["text"].startswith("Find ships.") and '"ship"' in text["text"]
    assert "100 pixels wide and 50 high" in text["text"]
    assert image["image_url"] == {"url": "data:"} and "JSON" in system["content"]


def test_the_digest_is_bounded():
    """Labels come from models: a long one is cut, whatever it says."""
    facts = {"counts": {"x" * 10_000: 3}, "strongest": [{"label": "y" * 10_000}]}
    text = ask_scene(parameters(), facts, PICTURE)[1]["content"][0]["text"]
    assert len(text) < 1000
