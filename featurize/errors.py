"""What can go wrong, by room. The command line prints any of these as one line and exits 1."""

from __future__ import annotations


class FolioError(Exception):
    """A problem the user can act on; its text says what, where, what was expected and what to type next."""


class DatasetError(FolioError):
    """A folder tree that is not a data set."""


class ImageError(FolioError):
    """An image file that cannot be used."""


class StoreError(FolioError):
    """A file that is not the store it should be."""


class ConfigError(FolioError):
    """An option, or a combination of options, that makes no sense."""


class WeightsError(FolioError):
    """Weights that are missing, damaged or made for another network."""


class EngineError(FolioError):
    """A device or engine that cannot do what was asked."""


class ClusterError(FolioError):
    """A Dask cluster that cannot be reached, or cannot do the work."""
