"""Fanning tiles out on Dask: carries out what the scheduler decides."""

from tilevision.fanout.loop import TileSink, run_tiles

__all__ = ["TileSink", "run_tiles"]
