"""The wire: one client for a server in a process, one request at a time on any thread."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tilevision.adapters.hosted.faults import scrub, translated
from tilevision.adapters.hosted.parameters import OPENAI_URL, Parameters
from tilevision.errors import ModelError, PermanentError, TilevisionError
from tilevision.modelspec import Usage

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
            "model openai needs the openai package; pip install 'tilevision[vlm]', "
            "where the workers run as well"
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
    request: dict[str, Any] = {"model": parameters.model, "messages": list(messages)}
    # OpenAI's newer models refuse the old name; other servers may not know the new one.
    limit = "max_completion_tokens" if parameters.official else "max_tokens"
    request[limit] = parameters.max_tokens
    if parameters.temperature is not None:
        request["temperature"] = parameters.temperature
    if schema is not None and parameters.response_format != "text":
        request["response_format"] = _form(parameters.response_format, schema)
    answer = _send(
        parameters,
        lambda client: client.chat.completions.create(
            **request, extra_body=parameters.extra or None, timeout=parameters.timeout
        ),
    )
    return _reply(answer, parameters)


def moderate(parameters: Parameters, url: str) -> Any:
    """Ask the moderation endpoint about one picture; return its first result.

    Raises
    ------
    Throttled, TransientError, PermanentError
    """
    picture = [{"type": "image_url", "image_url": {"url": url}}]
    answer = _send(
        parameters,
        lambda client: client.moderations.create(
            model=parameters.model, input=picture, timeout=parameters.timeout
        ),
    )
    results = getattr(answer, "results", None)
    if not results or not isinstance(getattr(results[0], "flagged", None), bool):
        raise PermanentError(f"{parameters.host} answered no moderation result; check base_url")
    return results[0]


def _form(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    if kind == "json_object":
        return {"type": kind}
    return {"type": kind, "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _send(parameters: Parameters, call: Callable[[Any], Any]) -> Any:
    """Make a request; what goes wrong becomes one of our errors, without the client's in it."""
    import openai

    key = _key(parameters)
    failed: TilevisionError
    try:
        return call(_client(parameters.base_url, key or _NO_KEY))
    except openai.APIError as error:
        failed = translated(error, parameters, key)
    except (ValueError, TypeError, openai.OpenAIError) as error:
        # Not JSON though it says so, or a request that cannot be built.
        failed = PermanentError(
            f"{parameters.host}: {type(error).__name__}: {scrub(error, key)}; check base_url"
        )
    raise failed  # here, so that it has no context: the client's errors hold headers


def _key(parameters: Parameters) -> str | None:
    """Return the API key from this process's environment, where one is wanted."""
    variable = parameters.api_key_env
    key = os.environ.get(variable, "").strip() if variable else ""
    if key and not (key.isascii() and key.isprintable()):
        raise PermanentError(f"what is in the environment variable {variable} cannot be a key")
    own = variable not in (None, "OPENAI_API_KEY")
    if not key and (own or parameters.base_url == OPENAI_URL):
        raise PermanentError(
            f"there is no API key for {parameters.host}: set the environment variable "
            f"{variable or '(named by api_key_env=)'} where the workers run"
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


def _reply(answer: Any, parameters: Parameters) -> Reply:
    usage = _usage(answer)
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
        complaint = getattr(answer, "error", None) or type(answer).__name__
        raise PermanentError(
            f"{parameters.host} answered what is no chat completion "
            f"({scrub(complaint, _key(parameters))}); check base_url, which mostly ends in /v1"
        )
    message, reason = choices[0].message, choices[0].finish_reason
    failed = None
    if getattr(message, "refusal", None):
        failed = f"model {parameters.model} refused: {scrub(message.refusal, None)}"
    elif reason == "content_filter":
        failed = f"{parameters.host} filtered the answer of {parameters.model} (content_filter)"
    elif reason == "length":
        failed = (
            f"the answer of {parameters.model} was cut off after {parameters.max_tokens} tokens; "
            "raise max_tokens=, or use smaller tiles"
        )
    if failed is not None:
        error = PermanentError(failed)
        error.usage = usage
        raise error
    return Reply(message.content if isinstance(message.content, str) else "", usage)


def _usage(answer: Any) -> Usage:
    counts = getattr(answer, "usage", None)
    tokens = [getattr(counts, f"{kind}_tokens", None) for kind in ("prompt", "completion")]
    return Usage(1, *(count if isinstance(count, int) else 0 for count in tokens))
