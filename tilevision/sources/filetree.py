"""Images made of several files: telling cheaply that one of the files may have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from tilevision.errors import SourceError

__all__ = ["FileWatch", "Tree", "tree_of"]

# Number, bytes and latest change (ns) of the files.
Tree = tuple[int, int, int]

# Of the time since the last look, what a look may take: a store of a million chunks is
# not listed anew for every tile.
_SHARE = 0.05


def tree_of(path: str, files: Sequence[Path]) -> Tree:
    """Return what tells cheaply that one of `files`, of the image `path`, may have changed.

    Raises
    ------
    SourceError
        If one of them is gone.
    """
    try:
        found = [file.stat() for file in files]
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read with its files: {error.strerror}; put them back."
        ) from error
    latest = max((one.st_mtime_ns for one in found), default=0)
    return len(found), sum(one.st_size for one in found), latest


class FileWatch:
    """Looks whether the files of an open image are still those it was opened from.

    A look that takes long is not taken again at once: at most a twentieth of the time goes
    into looking, so a change in a store of very many files is noticed some seconds late.

    Parameters
    ----------
    path : str
    files : callable
        Lists the image's files as they are now.
    tree : tuple of int
        Of the files when the image was opened.
    """

    def __init__(self, path: str, files: Callable[[], Sequence[Path]], tree: Tree) -> None:
        self._path = path
        self._files = files
        self._tree = tree
        self._next = 0.0
        self._unchanged = True

    def unchanged(self) -> bool:
        """Return True if the files are the same, as far as the last look tells."""
        began = perf_counter()
        if self._unchanged and began >= self._next:
            try:
                self._unchanged = tree_of(self._path, self._files()) == self._tree
            except SourceError:
                self._unchanged = False
            ended = perf_counter()
            self._next = ended + (ended - began) / _SHARE
        return self._unchanged
