"""Protocol, grid search, and fitting as tasks over cores or Dask workers."""
