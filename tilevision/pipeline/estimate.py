"""What a run takes and costs: beforehand, by prices and earlier runs; meanwhile, by how it goes.

What a run says of its time (`Run.estimate`) and what is shown of it are the same: `TimeLeft`.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunError
from tilevision.events import Event, RunChanged, TileChanged, journal_path, read_manifest
from tilevision.events.journal import from_line
from tilevision.grid import Tile
from tilevision.modelspec import ModelSpec, Usage, processes
from tilevision.pipeline.settings import Settings
from tilevision.schedule import Scheduler
from tilevision.schedule.limits import HOSTED_CAP
from tilevision.schedule.messages import Action, Allowed, Happening
from tilevision.status import TileStatus

__all__ = [
    "Budgeted",
    "Estimate",
    "Flow",
    "Pace",
    "Part",
    "Spending",
    "TimeLeft",
    "add_up",
    "duration",
    "earlier_paces",
    "has_run",
    "slots",
]

RATE_TILES = 32
# Tiles that have to be timed before anything is foretold: this share, between these numbers.
ENOUGH_SHARE, ENOUGH_LEAST, ENOUGH_TILES = 0.1, 3, 100
# Times the tiles looked at at once: the first of them end together, the last ones by chance.
FIRST_WAVES, LAST_WAVES = 2.5, 1.5
MOST_WAITING = 0.25  # of the open tiles, for another attempt
JOURNALS = 10  # of the latest runs
JOURNALS_FOR_ONE = 100
TILES = 500  # of each: enough for a median, and read in no time
_NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left to do, and what it will take.

    Parameters
    ----------
    tiles : int
        Tiles that a model has yet to be asked about; a tile may be asked about twice.
    seconds : float or None
        None where the time is not known; `basis` says why once tiles are done.
    cost : float or None
        In the currency of the prices; None where no model has one.
    basis : str
        What it rests on, and what it leaves out.
    """

    tiles: int
    seconds: float | None
    cost: float | None
    basis: str

    def __str__(self) -> str:
        time = "time not known" if self.seconds is None else f"about {duration(self.seconds)}"
        cost = "" if self.cost is None else f", cost about {self.cost:.3g}"
        return f"{time}{cost} ({self.basis})" if self.tiles else "nothing left to run"


@dataclass(frozen=True, slots=True)
class Pace:
    """What a model took for a tile.

    Parameters
    ----------
    tiles : int
        So many tiles were looked at.
    seconds : float
        Median of a tile on one worker, or in one request.
    input_tokens, output_tokens : float
        Means, retries included.
    """

    tiles: int
    seconds: float
    input_tokens: float = 0.0
    output_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """What is left for one model.

    Parameters
    ----------
    label : str
    tiles : float or None
        None: which tiles come to it is not known at all.
    seconds : float or None
        For each of them, on the whole cluster.
    cost : float or None
        For each of them.
    basis : tuple of str
    """

    label: str
    tiles: float | None
    seconds: float | None
    cost: float | None
    basis: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, spec: ModelSpec, label: str, tiles: float | None, pace: Pace | None, at_once: int
    ) -> Part:
        """Return what earlier runs and the price say of `tiles`, `at_once` at a time."""
        basis = [] if pace is None else [f"by {pace.tiles:,} tiles of {label} in earlier runs"]
        return cls(
            label,
            tiles,
            None if pace is None else pace.seconds / at_once,
            _price(spec, pace, basis),
            tuple(basis),
        )

    def measured(self, tiles: int, cost: float | None) -> Part:
        """Return it with what `tiles` of this run have cost, each; the time is not its own to say.

        See `TimeLeft`.
        """
        basis = (f"by {tiles:,} tiles of {self.label} in this run",)
        return replace(self, seconds=None, cost=self.cost if cost is None else cost, basis=basis)


