"""Classifiers: a score for each class and the tile as a whole."""

from __future__ import annotations

import numpy as np

from tilevision.adapters.onnx.families.layout import (
    Candidates,
    DecodeInfo,
    Family,
    Layout,
    Outputs,
)
from tilevision.adapters.onnx.families.transformers import softmax

__all__ = ["FAMILIES", "are_probabilities"]

# What ends a classifier that gives logits: its last layer, or an average of it over the picture.
LINEAR = {"Gemm", "MatMul", "Add", "Sum", "Conv", "GlobalAveragePool"}


def are_probabilities(layout: Layout) -> bool:
    """Return True if the scores of a trial are probabilities: then they are not made to be.

    They lie between 0 and 1, and so may small logits on a picture of noise. What counts beside is
    whether they add up to 1, or else that no linear layer has made them.
    """
    scores = next(iter(layout.sample.values()))
    if not ((scores >= 0).all() and (scores <= 1).all()):
        return False
    shares = np.abs(scores.reshape(len(scores), -1).sum(axis=1) - 1).max() < 1e-3
    return bool(shares) or layout.maker not in LINEAR


def _matches(layout: Layout) -> bool:
    if layout.task not in (None, "classify"):
        return False
    shape = layout.alone(1) or layout.alone(3)
    if shape is None or shape[1:] not in ((), (1, 1)) or shape[0] < 2:
        return False
    if "int" in layout.facts.outputs[0].dtype or not layout.counts(shape[0]):
        return False
    # As many rows as pictures: a number that is decided at run time would be detections.
    return len(next(iter(layout.sample.values()))) == (layout.facts.batch or 1)


def _probabilities(outputs: Outputs, info: DecodeInfo) -> Candidates:  # noqa: ARG001
    scores = next(iter(outputs.values())).reshape(-1)
    return Candidates(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), tile_scores=scores)


def _logits(outputs: Outputs, info: DecodeInfo) -> Candidates:
    scores = next(iter(outputs.values())).reshape(-1)
    return _probabilities({"scores": softmax(scores)}, info)


FAMILIES = (
    Family(
        "classifier",
        "(n, classes), between 0 and 1",
        lambda layout: _matches(layout) and are_probabilities(layout),
        _probabilities,
        *("rgb", "imagenet", "middle"),
        multiple=1,
    ),
    Family(
        "classifier-logits",
        "(n, classes), any number",
        lambda layout: _matches(layout) and not are_probabilities(layout),
        _logits,
        *("rgb", "imagenet", "middle"),
        multiple=1,
    ),
)
