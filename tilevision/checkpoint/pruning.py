"""Removes the journals of old runs; their records are pruned by `Checkpoint.prune`."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from tilevision.checkpoint.database import explained
from tilevision.checkpoint.folder import absolute
from tilevision.checkpoint.lease import lease_folder
from tilevision.checkpoint.lock import RunLock
from tilevision.errors import RunError

__all__ = ["prune_runs"]


def prune_runs(
    folder: str | os.PathLike[str], before: float, keep: Collection[str] = ()
) -> list[str]:
    """Remove the journals last written before `before`, except of runs that are at work.

    Parameters
    ----------
    folder : path
        The checkpoint folder.
    before : float
        Seconds since the epoch.
    keep : collection of str
        Ids of runs that stay, however old.

    Returns
    -------
    list of str
        Ids of the runs that were removed.
    """
    root = absolute(folder)
    removed = []
    with explained(root):
        for journal in sorted((root / "runs").glob("*.jsonl")):
            if journal.stem in keep or _changed(journal) >= before:
                continue
            try:
                with RunLock(root, journal.stem) as lock:
                    journal.unlink()
                    lock.remove()
            except RunError:  # at work, or no journal of ours
                continue
            removed.append(journal.stem)
    return removed


def _changed(journal: Path) -> float:
    """Return when a run was last written about; on a share its later owners have files as well."""
    more = lease_folder(journal.parent, journal.stem).glob("*.jsonl")
    return max(path.stat().st_mtime for path in (journal, *more))
