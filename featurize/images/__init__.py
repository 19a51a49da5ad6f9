"""Folders of files to upright RGB pixels and augmented views, or a named reason why not."""
