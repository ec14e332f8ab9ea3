#!/usr/bin/env bash
# Workers that a Dask nanny starts take every larger array from fresh pages of the kernel, which it has
# to clear first, though an array of the same size was freed just before. The nanny sets
# MALLOC_TRIM_THRESHOLD_=65536 for them, and in glibc any such setting also turns off the rule by which
# malloc learns what sizes come and go (its threshold for mmap then stays at 128 KiB). In code that makes
# and drops arrays of a megabyte, such as pixels of image tiles, that can cost as much as the work itself.
#
# Seen with distributed 2026.8.0, numpy 2.4.6, Python 3.11, glibc 2.36, x86-64: an array of 1 MiB, made and
# dropped again and again, costs no page fault in a plain process and 257 each time in a worker;
# none in a worker whose configuration leaves the variable out. Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "distributed==2026.8.0" "numpy==2.4.6"
cat > "$folder/faults.py" <<'PYTHON'
import os
import sys

import dask
from distributed import Client, LocalCluster

NAME = "distributed.nanny.pre-spawn-environ"


def faults() -> int:
    """Return how many page faults an array of 1 MiB costs, the median of 21 after some to warm up."""
    import resource

    import numpy as np

    def one() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(2**17)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    for _ in range(5):
        one()
    return sorted(one() for _ in range(21))[10]


def in_a_worker() -> int:
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            (value,) = client.run(lambda: os.environ.get("MALLOC_TRIM_THRESHOLD_")).values()
            print("  MALLOC_TRIM_THRESHOLD_ of the worker:", value)
            return client.submit(faults).result()


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        print(faults())
    else:
        rest = dict(dask.config.get(NAME))
        if sys.argv[1] == "without":
            del rest["MALLOC_TRIM_THRESHOLD_"]
        with dask.config.set({NAME: rest}):
            print(in_a_worker())
PYTHON
"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(distributed|numpy) "
unset MALLOC_TRIM_THRESHOLD_
for place in plain worker without; do
    echo "--- $place"
    "$folder/venv/bin/python" "$folder/faults.py" "$place" | tee "$folder/$place"
done
test "$(tail -n 1 "$folder/plain")" -lt 10
test "$(tail -n 1 "$folder/worker")" -gt 200
test "$(tail -n 1 "$folder/without")" -lt 10
echo "As described."
