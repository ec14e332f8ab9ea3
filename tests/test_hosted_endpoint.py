"""A real server on this machine: what is sent to it, and what its faults mean."""

from __future__ import annotations

import gc
import json
import os
import pickle
import socket
import threading
import time
import traceback
from email.utils import formatdate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_server import OpenAIServer, Reply

import tilevision as tv
from tilevision.adapters.hosted import connection
from tilevision.adapters.hosted.httperrors import of_page, retry_after, scrub
from tilevision.adapters.hosted.parameters import settle
from tilevision.catalogue import resolve
from tilevision.errors import Failure, ModelError, PermanentError, Throttled, TransientError
from tilevision.modelspec import Price, Usage, build
from tilevision.moderation import moderate
from tilevision.synthesis import synthesise

KEY = "tvtest-Zq8Wm3Xk7Lp2Rv9T"
TILE = np.full((40, 60, 3), 30, np.uint8)
TILE[10:20, 15:45] = 240
BAD = Reply(content="There are two ships.")
WHOLE = json.dumps(
    {"choices": [{"message": {"content": '[{"label": "Größe"}]'}}], "cached": False, "usage": None}
)


@pytest.fixture
def server(monkeypatch):
    """A server that wants a key, which the environment has."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with OpenAIServer(key=KEY) as running:
        yield running
    connection._clients.clear()


def hosted(server, **given):
    return build(
        tv.model("openai", **{"model": "spots:pixels xyxy", "base_url": server.url, **given})
    )


def ask(server, **given):
    model = hosted(server, **{"box_format": "pixels", "labels": ["spot"], **given})
    return model.request(model.encode([TILE]))


def failing(server, *replies, error=PermanentError, **given):
    """Return what is raised when the server answers with `replies`."""
    server.meets(replies)
    with pytest.raises(error) as raised:
        ask(server, **given)
    return raised.value


def test_a_tile_is_found_what_is_in_it(server):
    """The picture arrives as it is, and boxes come back with what was used."""
    answers = ask(server, prompt="Find every spot.")
    (found,) = answers
    assert np.allclose(found.boxes, [[15, 10, 45, 20]], atol=1)
    assert found.labels.tolist() == ["spot"] and answers.usage == Usage(1, 1000, 20)
    (seen,) = server.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"].endswith(KEY.lower())
    assert np.abs(seen.picture.astype(int) - TILE).mean() < 3
    assert seen.body["temperature"] == 0 and seen.body["max_tokens"] == 4096
    form = seen.body["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    assert "Find every spot." in seen.text


def test_the_request_is_the_callers_to_shape(server):
    """Detail, extra fields, no temperature, no schema."""
    given = {"detail": "low", "extra": {"seed": 7}, "temperature": None, "max_tokens": 50}
    ask(server, **given, response_format="text")
    body = server.seen[0].body
    image = body["messages"][1]["content"][1]["image_url"]
    assert image["detail"] == "low" and body["seed"] == 7 and body["max_tokens"] == 50
    assert "temperature" not in body and "response_format" not in body
    ask(server, response_format="json_object")
    assert server.seen[1].body["response_format"] == {"type": "json_object"}


def test_openai_itself_is_told_the_limit_by_its_new_name(server, monkeypatch):
    """Its newer models refuse ``max_tokens``."""
    monkeypatch.setattr("tilevision.adapters.hosted.parameters.Parameters.official", True)
    ask(server)
    assert server.seen[0].body["max_completion_tokens"] == 4096
    assert "max_tokens" not in server.seen[0].body


# Faults -----------------------------------------------------------------------------------


def test_too_many_requests_is_throttled(server):
    """With the seconds that were asked for."""
    error = failing(server, Reply(429, {"Retry-After": "7"}), error=Throttled)
    assert error.retry_after == 7 and "127.0.0.1" in str(error)
    assert failing(server, Reply(429), error=Throttled).retry_after is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "-4"}, 0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_waits_are_read_in_every_form(headers, seconds):
    """Seconds, milliseconds, dates; nonsense is no wait."""
    assert retry_after(headers) == seconds


def test_waits_are_read_from_dates_to_come():
    """An HTTP date is that moment, less now."""
    date = formatdate(time.time() + 60, usegmt=True)
    assert 57 < retry_after({"retry-after": date}) <= 60


def test_an_empty_account_is_no_rush(server):
    """429 for want of money does not pass by waiting."""
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    assert "no quota left" in str(failing(server, Reply(429, body=body)))


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 529])
def test_servers_in_trouble_are_transient(server, status):
    """And may say how long it takes."""
    error = failing(server, Reply(status, {"Retry-After": "2"}), error=TransientError)
    assert f"({status})" in str(error) and Failure.of(error).retry_after == 2


def test_a_lost_connection_is_transient(server):
    """Closed without a word."""
    error = failing(server, Reply(0), error=TransientError)
    assert "cannot be reached" in str(error)


def test_a_silent_server_is_transient(server):
    """The HTTP timeout is a parameter."""
    error = failing(server, Reply(seconds=3600), error=TransientError, timeout=0.2)
    assert "within 0.2 s" in str(error)


def test_no_server_is_transient(monkeypatch):
    """It may be on its way up."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        model = build(tv.model("openai", model="m", base_url=f"http://127.0.0.1:{port}/v1"))
        with pytest.raises(TransientError, match=f"127.0.0.1:{port} cannot be reached"):
            model.request(model.encode([TILE]))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "refuses the request (400): status 400"),
        (401, "does not accept the API key (401); check the environment variable OPENAI_API_KEY"),
        (403, "forbids it (403): status 403; check what the key in OPENAI_API_KEY may use"),
        (404, "does not know model 'spots:pixels xyxy' or the path (404)"),
        (413, "lower max_side= or quality="),
        (422, "refuses the request (422)"),
    ],
)
def test_refusals_are_permanent(server, status, words):
    """One line, with the remedy where there is one."""
    error = str(failing(server, Reply(status)))
    assert words in error and "\n" not in error
    assert len(server.seen) == 1  # the client retries nothing by itself


