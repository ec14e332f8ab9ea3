"""``tilevision completion``: what the shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]

PROGRAM = "tilevision"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion of a shell.

    For this shell: eval "$(tilevision completion bash)". For every one, write it into
    the shell's start-up file.
    """
    found = get_completion_class(shell)
    assert found is not None  # click has a class for each of the choices
    root = ctx.find_root().command
    click.echo(found(root, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
