"""What a server does not take of a request, learnt from what it refuses.

Which fields a server knows cannot be told from its address: gateways stand in front of models of
every age. So a request is sent as the protocol has it; where the server refuses a field by name,
the next spelling is tried, and what worked is remembered for the server and the model as long as
the process lives.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

from tilevision.adapters.hosted.parameters import Parameters

__all__ = ["Dialect", "dialect_of"]

_UNKNOWN = re.compile(
    r"unsupported|not supported|n't support|not support|unknown|unrecogni[sz]ed|unexpected|extra "
    r"(?:input|field)|not permitted|not allowed|not available|invalid (?:parameter|field|argument)"
    r"|only the default|deprecated|use '?max_",
    re.IGNORECASE,
)
_LIMITS = ("max_completion_tokens", "max_tokens")
_FORMATS = ("json_schema", "json_object", None)

_known: dict[tuple[str, str], Dialect] = {}
_lock = threading.Lock()


class Dialect:
    """What one server takes for one model; shared by all threads of the process.

    Attributes
    ----------
    changes : tuple of str
        What was learnt, for people.
    """

    def __init__(self, official: bool) -> None:
        # OpenAI's newer models refuse the old name of the limit.
        self._limits = list(_LIMITS)
        if not official:
            self._limits.reverse()
        self._dropped: set[str] = set()
        self._formats = list(_FORMATS)
        self._lock = threading.Lock()
        self.changes: tuple[str, ...] = ()

    def spell(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's body as the server takes it; ``limit`` stands for the token limit."""
        with self._lock:
            spelled = {name: v for name, v in body.items() if name not in self._dropped}
            limit = spelled.pop("limit", None)
            if any(name in spelled for name in _LIMITS):  # the caller knows better
                limit = None
            spelled = {name: value for name, value in spelled.items() if value is not None}
            if limit is not None and self._limits:
                spelled[self._limits[0]] = limit
            form = spelled.get("response_format")
            if form is not None and form["type"] not in self._formats:
                spelled.pop("response_format")
                if self._formats[0] is not None:
                    spelled["response_format"] = {"type": self._formats[0]}
            return spelled

    def learn(self, sent: Mapping[str, Any], named: str, said: str) -> bool:
        """Take in that the server refused a body over the field `named`, or in the words `said`.

        Returns
        -------
        bool
            True if the same request in another spelling is worth a try.
        """
        field = self._refused(sent, named, said)
        if field is None:
            return False
        with self._lock:
            if self._known(field, sent):  # another thread has learnt it in the meantime
                return True
            if field in self._limits:
                self._limits.remove(field)
                instead = f"{self._limits[0]} is sent instead" if self._limits else "no limit"
            elif field == "response_format":
                form = sent["response_format"]["type"]
                self._formats = self._formats[self._formats.index(form) + 1 :]
                instead = f"{self._formats[0] or 'plain text'} is asked for instead"
                field = f"response_format {form}"
            else:
                self._dropped.add(field)
                instead = "it is left out"
            self.changes = (*self.changes, f"{field} is not supported, so {instead}")
        return True

    def _known(self, field: str, sent: Mapping[str, Any]) -> bool:
        if field in _LIMITS:
            return field not in self._limits
        if field == "response_format":
            return sent["response_format"].get("type") not in self._formats
        return field in self._dropped

    def _refused(self, sent: Mapping[str, Any], named: str, said: str) -> str | None:
        """Return the field that a refusal is about; None where it is about something else."""
        if not _UNKNOWN.search(said):
            return None
        candidates = [n for n in (*_LIMITS, "temperature", "response_format") if n in sent]
        for field in candidates:
            if named.partition(".")[0] == field:
                return field
        # Without a name the field comes first that stands first in the sentence.
        places = [(found.start(), f) for f in candidates if (found := _mention(f, said))]
        return min(places)[1] if places else None


def dialect_of(parameters: Parameters) -> Dialect:
    """Return what is known of the server and the model that are asked."""
    key = (parameters.base_url, parameters.model)
    with _lock:
        return _known.setdefault(key, Dialect(parameters.official))


def _mention(field: str, said: str) -> re.Match[str] | None:
    if field == "response_format":
        return re.search(r"response_format|json_schema|json_object|structured output", said)
    return re.search(rf"(?<![\w-]){field}(?![\w-])", said)
