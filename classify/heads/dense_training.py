"""Training of the dense head in plain TensorFlow operations (imported on first use).

The operations compute what Keras' layers and optimizer compute, which a test verifies. They are traced in a
third of the time, and Adam's update, which moves most of the memory, is one fused in-place operation.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from classify.heads.base import FitError
from classify.heads.cumulative_link import (
    free_parameters,
    get_thresholds,
    has_link,
    log_probabilities,
    ordered_thresholds,
    set_thresholds,
)
from classify.heads.dense_network import build_network

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


# Defaults of Keras. Adam: Kingma & Ba, arXiv:1412.6980, in the form given just before section 2.1.
_MOMENTUM, _VARIANCE_MOMENTUM, _EPSILON = 0.9, 0.999, 1e-7
_NORM_MOMENTUM, _NORM_EPSILON = 0.99, 1e-3


class TrainingState(NamedTuple):
    """Variables updated by training, as lists of `tf.Variable`; weights and moving belong to the network."""

    weights: list  # trainable, in the order of the network; with a cumulative link its free parameters follow
    moving: list  # moving mean and variance of each batch norm, in the order of the network
    first: list  # Adam's first moments, one per weight
    second: list  # Adam's second moments
    best: list  # weights, then moving means and variances, of the best epoch
    steps: tf.Variable  # float32 scalar: number of steps


def initial_state(network: keras.Sequential) -> TrainingState:
    """Return the initial training state of a new network; training updates the network in place."""
    import tensorflow as tf

    norms = [network.get_layer(name) for name in ("norm_features", "norm_dense")]
    weights = [variable.value for variable in network.trainable_variables]
    if has_link(network):
        weights.append(tf.Variable(free_parameters(get_thresholds(network)), dtype=tf.float32))
    moving = [v.value for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
    first, second = ([tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2))
    best = [tf.Variable(value) for value in (*weights, *moving)]
    return TrainingState(weights, moving, first, second, best, steps=tf.Variable(0.0))


def restore_best(state: TrainingState, network: keras.Sequential) -> None:
    """Set the weights and moving statistics of the network to those of the best epoch."""
    for variable, value in zip((*state.weights, *state.moving), state.best, strict=True):
        variable.assign(value)
    if has_link(network):
        set_thresholds(network, ordered_thresholds(state.weights[-1].numpy()))


def train_step(
    state: TrainingState,
    X: tf.Tensor,
    y: tf.Tensor,
    weight: tf.Tensor,
    *,
    rate: tf.Tensor,
    mask_seed: tf.Tensor,
    dropout: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Train on one batch; return its sum of weighted losses and its number of correct predictions."""
    import tensorflow as tf

    weights = [variable.read_value() for variable in state.weights]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        logits, moments = _forward(weights, X, mask_seed=mask_seed, dropout=dropout)
        loss, correct = _loss_and_correct(logits, y, weight)
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


