"""A look at a folder of images before any compute: behind ``featurize scan``."""
