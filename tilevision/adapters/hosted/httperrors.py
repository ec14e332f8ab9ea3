"""What the endpoint's refusals and failures mean for a tile, in one line without secrets."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tilevision.adapters.hosted.parameters import Parameters
from tilevision.errors import PermanentError, Throttled, TilevisionError, TransientError

__all__ = [
    "of_body",
    "of_page",
    "refusal_of",
    "retry_after",
    "scrub",
    "translated",
    "unusable",
]

LONGEST = 300  # characters of what a server said
_HIDDEN = (
    # Some servers quote the whole request in their complaint, picture included.
    (re.compile(r"data:[\w/+.-]*;base64,[\w+/=\\-]*"), "data:…"),
    (re.compile(r"[A-Za-z0-9+/_=-]{64,}"), "…"),
    (re.compile(r"(?<=://)[^/\s@]+@"), "***@"),
    (re.compile(r"\b(Bearer|Basic)\s+\S+", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"\b(?:sk|pk|hf)[-_][\w*.-]{6,}"), "***"),
)
_PAGE = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_STATUS = re.compile(r"\b([45]\d\d)\b")
# Words that stand for a status, where a body has no number: what providers send.
_WORDS = (
    (re.compile(r"insufficient[_ ]quota|billing|payment required", re.I), 402),
    (re.compile(r"rate[_ -]?limit|too many requests|resource[_ ]exhausted|throttl", re.I), 429),
    (re.compile(r"overloaded|unavailable|capacity|try again|timed? ?out|timeout", re.I), 503),
    (re.compile(r"invalid[_ ]api[_ ]key|authentication|unauthori[sz]ed", re.I), 401),
    (re.compile(r"permission|forbidden", re.I), 403),
    (re.compile(r"invalid[_ ]request|bad request|invalid_argument", re.I), 400),
)
# The three forms of RFC 9110, with zones that services write besides, and ISO 8601.
_DATES = re.compile(
    r"\w+, \d+ \w+ \d{4} [\d:]+(?: (?:GMT|UTC|[+-]\d{4}))?|\w+, \d+-\w+-\d+ [\d:]+ (?:GMT|UTC)"
    r"|\w{3} \w{3} +\d+ [\d:]+ \d{4}|\d{4}-\d\d-\d\dT[\d:]+(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?"
)
_SHORT = 200  # characters: more is no message of a gateway
_OUR_SIDE = "where the workers run"


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
        return TransientError(
            f"{host} did not finish its answer within {parameters.timeout:g} s (timeout=)."
        )
    if isinstance(error, openai.APIConnectionError):
        return _unreachable(scrub(error.__cause__ or error, key), parameters)
    if isinstance(error, openai.APIStatusError):
        said = scrub(refusal_of(error.body if error.body else error.message)[1], key)
        status = 402 if error.code == "insufficient_quota" else int(error.status_code)
        return _of_status(status, said, parameters, error.response.headers, error.status_code)
    return PermanentError(
        f"{host} answered what is no chat completion ({scrub(error, key)}); "
        "check base_url, which mostly ends in /v1."
    )


def of_body(fault: Any, parameters: Parameters, key: str | None, headers: Any) -> TilevisionError:
    """Return what an error means that came in the body of a reply of status 200.

    It is what its code says, by number or by name; without either it may pass by itself.
    """
    _, said = refusal_of(fault)
    status = _status_of(fault)
    line = scrub(said, key)
    if status is None:
        return _again(TransientError(f"{parameters.host} failed: {line}."), headers)
    return _of_status(status, line, parameters, headers, status)


def of_page(text: str, parameters: Parameters, headers: Any) -> TilevisionError | None:
    """Return what a text of status 200 means that is no JSON; None where it names no failure.

    It is a page, or what a gateway says in a few words, or the beginning of an answer, or nothing
    at all.
    """
    if not text.strip():
        return _again(TransientError(f"{parameters.host} answered nothing."), headers)
    if _broken_off(text.strip()):
        broken = f"{parameters.host} broke its answer off after {len(text):,} characters."
        return _again(TransientError(broken), headers)
    if not _PAGE.match(text):
        status = _status_of({"message": text}) if len(text) <= _SHORT else None
        if status is None:
            return None
        return _of_status(status, scrub(text, None), parameters, headers, status)
    title = _title(text)
    found = _STATUS.search(title)
    if found is None:
        return None
    return _of_status(int(found[1]), title, parameters, headers, int(found[1]))


def _broken_off(text: str) -> bool:
    """Return True if a text is a JSON object as far as it goes."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        # Within a string the place is where that began; what else is cut is as short as this.
        at_end = error.msg.startswith("Unterminated") or error.pos >= len(text) - len("\\u123")
        return text.startswith("{") and at_end
    except RecursionError:
        return False
    return False


