"""``tilevision doctor``: is everything there that a run needs?"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import click

from tilevision.cli.failing import ExitCode, printable
from tilevision.errors import TilevisionError

__all__ = ["doctor"]

GIB = 2**30
LITTLE_SPACE = 2 * GIB
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*(?:;.*extra == ['\"](?P<extra>[\w-]+)['\"])?")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis.

    Parameters
    ----------
    subject, finding : str
    fine : bool or None
        None where it is neither: something optional that is not there.
    """

    subject: str
    finding: str
    fine: bool | None = True


@click.command()
@click.option(
    "--checkpoint", default=".tilevision", show_default=True, help="Folder of finished tiles."
)
@click.option("--workers", type=int, help="Local processes to try. [default: one per processor]")
@click.pass_context
def doctor(ctx: click.Context, checkpoint: str, workers: int | None) -> None:
    """Check this installation, and start a local cluster to see that it works."""
    trouble = False
    for check in _checks(Path(checkpoint).expanduser().absolute(), workers):
        mark = {True: "ok", None: "–", False: "PROBLEM"}[check.fine]
        click.echo(printable(f"{mark:8}{check.subject:24}{check.finding}"))
        trouble = trouble or check.fine is False
    ctx.exit(ExitCode.STOPPED if trouble else ExitCode.COMPLETE)


def _checks(checkpoint: Path, workers: int | None) -> Iterator[Check]:
    yield Check("python", f"{platform.python_version()} in {sys.prefix}")
    yield Check("machine", f"{platform.system()} {platform.machine()}, {_processors()} processors")
    yield from _packages()
    yield _checkpoint(checkpoint)
    yield _temporary()
    yield _attempt("local cluster", lambda: _cluster(workers))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _packages() -> Iterator[Check]:
    """Look for each core package, then for each extra as a whole."""
    extras: dict[str, list[str]] = {}
    yield Check("tilevision", version("tilevision"))
    for requirement in requires("tilevision") or ():
        match = _REQUIREMENT.match(requirement)
        assert match is not None  # every requirement begins with a name
        name, extra = match["name"], match["extra"]
        if extra is not None:
            extras.setdefault(extra, []).append(name)
            continue
        found = _version(name)
        yield Check(name, found or f"missing; pip install {name}", fine=found is not None)
    for extra, names in sorted(extras.items()):
        missing = [name for name in names if _version(name) is None]
        note = ", ".join(f"{name} {_version(name)}" for name in names if name not in missing)
        if missing:
            note = f"not installed: {', '.join(missing)}; pip install 'tilevision[{extra}]'"
        yield Check(f"extra {extra}", note, fine=None if missing else True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _checkpoint(folder: Path) -> Check:
    """Look where the checkpoint is or would be, without making it."""
    from tilevision.checkpoint import filesystem

    place = filesystem.nearest_existing(folder)
    kind = filesystem.filesystem_type(place) or "unknown file system"
    where = f"{folder} ({kind}, {shutil.disk_usage(place).free / GIB:.1f} GiB free)"
    if filesystem.is_network(place):
        fallback = filesystem.fallback_folder()
        return Check("checkpoint", f"{where}: a network share; use --checkpoint {fallback}", False)
    if not os.access(place, os.W_OK):
        return Check(
            "checkpoint", f"{where}: not writable; choose another with --checkpoint", False
        )
    return Check("checkpoint", where)


def _temporary() -> Check:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    note = f"{folder} ({free / GIB:.1f} GiB free)"
    if free < LITTLE_SPACE:
        note += ": too little to stage a big JPEG or PNG; set TMPDIR to a larger disk"
    return Check("temporary files", note, fine=free >= LITTLE_SPACE)


def _cluster(workers: int | None) -> str:
    from tilevision.cluster import local_cluster

    began = time.perf_counter()
    with local_cluster(workers) as cluster:
        count = len(cluster.workers())
        link = cluster.dashboard_link or "no dashboard"
    return f"{count} workers up in {time.perf_counter() - began:.1f} s; dashboard was at {link}"


def _attempt(subject: str, look: Callable[[], str]) -> Check:
    try:
        return Check(subject, look())
    except TilevisionError as error:
        return Check(subject, str(error), fine=False)
