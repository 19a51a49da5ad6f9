"""One training step of the dense head, in plain TensorFlow operations (imported on first use).

They say what Keras' layers and optimizer do (a test compares them): that is traced in a third of the time,
and Adam's step, which moves most of the memory, becomes one fused operation in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from classify.heads.cumulative_link import (
    free_parameters,
    get_thresholds,
    has_link,
    log_probabilities,
    ordered_thresholds,
    set_thresholds,
)

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# Keras' defaults. Adam: Kingma & Ba, arXiv:1412.6980, the form before section 2.1.
_MOMENTUM, _VARIANCE_MOMENTUM, _EPSILON = 0.9, 0.999, 1e-7
_NORM_MOMENTUM, _NORM_EPSILON = 0.99, 1e-3


class State(NamedTuple):
    """All that training changes, as lists of `tf.Variable`; weights and moving are the network's own."""

    weights: list  # trainable, in the network's order; behind them, what gives a link's thresholds
    moving: list  # mean and variance of each batch norm, in the network's order
    first: list  # Adam's moments, one for each weight
    second: list
    best: list  # weights, then moving means and variances, of the best epoch
    steps: tf.Variable  # float32 scalar: steps done


def first_state(network: keras.Sequential) -> State:
    """Return the state that training of a fresh network starts from; it trains the network's own weights."""
    import tensorflow as tf

    norms = [network.get_layer(name) for name in ("norm_features", "norm_dense")]
    weights = [variable.value for variable in network.trainable_variables]
    if has_link(network):
        weights.append(tf.Variable(free_parameters(get_thresholds(network)), dtype=tf.float32))
    moving = [v.value for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
    first, second = ([tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2))
    best = [tf.Variable(value) for value in (*weights, *moving)]
    return State(weights, moving, first, second, best, steps=tf.Variable(0.0))


def take_best(state: State, network: keras.Sequential) -> None:
    """Put the best epoch's weights and statistics into the network."""
    for variable, value in zip((*state.weights, *state.moving), state.best, strict=True):
        variable.assign(value)
    if has_link(network):
        set_thresholds(network, ordered_thresholds(state.weights[-1].numpy()))


def make_step(
    state: State,
    X: tf.Tensor,
    y: tf.Tensor,
    weight: tf.Tensor,
    *,
    rate: tf.Tensor,
    mask_seed: tf.Tensor,
    dropout: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Make one step; return its sum of weighted losses and number of right answers."""
    import tensorflow as tf

    weights = [variable.read_value() for variable in state.weights]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        logits, moments = _forward(weights, X, mask_seed=mask_seed, dropout=dropout)
        loss, correct = _sums(logits, y, weight)
        mean_loss = loss / tf.cast(tf.size(y), tf.float32)
    gradients = tape.gradient(mean_loss, weights)
    step = state.steps.assign_add(1.0)
    for variable, first, second, gradient in zip(
        state.weights, state.first, state.second, gradients, strict=True
    ):
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=_MOMENTUM**step,
            beta2_power=_VARIANCE_MOMENTUM**step,
            lr=rate,
            beta1=_MOMENTUM,
            beta2=_VARIANCE_MOMENTUM,
            epsilon=_EPSILON,
            grad=gradient,
        )
    for average, value in zip(state.moving, moments, strict=True):
        average.assign(_NORM_MOMENTUM * average + (1.0 - _NORM_MOMENTUM) * value)
    return loss, correct


def validate(state: State, X: tf.Tensor, y: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the sum of weighted losses and the number of right answers on validation rows."""
    weights, moving = ([variable.read_value() for variable in part] for part in (state.weights, state.moving))
    logits, _ = _forward(weights, X, moving=moving)
    return _sums(logits, y, weight)


def keep_best(state: State) -> tf.Tensor:
    """Keep weights and statistics as the best epoch's; return True: a branch of a graph returns something."""
    import tensorflow as tf

    for kept, variable in zip(state.best, (*state.weights, *state.moving), strict=True):
        kept.assign(variable)
    return tf.constant(True)


def _forward(
    weights: Sequence[tf.Tensor],
    X: tf.Tensor,
    *,
    moving: Sequence[tf.Tensor] | None = None,
    mask_seed: tf.Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Return the logits, and the moments that the batch norms used: the batch's own where none are given."""
    import tensorflow as tf

    scale, shift, *dense, last_scale, last_shift, kernel, bias = weights
    X, moments = _normalise(X, moving and moving[:2])
    X = X * scale + shift
    for inner, inner_bias in zip(dense[::2], dense[1::2], strict=True):
        X = tf.nn.relu(X @ inner + inner_bias)
    X, last_moments = _normalise(X, moving and moving[2:])
    X = X * last_scale + last_shift
    if mask_seed is not None and dropout:
        kept = tf.random.stateless_uniform(tf.shape(X), mask_seed) >= dropout
        X = tf.where(kept, X / (1.0 - dropout), 0.0)
    linked = kernel.shape[-1] < bias.shape[0]  # one score, and several thresholds on it
    logits = log_probabilities(X @ kernel, bias) if linked else X @ kernel + bias
    return logits, [*moments, *last_moments]


def _normalise(X: tf.Tensor, moments: Sequence | None) -> tuple[tf.Tensor, Sequence]:
    import tensorflow as tf

    mean, variance = moments or tf.nn.moments(X, [0])
    return (X - mean) * tf.math.rsqrt(variance + _NORM_EPSILON), (mean, variance)


def _sums(logits: tf.Tensor, y: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the sum of weighted cross-entropies and the number of right answers."""
    import tensorflow as tf

    if logits.shape[-1] == 1:
        logits = logits[:, 0]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(y, tf.float32), logits)
        right = tf.equal(logits > 0, y > 0)
    else:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        right = tf.equal(tf.argmax(logits, axis=1), y)
    return tf.reduce_sum(losses * weight), tf.reduce_sum(tf.cast(right, tf.float32))
