"""Which tiles an image becomes: a grid at one scale or several, and the whole image if wanted."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tilevision.errors import GridError
from tilevision.geometry import Box
from tilevision.grid import DEFAULT_TILE, Grid, Tile
from tilevision.modelspec import ModelSpec
from tilevision.pipeline.settings import Settings
from tilevision.regions import Region
from tilevision.sources import ImageSource

__all__ = ["Tiling", "check_even", "decide", "misfits", "outside", "uncollected"]

MAGNIFICATION_MPP = 10.0  # a 10x objective is taken as 1 µm per pixel, as slide scanners do
SHRINK_LIMIT = 2.0
MPP_TOLERANCE = 1.25
LARGEST_SCALE = 8.0
_OFF = 0.1  # pixels by which tiles may begin off their model's stride


@dataclass(frozen=True, slots=True)
class Tiling:
    """A grid, and at which scales it is laid.

    Parameters
    ----------
    grid : Grid
    scales : tuple of float
        Output pixels per image pixel; the grid is laid once for each.
    whole : float, optional
        Scale at which the whole image is one tile more, for objects larger than a tile.
    lattice : bool
        Whether tiles lie on the pixels of one map, as far as that can be.
    stride : int
        Tiles begin at multiples of so many output pixels, as far as that can be.
    """

    grid: Grid
    scales: tuple[float, ...] = (1.0,)
    whole: float | None = None
    lattice: bool = False
    stride: int = 1

    def tiles(self, size: tuple[int, int]) -> tuple[Tile, ...]:
        """Return the tiles of an image of `size` (width, height), each region once.

        Tiles of the second scale have ids like ``s1r000c000``; the whole image is ``whole``.

        Raises
        ------
        GridError
            If the grid does not fit the image.
        """
        tiles: dict[tuple[float, ...], Tile] = {}
        for number, scale in enumerate(self.scales):
            for tile in self._laid(size, scale):
                named = replace(tile, id=f"s{number}{tile.id}") if number else tile
                tiles.setdefault(tile.region, named)
        if self.whole is not None:
            everything = Tile(0, 0, Box(0, 0, *size), self.whole, "whole")
            tiles.setdefault(everything.region, everything)
        return tuple(tiles.values())

    def _laid(self, size: tuple[int, int], scale: float) -> tuple[Tile, ...]:
        tiles = self.grid.tiles(size, scale, self.stride)
        if not self.lattice:
            return tiles
        from tilevision.pipeline.lattice import on_lattice

        return on_lattice(tiles, size, equal=self.grid.tile is not None)

    def __str__(self) -> str:
        parts = [str(self.grid)]
        if self.scales != (1.0,):
            parts.append("at scale " + " and ".join(f"{scale:g}" for scale in self.scales))
        if self.stride > 1:
            parts.append(f"from multiples of {self.stride} px")
        if self.whole is not None:
            parts.append(f"and the whole image at scale {self.whole:.3g}")
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` reads them back."""
        told = {"grid": self.grid.to_dict(), "scales": list(self.scales), "whole": self.whole}
        told |= {"lattice": True} if self.lattice else {}
        return told | ({"stride": self.stride} if self.stride > 1 else {})

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Tiling:
        """Read what `to_dict` wrote."""
        grid, scales = Grid.from_dict(raw["grid"]), tuple(map(float, raw["scales"]))
        return cls(grid, scales, raw["whole"], raw.get("lattice", False), raw.get("stride", 1))


def decide(
    settings: Settings, source: ImageSource, spec: ModelSpec
) -> tuple[Tiling, tuple[str, ...]]:
    """Return the tiling that was asked for, and what the user should be told about it.

    Raises
    ------
    GridError
        If grid or resolution cannot be understood, or the image lacks what they need.
    SourceError
        If an adaptive grid looks at the image and it cannot be read.
    """
    asked = settings.resolution
    values = asked if isinstance(asked, (list, tuple)) else [asked]
    if not values:
        raise GridError("resolution is empty; give one or several, as [1.0, 0.25].")
    told = [_scale(value, source, spec) for value in values]
    scales = tuple(dict.fromkeys(scale for scale, _ in told))
    if spec.raster is not None:
        check_even(settings, scales, spec)
        laid = Tiling(_grid(settings.grid, spec), scales, stride=spec.stride or 1)
        tiling, off = _of_map(laid, source)
        notes = [*(note for _, notes in told for note in notes), *off]
        shrunk = _shrink_note(tiling.grid, source.size, tiling.scales[0], spec)
        begun = _stride_note(tiling, source.size, spec)
        return tiling, (*notes, *_enlarged(tiling.scales), *shrunk, *begun)
    grid = _grid(settings.grid, spec).fitted(source)
    whole = _whole_scale(grid, source.size, min(scales)) if settings.full_image else None
    notes = [note for _, notes in told for note in notes]
    notes += _enlarged(scales)
    tiling = Tiling(grid, scales, whole, stride=spec.stride or 1)
    notes += _shrink_note(grid, source.size, scales[0], spec)
    return tiling, (*notes, *_stride_note(tiling, source.size, spec))


