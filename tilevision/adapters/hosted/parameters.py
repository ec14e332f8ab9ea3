"""What a caller may say about a hosted model, and which of it changes its answers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from tilevision.adapters.hosted.boxanswers import BoxFormat, family_of, parse_format
from tilevision.errors import ModelError

__all__ = ["MODERATIONS", "OPENAI_URL", "Parameters", "settle"]

OPENAI_URL = "https://api.openai.com/v1"
VERSION = 1  # of instructions, schema and reading: a change here changes what a model finds
MODERATIONS = "moderation"  # in a model's name: it answers at /moderations, not in a chat
RESPONSE_FORMATS = ("json_schema", "json_object", "text")
FIELDS = ("score", "text")
DETAILS = ("auto", "low", "high")
_UNSEEN = ("base_url", "backend", "api_key_env", "timeout", "reasks")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRET = re.compile(
    r"(?:^|_|-)(?:api_?key|key|token|secret|password|authorization|credentials?|bearer)$", re.I
)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Everything that is said about one hosted model; see `tilevision.adapters.hosted`."""

    model: str
    base_url: str
    prompt: str | None = None
    labels: list[str] | None = None
    box_format: str = ""
    fields: list[str] = field(default_factory=list)
    max_side: int = 1024
    quality: int = 90
    detail: str | None = None
    temperature: float | None = 0.0
    max_tokens: int | None = 4096
    response_format: str = "json_schema"
    reasks: int = 2
    timeout: float = 120.0
    categories: list[str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    api_key_env: str | None = "OPENAI_API_KEY"
    backend: str | None = None

    def __post_init__(self) -> None:
        _check_text("model", self.model)
        for name in ("prompt", "backend"):
            if getattr(self, name) is not None:
                _check_text(name, getattr(self, name))
        if self.api_key_env is not None and not _VARIABLE.fullmatch(str(self.api_key_env)):
            raise ModelError(
                "openai: api_key_env is not the name of an environment variable (capitals, digits "
                "and _); give the name under which the key is set, never the key."
            )
        for name in ("labels", "categories"):
            if getattr(self, name) is not None:
                _check_texts(name, getattr(self, name))
        _check_number("max_side", self.max_side, 16, 16384, whole=True)
        _check_number("quality", self.quality, 1, 100, whole=True)
        if self.max_tokens is not None:
            _check_number("max_tokens", self.max_tokens, 1, 10**7, whole=True)
        _check_number("reasks", self.reasks, 0, 10, whole=True)
        _check_number("timeout", self.timeout, 0.01, 86_400)
        if self.temperature is not None:
            _check_number("temperature", self.temperature, 0, 2)
        _check_choice("response_format", self.response_format, RESPONSE_FORMATS)
        _check_choice("detail", self.detail, (None, *DETAILS))
        _check_extra(self.extra)
        _check_plain("extra", self.extra)
        if not isinstance(self.fields, list) or not set(map(str, self.fields)) <= set(FIELDS):
            raise ModelError(f"openai: fields is {self.fields!r:.80}; give some of {FIELDS}.")

    @property
    def boxes(self) -> BoxFormat:
        """How the model writes boxes."""
        return parse_format(self.box_format)

    @property
    def host(self) -> str:
        """Who is asked, for people."""
        return urlsplit(self.base_url).netloc

    @property
    def official(self) -> bool:
        """Return True if OpenAI itself, or its twin at Azure, is asked."""
        host = urlsplit(self.base_url).hostname or ""
        return host.endswith((".openai.com", ".azure.com"))

    @property
    def moderates(self) -> bool:
        """Return True if the model only answers at ``/moderations``."""
        return MODERATIONS in self.model.lower()

    @property
    def identity(self) -> str:
        """All that the answers depend on, as canonical JSON.

        The address is part of it, since another server may serve something else (another
        quantisation, another checkpoint) under the same name; where `backend` says in the
        user's words what stands behind it, that takes the address's place.
        """
        seen = {key: value for key, value in asdict(self).items() if key not in _UNSEEN}
        seen["served_by"] = self.base_url if self.backend is None else ["backend", self.backend]
        return json.dumps([VERSION, seen], sort_keys=True)


def settle(variant: str, given: Mapping[str, Any]) -> Parameters:
    """Complete and check what was given.

    Parameters
    ----------
    variant : str
        What stands after the colon of ``"openai:gpt-4.1-mini"``.
    given : mapping

    Raises
    ------
    ModelError
        If something is unknown, missing, makes no sense, or is a secret.
    """
    known = {one.name: one for one in fields(Parameters)}
    for key in given:
        if key not in known:
            _refuse(key, known)
    chosen = {key: value for key, value in given.items() if value is not None or _takes_none(key)}
    chosen.setdefault("model", variant)
    if not chosen["model"] or (variant and chosen["model"] != variant):
        raise ModelError(
            "openai: say which model, as tv.model('openai', model='gpt-4.1-mini', …) "
            "or 'openai:gpt-4.1-mini'."
        )
    # Fixed here and now, so that a worker with another environment asks the same server.
    chosen["base_url"] = _address(
        chosen.get("base_url") or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    )
    written = chosen.get("box_format") or family_of(str(chosen["model"]))
    chosen["box_format"] = parse_format(written).name
    for name in ("labels", "categories", "fields"):
        if isinstance(chosen.get(name), tuple):
            chosen[name] = list(chosen[name])
    return Parameters(**chosen)


def _takes_none(key: str) -> bool:
    """Return True if None says something that the default does not."""
    return key in ("temperature", "max_tokens", "api_key_env")


def _refuse(key: str, known: Mapping[str, Any]) -> None:
    if _SECRET.search(key):
        raise ModelError(
            f"openai takes no {key}=: keys in parameters would be written down with them; put it "
            "into the environment (OPENAI_API_KEY, or the name you give as api_key_env='NAME')."
        )
    raise ModelError(f"Model openai has no parameter {key!r}; it has {', '.join(sorted(known))}.")


def _address(url: Any) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError, TypeError):
        parts, sound = urlsplit(""), False
    if parts.username or parts.password or parts.query or parts.fragment or "@" in parts.netloc:
        raise ModelError(
            "openai: base_url has credentials or a query in it, and it is written down with the "
            "run; give scheme, host and path alone, and the key in the environment (api_key_env=)."
        )
    if not sound:
        raise ModelError(
            "openai: base_url is no address; give one such as http://localhost:8000/v1."
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ModelError(f"openai: {name} is {value!r:.80}; give a text.")


def _check_texts(name: str, value: Any) -> None:
    texts = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    if not texts or not value or len(set(value)) < len(value):
        raise ModelError(f"openai: {name} is {value!r:.80}; give a list of different texts.")


def _check_number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise ModelError(f"openai: {name} is {value!r:.80}; give {what} from {low:g} to {high:,}.")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ModelError(f"openai: {name} is {value!r:.80}; give one of {choices}.")


def _check_plain(name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        raise ModelError(
            f"openai: {name} is {value!r:.80}; give text, numbers, true or false, lists and dicts "
            "of them."
        ) from None


def _check_extra(extra: Any) -> None:
    if not isinstance(extra, dict):
        raise ModelError(f"openai: extra is a {type(extra).__name__}; give a dict for the request.")
    for key, value in extra.items():
        if _SECRET.search(str(key)) or str(key).lower() in ("headers", "extra_headers"):
            _refuse("api_key", {})
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                _check_extra(inner)
