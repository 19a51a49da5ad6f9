"""Folders on disk: walking them, which is which split and class, and the order of classes."""
