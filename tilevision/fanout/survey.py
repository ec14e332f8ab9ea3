"""Asks the scheduler and one worker of each host whether they can do a run's work.

That includes which differences between the client's packages and a cluster's matter.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distributed.versions import get_versions

import tilevision
from tilevision.cluster import Cluster
from tilevision.errors import ClusterError
from tilevision.modelspec import runtime
from tilevision.readiness import Readiness, carries_code, examine

__all__ = ["PACKAGES", "Differences", "Member", "Survey", "compare", "runtime_here", "survey"]

ANSWER_SECONDS = 15.0
# Hashing a slide over a slow network, or decoding a huge PNG, takes its time.
OPEN_SECONDS = 600.0
AT_ONCE = 32
TEXT_LIMIT = 400
IMPORT = f"import {__name__}"
# Dask names these for every process when asked: the first ones can stop a run, the others are
# what pixels and answers come from.
PACKAGES = (
    *("tilevision", "distributed", "cloudpickle"),
    *("numpy", "scikit-image", "scipy", "pillow", "tifffile", "imagecodecs", "shapely"),
)
DASK_MONTHS = 12


@dataclass(frozen=True, slots=True)
class Member:
    """The scheduler, or one host of workers, as it answered.

    Parameters
    ----------
    name : str
        ``"scheduler tcp://10.0.0.1:8786"``; of a host, what its workers are reached at.
    address : str
        Of the process that was asked.
    versions : mapping
        Package to version, with ``"python"``; empty where there was no answer.
    troubles : tuple of str
        Why it cannot do the work, each worded to follow the name.
    notes : tuple of str
        Differences that do not matter as much.
    readiness : Readiness, optional
        Of a worker that could be examined.
    workers, threads : int
        Of this host.
    memory : int
        Bytes that its workers may use in all; 0 where there is no limit.
    """

    name: str
    address: str
    versions: Mapping[str, str | None] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    readiness: Readiness | None = None
    workers: int = 0
    threads: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """All that were asked.

    Parameters
    ----------
    scheduler : Member
    hosts : tuple of Member
        In the order of their names.
    """

    scheduler: Member
    hosts: tuple[Member, ...]


def survey(
    cluster: Cluster,
    source: Any = None,
    model: Any = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Survey:
    """Ask a cluster what its processes are and can do; one worker of each host speaks for it.

    Parameters
    ----------
    cluster : Cluster
    source : SourceRef, optional
        Image that the workers should see.
    model : ModelSpec, optional
        Model that they should run.
    tell : callable
        Gets a line while a host takes long.

    Raises
    ------
    ClusterError
        If the scheduler does not answer.
    """
    asking = _Asking(cluster.client, source, model, tell)
    loop = cluster.client.loop.asyncio_loop
    return asyncio.run_coroutine_threadsafe(asking.all(), loop).result()


async def examine_here(blob: bytes) -> Readiness:
    """Run `examine` on the worker, beside its event loop, which has to keep answering."""
    source, model = pickle.loads(blob)  # noqa: S301 our own client wrote it
    return await asyncio.to_thread(examine, source, model)


def version_here() -> str:
    """Say which tilevision the scheduler has: it opens the graph, which names our functions."""
    return tilevision.__version__


async def runtime_here(blob: bytes) -> str:
    """Say on what the worker would run a model."""
    return await asyncio.to_thread(runtime, pickle.loads(blob))  # noqa: S301 as above


class _Asking:
    """One survey under way, on the client's event loop."""

    def __init__(self, client: Any, source: Any, model: Any, tell: Callable[[str], None]) -> None:
        self._client = client
        self._blob = pickle.dumps((source, model))
        self._code = model is not None and carries_code(model)
        self._tell = tell
        self._here = _packages(get_versions(packages=PACKAGES))
        self._here["tilevision"] = tilevision.__version__
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def all(self) -> Survey:
        scheduler = await self._scheduler()
        if scheduler.troubles:
            return Survey(scheduler, ())
        try:
            identity = await self._patiently(self._client.scheduler.identity(n_workers=-1))
        except OSError as error:
            raise self._silent(error) from error
        hosts: dict[str, dict[str, Any]] = {}
        for address, worker in sorted(identity["workers"].items()):
            hosts.setdefault(worker["host"], {})[address] = worker
        found = await asyncio.gather(*(self._host(*host) for host in hosts.items()))
        return Survey(scheduler, tuple(member for member in found if member is not None))

    async def _scheduler(self) -> Member:
        address = str(self._client.scheduler.address)
        name = f"scheduler {address}"
        try:
            answer = await self._patiently(self._client.scheduler.versions(packages=list(PACKAGES)))
        except OSError as error:
            raise self._silent(error) from error
        there = _packages(answer)
        differences = compare(self._here, there | {"tilevision": None})
        troubles = differences.troubles
        if not troubles:
            try:
                version = await self._patiently(self._client.run_on_scheduler(version_here))
                differences = compare(self._here, there | {"tilevision": version})
                troubles = differences.troubles
            except (ImportError, AttributeError) as error:
                troubles = (self._without_us(error, there),)
            except Exception:  # noqa: BLE001 a gateway may forbid it; the run will show
                troubles = ()
        return Member(name, address, there, troubles, differences.notes)

    async def _host(self, name: str, workers: dict[str, Any]) -> Member | None:
        """Ask one worker of a host; None where the host has gone meanwhile."""
        running = [a for a, worker in workers.items() if worker.get("status") == "running"]
        address = (running or list(workers))[0]
        there: dict[str, str | None] = {}
        differences, readiness = Differences(), None
        async with self._turn:
            try:
                there = await self._versions(address)
                differences = compare(self._here, there | {"tilevision": None}, code=self._code)
                if not differences.troubles:
                    readiness = await self._readiness(name, address)
                    there = there | {"tilevision": readiness.version}
                    differences = compare(self._here, there, code=self._code)
                troubles = (*differences.troubles, *(readiness.troubles if readiness else ()))
            except Exception as error:  # noqa: BLE001 whatever a host says, the others are asked
                if isinstance(error, OSError) and not await self._present(address):
                    return None
                troubles = (self._words(error, address, there),)
        limits = [worker["memory_limit"] or 0 for worker in workers.values()]
        return Member(
            name,
            address,
            there,
            tuple(" ".join(line.split())[:TEXT_LIMIT] for line in troubles),
            differences.notes,
            readiness,
            workers=len(workers),
            threads=sum(worker["nthreads"] for worker in workers.values()),
            memory=sum(limits) if all(limits) else 0,
        )

    async def _versions(self, address: str) -> dict[str, str | None]:
        """Ask through Dask's own question, which needs nothing of ours there."""
        message = {"op": "versions", "packages": list(PACKAGES)}
        asked = self._client.scheduler.broadcast(msg=message, workers=[address])
        return _packages((await self._patiently(asked))[address])

    async def _readiness(self, name: str, address: str) -> Readiness:
        """Have a worker examine itself; while it takes its time, see that it is alive."""
        asked = asyncio.ensure_future(self._examined(address))
        waited = 0.0
        try:
            while waited < OPEN_SECONDS:
                await asyncio.wait({asked}, timeout=ANSWER_SECONDS)
                if asked.done():
                    return asked.result()
                waited += ANSWER_SECONDS
                await self._versions(address)
                self._tell(f"Worker host {name} is still getting ready ({waited:.0f} s).")
        finally:
            asked.cancel()
        raise _Stuck

    async def _examined(self, address: str) -> Readiness:
        # What a worker unpickles is imported on its event loop, which may take half a minute from
        # a network disk; beside it, the worker goes on answering.
        await self._client.run(asyncio.to_thread, exec, IMPORT, workers=[address])
        answers = await self._client.run(examine_here, self._blob, workers=[address])
        readiness: Readiness = answers[address]
        return readiness

    @staticmethod
    async def _patiently(answer: Any) -> Any:
        return await asyncio.wait_for(answer, ANSWER_SECONDS)

    async def _present(self, address: str) -> bool:
        try:
            return address in await self._patiently(self._client.scheduler.ncores())
        except OSError as error:
            raise self._silent(error) from error

    def _words(self, error: Exception, address: str, there: Mapping[str, str | None]) -> str:
        """Say what a worker's error means."""
        if isinstance(error, _Stuck):
            return (
                f"has not opened the image within {OPEN_SECONDS:.0f} s; "
                "is the file system that it lies on stuck?"
            )
        if isinstance(error, TimeoutError):
            return (
                f"does not answer within {ANSWER_SECONDS:g} s ({address} hangs or is overloaded); "
                "restart that worker, or close it"
            )
        if isinstance(error, OSError):
            return f"cannot be reached at {address} ({error}); restart that worker, or close it"
        return self._without_us(error, there)

    def _without_us(self, error: Exception, there: Mapping[str, str | None]) -> str:
        """Say that our code does not run somewhere: it is not there, or is another version."""
        ours, theirs = self._here["tilevision"], there.get("tilevision")
        if theirs and theirs != ours:
            return f"has tilevision {theirs} and the client {ours}; install the same"
        if "No module named 'tilevision'" in str(error):
            return f"has no tilevision; install tilevision {ours} there"
        return f"cannot import tilevision ({error}); install it and what it needs there"

    def _silent(self, error: Exception) -> ClusterError:
        address = self._client.scheduler.address
        words = str(error) or f"no answer within {ANSWER_SECONDS:g} s"
        return ClusterError(f"The Dask scheduler {address} does not answer ({words}); restart it.")