def refusal_of(body: Any) -> tuple[str, str]:
    """Return the field that an error is about, as far as it names one, and its own words."""
    named = ""
    for name in ("error", "detail"):
        while isinstance(body, Mapping) and body.get(name):
            body = body[name]
    if isinstance(body, list):  # as FastAPI lists what is wrong with a request
        rows = [row for row in body if isinstance(row, Mapping)]
        places = [str(part) for row in rows[:1] for part in row.get("loc", ()) if part != "body"]
        named = places[0] if places else ""
        said = "; ".join(
            f"{'.'.join(map(str, r.get('loc', ())))}: {r.get('msg', '')}" for r in rows
        )
        return named, said or str(body)
    if isinstance(body, Mapping):
        named = str(body.get("param") or "")
        raw = (
            body.get("metadata", {}).get("raw") if isinstance(body.get("metadata"), Mapping) else ""
        )
        said = " ".join(str(part) for part in (body.get("message"), raw) if part)
        return named, said or str(dict(body))
    text = str(body)
    return named, _title(text) if _PAGE.match(text) else text


def retry_after(headers: Any) -> float | None:
    """Return the seconds that a reply asks to wait, given in (milli)seconds or as an HTTP date.

    A date is read by the clock of the server that wrote it, where the reply states that clock.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        # A header that was sent twice is joined by commas; some write the unit.
        value = str(headers.get(name, "")).split(",")[0].strip().removesuffix("s")
        try:
            seconds = float(value) / unit
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    until = next(iter(_moments(headers.get("retry-after", ""))), None)
    if until is None:
        return None
    # A proxy may have added a Date of its own: the one that the wait was counted from is earlier.
    clocks = [moment for moment in _moments(headers.get("date", "")) if moment <= until]
    return max(0.0, until - max(clocks, default=time.time()))


def unusable(error: Exception, parameters: Parameters) -> PermanentError:
    """Return what it means that no connection could even be set up: a setting is wrong."""
    cause = scrub(f"{type(error).__name__}: {error}", None)
    settings = {n: v for n, v in os.environ.items() if n.lower().endswith("_proxy") and v}
    settings = {name: value for name, value in settings.items() if name.lower() != "no_proxy"}
    if settings:
        named = ", ".join(
            f"{name}={scrub(value, None)}" for name, value in sorted(settings.items())
        )
        return PermanentError(
            f"{parameters.host} cannot be asked: the proxy setting {named} is not understood "
            f"({cause}); use http://HOST:PORT or socks5://HOST:PORT (which needs pip install "
            f"socksio), or unset it {_OUR_SIDE}."
        )
    return PermanentError(
        f"{parameters.host} cannot be asked: {cause}; check SSL_CERT_FILE and SSL_CERT_DIR "
        f"{_OUR_SIDE}."
    )


def _unreachable(cause: str, parameters: Parameters) -> TilevisionError:
    host = parameters.host
    if "CERTIFICATE_VERIFY_FAILED" in cause or "certificate verify failed" in cause:
        return PermanentError(
            f"The certificate of {host} is not trusted ({cause}); set SSL_CERT_FILE to the "
            f"certificates of your network {_OUR_SIDE}."
        )
    proxy = _proxy(parameters.base_url)
    if proxy is not None:
        name, address = proxy
        return TransientError(
            f"{host} cannot be reached through the proxy {scrub(address, None)} ({name}): {cause}; "
            f"check the proxy, or unset {name} or add the host to NO_PROXY {_OUR_SIDE}."
        )
    return TransientError(f"{host} cannot be reached: {cause}; check base_url and the server.")


def _proxy(url: str) -> tuple[str, str] | None:
    """Return variable and address of the proxy that requests to `url` go through."""
    parts = urlsplit(url)
    proxies = getproxies()
    if proxy_bypass(parts.netloc):
        return None
    for scheme in (parts.scheme, "all"):
        if proxies.get(scheme):
            name = f"{scheme}_proxy"
            return name if name in os.environ else name.upper(), proxies[scheme]
    return None


def _of_status(
    status: int, said: str, parameters: Parameters, headers: Any, shown: int
) -> TilevisionError:
    """Return what a status means, wherever it was found; `shown` is how people are told it."""
    host = parameters.host
    if status == 402:
        return PermanentError(f"{host} says that the account has no quota left ({shown}): {said}.")
    if status == 407:
        return PermanentError(
            f"The proxy before {host} asks for a user and a password (407); put them into "
            f"HTTPS_PROXY or HTTP_PROXY {_OUR_SIDE}."
        )
    if status == 429:
        wait = retry_after(headers)
        return Throttled(f"{host} asks for fewer requests ({shown}): {said}.", wait)
    if status in (408, 409, 425) or status >= 500:
        return _again(TransientError(f"{host} failed ({shown}): {said}."), headers)
    return PermanentError(_refusal(status, said, parameters))


def _again(error: TransientError, headers: Any) -> TransientError:
    error.retry_after = retry_after(headers)
    return error


def _refusal(status: int, said: str, parameters: Parameters) -> str:
    host, variable = parameters.host, parameters.api_key_env
    if status == 401:
        # What the server says of a wrong key often quotes it.
        where = f"check the environment variable {variable}" if variable else "give api_key_env="
        return f"{host} does not accept the API key (401); {where} {_OUR_SIDE}."
    if status == 403:
        return f"{host} forbids it (403): {said}; check what the key in {variable} may use."
    if status == 404:
        return f"{host} does not know model {parameters.model!r} or the path (404): {said}."
    if status == 413:
        return f"{host} finds the picture too large (413); lower max_side= or quality=."
    return f"{host} refuses the request ({status}): {said}."


def _status_of(fault: Any) -> int | None:
    """Return the HTTP status that an error in a body stands for; None where it names none."""
    if not isinstance(fault, Mapping):
        fault = {"message": str(fault)}
    for name in ("code", "status", "status_code", "http_status", "statusCode", "error_code"):
        value = fault.get(name)
        if isinstance(value, str) and value.strip().isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    names = " ".join(str(fault.get(name, "")) for name in ("code", "type", "status", "message"))
    return next((status for pattern, status in _WORDS if pattern.search(names)), None)


def _title(text: str) -> str:
    found = _TITLE.search(text)
    return " ".join(re.sub(r"<[^>]+>", " ", found[2] if found else text).split())[:LONGEST]


def _moments(dates: str) -> list[float]:
    """Return the HTTP dates in a header, which is joined where it was sent more than once."""
    found = []
    for date in _DATES.findall(dates):
        try:
            moment = datetime.fromisoformat(date) if date[4] == "-" else parsedate_to_datetime(date)
        except (TypeError, ValueError, OverflowError):
            continue
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # HTTP knows no other
        found.append(aware.timestamp())
    return found
