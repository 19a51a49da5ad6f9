"""Module."""

from __future__ import annotations

from featurize.errors import FolioError


class BundleError(FolioError):
    """A bundle that cannot be loaded or does not fit the features."""


class CompareError(FolioError):
    """Stores, heads or folds that cannot be compared."""


class ExportError(FolioError):
    """A bundle that cannot be turned into what another runtime loads."""
