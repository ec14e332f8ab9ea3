"""Stars, particles, cells: round things, brighter or darker than what surrounds them.

Difference of Gaussians over a range of sizes. A Gaussian spot of contrast A and width s
answers with A·(k−1)/(k+1) at the scale s/√k, k being the ratio of neighbouring scales, so
contrast and size can be read off the response. The threshold is a contrast, not a share of
what the tile holds: an empty tile gives nothing, and an object in two tiles is the same in
both.
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
from tilevision.geometry import ios
from tilevision.modelspec import ModelSpec

__all__ = ["PARAMS", "VERSION", "BlobDetector", "load"]

VERSION = 2
PARAMS: dict[str, Any] = {
    "min_diameter": 3.0,
    "max_diameter": 60.0,
    "contrast": 0.06,
    "polarity": "auto",
    "overlap": 0.5,
}
_RATIO = 1.6


class BlobDetector:
    """Finds blobs and labels them ``"bright"`` or ``"dark"``.

    Parameters
    ----------
    min_diameter, max_diameter : float
        Pixels.
    contrast : float
        Least difference from the surroundings, as a share of the full range (0 to 1).
    polarity : str
        ``"bright"``, ``"dark"``, or ``"auto"``: both, where a bright blob must be brighter
        than the tile's background and a dark one darker, so that the gaps between objects
        are none.
    overlap : float
        Share of the smaller of two blobs above which the weaker is dropped.
    """

    def __init__(
        self,
        min_diameter: float,
        max_diameter: float,
        contrast: float,
        polarity: str,
        overlap: float,
    ) -> None:
        if not 0 < min_diameter < max_diameter:
            raise ModelError(
                f"blobs: min_diameter {min_diameter} must lie between 0 and max_diameter "
                f"{max_diameter}; give pixels."
            )
        if not 0 < contrast < 1:
            raise ModelError(f"blobs: contrast is {contrast}; give a number between 0 and 1.")
        if polarity not in ("auto", "bright", "dark"):
            raise ModelError(f"blobs: polarity is {polarity!r}; give 'auto', 'bright' or 'dark'.")
        self._contrast = contrast
        self._overlap = overlap
        self._signs = {"auto": (1, -1), "bright": (1,), "dark": (-1,)}[polarity]
        low, high = (d / (2 * math.sqrt(2 * _RATIO)) for d in (min_diameter, max_diameter))
        steps = max(1, math.ceil(math.log(high / low) / math.log(_RATIO)))
        # One scale more on each side, since a peak needs neighbours.
        self._sigmas = [low * _RATIO**i for i in range(-1, steps + 2)]

    def predict(self, batch: Sequence[NDArray[Any]]) -> list[Findings]:
        """Return the blobs of each tile ``(h, w, 1 or 3)``."""
        return [self._find(brightness(pixels)) for pixels in batch]

    def _find(self, image: NDArray[np.float32]) -> Findings:
        from skimage.filters import gaussian

        scales = [gaussian(image, s, mode="nearest", truncate=3) for s in self._sigmas]
        blurred: NDArray[np.float32] = np.stack(scales)
        gain = (_RATIO + 1) / (_RATIO - 1)
        contrast = (blurred[:-1] - blurred[1:]) * np.float32(gain)
        above = blurred[:-1] - np.float32(_background(image))
        found = [
            self._peaks(contrast * np.float32(sign), above * np.float32(sign), sign)
            for sign in self._signs
        ]
        findings = Findings.concat(found)
        return findings.take(_strongest(findings, self._overlap))

    def _peaks(
        self, contrast: NDArray[np.float32], above: NDArray[np.float32], sign: int
    ) -> Findings:
        """Return the peaks of `contrast` ``(scale, h, w)`` that stand out from the background."""
        from skimage.feature import peak_local_max

        peaks = peak_local_max(
            contrast, min_distance=1, threshold_abs=self._contrast, exclude_border=False
        )
        level, y, x = peaks.T
        # A maximum at the end of an axis is not known to be one: of what a tile's edge cuts, the
        # rest may be brighter still, and the neighbouring tile will see that.
        whole = ((peaks > 0) & (peaks < np.array(contrast.shape) - 1)).all(axis=1)
        if len(self._signs) > 1:
            whole &= above[level, y, x] > self._contrast / 2
        level, y, x = level[whole], y[whole], x[whole]
        strength = contrast[level, y, x].astype(np.float64)
        shift = _between(contrast, level, y, x)
        radius = self._sigmas[0] * _RATIO ** (level + shift[0] + 0.5)[:, None] * math.sqrt(2)
        centre = np.column_stack([x + shift[2], y + shift[1]]) + 0.5
        return Findings(
            np.hstack([centre - radius, centre + radius]),
            strength / (strength + self._contrast),
            ["bright" if sign > 0 else "dark"] * len(strength),
        )


def _between(stack: NDArray[np.float32], level: Any, y: Any, x: Any) -> list[NDArray[np.float64]]:
    """Return how far the true peak lies from the sample, along each axis: parabolas, ±0.5."""
    shifts = []
    here = stack[level, y, x].astype(np.float64)
    for axis, index in enumerate((level, y, x)):
        last = stack.shape[axis] - 1
        at = [level, y, x]
        at[axis] = np.maximum(index - 1, 0)
        before = stack[tuple(at)]
        at[axis] = np.minimum(index + 1, last)
        after = stack[tuple(at)]
        bend = np.minimum(before - 2 * here + after, -1e-6)
        shift = np.clip((before - after) / (2 * bend), -0.5, 0.5)
        shifts.append(np.where((index > 0) & (index < last), shift, 0))
    return shifts


def _background(image: NDArray[np.float32]) -> float:
    """Return the most frequent brightness: crowded as a tile may be, its gaps look alike."""
    counts, edges = np.histogram(image, bins=64, range=(0, 1))
    return float(edges[counts.argmax()] + edges[1] / 2)


def _strongest(findings: Findings, overlap: float) -> NDArray[np.bool_]:
    """Return which rows ``(n,)`` share at most `overlap` of the smaller with a stronger one."""
    keep = np.zeros(len(findings), dtype=bool)
    left = np.arange(len(findings))  # sorted, strongest first
    while len(left):
        keep[left[0]] = True
        shared = ios(findings.boxes[left[0]], findings.boxes[left[1:]])
        left = left[1:][shared <= overlap]
    return keep


def load(spec: ModelSpec) -> BlobDetector:
    """Make the detector with the parameters of `spec`."""
    return BlobDetector(**spec.params)
