"""Dask arrays: computed once, block of rows by block of rows, into a staging file."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tilevision.errors import Failure, SourceError
from tilevision.sources.identity import fingerprint_of_array, row_blocks
from tilevision.sources.source import Pixels, check_image_shape
from tilevision.sources.staging.maskedarray import filled_with_nan
from tilevision.sources.staging.staged import StagedSource, staged_source
from tilevision.sources.staging.stagingfile import stage

__all__ = ["is_dask_array", "open_dask"]


def is_dask_array(image: Any) -> bool:
    """Say whether `image` is a Dask array, without importing Dask."""
    return type(image).__module__.startswith("dask.array") and hasattr(image, "chunks")


def open_dask(
    array: Any,
    *,
    mpp: tuple[float, float] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> StagedSource:
    """Compute a Dask array into a staging file that workers can read; never whole in memory.

    A graph may hold anything, so it does not travel with the tiles. An array that lies in a
    Zarr store is read without a copy when the path of the store is given instead.

    Parameters
    ----------
    array : dask.array.Array, ``(h, w)`` or ``(h, w, c)``
    mpp : tuple of float, optional
        Microns per pixel in x and y.
    facts : mapping, optional
        As `tilevision.sources.staging.staged.open_array` takes them.

    Raises
    ------
    SourceError
        If it is no image, its shape is not known, or it cannot be computed.
    """
    if any(side != side for side in array.shape):  # NaN: known only once it is computed
        raise SourceError(
            "The Dask array has an unknown shape; call its compute_chunk_sizes() first."
        )
    if array.ndim == 2:
        array = array[..., None]
    check_image_shape(array.shape, array.dtype, "the Dask array")
    height, width, bands = map(int, array.shape)

    def write(out: Pixels) -> Iterator[int]:
        for start, stop in _blocks(array):
            try:
                rows = array[start:stop].compute(scheduler="threads")
            except Exception as error:
                raise SourceError(
                    f"Rows {start} to {stop} of the Dask array cannot be computed: "
                    f"{Failure.of(error)}"
                ) from error
            out[start:stop] = filled_with_nan(rows, "Dask array")
            yield stop

    # The name that Dask gives an array need not follow its values.
    staged = stage(
        f"dask-{uuid.uuid4().hex}", (height, width, bands), array.dtype.newbyteorder("="), write
    )
    fingerprint = fingerprint_of_array(np.load(staged.path, mmap_mode="r"))
    options = {"mpp": mpp, "file_format": "Dask array", "orientation": 1}
    return staged_source(staged, fingerprint, options, facts)


def _blocks(array: Any) -> Iterator[tuple[int, int]]:
    """Yield ``(start, stop)`` rows: a row of chunks at a time, or the usual block if larger."""
    usual = next(row_blocks(array.shape[0], array.nbytes))[1]
    start = stop = 0
    for rows in array.chunks[0]:
        stop += int(rows)
        if stop - start >= usual:
            yield start, stop
            start = stop
    if stop > start:
        yield start, stop