def validate(
    state: TrainingState, X: tf.Tensor, y: tf.Tensor, weight: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the sum of weighted losses and the number of correct predictions on validation rows."""
    weights, moving = ([variable.read_value() for variable in part] for part in (state.weights, state.moving))
    logits, _ = _forward(weights, X, moving=moving)
    return _loss_and_correct(logits, y, weight)


def save_best(state: TrainingState) -> tf.Tensor:
    """Save weights and moving statistics as the best ones; return True, because `tf.cond` needs a value."""
    import tensorflow as tf

    for saved, variable in zip(state.best, (*state.weights, *state.moving), strict=True):
        saved.assign(variable)
    return tf.constant(True)


def _forward(
    weights: Sequence[tf.Tensor],
    X: tf.Tensor,
    *,
    moving: Sequence[tf.Tensor] | None = None,
    mask_seed: tf.Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Return the logits (with a cumulative link the log probabilities) and the moments used by batch norm.

    The moments are those of the batch unless `moving` is given.
    """
    import tensorflow as tf

    scale, shift, *dense, last_scale, last_shift, kernel, bias = weights
    X, moments = _normalise(X, moving and moving[:2])
    X = X * scale + shift
    for inner, inner_bias in zip(dense[::2], dense[1::2], strict=True):
        X = tf.nn.relu(X @ inner + inner_bias)
    X, last_moments = _normalise(X, moving and moving[2:])
    X = X * last_scale + last_shift
    if mask_seed is not None and dropout:
        mask = tf.random.stateless_uniform(tf.shape(X), mask_seed) >= dropout
        X = tf.where(mask, X / (1.0 - dropout), 0.0)
    has_cumulative_link = kernel.shape[-1] < bias.shape[0]  # one score, and several thresholds
    logits = log_probabilities(X @ kernel, bias) if has_cumulative_link else X @ kernel + bias
    return logits, [*moments, *last_moments]


def _normalise(X: tf.Tensor, moments: Sequence | None) -> tuple[tf.Tensor, Sequence]:
    import tensorflow as tf

    mean, variance = moments or tf.nn.moments(X, [0])
    return (X - mean) * tf.math.rsqrt(variance + _NORM_EPSILON), (mean, variance)


def _loss_and_correct(logits: tf.Tensor, y: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the sum of weighted cross-entropies and the number of correct predictions."""
    import tensorflow as tf

    if logits.shape[-1] == 1:
        logits = logits[:, 0]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(y, tf.float32), logits)
        correct = tf.equal(logits > 0, y > 0)
    else:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        correct = tf.equal(tf.argmax(logits, axis=1), y)
    return tf.reduce_sum(losses * weight), tf.reduce_sum(tf.cast(correct, tf.float32))


METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")  # keys of the history, one value per epoch

stop_requested = threading.Event()  # while set, training in any thread ends early with an error
_tracing = threading.Lock()


class EpochData(NamedTuple):
    """Scaled training rows by image, as in `classify.heads.grouping.ImageRows`, and plain validation rows."""

    X: Any  # (n_rows, n_features) float32, the rows of an image are adjacent
    start: Any  # (n_images,) int64
    count: Any  # (n_images,) int64
    y: Any  # (n_images,) int64
    X_val: Any  # (n_val, n_features) float32
    y_val: Any  # (n_val,) int64
    class_weight: Any  # (n_classes,) float32


def as_tensors(**arrays: Any) -> EpochData:
    """Return the fields of `EpochData` as tensors of their types, on the device used for training."""
    import tensorflow as tf

    floats = ("X", "X_val", "class_weight")
    return EpochData(**{k: tf.cast(v, tf.float32 if k in floats else tf.int64) for k, v in arrays.items()})


def epoch_data(
    validation: Mapping[str, Any], training_data: Iterator[Mapping[str, Any]]
) -> Iterator[EpochData]:
    """Yield the data of each epoch: the items of `training_data`, the last one repeated without end.

    The validation tensors are created once and shared.
    """
    current = as_tensors(**validation, **next(training_data))
    yield current
    shared = {"X_val": current.X_val, "y_val": current.y_val, "class_weight": current.class_weight}
    for arrays in training_data:
        current = as_tensors(**shared, **arrays)
        yield current
    while True:
        yield current


def train(
    network: keras.Sequential,
    data: Iterable[EpochData],
    epoch: Callable,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    patience: int,
    seed: int,
) -> tuple[dict[str, list[float]], int]:
    """Train a network until its validation loss stops improving, and restore the best epoch.

    Parameters
    ----------
    network : keras.Sequential
        New, as from `build_network`.
    data : iterable of EpochData
        Data of each epoch; at least `epochs` items.
    epoch : callable
        `epoch_function` for a network of this shape.
    epochs, batch_size, learning_rate, patience, seed
        As in `classify.heads.dense.DenseHead`.

    Returns
    -------
    dict of list of float
        Values of each metric in `METRICS` for each epoch run.
    int
        Best epoch, counted from 1.

    Raises
    ------
    FitError
        If the loss is never finite, or `stop_requested` is set.
    """
    state = initial_state(network)
    history: dict[str, list[float]] = {name: [] for name in METRICS}
    best_epoch, best_loss = 0, np.inf
    number = 0
    for number, rows in zip(range(1, epochs + 1), data, strict=False):
        if stop_requested.is_set():
            raise FitError("The training of the dense head was stopped. Start it again.")
        epoch_seed = np.array([seed % 2**31, number], dtype=np.int32)
        metrics = epoch(
            state, rows, epoch_seed, np.float32(best_loss), np.float32(learning_rate), np.int64(batch_size)
        ).numpy()
        for name, value in zip(METRICS, metrics.tolist(), strict=True):
            history[name].append(value)
        if history["val_loss"][-1] < best_loss:
            best_epoch, best_loss = number, history["val_loss"][-1]
        elif number - best_epoch >= patience:
            break
    if not best_epoch:
        raise FitError(
            f"The loss of the dense head is not finite after {number} epochs with learning rate "
            f"{learning_rate}: expected a finite loss. Lower the learning rate."
        )
    restore_best(state, network)
    return history, best_epoch


def epoch_function(
    n_features: int, n_classes: int, units: Sequence[int], dropout: float, *, ordinal: bool = False
) -> Callable:
    """Return the compiled ``epoch(state, data, seed, best_loss, rate, batch_size) -> metrics``.

    An epoch draws one view of each image and the order of the images from `seed` (2 int32). The number of
    steps is ceil(n_images / batch_size), but the batch sizes differ by one at most: a last batch of one image
    would have no variance for batch norm, and the images of a small last batch would weigh more than others.
    `metrics` is a float32 tensor: loss and accuracy over the batches of the epoch, then loss and accuracy on
    the validation rows after it. If this validation loss is below `best_loss`, the state is saved as best.
    """
    with _tracing:  # a thread that needs a function that another thread is tracing waits for it
        return _compile_epoch(n_features, n_classes, tuple(units), float(dropout), ordinal=ordinal)


@functools.lru_cache(maxsize=16)
def _compile_epoch(
    n_features: int, n_classes: int, units: tuple[int, ...], dropout: float, *, ordinal: bool
) -> Callable:
    import tensorflow as tf

    def epoch(
        state: TrainingState,
        data: EpochData,
        seed: tf.Tensor,
        best_loss: tf.Tensor,
        rate: tf.Tensor,
        batch_size: tf.Tensor,
    ) -> tf.Tensor:
        n = tf.size(data.y, out_type=tf.int64)
        n_batches = (n + batch_size - 1) // batch_size
        row, y, mask_seed = _sample_views(data, seed)

        def step(batch: tf.Tensor, loss: tf.Tensor, correct: tf.Tensor) -> tuple:
            part = slice(batch * n // n_batches, (batch + 1) * n // n_batches)
            X, weight = tf.gather(data.X, row[part]), tf.gather(data.class_weight, y[part])
            mask = tf.random.fold_in(mask_seed, batch)
            sums = train_step(state, X, y[part], weight, rate=rate, mask_seed=mask, dropout=dropout)
            return batch + 1, loss + sums[0], correct + sums[1]

        start = (tf.constant(0, tf.int64), tf.constant(0.0), tf.constant(0.0))
        _, loss, correct = tf.while_loop(lambda batch, *_: batch < n_batches, step, start)
        val_weight = tf.gather(data.class_weight, data.y_val)
        val_loss, val_correct = validate(state, data.X_val, data.y_val, val_weight)
        n_val = tf.cast(tf.size(data.y_val), tf.float32)
        tf.cond(val_loss / n_val < best_loss, lambda: save_best(state), lambda: tf.constant(False))
        n = tf.cast(n, tf.float32)
        return tf.stack([loss / n, correct / n, val_loss / n_val, val_correct / n_val])

    thresholds = np.arange(n_classes - 1.0) if ordinal else None  # only the shape matters
    network = build_network(
        n_features, n_classes, units=units, dropout=dropout, seed=0, thresholds=thresholds
    )
    state = initial_state(network)
    integer, real = tf.TensorSpec([], tf.int64), tf.TensorSpec([])
    features, integers = tf.TensorSpec([None, n_features]), tf.TensorSpec([None], tf.int64)
    # Autograph is not needed, and would take most of a second.
    return tf.function(epoch, autograph=False).get_concrete_function(
        state,
        EpochData(features, integers, integers, integers, features, integers, tf.TensorSpec([n_classes])),
        tf.TensorSpec([2], tf.int32),
        best_loss=real,
        rate=real,
        batch_size=integer,
    )


def _sample_views(data: EpochData, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return one random row of each image and its class, in random order, and a seed for dropout."""
    import tensorflow as tf

    order_seed, view_seed, mask_seed = tf.unstack(tf.random.split(seed, 3))
    shape = tf.shape(data.y)
    order = tf.argsort(tf.random.stateless_uniform(shape, order_seed), stable=True)
    uniform = tf.random.stateless_uniform(shape, view_seed, dtype=tf.float64)
    row = data.start + tf.cast(uniform * tf.cast(data.count, tf.float64), tf.int64)
    return tf.gather(row, order), tf.gather(data.y, order), mask_seed


def start_tensorflow() -> bool:
    """Import TensorFlow with one thread per operation; return whether it has a GPU.

    With one thread per operation several fits can run in parallel, and a single fit gives the same bytes. The
    number of threads does not change if TensorFlow has already computed something in this process.
    """
    import keras  # noqa: F401  # imported here, in parallel with other work
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
    return bool(tf.config.list_logical_devices("GPU"))


def is_single_threaded() -> bool:
    """Return whether TensorFlow, already started, runs each operation in one thread."""
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() == 1
