"""What happened in a run: events, the bus that publishes them, the journal that keeps them."""

from tilevision.events.bus import Bus
from tilevision.events.facts import BOXES_PER_EVENT, Event, RunChanged, StageDone, TileChanged
from tilevision.events.images import ImageChanged, image_line, read_image
from tilevision.events.journal import Journal
from tilevision.events.journalreader import (
    JournalTail,
    follow_journal,
    journal_path,
    read_journal,
    read_manifest,
)
from tilevision.events.lines import from_line, to_line
from tilevision.events.runlist import RunSummary, list_runs, together
from tilevision.events.tilecounts import TileCounts

__all__ = [
    "BOXES_PER_EVENT",
    "Bus",
    "Event",
    "ImageChanged",
    "Journal",
    "JournalTail",
    "RunChanged",
    "RunSummary",
    "StageDone",
    "TileChanged",
    "TileCounts",
    "follow_journal",
    "from_line",
    "image_line",
    "journal_path",
    "list_runs",
    "read_image",
    "read_journal",
    "read_manifest",
    "to_line",
    "together",
]
