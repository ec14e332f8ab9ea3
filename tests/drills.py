"""Drills: whole runs in which something is killed, counted from outside.

Each takes its size, asserts the rules, and returns figures for `benchmarks/durability.py`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import numbered
from model_server import ModelServer, troubles
from shares import as_share

import tilevision as tv
from tilevision.events import TileChanged, read_journal

MODEL = """
import time
from pathlib import Path
import numbered

CALLS = Path(__file__).with_name("calls")
SECONDS = {seconds}


def look(pixels):
    number = numbered.number_of(pixels)
    numbered.note(CALLS, number)
    time.sleep(SECONDS)
    return [{{"box": (2, 2, 6 + number % 7, 9), "score": (number % 97) / 97, "label": "cell"}}]
"""

SCRIPT = """
import sys
import tilevision as tv
from noting import look

rows, cols, window = map(int, sys.argv[3:])
tv.analyze(
    "numbered.tif",
    look,
    grid=tv.Grid(rows=rows, cols=cols, overlap=0.0),
    workers=2,
    concurrency=window,
    checkpoint=sys.argv[1],
    progress=False,
).save(sys.argv[2])
"""


class KillDrill:
    """A script that is killed at random moments and run again, until it has finished.

    Parameters
    ----------
    folder : Path
        Empty.
    rows, cols : int
    window : int
        Tiles in flight at once.
    seconds : float
        That the model takes for a tile.
    """

    def __init__(self, folder: Path, rows: int, cols: int, window: int, seconds: float) -> None:
        self.folder = folder
        self.sizes = [str(number) for number in (rows, cols, window)]
        self.cols, self.tiles, self.window = cols, rows * cols, window
        self.calls = folder / "calls"
        numbered.write_numbered(folder / "numbered.tif", rows, cols)
        (folder / "noting.py").write_text(MODEL.format(seconds=seconds))
        (folder / "script.py").write_text(SCRIPT)
        self.grid = numbered.grid(rows, cols)

    def start(self, checkpoint: str, out: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        """Start the script; its processes carry the mark of the environment returned."""
        environment = numbered.new_mark()
        environment["PYTHONPATH"] = numbered.PATH
        process = subprocess.Popen(
            [sys.executable, "script.py", checkpoint, out, *self.sizes],
            cwd=self.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        return process, environment

    def finish(self, checkpoint: str, out: str) -> float:
        """Run the script to its end; return the seconds it took."""
        began = time.monotonic()
        process, environment = self.start(checkpoint, out)
        _, complaints = process.communicate(timeout=600)
        assert process.returncode == 0 and not complaints, complaints
        numbered.wait_until(lambda: not numbered.marked(environment), "its processes are gone")
        return time.monotonic() - began

    def kill(self, calls: int, delay: float) -> None:
        """Start the script, and kill it `delay` seconds after the model's `calls`-th call."""
        process, environment = self.start("kept", "out.json")
        numbered.wait_until(
            lambda: process.poll() is not None or len(numbered.noted(self.calls)) >= calls,
            "the moment to kill",
        )
        time.sleep(delay)
        process.kill()
        process.communicate()
        numbered.wait_until(lambda: not numbered.marked(environment), "no process is left over")

    def stored(self) -> set[int]:
        """Return the numbers of the tiles that the checkpoint has."""
        sys.path.insert(0, str(self.folder))
        try:
            sys.modules.pop("noting", None)
            from noting import look

            plan = tv.plan(
                self.folder / "numbered.tif",
                look,
                grid=self.grid,
                checkpoint=self.folder / "kept",
            )
        finally:
            sys.path.remove(str(self.folder))
        return {tile.row * self.cols + tile.col for tile in plan.restored}

    def told(self) -> set[int]:
        """Return the numbers of the tiles that some journal tells of as done."""
        return {
            event.tile.row * self.cols + event.tile.col
            for path in (self.folder / "kept" / "runs").glob("*.jsonl")
            for event in _events(path)
            if isinstance(event, TileChanged) and event.status == "done"
        }


def _events(path: Path) -> list[Any]:
    try:
        return read_journal(path)[1]
    except tv.RunError:  # killed before its first line was whole
        return []


