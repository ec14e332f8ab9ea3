"""The wire: requests to a server, one at a time on any thread."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tilevision.adapters.hosted.completions import (
    Completion,
    error_in,
    read_completion,
    read_events,
    tokens_of,
)
from tilevision.adapters.hosted.connection import client_of, last_headers
from tilevision.adapters.hosted.dialects import Dialect, dialect_of
from tilevision.adapters.hosted.httperrors import (
    of_body,
    of_page,
    refusal_of,
    scrub,
    translated,
)
from tilevision.adapters.hosted.parameters import OPENAI_URL, Parameters
from tilevision.errors import ModelError, PermanentError, TilevisionError
from tilevision.modelspec import Usage, count

__all__ = ["Reply", "chat", "check_library", "moderate", "remarks"]

# No model reads more: a token has at least one character, and the smallest patch of a picture
# that is one token is 14 by 14 pixels.
_PATCH = 14 * 14
_LONGEST_ANSWER = 32_768  # tokens, where the caller sets no limit


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said, and what it used to say it."""

    text: str
    usage: Usage


def check_library() -> None:
    """Raise a `ModelError` where the client library is not installed."""
    if importlib.util.find_spec("openai") is None:
        raise ModelError(
            "Model openai needs the openai package: pip install 'tilevision[vlm]', "
            "also where the workers run."
        )


def chat(
    parameters: Parameters,
    messages: Sequence[dict[str, Any]],
    schema: dict[str, Any] | None = None,
) -> Reply:
    """Ask for one chat completion.

    Parameters
    ----------
    parameters : Parameters
    messages : sequence of dict
    schema : dict, optional
        Of the JSON that is asked for; None: plain text.

    Raises
    ------
    Throttled, TransientError, PermanentError
        Also where the model was cut off, filtered, or refused.
    """
    body: dict[str, Any] = {
        "model": parameters.model,
        "messages": list(messages),
        "limit": parameters.max_tokens,  # servers differ in its name
    }
    if parameters.temperature is not None:
        body["temperature"] = parameters.temperature
    if schema is not None and parameters.response_format != "text":
        body["response_format"] = _form(parameters.response_format, schema)
    answer = _send(parameters, "/chat/completions", {**body, **parameters.extra})
    return _reply(answer, parameters, messages)


def remarks(parameters: Parameters) -> list[str]:
    """Return what was learnt of the server, a sentence each."""
    changes = dialect_of(parameters).changes
    return [f"{parameters.host}, model {parameters.model}: {change}." for change in changes]


def moderate(parameters: Parameters, url: str) -> dict[str, Any]:
    """Ask the moderation endpoint about one picture; return its first result.

    Raises
    ------
    Throttled, TransientError, PermanentError
    """
    picture = [{"type": "image_url", "image_url": {"url": url}}]
    answer = _send(parameters, "/moderations", {"model": parameters.model, "input": picture})
    results = answer.get("results")
    result = results[0] if isinstance(results, list) and results else {}
    if not isinstance(result, dict) or not isinstance(result.get("flagged"), bool):
        raise _strange(parameters, answer, "moderation result")
    return result