def _enlarged(scales: tuple[float, ...]) -> list[str]:
    if max(scales) <= MPP_TOLERANCE:
        return []
    return [
        f"Pixels are enlarged {max(scales):.1f} times: this takes more tiles and shows no "
        "more detail than the file has."
    ]


def _of_map(tiling: Tiling, source: ImageSource) -> tuple[Tiling, list[str]]:
    """Return the tiling for a model that gives a map, and what to say of that.

    Its scale divides pixels evenly where that is nearly so, and tiles lie on the map's pixels. No
    other model's tiles change: theirs are found by where they always were.
    """
    from tilevision.pipeline.lattice import NEAR, residual, snapped

    (asked,) = tiling.scales
    levels = source.metadata.levels or (source.size,)
    scale = snapped(asked, [width / source.size[0] for width, _ in levels])
    notes = []
    if scale != asked:
        notes.append(
            f"The map has scale {scale:.4g} in place of {asked:.4g}: its pixels are then whole "
            "pixels of the image."
        )
    made = replace(tiling, scales=(scale,), lattice=scale != 1)
    off, last = residual(made.tiles(source.size), source.size) if made.lattice else (0.0, 0.0)
    if off <= NEAR + 1e-9 < last:
        notes.append(
            f"The image is no whole number of the map's pixels at scale {scale:.4g}: in the last "
            f"row or column of tiles they lie up to {last:.2g} of a pixel off."
        )
    elif off > NEAR + 1e-9:
        notes.append(
            f"Tiles lie up to {off:.2g} pixels off the pixels of the map at scale {scale:.4g}; a "
            "resolution of 1, 1/2, 1/3, … of the image's avoids that."
        )
    return made, notes


def check_even(settings: Settings, scales: tuple[float, ...], spec: ModelSpec) -> None:
    """Refuse what gives no one map: tiles of several scales or sizes.

    Raises
    ------
    GridError
    """
    adaptive = settings.grid is not None and Grid.parse(settings.grid).quadtree is not None
    several = {
        "an adaptive grid": adaptive,
        "several resolutions": len(scales) > 1,
        "full_image=True": bool(settings.full_image),
    }
    for what, asked in several.items():
        if asked:
            raise GridError(
                f"Model {spec.name} gives a map, which has tiles of one size and scale, not "
                f"{what}; give one resolution and a grid as '8x8' or 640."
            )


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python from looking for cycles among the tiles that are made meanwhile: there are none.

    It would look through all that the process holds, several times, which takes as long as to make
    them, or longer.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def outside(region: Region | None, tiles: tuple[Tile, ...]) -> frozenset[Tile]:
    """Return the tiles that share no area with the region, so that nothing is read of them."""
    if region is None:
        return frozenset()
    touched = region.touches(tiles).tolist()
    return frozenset(tile for tile, wanted in zip(tiles, touched, strict=True) if not wanted)


def _grid(value: Any, spec: ModelSpec) -> Grid:
    if value is not None:
        return Grid.parse(value)
    return Grid.by_tile(spec.input_size or DEFAULT_TILE)


def _whole_scale(grid: Grid, size: tuple[int, int], scale: float) -> float:
    """Return the scale at which the whole image is as large as one tile."""
    width, height = _largest(grid, size, scale)
    return min(scale, width / size[0], height / size[1])