def test_a_wrong_key_is_told_by_the_name_of_its_variable(server, monkeypatch):
    """The server quotes the key in its answer; the error does not."""
    monkeypatch.setenv("MY_KEY", "wrong-Ab12Cd34Ef56")
    error = str(failing(server, api_key_env="MY_KEY"))
    assert "MY_KEY" in error and "wrong-ab" not in error.lower()


def test_a_missing_key_is_told_before_anything_is_sent(server, monkeypatch):
    """Where one was named; a server that wants none gets none."""
    error = str(failing(server, api_key_env="NO_SUCH_KEY"))
    assert "set the environment variable NO_SUCH_KEY where the workers run" in error
    monkeypatch.delenv("OPENAI_API_KEY")
    model = build(tv.model("openai", model="gpt-4.1", base_url="https://api.openai.com/v1"))
    with pytest.raises(PermanentError, match="set the environment variable OPENAI_API_KEY"):
        model.request(model.encode([TILE]))
    assert server.seen == []
    server.key = None
    assert len(ask(server, api_key_env=None)[0]) == 1


def test_a_key_with_a_line_end_is_mended_and_nonsense_refused(server, monkeypatch):
    """Keys are read from files with a line end; the header could not hold one."""
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert len(ask(server)[0]) == 1
    monkeypatch.setenv("OPENAI_API_KEY", "half\x01a key")
    assert "cannot be a key" in str(failing(server))


def test_a_key_that_changes_is_used_at_once(server, monkeypatch):
    """After a refusal the user sets another, and goes on."""
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-Ab12Cd34Ef56")
    failing(server)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert len(ask(server)[0]) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Please log in</html>",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"index": 0}]}',
    ],
)
def test_what_is_no_completion_is_one_line(server, body):
    """A log-in page, an error with status 200: what came, and where to look."""
    error = str(failing(server, Reply(body=body)))
    assert "check base_url" in error and "answered no" in error and "\n" not in error


