"""Shared leaves: terminal, text, files, caches, cores, Dask. They import no other package of Folio."""
