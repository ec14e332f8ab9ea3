"""Images named by address: what of it is shown, kept and told apart."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilevision.errors import SourceError
from tilevision.sources import open_source
from tilevision.sources.addresses import address_of, file_name, is_address, lasting

SIGNED = "https://me:hunter2@example.com/a%20b/slide.svs?X-Amz-Signature=hunter2&id=7"


def test_a_file_address_is_the_local_file(tmp_path: Path) -> None:
    """Spaces, umlauts and pages in a ``file://`` address are those of the path."""
    path = tmp_path / "a scan ö.tif"
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 20)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    source = open_source(path.as_uri())
    assert source.fingerprint == open_source(path).fingerprint
    assert source.reference.path == str(path)
    assert open_source(path.as_uri() + "#page=2").thumbnail(8).max() == 20


def test_a_file_on_another_machine_is_refused_without_its_query() -> None:
    """``file://server/…`` is told to be mounted, its query is not repeated."""
    with pytest.raises(SourceError, match=r"slide\.svs is on another machine; mount") as error:
        open_source("file://server/slide.svs?hunter2")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("address", ["https://[::1/slide.svs", "https://host:port/slide.svs"])
def test_an_address_that_is_none_says_so(address: str) -> None:
    """A malformed address is one line."""
    with pytest.raises(SourceError, match="cannot be understood"):
        open_source(address)


def test_no_text_of_an_address_has_its_secrets() -> None:
    """What is shown says that something is left out; the URL itself travels with the object."""
    address = address_of(SIGNED)
    for text in (str(address), repr(address), f"{address}", address.name, address.identity):
        assert "hunter2" not in text
    assert address.shown == "https://***@example.com/a%20b/slide.svs?***"
    assert pickle.loads(pickle.dumps(address)).url == SIGNED
    assert address.secret and not address_of("s3://bucket/scene.tif").secret


@given(st.text("abcdefXYZ0123456789_-", min_size=6, max_size=20), st.booleans())
def test_whatever_a_query_holds_is_not_shown(secret: str, password: bool) -> None:
    """No query is shown, whatever its parameters are called, and no password."""
    user = f"me:{secret}@" if password else ""
    url = f"http://{user}host:81/folder/x.tif?thing={secret}#page=2"
    address = address_of(url)
    shown = [str(address), repr(address), address.name, file_name(url), lasting(url)]
    assert not any(secret in text for text in shown if text)
    assert secret not in address.cleaned(f"GET {address.url} failed: {secret} is wrong")


def test_a_signature_is_no_part_of_what_tells_content_apart() -> None:
    """A newly signed address is of the same content, another parameter of another."""
    signed = address_of(SIGNED).identity
    assert address_of(SIGNED.replace("hunter2", "swordfish")).identity == signed
    assert address_of(SIGNED.replace("id=7", "id=8")).identity != signed
    azure = "https://a.blob.core.windows.net/c/x.tif"
    sas = f"{azure}?sv=2024-05-04&se=2026-01-01&sr=b&sp=r&sig=abc"
    assert address_of(sas).identity == address_of(azure).identity


def test_people_see_the_name_of_the_file() -> None:
    """The name is the last part of the path, with the page; else the host's."""
    assert file_name("https://host/a/b%20c.tif?token=hunter2#page=3") == "b c.tif#page=3"
    assert file_name("https://host") == "host"
    assert file_name("folder/x.tif") == "x.tif"
    assert address_of("s3://bucket/x.tif#page=3").page == 3


def test_what_lasts_of_an_image_is_absolute_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path is made absolute; of an address what is shown; of pixels nothing."""
    monkeypatch.chdir(tmp_path)
    assert lasting("x.tif") == str(tmp_path / "x.tif")
    assert lasting(SIGNED) == "https://***@example.com/a%20b/slide.svs?***"
    assert lasting(np.zeros((3, 3))) is None


def test_a_windows_path_or_file_address_is_no_address() -> None:
    """Only what is elsewhere counts as an address."""
    assert not any(map(is_address, ["C:/x.tif", "x.tif", "file:///x.tif", Path("x"), None]))
    assert all(map(is_address, ["http://h/x", "s3://b/x", "memory://x"]))


@pytest.mark.parametrize(
    ("page", "words"), [("#page=0", "counted from 1"), ("#pages", "each of its pages")]
)
def test_a_page_that_makes_no_sense_is_told_without_secrets(page: str, words: str) -> None:
    """Errors about pages do not repeat the query."""
    with pytest.raises(SourceError, match=words) as error:
        address_of(f"https://host/x.tif?token=hunter2{page}")
    assert "hunter2" not in str(error.value)
