"""Use of bundles on new images: predict, export, serve."""
