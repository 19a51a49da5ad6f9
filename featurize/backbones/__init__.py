"""The backbones: registry, weights files, and the Keras networks built from them."""