@given(st.integers(1, len(WHOLE) - 1))
def test_half_an_answer_is_asked_for_again(cut):
    """A gateway that breaks off, with status 200 and a length to match: not another service."""
    said = of_page(WHOLE[:cut], settle("m", {"base_url": "http://host/v1"}), {})
    assert isinstance(said, TransientError) and "broke its answer off after" in str(said)


def test_half_an_answer_costs_no_tile(server):
    """The next attempt has all of it; what is nested without end is one line."""
    body = json.dumps({"choices": [{"message": {"content": SPOT}}]}).encode()
    failing(server, Reply(body=body[:60]), error=TransientError)
    assert "answered no JSON" in str(failing(server, Reply(body=b"[" * 100_000)))


def test_an_error_that_comes_as_a_success_is_transient(server):
    """Gateways hand on in this way that what is behind them failed."""
    body = {"error": {"code": 502, "message": "provider failed"}}
    assert "provider failed" in str(failing(server, Reply(body=body), error=TransientError))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(content='{"detections": [', finish="length"), "raise max_tokens=, or use smaller"),
        (Reply(content="", finish="content_filter"), "filtered the answer"),
        (Reply(content=None, message={"refusal": "I can't help."}), "refused: I can't help."),
    ],
)
def test_answers_that_end_badly_are_clear_failures(server, reply, words):
    """Not asked for again, and paid for."""
    error = failing(server, reply)
    assert words in str(error) and error.usage == Usage(1, 1000, 20)
    assert len(server.seen) == 1


# Malformed answers ------------------------------------------------------------------------


def test_a_malformed_answer_is_asked_for_again(server):
    """The model is told what was wrong, and every token counts."""
    server.meets([BAD, Reply(content='{"detections": [{"label": "spot"}]}')])
    answers = ask(server)
    assert len(answers[0]) == 1 and answers.usage == Usage(3, 3000, 60)
    last = server.seen[2].body["messages"]
    assert last[-2] == {"role": "assistant", "content": '{"detections": [{"label": "spot"}]}'}
    assert "not four numbers" in last[-1]["content"] and len(last) == 4


def test_a_model_that_cannot_answer_fails_with_what_was_wrong(server):
    """After as many attempts as were given it."""
    error = failing(server, BAD, BAD, reasks=1)
    assert "no readable answer in 2 attempts; of the last: it is no JSON" in str(error)
    assert error.usage == Usage(2, 2000, 40) and len(server.seen) == 2


def test_what_was_used_before_a_fault_is_counted(server):
    """Tokens of a bad answer are paid for, though the next request is throttled."""
    assert failing(server, BAD, Reply(429), error=Throttled).usage == Usage(2, 1000, 20)


def test_parts_of_an_answer_are_one(server):
    """Some gateways hand the parts of a message on as they came."""
    parts = [{"type": "text", "text": '{"detections"'}, {"type": "text", "text": ": []}"}]
    server.meets([Reply(message={"content": parts})])
    assert len(ask(server)[0]) == 0


def test_usage_that_nobody_counts_is_a_call(server):
    """Tokens that the server does not count are charged at the most there can be."""
    message = {"role": "assistant", "content": "[]"}
    server.meets([Reply(body={"choices": [{"message": message, "finish_reason": "stop"}]})])
    usage = ask(server, max_tokens=50).usage
    assert (usage.calls, usage.input_tokens, usage.output_tokens, usage.uncounted) == (1, 0, 0, 1)
    assert usage.most_output == 50 and usage.most_input > 1000
    assert Price(input=1e6, output=1e6).of(usage) == usage.most_input + 50


