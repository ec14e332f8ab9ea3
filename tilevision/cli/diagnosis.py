"""``tilevision doctor``: is everything there that a run needs?"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from tilevision import checks
from tilevision.cli.failing import ExitCode
from tilevision.cli.options import checkpoint_option, model_argument, workers_option
from tilevision.display import printable
from tilevision.errors import ClusterError, TilevisionError

if TYPE_CHECKING:
    from tilevision.fanout.survey import Member
    from tilevision.modelspec import ModelSpec
    from tilevision.sources import ImageSource

__all__ = [
    "GIB",
    "Check",
    "Probed",
    "check_cluster",
    "check_installation",
    "check_local_cluster",
    "check_subject",
    "check_temporary",
    "doctor",
]

SHOWN_PACKAGES = ("python", "tilevision", "dask", "distributed", "cloudpickle", "numpy")
MARKS = {True: "ok", None: "–", False: "PROBLEM"}

GIB = 2**30
LITTLE_SPACE = 2 * GIB
_COMMITS, _TILES = 8, 16  # that the checkpoint is tried with
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^;]*(?:;.*extra == ['\"](?P<extra>[\w-]+)['\"])?")
_LOWEST = re.compile(r">=\s*([\d.]+)")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis.

    Parameters
    ----------
    subject, finding : str
    fine : bool or None
        None for neither: something optional is not there.
    given : bool
        True if it is about something the user named: an image, a model.
    """

    subject: str
    finding: str
    fine: bool | None = True
    given: bool = False


def check_installation(checkpoint: Path) -> Iterator[Check]:
    """Look at what every run needs here.

    Parameters
    ----------
    checkpoint : Path
        Absolute; need not exist.
    """
    yield Check("python", f"{platform.python_version()} in {sys.prefix}")
    yield Check("machine", f"{platform.system()} {platform.machine()}, {_processors()} processors")
    yield from _packages()
    yield _checkpoint(checkpoint)
    folder = tempfile.gettempdir()
    yield check_temporary("temporary files", folder, shutil.disk_usage(folder).free)


def check_temporary(subject: str, folder: str, free: int) -> Check:
    """Judge the folder where images without windows are decoded.

    Parameters
    ----------
    subject, folder : str
    free : int
        Bytes; negative where the folder cannot be used.
    """
    if free < 0:
        return Check(subject, f"{folder} cannot be used. Set TMPDIR to a folder that can.", False)
    note = f"{folder} ({free / GIB:.1f} GiB free)"
    if free < LITTLE_SPACE:
        note += ": too little to decode a big JPEG or PNG. Set TMPDIR to a larger disk."
    return Check(subject, note, fine=free >= LITTLE_SPACE)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _packages() -> Iterator[Check]:
    """Look for each core package, then for each extra as a whole."""
    extras: dict[str, dict[str, str]] = {}
    yield Check("tilevision", version("tilevision"))
    for requirement in requires("tilevision") or ():
        match = _REQUIREMENT.match(requirement)
        assert match is not None  # every requirement begins with a name
        name, extra = match["name"], match["extra"]
        if extra is not None:
            extras.setdefault(extra, {})[name] = requirement
            continue
        found, old = _version(name), _too_old(name, requirement)
        note = f"{found}{old}" if found else f"Missing. Run: pip install {name}"
        yield Check(name, note, fine=found is not None and not old)
    for extra, names in sorted(extras.items()):
        missing = [name for name in names if _version(name) is None]
        there = [name for name in names if name not in missing]
        outdated = any(_too_old(name, names[name]) for name in there)
        note = ", ".join(f"{name} {_version(name)}{_too_old(name, names[name])}" for name in there)
        if missing:
            note = f"Not installed: {', '.join(missing)}. Run: pip install 'tilevision[{extra}]'"
        yield Check(f"extra {extra}", note, fine=False if outdated else None if missing else True)


