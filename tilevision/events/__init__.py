"""What happened in a run: events, the bus that publishes them, the journal that keeps them."""

from tilevision.events.bus import (
    BOXES_PER_EVENT,
    Bus,
    Event,
    RunChanged,
    StageDone,
    TileChanged,
    TileCounts,
)
from tilevision.events.images import ImageChanged, image_line, read_image
from tilevision.events.journal import (
    Journal,
    from_line,
    is_listed,
    journal_parts,
    journal_path,
    read_manifest,
    to_line,
)
from tilevision.events.journalreader import JournalTail, follow_journal, read_journal
from tilevision.events.runlist import (
    KnownRuns,
    RunSummary,
    list_runs,
    lost_tiles,
    tell_lost,
    together,
)

__all__ = [
    "BOXES_PER_EVENT",
    "Bus",
    "Event",
    "ImageChanged",
    "Journal",
    "JournalTail",
    "KnownRuns",
    "RunChanged",
    "RunSummary",
    "StageDone",
    "TileChanged",
    "TileCounts",
    "follow_journal",
    "from_line",
    "image_line",
    "is_listed",
    "journal_parts",
    "journal_path",
    "list_runs",
    "lost_tiles",
    "read_image",
    "read_journal",
    "read_manifest",
    "tell_lost",
    "to_line",
    "together",
]
