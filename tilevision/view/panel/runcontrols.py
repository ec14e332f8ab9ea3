"""The buttons that start and control a run, and the text above them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from tilevision.pipeline import Plan
from tilevision.plot import shown
from tilevision.sources import StagingProgress
from tilevision.status import RunStatus
from tilevision.view.notebook import safe_link
from tilevision.view.panel.controls import button, column, control
from tilevision.view.picture.viewstate import ViewState

__all__ = ["RunControls"]

AUTOMATIC = "auto"
CONCURRENCY = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_ALARMING = (RunStatus.STOPPED, RunStatus.BLOCKED, RunStatus.PARTIAL)


class RunControls:
    """Run, Pause, Resume, Cancel, Retry failed, the concurrency, and what happens or happened.

    Parameters
    ----------
    actions : dict of str to callable
        What the buttons do: ``run``, ``pause``, ``resume``, ``cancel``, ``retry``.
    concurrency : int or None
        Initial number of tiles at once; None: automatic.
    on_concurrency : callable
        Given the number that was chosen, or None.
    """

    def __init__(
        self,
        actions: dict[str, Callable[[], None]],
        concurrency: int | None,
        on_concurrency: Callable[[int | None], None],
    ) -> None:
        self.run = button("Run", "Analyse the image; stored tiles cost nothing", "primary")
        self.pause = button("Pause", "Start no further tiles")
        self.resume = button("Resume", "Continue after a pause")
        self.cancel = button("Cancel", "End the run early; finished tiles are kept")
        self.retry = button("Retry failed", "Try the failed tiles again")
        self.buttons = {
            "run": self.run, "pause": self.pause, "resume": self.resume,
            "cancel": self.cancel, "retry": self.retry,
        }  # fmt: skip
        for name, made in self.buttons.items():
            made.on_click(_calling(actions[name]))
        steps = sorted({*CONCURRENCY, *([concurrency] if concurrency else [])})
        self.concurrency = control(
            widgets.SelectionSlider,
            "Concurrency",
            "How many tiles are analysed at once; can be changed while the run is going",
            options=[(AUTOMATIC, 0), *((str(step), step) for step in steps)],
            value=concurrency or 0,
            continuous_update=False,
        )
        self.concurrency.observe(
            lambda change: on_concurrency(change["new"] or None), names="value"
        )
        self.words = widgets.HTML(_dom_classes=["tilevision-words"])
        self._prepared = ""
        self._busy = widgets.HTML(_dom_classes=["tilevision-words"])
        row = widgets.HBox(list(self.buttons.values()), _dom_classes=["tilevision-buttons"])
        self.box = column(self.words, row, self._busy, self.concurrency, name="steering")
        self.fit(None, failed=0, ready=False)

    def tell_again(self) -> None:
        """Tell a page that was just opened how the buttons are, and what is said.

        Voilà runs all cells before a page is there: what changes while the page takes over the
        widgets reaches neither, and Run stayed grey.
        """
        for part in (*self.buttons.values(), self.words):
            part.send_state()

    def fit(
        self,
        status: RunStatus | None,
        *,
        failed: int,
        ready: bool,
        past: bool = False,
        resumable: bool = False,
    ) -> None:
        """Enable the buttons that make sense.

        Parameters
        ----------
        status : RunStatus or None
            Status of the run; None if there is no run.
        failed : int
            Number of failed tiles.
        ready : bool
            Whether there is a plan that can be run.
        past : bool
            Whether the run is read from its journal: it can only be resumed.
        resumable : bool
            Whether it can be.
        """
        going = status is not None and not status.over and not past
        paused = status is RunStatus.PAUSED
        enabled = {
            "run": ready and not going,
            "pause": going and not paused,
            "resume": resumable if past else paused,
            "cancel": going,
            "retry": failed > 0 and (resumable if past else status is not RunStatus.STOPPED),
        }
        for name, yes in enabled.items():
            if self.buttons[name].disabled is yes:
                self.buttons[name].disabled = not yes

    def show_plan(self, made: Plan, model: str, *, new: bool = False) -> None:
        """Say what Run would do with `model`, and what the user should know before.

        `new` says that it is for changed settings, while the picture shows an earlier run.
        """
        width, height = made.source.size
        tiles = "New setup, " if new else ""
        tiles += f"{len(made.tiles):,} tiles: {len(made.to_run):,} to run, "
        tiles += f"{len(made.restored):,} stored already"
        if made.skipped:
            tiles += f", {len(made.skipped):,} skipped"
        about = str(made.estimate)
        image = f"{width:,} × {height:,} px; {made.tiling}"
        self.say(tiles, f"Model: {model}", about[:1].upper() + about[1:], image, *made.notes)

    def show_run(self, run: Any, state: ViewState, cannot: str | None = None) -> None:
        """Say how `run` is going, or how it ended.

        `cannot` is for a past run: why it cannot be resumed, as a sentence; empty if it can.
        """
        link = getattr(run, "dashboard_link", None)
        if state.ended and state.run_status is not None:
            done = f"{state.n_finished:,} of {state.n_wanted:,} tiles"
            line = f"{state.run_status.capitalize()}: {state.reason or done}"
            alarm = state.run_status in _ALARMING
            self.say(line, f"run {run.id}", *_past_notes(cannot), alarm=alarm, link=link)
        else:
            words = "Paused" if state.run_status is RunStatus.PAUSED else "Running"
            notes = [_by_button(state.reason), f"run {run.id}"]
            if cannot is not None:
                notes.append("Another process runs it, and can pause or cancel it.")
            self.say(words, *filter(None, notes), link=link)

    def show_preparation(self, preparation: StagingProgress) -> None:
        """Say how much of the image has been decoded into the temp folder, percent by percent."""
        words = str(preparation)
        if words != self._prepared:
            self._prepared = words
            self.say(words[:1].upper() + words[1:])

    def show_busy_cell(self, busy: bool) -> None:
        """Say that buttons take effect only when the running cell has ended."""
        words = "A cell is running. The buttons take effect when it has ended."
        self._busy.value = f'<div class="tilevision-note" role="status">{words}</div>' * busy

    def say(self, line: str, *notes: str, alarm: bool = False, link: str | None = None) -> None:
        """Show a line, smaller lines below it, and a link to the cluster's dashboard."""
        kind = "alarm" if alarm else "line"
        role = "alert" if alarm else "status"
        html = f'<div class="tilevision-{kind}" role="{role}">{escape(shown(line, 600))}</div>'
        html += "".join(
            f'<div class="tilevision-note">{escape(shown(note, 300))}</div>' for note in notes
        )
        if address := safe_link(link):
            target = f'href="{escape(address, quote=True)}" target="_blank"'
            html += f'<a {target} rel="noopener noreferrer">Dask dashboard ↗</a>'
        if self.words.value != html:
            self.words.value = html


def _by_button(reason: str) -> str:
    """Return why a run pauses, with the button for what scripts call."""
    told = reason.replace("call run.resume()", "press Resume")
    return told.replace("run.resume() continues", "Resume continues")


def _past_notes(cannot: str | None) -> tuple[str, ...]:
    """Say what can be done with a past run."""
    if cannot is None:
        return ()
    if cannot:
        return (f"Opened from its journal. It cannot be resumed: {cannot}",)
    return ("Opened from its journal. Resume keeps done tiles and tries failed ones again.",)


def _calling(action: Callable[[], None]) -> Callable[[object], None]:
    return lambda _: action()
