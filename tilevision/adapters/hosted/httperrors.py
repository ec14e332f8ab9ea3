"""What the endpoint's refusals and failures mean for a tile, in one line without secrets."""

from __future__ import annotations

import math
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

from tilevision.adapters.hosted.parameters import Parameters
from tilevision.errors import PermanentError, Throttled, TilevisionError, TransientError

__all__ = ["retry_after", "scrub", "translated"]

LONGEST = 300  # characters of what a server said
_HIDDEN = (
    # Some servers quote the whole request in their complaint, picture included.
    (re.compile(r"data:[\w/+.-]*;base64,[\w+/=\\-]*"), "data:…"),
    (re.compile(r"[A-Za-z0-9+/_=-]{64,}"), "…"),
    (re.compile(r"(?<=://)[^/\s@]+@"), "***@"),
    (re.compile(r"\b(Bearer|Basic)\s+\S+", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"\b(?:sk|pk|hf)[-_][\w*.-]{6,}"), "***"),
)


def scrub(text: Any, key: str | None) -> str:
    """Return `text` as one short line without the key, credentials or picture data."""
    line = " ".join(str(text).split())
    key = (key or "").strip()
    if len(key) >= 4:
        line = line.replace(key, "***")
    for pattern, replacement in _HIDDEN:
        line = pattern.sub(replacement, line)
    return line.rstrip(". ") if len(line) <= LONGEST else line[:LONGEST] + "…"


def translated(error: Any, parameters: Parameters, key: str | None) -> TilevisionError:
    """Return what an `openai.APIError` means here.

    Parameters
    ----------
    error : openai.APIError
    parameters : Parameters
    key : str, optional
        What must not show.

    Returns
    -------
    Throttled, TransientError or PermanentError
        To be raised outside the ``except`` block: the original holds the request's headers.
    """
    import openai

    host = parameters.host
    if isinstance(error, openai.APITimeoutError):
        return TransientError(f"{host} did not answer within {parameters.timeout:g} s (timeout=).")
    if isinstance(error, openai.APIConnectionError):
        cause = scrub(error.__cause__ or error, key)
        return TransientError(f"{host} cannot be reached: {cause}; check base_url and the server.")
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, parameters, key)
    return PermanentError(
        f"{host} answered what is no chat completion ({scrub(error, key)}); "
        "check base_url, which mostly ends in /v1."
    )


def _of_status(error: Any, parameters: Parameters, key: str | None) -> TilevisionError:
    status, host = int(error.status_code), parameters.host
    said = scrub(_said(error), key)
    if status == 429 and error.code == "insufficient_quota":
        return PermanentError(f"{host} says that the account has no quota left (429): {said}.")
    if status == 429:
        wait = retry_after(error.response.headers)
        return Throttled(f"{host} asks for fewer requests (429): {said}.", wait)
    if status in (408, 409, 425) or status >= 500:
        again = TransientError(f"{host} failed ({status}): {said}.")
        again.retry_after = retry_after(error.response.headers)
        return again
    return PermanentError(_refusal(status, said, parameters))


def _refusal(status: int, said: str, parameters: Parameters) -> str:
    host, variable = parameters.host, parameters.api_key_env
    if status == 401:
        # What the server says of a wrong key often quotes it.
        where = f"check the environment variable {variable}" if variable else "give api_key_env="
        return f"{host} does not accept the API key (401); {where} where the workers run."
    if status == 403:
        return f"{host} forbids it (403): {said}; check what the key in {variable} may use."
    if status == 404:
        return f"{host} does not know model {parameters.model!r} or the path (404): {said}."
    if status == 413:
        return f"{host} finds the picture too large (413); lower max_side= or quality=."
    return f"{host} refuses the request ({status}): {said}."


def _said(error: Any) -> str:
    """Return the server's own words, without the frame that the client puts around them."""
    body = error.body
    for name in ("error", "detail"):
        if isinstance(body, dict) and body.get(name):
            body = body[name]
    if isinstance(body, dict):
        body = body.get("message") or body
    return str(body or error.message)


def retry_after(headers: Any) -> float | None:
    """Return the seconds that a reply asks to wait, given in (milli)seconds or as an HTTP date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, moment.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
