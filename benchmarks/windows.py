"""Windows of large files beside tifffile, rasterio, pyvips and OpenSlide, on one machine.

    python benchmarks/windows.py [SIDE] [--format NAME]... [--reader NAME]... [--windows N]
    python benchmarks/windows.py [SIDE] --against COMMIT [--rounds N] [--format NAME]...

Makes one picture of SIDE × SIDE (default 24,000) in each format, in a temp folder that goes
at the end, and reads windows of 1024 × 1024 from it: N at random places, then a walk over a
grid with 20 % overlap, as a run does. Every format and reader has a process of its own.
Prints milliseconds a window (median and 95th percentile at random, processor time over all
threads, mean of the walk), seconds to the first window (importing left out, staging
included), and the most memory the process took; with each the ratio to the best. The files
are in the page cache; what is compared is decoding. Where other programs keep the processors
busy, processor time is the figure to trust. Needs the extras zarr, geo, slides and huge.

With ``--against``, tilevision at an earlier commit and in the working tree take turns on the same
files, N rounds (default 7) in processes of their own, and medians over the rounds are compared.
Exits 1 where the processor time of a window grew by more than 3 %.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIDE = 24_000
WINDOW = 1024
STEP = 820
WALKED = 64
LIMIT_SECONDS = 1200
SLOWER = 1.03
FORMATS = {
    "jpeg-tiles": ("tif", {"tile": True, "compression": "jpeg", "Q": 85}),
    "deflate-tiles": ("tif", {"tile": True, "compression": "deflate", "predictor": "horizontal"}),
    "strips": ("tif", {"compression": "deflate", "predictor": "horizontal"}),
    "png": ("png", {"compression": 3, "filter": "sub"}),
    "jpeg": ("jpg", {"Q": 85}),
}
Read = Callable[[int, int], Any]


def open_tilevision(path: str) -> Read:
    from tilevision.geometry import Box
    from tilevision.sources import open_source

    source = open_source(path)
    return lambda x, y: source.read(Box(x, y, x + WINDOW, y + WINDOW))


def open_tifffile(path: str) -> Read:
    import tifffile
    import zarr

    array: Any = zarr.open(tifffile.imread(path, aszarr=True), mode="r")
    return lambda x, y: array[y : y + WINDOW, x : x + WINDOW]


def open_rasterio(path: str) -> Read:
    import rasterio
    from rasterio.windows import Window

    dataset = rasterio.open(path)
    return lambda x, y: np.moveaxis(dataset.read(window=Window(x, y, WINDOW, WINDOW)), 0, -1)


def open_pyvips(path: str) -> Read:
    import pyvips

    image = pyvips.Image.new_from_file(path)
    return lambda x, y: image.crop(x, y, WINDOW, WINDOW).numpy()


def open_openslide(path: str) -> Read:
    import openslide

    slide = openslide.OpenSlide(path)
    return lambda x, y: np.asarray(slide.read_region((x, y), 0, (WINDOW, WINDOW)))[..., :3]


READERS = {
    "tilevision": open_tilevision,
    "tifffile": open_tifffile,
    "rasterio": open_rasterio,
    "pyvips": open_pyvips,
    "openslide": open_openslide,
}
MODULES = {
    "tilevision": (
        "tilevision.sources",
        "tilevision.sources.formats.flat",
        "tilevision.sources.formats.tiff",
    ),
    "tifffile": ("tifffile", "zarr", "imagecodecs"),
    "rasterio": ("rasterio",),
    "pyvips": ("pyvips",),
    "openslide": ("openslide",),
}


def generate(folder: Path, name: str, side: int) -> Path:
    """Write the picture row by row: blobs, fine noise, and a ramp that makes places differ."""
    import pyvips

    suffix, options = FORMATS[name]
    period, rng = 2048, np.random.default_rng(0)
    y, x = np.mgrid[:period, :period] * (2 * np.pi / period)
    blobs = [np.sin(a * x + b) * np.sin(b * y + a) for a, b in ((9, 14), (23, 17), (61, 40))]
    texture = 128 + 40 * np.stack(blobs, axis=-1) + rng.normal(0, 6, (period, period, 3))
    texture = np.clip(texture, 0, 255).astype(np.uint8)
    picture = pyvips.Image.new_from_array(texture).replicate(-(-side // period), -(-side // period))
    picture = picture.crop(0, 0, side, side)
    ramp = (pyvips.Image.xyz(side, side) * [30 / side, -30 / side]).rint()
    picture = picture + ramp.bandjoin(ramp[0])
    picture = picture.cast("uchar").copy(interpretation="srgb")
    path = folder / f"{name}.{suffix}"
    tiff = {"bigtiff": True, "tile_width": 256, "tile_height": 256} if suffix == "tif" else {}
    picture.write_to_file(str(path), **tiff, **options)
    return path


def measure(reader: str, path: str, side: int, count: int) -> dict[str, Any]:
    """Read windows, in this process, and tell how it went."""
    for module in MODULES[reader]:
        __import__(module)
    rng = np.random.default_rng(1)
    places = rng.integers(0, side - WINDOW + 1, (count, 2)).tolist()
    begin = time.perf_counter()
    read = READERS[reader](path)
    first = np.ascontiguousarray(read(*places[0]))
    to_first = time.perf_counter() - begin
    if first.shape != (WINDOW, WINDOW, 3):
        raise ValueError(f"a window has shape {first.shape}")
    before = time.process_time()
    at_random = [timed(read, x, y) for x, y in places[1:]]
    work = (time.process_time() - before) / len(at_random)
    across = range(0, side - WINDOW + 1, STEP)
    grid = [(x, y) for y in across for x in across]
    walked = [timed(read, x, y) for x, y in grid[:WALKED]]
    return {
        "first": to_first,
        "median": float(np.median(at_random)),
        "p95": float(np.percentile(at_random, 95)),
        "work": work,
        "walk": float(np.mean(walked)),
        "peak": peak_bytes(),
        "mean": float(first.mean()),
    }


def timed(read: Read, x: int, y: int) -> float:
    begin = time.perf_counter()
    read(x, y)
    return time.perf_counter() - begin


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def measured(
    reader: str, path: Path, side: int, count: int, package: Path = ROOT
) -> dict[str, Any] | str:
    """Return what `measure` says in a process of its own, or why there is nothing.

    `package` is the folder whose tilevision is measured.
    """
    command = [sys.executable, __file__, str(side), "--windows", str(count), "--measure", reader]
    environment = {**os.environ, "TMPDIR": str(path.parent), "PYTHONPATH": str(package)}
    try:
        done = subprocess.run(
            [*command, str(path)],
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT_SECONDS} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return last[:90]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(name: str, path: Path, results: dict[str, dict[str, Any] | str]) -> None:
    """Print the table of one format; each figure with its ratio to the fastest."""
    good = {reader: found for reader, found in results.items() if isinstance(found, dict)}
    keys = ("median", "work", "walk", "first")
    best = {key: min((found[key] for found in good.values()), default=0) for key in keys}
    print(f"\n{name}: {path.stat().st_size / 1e6:,.0f} MB, load {os.getloadavg()[0]:.1f}")
    heads = ["random ms", "cpu ms", "walk ms", "first s"]
    print(f"{'':12}" + "".join(f"{head:>17}" for head in heads) + "  p95 ms  peak MB")
    for reader, found in results.items():
        if isinstance(found, str):
            print(f"{reader:12}  {found}")
            continue
        cells = [
            f"{found[key] * factor:8.1f} ({found[key] / best[key]:4.1f}×)"
            for key, factor in zip(keys, (1e3, 1e3, 1e3, 1), strict=True)
        ]
        ends = f"{found['p95'] * 1e3:8.1f}{found['peak'] / 1e6:9.0f}"
        print(f"{reader:12}" + "".join(f"{cell:>17}" for cell in cells) + ends)
    means = [found["mean"] for found in good.values()]
    if means and max(means) - min(means) > 0.5:
        print(f"the readers do not agree on the pixels: means {means}")


def checked_out(commit: str, folder: Path) -> Path:
    """Return a folder with the package as it was at a commit."""
    place = folder / "before"
    place.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "tilevision"], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(place, filter="data")
    return place


def compare(name: str, path: Path, side: int, count: int, before: Path, rounds: int) -> bool:
    """Print before and after in turns; return True if the processor time stayed within 3 %."""
    keys = ("median", "work", "walk", "first")
    found: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    for number in range(rounds):
        both = [("before", before), ("after", ROOT)]
        for which, package in both if number % 2 else reversed(both):
            told = measured("tilevision", path, side, count, package)
            if isinstance(told, str):
                raise SystemExit(f"{name}, {which}: {told}")
            found[which].append(told)
    print(f"\n{name}: {path.stat().st_size / 1e6:,.0f} MB, {rounds} rounds in turns")
    print(
        f"{'':12}"
        + "".join(f"{head:>12}" for head in ("random ms", "cpu ms", "walk ms", "first s"))
    )
    middle = {
        which: {key: float(np.median([one[key] for one in told])) for key in keys}
        for which, told in found.items()
    }
    for which, told in middle.items():
        cells = [told[key] * factor for key, factor in zip(keys, (1e3, 1e3, 1e3, 1), strict=True)]
        print(f"{which:12}" + "".join(f"{cell:12.2f}" for cell in cells))
    ratios = {key: middle["after"][key] / middle["before"][key] for key in keys}
    print(f"{'ratio':12}" + "".join(f"{ratio:12.3f}" for ratio in ratios.values()), flush=True)
    return ratios["work"] <= SLOWER


def main() -> int:
    """Return 1 where tilevision became slower than it was, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", nargs="?", type=int, default=SIDE)
    parser.add_argument("--format", action="append", choices=FORMATS)
    parser.add_argument("--reader", action="append", choices=READERS)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--against", metavar="COMMIT", help="compare tilevision with this commit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(*asked.measure, asked.side, asked.windows)))
        return 0
    within = True
    with tempfile.TemporaryDirectory() as folder:
        before = checked_out(asked.against, Path(folder)) if asked.against else None
        for name in asked.format or FORMATS:
            path = generate(Path(folder), name, asked.side)
            if before is not None:
                within &= compare(name, path, asked.side, asked.windows, before, asked.rounds)
                path.unlink()
                continue
            results = {
                reader: measured(reader, path, asked.side, asked.windows)
                for reader in asked.reader or READERS
            }
            show(name, path, results)
            path.unlink()
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
