"""The dense head: a Keras network as it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from classify.exporting.steps import Tensor


def dense(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `DenseHead`; arguments as `linear.logistic`."""
    import keras
    from keras import ops

    features = keras.Input(head.model_.input_shape[1:], dtype="float32", name=f"{name}_features")
    reached = features
    for layer in head.model_.layers:
        reached = _layer(layer, reached)
    network = keras.Model(features, reached, name=name)
    said = ops.cast(network(rows), "float64")
    if len(head.classes_) == 2:
        return ops.concatenate([ops.subtract(1.0, said), said], axis=1)
    return ops.divide(said, ops.sum(said, axis=1, keepdims=True))


def _layer(layer: Any, rows: Tensor) -> Tensor:
    """Return what a layer of the network makes of rows.

    Standardising is written out: the layer holds its numbers as tensors, which TensorFlow takes for further
    inputs of a graph that is frozen.
    """
    import keras
    from keras import ops

    if not isinstance(layer, keras.layers.Normalization):
        return layer(rows)
    scale = np.maximum(np.sqrt(np.asarray(layer.variance)), np.float32(keras.config.epsilon()))
    return ops.divide(ops.subtract(rows, np.asarray(layer.mean)), scale)
