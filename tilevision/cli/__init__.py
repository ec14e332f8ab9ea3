"""The shell command, with one file for each group of commands."""

from __future__ import annotations

import click

from tilevision import __version__
from tilevision.cli.analysis import resume, run
from tilevision.cli.completion import completion
from tilevision.cli.configuration import configure
from tilevision.cli.diagnosis import doctor
from tilevision.cli.failing import CommandGroup
from tilevision.cli.inventory import models, runs
from tilevision.cli.jupyter import lab
from tilevision.cli.showing import demo

__all__ = ["main"]


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tilevision", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Analyse images too big for your model, without losing a tile.

    Exit codes: 0 complete; 1 could not continue; 2 bad input or usage; 3 some tiles or images
    are missing; 4 blocked by moderation; 130 interrupted;
    143 terminated.
    """
    configure(ctx, main.commands)


for command in (run, resume, demo, lab, runs, models, doctor, completion):
    main.add_command(command)
