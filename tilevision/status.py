"""The statuses of tiles, runs and images, and the questions people ask of them.

The members are strings: what is stored in journals, printed in tables and shown to users is
their text, and ``row.status == "done"`` holds as it always has.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ImageStatus", "RunStatus", "TileStatus"]


class _Status(StrEnum):
    """A status that reads as its text, also inside of what is printed."""

    def __repr__(self) -> str:
        return repr(self.value)


class TileStatus(_Status):
    """What has become of one tile."""

    PENDING = "pending"
    """Not begun."""
    RUNNING = "running"
    """A worker has begun it."""
    RETRYING = "retrying"
    """An attempt failed; another one follows."""
    THROTTLED = "throttled"
    """The backend asked to wait; another attempt follows."""
    DONE = "done"
    """Analysed by this run, and its record is committed."""
    RESTORED = "restored"
    """Analysed before; its record came from the checkpoint."""
    FAILED = "failed"
    """Every attempt failed."""
    SKIPPED = "skipped"
    """Outside the region: nothing was read."""

    @property
    def analysed(self) -> bool:
        """Return True if the tile's findings are known."""
        return self in (TileStatus.DONE, TileStatus.RESTORED)

    @property
    def finished(self) -> bool:
        """Return True if nothing is missing of the tile: analysed, or not asked for."""
        return self.analysed or self is TileStatus.SKIPPED

    @property
    def ended(self) -> bool:
        """Return True if the run will not touch the tile again by itself: finished or failed."""
        return self.finished or self is TileStatus.FAILED

    @property
    def open(self) -> bool:
        """Return True if the tile has yet to end."""
        return not self.ended


class RunStatus(_Status):
    """How a run stands, or how it ended."""

    RUNNING = "running"
    PAUSED = "paused"
    """Waits for the user: by command, or over something that has to be fixed."""
    COMPLETE = "complete"
    PARTIAL = "partial"
    """Ended with failed tiles."""
    STOPPED = "stopped"
    """Ended by a limit or an error."""
    CANCELLED = "cancelled"
    BLOCKED = "blocked"
    """Refused by moderation."""
    INTERRUPTED = "interrupted"
    """Seen from elsewhere: its process has gone before its end."""

    @property
    def ended(self) -> bool:
        """Return True if the run came to an end of its own."""
        return self not in (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.INTERRUPTED)

    @property
    def over(self) -> bool:
        """Return True if nobody works on the run any more: ended or interrupted."""
        return self.ended or self is RunStatus.INTERRUPTED


class ImageStatus(_Status):
    """What has become of one image of a multi-image run."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETE = "complete"
    PARTIAL = "partial"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"
    ERROR = "error"
    """It could not be analysed at all."""
