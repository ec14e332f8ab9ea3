"""Runs whose checkpoint is on a share: seen, resumed and taken over from another machine."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numbered
import numpy as np
import pytest
from shares import as_share, segments

import tilevision as tv
from tilevision.checkpoint import lease, run_owner
from tilevision.errors import RunBusy
from tilevision.events import TileChanged, journal, journal_parts, journal_path, read_journal
from tilevision.history import FollowedRun, followedrun
from tilevision.status import TileStatus

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

OWNER = {"pid": 4711, "host": "n3", "since": 1.0, "machine": "another", "begun": "7"}


@pytest.fixture
def kept(elsewhere: Path) -> Path:
    return as_share(elsewhere / "kept")


def waiting(gate: Path) -> Callable[[Any], Any]:
    """Return a model that sees four tiles at once, the others when a file is there."""
    calls = gate.parent / "calls"
    calls.mkdir()

    def look(pixels: Any) -> Any:
        (calls / secrets.token_hex(8)).touch()
        while len(list(calls.iterdir())) > 4 and not gate.exists():
            time.sleep(0.01)
        return [{"box": (1, 1, 9, 9), "label": "seen"}]

    return look


def row(tiles: int) -> np.ndarray:
    """Return a row of tiles of 32 px."""
    return np.zeros((32, 32 * tiles, 3), np.uint8)


def test_a_run_on_a_share_is_listed_followed_and_resumed_by_others(
    kept: Path, elsewhere: Path
) -> None:
    """Its process dies half way; a later one restores what it had acknowledged, and goes on."""
    gate = elsewhere / "gate"
    model = tv.model(waiting(gate), fingerprint="waiting")
    run = tv.start(row(12), model, grid="1x12", checkpoint=kept, batch_size=1, concurrency=2)
    numbered.wait_until(lambda: run.counts.get(TileStatus.DONE, 0) >= 3, "some of it is done")
    assert list(tv.runs(kept)["status"]) == ["running"]
    with pytest.raises(RunBusy, match=rf"in progress in process {os.getpid()}"):
        tv.resume(run.id, kept, image=row(12), model=model)
    run.cancel()
    gate.touch()
    run.wait(200)
    assert run_owner(kept, run.id) is None
    done = {e.tile.id for e in run.events() if isinstance(e, TileChanged) and e.status == "done"}
    result = tv.resume(run.id, kept, image=row(12), model=model).result(120)
    assert result.complete and set(result.tiles["status"]) == {"restored", "done"}
    assert {row.tile.id for row in result.rows if row.status == "restored"} == done
    assert list(tv.runs(kept)["status"]) == ["complete"]
    assert len(journal_parts(journal_path(kept, run.id))) == 2
    followed = FollowedRun(run.id, kept)
    assert followed.wait(200) and followed.status == "complete"
    assert len(segments(kept)) == 2


def test_a_run_that_was_taken_over_stops_itself(
    kept: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended, say: it says by whom, keeps what it has, and writes no more of the run."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    gate = elsewhere / "gate"
    model = tv.model(waiting(gate), fingerprint="waiting")
    run = tv.start(row(8), model, grid="1x8", checkpoint=kept, batch_size=1)
    numbered.wait_until(lambda: run.counts.get(TileStatus.DONE, 0) >= 3, "some of it is done")
    place = kept / "runs" / f"{run.id}.lease"
    (place / "000002").write_text(json.dumps(OWNER) + "\n")
    session = run._session
    numbered.wait_until(lambda: session._lost, "the owner has noticed")
    numbered.wait_until(lambda: session._journal._file < 0, "its journal is closed")
    _, before = read_journal(journal_path(kept, run.id))
    gate.touch()
    with pytest.raises(RunBusy, match=r"taken over by process 4711 on n3.*What is done is kept"):
        run.result(120)
    assert run.status == "stopped"
    assert read_journal(journal_path(kept, run.id))[1] == before
    again = tv.analyze(row(8), model, grid="1x8", checkpoint=kept, progress=False)
    assert again.complete and list(again.tiles["status"]).count("restored") >= 3


def test_a_follower_sees_a_tile_soon_after_it_is_done(kept: Path, elsewhere: Path) -> None:
    """By listing the folder, without a lock, while the run stands still; it looks often enough."""
    gate = elsewhere / "gate"
    model = tv.model(waiting(gate), fingerprint="waiting")
    run = tv.start(row(8), model, grid="1x8", checkpoint=kept, batch_size=1)
    numbered.wait_until(lambda: journal_path(kept, run.id).exists(), "its journal has begun")
    seen: list[Any] = []

    def look(event: Any) -> None:
        if isinstance(event, TileChanged) and event.status == "done":
            seen.append(event.tile)

    followed = FollowedRun(run.id, kept, image=row(8))
    leave = followed.subscribe(look)
    numbered.wait_until(lambda: run.counts.get(TileStatus.DONE, 0) >= 3, "some of it is done")
    numbered.wait_until(lambda: len(seen) >= 3, "they were followed before anything else is done")
    gate.touch()
    assert run.result(120).complete and followed.wait(200)
    numbered.wait_until(lambda: len(seen) == 8, "all tiles were followed")
    leave()
    assert sorted(tile.id for tile in seen) == sorted(row.tile.id for row in run.result().rows)
    assert journal.SYNC_SECONDS + followedrun.LOOK_SECONDS < 0.5


READER = """
import os, sys
import pandas  # while all of Python may be read
import tilevision as tv
from tilevision.history import FollowedRun
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
found = tv.runs(sys.argv[1])
followed = FollowedRun(found["id"][0], sys.argv[1])
assert followed.wait(200)
print(found["status"][0], followed.status, followed.counts)
"""


def test_who_may_only_read_a_share_lists_and_follows_its_runs() -> None:
    """`tv.runs` and following write nothing, ask for no lock, and need no right to write."""
    public = Path(tempfile.mkdtemp(prefix="public-"))
    try:
        kept = as_share(public / "kept")
        model = tv.model(waiting(public / "gate"), fingerprint="waiting")
        (public / "gate").touch()
        tv.analyze(row(4), model, grid="1x4", checkpoint=kept, progress=False)
        for path in (public, *public.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        command = [sys.executable, "-c", READER, str(kept)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "complete complete {'done': 4}"
    finally:
        for path in (public, *public.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(public)
