"""Fanning tiles out on Dask: carries out what the scheduler decides."""

from tilevision.fanout.loop import run_tiles

__all__ = ["run_tiles"]