def _too_old(name: str, requirement: str) -> str:
    """Return what is wrong with a version below the lower bound of a requirement, or nothing."""
    lowest, found = _LOWEST.search(requirement), _version(name)
    if lowest is None or found is None or _numbers(found) >= _numbers(lowest[1]):
        return ""
    return f" is older than {lowest[1]}. Run: pip install -U '{name}>={lowest[1]}'"


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a release, without zeros at the end: 1.2.0 is 1.2."""
    release = re.match(r"[\d.]*", text)
    numbers = [int(one) for one in (release[0] if release else "").split(".") if one]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _checkpoint(folder: Path) -> Check:
    """Look where the checkpoint is or would be, in which form, and what a commit costs there."""
    from tilevision.checkpoint import filesystem

    place = filesystem.nearest_existing(folder)
    kind = filesystem.filesystem_type(place) or "unknown file system"
    where = f"{folder} ({kind}, {shutil.disk_usage(place).free / GIB:.1f} GiB free)"
    if not os.access(place, os.W_OK):
        return Check(
            "checkpoint", f"{where}: not writable. Choose another with --checkpoint.", False
        )
    try:
        with tempfile.TemporaryDirectory(prefix=".tilevision-doctor-", dir=place) as scratch:
            found = _tried(folder, Path(scratch) / "checkpoint")
    except TilevisionError as error:
        return Check("checkpoint", f"{where}: {error}", False)
    except OSError as error:
        found = f"{error.strerror}. Choose another with --checkpoint."
        return Check("checkpoint", f"{where}: {found}", False)
    return Check("checkpoint", f"{where}: {found}")


def _tried(folder: Path, scratch: Path) -> str:
    """Keep records beside or in `folder` for a moment; return the form they had, and the cost.

    What a file system calls itself says little: drives that are mounted have every name.
    """
    from tilevision.checkpoint import Checkpoint
    from tilevision.checkpoint.folder import has_segments
    from tilevision.checkpoint.trial import try_out

    shared = has_segments(folder)  # what is there already keeps its form
    if shared and (folder / "meta.json").exists():
        scratch.mkdir(mode=0o700)
        shutil.copyfile(folder / "meta.json", scratch / "meta.json")
    record = b'{"tried":"%s"}' % (b"0123456789" * 200)
    seconds = []
    try:
        with Checkpoint.open(scratch) as checkpoint:
            for number in range(_COMMITS):
                began = time.perf_counter()
                checkpoint.commit({f"{number} {tile}": (record,) for tile in range(_TILES)})
                seconds.append(time.perf_counter() - began)
    except TilevisionError as error:
        raise type(error)(str(error).replace(str(scratch), str(folder))) from error
    cost = f"{1000 * median(seconds):.1f} ms for a commit of {_TILES} tiles"
    if not shared:
        return f"a database, {cost}"
    lacking = try_out(scratch.parent).lacking()
    why = f"; does not work there: {lacking}" if lacking else ""
    return f"segments, for one writing process at a time on each run, {cost}{why}"


@dataclass(slots=True)
class Probed:
    """What the cluster is asked about; filled in by `check_subject` with what is usable here."""

    image: ImageSource | None = None
    model: ModelSpec | None = None


def check_subject(subject: Probed, image: str | None, model: str | None) -> Iterator[Check]:
    """Open the image and look for what the model needs, in this process.

    Parameters
    ----------
    subject : Probed
        Gets what was found.
    image, model : str or None
        As the command line has them.
    """
    from tilevision.catalogue import resolve
    from tilevision.readiness import examine
    from tilevision.sources import open_source

    if image is not None:
        try:
            subject.image = open_source(image)
            yield Check("image", f"{image}: {_described(subject.image)}", given=True)
        except TilevisionError as error:
            yield Check("image", str(error), fine=False, given=True)
    if model is not None:
        try:
            subject.model = resolve(model_argument(model))
        except TilevisionError as error:
            yield Check("model", str(error), fine=False, given=True)
            return
        found = examine(model=subject.model)
        for trouble in found.troubles:
            yield Check("model", f"this process {trouble}", fine=False, given=True)
        if not found.troubles:
            yield Check("model", _where(subject.model, found.runtime), given=True)


def check_local_cluster(workers: int | None) -> Check:
    """Start a local cluster and close it again."""
    from tilevision.cluster import local_cluster

    began = time.perf_counter()
    try:
        with local_cluster(workers) as cluster:
            count = len(cluster.workers())
            link = cluster.dashboard_link or "no dashboard"
    except TilevisionError as error:
        return Check("local cluster", str(error), fine=False)
    seconds = time.perf_counter() - began
    return Check("local cluster", f"{count} workers up in {seconds:.1f} s; dashboard was at {link}")


def check_cluster(address: str, subject: Probed) -> Iterator[Check]:
    """Ask the scheduler at `address` and one worker of each of its hosts."""
    from tilevision.cluster import connected
    from tilevision.fanout.survey import survey

    source = None if subject.image is None else subject.image.reference
    try:
        with connected(address) as cluster:
            found = survey(cluster, source, subject.model)
    except ClusterError as error:
        yield Check("scheduler", str(error), fine=False)
        return
    yield from _member("scheduler", found.scheduler, found.scheduler.address)
    if not found.hosts and not found.scheduler.troubles:
        yield Check("workers", "There are none yet.", fine=None)
    for host in found.hosts:
        yield from _host(host, subject)


def _host(host: Member, subject: Probed) -> Iterator[Check]:
    memory = f"{host.memory / GIB:.1f} GiB" if host.memory else "no limit"
    size = f"{_counted(host.workers, 'worker')}, {_counted(host.threads, 'thread')}, {memory}"
    yield from _member(f"host {host.name}", host, f"{size}; {host.address}")
    ready = host.readiness
    if ready is None:
        return
    yield check_temporary("  temporary files", ready.temp, ready.temp_free)
    if host.troubles:
        return
    if subject.image is not None:
        yield Check("  image", "opens, with the same content", given=True)
    if subject.model is not None:
        yield Check("  model", _where(subject.model, ready.runtime), given=True)


def _member(subject: str, member: Member, finding: str) -> Iterator[Check]:
    yield Check(subject, finding, fine=not member.troubles)
    if member.versions:
        shown = [f"{name} {member.versions.get(name) or '?'}" for name in SHOWN_PACKAGES]
        yield Check("  packages", ", ".join(shown))
    if member.notes:
        yield Check("  differs from here", ", ".join(member.notes), fine=None)
    for trouble in member.troubles:
        yield Check("  trouble", f"it {trouble}", fine=False)


def _described(image: Any) -> str:
    width, height = image.size
    bands = _counted(image.bands, "band")
    return f"{width:,} × {height:,} px, {bands} of {image.dtype}, {image.metadata.format}"


def _where(model: ModelSpec, runtime: str) -> str:
    return f"{model.name} runs on {runtime}" if runtime else f"{model.name} is there"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


@click.command()
@checkpoint_option
@workers_option
@click.option(
    "--scheduler", help="Check this Dask cluster host by host, for example tcp://10.0.0.1:8786."
)
@click.option("--image", help="Open this image here and on the hosts of the cluster.")
@click.option("--model", help="Check if this model can run here and on the hosts of the cluster.")
@click.pass_context
def doctor(
    ctx: click.Context,
    checkpoint: str,
    workers: int | None,
    scheduler: str | None,
    image: str | None,
    model: str | None,
) -> None:
    """Check this installation and a cluster; by default a local one is started as a test.

    Exit codes: 0 no problem; 1 a problem with the installation or the cluster; 2 a problem with
    the image or the model only.
    """
    if scheduler is not None and workers is not None:
        raise click.UsageError(
            "--workers only applies to a local cluster. Leave it out with --scheduler."
        )
    ctx.exit(
        _print_checks(
            _checks(
                checks.path("--checkpoint", checkpoint).absolute(), workers, scheduler, image, model
            )
        )
    )


def _checks(
    checkpoint: Path,
    workers: int | None,
    scheduler: str | None,
    image: str | None,
    model: str | None,
) -> Iterator[Check]:
    yield from check_installation(checkpoint)
    subject = Probed()
    yield from check_subject(subject, image, model)
    if scheduler is None:
        yield check_local_cluster(workers)
    else:
        yield from check_cluster(scheduler, subject)


def _print_checks(checks: Iterator[Check]) -> ExitCode:
    """Print the checks as they come; return how the command ends."""
    code = ExitCode.COMPLETE
    for check in checks:
        click.echo(printable(f"{MARKS[check.fine]:8}{check.subject:24}{check.finding}"))
        if check.fine is False and code is not ExitCode.STOPPED:
            code = ExitCode.USAGE if check.given else ExitCode.STOPPED
    return code
