"""``tilevision lab``: JupyterLab at the quick-start notebook."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import click

import tilevision
from tilevision.errors import RunError

__all__ = ["lab", "quickstart"]

NOTEBOOK = "01_quickstart.ipynb"
COPY = "tilevision-quickstart.ipynb"


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog="Other options are passed to JupyterLab: --no-browser, --port 8890, …",
)
@click.pass_context
def lab(ctx: click.Context) -> None:
    """Open JupyterLab with a copy of the quick-start notebook.

    The copy is made in the current folder; if it already exists, it is opened as it is.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise RunError("JupyterLab is not installed. Run: pip install jupyterlab")
    copy = _copied(Path(COPY))
    # Not as an argument: then the address it prints, for those whose browser is elsewhere, would
    # not lead to the notebook.
    address = f"--LabApp.default_url=/lab/tree/{copy}"
    command = [sys.executable, "-m", "jupyterlab", address, *_allowed(), *ctx.args]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 - our own interpreter, no shell


def _allowed() -> list[str]:
    """Return what JupyterLab needs to start at all: in a container, people are root."""
    return ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def quickstart() -> Path:
    """Return the quick-start notebook of this installation, or of the checkout it runs from.

    Raises
    ------
    RunError
        If neither has it.
    """
    package = Path(tilevision.__file__).parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if (folder / NOTEBOOK).is_file():
            return folder / NOTEBOOK
    raise RunError(f"{NOTEBOOK} is missing from this installation. Install tilevision again.")


def _copied(copy: Path) -> Path:
    from tilevision.files import refusing

    if copy.exists():
        click.echo(f"Opening {copy}, which already exists.")
        return copy
    notebook = quickstart()
    with refusing(copy.absolute()):
        shutil.copyfile(notebook, copy)
    return copy
