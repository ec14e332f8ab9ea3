"""A run on hosts that share nothing but the image, in which everything that can go goes.

Run, as root on Linux with ``ip``, ``unshare`` and ``nsenter``: ``python benchmarks/hosts.py``. Each
host is a network namespace with an address, a name, a ``/tmp`` and a home of its own; beside the
installed programs they have one folder in common, which holds the image and can only be read. A
scheduler, two workers and a client run on four of them. It asserts its rules and prints its
figures. Not part of CI; it says what is missing where it cannot run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numbered  # lives beside the tests, which share it

ROWS, COLS = 10, 20
SECONDS = 0.1
PATIENCE = 90.0
DATA = "/mnt"  # where each host sees the image
SCRIPT = f"""
import json, sys, time
import numbered
import tilevision as tv
from distributed import Client


def look(pixels):
    number = numbered.number_of(pixels)
    numbered.note("/tmp/calls", number)
    time.sleep({SECONDS})
    return [{{"box": (2, 2, 6, 9), "score": 0.5, "label": str(number)}}]


if __name__ == "__main__":
    with Client(sys.argv[1], timeout=60) as client:
        grid = tv.Grid({ROWS}, {COLS}, overlap=0.0)
        run = tv.start("{DATA}/numbered.tif", look, grid=grid, client=client, checkpoint="/tmp/ck")
        run.subscribe(lambda event: print(
            json.dumps(["done", event.tile.row * {COLS} + event.tile.col]), flush=True
        ) if getattr(event, "status", "") == "done" and hasattr(event, "tile") else None)
        run.subscribe(lambda event: print(
            json.dumps(["said", event.message]), flush=True
        ) if getattr(event, "stage", "") == "waiting" else None)
        try:
            result = run.result()
        except tv.TilevisionError as error:
            print(json.dumps(["error", str(error)]), flush=True)
            raise SystemExit(1) from None
        found = sorted(int(name) for name in result.to_dataframe()["label"])
        told = {{"status": result.status, "found": found, "restored": result.facts.restored}}
        print(json.dumps(["result", told]), flush=True)
