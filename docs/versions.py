"""Build the site of every released version beside that of this checkout, to be switched between.

`python docs/versions.py OUT` writes a folder for each tag (`v0.1.0`) and one for the checkout
(`dev`), `switcher.json`, from which each page offers the others, and an `index.html` that leads to
the newest release. Folders of releases that are there already are left as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CURRENT = "dev"
# What conf.py is told: the address of switcher.json, and which of its entries this one is.
SWITCHER, VERSION = "TILEVISION_DOCS_SWITCHER", "TILEVISION_DOCS_VERSION"

Build = Callable[[Path, Path, dict[str, str]], None]


def build_site(sources: Path, out: Path, environment: dict[str, str]) -> None:
    """Build the site of one checkout into `out`; a warning is an error."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(sources / "docs")]
    # The pages and their notebooks import the package of their own version.
    environment = os.environ | environment | {"PYTHONPATH": str(sources)}
    with tempfile.TemporaryDirectory() as folder:
        # What it makes on the way lies beside the site; and what fails leaves no half of one.
        site = Path(folder, "site")
        subprocess.run([*command, site], env=environment, cwd=sources, check=True)
        kept = shutil.ignore_patterns(".doctrees", ".buildinfo")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(site, out, ignore=kept)


def releases(repository: Path) -> list[str]:
    """Return the tags of released versions, the newest first."""
    command = ["git", "tag", "--list", "v[0-9]*", "--sort=-version:refname"]
    return subprocess.run(
        command, cwd=repository, check=True, capture_output=True, text=True
    ).stdout.split()


def build_all(repository: Path, out: Path, at: str = "", build: Build = build_site) -> list[str]:
    """Build the checkout and each release that is not there yet; return the names of all.

    Parameters
    ----------
    repository, out : Path
    at : str
        Address that `out` will have; default: the root of its server.
    build : callable
        Builds one site from a checkout into a folder, with some environment variables.
    """
    at = at.rstrip("/")
    tags = releases(repository)
    out.mkdir(parents=True, exist_ok=True)
    for name in (CURRENT, *tags):
        told = {SWITCHER: f"{at}/switcher.json", VERSION: name}
        if name == CURRENT:
            build(repository, out / name, told)
        elif not (out / name / "index.html").exists():
            _build_tag(repository, name, out / name, told, build)
    newest = tags[0] if tags else CURRENT
    entries = [
        {"version": name, "url": f"{at}/{name}/", "preferred": name == newest}
        for name in (CURRENT, *tags)
    ]
    (out / "switcher.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    lead = f'<!doctype html><meta http-equiv="refresh" content="0; url={newest}/"><title>tilevision'
    (out / "index.html").write_text(f"{lead}</title>\n", encoding="utf-8")
    return [CURRENT, *tags]


def _build_tag(repository: Path, tag: str, out: Path, told: dict[str, str], build: Build) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder, tag)
        git = ["git", "-C", str(repository), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(sources), tag], check=True)
        try:
            build(sources, out, told)
        finally:
            subprocess.run([*git, "remove", "--force", str(sources)], check=True)


def main() -> None:
    """Build all sites."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--at", default="", help="address that OUT will have, if not a root")
    given = parser.parse_args()
    print(*build_all(ROOT, given.out.resolve(), given.at), sep="\n")  # noqa: T201 - its output


if __name__ == "__main__":
    main()
