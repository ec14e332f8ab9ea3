"""What a server's reply holds: the model's words, what it used, or an error in its place.

Servers that speak OpenAI's protocol differ in where they put things. An answer may stand in the
content, in parts of it, in the arguments of a tool call, or (where a server takes all for
thoughts) in the field for reasoning; it may come as an event stream though none was asked for. An
error may come with status 200. All of these are known here, the same for every stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tilevision.modelspec import Usage

__all__ = ["Completion", "error_in", "read_completion", "read_events", "tokens_of"]

_THINKING = ("thinking", "reasoning", "redacted_thinking", "summary_text")
_REASONING = ("reasoning_content", "reasoning")
_CUT_OFF = ("length", "max_tokens", "max_output_tokens", "model_length")
_INPUT = ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_eval_count")
_OUTPUT = ("completion_tokens", "output_tokens", "candidatesTokenCount", "eval_count")


@dataclass(frozen=True, slots=True)
class Completion:
    """One chat completion.

    Parameters
    ----------
    text : str
        What the model answered; thoughts may still be in it.
    refusal : str
        Its words where it refused; else empty.
    cut_off, filtered : bool
        Whether the answer ends at the limit of tokens, or was withheld by the server.
    usage : Usage or None
        Tokens as the server counted them; None where it counted none.
    """

    text: str
    refusal: str = ""
    cut_off: bool = False
    filtered: bool = False
    usage: Usage | None = None


def read_completion(answer: Mapping[str, Any]) -> Completion | None:
    """Return the completion in a reply; None where the reply is none."""
    choice = _first(answer.get("choices"))
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return None
    reason = str(choice.get("finish_reason") or "").lower()
    return Completion(
        text=_text(message),
        refusal=str(message.get("refusal") or ""),
        cut_off=reason in _CUT_OFF,
        filtered=reason == "content_filter",
        usage=tokens_of(answer.get("usage")),
    )


def error_in(answer: Mapping[str, Any]) -> Any:
    """Return the error that a reply of status 200 is about; None where there is none."""
    choice = _first(answer.get("choices"))
    if answer.get("error"):
        return answer["error"]
    if choice.get("error"):
        return choice["error"]
    if answer.get("object") == "error" or (not choice and answer.get("message")):
        return answer
    if str(choice.get("finish_reason") or "").lower() == "error":
        return {"message": "the provider ended the answer with an error"}
    return None


def tokens_of(counts: Any) -> Usage | None:
    """Return the tokens that a server counted, in any spelling; None where it counted none."""
    if not isinstance(counts, Mapping):
        return None
    read, written = (
        next((int(counts[name]) for name in names if _is_count(counts.get(name))), None)
        for names in (_INPUT, _OUTPUT)
    )
    if read is None and written is None:
        return None
    return Usage(1, read or 0, written or 0)


def read_events(text: str) -> dict[str, Any] | None:
    """Return the reply that an event stream amounts to; None where the text is no such stream."""
    lines = [line.strip() for line in text.splitlines()]
    if not any(line.startswith("data:") for line in lines):
        return None
    message: dict[str, Any] = {"role": "assistant"}
    reply: dict[str, Any] = {"choices": []}
    for event in _events(lines):
        for name in ("error", "usage"):
            if event.get(name):
                reply[name] = event[name]
        choice = _first(event.get("choices"))
        if choice:
            _append(message, choice.get("delta") or choice.get("message") or {})
            reason = choice.get("finish_reason") or _first(reply["choices"]).get("finish_reason")
            reply["choices"] = [{"message": message, "finish_reason": reason}]
            if choice.get("error"):
                reply["error"] = choice["error"]
    return reply


def _events(lines: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    for line in lines:
        if line.startswith("data:"):
            try:
                event = json.loads(line.removeprefix("data:"))
            except ValueError:  # [DONE]
                continue
            if isinstance(event, Mapping):
                yield event


def _append(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add one piece of a streamed message to what came before it."""
    for name in ("content", "refusal", *_REASONING):
        piece = _flat(delta.get(name))
        if piece:
            message[name] = str(message.get(name, "")) + piece
    for call in delta.get("tool_calls") or []:
        calls = message.setdefault("tool_calls", [])
        index = call.get("index", 0) if isinstance(call, Mapping) else 0
        while len(calls) <= index:
            calls.append({"function": {"arguments": ""}})
        piece = (call.get("function") or {}).get("arguments") or ""
        calls[index]["function"]["arguments"] += piece


def _text(message: Mapping[str, Any]) -> str:
    """Return the answer, wherever the server has put it."""
    content = _flat(message.get("content"))
    if content.strip():
        return content
    calls = [call.get("function") or {} for call in message.get("tool_calls") or []]
    calls += [message["function_call"]] if message.get("function_call") else []
    arguments = [call.get("arguments") for call in calls]
    if arguments and arguments[-1]:
        last = arguments[-1]
        return last if isinstance(last, str) else json.dumps(last)
    # A server that takes the whole answer for thoughts. What is JSON and nothing else was no
    # thought; a draft among thoughts has words around it, and is never an answer.
    for name in _REASONING:
        reasoning = _flat(message.get(name)).strip()
        if reasoning and _is_json(reasoning):
            return reasoning
    return ""


def _flat(content: Any) -> str:
    """Return what was said; some gateways hand on the parts it came in, thoughts among them."""
    if isinstance(content, list):
        parts = (part for part in content if isinstance(part, Mapping))
        return "".join(str(p.get("text") or "") for p in parts if p.get("type") not in _THINKING)
    return content if isinstance(content, str) else ""


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text, strict=False), (dict, list))
    except (ValueError, RecursionError):
        return False


def _is_count(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value < 1e15


def _first(items: Any) -> dict[str, Any]:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