@pytest.mark.parametrize(
    ("counts", "read", "written"),
    [
        ({"input_tokens": 7, "output_tokens": 3}, 7, 3),
        ({"prompt_tokens": 7.0, "completion_tokens": 3.0}, 7, 3),
        ({"prompt_eval_count": 7, "eval_count": 3}, 7, 3),
    ],
)
def test_tokens_are_read_in_every_spelling(server, counts, read, written):
    """Servers and gateways name and type their counts differently."""
    server.meets([said("[]", usage=counts)])
    assert ask(server).usage == Usage(1, read, written)


# Where answers stand ----------------------------------------------------------------------

SPOT = '{"detections": [{"label": "spot", "box": [1, 1, 9, 9]}]}'
DRAFT = '{"detections": []}'


def said(text, *, usage=None, finish="stop", **message):
    """Return a reply whose message has the given fields."""
    message = {"role": "assistant", "content": text, **message}
    body = {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}
    return Reply(body=json.dumps(body).encode())


def call(text):
    return [{"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}]


@pytest.mark.parametrize(
    "reply",
    [
        said(None, reasoning_content=SPOT),
        said("", reasoning=SPOT),
        said(None, tool_calls=call(SPOT)),
        said(None, function_call={"name": "f", "arguments": SPOT}),
        said(SPOT, reasoning_content=DRAFT, tool_calls=call(DRAFT)),
        said([{"type": "thinking", "text": DRAFT}, {"type": "text", "text": SPOT}]),
        said([{"type": "reasoning", "text": DRAFT}, {"type": "output_text", "text": SPOT}]),
    ],
)
def test_an_answer_is_read_where_the_server_puts_it(server, reply):
    """In one paid request, and thoughts beside it are never taken for it."""
    server.meets([reply])
    answers = ask(server)
    assert len(answers[0]) == 1 and answers.usage.calls == 1


def test_thoughts_alone_are_no_answer(server):
    """A draft among words in the field for reasoning: the model is asked again."""
    server.meets([said(None, reasoning_content=f"Perhaps {DRAFT}. Wait."), said(SPOT)])
    answers = ask(server)
    assert len(answers[0]) == 1 and answers.usage.calls == 2


@pytest.mark.parametrize("name", ["content", "reasoning_content", "tool_calls"])
def test_an_event_stream_is_the_message_it_amounts_to(server, name):
    """Some gateways stream though nobody asked them to."""
    pieces = [SPOT[:9], SPOT[9:30], SPOT[30:]]
    if name == "tool_calls":
        pieces = [[{"index": 0, "function": {"arguments": piece}}] for piece in pieces]
    events = [{"choices": [{"delta": {name: piece}}]} for piece in pieces]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    events.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    server.meets([Reply(headers={"content-type": "text/event-stream"}, body=stream.encode())])
    answers = ask(server)
    assert len(answers[0]) == 1 and answers.usage == Usage(1, 7, 3)


def test_a_character_that_a_stream_cuts_in_two_is_whole(server):
    """One half in each event; a half that stays alone is replaced, and is no reason to fail."""
    whole = SPOT.replace("spot", "\ud83d\ude00 \ud83d")
    cut = whole.index("\ude00")
    pieces = [whole[:cut], whole[cut:]]
    events = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    server.meets([Reply(headers={"content-type": "text/event-stream"}, body=stream.encode())])
    assert ask(server)[0].labels.tolist() == ["\U0001f600 \ufffd"]


def test_a_stream_that_is_cut_off_is_a_clear_failure(server):
    """As is any answer that ends at the limit of tokens."""
    event = {"choices": [{"delta": {"content": SPOT[:20]}, "finish_reason": "length"}]}
    stream = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n"
    assert "cut off" in str(failing(server, Reply(body=stream.encode())))


# Errors with status 200 -------------------------------------------------------------------


def fault(**error):
    return {"message": "provider says no", **error}


def in_choice(error):
    message = {"role": "assistant", "content": ""}
    choice = {"index": 0, "finish_reason": "error", "message": message, "error": error}
    return {"id": "x", "choices": [choice]}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": fault(code=429)}, Throttled),
        ({"error": fault(code="429")}, Throttled),
        ({"error": fault(type="rate_limit_error")}, Throttled),
        ({"error": fault(status="RESOURCE_EXHAUSTED")}, Throttled),
        (in_choice(fault(code=429)), Throttled),
        ({"object": "error", "message": "slow down", "code": 429}, Throttled),
        ({"error": fault(code=502)}, TransientError),
        ({"error": fault(type="overloaded_error")}, TransientError),
        (in_choice(fault(code=503)), TransientError),
        ({"error": "the provider was too slow"}, TransientError),
        ({"error": fault(code="insufficient_quota")}, PermanentError),
        ({"error": fault(code=401)}, PermanentError),
        ({"error": fault(type="invalid_request_error")}, PermanentError),
        (in_choice(fault(code=400)), PermanentError),
    ],
)
def test_an_error_with_status_200_is_what_its_code_says(server, body, kind):
    """By number or by name, in the body or in the choice."""
    found = failing(server, Reply(headers={"Retry-After": "3"}, body=body), error=kind)
    assert type(found) is kind and "\n" not in str(found)
    assert kind is PermanentError or found.retry_after == 3


