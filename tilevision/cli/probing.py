"""The lines of ``tilevision doctor`` on an image, a model and the cluster they would meet on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilevision.cli.functions import model_argument
from tilevision.cli.installation import GIB, Check, check_temporary
from tilevision.errors import ClusterError, TilevisionError

if TYPE_CHECKING:
    from tilevision.fanout.survey import Member
    from tilevision.modelspec import ModelSpec
    from tilevision.sources import ImageSource

__all__ = ["Subject", "check_cluster", "check_local_cluster", "check_subject"]

SHOWN_PACKAGES = ("python", "tilevision", "dask", "distributed", "cloudpickle", "numpy")


@dataclass(slots=True)
class Subject:
    """What the cluster is asked about; filled in by `check_subject` with what is usable here."""

    image: ImageSource | None = None
    model: ModelSpec | None = None


def check_subject(subject: Subject, image: str | None, model: str | None) -> Iterator[Check]:
    """Open the image and look for what the model needs, in this process.

    Parameters
    ----------
    subject : Subject
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


def check_cluster(address: str, subject: Subject) -> Iterator[Check]:
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
        yield Check("workers", "there are none yet", fine=None)
    for host in found.hosts:
        yield from _host(host, subject)


def _host(host: Member, subject: Subject) -> Iterator[Check]:
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