def add_up(parts: Sequence[Part], extra: float | None = None) -> Estimate:
    """Return all parts as one; what is not known of one is said.

    Parameters
    ----------
    parts : sequence of Part
    extra : float, optional
        Cost besides the tiles: of moderation and synthesis.
    """
    known = [part for part in parts if part.tiles]
    basis = [line for part in known for line in part.basis]
    basis += [
        f"{part.label} is not counted: how many tiles need it is not known yet"
        for part in parts
        if part.tiles is None
    ]
    timed = all(part.seconds is not None for part in known)
    if not timed and any(part.seconds is not None for part in known):
        slow = ", ".join(part.label for part in known if part.seconds is None)
        basis.append(f"the time of {slow} is not known")
    costs = [part.tiles * part.cost for part in known if part.tiles and part.cost is not None]
    costs += [extra] if extra is not None else []
    return Estimate(
        tiles=round(sum(part.tiles or 0 for part in parts)),
        seconds=sum((part.tiles or 0) * (part.seconds or 0) for part in known) if timed else None,
        cost=sum(costs) if costs else None,
        basis="; ".join(dict.fromkeys(basis)) or "nothing has run yet",
    )


def slots(settings: Settings, spec: ModelSpec) -> int:
    """Return how many tiles are at work at once, as far as can be told before the run."""
    if spec.hosted:
        quota = settings.quota.concurrency if settings.quota is not None else None
        given = [n for n in (quota, settings.concurrency) if n is not None]
        return min(given) if given else HOSTED_CAP
    threads = settings.workers or processes(spec) or os.cpu_count() or 1
    return min(threads, settings.concurrency or threads)


def earlier_paces(
    folder: str | os.PathLike[str] | None, fingerprints: Collection[str]
) -> dict[str, Pace]:
    """Return by fingerprint what models took in earlier runs, from their journals."""
    if folder is None:
        return {}
    seconds: dict[str, list[float]] = defaultdict(list)
    tokens: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for _, marks, path in islice(_journals(folder, fingerprints), JOURNALS):
        for event in islice(_done(path), TILES):
            mark = marks.get(event.model, "")
            if mark in fingerprints:
                seconds[mark].append((event.read_seconds or 0.0) + (event.infer_seconds or 0.0))
                tokens[mark].append((event.input_tokens, event.output_tokens))
    return {
        mark: Pace(
            len(values),
            median(values),
            fmean(read for read, _ in tokens[mark]),
            fmean(written for _, written in tokens[mark]),
        )
        for mark, values in seconds.items()
    }


def has_run(
    folder: str | os.PathLike[str] | None, image: str, fingerprints: Collection[str]
) -> bool:
    """Return True if one of these models has been over an image of this name, by the journals."""
    if folder is None:
        return False
    latest = islice(_journals(folder, fingerprints), JOURNALS_FOR_ONE)
    return any(manifest.get("image") == image for manifest, _, _ in latest)


def _journals(
    folder: str | os.PathLike[str], fingerprints: Collection[str]
) -> Iterator[tuple[Mapping[str, Any], dict[str, str], Path]]:
    """Yield runs with one of these models, the latest first.

    Of each the manifest, the fingerprints of its models by name, and the journal.
    """
    pattern = journal_path(folder, "*")
    for path in sorted(pattern.parent.glob(pattern.name), reverse=True):
        try:
            manifest = read_manifest(path)
            marks = {str(one["name"]): one["fingerprint"] for one in manifest["models"]}
            wanted = any(mark in fingerprints for mark in marks.values())
        except (RunError, KeyError, TypeError):  # of an earlier version, or no journal at all
            continue
        if wanted:
            yield manifest, marks, path


def _done(path: Path) -> Iterator[TileChanged]:
    with path.open("rb") as file:
        for line in file:
            if b'"status":"done"' not in line[:60]:
                continue
            try:
                event = from_line(line)
            except ValueError:
                continue
            if isinstance(event, TileChanged):
                yield event


def _price(spec: ModelSpec, pace: Pace | None, basis: list[str]) -> float | None:
    """Return what a tile costs, and say in `basis` what that rests on."""
    price = spec.price
    if price is None:
        return None
    calls = price.call / (spec.batch_size if spec.hosted else 1)
    if pace is not None:
        return calls + (price.input * pace.input_tokens + price.output * pace.output_tokens) / 1e6
    if price.input or price.output:
        basis.append("cost by the price per call alone: how many tokens a tile takes is not known")
    else:
        basis.append("cost by the price per call")
    return calls


