"""Keeps secrets out of what is written: passwords in addresses, tokens, keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["redact", "redact_settings"]

HIDDEN = "***"
_NAME = (
    r"(?:access[_-]?|auth[_-]?|bearer[_-]?|refresh[_-]?|session[_-]?|security[_-]?)?token"
    r"|secret|password|passwd|pwd|api[_-]?key|access[_-]?key(?:[_-]?id)?|secret[_-]?key"
    r"|private[_-]?key|authorization|credentials?|signature|sig|sas"
)
_SETTING = re.compile(rf"(?:^|.*[_-])(?:{_NAME})$", re.IGNORECASE)
_PATTERNS = (
    # scheme://user:password@host
    (re.compile(r"(?<=://)[^/\s@]+@"), f"{HIDDEN}@"),
    # name=value in an address or a message, "name": "value" in a quoted reply
    (
        re.compile(
            rf"((?:^|[?&\s;,'\"{{_-])(?:{_NAME})['\"]?\s*[=:]\s*['\"]?)(?!\s*(?:Bearer|Basic)\b)"
            r"[^\s&'\",;}]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # the forms of well-known services' keys
    (re.compile(r"\b(?:sk|pk|hf|ghp|gho|glpat|xox[abp])[-_][\w-]{10,}"), HIDDEN),
    (re.compile(r"\bA(?:KIA|SIA)[A-Z0-9]{12,}\b"), HIDDEN),
)


def redact(text: str) -> str:
    """Return `text` with whatever looks like a secret replaced by ``***``."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_settings(value: Any) -> Any:
    """Return `value` (plain JSON types) with secrets replaced, by name and by form."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            str(name): HIDDEN
            if isinstance(item, str) and item and _SETTING.fullmatch(str(name))
            else redact_settings(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_settings(item) for item in value]
    return value
