"""Image files: data sets, decoding to upright RGB pixels, augmented views, duplicates, scan."""