def duration(seconds: float) -> str:
    """Return seconds in the unit that people would use."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{max(seconds, 0.1):.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Flow:
    """A listener that knows since when a run is going, and how many tiles it looks at at once.

    Written on the run's thread; any other may read.

    Attributes
    ----------
    since : float
        When the run as a whole changed last: was started, paused, resumed.
    at_once : int
        The most tiles that were looked at at once since then.
    """

    def __init__(self) -> None:
        self.since = 0.0
        self.at_once = 0
        self._running: set[Tile] = set()

    def __call__(self, event: Event) -> None:
        """Take notice of one event."""
        if isinstance(event, RunChanged):
            self.since, self.at_once = event.time, 0
        elif isinstance(event, TileChanged):
            if event.status == TileStatus.RUNNING:
                self._running.add(event.tile)
                self.at_once = max(self.at_once, len(self._running))
            else:
                self._running.discard(event.tile)


class Spending:
    """Counts every attempt, those that failed included; what is restored costs nothing.

    Written by the run's thread only; others may read.
    """

    def __init__(self) -> None:
        self._costs: dict[str, float] = {}
        self._tiles: dict[Tile, float] = {}
        self._used: dict[str, tuple[int, Usage]] = {}
        self._tokens: dict[tuple[str, Tile], Usage] = {}

    def charge(self, spec: ModelSpec, label: str, usage: Usage, tile: Tile | None = None) -> None:
        """Add what one attempt of a model used, for `tile` where it was for one."""
        attempts, total = self._used.get(label, (0, Usage()))
        self._used[label] = attempts + 1, total + usage
        if tile is not None and (usage.input_tokens or usage.output_tokens):
            self._tokens[label, tile] = self.tokens(label, tile) + usage
        if spec.price is not None:
            cost = spec.price.of(usage)
            self._costs[label] = self._costs.get(label, 0.0) + cost
            if tile is not None:
                self._tiles[tile] = self._tiles.get(tile, 0.0) + cost

    @property
    def costs(self) -> Mapping[str, float]:
        """Cost by model, for the models with a price that were asked."""
        return dict(self._costs)

    @property
    def total(self) -> float:
        """Cost of all attempts."""
        return sum(self._costs.values())

    @property
    def uncounted(self) -> int:
        """Requests to models with a price whose tokens nobody counted: they cost at most that."""
        return sum(self._used[label][1].uncounted for label in self._costs)

    def of(self, tile: Tile) -> float | None:
        """Return what a tile has cost so far; None where it was never charged."""
        return self._tiles.get(tile)

    def tokens(self, label: str, tile: Tile) -> Usage:
        """Return what a model used for a tile so far; nothing where it counts no tokens."""
        return self._tokens.get((label, tile), _NOTHING)

    def used(self, label: str) -> tuple[int, Usage]:
        """Return how many attempts a model was charged for, and what they used together."""
        return self._used.get(label, (0, Usage()))


class Budgeted:
    """A scheduler that stays within a budget.

    A tile is sent only while what was spent, and at the mean cost of an attempt so far the tiles
    in flight and this one, come to no more than the budget. So the run can pass it only by as
    much as the tiles in flight cost more than the mean. Until something came back, the mean is
    the price per call; of a model that is priced by the token one tile goes first, alone.

    Parameters
    ----------
    scheduler : Scheduler
    budget : float
    spending : Spending
        Of the whole run.
    spec : ModelSpec
    label : str
        The model's in `spending`.
    """

    def __init__(
        self, scheduler: Scheduler, budget: float, spending: Spending, spec: ModelSpec, label: str
    ) -> None:
        self._scheduler = scheduler
        self._budget = budget
        self._spending = spending
        self._spec = spec
        self._label = label

    def advance(self, happenings: Sequence[Happening], now: float) -> list[Action]:
        """Advance the scheduler with what the budget allows by now."""
        return self._scheduler.advance([*happenings, self._allowed()], now)

    def wake_at(self, now: float) -> float | None:
        """Return when the scheduler wants to be woken."""
        return self._scheduler.wake_at(now)

    def _allowed(self) -> Allowed:
        price = self._spec.price
        if price is None:
            return Allowed(None)
        left = self._budget - self._spending.total
        attempts, used = self._spending.used(self._label)
        mean = price.of(used) / attempts if attempts else price.call
        most = math.floor(left / mean + 1e-9) if mean else None
        if not attempts and (price.input or price.output):
            most = 1 if left > 0 and left >= mean else 0
        return Allowed(
            most,
            f"The budget of {self._budget:g} covers no further tile: {self._spending.total:.4g} "
            f"is spent, and {self._label} costs about {mean:.2g} a tile.",
        )


@dataclass(frozen=True, slots=True, eq=False)
class TimeLeft:
    """When a run will end: foretold where that holds within a factor of 1.5, and nowhere else.

    Times are seconds since the epoch.

    Parameters
    ----------
    done : array (n,)
        When tiles became done since the run was started or resumed, in order; of several models
        those of the last one, once it has any.
    begun : array (m,)
        When each of the tiles under way was begun.
    n_open : int
        Tiles that may still change.
    n_waiting : int
        Those of them that wait to be tried again.
    at_once : int
        The most tiles that were looked at at once since the run was started or resumed.
    more_to_come : bool
        Whether a model has tiles to look at that another has first.
    """

    done: NDArray[np.float64]
    begun: NDArray[np.float64]
    n_open: int
    n_waiting: int
    at_once: int
    more_to_come: bool

    @classmethod
    def of(
        cls, rows: Iterable[TileChanged], label: str, since: float, at_once: int, *, more: bool
    ) -> TimeLeft:
        """Return what the latest events of all tiles say.

        Parameters
        ----------
        rows : iterable of TileChanged
        label : str
            The model that is at work.
        since : float
            When the run was started or resumed.
        at_once : int
        more : bool
            Whether another model's tiles follow.
        """
        kept = list(rows)
        own = [
            row.time
            for row in kept
            if row.status == TileStatus.DONE and row.time > since and row.model == label
        ]
        again = (TileStatus.RETRYING, TileStatus.THROTTLED)
        return cls(
            np.sort(np.array(own, dtype=np.float64)),
            np.array([row.time for row in kept if row.status == TileStatus.RUNNING]),
            sum(TileStatus(row.status).open for row in kept),
            sum(row.status in again for row in kept),
            at_once,
            more,
        )

    def rate(self, now: float) -> float | None:
        """Return the tiles per second that become done; None until that can be known.

        Over the latest half of the tiles done, at least `RATE_TILES` of them; not over those
        that came first, as many as are looked at at once: they waited for the cluster and for
        models, and then ended together.
        """
        done = self.done
        n = len(done)
        if n < 2:
            return None
        ahead = self.at_once if n > self.at_once else 1
        first = done[max(ahead - 1, n - max(RATE_TILES, n // 2) - 1, 0)]
        counted = int((done > first).sum())
        span = max(now, done[-1]) - first
        return counted / span if counted and span > 0 else None

    def seconds(self, now: float) -> float | None:
        """Return the seconds until all tiles have ended; None where that cannot be told."""
        rate = self.rate(now)
        if not rate or self.doubt(now):
            return None
        if self.at_once > 1:  # as some are half done, others wait for the last one at the end
            return self.n_open / rate
        under_way = float(((now - self.begun) * rate).clip(0, 1).sum())
        return max(self.n_open - under_way, 0.1) / rate

    def doubt(self, now: float) -> str:
        """Return why nothing can be told, in words; empty where something can."""
        if self.more_to_come:  # nobody knows yet which tiles it will have to look at
            return "a further model follows"
        n_done = len(self.done)
        enough = min(max(ENOUGH_SHARE * (n_done + self.n_open), ENOUGH_LEAST), ENOUGH_TILES)
        if not self.rate(now) or n_done < max(enough, FIRST_WAVES * self.at_once):
            return "too few tiles are timed"
        if self.n_waiting > MOST_WAITING * self.n_open:
            return "many tiles wait to be tried again"
        if self.at_once > 1 and self.n_open <= LAST_WAVES * self.at_once:
            return "the last tiles are under way"
        return ""
