"""``tilevision doctor``: is everything there that a run needs?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from tilevision.cli.failing import ExitCode, printable
from tilevision.cli.installation import Check, check_installation
from tilevision.cli.probing import Subject, check_cluster, check_local_cluster, check_subject

__all__ = ["doctor"]

MARKS = {True: "ok", None: "–", False: "PROBLEM"}


@click.command()
@click.option(
    "--checkpoint", default=".tilevision", show_default=True, help="Folder of finished tiles."
)
@click.option("--workers", type=int, help="Local processes to try. [default: one per processor]")
@click.option("--scheduler", help="Ask this Dask cluster, as tcp://10.0.0.1:8786, host by host.")
@click.option("--image", help="Open this image, here and on the cluster's hosts.")
@click.option("--model", help="See whether this model can run, here and on the cluster's hosts.")
@click.pass_context
def doctor(
    ctx: click.Context,
    checkpoint: str,
    workers: int | None,
    scheduler: str | None,
    image: str | None,
    model: str | None,
) -> None:
    """Check this installation, and a cluster: a local one is started to see that it works.

    Exit codes: 0 all is well; 1 a problem with the installation or the cluster; 2 only the image
    or the model is the problem.
    """
    if scheduler is not None and workers is not None:
        raise click.UsageError("--workers is of the local cluster; leave it out with --scheduler")
    ctx.exit(
        _told(_checks(Path(checkpoint).expanduser().absolute(), workers, scheduler, image, model))
    )


def _checks(
    checkpoint: Path,
    workers: int | None,
    scheduler: str | None,
    image: str | None,
    model: str | None,
) -> Iterator[Check]:
    yield from check_installation(checkpoint)
    subject = Subject()
    yield from check_subject(subject, image, model)
    if scheduler is None:
        yield check_local_cluster(workers)
    else:
        yield from check_cluster(scheduler, subject)


def _told(checks: Iterator[Check]) -> ExitCode:
    """Print the checks as they come; return how the command ends."""
    code = ExitCode.COMPLETE
    for check in checks:
        click.echo(printable(f"{MARKS[check.fine]:8}{check.subject:24}{check.finding}"))
        if check.fine is False and code is not ExitCode.STOPPED:
            code = ExitCode.USAGE if check.given else ExitCode.STOPPED
    return code
