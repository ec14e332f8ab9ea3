"""From pixels to a map and back, where the image knows its place on Earth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from tilevision.errors import RunError

if TYPE_CHECKING:
    from tilevision.sources import ImageMetadata

__all__ = ["Georeference"]

WGS84 = "EPSG:4326"
FARTHEST_LATITUDE = 91.0

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where an image lies on Earth.

    Parameters
    ----------
    crs : str
        ``"EPSG:32617"`` or WKT.
    transform : tuple of float
        Affine ``(a, b, c, d, e, f)``: x = a·col + b·row + c, y = d·col + e·row + f.
    """

    crs: str
    transform: tuple[float, ...]

    @classmethod
    def of(cls, metadata: ImageMetadata) -> Georeference | None:
        """Return where the image lies; None unless it has both CRS and transform."""
        if metadata.crs is None or metadata.transform is None:
            return None
        return cls(metadata.crs, metadata.transform)

    def check(self) -> None:
        """Make sure that longitude and latitude can be computed.

        Raises
        ------
        RunError
            If rasterio is missing, or the CRS or the transform does not allow it.
        """
        self.to_degrees(np.zeros((1, 2)))

    def to_crs(self, points: Points) -> Points:
        """Map pixels ``(n, 2)`` of the full-resolution image to x, y of the CRS."""
        a, b, c, d, e, f = self.transform
        placed: Points = points @ np.array([[a, d], [b, e]]) + np.array([c, f])
        return placed

    def to_degrees(self, points: Points) -> Points:
        """Map pixels ``(n, 2)`` of the full-resolution image to longitude, latitude (WGS84).

        Raises
        ------
        RunError
            If rasterio is missing, or the CRS does not allow it.
        """
        return _reprojected(self.to_crs(points), self.crs, WGS84)

    def from_crs(self, points: Points, crs: str | None = None) -> Points:
        """Map x, y ``(n, 2)`` of a reference system to pixels of the full-resolution image.

        Parameters
        ----------
        points : array (n, 2)
        crs : str, optional
            Default: longitude, latitude (WGS84).

        Raises
        ------
        RunError
            If rasterio is missing, or the CRS does not allow it.
        """
        a, b, c, d, e, f = self.transform
        placed = _reprojected(points, crs or WGS84, self.crs) - np.array([c, f])
        return cast("Points", placed @ np.linalg.inv(np.array([[a, d], [b, e]])))


def _reprojected(points: Points, source: str, target: str) -> Points:
    try:
        from rasterio.warp import transform
    except ImportError:
        raise RunError(
            "Longitude and latitude need rasterio, which is not installed: "
            "pip install 'tilevision[geo]'; or save pixels with format='qupath'."
        ) from None
    try:
        x, y = transform(source, target, points[:, 0], points[:, 1])
    except Exception as error:  # GDAL's own errors come through, unnamed
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"The image's CRS {source[:60]} cannot be turned into {target[:60]}: {reason}; save "
            "pixels with format='qupath'."
        ) from error
    out = np.column_stack([x, y]).astype(np.float64).reshape(-1, 2)
    # Pixels around the poles may reach half a cell beyond them.
    degrees = out if target == WGS84 else points if source == WGS84 else None
    beyond = degrees is not None and bool((np.abs(degrees[:, 1]) > FARTHEST_LATITUDE).any())
    if beyond or not np.isfinite(out).all():
        raise RunError(
            f"Positions of the image have no place in {target[:60]}, so its CRS {source[:60]} or "
            "its transform is wrong; save pixels with format='qupath'."
        )
    return out
