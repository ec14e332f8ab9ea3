"""From whatever names an image to a source that reads it; and again on a worker."""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from tilevision.checks import whole
from tilevision.errors import SourceError
from tilevision.sources.addresses import is_address
from tilevision.sources.filetree import FileWatch
from tilevision.sources.formats.arrays.daskarray import is_dask_array, open_dask
from tilevision.sources.formats.arrays.dataarray import is_data_array, open_data_array
from tilevision.sources.identity import known_fingerprint
from tilevision.sources.levels import LevelReader
from tilevision.sources.source import ImageSource, SourceRef
from tilevision.sources.staging.staged import open_array

__all__ = ["Handles", "check_unchanged", "open_reference", "open_source"]


class Handles:
    """The images used last; what falls out closes itself when nobody reads it any more.

    Those with a file in the temp folder take as much of it as all their pixels, so fewer are
    kept, and none that has not been used for a while: after the last of many, no task may come.

    Parameters
    ----------
    most : int
        Images.
    most_staged : int
        Of those, with a file in the temp folder.
    patience : float
        Seconds for which such a one is kept unused.
    """

    def __init__(self, most: int, most_staged: int, patience: float) -> None:
        self._most = most
        self._most_staged = most_staged
        self._patience = patience
        self._sources: OrderedDict[Hashable, ImageSource] = OrderedDict()
        self._used: dict[Hashable, float] = {}  # those with a file, by when they were asked for
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def get(self, key: Hashable) -> ImageSource | None:
        """Return an image that is open, or None."""
        with self._lock:
            source = self._sources.get(key)
            if source is not None:
                self._touch(key)
            return source

    def keep(self, key: Hashable, source: ImageSource, instead: ImageSource | None) -> ImageSource:
        """Keep an image, or return the one that another thread has opened meanwhile.

        `instead` is what `get` returned, and shall not be used any more.
        """
        with self._lock:
            held = self._sources.get(key)
            if held is None or held is instead:
                self._sources[key] = held = source
            if getattr(source, "is_staged", False):
                self._used[key] = 0.0
            self._touch(key)
            staged = [one for one in self._sources if one in self._used]
            for old in staged[: -self._most_staged]:
                self._drop(old)
            while len(self._sources) > self._most:
                self._drop(next(iter(self._sources)))
            self._watch()
            return held

    def _touch(self, key: Hashable) -> None:
        self._sources.move_to_end(key)
        if key in self._used:
            self._used[key] = time.monotonic()

    def _drop(self, key: Hashable) -> None:
        del self._sources[key]
        self._used.pop(key, None)

    def _watch(self) -> None:
        if self._used and self._timer is None:
            self._timer = threading.Timer(self._patience, self._look)
            self._timer.daemon = True
            self._timer.start()

    def _look(self) -> None:
        with self._lock:
            old = time.monotonic() - self._patience
            for key in [key for key, used in self._used.items() if used <= old]:
                self._drop(key)
            self._timer = None
            self._watch()


_handles = Handles(most=8, most_staged=2, patience=60.0)


def open_source(
    image: Any,
    *,
    mpp: float | tuple[float, float] | None = None,
    page: int | None = None,
    dpi: float | None = None,
    z: int | None = None,
    t: int | None = None,
) -> ImageSource:
    """Open an image for reading by the window.

    Parameters
    ----------
    image : str, path, PIL.Image.Image, ndarray, Dask array, DataArray or ImageSource
        A file, here or at a URL (http, s3, gs, az or another protocol of fsspec's),
        in a format of the TIFF family (also OME-TIFF, SVS, GeoTIFF), ``.npy``, a Zarr or
        OME-Zarr folder, a slide that OpenSlide reads, a raster that GDAL reads, a PDF, a video,
        or PNG, JPEG, WebP, BMP or GIF; an array ``(h, w)`` or ``(h, w, c)``; an xarray.DataArray
        with axes y, x and at most one of bands, and the place in its coordinates; an object that
        already is a source is returned as it is.
    mpp : float or tuple of float, optional
        Microns per pixel (in x and y), where the file does not say or is wrong.
    page : int, optional
        Which page of a TIFF or PDF, or frame of a video, from 1; the same as ``"scan.pdf#page=3"``.
    dpi : float, optional
        Pixels per inch at which a page of a PDF is drawn; 200 where not given.
    z, t : int, optional
        Which plane and time of an image with such axes (OME-TIFF, OME-Zarr, ImageJ), from 0;
        instead of `page`.

    Raises
    ------
    SourceError
        If there is no such file, or it is not a picture that can be read.
    """
    resolution = _checked_mpp(mpp)
    if isinstance(image, (str, os.PathLike)):
        name = os.fsdecode(image)
        return _open_named(name, {"z": z, "t": t}, page=page, mpp=resolution, dpi=dpi)
    if (page, dpi, z, t) != (None,) * 4:
        raise SourceError(
            f"page=, dpi=, z= and t= only apply to files, not to a {type(image).__name__}."
        )
    if isinstance(image, np.ndarray):
        return open_array(image, mpp=resolution)
    if is_dask_array(image):
        return open_dask(image, mpp=resolution)
    if is_data_array(image):
        return open_data_array(image, mpp=resolution)
    if _is_pillow(image):
        from tilevision.sources.formats.flat import open_pillow

        return open_pillow(image, mpp=resolution)
    if isinstance(image, LevelReader):
        return image if resolution is None else image.at_resolution(resolution)
    if isinstance(image, ImageSource):
        if resolution is not None and resolution != image.metadata.mpp:
            raise SourceError(
                f"mpp={mpp} cannot be given to a {type(image).__name__} that is open already; "
                "set it in the metadata of your source."
            )
        return image
    raise SourceError(
        f"A {type(image).__name__} cannot be opened as an image; give a path, a PIL image, "
        "a numpy, Dask or xarray array (np.asarray(...) makes one of most things) or an "
        "ImageSource."
    )


