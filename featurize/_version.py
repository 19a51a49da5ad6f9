"""The version of Folio."""

__version__ = "0.1.0"
