"""Basic modules for both packages: terminal, text, files, cache, CPU cores, Dask, project.

They import nothing of Folio except its errors and version.
"""
