"""The package as it is declared: environment, wheel, commands, notebook."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())

# conda-forge writes an underscore, and its dask comes with what the extras of PyPI stand for.
CONDA_NAMES = {"dask[distributed,diagnostics]": "dask", "lazy-loader": "lazy_loader"}


def _conda_requirement(requirement):
    name = re.match(r"[\w.-]+(\[[\w,]+\])?", requirement)[0]
    return CONDA_NAMES.get(name, name) + requirement[len(name) :]


def test_environment_is_in_step_with_pyproject():
    """environment.yml names every core dependency with the same bounds, and nothing else."""
    declared = {_conda_requirement(requirement) for requirement in PROJECT["dependencies"]}
    named = {line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)}
    assert named == declared | {f"python{PROJECT['requires-python']}", "pip"}


def test_environment_ends_with_the_package_itself():
    """environment.yml comes from conda-forge and ends by installing the checkout."""
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    assert ENVIRONMENT["dependencies"][-1] == {"pip": ["-e ."]}


def test_the_recipe_for_conda_is_in_step_with_pyproject():
    """It needs what environment.yml names, at the version and licence of the package."""
    recipe = yaml.safe_load((ROOT / ".ci" / "conda" / "recipe.yaml").read_text())
    named = {line.replace(" ", "") for line in recipe["requirements"]["run"]}
    least = PROJECT["requires-python"].removeprefix(">=")
    installed = {line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)} - {"pip"}
    installed = {line for line in installed if not line.startswith("python>")}
    assert named == installed | {"python>=${{python_min}}"}
    told = recipe["context"]
    assert (told["version"], told["python_min"]) == (PROJECT["version"], least)
    assert recipe["about"]["license"] == PROJECT["license"]
    assert recipe["about"]["summary"] == PROJECT["description"]


def test_version_is_declared_once_more_and_the_same():
    """The version of the package is that of pyproject.toml."""
    import tilevision

    assert tilevision.__version__ == PROJECT["version"]


def test_the_citation_is_in_step_with_pyproject():
    """CITATION.cff names the version, the licence and the authors of the package."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]


@pytest.mark.slow
def test_wheel_has_the_notebook_and_the_type_marker(tmp_path):
    """A wheel has what `tilevision lab` opens, the stub of public names, and py.typed."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "tilevision", copy / "tilevision")
    shutil.copytree(ROOT / "notebooks", copy / "notebooks")
    command = "from hatchling.build import build_wheel; print(build_wheel('dist'))"
    built = subprocess.run(
        [sys.executable, "-c", command], cwd=copy, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(copy / "dist" / built.stdout.split()[-1]) as wheel:
        names = set(wheel.namelist())
    assert {
        "tilevision/notebooks/01_quickstart.ipynb",
        "tilevision/__init__.pyi",
        "tilevision/py.typed",
    } <= names
    assert not any(name.startswith(("tests/", "notebooks/")) for name in names)
