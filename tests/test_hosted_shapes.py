"""What servers send that speak OpenAI's protocol in their own way: answers, errors, waits, counts.

The shapes are those of the references of OpenAI, Anthropic, Google Gemini, Mistral, Moonshot
(Kimi), DeepSeek, Zhipu, MiniMax, vLLM, Ollama, Cloudflare, FastAPI, Envoy; of RFC 9110; and of the
specification of server-sent events.
"""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from tilevision.adapters.hosted.completions import (
    error_in,
    read_completion,
    read_events,
    tokens_of,
)
from tilevision.adapters.hosted.endpoint import _decoded
from tilevision.adapters.hosted.httperrors import of_body, of_page, retry_after
from tilevision.adapters.hosted.jsonanswers import Malformed, spoken
from tilevision.adapters.hosted.parameters import settle
from tilevision.errors import PermanentError, Throttled, TransientError
from tilevision.modelspec import Usage

PARAMETERS = settle("gpt-4.1", {"base_url": "http://host/v1", "box_format": "pixels"})
NONE = '{"detections": []}'


def choice(message: Any, finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], **fields}


@pytest.mark.parametrize(
    "reply",
    [
        choice({"content": [NONE]}),
        choice({"content": {"type": "text", "text": NONE}}),
        choice({"content": [{"type": "text", "text": {"value": NONE, "annotations": []}}]}),
        choice({"content": [{"text": "no: {}", "thought": True}, {"text": NONE}]}),
        choice({"content": {"detections": []}}),
        choice({"content": None, "parsed": {"detections": []}}),
        choice({"content": "", "tool_calls": [None, {"function": {"arguments": NONE}}]}),
        choice({"content": None, "tool_calls": [{"function": {"arguments": {"detections": []}}}]}),
        choice({"content": NONE, "tool_calls": "none"}),
        {"choices": [{"text": NONE, "finish_reason": "stop"}]},
        {"choices": [{"delta": {"content": NONE}, "finish_reason": "stop"}]},
        {"model": "m", "message": {"role": "assistant", "content": NONE}, "done_reason": "stop"},
    ],
)
def test_an_answer_is_found_where_the_server_puts_it(reply: dict[str, Any]) -> None:
    """Parts as texts or objects, parsed JSON, a call's arguments, older and native forms."""
    assert error_in(reply) is None
    found = read_completion(reply)
    assert found is not None and json.loads(found.text) == {"detections": []}
    assert not (found.cut_off or found.filtered or found.refusal)


@pytest.mark.parametrize(
    ("finish", "outcome"),
    [
        ("MAX_TOKENS", "cut off"),
        ("max_length", "cut off"),
        ("model_context_window_exceeded", "cut off"),
        ("SAFETY", "filtered"),
        ("sensitive", "filtered"),
        ("RECITATION", "filtered"),
        ("abort", "broken off"),
        ("insufficient_system_resource", "broken off"),
        ("network_error", "broken off"),
        ("end_turn", "whole"),
        ("tool_calls", "whole"),
        ("eos", "whole"),
        (None, "whole"),
    ],
)
def test_why_an_answer_ended_decides_what_it_is(finish: str | None, outcome: str) -> None:
    """A draft that a service broke off or withheld is no answer, whatever it looks like."""
    reply = choice({"content": NONE}, finish)
    found = read_completion(reply)
    assert found is not None
    fault = error_in(reply)
    assert found.cut_off == (outcome == "cut off")
    assert found.filtered == (outcome == "filtered")
    assert (fault is not None) == (outcome == "broken off")
    if fault:
        assert isinstance(of_body(fault, PARAMETERS, None, {}), TransientError)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ({"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]},
         PermanentError, "API key"),
        ({"errors": [{"code": 429, "message": "slow down"}]}, Throttled, "slow down"),
        ({"detail": "Rate limit exceeded: 5 per 1 minute"}, Throttled, "5 per 1 minute"),
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, Throttled, "rate limit"),
        ({"code": 503, "msg": "no capacity"}, TransientError, "no capacity"),
        ({"error_msg": "Service unavailable", "error_code": 503}, TransientError, "unavailable"),
        ([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota"}}],
         Throttled, "quota"),
        ({"error": "model is overloaded"}, TransientError, "overloaded"),
        ({"fault": {"message": "Invalid request: no picture"}}, PermanentError, "no picture"),
        ({"choices": [], "error": {"code": "402", "message": "pay"}}, PermanentError, "quota left"),
    ],
)  # fmt: skip
def test_an_error_of_status_200_is_what_it_says(body: Any, kind: type, words: str) -> None:
    """By number or by name, under whichever name the service puts it."""
    answer = _decoded(json.dumps(body))
    assert answer is not None
    fault = error_in(answer)
    assert fault is not None
    error = of_body(fault, PARAMETERS, None, {})
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("upstream request timeout", TransientError),
        ("no healthy upstream: service unavailable", TransientError),
        ("Too Many Requests", Throttled),
        ("", TransientError),
        (" \n", TransientError),
        ("<html><title>503 Service Unavailable</title></html>", TransientError),
        ("Welcome to nginx", None),
        ("Our limits: too many requests are refused. " * 9, None),
    ],
)
def test_what_a_gateway_says_in_a_few_words(text: str, kind: type | None) -> None:
    """Proxies answer in plain text; a long text is a page about something else."""
    error = of_page(text, PARAMETERS, {})
    assert (type(error) if error else None) is kind


