"""Errors of Folio. The command line prints each as one line and exits with code 1."""

from __future__ import annotations


class FolioError(Exception):
    """Base class of all errors that a user can act on.

    The message states what was found, where, what was expected and what to type next.
    """


class DatasetError(FolioError):
    """A folder that is not a valid data set."""


class ImageError(FolioError):
    """An image file that cannot be used."""


class StoreError(FolioError):
    """A store that is missing, damaged, in use, or made with another config."""


class ConfigError(FolioError):
    """An invalid option or combination of options."""


class WeightsError(FolioError):
    """Weights that are missing, damaged or belong to another network."""


class EngineError(FolioError):
    """A device or inference engine that is unavailable or cannot run the network."""


class ClusterError(FolioError):
    """A Dask cluster that cannot be reached or cannot complete the work."""
