"""Whether a cluster can do a run's work, found out before the first tile is sent."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tilevision.cluster import Cluster, host_of
from tilevision.errors import ClusterError
from tilevision.fanout.survey import ANSWER_SECONDS, Member, Survey, runtime_here, survey
from tilevision.infer import Work

__all__ = ["Fitness", "complaint", "probe"]

SHOWN_HOSTS = 6
SHOWN_TROUBLES = 6
_PLURAL = {"has": "have", "does": "do"}


@dataclass(frozen=True, slots=True)
class Fitness:
    """Which hosts of a cluster can do a run's work.

    Parameters
    ----------
    runtime : str
        On what the model runs there, one line for people; empty where nobody knows.
    fit : frozenset of str
        Hosts that can do the work.
    unfit : dict of str to str
        Hosts that cannot, and why, worded to follow the host's name.
    """

    runtime: str = ""
    fit: frozenset[str] = frozenset()
    unfit: dict[str, str] = field(default_factory=dict)


def probe(cluster: Cluster, work: Work, tell: Callable[[str], None]) -> Fitness:
    """Make sure that a cluster can do the work; return on what it will run the model, and where.

    A cluster that is not ours is asked host by host. Hosts that cannot do the work are left out
    as long as others can. Workers of a host that joins later examine themselves before their first
    tile.

    Parameters
    ----------
    cluster : Cluster
    work : Work
    tell : callable
        Gets a line where something is worth knowing, or takes long.

    Returns
    -------
    Fitness

    Raises
    ------
    ClusterError
        If the scheduler or all hosts cannot do it: one line with each such host, what it lacks,
        and the remedy.
    ModelError
        On our own cluster, if the model's device or library is not there.
    """
    if cluster.owned:
        runtimes = [_ask_ours(cluster, work)]
        fit = [host_of(str(cluster.client.scheduler.address))]  # all on this machine
        unfit: dict[str, str] = {}
    else:
        found = _usable(survey(cluster, work.source, work.model, tell), tell)
        if found.scheduler.notes:
            tell(f"The scheduler has {', '.join(found.scheduler.notes)}.")
        able = tuple(host for host in found.hosts if not host.troubles)
        for notes, hosts in _grouped(able, lambda member: member.notes):
            tell(f"{_capital(hosts)}: {', '.join(notes)}. The client's versions are safer.")
        runtimes = [host.readiness.runtime for host in able if host.readiness]
        fit = [host.name for host in able if host.readiness]
        unfit = {h.name: ", and ".join(h.troubles) for h in found.hosts if h.troubles}
    on = _summed_up([runtime for runtime in runtimes if runtime])
    return Fitness(f"{work.model.name} runs on {on}" if on else "", frozenset(fit), unfit)


def _usable(found: Survey, tell: Callable[[str], None]) -> Survey:
    """Return a survey that a run can begin with; say which hosts are left out, and why."""
    line = complaint(found)
    if line and all(host.troubles for host in found.hosts):
        raise ClusterError(line)
    if line:
        out = sum(bool(host.troubles) for host in found.hosts)
        tell(
            f"{out} of {len(found.hosts)} worker hosts {'is' if out == 1 else 'are'} left out of "
            f"this run. {line}"
        )
    return found


def complaint(found: Survey) -> str:
    """Return what stops a run on the cluster, each host named once; empty where nothing does."""
    lines = []
    if found.scheduler.troubles:
        lines.append(f"the {found.scheduler.name} {', and '.join(found.scheduler.troubles)}")
    for troubles, hosts in _grouped(found.hosts, lambda member: member.troubles):
        plural = hosts.startswith("worker hosts")
        lines.append(f"{hosts} {', and '.join(_verb(line, plural) for line in troubles)}")
    if len(lines) > SHOWN_TROUBLES:
        more = len(lines) - SHOWN_TROUBLES
        lines[SHOWN_TROUBLES:] = [f"{more} more hosts have other troubles"]
    return " ".join(f"{_capital(line)}." for line in lines)


def _ask_ours(cluster: Cluster, work: Work) -> str:
    """Return the first answer of our workers, which are all alike.

    All are asked, and none is waited for but the first: to answer they import what their first
    tile needs, so the question costs a run next to nothing. Nobody is asked where the model's
    module, loaded here already, has nothing to say, or nothing of the model's device.
    """
    module = sys.modules.get(work.model.factory.partition(":")[0])
    silent = getattr(module, "SILENT", ())
    if module is not None and (not hasattr(module, "runtime") or work.model.device in silent):
        return ""
    workers = cluster.workers()
    if not workers:
        return ""
    client = cluster.client

    async def ask() -> str:
        blob = pickle.dumps(work.model)
        asked = [
            asyncio.ensure_future(client.run(runtime_here, blob, workers=[worker]))
            for worker in workers
        ]
        asyncio.gather(*asked, return_exceptions=True)  # hears of those that are not waited for
        done, _ = await asyncio.wait(
            asked, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        return "".join(next(iter(done)).result().values()) if done else ""

    try:
        return asyncio.run_coroutine_threadsafe(ask(), client.loop.asyncio_loop).result()
    except OSError:  # it died: ours are replaced, and the run itself will tell
        return ""


def _grouped(
    hosts: tuple[Member, ...], said: Callable[[Member], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], str]]:
    """Return each different thing that hosts said, with their names."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for host in hosts:
        if said(host):
            groups.setdefault(said(host), []).append(host.name)
    return [(lines, _together(names)) for lines, names in groups.items()]


def _together(names: list[str]) -> str:
    """Return ``worker host a``, or ``worker hosts a, b and 7 more``."""
    if len(names) == 1:
        return f"worker host {names[0]}"
    shown = names[:SHOWN_HOSTS]
    more = len(names) - len(shown)
    last = f"{more} more" if more else shown.pop()
    return f"worker hosts {', '.join(shown)} and {last}"


def _verb(line: str, plural: bool) -> str:
    verb, space, rest = line.partition(" ")
    return (_PLURAL.get(verb, verb) if plural else verb) + space + rest


def _summed_up(runtimes: list[str]) -> str:
    """Return the one runtime there is, or each with the number of hosts that have it."""
    counted = Counter(runtimes).most_common()
    if len(counted) < 2:
        return "".join(runtimes[:1])
    return "; ".join(f"{line} ({count} host{'s' * (count > 1)})" for line, count in counted)


def _capital(line: str) -> str:
    return line[:1].upper() + line[1:]
