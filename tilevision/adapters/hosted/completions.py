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

from tilevision.adapters.hosted.jsonanswers import mended
from tilevision.modelspec import Usage

__all__ = ["Completion", "error_in", "read_completion", "read_events", "tokens_of"]

_THINKING = ("thinking", "reasoning", "redacted_thinking", "summary_text")
_REASONING = ("reasoning_content", "reasoning")
# Why answers end, as the services name it; what else there is ends a whole answer.
_CUT_OFF = (
    *("length", "max_tokens", "max_output_tokens", "model_length"),
    *("max_length", "model_context_window_exceeded"),
)
_FILTERED = (
    *("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii"),
    *("sensitive", "refusal", "guardrail_intervened", "image_safety"),
)
_BROKEN_OFF = (
    *("error", "abort", "aborted", "cancelled", "canceled", "failed"),
    *("insufficient_system_resource", "network_error", "timeout"),
)
# Where services put an error that has no "error", and its words.
_FAULTS = ("error", "errors", "detail", "details", "fault", "exception", "base_resp")
_WORDS = ("message", "msg", "error_message", "error_msg", "errorMessage", "status_msg")
_MOST_CALLS = 64
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
    choice: Mapping[str, Any] = _first(answer.get("choices"))
    if not choice and isinstance(answer.get("message"), Mapping):  # as Ollama answers by itself
        choice = answer
    message = choice.get("message") or choice.get("delta")
    if not isinstance(message, Mapping):
        if not isinstance(choice.get("text"), str):
            return None
        message = {"content": choice["text"]}  # as completions were before there were chats
    reason = _ending(choice)
    return Completion(
        text=mended(_text(message)),
        refusal=mended(str(message.get("refusal") or "")),
        cut_off=reason in _CUT_OFF,
        filtered=reason in _FILTERED,
        usage=tokens_of(answer.get("usage")),
    )


def error_in(answer: Mapping[str, Any]) -> Any:
    """Return the error that a reply of status 200 is about; None where there is none."""
    choice = _first(answer.get("choices"))
    if answer.get("error"):
        return answer["error"]
    if choice.get("error"):
        return choice["error"]
    if answer.get("object") == "error":
        return answer
    if not choice and not (answer.get("results") or isinstance(answer.get("message"), Mapping)):
        return _other_fault(answer)
    reason = _ending(choice)
    if reason in _BROKEN_OFF:
        return {"message": f"the provider broke the answer off ({reason})"}
    return None


def _other_fault(answer: Mapping[str, Any]) -> Any:
    """Return the error in a reply that holds no answer; None where nothing says so."""
    for name in _FAULTS:
        fault = answer.get(name)
        if isinstance(fault, list) and fault and not name.startswith("detail"):
            fault = fault[0]
        if fault:
            said = next((fault[n] for n in _WORDS if fault.get(n)), None) if _is_map(fault) else ""
            return {**fault, "message": said} if said else fault
    said = next((answer[name] for name in _WORDS if answer.get(name)), None)
    return {**answer, "message": said} if said else None


def _ending(choice: Mapping[str, Any]) -> str:
    """Return why an answer ended, in small letters."""
    names = ("finish_reason", "stop_reason", "done_reason", "finishReason")
    return str(next((choice[name] for name in names if choice.get(name)), "")).lower()


def tokens_of(counts: Any) -> Usage | None:
    """Return the tokens that a server counted, in any spelling; None where it counted none.

    Where it counted only those that were read, or only those that were written, the call counts as
    not counted.
    """
    if not isinstance(counts, Mapping):
        return None
    read, written = (
        next((int(counts[name]) for name in names if _is_count(counts.get(name))), None)
        for names in (_INPUT, _OUTPUT)
    )
    total = counts.get("total_tokens")
    whole = int(total) if isinstance(total, (int, float)) and _is_count(total) else None
    if whole is not None and read is not None and written is None:
        written = max(0, whole - read)
    elif whole is not None and written is not None and read is None:
        read = max(0, whole - written)
    if not (read or written):  # something was read: the server does not count, and writes noughts
        return None
    return Usage(1, read or 0, written or 0, uncounted=int(read is None or written is None))


def read_events(text: str) -> dict[str, Any] | None:
    """Return the reply that an event stream amounts to; None where the text is no such stream."""
    lines = [line.strip() for line in text.splitlines()]
    if not any(line.startswith("data:") for line in lines):
        return None
    message: dict[str, Any] = {"role": "assistant"}
    reply: dict[str, Any] = {"choices": []}
    ended = any(line.removeprefix("data:").strip() == "[DONE]" for line in lines)
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
            ended = ended or bool(reason)
    if not ended and not reply.get("error"):
        # What came may look like an answer; what would have followed is not known.
        reply["error"] = {"message": "the event stream ended in the middle of the answer"}
    return reply


def _events(lines: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    """Yield the objects of a stream: the data of an event may go over several lines."""
    name, data = "", ""
    for line in (*lines, ""):
        if line.startswith("data:"):
            data += line.removeprefix("data:").strip()
        elif line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        if line.startswith("data:") or not line:
            try:
                event = json.loads(data) if data else None
            except (ValueError, RecursionError):  # [DONE], or more lines are to come
                data = data if line else ""
                continue
            if isinstance(event, Mapping):
                yield {"error": event} if name == "error" and not event.get("error") else event
            name, data = ("", "") if not line else (name, "")


def _append(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add one piece of a streamed message to what came before it."""
    for name in ("content", "refusal", *_REASONING):
        piece = _flat(delta.get(name))
        if piece:
            message[name] = str(message.get(name, "")) + piece
    for call in _maps(delta.get("tool_calls")):
        calls = message.setdefault("tool_calls", [])
        index = call.get("index")
        index = index if isinstance(index, int) and 0 <= index < _MOST_CALLS else 0
        while len(calls) <= index:
            calls.append({"function": {"arguments": ""}})
        piece = _arguments(call)
        calls[index]["function"]["arguments"] += piece


def _text(message: Mapping[str, Any]) -> str:
    """Return the answer, wherever the server has put it."""
    content = _flat(message.get("content"))
    if content.strip():
        return content
    calls = [_arguments(call) for call in _maps(message.get("tool_calls"))]
    calls += [_arguments({"function": message.get("function_call")})]
    if said := [arguments for arguments in calls if arguments][-1:]:
        return said[0]
    if _is_map(message.get("parsed")):
        return json.dumps(message["parsed"])
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
        return "".join(map(_part, content))
    if isinstance(content, Mapping):
        return _part(content) if "text" in content else json.dumps(content)
    return content if isinstance(content, str) else ""


def _part(part: Any) -> str:
    """Return what one part of a content says; thoughts are nothing."""
    if not isinstance(part, Mapping):
        return part if isinstance(part, str) else ""
    text = part.get("text")
    if part.get("type") in _THINKING or part.get("thought") is True:
        return ""
    return str((text.get("value") if isinstance(text, Mapping) else text) or "")


def _arguments(call: Mapping[str, Any]) -> str:
    """Return the arguments of a call as the text that a model wrote."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    return arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""


def _maps(items: Any) -> list[Mapping[str, Any]]:
    return [one for one in items if isinstance(one, Mapping)] if isinstance(items, list) else []


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


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
