"""Models whose identity was recorded: any edit here but a comment changes it."""

import numpy as np

import tilevision as tv
from tilevision.findings import Findings
from tilevision.geometry import Box


def squares(pixels):
    """Return a box around each bright column of the tile."""
    ys, xs = np.nonzero(pixels.max(axis=2) > 200)
    if not len(xs):
        return []
    return [(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1, 0.5)]


def fails_on_the_right(pixels):
    """Fail on tiles that are bright along their right edge."""
    if pixels[:, -8:].max() > 200:
        raise ValueError("this tile is not to my taste")
    return squares(pixels)


def names_findings(pixels):
    """Name a public class of tilevision, twice."""
    return tv.Findings([(0, 0, 1, 1)]) if pixels.max() else Findings([])


def names_deep_path(pixels):
    """Name classes by their documented deep paths."""
    box = Box(0, 0, 2, 2)
    return Findings([box.as_tuple()], scores=[0.5]) if pixels.max() else tv.Findings([])


class Detector:
    """A model object with an attribute."""

    name = "detector"

    def __init__(self, size):
        self.size = size

    def predict(self, batch):
        """Find nothing."""
        return [Findings([]) for _ in batch]


def make(size):
    """Make a model, as a registered factory."""
    return Detector(size)


def load(spec):
    """Make a model of a spec, as a factory given by text."""
    return Detector(spec.batch_size)
