"""The dense head's network and one epoch of its training, in Keras and TensorFlow (imported on first use).

An epoch is one compiled function of tensors, without variables: weights in, weights out. So a second fit of
the same shape reuses the first one's graph, an earlier epoch is restored by keeping its tensors, and fits in
several threads cannot meet.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# Adam as Keras has it by default (Kingma & Ba, arXiv:1412.6980; the form before section 2.1).
_MOMENTUM, _VARIANCE_MOMENTUM, _EPSILON = 0.9, 0.999, 1e-7


class State(NamedTuple):
    """All that training changes."""

    weights: list  # trainable, in the network's order
    statistics: list  # moving averages of the batch norms, state of the dropout's generator
    first: list  # Adam's moments, one for each weight
    second: list
    step: Any  # float32 scalar


class Rows(NamedTuple):
    """Scaled training rows by image, as in `classify.heads.rows.ImageRows`, and plain validation rows."""

    X: Any  # (n_rows, n_features) float32, the rows of an image side by side
    start: Any  # (n_images,) int64
    count: Any  # (n_images,) int64
    y: Any  # (n_images,) int64
    X_val: Any  # (n_val, n_features) float32
    y_val: Any  # (n_val,) int64
    class_weight: Any  # (n_classes,) float32


def as_tensors(**arrays: Any) -> Rows:
    """Return the fields of `Rows` as tensors of their types, on the device that training will use."""
    import tensorflow as tf

    floats = ("X", "X_val", "class_weight")
    return Rows(**{k: tf.cast(v, tf.float32 if k in floats else tf.int64) for k, v in arrays.items()})


def scaling_layers(X: np.ndarray, scaling: str) -> list[keras.layers.Layer]:
    """Return the layers that scale raw features, fitted on X (n_rows, n_features), float32.

    "standardise": each column to mean 0 and standard deviation 1; constant columns to 0, as scikit-learn has
    it. "l2": each row to length 1, times a constant that brings the columns to the size batch norm's epsilon
    expects.
    """
    import keras

    if scaling == "l2":
        return [
            keras.layers.UnitNormalization(name="unit_length"),
            keras.layers.Rescaling(float(X.shape[1]) ** 0.5, name="rescale"),
        ]
    mean, variance = X.mean(axis=0, dtype=np.float64), X.var(axis=0, dtype=np.float64)
    # A constant column's mean is rounded to float32 too: divided by nearly nothing, that rounding would be
    # data.
    variance[variance <= (1e-6 * mean) ** 2] = 1.0
    return [keras.layers.Normalization(mean=mean, variance=variance, name="standardise")]


def build_network(
    n_features: int,
    n_classes: int,
    *,
    units: Sequence[int],
    dropout: float,
    seed: int,
    before: Sequence[keras.layers.Layer] = (),
) -> keras.Sequential:
    """Return the network, its weights drawn: batch norm, ReLU layers, batch norm, dropout, class layer.

    Parameters
    ----------
    n_features, n_classes : int
        Two classes get one sigmoid unit, the probability of the second; more get a softmax.
    units : sequence of int
        Widths of the ReLU layers.
    dropout : float
        Share of the last layer's inputs that is dropped in training.
    seed : int
    before : sequence of layers
        Put between input and first batch norm; no weights are learned there.
    """
    import keras

    layers = keras.layers
    seeds = [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(len(units) + 2)]

    def dense(width: int, activation: str, index: int, name: str) -> keras.layers.Layer:
        first = keras.initializers.GlorotUniform(seed=seeds[index])
        return layers.Dense(width, activation=activation, kernel_initializer=first, name=name)

    width, activation = (1, "sigmoid") if n_classes == 2 else (n_classes, "softmax")
    return keras.Sequential(
        [
            keras.Input((n_features,), dtype="float32", name="features"),
            *before,
            layers.BatchNormalization(name="norm_features"),
            *[dense(size, "relu", i, f"dense_{i + 1}") for i, size in enumerate(units)],
            layers.BatchNormalization(name="norm_dense"),
            layers.Dropout(dropout, seed=seeds[-1], name="dropout"),
            dense(width, activation, len(units), "probabilities"),
        ],
        name="dense_head",
    )


def first_state(network: keras.Sequential) -> State:
    """Return the state that training of a fresh network starts from."""
    import tensorflow as tf

    weights = [tf.identity(v.value) for v in network.trainable_variables]
    return State(
        weights=weights,
        statistics=[tf.identity(v.value) for v in network.non_trainable_variables],
        first=[tf.zeros_like(w) for w in weights],
        second=[tf.zeros_like(w) for w in weights],
        step=tf.constant(0.0),
    )


def set_state(network: keras.Sequential, state: State) -> None:
    """Put trained weights and statistics into the network."""
    for variable, value in zip(network.trainable_variables, state.weights, strict=True):
        variable.assign(value)
    for variable, value in zip(network.non_trainable_variables, state.statistics, strict=True):
        variable.assign(value)


@functools.lru_cache(maxsize=16)
def epoch_function(n_features: int, n_classes: int, units: tuple[int, ...], dropout: float) -> Callable:
    """Return the compiled ``epoch(state, rows, seed, batch_size, learning_rate) -> (state, figures)``.

    Every epoch draws one view of each image and the order of the images from `seed` (2 int32). It makes as
    many steps as full batches and a rest would, but of sizes equal to within one: a rest of one image would
    leave batch norm without a variance, and a short one would weigh its images more than others. `figures` is
    a float32 tensor: loss and accuracy over the epoch's own batches, then loss and accuracy on the validation
    rows afterwards.
    """
    import tensorflow as tf

    network = build_network(n_features, n_classes, units=units, dropout=dropout, seed=0)

    def step(state: State, X: tf.Tensor, y: tf.Tensor, weight: tf.Tensor, rate: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(state.weights)
            probabilities, statistics = network.stateless_call(
                state.weights, state.statistics, X, training=True
            )
            loss, correct = _sums(probabilities, y, weight)
            mean_loss = loss / tf.cast(tf.size(y), tf.float32)
        gradients = tape.gradient(mean_loss, state.weights)
        return _adam(state._replace(statistics=statistics), gradients, rate), loss, correct

    def epoch(
        state: State, rows: Rows, seed: tf.Tensor, batch_size: tf.Tensor, rate: tf.Tensor
    ) -> tuple[State, tf.Tensor]:
        n = tf.size(rows.y, out_type=tf.int64)
        order_seed, view_seed = tf.unstack(tf.random.split(seed, 2))
        order = tf.argsort(tf.random.stateless_uniform([n], order_seed), stable=True)
        draw = tf.random.stateless_uniform([n], view_seed, dtype=tf.float64)
        row = rows.start + tf.cast(draw * tf.cast(rows.count, tf.float64), tf.int64)  # (n_images,)
        n_batches = (n + batch_size - 1) // batch_size
        loss, correct = tf.constant(0.0), tf.constant(0.0)
        for batch in tf.range(n_batches):
            image = order[batch * n // n_batches : (batch + 1) * n // n_batches]
            y = tf.gather(rows.y, image)
            X = tf.gather(rows.X, tf.gather(row, image))
            state, batch_loss, batch_correct = step(state, X, y, tf.gather(rows.class_weight, y), rate)
            loss, correct = loss + batch_loss, correct + batch_correct
        probabilities, _ = network.stateless_call(state.weights, state.statistics, rows.X_val, training=False)
        val = _sums(probabilities, rows.y_val, tf.gather(rows.class_weight, rows.y_val))
        n_val = tf.size(rows.y_val)
        shares = [loss / tf.cast(n, tf.float32), correct / tf.cast(n, tf.float32)]
        return state, tf.stack([*shares, *(value / tf.cast(n_val, tf.float32) for value in val)])

    specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, first_state(network))
    features, numbers = tf.TensorSpec([None, n_features]), tf.TensorSpec([None], tf.int64)
    rows = Rows(features, numbers, numbers, numbers, features, numbers, tf.TensorSpec([n_classes]))
    scalars = (tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.int64), tf.TensorSpec([]))
    return tf.function(epoch, input_signature=(specs, rows, *scalars))


def _sums(probabilities: tf.Tensor, y: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the sum of weighted cross-entropies (Keras takes the logits) and the number of right answers."""
    import keras
    import tensorflow as tf

    if probabilities.shape[-1] == 1:
        target = tf.cast(y, tf.float32)[:, None]
        losses = keras.losses.binary_crossentropy(target, probabilities)
        right = tf.equal(probabilities[:, 0] > 0.5, y > 0)
    else:
        losses = keras.losses.sparse_categorical_crossentropy(y, probabilities)
        right = tf.equal(tf.argmax(probabilities, axis=1), y)
    return tf.reduce_sum(losses * weight), tf.reduce_sum(tf.cast(right, tf.float32))


def _adam(state: State, gradients: list, rate: tf.Tensor) -> State:
    """One step of Adam. Keras' own optimizers cannot run without variables on TensorFlow; a test compares."""
    import tensorflow as tf

    step = state.step + 1.0
    scale = rate * tf.sqrt(1.0 - _VARIANCE_MOMENTUM**step) / (1.0 - _MOMENTUM**step)
    first = [m + (1.0 - _MOMENTUM) * (g - m) for m, g in zip(state.first, gradients, strict=True)]
    second = [
        v + (1.0 - _VARIANCE_MOMENTUM) * (g * g - v) for v, g in zip(state.second, gradients, strict=True)
    ]
    weights = [
        w - scale * m / (tf.sqrt(v) + _EPSILON) for w, m, v in zip(state.weights, first, second, strict=True)
    ]
    return State(weights, state.statistics, first, second, step)
