"""Open every page of a built site in a browser, and name what a reader would stumble over.

`python docs/browse.py OUT` serves a folder that `docs/versions.py` wrote and looks at `dev`: narrow
and wide, light and dark. It fails if a link or an anchor leads nowhere, a picture is missing or has
no text alternative, a page is wider than a narrow screen, something complains in the console, or
the search does not find a page.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SIZES = (390, 1024, 1920)
PATIENCE = 200_000  # milliseconds, on a busy machine
# What sticks out of the screen and cannot be scrolled to within its own box.
OUTSIDE = """() => {
  const wide = document.documentElement.clientWidth + 1;
  const scrolls = e => e && (/auto|scroll/.test(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const out = [...document.querySelectorAll("article *")].filter(
    e => e.getBoundingClientRect().right > wide && !scrolls(e));
  if (document.documentElement.scrollWidth > wide) out.push(document.documentElement);
  return out.slice(0, 3).map(e => `${e.tagName} ${e.textContent.trim().slice(0, 40)}`);
}"""
# Pictures further down are loaded as they are scrolled to.
PICTURES = """async () => {
  const all = [...document.querySelectorAll("img")];
  for (const i of all) { i.loading = "eager"; await i.decode().catch(() => null); }
  return all.filter(i => !i.naturalWidth || i.alt.length < 5 || i.alt.includes("_images/"))
    .map(i => `${i.src} ${i.alt}`);
}"""

# What was found is shown one by one, and how many there are at the end.
SEARCHED = """() => /finished|did not match/.test(
  document.querySelector("#search-results .search-summary")?.textContent)"""


class _Page(HTMLParser):
    """The links of a page, and what can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link or an anchor."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name == "id" and value:
                self.anchors.add(value)


def broken_links(site: Path) -> Iterator[str]:
    """Yield each link within `site` whose page or anchor does not exist."""
    texts = {path: path.read_text(encoding="utf-8") for path in _pages(site)}
    pages = {path: _Page(text) for path, text in texts.items()}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else {parts.fragment}
            if not target.exists() or (parts.fragment and parts.fragment not in anchors):
                yield f"{path.relative_to(site)}: {link} leads nowhere"
    for line in (site / "llms.txt").read_text(encoding="utf-8").split("](")[1:]:
        if not (site / line.partition(")")[0]).exists():
            yield f"llms.txt: {line.partition(')')[0]} leads nowhere"


def complaints(site: Path) -> Iterator[str]:
    """Yield what a browser finds wrong with the pages of `site`."""
    from playwright.sync_api import sync_playwright

    with _served(site.parent) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"], timeout=PATIENCE
        )
        for scheme in ("light", "dark"):
            for width in SIZES:
                view = {"width": width, "height": 900}
                page: Any = browser.new_page(viewport=view, color_scheme=scheme)
                page.set_default_timeout(PATIENCE)
                said: list[str] = []
                page.on("console", lambda m, said=said: m.type == "error" and said.append(m.text))
                page.on("pageerror", lambda error, said=said: said.append(str(error)))
                for path in _pages(site):
                    name = path.relative_to(site).as_posix()
                    page.goto(f"{address}/{site.name}/{name}")
                    found = [*said, *page.evaluate(OUTSIDE), *page.evaluate(PICTURES)]
                    yield from (f"{name}, {width} px, {scheme}: {what}" for what in found)
                    said.clear()
                page.close()
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/{site.name}/search.html?q=checkpoint")
        page.wait_for_function(SEARCHED)
        if "concepts.html" not in page.inner_html("#search-results"):
            yield "search.html: a search for 'checkpoint' does not find the page Concepts"
        browser.close()


def _pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


if __name__ == "__main__":
    here = Path(sys.argv[1]).resolve() / "dev"
    wrong = [*broken_links(here), *complaints(here)]
    sys.exit("\n".join(wrong) if wrong else 0)