def kill_drill(
    folder: Path,
    *,
    rows: int,
    cols: int,
    kills: int,
    window: int,
    seconds: float,
    seed: int,
    shared: bool = False,
) -> dict[str, Any]:
    """Kill -9 a run at random moments: nothing acknowledged is lost or run again.

    With `shared`, its checkpoint is made of segments, as on a network file system.
    """
    drill, random = KillDrill(folder, rows, cols, window, seconds), Random(seed)
    if shared:
        as_share(folder / "kept")
    moments = sorted(random.randrange(drill.tiles) for _ in range(kills))
    acknowledged: set[int] = set()
    seen, worst, lost, again = 0, 0, 0, 0
    for moment in moments:
        drill.kill(max(moment, seen), random.uniform(0, 0.3))
        calls, stored = numbered.noted(drill.calls), drill.stored()
        lost += len((acknowledged | drill.told()) - stored)
        again += len(acknowledged.intersection(calls[seen:]))
        repeated = len(set(calls[seen:]) - stored)
        assert len(calls[seen:]) <= len(set(calls[seen:])), "a tile ran twice in one run"
        worst, seen, acknowledged = max(worst, repeated), len(calls), stored
    drill.finish("kept", "out.json")
    calls = numbered.noted(drill.calls)
    again += len(acknowledged.intersection(calls[seen:]))
    assert (lost, again) == (0, 0), "acknowledged tiles were lost or run again"
    assert worst <= window, f"{worst} tiles were under way at a kill; the window is {window}"
    assert set(calls) == set(range(drill.tiles))
    drill.finish("clean", "clean.json")
    saved = (folder / "out.json").read_bytes()
    assert json.loads(saved) and saved == (folder / "clean.json").read_bytes()
    return {
        "tiles": drill.tiles,
        "kills": kills,
        "acknowledged tiles lost": lost,
        "acknowledged tiles run again": again,
        "calls repeated in all": len(calls) - drill.tiles,
        "most under way at a kill": worst,
        "window": window,
        "bytes of the result, the same": len(saved),
    }


# A model behind HTTP ------------------------------------------------------------------------


class RemoteModel:
    """What a user writes around a service: the answers of HTTP as tilevision's errors."""

    name = "remote"

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        self._client: Any = None  # made on the worker; its threads share it

    def encode(self, batch: Any) -> list[dict[str, int]]:
        """Return the body of each tile's request."""
        return [{"number": numbered.number_of(pixels)} for pixels in batch]

    def request(self, payload: Any) -> list[Any]:
        """Ask about each tile."""
        return [self._ask(body) for body in payload]

    def _ask(self, body: dict[str, int]) -> Any:
        import httpx

        if self._client is None:
            self._client = httpx.Client(timeout=self.timeout, trust_env=False)
        try:
            answer = self._client.post(self.url, json=body)
        except httpx.HTTPError as error:
            raise tv.TransientError(f"{type(error).__name__}: {error}") from error
        if answer.status_code == 429:
            raise tv.Throttled("busy", retry_after=float(answer.headers["Retry-After"]))
        if answer.status_code >= 500:
            raise tv.TransientError(f"HTTP {answer.status_code}")
        try:
            return answer.json()["detections"]
        except ValueError as error:
            raise tv.TransientError(f"not JSON: {error}") from error


def http_drill(
    folder: Path,
    *,
    rows: int,
    cols: int,
    quota: int,
    seconds: float,
    timeout: float,
    retry_after: str,
    calm: float,
) -> dict[str, Any]:
    """Ask a service that is busy, fails, hangs and babbles for two thirds of the tiles.

    Its answers to the others take `calm` seconds: the longer, the more requests a slow machine has
    in flight.
    """
    tiles = rows * cols
    script = troubles(tiles * 2 // 3)
    with ModelServer(script, seconds, retry_after, calm) as server:
        began = time.monotonic()
        result = tv.analyze(
            numbered.write_numbered(folder / "numbered.tif", rows, cols),
            tv.model(RemoteModel(server.url, timeout), fingerprint="remote"),
            grid=numbered.grid(rows, cols),
            workers=2,
            quota=tv.Quota(concurrency=quota),
            retry=tv.Retry(attempts=5),
            checkpoint=folder / "kept",
            progress=False,
        )
        took = time.monotonic() - began
        seen = server.served
    assert result.complete and result.status == "complete"
    assert len(result.tile_findings) == tiles
    assert max(seen.in_flight) <= quota
    assert len(seen.in_flight) <= 1.3 * tiles
    afterwards = seen.in_flight[len(script) :]
    assert max(afterwards) == quota, "the window never came back"
    return {
        "tiles": tiles,
        "requests a tile": len(seen.in_flight) / tiles,
        "answers": dict(seen.answers),
        "quota": quota,
        "most in flight": max(seen.in_flight),
        "in flight under fire, mean": sum(seen.in_flight[: len(script)]) / len(script),
        "in flight at the end, mean": sum(afterwards[-100:]) / len(afterwards[-100:]),
        "seconds": took,
    }