@pytest.mark.parametrize(
    ("title", "kind"),
    [("502 Bad Gateway", TransientError), ("429 Too Many Requests", Throttled)],
)
def test_a_page_is_what_its_title_says(server, title, kind):
    """Gateways answer with a page, with its status or without; the page itself is not quoted."""
    page = f"<html><head><title>{title}</title></head><body><p>nginx</p></body></html>".encode()
    for status in (200, int(title[:3])):
        found = failing(server, Reply(status, body=page), error=kind)
        assert type(found) is kind and title in str(found) and "<" not in str(found)


# Dialects ---------------------------------------------------------------------------------


def refusing(name, message, status=400):
    error = {"message": message, "param": name, "code": "unsupported_parameter"}
    return Reply(status, body={"error": error})


def test_a_field_that_is_refused_is_left_out_from_then_on(server):
    """The limit by its other name, no temperature, another format: each is learnt once."""
    server.meets(
        [
            refusing("max_tokens", "Unsupported parameter: 'max_tokens'; use another."),
            refusing("temperature", "'temperature' does not support 0 with this model."),
            refusing("response_format", "json_schema is not supported by this model."),
        ]
    )
    assert len(ask(server, model="spots:0-1 xyxy", box_format="0-1")[0]) == 1
    last = server.seen[-1].body
    assert last["max_completion_tokens"] == 4096 and "max_tokens" not in last
    assert "temperature" not in last and last["response_format"] == {"type": "json_object"}
    before = len(server.seen)
    ask(server, model="spots:0-1 xyxy", box_format="0-1")
    assert len(server.seen) == before + 1 and before == 4


