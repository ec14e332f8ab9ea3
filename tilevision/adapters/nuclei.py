"""Nuclei in tissue stained with haematoxylin (H&E, or IHC with a haematoxylin counterstain).

Stain separation by colour deconvolution (Ruifrok and Johnston 2001), a threshold on the
amount of haematoxylin, and a watershed on the distance to the edge that splits nuclei
which touch. The threshold is an absolute amount of stain, never derived from the tile: a
threshold that adapts to what a tile holds (Otsu's) finds "nuclei" in tiles that have none,
and cuts the same nucleus differently in two tiles. Beside it a nucleus must stand out from
its own surroundings, so that pale counterstains and dense tissue need no setting each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevision.adapters.outlines import ring
from tilevision.adapters.pixels import rgb
from tilevision.errors import ModelError
from tilevision.findings import Findings
from tilevision.modelspec import ModelSpec

__all__ = ["PARAMS", "VERSION", "NucleusDetector", "load"]

VERSION = 1
PARAMS: dict[str, Any] = {
    "threshold": 0.025,
    "contrast": 1.3,
    "surroundings": 20.0,
    "min_area": 40,
    "max_area": 4000,
    "smoothing": 1.0,
    "separation": 5,
}
_SOLID = 0.75  # share of its convex hull below which a shape is frayed tissue
_LONGEST = 6  # length to width above which it is the rim of a hole


class NucleusDetector:
    """Finds nuclei, with outlines, and labels them ``"nucleus"``.

    The score is the product of how far the stain passes the threshold (0.5 at it) and how
    convex the outline is.

    Parameters
    ----------
    threshold : float
        Least amount of haematoxylin, in the units of `skimage.color.rgb2hed`.
    contrast : float
        Least ratio of a nucleus to the mean of its surroundings.
    surroundings : float
        Standard deviation of the Gaussian that takes that mean, pixels.
    min_area, max_area : float
        Pixels.
    smoothing : float
        Standard deviation of the Gaussian that evens out chromatin, pixels.
    separation : int
        Least distance between the centres of nuclei that touch, pixels.
    """

    def __init__(
        self,
        threshold: float,
        contrast: float,
        surroundings: float,
        min_area: float,
        max_area: float,
        smoothing: float,
        separation: int,
    ) -> None:
        if not 0 < min_area < max_area:
            raise ModelError(
                f"nuclei: min_area {min_area} must lie between 0 and max_area {max_area}."
            )
        if threshold <= 0 or smoothing < 0 or separation < 1:
            raise ModelError(
                f"nuclei: threshold {threshold}, smoothing {smoothing} and separation {separation} "
                "must be positive."
            )
        self._threshold = threshold
        self._contrast = contrast
        self._surroundings = surroundings
        self._area = (min_area, max_area)
        self._smoothing = smoothing
        self._separation = separation

    def predict(self, batch: Sequence[NDArray[Any]]) -> list[Findings]:
        """Return the nuclei of each RGB tile ``(h, w, 3)``."""
        return [self._find(rgb(pixels)) for pixels in batch]

    def _find(self, image: NDArray[np.float32]) -> Findings:
        import shapely
        from skimage.filters import gaussian
        from skimage.measure import regionprops

        stain = self._stain(image)
        local = gaussian(stain, self._surroundings, mode="nearest", truncate=2)
        numbered = self._split(stain > np.maximum(self._threshold, self._contrast * local))
        area = np.bincount(numbered.ravel())
        mean = np.bincount(numbered.ravel(), stain.ravel()) / np.maximum(area, 1)
        sized = (area >= self._area[0]) & (area <= self._area[1])
        regions = [r for r in regionprops(numbered) if sized[r.label]]
        if not regions:
            return Findings()
        rings = [ring(r.image, (r.bbox[1], r.bbox[0])) for r in regions]
        shapes = np.array([shapely.Polygon(r) for r in rings])
        solidity = shapely.area(shapes) / shapely.area(shapely.convex_hull(shapes))
        excess = 1 - self._threshold / (2 * mean[[r.label for r in regions]])
        keep = (solidity > _SOLID) & (_length_to_width(shapes) < _LONGEST)
        return Findings(
            shapely.bounds(shapes)[keep],
            (excess * np.minimum(solidity, 1))[keep],
            ["nucleus"] * int(keep.sum()),
            polygons=[r for r, kept in zip(rings, keep, strict=True) if kept],
        )

    def _stain(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the amount of haematoxylin ``(h, w)``."""
        from skimage.color import rgb2hed
        from skimage.filters import gaussian

        stain: NDArray[np.float32] = rgb2hed(image)[..., 0]
        return gaussian(stain, self._smoothing, mode="nearest") if self._smoothing else stain

    def _split(self, mask: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Return nuclei numbered from 1 ``(h, w)``."""
        from scipy.ndimage import distance_transform_edt
        from skimage.feature import peak_local_max
        from skimage.filters import gaussian
        from skimage.measure import label
        from skimage.morphology import closing, disk, opening
        from skimage.segmentation import watershed

        mask = opening(closing(mask, disk(1)), disk(2))
        parts = label(mask)
        depth = gaussian(distance_transform_edt(mask), 1.0)
        peaks = peak_local_max(
            depth * mask, min_distance=self._separation, threshold_abs=0.5, exclude_border=False
        )
        # A part whose peak lies too near its neighbour's is a nucleus all the same.
        without = ~np.isin(parts, parts[tuple(peaks.T)]) & mask
        markers = np.where(without, parts, 0)
        markers[tuple(peaks.T)] = parts.max() + np.arange(1, len(peaks) + 1)
        numbered: NDArray[np.int32] = watershed(-depth, markers, mask=mask)
        return numbered


def _length_to_width(shapes: Any) -> NDArray[np.float64]:
    """Return the ratio of the sides of the smallest rectangle around each shape."""
    import shapely

    corners = shapely.get_coordinates(shapely.oriented_envelope(shapes)).reshape(-1, 5, 2)
    sides = np.linalg.norm(np.diff(corners[:, :3], axis=1), axis=2)
    ratio: NDArray[np.float64] = sides.max(axis=1) / np.maximum(sides.min(axis=1), 1)
    return ratio


def load(spec: ModelSpec) -> NucleusDetector:
    """Make the detector with the parameters of `spec`."""
    return NucleusDetector(**spec.params)
