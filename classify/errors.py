"""Errors of classify."""

from __future__ import annotations

from featurize.errors import FolioError


class BundleError(FolioError):
    """A bundle cannot be loaded, or does not match the features."""


class CompareError(FolioError):
    """Stores, heads or options do not allow a comparison or a fit."""


class ExportError(FolioError):
    """A bundle cannot be exported."""
