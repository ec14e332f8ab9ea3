"""Past runs: a list to choose from, and how to open or resume one in the panel."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets

from tilevision.batch import resume_run
from tilevision.errors import RunBusy, RunError, SourceError, TilevisionError
from tilevision.events import KnownRuns, journal_path
from tilevision.history import FollowedRun, ReplayedRun, image_runs
from tilevision.history.runrecord import Recording
from tilevision.history.runtable import ListedRun
from tilevision.history.storedresult import ReadRun
from tilevision.pipeline import Run
from tilevision.pipeline.manifest import arguments_again, find_manifest, lacks_model, recall
from tilevision.plot import shown
from tilevision.status import RunStatus
from tilevision.view.panel.controls import button, column, run_options
from tilevision.view.panel.settingsform import SettingsForm

__all__ = ["PastRunList", "PastRuns"]

MOST_LISTED = 50
ROWS = 8
LOOK_SECONDS = 1.0
_NOTHING_LEFT = {
    RunStatus.COMPLETE: "all its tiles are done.",
    RunStatus.BLOCKED: "moderation refused its image.",
}


class PastRunList:
    """Controls for the runs of a checkpoint folder.

    Parameters
    ----------
    checkpoint : path-like or None
        Their folder; None: there are no past runs.
    on_open, on_resume : callable
        Given the id of the chosen run.
    on_choose : callable
        Called when another run was chosen and `describe` is needed.
    on_news : callable
        Called on a thread when a run was begun, went on or ended somewhere, while `watch` is on.
    """

    def __init__(
        self,
        checkpoint: Any,
        on_open: Callable[[str], None],
        on_resume: Callable[[str], None],
        on_choose: Callable[[], None],
        on_news: Callable[[], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._on_news = on_news
        self._watching = threading.Event()
        self._watcher: threading.Thread | None = None
        self._rows: dict[str, ListedRun] = {}
        self._known: KnownRuns = {}
        empty = "No runs yet." if checkpoint is not None else "Nothing is kept: checkpoint=None."
        self.menu = widgets.Select(
            options=[(empty, "")],
            rows=ROWS,
            description="Past runs",
            tooltip="Runs in this checkpoint folder, the latest first",
            style={"description_width": "0px"},
            layout=widgets.Layout(width="auto", margin="1px 0"),
        )
        self.words = widgets.HTML(_dom_classes=["tilevision-words"])
        self.open = button("Open", "Show how the run went and what it found; nothing is run")
        self.resume = button("Resume", "Run the missing tiles under the same id; done tiles stay")
        self.open.disabled = self.resume.disabled = True
        row = widgets.HBox([self.open, self.resume])
        self.box = column(self.menu, self.words, row, name="past")
        self.open.on_click(lambda _: on_open(self.menu.value))
        self.resume.on_click(lambda _: on_resume(self.menu.value))
        self.menu.observe(lambda _: on_choose(), names="value")

    def watch(self, yes: bool) -> None:
        """Look for runs of other panels, notebooks and shells from now on, or no longer."""
        if yes is self._watching.is_set() or self._checkpoint is None:
            return
        if not yes:
            self._watching.clear()
            return
        self._watching.set()
        self._watcher = threading.Thread(target=self._look, name="tilevision-panel-runs")
        self._watcher.daemon = True
        self._watcher.start()

    def close(self) -> None:
        """Look no longer."""
        self.watch(False)
        if self._watcher is not None:
            self._watcher.join(timeout=10)

    def _look(self) -> None:
        mine = threading.current_thread()
        seen: object = None
        while self._watching.is_set() and self._watcher is mine:
            now = self._journals()
            if now != seen:
                seen = now
                self._on_news()
            time.sleep(LOOK_SECONDS)

    def _journals(self) -> frozenset[tuple[str, int]]:
        """Return the journals of the folder and how long they are."""
        try:
            runs = journal_path(self._checkpoint, "any").parent
            with os.scandir(runs) as entries:
                found = {(entry.name, entry.stat().st_size) for entry in entries}
            # On a share later owners of a run have journals of their own, beside its lease.
            more = (path for path in runs.glob("*.lease/*") if path.suffix != ".beat")
            found |= {(f"{path.parent.name}/{path.name}", path.stat().st_size) for path in more}
            return frozenset(found)
        except OSError:  # there is no run yet, or one was just removed
            return frozenset()

    @property
    def rows(self) -> list[ListedRun]:
        """The runs that are listed, the latest first."""
        return list(self._rows.values())

    def status_of(self, run_id: str) -> str:
        """Return the status of a run that is listed; empty for another."""
        row = self._rows.get(run_id)
        return "" if row is None else row.status

    def refresh(self) -> None:
        """Read the list again: of the latest runs, those that are new or went on."""
        if self._checkpoint is None:
            return
        rows = image_runs(self._checkpoint, MOST_LISTED, self._known)
        self._rows = {row.id: row for row in rows}
        options = run_options(
            (f"{row.started:%d %b %H:%M} · {row.status} · {row.image}", row.id)
            for row in self._rows.values()
        )
        if options and options != list(self.menu.options):
            chosen = self.menu.value
            self.menu.options = options
            self.menu.value = chosen if chosen in self._rows else options[0][1]

    def describe(self, why_not: Callable[[str, str], str]) -> None:
        """Describe the chosen run, and say if it can be resumed.

        Parameters
        ----------
        why_not : callable
            Given a run's id and status, returns why it cannot be resumed; empty if it can.
        """
        row = self._rows.get(self.menu.value or "")
        if row is None:
            return
        why = why_not(row.id, row.status)
        failed = f", {row.failed:,} failed" if row.failed else ""
        lines = [
            f"{row.image} with {row.model}",
            f"{row.done:,} of {row.tiles:,} tiles{failed} · run {row.id}",
            *([f"Cannot be resumed: {why}"] if why else []),
        ]
        notes = (f'<div class="tilevision-note">{escape(shown(line, 300))}</div>' for line in lines)
        self.words.value = "".join(notes)
        self.open.disabled = False
        self.resume.disabled = bool(why)


class PastRuns:
    """Opens and resumes past runs with the images and models that the panel has.

    A journal keeps neither code nor pixels: functions and images in memory come from the panel.

    Parameters
    ----------
    checkpoint : path-like or None
        Folder of the runs.
    settings : SettingsForm
        Has the image and the models.
    """

    def __init__(self, checkpoint: str | os.PathLike[str] | None, settings: SettingsForm) -> None:
        self._checkpoint = checkpoint or ""
        self._settings = settings

    def open(self, run_id: str) -> ReplayedRun | FollowedRun:
        """Return a run that has ended, as it ended; or one that another process is running."""
        image = self._image(find_manifest(run_id, self._checkpoint))
        try:
            return ReplayedRun(run_id, self._checkpoint, seconds=0, image=image)
        except RunError:
            followed = FollowedRun(run_id, self._checkpoint, image=image)
            if not RunStatus(followed.status).over:
                return followed
            raise

    def read(self, run_id: str) -> ReadRun:
        """Return a run as far as its journal tells now; nobody follows it."""
        image = self._image(find_manifest(run_id, self._checkpoint))
        return ReadRun(Recording(run_id, self._checkpoint, image))

    def resume(self, run_id: str) -> Run:
        """Resume a run: done tiles are restored, failed ones are tried again.

        Raises
        ------
        TilevisionError
            If something is missing; its message is one line that says what.
        """
        return resume_run(run_id, self._checkpoint, **self._needs(run_id))

    def model_of(self, run_id: str, name: str) -> Any:
        """Return a run's model, if the panel has one with that name, else None."""
        manifest = find_manifest(run_id, self._checkpoint)
        return self._settings.model.called(name, manifest.get("routing"))

    def arguments_of(self, run_id: str) -> tuple[Any, dict[str, Any]]:
        """Return image and arguments of `tilevision.start` that repeat a run.

        Its region is not among them, and a function that is not in the panel stands by its name.

        Raises
        ------
        RunError
            If a function served another stage.
        """
        manifest = find_manifest(run_id, self._checkpoint)
        own = self._settings.model.called(manifest["model"], manifest.get("routing"))
        stages = self._stages(manifest)
        if own is None and lacks_model(manifest):
            own = SimpleNamespace(__name__=manifest["model"])
        arguments = arguments_again(manifest, f"run {run_id}", own, stages) | stages
        del arguments["region"]
        if arguments["resolution"] == [1.0]:
            del arguments["resolution"]
        image = self._image(manifest)
        return manifest["path"] if image is None else image, arguments

    def why_not(self, run_id: str, status: str) -> str:
        """Return why `resume` would be refused, as a sentence; empty if it would not."""
        if status in _NOTHING_LEFT:
            return _NOTHING_LEFT[RunStatus(status)]
        try:
            self._needs(run_id)
        except TilevisionError as error:
            return str(error)
        return ""

    def _needs(self, run_id: str) -> dict[str, Any]:
        """Return the arguments of `tilevision.resume` that the journal alone does not give."""
        manifest = find_manifest(run_id, self._checkpoint)
        image = self._image(manifest)
        needs = {"image": image, **self._stages(manifest)}
        if image is None and manifest["path"] is None:
            raise RunError(
                f"It analysed a {manifest['image']} in memory. Open the panel with that image: "
                "tv.explore(image)."
            )
        path = str(manifest["path"])
        if image is None and "://" not in path and not Path(path).exists():
            raise SourceError(
                f"Its image is no longer at {path}. Pass its new place in code: "
                f"tv.resume({run_id!r}, image=...)."
            )
        own = self._settings.model.called(manifest["model"], manifest.get("routing"))
        try:
            recall(manifest, self._checkpoint, model_=None, **needs)
        except RunBusy:
            raise
        except RunError as error:
            if own is None:
                line = str(error).removesuffix(".")
                raise RunError(f"{line}; in the panel: Setup, Add a model.") from error
            return needs | {"model": own}
        return needs

    def _image(self, manifest: Mapping[str, Any]) -> Any:
        """Return the panel's own image for a run on pixels in memory; others have a path."""
        return self._settings.in_memory if manifest["path"] is None else None

    def _stages(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return the functions that served the other stages, as far as the panel has them."""
        menus = {"moderation": self._settings.moderation, "synthesis": self._settings.synthesis}
        kept = {stage: manifest[stage] for stage in menus}
        found = {
            stage: menus[stage].called(entry["name"])
            for stage, entry in kept.items()
            if entry is not None and entry["params"] is None
        }
        return {stage: value for stage, value in found.items() if value is not None}
