"""The frozen networks: registry, weights, and the Keras networks built from them."""