class _Stuck(Exception):
    """A worker answers and does not get ahead."""


def _packages(answer: Mapping[str, Any]) -> dict[str, str | None]:
    return dict(answer["packages"])


@dataclass(frozen=True, slots=True)
class Differences:
    """What differs in one process.

    Parameters
    ----------
    troubles : tuple of str
        What it cannot work with; worded to follow the process's name.
    notes : tuple of str
        What it can: ``"numpy 2.3.1 (here 2.4.6)"``.
    """

    troubles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def compare(
    here: Mapping[str, str | None], there: Mapping[str, str | None], *, code: bool = False
) -> Differences:
    """Sort the differences between two processes into those that stop a run and those that do not.

    Parameters
    ----------
    here, there : mapping
        Package to version, of the client and of a worker or the scheduler, with ``"python"``;
        None or absent where it is unknown. A package without its metadata is unknown, not
        missing: what cannot be imported shows when it is.
    code : bool
        Whether the model travels as bytecode.

    Notes
    -----
    tilevision has to be the same, since tasks name its functions and records are what it says
    they are. Python's minor version decides how bytecode is read; a model that is named gets
    along with another. Dask promises nothing between releases: 13 months apart worked, and 19
    months apart the workers vanished and the run would have waited for ever (measured with
    2026.8), so a year is the limit. NumPy and all others read and write what is sent either
    way; they can change answers in the last digit, which is worth a note.
    """
    troubles, notes = [], []
    for package in ("python", *PACKAGES):
        ours, theirs = here.get(package), there.get(package)
        if not ours or not theirs or ours == theirs:
            continue
        if package == "python":
            ours, theirs = _short(ours), _short(theirs)
            if ours == theirs:
                continue
        if _stops(package, ours, theirs, code):
            troubles.append(f"has {package} {theirs} and the client {ours}; install the same")
        else:
            notes.append(f"{package} {theirs} (here {ours})")
    return Differences(tuple(troubles), tuple(notes))


def _short(python: str) -> str:
    """Return the ``3.11`` of ``3.11.7.final.0``: bug fixes make no difference."""
    return ".".join(python.split(".")[:2])


def _stops(package: str, ours: str, theirs: str, code: bool) -> bool:
    if package == "python":
        return code
    if package == "distributed":  # and with it dask, which it pins
        return _months_apart(ours, theirs) > DASK_MONTHS
    return package == "tilevision"


def _months_apart(one: str, other: str) -> int:
    """Return how far apart two releases of Dask are, which are named after their month."""
    months = []
    for version in (one, other):
        year, month, *_ = [*version.split("."), "", ""]
        if not (year.isdecimal() and month.isdecimal()):
            return 0  # a build of somebody's own: whether it works shows when it is tried
        months.append(int(year) * 12 + int(month))
    return abs(months[0] - months[1])
