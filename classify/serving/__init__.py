"""The local page and its JSON endpoint: images in, grades out, nothing kept."""
