"""Encoders: a vector for the tile as a whole.

Only where it is declared: a classifier has the same shape.
"""

from __future__ import annotations

import numpy as np

from tilevision.adapters.onnx.families.layout import Candidates, DecodeInfo, Family, Outputs

__all__ = ["ENCODER", "FAMILIES"]

ENCODER = "embedding"
# The output with the vector, where an encoder has others beside, as libraries name it.
_NAMES = ("image_embeds", "pooler_output", "embeddings", "embedding", "sentence_embedding")


def _vector(outputs: Outputs, info: DecodeInfo) -> Candidates:  # noqa: ARG001
    """Take the only output that is a vector, or the one that is named as such."""
    vectors = {
        name: out.reshape(-1)
        for name, out in outputs.items()
        if out.ndim in (2, 4) and out.shape[0] == 1 and out.shape[2:] in ((), (1, 1))
    }
    named = [name for name in _NAMES if name in vectors]
    chosen = next(iter(vectors), None) if len(vectors) == 1 else next(iter(named), None)
    if chosen is None:
        raise ValueError(
            "an encoder has one output (n, d)"
            + (f", and {', '.join(vectors)} may each be it" if vectors else "")
        )
    none = np.empty(0)
    return Candidates(np.empty((0, 4)), none, none.astype(np.int64), embedding=vectors[chosen])


FAMILIES = (
    Family(
        ENCODER,
        "(n, d), a vector of the tile",
        lambda layout: False,  # noqa: ARG005  # the signature of a family
        _vector,
        *("rgb", "imagenet", False),
        multiple=1,
    ),
)