"""


def missing() -> str:
    """Return what the drill lacks here; empty if nothing."""
    lack = [name for name in ("ip", "unshare", "nsenter", "mount") if shutil.which(name) is None]
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "root on Linux"
    tried = subprocess.run(["unshare", "-mun", "true"], capture_output=True, text=True, check=False)
    return ", ".join(lack) or tried.stderr.strip()


def sh(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Host:
    """A machine of its own, as far as processes on it can see.

    Parameters
    ----------
    name : str
    number : int
        Its address is 10.77.0.(10 + number).
    shared : Path, optional
        The folder that holds the image; None: this host does not have it.
    """

    def __init__(self, name: str, number: int, shared: Path | None) -> None:
        self.name, self.address = name, f"10.77.0.{10 + number}"
        self._inside, self._link = f"tv-drill-{name}", f"tvd{number}"
        sh("ip", "netns", "add", self._inside)
        sh("ip", "link", "add", self._link, "type", "veth", "peer", "eth0", "netns", self._inside)
        sh("ip", "link", "set", self._link, "master", "tvdrill", "up")
        for device in ("lo", "eth0"):
            sh("ip", "-n", self._inside, "link", "set", device, "up")
        sh("ip", "-n", self._inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        view = f"mount --bind -o ro {shared} {DATA}" if shared else f"mount -t tmpfs none {DATA}"
        script = (
            f"hostname {name} && {view} && mount -t tmpfs none /dev/shm && "
            "mount -t tmpfs none /tmp && mkdir /tmp/home && echo up && exec sleep infinity"
        )
        words = ["ip", "netns", "exec", self._inside, "unshare", "-mu", "sh", "-c", script]
        self._holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None and self._holder.stdout.readline() == "up\n"

    def start(self, *command: str, log: Path | None = None) -> subprocess.Popen[str]:
        """Start a process on this host; it writes to a log outside, or to a pipe."""
        words = ["nsenter", "-t", str(self._holder.pid), "-m", "-u", "-n", *command]
        environment = {name: os.environ[name] for name in ("PATH",)}
        environment |= {
            "HOME": "/tmp/home",
            "PYTHONPATH": numbered.PATH,
            "PYTHONWARNINGS": "ignore",
        }
        with (log or Path(os.devnull)).open("ab") as errors:
            return subprocess.Popen(
                words,
                stdout=subprocess.PIPE if log is None else errors,
                stderr=errors,
                env=environment,
                cwd="/",
                text=True,
            )

    def calls(self) -> list[int]:
        """Return the numbers of the tiles that models on this host have begun."""
        process = self.start("cat", "/tmp/calls")
        return [int(line) for line in process.communicate()[0].split()]

    def cut(self, seconds: float) -> None:
        """Pull the plug of its network for a while."""
        sh("ip", "link", "set", self._link, "down")
        time.sleep(seconds)
        sh("ip", "link", "set", self._link, "up")

    def kill(self) -> None:
        """Kill what runs here."""
        for pid in sh("ip", "netns", "pids", self._inside).split():
            if int(pid) != self._holder.pid:
                os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        """End what runs here, and forget the host."""
        self.kill()
        self._holder.kill()
        self._holder.wait()
        sh("ip", "netns", "del", self._inside)


class Site:
    """Four hosts with a Dask cluster on three of them.

    Parameters
    ----------
    folder : Path
        For the image, and for logs outside the hosts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._image = folder / "image"
        self._image.mkdir()
        numbered.write_numbered(self._image / "numbered.tif", ROWS, COLS)
        sh("ip", "link", "add", "tvdrill", "type", "bridge")
        sh("ip", "link", "set", "tvdrill", "up")
        self.hosts: dict[str, Host] = {}
        self.processes: dict[str, subprocess.Popen[str]] = {}
        for name in ("boss", "one", "two", "desk"):
            self.add(name)
        self.write_script()
        self.schedule()
        for name in ("one", "two"):
            self.work(name)

    def add(self, name: str, *, image: bool = True) -> None:
        shared = self._image if image else None
        self.hosts[name] = Host(name, len(self.hosts), shared)

    def write_script(self) -> None:
        process = self.hosts["desk"].start(
            sys.executable, "-c", f"open('/tmp/analyze.py', 'w').write({SCRIPT!r})"
        )
        assert process.wait() == 0

    @property
    def scheduler(self) -> str:
        return f"tcp://{self.hosts['boss'].address}:8786"

    def schedule(self) -> None:
        words = ["scheduler", "--host", self.hosts["boss"].address, "--no-dashboard"]
        self._dask("boss", *words)

    def work(self, name: str) -> None:
        host = self.hosts[name]
        words = ["--host", host.address, "--nthreads", "1", "--no-dashboard"]
        self._dask(name, "worker", self.scheduler, *words, "--local-directory", "/tmp")

    def _dask(self, name: str, *words: str) -> None:
        log = self.folder / f"{name}.log"
        command = [sys.executable, "-m", "dask", *words]
        self.processes[name] = self.hosts[name].start(*command, log=log)

    def kill(self, name: str) -> None:
        """Kill every process that a host has, but not the host."""
        self.hosts[name].kill()
        self.processes.pop(name).wait()

    def analyze(self) -> Client:
        return Client(self.hosts["desk"], self.scheduler, self.folder / "desk.log")

    def calls(self) -> Counter[int]:
        """Return how often each tile was begun, on all hosts together."""
        return Counter(number for host in self.hosts.values() for number in host.calls())

    def close(self) -> None:
        for host in self.hosts.values():
            host.close()
        sh("ip", "link", "del", "tvdrill")


