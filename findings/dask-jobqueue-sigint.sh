#!/usr/bin/env bash
# Importing dask-jobqueue replaces the process's handler of SIGINT: Ctrl-C no longer raises
# KeyboardInterrupt in code that imported it, but ends the process with exit status 0, so that
# "except KeyboardInterrupt" never runs and a batch system takes an interrupted job for a good one.
#
# Seen with dask-jobqueue 0.9.0 (dask_jobqueue/runner.py sets the handler when it is imported) and
# distributed 2026.8.0, Python 3.11. Fails once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "dask-jobqueue==0.9.0" "distributed==2026.8.0"
cat > "$folder/interrupted.py" <<'PYTHON'
import os
import signal
import sys

if "with" in sys.argv:
    import dask_jobqueue  # noqa: F401

print("handler:", getattr(signal.getsignal(signal.SIGINT), "__name__", "?"))
sys.stdout.flush()
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print("KeyboardInterrupt was raised")
    sys.exit(130)
PYTHON

run() {
    status=0
    "$folder/venv/bin/python" "$folder/interrupted.py" "$1" || status=$?
    echo "exit status: $status"
}

"$folder/venv/bin/pip" list 2>/dev/null | grep -E "^(dask-jobqueue|distributed) "
echo "--- without the import"; run without | tee "$folder/without"
echo "--- with the import"; run with | tee "$folder/with"
grep -q "KeyboardInterrupt was raised" "$folder/without"
grep -q "exit status: 130" "$folder/without"
! grep -q "KeyboardInterrupt was raised" "$folder/with"
grep -q "exit status: 0" "$folder/with"
echo "As described."
