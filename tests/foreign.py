"""Dask clusters that are not ours: real processes, each with surroundings of its own.

All of 127.0.0.0/8 leads here, so that every worker can be a host.
"""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import Client

PATIENCE = 200.0

# What makes Python find no tilevision, wherever it is installed.
WITHOUT_US = """
    import importlib.abc, importlib.metadata, sys
    class Hidden(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "tilevision":
                raise ModuleNotFoundError("No module named 'tilevision'", name=name)
    sys.meta_path.insert(0, Hidden())
    real = importlib.metadata.version
    def version(name):
        if name == "tilevision":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)
    importlib.metadata.version = version
"""
# What makes it take tilevision for another version.
OLDER = """
    import tilevision
    tilevision.__version__ = "0.0.9"
"""


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {PATIENCE:.0f} s until {what}"
        time.sleep(0.02)


class ForeignCluster:
    """A scheduler and workers started by hand, as on a cluster of somebody else's.

    Parameters
    ----------
    folder : Path
        For logs and what the processes leave.
    startup : str
        Python that the scheduler runs before anything else.
    """

    def __init__(self, folder: Path, startup: str = "") -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._file = folder / "scheduler.json"
        self._start(
            "scheduler",
            ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
            startup=startup,
        )
        wait_until(self._is_up, "the scheduler is up")
        self.address = json.loads(self._file.read_text())["address"]
        self.client = Client(self.address, set_as_default=False)

    def _is_up(self) -> bool:
        """Return True once the scheduler's file is there and complete."""
        return self._file.exists() and self._file.read_text().rstrip().endswith("}")

    def _start(
        self, name: str, words: list[str], *, startup: str = "", within: tuple[str, ...] = ()
    ) -> None:
        place = self.folder / name
        place.mkdir()
        (place / "sitecustomize.py").write_text(textwrap.dedent(startup))
        path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
        with (place / "log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [
                    *within,
                    sys.executable,
                    "-m",
                    "dask",
                    *words,
                    "--scheduler-file",
                    str(self._file),
                ],
                cwd=place,
                env=os.environ | {"PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def add(self, *hosts: str, **surroundings: Any) -> None:
        """Start a worker on each of `hosts` (``startup=``: Python; ``within=``: a command)."""
        for host in hosts:
            words = ["worker", "--host", host, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
            self._start(host, words, **surroundings)

    def ready(self) -> None:
        """Wait until all workers are there."""
        count = len(self.processes) - 1
        wait_until(lambda: len(self.client.nthreads()) == count, f"{count} workers are there")

    def stop(self, name: str) -> None:
        """Kill a worker's process, or the scheduler's, and wait until it is gone."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End all that is left."""
        self.client.close(timeout=2)
        for name in list(self.processes):
            self.stop(name)