def _largest(grid: Grid, size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the output size of the largest tile; those of an adaptive grid differ."""
    tiles = grid.tiles(size, scale)
    largest = tiles[0] if grid.quadtree is None else max(tiles, key=lambda tile: tile.box.area)
    return largest.output_size


def _scale(value: Any, source: ImageSource, spec: ModelSpec) -> tuple[float, tuple[str, ...]]:
    """Turn a resolution into output pixels per image pixel, with what should be told."""
    mpp = source.metadata.mpp
    if value is None:
        if spec.mpp is None:
            return 1.0, ()
        return _by_mpp(spec.mpp, mpp, f"Model {spec.name} works at {spec.mpp} µm per pixel"), ()
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(mpp|x)\s*", value.lower())
        if match and float(match[1]) > 0:
            number, who = float(match[1]), f"resolution is {value!r}"
            if match[2] == "mpp":
                return _by_mpp(number, mpp, who), ()
            target = MAGNIFICATION_MPP / number
            note = f"resolution={value} is taken as {target:g} µm per pixel."
            return _by_mpp(target, mpp, who), (note,)
    elif isinstance(value, int) and not isinstance(value, bool):
        levels = source.metadata.levels or (source.size,)
        if 0 <= value < len(levels):
            return levels[value][0] / source.size[0], ()
        raise GridError(
            f"resolution is level {value}, which is not in the file; it has 0 to {len(levels) - 1}."
        )
    elif isinstance(value, float) and 0 < value <= LARGEST_SCALE:
        return value, ()
    raise GridError(
        f"resolution is {value!r:.80}; give '0.5mpp', '20x', a level as 0, 1, …, "
        "a scale as 0.5, or a list of these."
    )


def _by_mpp(target: float, mpp: tuple[float, float] | None, who: str) -> float:
    if mpp is None:
        raise GridError(f"{who}, but the image does not state its own; pass mpp=.")
    scale = (mpp[0] + mpp[1]) / 2 / target
    if scale > LARGEST_SCALE:
        raise GridError(
            f"{who}, but the image has {mpp[0]:g} µm per pixel: it would be enlarged "
            f"{scale:.0f} times; give a coarser resolution."
        )
    return scale


def misfits(tiling: Tiling, source: ImageSource, spec: ModelSpec) -> tuple[str, ...]:
    """Return what should be told of a model that gets tiles which were laid for another one."""
    notes = _shrink_note(tiling.grid, source.size, tiling.scales[0], spec)
    notes += _stride_note(tiling, source.size, spec)
    mpp = source.metadata.mpp
    if spec.mpp is None or mpp is None:
        return notes
    given = (mpp[0] + mpp[1]) / 2 / tiling.scales[0]
    if 1 / MPP_TOLERANCE < given / spec.mpp < MPP_TOLERANCE:
        return notes
    return (
        *notes,
        f"Model {spec.name} was made for {spec.mpp:g} µm per pixel and gets {given:.3g}; give a "
        "resolution= that suits all models.",
    )


def _shrink_note(
    grid: Grid, size: tuple[int, int], scale: float, spec: ModelSpec
) -> tuple[str, ...]:
    if spec.input_size is None:
        return ()
    width, height = _largest(grid, size, scale)
    shrink = max(width / spec.input_size[0], height / spec.input_size[1])
    if shrink <= SHRINK_LIMIT:
        return ()
    return (
        f"Model {spec.name} will shrink tiles of {width}×{height} px {shrink:.1f} times to "
        f"{spec.input_size[0]}×{spec.input_size[1]}; small objects may be lost. Use smaller tiles.",
    )


def _stride_note(tiling: Tiling, size: tuple[int, int], spec: ModelSpec) -> tuple[str, ...]:
    """Return what should be told of tiles that do not begin where the model pools from."""
    wanted = spec.stride or spec.pools or 1
    inner, last = (0.0, 0.0) if wanted == 1 else _begun_off(tiling, size, wanted)
    if spec.stride is None:  # where tiles are is the user's to say: stored ones are found by it
        return (
            (
                f"Model {spec.name} pools {wanted} pixels into one, and tiles begin up to "
                f"{inner:.2g} pixels off multiples of that, where neighbours do not agree; declare "
                f"stride={wanted} with tv.model.",
            )
            if inner > _OFF
            else ()
        )
    if inner > _OFF:
        return (
            f"Tiles begin up to {inner:.2g} pixels off multiples of {wanted}, the stride of "
            f"model {spec.name}; a grid with less overlap, and a resolution of 1, 1/2, 1/3, …, "
            "avoid that.",
        )
    if last > _OFF:
        return (
            f"The last row or column of tiles begins {last:.2g} pixels off a multiple of "
            f"{wanted}, the stride of model {spec.name}, as it ends with the image; an image "
            "cut to a multiple of that avoids it.",
        )
    return ()


def _begun_off(tiling: Tiling, size: tuple[int, int], stride: int) -> tuple[float, float]:
    """Return how many pixels tiles begin off multiples of a stride: the inner, and the last."""
    inner = last = 0.0
    for tile in tiling.tiles(size):
        box = tile.box
        for start, stop, length in ((box.x0, box.x1, size[0]), (box.y0, box.y1, size[1])):
            place = start * tile.scale
            off = abs(place - round(place / stride) * stride)
            if stop < length or tiling.grid.tile is None:
                inner = max(inner, off)
            else:
                last = max(last, off)
    return inner, last