def _open_named(
    name: str,
    asked: dict[str, int | None],
    *,
    page: int | None,
    mpp: tuple[float, float] | None,
    dpi: float | None,
) -> ImageSource:
    """Open a file or address: one of its pages, or that at these places along its axes."""
    # The code of all formats is imported once an image is opened.
    opener: Callable[..., ImageSource]
    if is_address(name):
        from tilevision.sources.remote.remoteopening import open_remote as opener
    else:
        from tilevision.sources.localfiles import open_local as opener
    for axis, place in asked.items():
        if place is not None:
            whole(axis, place, SourceError, least=0)
    if all(place is None for place in asked.values()):
        return opener(name, page=page, mpp=mpp, dpi=dpi)
    first = opener(name, mpp=mpp)
    number = 0
    for axis, length in first.metadata.planes:
        place = asked.pop(axis, None) or 0
        if not 0 <= place < length:
            raise SourceError(
                f"{name} has {length} planes along {axis}, counted from 0; there is no {place}."
            )
        number = number * length + place
    missing = [axis for axis, place in asked.items() if place]
    if missing or page is not None:
        there = ", ".join(axis for axis, _ in first.metadata.planes) or "none"
        raise SourceError(
            f"{name}: give either page= or the place along its axes ({there})."
            if page is not None
            else f"{name} has no axis {missing[0]} (its planes lie along: {there}); leave out "
            f"{missing[0]}=."
        )
    if not number:
        return first
    first.close()
    return opener(name, page=number + 1, mpp=mpp)


def open_reference(ref: SourceRef) -> ImageSource:
    """Open on a worker the image that `ref` was taken from.

    The last few sources stay open in this process; each call makes sure that the file is
    still the one the reference was taken from.

    Raises
    ------
    SourceError
        If the file is not there, or its content is another by now.
    """
    told = repr((ref.opener, ref.path, sorted(ref.options.items()), ref.fingerprint))
    key = told, ref.options.get("address")  # whose text hides what opens it
    _check_stamp(ref)
    kept = _handles.get(key)
    if kept is not None and _files_unchanged(kept):
        return kept
    source = _opener(ref.opener)(ref.path, **ref.options)
    if ref.fingerprint and source.fingerprint != ref.fingerprint:
        raise _changed(ref)
    return _handles.keep(key, source, instead=kept)


def _is_pillow(image: Any) -> bool:
    from PIL import Image

    return isinstance(image, Image.Image)


def _checked_mpp(mpp: float | tuple[float, float] | None) -> tuple[float, float] | None:
    if mpp is None:
        return None
    try:
        both = np.broadcast_to(np.asarray(mpp, np.float64), 2)
    except (TypeError, ValueError):
        both = np.zeros(2)
    if not (np.isfinite(both).all() and (both > 0).all()):
        raise SourceError(f"mpp={mpp!r} is not valid; give microns per pixel, or (x, y) of them.")
    return float(both[0]), float(both[1])


def _opener(name: str) -> Callable[..., ImageSource]:
    module, _, function = name.partition(":")
    try:
        opener: Callable[..., ImageSource] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SourceError(
            f"The opener {name!r} cannot be imported here ({error}); it has to be "
            "'package.module:function', importable on every worker."
        ) from error
    return opener


def check_unchanged(ref: SourceRef) -> None:
    """Check that an image which was read is still the one that `ref` was taken from.

    What is read while a file is being replaced would otherwise pass for the old content.

    Raises
    ------
    SourceError
        If the file is not there, or its content is another by now.
    """
    open_reference(ref)


def _files_unchanged(source: ImageSource) -> bool:
    """Return True if an image of several files is as it was opened; others have a stamp."""
    watch: FileWatch | None = getattr(source, "watch", None)
    return watch is None or watch.unchanged()


def _check_stamp(ref: SourceRef) -> None:
    stamp = ref.options.get("stamp")
    known = ref.options.get("fingerprint", ref.fingerprint)  # the file's, not only a page's
    if stamp is not None and known_fingerprint(ref.path, stamp, known) != known:
        raise _changed(ref)


def _changed(ref: SourceRef) -> SourceError:
    return SourceError(
        f"{ref.path} has changed since it was opened: its content is not the same any more; "
        "open it again to analyse the new content."
    )
