"""The stage after the tiles: what it all amounts to.

A synthesis model gets a bounded digest and a thumbnail, never raw tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilevision.analysis.account import Digest, describe
from tilevision.errors import ModelError
from tilevision.modelspec import ModelSpec, unwrap
from tilevision.sources import ImageSource, Pixels, display_options, to_uint8

__all__ = ["summary", "synthesise"]

THUMBNAIL_SIDE = 1024


def summary(_spec: ModelSpec) -> Callable[[Digest, Pixels], str]:
    """Make the built-in synthesis model: counts, density, confidence, coverage, failures."""
    return lambda facts, _thumbnail: describe(facts)


def synthesise(spec: ModelSpec, facts: Digest, source: ImageSource) -> str:
    """Ask a synthesis model for a text.

    The built-in is asked with the `Digest`; a function of the user's is called with its
    dict form and an RGB uint8 thumbnail ``(h, w, 3)`` of at most 1024 pixels a side.

    Raises
    ------
    ModelError
        If the model does not return text.
    """
    if spec.name == "summary":
        return describe(facts)
    thumbnail = to_uint8(source.thumbnail(THUMBNAIL_SIDE), display_options(source))
    text: Any = unwrap(spec, "synthesis")(facts.to_dict(), thumbnail)
    if not isinstance(text, str):
        raise ModelError(
            f"Synthesis model {spec.name} returned {type(text).__name__}; return a str."
        )
    return text
