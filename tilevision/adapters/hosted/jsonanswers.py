"""The JSON in what a model says: the last answer counts, and thoughts never do.

Models wrap their answers: in fences, in sentences, behind thoughts, in a channel of their own.
They also correct themselves, so the first thing that looks like an answer may be a draft. Three
things are therefore decided here, the same for every stage: thoughts are cut off first; of what is
left the last JSON of the wanted form counts; and where something that looks like a later answer
cannot be read, nothing counts, since what it would have said is not known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

__all__ = ["Malformed", "last_answer", "mended", "spoken"]

# Families mark thoughts in their own ways: DeepSeek, Qwen, Seed, Magistral, Kimi, OpenThinker.
_NAMES = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reasoning|reflection)"
_BEGIN = rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>"
_END = rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
_THOUGHTS = re.compile(rf"(?:{_BEGIN}).*?(?:{_END})", re.DOTALL | re.IGNORECASE)
_THOUGHTS_END = re.compile(_END, re.IGNORECASE)
_THOUGHTS_BEGIN = re.compile(_BEGIN, re.IGNORECASE)
# The channels below where a server has dropped their marks.
_BARE_CHANNELS = re.compile(r"\Aanalysis(?=[A-Z])(.*?)(?:assistantfinal(.*))?\Z", re.DOTALL)
# The channels of OpenAI's open-weight models: analysis, commentary, final.
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>(.*?)(?=<\|(?:end|return|start|channel|call)\|>|\Z)",
    re.DOTALL,
)
_FENCE = re.compile(r"```\w*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
# What an opening bracket is followed by where JSON was meant, not a bracket of a sentence.
_MEANT = re.compile(r"(?:\{\s*\"|\[\s*[\[{])")
_MOST_OPENINGS = 10_000  # each is tried once; a text of nothing but brackets ends here


class Malformed(Exception):
    """An answer that cannot be read; says why in words that the model can act on."""


def mended(text: str) -> str:
    """Return `text` with whole characters: halves that belong together joined, others replaced.

    JSON may write a character as two halves, as UTF-16 does. Models stop after one, servers cut
    between them, and no record, file or terminal takes a half.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def spoken(text: str) -> str:
    """Return what a model says to the caller: without its thoughts and its other channels.

    Raises
    ------
    Malformed
        If there are thoughts alone.
    """
    channels = _CHANNEL.findall(text)
    if channels:
        final = [said for name, said in channels if name == "final"]
        if not final:
            raise Malformed("it has no final channel, only thoughts")
        text = final[-1]
    elif bare := _BARE_CHANNELS.match(text):
        if bare[2] is None:
            raise Malformed("it has no final channel, only thoughts")
        text = bare[2]
    text = _THOUGHTS.sub("", text)
    # Servers put the opening tag into the prompt, so that answers have the closing one alone.
    text = _THOUGHTS_END.split(text)[-1]
    if _THOUGHTS_BEGIN.search(text):
        raise Malformed("it ends within its thoughts")
    return text.strip()


def last_answer(text: str, fits: Callable[[Any], bool]) -> Any:
    """Return the last JSON value in `text` that is of the wanted form.

    Parameters
    ----------
    text : str
        As the model wrote it.
    fits : callable
        Returns True if a value is an answer. Where none is, the last value of any form is
        returned, so that the reader says what is wrong with it.

    Raises
    ------
    Malformed
        If there is none, or what looks like the last answer is no JSON.
    """
    text = spoken(text)
    if not text:
        raise Malformed("it is empty")
    whole = _whole(text, fits)
    if whole is not None:
        return whole[0]
    found, complaint = _scan(text)
    if complaint:
        raise Malformed(complaint)
    answers = [value for value in found if fits(value)]
    if not found:
        raise Malformed("it is no JSON")
    return (answers or found)[-1]


def _whole(text: str, fits: Callable[[Any], bool]) -> tuple[Any] | None:
    """Return the text, or its last fence, as one value; None where neither is one."""
    fences = [said.strip() for said in _FENCE.findall(text)]
    last = text.rstrip().endswith("```") or not _OPENING.search(_FENCE.sub("", text))
    for candidate in [text, *(fences[-1:] if last else [])]:
        try:
            value = _parsed(candidate)
        except ValueError:
            continue
        except RecursionError:
            raise Malformed("it is nested too deeply") from None
        if isinstance(value, str) and value.strip() and value != text:  # JSON within a string
            return (last_answer(value, fits),)
        if candidate is text or fits(value) or value == []:
            return (value,)
    return None


def _scan(text: str) -> tuple[list[Any], str]:
    """Return the values in `text` in order, and what is wrong with what follows the last one."""
    found: list[Any] = []
    position = 0
    for _ in range(_MOST_OPENINGS):
        opening = _OPENING.search(text, position)
        if opening is None:
            return found, ""
        start = opening.start()
        try:
            value, position = _decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            if not _MEANT.match(text, start):
                position = start + 1
                continue
            mended = _mended(text, start)
            if mended is None:  # what it holds are pieces of an answer, not answers
                return found, f"it is no JSON ({error.msg} at character {error.pos})"
            value, position = mended
        except RecursionError:
            return found, "it is nested too deeply"
        found.append(value)
    return found, "it is no JSON"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number, strict=False)
    except json.JSONDecodeError:
        return json.loads(_without_loose_commas(text), parse_constant=_no_number, strict=False)


def _mended(text: str, start: int) -> tuple[Any, int] | None:
    """Return the value at `start` and its end, read without loose commas; None: no value."""
    end = _closing(text, start)
    if end is None:
        return None
    try:
        return _parsed(text[start:end]), end
    except (ValueError, RecursionError):
        return None


def _closing(text: str, start: int) -> int | None:
    """Return where the bracket at `start` is closed, strings passed over."""
    depth, inside, escaped = 0, False, False
    for position in range(start, len(text)):
        char = text[position]
        if inside:
            inside = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            inside = True
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
            if depth == 0:
                return position + 1
    return None


def _without_loose_commas(text: str) -> str:
    """Return `text` without commas before a closing bracket, strings untouched."""
    pattern = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[\]}])', re.DOTALL)
    return pattern.sub(lambda match: match[1] or "", text)


def _no_number(name: str) -> float:
    raise Malformed(f"{name} is no number")


_decoder = json.JSONDecoder(parse_constant=_no_number, strict=False)
