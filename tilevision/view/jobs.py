"""Work that must not keep the notebook's own thread waiting."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from tilevision.errors import TilevisionError

__all__ = ["JobQueue"]

_log = logging.getLogger("tilevision.view")


class JobQueue:
    """Runs jobs one after the other, on a thread that exists only while there are jobs.

    Only the latest job of each kind waits: a slider that was moved ten times needs one answer.

    Parameters
    ----------
    name : str
        Name of the thread.
    on_error : callable
        ``on_error(line)``, called on that thread when a job raised an error.
    """

    def __init__(self, name: str, on_error: Callable[[str], None]) -> None:
        self._name = name
        self._on_error = on_error
        self._jobs: OrderedDict[str, tuple[Callable[[], None], Callable[[str], None]]]
        self._jobs = OrderedDict()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._open = True

    def put(
        self, kind: str, job: Callable[[], None], on_error: Callable[[str], None] | None = None
    ) -> None:
        """Queue `job`; it replaces a waiting job of the same kind. May be called on any thread.

        What it raises goes to `on_error`, where that is given: an answer belongs where one asked.
        """
        with self._lock:
            if not self._open:
                return
            self._jobs[kind] = (job, on_error or self._on_error)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def awaits(self, kind: str) -> bool:
        """Return True if a job of this kind waits for its turn."""
        with self._lock:
            return kind in self._jobs

    def close(self) -> None:
        """Accept no more jobs, drop those that wait, and wait for the one that is running."""
        with self._lock:
            self._open = False
            self._jobs.clear()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=10)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread = None
                    return
                _, (job, on_error) = self._jobs.popitem(last=False)
            try:
                job()
            except TilevisionError as error:
                on_error(str(error))
            except Exception as error:  # noqa: BLE001 - a thread's error would be lost otherwise
                _log.exception("a job of the panel failed")
                on_error(f"{type(error).__name__}: {error}")
