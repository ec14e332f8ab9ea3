"""The buttons that start a run and steer it, and the words beside them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as widgets

from tilevision.pipeline import Plan
from tilevision.plot import shown
from tilevision.sources import Preparation
from tilevision.view.notebook import safe_link
from tilevision.view.panel.form import button, column, control
from tilevision.view.picture.viewstate import ENDED, PLANNED, ViewState

__all__ = ["Steering"]

AUTOMATIC = "auto"
CONCURRENCY = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class Steering:
    """Run, Pause, Resume, Cancel, Retry failed, tiles in flight, and what will happen or did.

    Parameters
    ----------
    actions : dict of str to callable
        What the buttons do: ``run``, ``pause``, ``resume``, ``cancel``, ``retry``.
    concurrency : int or None
        Tiles in flight at first; None: automatic.
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
        self.pause = button("Pause", "Start no further tile")
        self.resume = button("Resume", "Go on after a pause")
        self.cancel = button("Cancel", "End early; what is done is kept")
        self.retry = button("Retry failed", "Give failed tiles fresh attempts")
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
            "how many tiles at once; can be moved while it runs",
            options=[(AUTOMATIC, 0), *((str(step), step) for step in steps)],
            value=concurrency or 0,
            continuous_update=False,
        )
        self.concurrency.observe(
            lambda change: on_concurrency(change["new"] or None), names="value"
        )
        self.words = widgets.HTML()
        self.words.add_class("tilevision-words")
        self._prepared = ""
        self._busy = widgets.HTML()
        self._busy.add_class("tilevision-words")
        row = widgets.HBox(list(self.buttons.values()))
        row.add_class("tilevision-buttons")
        self.box = column(self.words, row, self._busy, self.concurrency, name="steering")
        self.fit("", failed=0, ready=False)

    def fit(
        self,
        status: str,
        *,
        failed: int,
        ready: bool,
        past: bool = False,
        revivable: bool = False,
    ) -> None:
        """Enable the buttons that make sense.

        Parameters
        ----------
        status : str
            Of the run; empty where there is none.
        failed : int
            Tiles that failed.
        ready : bool
            Whether there is a plan that could be run.
        past : bool
            Whether the run is read from its journal: it cannot be steered, only gone on with.
        revivable : bool
            Whether it can be.
        """
        going = bool(status) and status not in (*ENDED, PLANNED) and not past
        enabled = {
            "run": ready and not going,
            "pause": going and status != "paused",
            "resume": revivable if past else status == "paused",
            "cancel": going,
            "retry": failed > 0 and (revivable if past else status != "stopped"),
        }
        for name, yes in enabled.items():
            if self.buttons[name].disabled is yes:
                self.buttons[name].disabled = not yes

    def plan(self, made: Plan, model: str) -> None:
        """Say what pressing Run would do with `model`, and what should be known before."""
        width, height = made.source.size
        tiles = f"{len(made.tiles):,} tiles: {len(made.to_run):,} to run, "
        tiles += f"{len(made.restored):,} stored already"
        if made.skipped:
            tiles += f", {len(made.skipped):,} left out"
        about = str(made.estimate).capitalize()
        image = f"{width:,} × {height:,} px; {made.tiling}"
        self.say(tiles, f"Model: {model}", about, image, *made.notes)

    def tell(self, run: Any, state: ViewState, cannot: str | None = None) -> None:
        """Say how `run` goes, or how it went.

        `cannot` is for one of the past: why it cannot be gone on with; empty where it can.
        """
        link = getattr(run, "dashboard_link", None)
        if state.ended:
            done = f"{state.n_finished:,} of {len(state.tiles):,} tiles"
            line = f"{state.run_status.capitalize()}: {state.reason or done}"
            alarm = state.run_status in ("stopped", "blocked", "partial")
            self.say(line, f"run {run.id}", *_further(cannot), alarm=alarm, link=link)
        else:
            words = "Paused" if state.run_status == "paused" else "Running"
            notes = [state.reason, f"run {run.id}"]
            if cannot is not None:
                notes.append("Another process works on it; it is steered there.")
            self.say(words, *filter(None, notes), link=link)

    def prepare(self, preparation: Preparation) -> None:
        """Say how far the image is on its way into the temp folder, once for each percent."""
        words = str(preparation)
        if words != self._prepared:
            self._prepared = words
            self.say(words[:1].upper() + words[1:])

    def wait_for_cell(self, busy: bool) -> None:
        """Say that what is pressed now will be done when the cell at work has ended."""
        words = "A cell is running: what you press here is done when it has ended."
        self._busy.value = f'<div class="tilevision-note" role="status">{words}</div>' * busy

    def say(self, line: str, *notes: str, alarm: bool = False, link: str | None = None) -> None:
        """Show a line, smaller ones below it, and a link to the cluster's dashboard."""
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


def _further(cannot: str | None) -> tuple[str, ...]:
    """Say what can be done with a run of the past."""
    if cannot is None:
        return ()
    if cannot:
        return (f"Opened from its journal. It cannot go on: {cannot}.",)
    return ("Opened from its journal. Resume goes on: done tiles stay, failed ones run again.",)


def _calling(action: Callable[[], None]) -> Callable[[object], None]:
    return lambda _: action()