def stream(*events: Any, done: bool = True) -> str:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""])


def delta(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (stream(delta(NONE[:5]), delta(NONE[5:])), True),
        (stream(delta(NONE), delta("", "stop"), done=False), True),
        (stream(delta(NONE), done=False), False),
        (stream(delta(NONE[:5]), done=False), False),
        (stream(delta(NONE), done=False) + 'data: {"choices": [{"del', False),
        (stream(delta(NONE), done=False) + 'event: error\ndata: {"message": "Overloaded"}\n\n',
         False),
        (stream(delta(NONE), done=False) + 'data: {"type": "error", "error": {"message": "x"}}\n',
         False),
        (": keep-alive\n\n" + stream(delta(NONE)), True),
        ("data: " + json.dumps(delta(NONE, "stop"), indent=1).replace("\n", "\ndata: ") + "\n\n",
         True),
        ("event: message\r\n" + stream(delta(NONE, "stop")).replace("\n", "\r\n"), True),
    ],
)  # fmt: skip
def test_a_stream_that_ends_in_the_middle_is_no_answer(text: str, whole: bool) -> None:
    """What came may look like a whole answer; what would have followed is not known."""
    reply = read_events(text)
    assert reply is not None
    fault = error_in(reply)
    assert (fault is None) == whole
    if whole:
        found = read_completion(reply)
        assert found is not None and json.loads(found.text) == {"detections": []}
    else:
        assert isinstance(of_body(fault, PARAMETERS, None, {}), TransientError)


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({"total_tokens": 12}, None),
        ([], None),
        ({"prompt_tokens": "7", "completion_tokens": "3"}, None),
        ({"prompt_tokens": 7, "total_tokens": 10}, Usage(1, 7, 3)),
        ({"completion_tokens": 3, "total_tokens": 10}, Usage(1, 7, 3)),
        ({"prompt_tokens": 7, "completion_tokens": None}, Usage(1, 7, 0, uncounted=1)),
        ({"prompt_tokens": 7, "completion_tokens": 0}, Usage(1, 7, 0)),
    ],
)
def test_what_is_not_counted_is_not_nothing(counts: Any, usage: Usage | None) -> None:
    """Noughts for all, or one number without the other, are no count that a budget can rest on."""
    assert tokens_of(counts) == usage


NOW = time.time()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (formatdate(NOW + 30, usegmt=True), 30),
        (formatdate(NOW + 30), 30),
        (formatdate(NOW + 30, usegmt=True).replace("GMT", "UTC"), 30),
        (time.asctime(time.gmtime(NOW + 30)), 30),
        (time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(NOW + 30)), 30),
        (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW + 30)), 30),
        (formatdate(NOW - 30, usegmt=True), 0),
        ("120, 120", 120),
        ("60s", 60),
        (" 7 ", 7),
        ("-5", 0),
        ("soon", None),
        ("nan", None),
    ],
    # Not the values: they change by the second, and all test processes must name a test alike.
    ids=[
        "http",
        "offset",
        "utc",
        "asctime",
        "rfc 850",
        "iso",
        "past",
        "twice",
        "unit",
        "spaces",
        "negative",
        "word",
        "nan",
    ],
)
def test_the_wait_that_is_asked_for_in_any_form(value: str, seconds: float | None) -> None:
    """Seconds, with a unit, sent twice; the dates of RFC 9110, obsolete ones too, and ISO 8601."""
    date = formatdate(NOW, usegmt=True)
    wait = retry_after({"retry-after": value, "date": date})
    assert wait == (None if seconds is None else pytest.approx(seconds, abs=1.1))


@pytest.mark.parametrize(
    "text",
    [
        f"[THINK]Perhaps {{}}[/THINK]{NONE}",
        f"◁think▷Perhaps {{}}◁/think▷{NONE}",
        f"<seed:think>Perhaps {{}}</seed:think>{NONE}",
        f"<thought>Perhaps {{}}</thought>{NONE}",
        f"<|begin_of_thought|>Perhaps {{}}<|end_of_thought|>{NONE}",
        f"Perhaps {{}}</reasoning>\n{NONE}",
        f"analysisWe see {{}} and no moreassistantfinal{NONE}",
    ],
)
def test_thoughts_are_known_by_every_mark(text: str) -> None:
    """Each family of models has its own; a server may have dropped the marks of channels."""
    assert spoken(text) == NONE


@pytest.mark.parametrize(
    "text",
    [f"[THINK]{NONE}", f"◁think▷{NONE}", f"<seed:think>{NONE}", f"analysisWe see {NONE}"],
)
def test_thoughts_that_do_not_end_are_no_answer(text: str) -> None:
    """The limit of tokens came before the answer."""
    with pytest.raises(Malformed):
        spoken(text)
