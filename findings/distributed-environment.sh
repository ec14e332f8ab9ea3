#!/usr/bin/env bash
# A local Dask cluster changes the environment of the process that starts it, and leaves it changed after
# it is closed: OMP_NUM_THREADS, MKL_NUM_THREADS and OPENBLAS_NUM_THREADS are 1, and PYTHONHASHSEED is set.
# They are meant for the workers. But every program that is started afterwards inherits them, and its
# numeric libraries compute with a single thread.
#
# Seen with distributed 2026.8.0, numpy 2.4.6, threadpoolctl 3.6.0, Python 3.11: a program that imports numpy
# has a pool of one thread if it is started after a LocalCluster was started and closed, where it has one
# for each processor otherwise. Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "distributed==2026.8.0" "numpy==2.4.6" "threadpoolctl==3.6.0"
cat > "$folder/threads.py" <<'PYTHON'
import subprocess
import sys

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED")
PROGRAM = """
import os, sys
import numpy
from threadpoolctl import threadpool_info
print("a program started now sees", *(f"{name}={os.environ.get(name)}" for name in sys.argv[1:]))
print("threads of its numpy:", *(pool["num_threads"] for pool in threadpool_info()))
"""

if __name__ == "__main__":
    if sys.argv[1] == "after":
        from distributed import LocalCluster

        with LocalCluster(n_workers=1, dashboard_address=":0"):
            pass
    subprocess.run([sys.executable, "-c", PROGRAM, *NAMES], check=True)
PYTHON
unset OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS PYTHONHASHSEED
"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(distributed|numpy|threadpoolctl) "
for when in without after; do
    echo "--- $when a cluster"
    "$folder/venv/bin/python" "$folder/threads.py" "$when" | tee "$folder/$when"
done
grep -q "OMP_NUM_THREADS=None MKL_NUM_THREADS=None OPENBLAS_NUM_THREADS=None PYTHONHASHSEED=None" "$folder/without"
grep -qE "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONHASHSEED=[0-9]+" "$folder/after"
grep -q "threads of its numpy: 1$" "$folder/after"
echo "As described."
