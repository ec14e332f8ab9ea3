"""The wire: one client for a server in a process, one request at a time on any thread."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tilevision.adapters.hosted.httperrors import scrub, translated
from tilevision.adapters.hosted.parameters import OPENAI_URL, Parameters
from tilevision.errors import ModelError, PermanentError, TilevisionError, TransientError
from tilevision.modelspec import Usage, count

__all__ = ["Reply", "chat", "check_library", "moderate"]

CLIENTS = 8  # servers (and keys) that a process keeps connections to
_NO_KEY = "none"  # a server that wants no key still gets the header

_clients: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said, and what it used for it."""

    text: str
    usage: Usage


def check_library() -> None:
    """Raise a `ModelError` where the client library is not installed."""
    if importlib.util.find_spec("openai") is None:
        raise ModelError(
            "Model openai needs the openai package; pip install 'tilevision[vlm]', "
            "where the workers run as well."
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
    # OpenAI's newer models refuse the old name of the limit; other servers may not know the new.
    limit = "max_completion_tokens" if parameters.official else "max_tokens"
    body: dict[str, Any] = {
        "model": parameters.model,
        "messages": list(messages),
        limit: parameters.max_tokens,
    }
    if parameters.temperature is not None:
        body["temperature"] = parameters.temperature
    if schema is not None and parameters.response_format != "text":
        body["response_format"] = _form(parameters.response_format, schema)
    return _reply(_send(parameters, "/chat/completions", {**body, **parameters.extra}), parameters)


def moderate(parameters: Parameters, url: str) -> dict[str, Any]:
    """Ask the moderation endpoint about one picture; return its first result.

    Raises
    ------
    Throttled, TransientError, PermanentError
    """
    picture = [{"type": "image_url", "image_url": {"url": url}}]
    answer = _send(parameters, "/moderations", {"model": parameters.model, "input": picture})
    result = _first(answer.get("results"))
    if not isinstance(result.get("flagged"), bool):
        raise _strange(parameters, answer, "moderation result")
    return result


def _form(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    if kind == "json_object":
        return {"type": kind}
    return {"type": kind, "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _send(parameters: Parameters, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post a request; what goes wrong becomes one of our errors, without the client's in it."""
    import openai

    key = _key(parameters)
    count(Usage(calls=1))
    failed: TilevisionError
    try:
        # Not the typed methods: they spend more time on checking the request against its types
        # than on sending it, and refuse replies that differ in what is not needed here.
        text = _client(parameters.base_url, key or _NO_KEY).post(
            path, cast_to=str, body=body, options={"timeout": parameters.timeout}
        )
        answer = json.loads(text)
    except openai.APIError as error:
        failed = translated(error, parameters, key)
    except ValueError:
        failed = _strange(parameters, text, "JSON")
    else:
        if isinstance(answer, dict):
            return answer
        failed = _strange(parameters, text, "JSON object")
    raise failed  # here, so that it has no context: the client's errors hold headers


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


def _client(base_url: str, key: str) -> Any:
    from openai import OpenAI

    with _lock:
        client = _clients.get((base_url, key))
        if client is None:
            # Retries are the scheduler's: it alone knows the quota and what else has failed.
            client = OpenAI(base_url=base_url, api_key=key, max_retries=0)
            _clients[base_url, key] = client
            while len(_clients) > CLIENTS:
                _clients.pop(next(iter(_clients)))  # closed once its last request is over
        return client


def _reply(answer: dict[str, Any], parameters: Parameters) -> Reply:
    usage = _usage(answer.get("usage"))
    count(replace(usage, calls=0))  # the call was counted when it was sent
    choice = _first(answer.get("choices"))
    message, reason = choice.get("message"), choice.get("finish_reason")
    if answer.get("error"):  # a gateway's way to hand on that what is behind it failed
        said = scrub(answer["error"], os.environ.get(parameters.api_key_env or "", ""))
        raise TransientError(f"{parameters.host} failed: {said}.")
    if not isinstance(message, dict):
        raise _strange(parameters, answer, "chat completion")
    failed = None
    if message.get("refusal"):
        failed = f"Model {parameters.model} refused: {scrub(message['refusal'], None)}."
    elif reason == "content_filter":
        failed = f"{parameters.host} filtered the answer of {parameters.model} (content_filter)."
    elif reason == "length":
        failed = (
            f"The answer of {parameters.model} was cut off after {parameters.max_tokens} tokens; "
            "raise max_tokens=, or use smaller tiles."
        )
    if failed is not None:
        error = PermanentError(failed)
        error.usage = usage
        raise error
    return Reply(_text(message.get("content")), usage)


def _first(items: Any) -> dict[str, Any]:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}


def _text(content: Any) -> str:
    """Return what was said; some gateways hand on the parts it came in."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _usage(counts: Any) -> Usage:
    counts = counts if isinstance(counts, dict) else {}
    read, written = (counts.get(f"{kind}_tokens") for kind in ("prompt", "completion"))
    return Usage(1, *(count if isinstance(count, int) else 0 for count in (read, written)))
