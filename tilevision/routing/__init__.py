"""Which model a tile goes to: by what it looks like, or by what a cheap model saw in it."""

from tilevision.routing.cascade import Cascade
from tilevision.routing.handing import last_label, sent_on, steps_of
from tilevision.routing.predicates import Detailed, Within
from tilevision.routing.route import Route
from tilevision.routing.tilefacts import TileFacts, tile_facts

__all__ = [
    "Cascade",
    "Detailed",
    "Route",
    "TileFacts",
    "Within",
    "last_label",
    "sent_on",
    "steps_of",
    "tile_facts",
]
