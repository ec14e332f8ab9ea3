"""Arrays: Zarr stores, NumPy files, Dask arrays."""
