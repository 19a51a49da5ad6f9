"""The dense head's network in Keras (imported on first use): how features are scaled, and the layers."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.data.blocks import RowStream
from classify.heads.cumulative_link import link_layers, set_thresholds
from classify.heads.grouping import rows_by_image

if TYPE_CHECKING:
    import keras


ROWS_A_PASS = 8192  # bounds memory
_NOMINAL, _ORDINAL = "dense_head", "ordinal_dense_head"  # a network's name, kept in its file


def scaling_layers(X: np.ndarray, scaling: str) -> list[keras.layers.Layer]:
    """Return the layers that scale raw features, fitted on X (n_rows, n_features), float32.

    "standardise": each column to mean 0 and standard deviation 1; constant columns to 0, as scikit-learn has
    it. "l2": each row to length 1, times a constant that brings the columns to the size batch norm's epsilon
    expects.
    """
    mean = variance = np.zeros(X.shape[1])
    if scaling != "l2":
        mean, variance = X.mean(axis=0, dtype=np.float64), X.var(axis=0, dtype=np.float64)
    return layers_of_moments(mean, variance, scaling)


def layers_of_moments(mean: np.ndarray, variance: np.ndarray, scaling: str) -> list[keras.layers.Layer]:
    """Return the same from the mean and variance of each column, (n_features,) float64."""
    import keras

    if scaling == "l2":
        return [
            keras.layers.UnitNormalization(name="unit_length"),
            keras.layers.Rescaling(float(len(mean)) ** 0.5, name="rescale"),
        ]
    variance = variance.copy()
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
    thresholds: np.ndarray | None = None,
) -> keras.Sequential:
    """Return the network, its weights drawn: batch norm, ReLU layers, batch norm, dropout, classes.

    Parameters
    ----------
    n_features, n_classes : int
        Two classes get one sigmoid unit, the probability of the second; more get a softmax, or a cumulative
        link.
    units : sequence of int
        Widths of the ReLU layers.
    dropout : float
        Share of the last layer's inputs that is dropped in training.
    seed : int
    before : sequence of layers
        Put between input and first batch norm; no weights are learned there.
    thresholds : ndarray of shape (n_classes - 1,), optional
        Of ordered classes: where those of the cumulative link start, ascending.
    """
    import keras

    layers = keras.layers
    seeds = [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(len(units) + 2)]

    def dense(width: int, activation: str, index: int, name: str) -> keras.layers.Layer:
        first = keras.initializers.GlorotUniform(seed=seeds[index])
        return layers.Dense(width, activation=activation, kernel_initializer=first, name=name)

    if thresholds is not None and n_classes > 2:
        first = keras.initializers.GlorotUniform(seed=seeds[len(units)])
        score = layers.Dense(1, use_bias=False, kernel_initializer=first, name="score")
        last = [score, *link_layers(n_classes)]
    else:
        width, activation = (1, "sigmoid") if n_classes == 2 else (n_classes, "softmax")
        last = [dense(width, activation, len(units), "probabilities")]
    network = keras.Sequential(
        [
            keras.Input((n_features,), dtype="float32", name="features"),
            *before,
            layers.BatchNormalization(name="norm_features"),
            *[dense(size, "relu", i, f"dense_{i + 1}") for i, size in enumerate(units)],
            layers.BatchNormalization(name="norm_dense"),
            layers.Dropout(dropout, seed=seeds[-1], name="dropout"),
            *last,
        ],
        name=_NOMINAL if thresholds is None else _ORDINAL,
    )
    if thresholds is not None and n_classes > 2:
        set_thresholds(network, thresholds)
    return network


def is_ordinal(network: keras.Sequential) -> bool:
    """Return whether a network was built for ordered classes."""
    return network.name == _ORDINAL


def scale_rows(layers: Sequence[keras.layers.Layer], X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return these rows as the layers scale them, part by part: whole copies of X are what fills memory."""
    scaled = np.empty((len(rows), X.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), ROWS_A_PASS):
        part = X[rows[start : start + ROWS_A_PASS]]
        for layer in layers:
            part = layer(part)
        scaled[start : start + ROWS_A_PASS] = part
    return scaled


