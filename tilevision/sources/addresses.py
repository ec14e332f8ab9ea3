"""How an image is named: an address, a path, and the page of a file that holds several pictures."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from tilevision.display import readable
from tilevision.errors import SourceError

__all__ = [
    "ALL_PAGES",
    "HIDDEN",
    "Address",
    "address_of",
    "at_home",
    "check_kept",
    "file_name",
    "file_of",
    "is_address",
    "lasting",
    "local_path",
    "page_name",
    "pages_note",
    "split_page",
]

HIDDEN = "***"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
ALL_PAGES = "#pages"
_FRAGMENT = re.compile(r"page=(\d+)")
_PAGE = re.compile(r"(.+)#page=(\d+)", re.DOTALL)
# What signs a request or lends a right, and so differs from day to day for the same content:
# of Amazon, Google, Azure and CloudFront, and what people call such things.
_SIGNING = re.compile(
    r"x-(?:amz|goog|oss|cos|obs|ms)-.*|awsaccesskeyid|googleaccessid|ossaccesskeyid|key-pair-id"
    r"|expires?|policy|s[evprtik]|sig|spr|srt|skoid|sktid|skt|ske|sks|skv|ses|sip|hash|hmac|auth.*"
    r"|.*(?:token|secret|password|passwd|pwd|api[_-]?key|access[_-]?key|signature|credentials?)",
    re.IGNORECASE,
)
_LEAST_SECRET = 4  # characters: what is shorter is found in any text


@dataclass(frozen=True, slots=True)
class Address:
    """Where an image lies, with the secrets that open it; its text shows none of them.

    Parameters
    ----------
    url : str
        As the user gave it, without the part that names a page.
    page : int, optional
        Counted from 1.
    """

    url: str = field(repr=False)
    page: int | None = None

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"

    @property
    def scheme(self) -> str:
        """Of the protocol, as ``"https"``."""
        return self._parts.scheme.lower()

    @property
    def host(self) -> str:
        """Server or bucket."""
        return self._parts.netloc.rpartition("@")[2]

    @property
    def secret(self) -> bool:
        """Return True if `shown` leaves something out, so that it cannot be opened again."""
        return bool(self._parts.query) or "@" in self._parts.netloc

    @property
    def shown(self) -> str:
        """The address for people, journals and errors."""
        user = f"{HIDDEN}@" if "@" in self._parts.netloc else ""
        query = f"?{HIDDEN}" if self._parts.query else ""
        path = "".join(char if char.isprintable() else "%" for char in self._parts.path)
        page = "" if self.page is None else f"#page={self.page}"
        return f"{self._parts.scheme}://{user}{self.host}{path}{query}{page}"

    @property
    def identity(self) -> str:
        """What tells this content from others: the address without whatever lends a right."""
        asked = parse_qsl(self._parts.query, keep_blank_values=True)
        kept = sorted((name, value) for name, value in asked if not _SIGNING.fullmatch(name))
        query = f" {kept!r}" if kept else ""
        return f"{self.scheme}://{self.host.lower()}{unquote(self._parts.path)}{query}"

    @property
    def name(self) -> str:
        """The file's name, with the page where one was asked for."""
        last = PurePosixPath(unquote(self._parts.path)).name or self.host or self.scheme
        plain = "".join(char if char.isprintable() else "_" for char in last)
        return plain if self.page is None else f"{plain}#page={self.page}"

    def inside(self, key: str) -> Address:
        """Return the address of something in this folder."""
        parts = self._parts
        return Address(parts._replace(path=f"{parts.path.rstrip('/')}/{key}").geturl())

    def beside(self, suffix: str, *, instead: bool = False) -> Address:
        """Return the address of the file with a suffix more, or `instead` of the one it has."""
        parts = self._parts
        path = parts.path.rpartition(".")[0] if instead else parts.path
        return Address(parts._replace(path=f"{path}{suffix}").geturl())

    def cleaned(self, text: str) -> str:
        """Return somebody else's words, in one line, without the secrets of this address."""
        parts = self._parts
        text = " ".join(text.split()).replace(self.url, self.shown)
        user, _, password = parts.netloc.rpartition("@")[0].partition(":")
        values = [value for _, value in parse_qsl(parts.query)]
        found = [parts.query, *parts.query.split("&"), *values, user, password]
        for secret in sorted({*found, *map(unquote, found)}, key=len, reverse=True):
            if len(secret) >= _LEAST_SECRET:
                text = text.replace(secret, HIDDEN)
        return text

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)


