"""Training and test samples from stores: feature rows, labels, groups, folds."""

JOINS = ("probabilities", "features")  # option --join: what is averaged over the images of an entry
ENTRIES = ("folder", "image")  # option --entries: an entry is a sub-folder of the given folder, or an image
