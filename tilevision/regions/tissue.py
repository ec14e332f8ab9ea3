"""Tissue on a slide: a mask from a small picture of it, so that background costs nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tilevision.errors import GridError
from tilevision.regions.maskregion import Mask
from tilevision.sources import ImageSource, Pixels, display_options, to_uint8

__all__ = ["tissue_polygons"]

LONGEST_SIDE = 2048  # px of the small picture
STEP = 0.1  # px: corners lie on tenths, as those that are drawn or exported do
# Glass has a saturation of 0.01 to 0.03, pale eosin from 0.08: Otsu's threshold is held
# between, where a picture is nothing but glass or nothing but tissue.
LEAST_SATURATION, MOST_SATURATION = 0.05, 0.15
DARK = 20  # of 255: the colour of what is nearly black is noise
SMOOTHED_DOT = 64  # px that smoothing makes of a dot
SPECK, HOLE = 1e-4, 1e-3  # smaller ones (share of the image) are dust, and part of the tissue


def tissue_polygons(source: ImageSource) -> Any:
    """Return where there is stained tissue, as polygons in pixels of the image.

    Stain has colour, glass has none: pixels are tissue whose saturation (of HSV, after
    smoothing) passes Otsu's threshold [1]_. Specks of less than 0.01 % of the image are
    left out, holes of less than 0.1 % are filled, and a rim of one pixel is added. For
    bright-field slides; marks of a coloured pen count as tissue.

    Parameters
    ----------
    source : ImageSource
        Read once, at 2048 px or less a side.

    Raises
    ------
    GridError
        If there is no tissue.

    References
    ----------
    .. [1] N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans.
       Systems, Man and Cybernetics 9(1), 1979. On the saturation of slides: M. Y. Lu et
       al., "Data-efficient and weakly supervised computational pathology on whole-slide
       images", Nature Biomedical Engineering 5, 2021.
    """
    wanted = _tissue(to_uint8(source.thumbnail(LONGEST_SIDE), display_options(source)))
    if not wanted.any():
        raise GridError(
            "Region 'tissue': there is no tissue in the image; it is found by its stain, so give "
            "a polygon or a mask for pictures without colour."
        )
    outline, _ = Mask.of(wanted).polygons(source.size)
    # The steps from pixel to pixel say nothing about the tissue.
    return shapely.set_precision(
        shapely.simplify(outline, max(source.size) / max(wanted.shape)), STEP
    )


def _tissue(small: Pixels) -> NDArray[np.bool_]:
    """Return where there is tissue in a small picture (h, w, 3) of RGB uint8."""
    from scipy.ndimage import binary_dilation
    from skimage.filters import gaussian, threshold_otsu

    colour = gaussian(_saturation(small), sigma=2, preserve_range=True)
    flat = float(np.ptp(colour)) < 1e-6
    threshold = 0.0 if flat else float(threshold_otsu(colour))
    wanted = colour > np.clip(threshold, LEAST_SATURATION, MOST_SATURATION)
    wanted = _without_small(wanted, max(SPECK * wanted.size, SMOOTHED_DOT))
    wanted = ~_without_small(~wanted, HOLE * wanted.size)
    return np.asarray(binary_dilation(wanted, np.ones((3, 3))))


def _saturation(pixels: Pixels) -> NDArray[np.float32]:
    """Return the saturation (h, w) of HSV, 0 to 1, of RGB uint8."""
    most = pixels.max(axis=-1)
    spread = (most - pixels.min(axis=-1)).astype(np.float32)
    return np.where(most > DARK, spread / np.maximum(most, 1), np.float32(0))


def _without_small(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    """Return the mask without connected parts of fewer than `least` pixels."""
    from skimage.measure import label

    parts = label(mask, connectivity=2)
    large = np.bincount(parts.ravel()) >= least
    large[0] = False
    return np.asarray(large[parts])
