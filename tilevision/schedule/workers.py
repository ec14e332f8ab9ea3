"""The workers that are there, and those that are being restarted."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Workers"]

RESTART_SECONDS = 60.0  # by then a restarted worker is back, be it at the same address


class Workers:
    """Workers as last told; until then, one of one thread is taken for granted.

    Attributes
    ----------
    threads : int
        Of all workers.
    addresses : list of str
        In a fixed order; ``[""]`` before anything was told.
    """

    def __init__(self) -> None:
        self.threads = 1
        self.addresses = [""]
        self._restarting: dict[str, float] = {}
        self._restarted: dict[str, float] = {}

    def changed(self, workers: Mapping[str, int]) -> bool:
        """Take over what is there now; say whether any worker came or went."""
        gone = set(self.addresses) - workers.keys()
        new = workers.keys() - set(self.addresses)
        self.addresses = sorted(workers)
        self.threads = sum(max(1, n) for n in workers.values())
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