MOST_IMAGES = 2**16  # of a stretch: at most steps as many as an epoch of so many images has
MOST_VALIDATION = 2**14  # images that decide when to stop; they are looked at after each stretch
RUN_IMAGES = 4096  # neighbours on disk that are read together, some ten chunks of the store
_COPIES = 6  # of a stretch in memory: as read, scaled and as a tensor, each once more for the next one


class StreamedEpochs:
    """Images in stretches without an end, each once a pass, by one view that is drawn at random."""

    def __init__(
        self, rows: RowStream, label: npt.NDArray[np.integer], *, kept: npt.NDArray[np.bool_], seed: int
    ) -> None:
        self.rows, self.seed = rows, seed
        self.images = rows_by_image(rows.image)
        place = np.full(len(rows), -1, dtype=np.int64)  # on disk, of each row
        start = 0
        for piece in rows.pieces:
            place[piece.position.ravel()] = np.arange(start, start + piece.position.size)
            start += piece.position.size
        wanted = np.flatnonzero(kept[self.images.plain])
        self.order = wanted[np.argsort(place[self.images.plain[wanted]], kind="stable")]  # of images, on disk
        self.label = label[self.images.plain]  # (n_images,)
        self.labels = self.label[self.order]
        affordable = rows.working_bytes // (_COPIES * 4 * rows.n_features)
        self.n_images = int(max(1, min(MOST_IMAGES, affordable, len(self.order))))

    def each(self, before: Sequence[keras.layers.Layer]) -> Generator[dict[str, np.ndarray]]:
        """Yield the scaled rows of one stretch after another, as `dense_training.Rows` names them."""
        with ThreadPoolExecutor(1) as reader:
            plan = self._plan()
            ahead = reader.submit(self._read, next(plan), before)
            try:
                while True:
                    ready = ahead.result()
                    ahead = reader.submit(self._read, next(plan), before)
                    yield ready
                    del ready
            finally:
                ahead.cancel()

    def _plan(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield the images of each stretch, and the row of each that is shown."""
        n = len(self.order)
        run = min(RUN_IMAGES, max(1, self.n_images // 16))
        runs = np.array_split(self.order, -(-n // run))
        number = 0
        while True:
            generator = np.random.default_rng([self.seed, number])
            shuffled = np.concatenate([runs[k] for k in generator.permutation(len(runs))])
            for some in np.array_split(shuffled, -(-n // self.n_images)):
                view = (generator.random(len(some)) * self.images.count[some]).astype(np.int64)
                yield some, self.images.rows[self.images.start[some] + view]
            number += 1

    def _read(
        self,
        stretch: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        before: Sequence[keras.layers.Layer],
    ) -> dict[str, np.ndarray]:

        images, row = stretch
        every = np.arange(len(images))
        return {
            "X": scale_rows(before, self.rows.take(row), every),
            "start": every,
            "count": np.ones_like(every),
            "y": self.label[images],
        }


_DIGITS = 5  # more than any plot shows


def training_curves(estimator: Any) -> dict[str, Any] | None:
    """Return how a fitted head was trained, epoch by epoch; None of a head that has no epochs.

    Parameters
    ----------
    estimator : estimator
        Fitted, not loaded.

    Returns
    -------
    dict or None
        ``epochs``, ``best_epoch`` (the one kept, counted from 1), and ``loss``, ``accuracy``, ``val_loss``
        and ``val_accuracy``: one figure an epoch, None where it is not finite.
    """
    history = getattr(estimator, "history_", None)
    if history is None:
        return None
    return {
        "epochs": estimator.n_iter_,
        "best_epoch": estimator.best_epoch_,
        **{name: [_rounded(figure) for figure in figures] for name, figures in history.items()},
    }


def _rounded(figure: float) -> float | None:
    return round(figure, _DIGITS) if math.isfinite(figure) else None


def write_curves(log_dir: str | Path, history: dict[str, list[float]]) -> None:
    """Write epoch_loss and epoch_accuracy, train and validation, as Keras' TensorBoard callback would."""
    import tensorflow as tf

    for part, prefix in (("train", ""), ("validation", "val_")):
        writer = tf.summary.create_file_writer(str(Path(log_dir) / part))
        with writer.as_default():
            for name in ("loss", "accuracy"):
                for step, value in enumerate(history[prefix + name]):
                    tf.summary.scalar(f"epoch_{name}", value, step=step)
        writer.close()
