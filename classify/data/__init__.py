"""Stores as samples: rows, labels, groups, folds."""

JOINS = ("probabilities", "features")  # what is averaged over an entry's images


ENTRIES = ("folder", "image")  # what is graded: each sub-folder of a given folder, or each image
