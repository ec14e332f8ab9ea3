"""The workers that are there, and those that are being restarted."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Workers"]

RESTART_SECONDS = 60.0  # by then a restarted worker is back, be it at the same address


class Workers:
    """Workers as last told; until then, one of one thread is taken for granted."""

    def __init__(self) -> None:
        self._threads: Mapping[str, int] = {"": 1}
        self._restarting: dict[str, float] = {}
        self._restarted: dict[str, float] = {}

    @property
    def threads(self) -> int:
        """Threads of all workers."""
        return sum(self._threads.values())

    @property
    def addresses(self) -> list[str]:
        """Addresses in a fixed order; ``[""]`` before anything was told."""
        return sorted(self._threads)

    def changed(self, workers: Mapping[str, int]) -> bool:
        """Take over what is there now; say whether any worker came or went."""
        gone = self._threads.keys() - workers.keys()
        new = workers.keys() - self._threads.keys()
        self._threads = {address: max(1, n) for address, n in workers.items()}
        for address in gone:
            self._restarting.pop(address, None)
        if gone:
            self._restarting.pop("", None)
        for address in new:
            self._restarted.pop(address, None)
        return bool(gone or new)

    def restart(self, address: str, now: float) -> None:
        """Note that a worker is about to be restarted; "" where it is not known which."""
        self._restarting[address] = self._restarted[address] = now + RESTART_SECONDS

    def restarted(self, address: str, now: float) -> bool:
        """Whether tasks lost on this worker are our own doing."""
        return self._restarted.get(address, 0.0) > now

    def restarting(self, address: str) -> bool:
        """Whether a worker that is still listed is about to go."""
        return address in self._restarting

    def restarts_until(self, now: float) -> float | None:
        """When the last restart that may still be going on is over for sure."""
        self._restarting = {a: until for a, until in self._restarting.items() if until > now}
        return max(self._restarting.values(), default=None)