def _form(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    if kind == "json_object":
        return {"type": kind}
    return {"type": kind, "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _send(parameters: Parameters, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post a request in the server's dialect, as often as it takes to learn that."""
    dialect = dialect_of(parameters)
    while True:
        sent = dialect.spell(body)
        answer, refused = _post(parameters, path, sent, dialect)
        if answer is not None:
            return answer
        if not refused:
            continue  # in another spelling
        raise refused[0]  # here, so that it has no context: the client's errors hold headers


def _post(
    parameters: Parameters, path: str, sent: dict[str, Any], dialect: Dialect
) -> tuple[dict[str, Any] | None, tuple[TilevisionError, ...]]:
    """Post once; return the reply, or the error to raise, or neither after a lesson was learnt."""
    import openai

    key = _key(parameters)
    client = client_of(parameters, key)
    count(Usage(calls=1))
    try:
        # Not the typed methods: they spend more time on checking the request against its types
        # than on sending it, and refuse replies that differ in what is not needed here.
        text = client.post(path, cast_to=str, body=sent, options={"timeout": parameters.timeout})
    except openai.APIStatusError as error:
        named, said = refusal_of(error.body if error.body else error.message)
        if error.status_code in (400, 422) and dialect.learn(sent, named, said):
            return None, ()
        return None, (translated(error, parameters, key),)
    except openai.APIError as error:
        return None, (translated(error, parameters, key),)
    answer = _decoded(text)
    if answer is None:
        page = of_page(text, parameters, last_headers())
        return None, (page or _strange(parameters, text, "JSON"),)
    fault = error_in(answer)
    if fault is None:
        return answer, ()
    named, said = refusal_of(fault)
    if dialect.learn(sent, named, said):
        return None, ()
    used = tokens_of(answer.get("usage"))
    count(replace(used, calls=0) if used else Usage())
    return None, (of_body(fault, parameters, key, last_headers()),)


def _decoded(text: str) -> dict[str, Any] | None:
    """Return a reply's JSON object, or what its events amount to; None where it is neither."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return read_events(text)
    if isinstance(answer, list) and len(answer) == 1:  # as Google wraps its errors
        (answer,) = answer
    return answer if isinstance(answer, dict) else None


def _strange(parameters: Parameters, answer: Any, wanted: str) -> PermanentError:
    said = scrub(answer, os.environ.get(parameters.api_key_env or "", ""))
    return PermanentError(
        f"{parameters.host} answered no {wanted}, but {said[:120]!r}; "
        "check base_url, which mostly ends in /v1."
    )


def _key(parameters: Parameters) -> str | None:
    """Return the API key from this process's environment, where one is wanted."""
    variable = parameters.api_key_env
    key = os.environ.get(variable, "").strip() if variable else ""
    if key and not (key.isascii() and key.isprintable()):
        raise PermanentError(f"What is in the environment variable {variable} cannot be a key.")
    own = variable not in (None, "OPENAI_API_KEY")
    if not key and (own or parameters.base_url == OPENAI_URL):
        raise PermanentError(
            f"There is no API key for {parameters.host}: set the environment variable "
            f"{variable or '(named by api_key_env=)'} where the workers run."
        )
    return key or None


def _reply(
    answer: dict[str, Any], parameters: Parameters, messages: Sequence[Mapping[str, Any]]
) -> Reply:
    found = read_completion(answer)
    if found is None:
        raise _strange(parameters, answer, "chat completion")
    most = _most(parameters, messages)
    usage = found.usage or most
    if found.usage and found.usage.uncounted:  # one of the two is not known
        read, written = usage.input_tokens, usage.output_tokens
        usage = replace(
            usage,
            most_input=0 if read else most.most_input,
            most_output=0 if written else most.most_output,
        )
    count(replace(usage, calls=0))  # the call was counted when it was sent
    failed = _ended_badly(found, parameters)
    if failed is not None:
        error = PermanentError(failed)
        error.usage = usage
        raise error
    return Reply(found.text, usage)


def _ended_badly(found: Completion, parameters: Parameters) -> str | None:
    """Return why a completion is no answer; None where it is one."""
    if found.refusal:
        return f"Model {parameters.model} refused: {scrub(found.refusal, None)}."
    if found.filtered:
        return f"{parameters.host} filtered the answer of {parameters.model} (content_filter)."
    if found.cut_off:
        return (
            f"The answer of {parameters.model} was cut off at the limit of "
            f"{parameters.max_tokens or 'its server'} tokens; raise max_tokens=, or use smaller "
            "tiles."
        )
    return None


def _most(parameters: Parameters, messages: Sequence[Mapping[str, Any]]) -> Usage:
    """Return a call whose tokens nobody counted: at most as many as these."""
    text = json.dumps([_without_pictures(one.get("content")) for one in messages])
    picture = parameters.max_side**2 // _PATCH
    return Usage(
        1,
        uncounted=1,
        most_input=len(text) + picture,
        most_output=parameters.max_tokens or _LONGEST_ANSWER,
    )


def _without_pictures(content: Any) -> Any:
    if isinstance(content, list):
        return [part for part in content if part.get("type") == "text"]
    return content
