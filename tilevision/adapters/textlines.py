"""Lines and words of a document: dark ink on a lighter page, written left to right.

Sauvola's threshold parts ink from paper by each pixel's surroundings, so shadows on the
page do no harm; with its dynamic range fixed instead of taken from the tile, an empty page
has no ink. Letters are joined into words, and words into lines, by gaps measured in their
own heights. Nothing is derived from the tile as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.pixels import brightness
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.geometry import area, intersection
from tilevision.modelspec import ModelSpec

__all__ = ["PARAMS", "VERSION", "TextDetector", "load"]

VERSION = 1
PARAMS: dict[str, Any] = {
    "min_height": 4,
    "max_height": 80,
    "window": 25,
    "sensitivity": 0.2,
    "contrast": 0.05,
    "word_gap": 0.35,
    "line_gap": 2.0,
}
_RANGE = 0.5  # Sauvola's dynamic range of the deviation, for brightness from 0 to 1

_MARK = 0.45  # share of a line's height up to which what lies in it is a comma
_LIKE = 3.0  # ratio of heights above which two words are not of one line


class TextDetector:
    """Finds text and labels it ``"line"`` and ``"word"``.

    The score says how much darker the ink is than the page around it.

    Parameters
    ----------
    min_height, max_height : float
        Of a letter, pixels.
    window : int
        Side of the surroundings that ink is compared with, pixels.
    sensitivity : float
        Sauvola's k: the lower, the paler the ink that is found.
    contrast : float
        Least difference of a letter from the page around it, as a share of the full range.
    word_gap, line_gap : float
        Widest gap within a word and within a line, as a share of the letters' height.
    """

    def __init__(
        self,
        min_height: float,
        max_height: float,
        window: int,
        sensitivity: float,
        contrast: float,
        word_gap: float,
        line_gap: float,
    ) -> None:
        if not 0 < min_height < max_height:
            raise ModelError(
                f"textlines: min_height {min_height} must lie between 0 and max_height "
                f"{max_height}."
            )
        if window < 3 or not 0 < sensitivity < 1 or not 0 <= word_gap <= line_gap:
            raise ModelError(
                f"textlines: window {window} must be 3 or more, sensitivity {sensitivity} between "
                f"0 and 1, word_gap {word_gap} not above line_gap {line_gap}."
            )
        self._height = (min_height, max_height)
        self._window = int(window) | 1  # Sauvola's window has a centre
        self._sensitivity = sensitivity
        self._contrast = contrast
        self._gaps = (word_gap, line_gap)

    def predict(self, batch: Sequence[NDArray[Any]]) -> list[Findings]:
        """Return the lines and words of each tile ``(h, w, c)``."""
        return [self._find(brightness(pixels)) for pixels in batch]

    def _find(self, image: NDArray[np.float32]) -> Findings:
        letters, contrast = self._letters(image)
        words, inked = _joined(letters, contrast, _groups(letters, self._gaps[0], math.inf))
        line = _groups(words, self._gaps[1], _LIKE)
        lines, lined = _joined(words, inked, line)
        marks = _marks(lines)
        words, inked = words[~marks[line]], inked[~marks[line]]
        lines, lined = lines[~marks], lined[~marks]
        strength = np.concatenate([lined, inked])
        return Findings(
            np.concatenate([lines, words]),
            np.clip(strength / (strength + 0.15), 0, 1),
            ["line"] * len(lines) + ["word"] * len(words),
        )

    def _letters(
        self, image: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return boxes ``(n, 4)`` of what may be letters, and how much darker each is ``(n,)``."""
        from scipy.ndimage import uniform_filter
        from skimage.filters import threshold_sauvola
        from skimage.measure import label, regionprops

        paper = uniform_filter(image, self._window, mode="nearest")
        ink = image < threshold_sauvola(image, self._window, self._sensitivity, _RANGE)
        rows = []
        for region in regionprops(label(ink), intensity_image=paper - image):
            y0, x0, y1, x1 = region.bbox
            if self._height[0] <= y1 - y0 <= self._height[1] and x1 - x0 <= 6 * self._height[1]:
                rows.append((x0, y0, x1, y1, region.intensity_mean))
        found = np.array(rows, dtype=np.float64).reshape(-1, 5)
        found = found[found[:, 4] >= self._contrast]
        return found[:, :4], found[:, 4]


def _joined(
    boxes: NDArray[np.float64], contrast: NDArray[np.float64], group: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the box around each group, and the mean contrast of its ink."""
    if not len(boxes):
        return boxes, contrast
    count = int(group.max()) + 1
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, group, boxes[:, :2])
    np.maximum.at(high, group, boxes[:, 2:])
    width = boxes[:, 2] - boxes[:, 0]
    mean = np.bincount(group, contrast * width) / np.bincount(group, width)
    return np.hstack([low, high]), mean


def _groups(boxes: NDArray[np.float64], gap: float, like: float) -> NDArray[np.int64]:
    """Number the groups of boxes ``(n, 4)`` that stand side by side: ``(n,)``.

    They are no further apart than `gap` times their height, and their heights differ by less
    than a factor of `like`.
    """
    import shapely
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    x0, y0, x1, y1 = boxes.T
    height = y1 - y0
    reach = gap * height
    tree = shapely.STRtree(shapely.box(x0, y0, x1, y1))
    a, b = tree.query(shapely.box(x0 - reach, y0, x1 + reach, y1))
    shared = np.minimum(y1[a], y1[b]) - np.maximum(y0[a], y0[b])
    level = shared > 0.4 * np.minimum(height[a], height[b])
    alike = np.maximum(height[a], height[b]) < like * np.minimum(height[a], height[b])
    a, b = a[level & alike], b[level & alike]
    links = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(len(boxes), len(boxes)))
    _, group = connected_components(links, directed=False)
    return np.asarray(group, dtype=np.int64)


def _marks(lines: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which lines are only commas or dots of another: ``(n,)``."""
    import shapely

    boxes: Any = shapely.box(*lines.T) if len(lines) else np.empty(0, dtype=object)
    height = lines[:, 3] - lines[:, 1]
    a, b = shapely.STRtree(boxes).query(boxes)
    small = height[a] < _MARK * height[b]
    a, b = a[small], b[small]
    within = intersection(lines[a], lines[b]) > 0.5 * area(lines[a])
    marks = np.zeros(len(lines), dtype=np.bool_)
    marks[a[within]] = True
    return marks


def load(spec: ModelSpec) -> TextDetector:
    """Make the detector with the parameters of `spec`."""
    return TextDetector(**spec.params)
