"""The choices there are for entries of several images: words that commands and files share."""

JOINS = ("probabilities", "features")  # what is averaged over an entry's images
ENTRIES = ("folder", "image")  # what is graded: each sub-folder of a given folder, or each image
