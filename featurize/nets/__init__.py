"""Backbone and weights to a Keras network; importing this package imports no Keras."""