def is_address(image: Any) -> bool:
    """Return True if `image` is the address of something that is no local file."""
    return isinstance(image, str) and bool(_ADDRESS.match(image)) and not image.startswith("file:")


def address_of(name: str) -> Address:
    """Take an address apart.

    Raises
    ------
    SourceError
        If it makes no sense. What may be secret in it is not repeated.
    """
    try:
        parts = urlsplit(name)
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        raise SourceError("The address of the image cannot be understood; check it.") from None
    page = _FRAGMENT.fullmatch(parts.fragment)
    address = Address(parts._replace(fragment="").geturl(), int(page[1]) if page else None)
    if parts.fragment == "pages":
        raise SourceError(
            f"{address} was given for each of its pages: give one as {address}#page=1, or all to "
            "tv.analyze_many."
        )
    if address.page == 0:
        raise SourceError(f"{address}: pages are counted from 1.")
    return address


def local_path(name: str) -> str:
    """Return the path that `name` stands for: itself, or that of a ``file://`` address.

    Raises
    ------
    SourceError
        If the file is on another machine. What may be secret in it is not repeated.
    """
    if not name.startswith("file://"):
        return name
    try:
        parts = urlsplit(name)
    except ValueError:
        raise SourceError("The address of the image cannot be understood; check it.") from None
    if parts.netloc not in ("", "localhost"):
        raise SourceError(
            f"file://{parts.netloc.rpartition('@')[2]}{parts.path} is on another machine; mount "
            "its folder here, and pass the path of the file."
        )
    page = f"#{parts.fragment}" if parts.fragment else ""
    return unquote(parts.path) + page


def file_name(image: str | os.PathLike[str]) -> str:
    """Return what people call an image: the last part of its path or address, no secret."""
    text = os.fspath(image)
    return readable(address_of(text).name if is_address(text) else Path(text).name)


def lasting(image: Any) -> str | None:
    """Return where an image can be found again from another folder, for a file to keep.

    None for one in memory. Of an address without what is secret in it: with ``***`` in its place.
    """
    if not isinstance(image, (str, os.PathLike)):
        return None
    text = os.fspath(image)
    return address_of(text).shown if is_address(text) else str(Path(text).absolute())


def check_kept(image: Any, who: str) -> None:
    """Check that what `lasting` returned can be opened again.

    Parameters
    ----------
    image
    who : str
        What errors call the run that it is of.

    Raises
    ------
    SourceError
        If its secrets were left out.
    """
    if is_address(image) and HIDDEN in image and _is_shown(address_of(image)):
        raise SourceError(
            f"{who} analysed {image}, whose credentials or query are never stored; pass image= "
            "with the whole address."
        )


def _is_shown(address: Address) -> bool:
    parts = urlsplit(address.url)
    return parts.query == HIDDEN or parts.netloc.startswith(f"{HIDDEN}@")


def split_page(name: str) -> tuple[str, int | None]:
    """Return the file and the page, counted from 1, that `name` stands for.

    None where it names no page, or a file is really called so.

    Raises
    ------
    SourceError
        If it names page 0, or all pages at once.
    """
    if "#" not in name or os.path.lexists(name):
        return name, None
    if name.endswith(ALL_PAGES):
        path = name.removesuffix(ALL_PAGES)
        raise SourceError(
            f"{name} stands for every page of {path}: give one as {path}#page=1, or all to "
            "tv.analyze_many."
        )
    found = _PAGE.fullmatch(name)
    if found is None:
        return name, None
    if int(found[2]) == 0:
        raise SourceError(f"{name}: pages are counted from 1.")
    return found[1], int(found[2])


def at_home(name: str) -> str:
    """Return `name` with ``~`` for the home folder filled in, unless a file is called so."""
    return name if os.path.lexists(name) else os.path.expanduser(name)  # noqa: PTH111 - any text


def page_name(path: str | os.PathLike[str], page: int) -> str:
    """Return what stands for a page, counted from 1, wherever an image is asked for."""
    return f"{os.fspath(path)}#page={page}"


def file_of(name: str) -> Path:
    """Return the file that an image, or a page of one, is in."""
    return Path(split_page(at_home(name))[0])


def pages_note(path: str, count: int, *, named: bool) -> str:
    """Say of which of its `count` pages an image is that was given without one.

    Parameters
    ----------
    path : str
    count : int
    named : bool
        Whether the others have names that open them.
    """
    name = Path(path).name
    first = f"{name} holds {count:,} pages or frames, of which this is the first"
    if not named:
        return f"{first}; the others are not read"
    return f"{first}; another is {name}#page=2, and tv.analyze_many takes all as {name}{ALL_PAGES}"
