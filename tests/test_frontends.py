"""What the panel may rely on in a page: nothing but its own, so that any front end can show it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tilevision

VIEW = Path(tilevision.__file__).parent / "view"
STYLES = sorted(VIEW.rglob("*.css"))
SCRIPTS = sorted(VIEW.rglob("*.js"))


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.name)
def test_every_colour_and_font_of_the_page_has_a_fallback(path: Path) -> None:
    """``--jp-*`` is set by JupyterLab, and elsewhere perhaps not at all."""
    assert re.findall(r"var\([^,()]*\)", path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [*STYLES, *SCRIPTS], ids=lambda path: path.name)
def test_nothing_is_loaded_from_anywhere(path: Path) -> None:
    """A page behind a firewall, or one that allows no other origin, shows the same."""
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    loads = r"https?://|@import|url\(|^\s*import\b|\bimport\(|\bfetch\(|XMLHttpRequest|WebSocket"
    assert re.findall(loads, text, flags=re.MULTILINE) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_reaches_into_the_page_around_it(path: Path) -> None:
    """Only its own elements are looked for, no text becomes code, and no dialogue is opened.

    Visual Studio Code shows outputs in a frame without dialogues; names of JupyterLab's page mean
    nothing in another.
    """
    text = path.read_text(encoding="utf-8")
    around = (
        r"jupyterapp|\bJupyter\b|\.jp-|document\.(querySelector|getElement|head|body)|window\.parent"
        r"|localStorage|\beval\(|new Function|innerHTML|\b(alert|confirm|prompt)\("
    )
    assert re.findall(around, text) == []


def test_the_kept_picture_is_hidden_below_the_live_one_in_each_front_end() -> None:
    """In the outputs of JupyterLab, Notebook and Voilà, and in those of Visual Studio Code."""
    style = (VIEW / "picture" / "canvas.css").read_text(encoding="utf-8")
    for output in (".jp-OutputArea-child", ".output_container"):
        assert f"{output}:has(.tilevision-canvas) + {output}" in style
