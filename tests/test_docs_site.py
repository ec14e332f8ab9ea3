"""The site of all versions: which folders there are, and how one leads to another."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr] - a file has a loader
    return module


versions, browse = _script("versions"), _script("browse")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose page says its version, which differs at each tag."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    subprocess.run([*git, "init", "-q"], check=True)
    for said in ("v0.9.0", "v0.10.0", "now"):
        (folder / "page").write_text(said)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", said], check=True)
        if said != "now":
            subprocess.run([*git, "tag", said], check=True)
    subprocess.run([*git, "tag", "nightly"], check=True)
    return folder


class Builder:
    """Copies the page, and remembers what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, str]] = {}

    def __call__(self, sources: Path, out: Path, environment: dict[str, str]) -> None:
        """Build."""
        out.mkdir(exist_ok=True)
        (out / "index.html").write_text((sources / "page").read_text())
        self.told[out.name] = environment


def test_each_release_has_its_own_site_beside_the_checkouts(
    repository: Path, tmp_path: Path
) -> None:
    """Each is built from the sources of its tag; the newest release, by number, comes first."""
    out, build = tmp_path / "site", Builder()
    names = versions.build_all(repository, out, "https://example.org/tilevision/", build)
    assert names == ["dev", "v0.10.0", "v0.9.0"]
    pages = {name: (out / name / "index.html").read_text() for name in names}
    assert pages == {"dev": "now", "v0.10.0": "v0.10.0", "v0.9.0": "v0.9.0"}
    entries = json.loads((out / "switcher.json").read_text())
    assert [entry["url"] for entry in entries] == [
        f"https://example.org/tilevision/{name}/" for name in names
    ]
    assert [entry["version"] for entry in entries if entry["preferred"]] == ["v0.10.0"]
    assert "url=v0.10.0/" in (out / "index.html").read_text()
    assert build.told["v0.9.0"] == {
        versions.SWITCHER: "https://example.org/tilevision/switcher.json",
        versions.VERSION: "v0.9.0",
    }
    assert not list((repository / ".git").glob("worktrees/*"))


def test_releases_that_are_there_are_not_built_again(repository: Path, tmp_path: Path) -> None:
    """A release does not change; the checkout does."""
    versions.build_all(repository, tmp_path / "site", build=Builder())
    again = Builder()
    versions.build_all(repository, tmp_path / "site", build=again)
    assert list(again.told) == ["dev"]


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    """A page or an anchor that is missing is one line each; what exists is none."""
    (tmp_path / "llms.txt").write_text("[there](a.html) [gone](b.html)")
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="#top"></a><a href="a.html#no"></a><img src="no.png">'
        '<a href="https://example.org/no"></a>'
    )
    assert list(browse.broken_links(tmp_path)) == [
        "a.html: a.html#no leads nowhere",
        "a.html: no.png leads nowhere",
        "llms.txt: b.html leads nowhere",
    ]
