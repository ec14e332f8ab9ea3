"""Images named by address."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tilevision.errors import SourceError
from tilevision.sources import open_source


def test_a_file_address_is_the_local_file(tmp_path: Path) -> None:
    """Spaces, umlauts and pages in a ``file://`` address are those of the path."""
    path = tmp_path / "a scan ö.tif"
    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 20)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    source = open_source(path.as_uri())
    assert source.fingerprint == open_source(path).fingerprint
    assert source.reference.path == str(path)
    assert open_source(path.as_uri() + "#page=2").thumbnail(8).max() == 20


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2@example.com/slide.svs?X-Amz-Signature=hunter2",
        "s3://bucket/slide.svs?token=hunter2#hunter2",
        "file://server/slide.svs?hunter2",
    ],
)
def test_what_is_secret_in_an_address_is_not_repeated(address: str) -> None:
    """A URL is refused with the remedy, without its password and its query."""
    with pytest.raises(SourceError, match="download it first") as error:
        open_source(address)
    assert "hunter2" not in str(error.value)
    assert "slide.svs" in str(error.value)


def test_an_address_that_is_none_says_so() -> None:
    """A malformed address is one line."""
    with pytest.raises(SourceError, match="cannot be understood"):
        open_source("https://[::1/slide.svs")