def test_a_field_is_known_by_the_words_where_it_is_not_named(server):
    """As servers built on pydantic refuse extra fields, with status 422."""
    detail = [{"loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}]
    server.meets([Reply(422, body={"detail": detail})])
    assert len(ask(server, model="spots:0-1 cxcywh", box_format="0-1 cxcywh")[0]) == 1
    assert "temperature" not in server.seen[-1].body


def test_another_refusal_teaches_nothing(server):
    """A value that is too large is the caller's to change."""
    reply = refusing("max_tokens", "max_tokens is too large: 4096; at most 100 are supported")
    assert "too large" in str(failing(server, reply))
    assert len(server.seen) == 1


def test_the_caller_may_name_the_limit(server):
    """In `extra`, or none at all."""
    ask(server, extra={"max_completion_tokens": 9})
    ask(server, extra={"max_tokens": None})
    ask(server, max_tokens=None)
    sent = [{"max_tokens", "max_completion_tokens"} & seen.body.keys() for seen in server.seen]
    assert sent == [{"max_completion_tokens"}, set(), set()]


# Time, proxies and certificates -----------------------------------------------------------


def test_a_date_is_read_by_the_servers_clock():
    """Servers' clocks are wrong; the reply states the clock its date was written by."""
    for skew in (-3600, 0, 3600):
        now = time.time() + skew
        dates = {"date": formatdate(now, usegmt=True)}
        dates["retry-after"] = formatdate(now + 5, usegmt=True)
        assert retry_after(dates) == 5
        proxy = formatdate(time.time() - 7000, usegmt=True)
        assert retry_after({**dates, "date": f"{proxy}, {dates['date']}"}) == 5


def test_a_server_that_trickles_is_given_up(monkeypatch):
    """The time limit is one of the whole answer: bytes that arrive do not renew it."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 20)
                head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
                while not ended.wait(0.05):
                    connection.sendall(b"1\r\n \r\n")

        serving = threading.Thread(target=trickle, daemon=True)
        serving.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        model = build(tv.model("openai", model="m", base_url=url, timeout=0.5))
        with pytest.raises(TransientError, match=r"within 0\.5 s"):
            model.request(model.encode([TILE]))  # would never end: bytes arrive until `ended`
        ended.set()
        serving.join(200)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:7891/"),
        ("HTTP_PROXY", "no-scheme:1"),
        ("HTTP_PROXY", "http://user:secret@127.0.0.1:9"),
    ],
)
def test_a_proxy_that_does_not_work_is_named(server, monkeypatch, name, value):
    """By its setting and address, without the password: the server is not to blame."""
    monkeypatch.setenv(name, value)
    error = failing(server, model="spots:0-1 xywh", error=(PermanentError, TransientError))
    assert name in str(error) and "proxy" in str(error) and "secret" not in str(error)


def test_a_host_beside_the_proxy_is_asked_directly(server, monkeypatch):
    """`NO_PROXY` holds."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert len(ask(server, api_key_env="OPENAI_API_KEY")[0]) == 1


# The other stages -------------------------------------------------------------------------


class Source:
    """As much of an image as the stages look at."""

    def __init__(self, pixels):
        self._pixels = pixels

    def thumbnail(self, max_side):
        """Return everything."""
        return self._pixels


@pytest.fixture
def stages(server, monkeypatch):
    """Ask a stage about pixels that are shown as they are."""
    for module in ("moderation", "synthesis"):
        monkeypatch.setattr(f"tilevision.{module}.display_options", lambda source: None)
        monkeypatch.setattr(f"tilevision.{module}.to_uint8", lambda pixels, options: pixels)
    return lambda name, stage, **given: resolve(
        tv.model("openai", model=name, base_url=server.url, **given), stage
    )


RED = np.zeros((64, 64, 3), np.uint8)
RED[..., 0] = 255


def test_the_moderation_endpoint_gives_a_verdict(server, stages):
    """Scores by category, and the reason is what was flagged."""
    spec = stages("omni-moderation-latest", "moderation")
    verdict = moderate(spec, Source(RED))
    assert not verdict.allowed and verdict.reason == "violence 1.00"
    assert verdict.scores == {"sexual": 0.01, "violence": 1.0, "violence/graphic": 0.01}
    assert verdict.model == "openai:omni-moderation-latest"
    assert moderate(spec, Source(TILE)).allowed
    assert [seen.path for seen in server.seen] == ["/v1/moderations"] * 2


def test_only_the_categories_that_are_asked_for_block(stages):
    """Stained tissue is not violence; a category that is unknown is no permission."""
    spec = stages("omni-moderation-latest", "moderation", categories=["sexual"])
    assert moderate(spec, Source(RED)).allowed
    unknown = stages("omni-moderation-latest", "moderation", categories=["gore"])
    with pytest.raises(ModelError, match=r"knows no category 'gore'; it has sexual, violence"):
        moderate(unknown, Source(RED))


def test_a_chat_model_moderates_by_the_callers_policy(server, stages):
    """With a schema of its own."""
    spec = stages("guard", "moderation", prompt="Refuse what is red.")
    assert moderate(spec, Source(RED)).reason == "too red"
    assert moderate(spec, Source(TILE)).allowed
    assert "Refuse what is red." in server.seen[0].text
    assert server.seen[0].path == "/v1/chat/completions"


@pytest.mark.parametrize("name", ["omni-moderation-latest", "guard"])
def test_a_moderation_that_cannot_be_had_is_no_permission(server, stages, name):
    """Whatever goes wrong is one line that says that nothing was analysed."""
    server.meets([Reply(body={"choices": [{"message": {"content": "yes"}}]})] * 3)
    with pytest.raises(ModelError, match="failed, so nothing was analysed"):
        moderate(stages(name, "moderation"), Source(TILE))


def test_stages_are_patient(server, stages):
    """No scheduler retries them, so they wait as they are told, but not for ever."""
    spec = stages("guard", "moderation")
    server.meets([Reply(429, {"Retry-After": "0"}), Reply(503, {"Retry-After": "0"})])
    assert moderate(spec, Source(TILE)).allowed
    server.meets([Reply(429, {"Retry-After": "3600"})])
    with pytest.raises(ModelError, match="asks for fewer requests"):
        moderate(spec, Source(TILE))


class Facts:
    """A digest, as far as it matters here."""

    def to_dict(self):
        """Return one fact."""
        return {"counts": {"ship": 12}}


def test_a_scene_is_described_from_digest_and_thumbnail(server, stages):
    """Plain text, asked for without a schema."""
    spec = stages("scene", "synthesis", prompt="Write for a harbour master.")
    assert synthesise(spec, Facts(), Source(TILE)) == "A picture of 60 by 40 pixels."
    text = server.seen[0].text
    assert "Write for a harbour master." in text and '"ship": 12' in text
    assert "response_format" not in server.seen[0].body
    server.meets([Reply(content=" ")])
    with pytest.raises(PermanentError, match="answered nothing"):
        synthesise(spec, Facts(), Source(TILE))


# Secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_a_server_that_quotes_the_request_gives_nothing_away(server, status):
    """Neither key nor picture get into message, trace, context or pickle of the error."""
    picture = "data:image/jpeg;base64," + "QUJD" * 2000
    quoted = f"bad request: Authorization: Bearer {KEY} {picture} {KEY}"
    error = failing(
        server, Reply(status, body={"error": {"message": quoted}}), error=tv.TilevisionError
    )
    failure = Failure.of(error)
    told = "".join(traceback.format_exception(error)) + repr(failure) + repr(error)
    assert KEY not in told and "QUJDQUJD" not in told
    assert KEY.encode() not in pickle.dumps(failure)
    assert error.__context__ is None and error.__cause__ is None


def test_the_model_in_use_shows_no_key(server):
    """Its repr and what it holds have none."""
    model = hosted(server)
    model.request(model.encode([TILE]))
    assert KEY not in repr(model) + repr(vars(model))


def test_scrubbing_hides_what_looks_like_a_secret():
    """Also of other services, and in addresses."""
    text = scrub("at https://u:p4ss@proxy/x with Bearer abc.def and sk-abcdefgh1234\nend", None)
    assert text == "at https://***@proxy/x with Bearer *** and *** end"
    assert len(scrub("word " * 1000, None)) < 310


# Threads ----------------------------------------------------------------------------------


def test_one_client_serves_a_hundred_threads(monkeypatch):
    """All at once, over connections that are used again; none is answered before all ask."""
    with OpenAIServer(together=100) as server:
        model = hosted(server)
        payload = model.encode([TILE])
        failures = []

        def work():
            try:
                for _ in range(2):
                    assert len(model.request(payload)[0]) == 1
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        assert failures == [] and server.count == 200
        assert server.most == 100
        clients = [o for o in gc.get_objects() if type(o).__name__ == "OpenAI"]
        assert sum(str(server.port) in str(client.base_url) for client in clients) == 1


def test_server_really_checks_its_key(server):
    """The tests' own server would notice a missing key."""
    server.key = "another"
    assert "does not accept" in str(failing(server))
    assert json.dumps(server.seen[0].body)
