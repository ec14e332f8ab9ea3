"""Areas on the ground: slides in microns, maps by geodesic area, else pixels."""

import sys

import numpy as np
import pytest

from tilevision.analysis.units import ground_units, pixel_width, units_of
from tilevision.sources import ImageMetadata

rasterio = pytest.importorskip("rasterio", reason="rasterio (extra geo) is not installed")


def test_a_slide_is_measured_in_microns() -> None:
    """At 0.5 by 0.25 µm, 80 square pixels are 10 µm², and a mm² has a million of them."""
    units = units_of(ImageMetadata(mpp=(0.5, 0.25)))
    assert (units.area, units.per, units.areas_per) == ("µm²", "mm²", 1e6)
    assert units.of(np.zeros((1, 2)), np.array([80.0])) == pytest.approx([10.0])


def test_a_plain_picture_is_measured_in_pixels() -> None:
    """Nothing is known of it, so nothing is claimed."""
    units = units_of(ImageMetadata())
    assert (units.area, units.per) == ("px²", "megapixel")
    assert units.of(np.ones((2, 2)), np.array([3.0, 4.0])).tolist() == [3.0, 4.0]


def test_utm_areas_undo_the_scale_factor_of_the_projection() -> None:
    """On a UTM zone's central meridian a square metre of the map is 1 / 0.9996² on the ground."""
    units = ground_units("EPSG:32617", (1.0, 0.0, 500_000.0, 0.0, -1.0, 3_000_000.0))
    assert (units.area, units.per, units.areas_per) == ("m²", "hectare", 1e4)
    assert units.pixel_areas(np.zeros((1, 2))) == pytest.approx(0.9996**-2, rel=1e-6)


def test_web_mercator_areas_are_those_of_the_ground() -> None:
    """At 60° north its map metres are about a quarter of what they claim, by the ellipsoid."""
    y = 6_378_137 * np.log(np.tan(np.pi / 4 + np.radians(60) / 2))
    units = ground_units("EPSG:3857", (1.0, 0.0, 0.0, 0.0, -1.0, y))
    flat = 1 - 0.00669437999014 * np.sin(np.radians(60)) ** 2
    truth = np.cos(np.radians(60)) ** 2 * (1 - 0.00669437999014) / flat**2
    assert units.pixel_areas(np.zeros((1, 2))) == pytest.approx(truth, rel=1e-6)


def test_degrees_add_up_to_the_earth() -> None:
    """One-degree pixels of the whole globe have the surface of the WGS84 ellipsoid together."""
    units = ground_units("EPSG:4326", (1.0, 0.0, -180.0, 0.0, -1.0, 90.0))
    x, y = np.meshgrid(np.arange(360) + 0.5, np.arange(180) + 0.5)
    total = units.pixel_areas(np.stack([x.ravel(), y.ravel()], axis=1)).sum()
    assert total == pytest.approx(510_065_621_724_089, rel=1e-4)


def test_the_antimeridian_is_no_edge() -> None:
    """A pixel that straddles 180° has the area of its neighbour."""
    units = ground_units("EPSG:3832", (1000.0, 0.0, 3_000_000.0, 0.0, -1000.0, 1_000.0))
    xs = np.linspace(0, 1000, 2001)
    areas = units.pixel_areas(np.stack([xs, np.zeros_like(xs)], axis=1))
    assert np.ptp(areas) < 1e-3 * areas.mean()


def test_an_unknown_reference_system_leaves_pixels_and_says_so() -> None:
    """No metres are made up; one line names the system."""
    units = units_of(ImageMetadata(crs="EPSG:999999", transform=(1.0, 0, 0, 0, -1.0, 0)))
    assert units.area == "px²"
    assert "EPSG:999999" in units.note


def test_without_rasterio_the_note_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map is then measured in pixels, and the pip command is given."""
    monkeypatch.setitem(sys.modules, "rasterio.crs", None)
    units = units_of(ImageMetadata(crs="EPSG:32617", transform=(1.0, 0, 0, 0, -1.0, 0)))
    assert units.area == "px²"
    assert "pip install 'tilevision[geo]'" in units.note


@pytest.mark.parametrize(
    ("crs", "transform", "microns"),
    [
        ("EPSG:32617", (0.5, 0, 500_000, 0, -0.5, 3_000_000), 0.5e6 / 0.9996),
        # A degree of longitude at 60° north is half of one at the equator, and 1.4 mm more.
        ("EPSG:4326", (0.001, 0, 10.0, 0, -0.001, 60.0), 111_319.49e3 * 0.50125),
    ],
)
def test_a_pixels_width_is_measured_on_the_ground(crs, transform, microns) -> None:
    """Along a row of the image, whatever the projection makes of it."""
    across = pixel_width(ImageMetadata(crs=crs, transform=transform))
    assert across(0.0, 0.0) == pytest.approx(microns, rel=1e-3)


def test_a_pixels_width_where_it_is_the_same_everywhere_or_unknown() -> None:
    """A slide says so, a plain picture says nothing."""
    assert pixel_width(ImageMetadata(mpp=(0.5, 0.25)))(7.0, 9.0) == 0.5
    assert pixel_width(ImageMetadata()) is None
