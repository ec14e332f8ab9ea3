"""Run the tests of image sources with the oldest versions that the package allows.

    python benchmarks/oldest_versions.py [--keep FOLDER] [-- PYTEST ARGUMENTS]

Makes a virtual environment, installs each requirement of tilevision and of the extras that read
images at exactly its lower bound, prints what was installed, and runs the quick subset of
``tests/test_sources_*``. What those requirements need themselves is resolved by pip. A bound that
fails here has to be raised.

Run with Python 3.11 on 2026-11-28: all pass but what `BEYOND` names.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("geo", "heif", "huge", "pdf", "slides", "video", "zarr")
# What the tests themselves need; their versions are no promise to users.
TOOLS = (
    *("pytest>=8.0", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100"),
    *("psutil>=5.9", "nbval>=0.11"),
)
# Runs on clusters, which the other tests of the same files do without.
SKIPPED = ("test_sources_remote_runs.py",)
# Fax compression needs imagecodecs 2026.3.6 and tifffile 2026.3.3; with older ones, as with any
# codec that is not there, the error names both and says to upgrade. The writer of the other test's
# picture of 4 bits is as young; reading is not.
BEYOND = ("test_fax_pages", "test_four_bit_grey_is_spread_to_eight")


def lowest(requirement: str) -> str:
    """Return the requirement for exactly its lower bound: ``"a[b]>=1,!=2"`` is ``"a[b]==1"``."""
    found = re.fullmatch(r"([\w.\-]+(?:\[[\w,]+\])?)>=([\w.]+).*", requirement.replace(" ", ""))
    if found is None:
        raise SystemExit(f"{requirement} names no lower bound.")
    return f"{found[1]}=={found[2]}"


def bounds() -> list[str]:
    """Return the lower bounds of what reading images needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *(one for name in EXTRAS for one in extras[name])]
    return sorted({lowest(one) for one in listed})


def installed(folder: Path) -> str:
    """Make the environment in `folder` and return its interpreter."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    wanted = bounds()
    print("installing", *wanted, flush=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted, *TOOLS], check=True)
    subprocess.run([python, "-m", "pip", "list", "--format", "freeze"], check=True)
    return python


def main() -> int:
    """Return the exit code of pytest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, help="make the environment here, and leave it")
    parser.add_argument("rest", nargs="*", help="arguments for pytest")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = told.keep or Path(scratch) / "oldest"
        there = folder / "bin" / "python"
        python = str(there) if there.exists() else installed(folder)
        tests = sorted(
            str(path)
            for path in (ROOT / "tests").glob("test_sources_*.py")
            if path.name not in SKIPPED
        )
        command = [python, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        command += ["-k", " and ".join(f"not {name}" for name in BEYOND)]
        return subprocess.run([*command, *(told.rest or tests)], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
