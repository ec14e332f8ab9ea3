"""A checkpoint made of segments beside one that is a database, on the same disk in one run.

    python benchmarks/shares.py [--folder DIR] [--records N] [--before DIR]

Prints what a commit of 16 records costs in either form, taking turns; then the seconds and the
memory that opening, finding and loading N records take (default 100,000). `--folder` may be on a
share: then the form it would get there is measured alone. `--before` names the source of an
earlier version, whose database takes its turn as well.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

from tilevision.checkpoint import Checkpoint

TILES = 16
COMMITS = 300


def record(number: int) -> tuple[bytes, ...]:
    """Return about 2 KB of findings as tiles have them."""
    boxes = [[n * 7 % 512, number * n % 512, n * 7 % 512 + 9, n + 12] for n in range(90)]
    return (json.dumps({"boxes": boxes, "tile": number}, separators=(",", ":")).encode(),)


def keys(count: int) -> list[str]:
    return [hashlib.sha256(b"%d" % number).hexdigest() for number in range(count)]


def make(folder: Path, form: str) -> Path:
    """Make a new folder of a form; on a share the file system decides."""
    if form == "segments":
        folder.mkdir(mode=0o700)
        meta = {"format": "tilevision checkpoint", "schema": 2, "store": "segments", "id": "1"}
        (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def commits(base: Path, forms: list[str], before: Path | None) -> None:
    """Let the forms take turns, so that what else the machine does meets all of them."""
    trees = dict.fromkeys(forms) | ({"before": before} if before else {})
    committing = {form: Committing(base / form, form, tree) for form, tree in trees.items()}
    seconds = {form: [one.commit() for _ in range(10)][:0] for form, one in committing.items()}
    for _ in range(COMMITS):
        for form, one in committing.items():
            seconds[form].append(one.commit())
    for form, one in committing.items():
        one.close()
        worst = quantiles(seconds[form], n=20)[-1]
        print(
            f"{form:9} {1000 * median(seconds[form]):7.2f} ms a commit of {TILES} records "
            f"(of {len(record(1)[0]):,} bytes), 95 % below {1000 * worst:.2f} ms"
        )
    for form in seconds.keys() - {"database"} if "database" in seconds else ():
        ratio = median(a / b for a, b in zip(seconds[form], seconds["database"], strict=True))
        print(f"{form} / database: {ratio:.2f} (median of {COMMITS} pairs)")


class Committing:
    """A process with a checkpoint, which commits when it is asked to.

    Parameters
    ----------
    folder : Path
    form : str
    tree : Path, optional
        Of another version's source; None: this one's.
    """

    def __init__(self, folder: Path, form: str, tree: Path | None) -> None:
        environment = os.environ | ({"PYTHONPATH": str(tree)} if tree else {})
        command = [sys.executable, __file__, "--commit", str(make(folder, form))]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def commit(self) -> float:
        """Return the seconds of a commit."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def committing(folder: Path) -> None:
    """Commit a batch for each line that comes."""
    with Checkpoint.open(folder) as checkpoint:
        for number, _ in enumerate(sys.stdin):
            names = keys_from(number * TILES)
            batch = {key: record(number) for key in names}
            began = time.perf_counter()
            checkpoint.commit(batch)
            print(time.perf_counter() - began, flush=True)


def keys_from(first: int) -> list[str]:
    return [hashlib.sha256(b"%d" % n).hexdigest() for n in range(first, first + TILES)]


def whole(base: Path, form: str, count: int) -> None:
    """Write many records, then open them in a process of its own."""
    folder = make(base / f"many-{form}", form)
    names = keys(count)
    with Checkpoint.open(folder) as checkpoint:
        for start in range(0, count, 1000):
            checkpoint.commit({key: record(start) for key in names[start : start + 1000]})
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    command = [sys.executable, __file__, "--open", str(folder), "--records", str(count)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"{form:9} {answer.stdout.strip()}; {size / 1e6:.0f} MB")


def resident() -> int:
    """Return the bytes of memory that this process has (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def opening(folder: Path, count: int) -> None:
    """Print what opening, finding and loading takes."""
    names = keys(count)
    before = resident()
    times = [time.perf_counter()]
    with Checkpoint.open(folder) as checkpoint:
        checkpoint.done(names[:1])
        times.append(time.perf_counter())
        grown = resident() - before
        assert len(checkpoint.done(names)) == count
        times.append(time.perf_counter())
        assert sum(1 for _ in checkpoint.load(names)) == count
        times.append(time.perf_counter())
    open_, done, load = (after - start for start, after in pairwise(times))
    print(
        f"{count:,} records: opened in {open_:.2f} s with {grown / 1e6:.0f} MB more memory, "
        f"all found in {done:.2f} s, all loaded in {load:.2f} s"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path)
    options.add_argument("--records", type=int, default=100_000)
    options.add_argument("--before", type=Path)
    options.add_argument("--open", type=Path)
    options.add_argument("--commit", type=Path)
    given = options.parse_args()
    if given.open is not None:
        opening(given.open, given.records)
        return
    if given.commit is not None:
        committing(given.commit)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        base = Path(name)
        from tilevision.checkpoint.folder import has_segments  # an earlier version has none

        forms = ["segments"] if has_segments(base / "new") else ["database", "segments"]
        print(f"load {os.getloadavg()[0]:.1f}")
        commits(base, forms, given.before)
        for form in forms:
            whole(base, form, given.records)


if __name__ == "__main__":
    main()
