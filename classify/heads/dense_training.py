"""One training step of the dense head, in plain TensorFlow operations (imported on first use).

They say what Keras' layers and optimizer do (a test compares them): that is traced in a third of the time,
and Adam's step, which moves most of the memory, becomes one fused operation in place.
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


# Keras' defaults. Adam: Kingma & Ba, arXiv:1412.6980, the form before section 2.1.
_MOMENTUM, _VARIANCE_MOMENTUM, _EPSILON = 0.9, 0.999, 1e-7
_NORM_MOMENTUM, _NORM_EPSILON = 0.99, 1e-3


class TrainingState(NamedTuple):
    """All that training changes, as lists of `tf.Variable`; weights and moving are the network's own."""

    weights: list  # trainable, in the network's order; behind them, what gives a link's thresholds
    moving: list  # mean and variance of each batch norm, in the network's order
    first: list  # Adam's moments, one for each weight
    second: list
    best: list  # weights, then moving means and variances, of the best epoch
    steps: tf.Variable  # float32 scalar: steps done


def initial_state(network: keras.Sequential) -> TrainingState:
    """Return the state that training of a fresh network starts from; it trains the network's own weights."""
    import tensorflow as tf

    norms = [network.get_layer(name) for name in ("norm_features", "norm_dense")]
    weights = [variable.value for variable in network.trainable_variables]
    if has_link(network):
        weights.append(tf.Variable(free_parameters(get_thresholds(network)), dtype=tf.float32))
    moving = [v.value for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
    first, second = ([tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2))
    best = [tf.Variable(value) for value in (*weights, *moving)]
    return TrainingState(weights, moving, first, second, best, steps=tf.Variable(0.0))


def take_best(state: TrainingState, network: keras.Sequential) -> None:
    """Put the best epoch's weights and statistics into the network."""
    for variable, value in zip((*state.weights, *state.moving), state.best, strict=True):
        variable.assign(value)
    if has_link(network):
        set_thresholds(network, ordered_thresholds(state.weights[-1].numpy()))


def make_step(
    state: TrainingState,
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


def validate(
    state: TrainingState, X: tf.Tensor, y: tf.Tensor, weight: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the sum of weighted losses and the number of right answers on validation rows."""
    weights, moving = ([variable.read_value() for variable in part] for part in (state.weights, state.moving))
    logits, _ = _forward(weights, X, moving=moving)
    return _sums(logits, y, weight)


def keep_best(state: TrainingState) -> tf.Tensor:
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


FIGURES = ("loss", "accuracy", "val_loss", "val_accuracy")  # of an epoch

stopping = threading.Event()  # while it is set, training in any thread ends early, with an error
_tracing = threading.Lock()


class Rows(NamedTuple):
    """Scaled training rows by image, as in `classify.heads.grouping.ImageRows`, and plain validation rows."""

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


def as_rows(held: Mapping[str, Any], shown: Iterator[Mapping[str, Any]]) -> Iterator[Rows]:
    """Yield the rows of each epoch: those shown, the last of them for ever, beside those held out."""
    first = as_tensors(**held, **next(shown))
    yield first
    for more in shown:
        fresh = as_tensors(X_val=first.X_val, y_val=first.y_val, class_weight=first.class_weight, **more)
        yield (first := fresh)
        del fresh
    while True:
        yield first


def train(
    network: keras.Sequential,
    rows: Iterable[Rows],
    epoch: Callable,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    patience: int,
    seed: int,
) -> tuple[dict[str, list[float]], int]:
    """Train a network until its validation loss stops improving, and leave it as it was after the best epoch.

    Parameters
    ----------
    network : keras.Sequential
        Fresh, as from `build_network`.
    rows : iterable of Rows
        Those of each epoch; as many as there are epochs, at least.
    epoch : callable
        `epoch_function` of that network's shape.
    epochs, batch_size, learning_rate, patience, seed
        As in `classify.heads.dense.DenseHead`.

    Returns
    -------
    dict of list of float
        By name in `FIGURES`, of each epoch that was run.
    int
        The best epoch, counted from 1.

    Raises
    ------
    FitError
        If the loss is never finite, or `stopping` is set.
    """
    state = initial_state(network)
    history: dict[str, list[float]] = {name: [] for name in FIGURES}
    best, best_loss = 0, np.inf
    number = 0
    for number, shown in zip(range(1, epochs + 1), rows, strict=False):
        if stopping.is_set():
            raise FitError("The dense head's training was stopped before its end. Start it again.")
        draws = np.array([seed % 2**31, number], dtype=np.int32)
        floats, whole = (np.float32(best_loss), np.float32(learning_rate)), np.int64(batch_size)
        figures = epoch(state, shown, draws, *floats, whole).numpy()
        for name, figure in zip(FIGURES, figures.tolist(), strict=True):
            history[name].append(figure)
        if history["val_loss"][-1] < best_loss:
            best, best_loss = number, history["val_loss"][-1]
        elif number - best >= patience:
            break
    if not best:
        raise FitError(
            f"The dense head's loss is not finite after {number} epochs with learning rate "
            f"{learning_rate}: expected a finite one. Lower the learning rate."
        )
    take_best(state, network)
    return history, best


def epoch_function(
    n_features: int, n_classes: int, units: Sequence[int], dropout: float, *, ordinal: bool = False
) -> Callable:
    """Return the compiled ``epoch(state, rows, seed, best_loss, rate, batch_size) -> figures``.

    An epoch draws one view of each image and the order of the images from `seed` (2 int32). It makes as many
    steps as full batches and a rest would, but of sizes equal to within one: a rest of one image would leave
    batch norm without a variance, and a short one would weigh its images more than others. `figures` is a
    float32 tensor: loss and accuracy over the epoch's own batches, then loss and accuracy on the validation
    rows afterwards. If that loss is below `best_loss`, the state is kept as the best one.
    """
    with _tracing:  # threads that need the same one wait for it
        return _compile_epoch(n_features, n_classes, tuple(units), float(dropout), ordinal=ordinal)


@functools.lru_cache(maxsize=16)
def _compile_epoch(
    n_features: int, n_classes: int, units: tuple[int, ...], dropout: float, *, ordinal: bool
) -> Callable:
    import tensorflow as tf

    def epoch(
        state: TrainingState,
        rows: Rows,
        seed: tf.Tensor,
        best_loss: tf.Tensor,
        rate: tf.Tensor,
        batch_size: tf.Tensor,
    ) -> tf.Tensor:
        n = tf.size(rows.y, out_type=tf.int64)
        n_batches = (n + batch_size - 1) // batch_size
        row, y, mask_seed = _draw(rows, seed)

        def step(batch: tf.Tensor, loss: tf.Tensor, correct: tf.Tensor) -> tuple:
            part = slice(batch * n // n_batches, (batch + 1) * n // n_batches)
            X, weight = tf.gather(rows.X, row[part]), tf.gather(rows.class_weight, y[part])
            mask = tf.random.fold_in(mask_seed, batch)
            sums = make_step(state, X, y[part], weight, rate=rate, mask_seed=mask, dropout=dropout)
            return batch + 1, loss + sums[0], correct + sums[1]

        start = (tf.constant(0, tf.int64), tf.constant(0.0), tf.constant(0.0))
        _, loss, correct = tf.while_loop(lambda batch, *_: batch < n_batches, step, start)
        val_weight = tf.gather(rows.class_weight, rows.y_val)
        val_loss, val_correct = validate(state, rows.X_val, rows.y_val, val_weight)
        n_val = tf.cast(tf.size(rows.y_val), tf.float32)
        tf.cond(val_loss / n_val < best_loss, lambda: keep_best(state), lambda: tf.constant(False))
        n = tf.cast(n, tf.float32)
        return tf.stack([loss / n, correct / n, val_loss / n_val, val_correct / n_val])

    thresholds = np.arange(n_classes - 1.0) if ordinal else None  # of the right shape
    network = build_network(
        n_features, n_classes, units=units, dropout=dropout, seed=0, thresholds=thresholds
    )
    state = initial_state(network)
    whole, real = tf.TensorSpec([], tf.int64), tf.TensorSpec([])
    features, numbers = tf.TensorSpec([None, n_features]), tf.TensorSpec([None], tf.int64)
    # Without autograph, which would spend most of a second on rewriting this source.
    return tf.function(epoch, autograph=False).get_concrete_function(
        state,
        Rows(features, numbers, numbers, numbers, features, numbers, tf.TensorSpec([n_classes])),
        tf.TensorSpec([2], tf.int32),
        best_loss=real,
        rate=real,
        batch_size=whole,
    )


def _draw(rows: Rows, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return one row of each image and its class, in a random order, and a seed for the dropout."""
    import tensorflow as tf

    order_seed, view_seed, mask_seed = tf.unstack(tf.random.split(seed, 3))
    shape = tf.shape(rows.y)
    order = tf.argsort(tf.random.stateless_uniform(shape, order_seed), stable=True)
    draw = tf.random.stateless_uniform(shape, view_seed, dtype=tf.float64)
    row = rows.start + tf.cast(draw * tf.cast(rows.count, tf.float64), tf.int64)
    return tf.gather(row, order), tf.gather(rows.y, order), mask_seed


def start_tensorflow() -> bool:
    """Import TensorFlow, to compute each operation in one thread; return whether that is on a GPU.

    So several fits can run side by side, and one alone gives the same bytes. Where TensorFlow has computed
    something before, its threads are what they were.
    """
    import keras  # noqa: F401  # imported here, while other work goes on
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
    return bool(tf.config.list_logical_devices("GPU"))


def in_one_thread() -> bool:
    """Tell whether TensorFlow, which has started, computes each operation in one thread."""
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() == 1