class Client:
    """The script that analyses the image, as its lines come."""

    def __init__(self, host: Host, scheduler: str, log: Path) -> None:
        self.began = time.monotonic()
        self.process = host.start(sys.executable, "/tmp/analyze.py", scheduler)
        self.lines: list[tuple[str, Any]] = []
        self._log = log

    def until(self, met: Callable[[], bool]) -> None:
        """Read on until a condition is met, or it ends."""
        assert self.process.stdout is not None
        while not met() and (line := self.process.stdout.readline()):
            what, value = json.loads(line)
            self.lines.append((what, value))

    def told(self, what: str) -> list[Any]:
        return [value for kind, value in self.lines if kind == what]

    def done(self, count: int) -> None:
        self.until(lambda: len(self.told("done")) >= count)

    def end(self) -> dict[str, Any]:
        """Wait for the result, which must be whole."""
        self.until(lambda: False)
        self.process.wait()
        (result,) = self.told("result")
        assert result["status"] == "complete"
        assert result["found"] == list(range(ROWS * COLS))
        return {"seconds": round(time.monotonic() - self.began, 1), "restored": result["restored"]}


# Drills -----------------------------------------------------------------------------------------


def client_killed(site: Site) -> dict[str, Any]:
    """Kill the client; the same line, run there again, computes nothing that was acknowledged."""
    first = site.analyze()
    first.done(70)
    first.process.kill()
    acknowledged = set(first.told("done"))
    time.sleep(2.0)  # what the workers had begun ends
    before = site.calls()
    again = site.analyze()
    figures = again.end()
    twice = {number for number, n in (site.calls() - before).items() if n} & acknowledged
    assert not twice, twice
    assert figures["restored"] >= len(acknowledged)
    return figures | {"acknowledged when killed": len(acknowledged), "of them begun again": 0}


def worker_killed(site: Site) -> dict[str, Any]:
    """Kill all that a worker's host runs; the other host does the rest."""
    run = site.analyze()
    run.done(50)
    site.kill("one")
    figures = run.end()
    twice = sum(n > 1 for n in site.calls().values())
    return figures | {"tiles begun twice": twice}


def cable_pulled(site: Site) -> dict[str, Any]:
    """Cut a worker's host off for eight seconds: nothing is lost, and nothing computed twice."""
    run = site.analyze()
    run.done(50)
    site.hosts["two"].cut(8.0)
    figures = run.end()
    twice = sum(n > 1 for n in site.calls().values())
    return figures | {"tiles begun twice": twice}


def scheduler_killed(site: Site) -> dict[str, Any]:
    """Kill the scheduler: the run ends with the line that resumes it, and that line finishes it."""
    run = site.analyze()
    run.done(50)
    acknowledged = len(run.told("done"))
    site.kill("boss")
    run.until(lambda: False)
    assert run.process.wait() == 1
    (error,) = run.told("error")
    assert "tv.resume(" in error, error
    for name in ("one", "two"):
        site.kill(name)
    site.schedule()
    for name in ("one", "two"):
        site.work(name)
    figures = site.analyze().end()
    assert figures["restored"] >= acknowledged
    return figures | {"said": error}


def host_without_image(site: Site) -> dict[str, Any]:
    """Have a third worker on a host that does not have the image: it is left out, by name."""
    site.add("bare", image=False)
    site.work("bare")
    address = site.hosts["bare"].address
    until = time.monotonic() + PATIENCE
    while f"{address}:" not in (site.folder / "boss.log").read_text():
        assert time.monotonic() < until, "the third worker does not come"
        time.sleep(0.2)
    run = site.analyze()
    figures = run.end()
    (line,) = (line for line in run.told("said") if "left out" in line)
    assert address in line
    assert not site.hosts["bare"].calls()
    return figures | {"said": line}


DRILLS = (client_killed, worker_killed, cable_pulled, scheduler_killed, host_without_image)


def main() -> None:
    """Carry out the drills."""
    if lack := missing():
        raise SystemExit(f"Skipped: this needs {lack}.")
    with tempfile.TemporaryDirectory(prefix="hosts-drill-") as name:
        for number, drill in enumerate(DRILLS):
            folder = Path(name) / str(number)
            folder.mkdir()
            site = Site(folder)
            try:
                print(drill.__name__, drill(site), flush=True)
            except BaseException:
                for log in sorted(folder.glob("*.log")):
                    print(log.name, log.read_text()[-2000:], file=sys.stderr)
                raise
            finally:
                site.close()


if __name__ == "__main__":
    main()
