"""Keras network of the dense head: scaling layers, network, epochs of rows on disk, training curves.

Keras is imported on first use.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.heads.cumulative_link import link_layers, set_thresholds
from classify.heads.grouping import rows_by_image

if TYPE_CHECKING:
    import keras

    from classify.data.blocks import RowStream


ROWS_PER_PASS = 8192  # bounds memory
NOMINAL_NETWORK, ORDINAL_NETWORK = "dense_head", "ordinal_dense_head"  # name of the network in its file


def scaling_layers(X: np.ndarray, scaling: str) -> list[keras.layers.Layer]:
    """Return layers that scale raw features, fitted on X (n_rows, n_features), float32.

    "standardise" scales each column to mean 0 and standard deviation 1; constant columns become 0, as in
    scikit-learn. "l2" scales each row to length 1, times sqrt(n_features), so that the columns are not small
    compared with the epsilon of batch norm.
    """
    mean = variance = np.zeros(X.shape[1])
    if scaling != "l2":
        mean, variance = X.mean(axis=0, dtype=np.float64), X.var(axis=0, dtype=np.float64)
    return moment_scaling_layers(mean, variance, scaling)


def moment_scaling_layers(mean: np.ndarray, variance: np.ndarray, scaling: str) -> list[keras.layers.Layer]:
    """Return scaling layers from the mean and variance of each column, (n_features,) float64."""
    import keras

    if scaling == "l2":
        return [
            keras.layers.UnitNormalization(name="unit_length"),
            keras.layers.Rescaling(float(len(mean)) ** 0.5, name="rescale"),
        ]
    variance = variance.copy()
    # The mean of a constant column is rounded to float32. Divided by a standard deviation close to 0, the
    # rounding error would look like data.
    variance[variance <= (1e-6 * mean) ** 2] = 1.0
    return [keras.layers.Normalization(mean=mean, variance=variance, name="standardise")]


def build_network(
    n_features: int,
    n_classes: int,
    *,
    units: Sequence[int],
    dropout: float,
    seed: int,
    scaling: Sequence[keras.layers.Layer] = (),
    thresholds: np.ndarray | None = None,
) -> keras.Sequential:
    """Return the network with initial weights: batch norm, ReLU layers, batch norm, dropout, classes.

    Parameters
    ----------
    n_features, n_classes : int
        Two classes have one sigmoid unit, the probability of the second class; more have a softmax, or a
        cumulative link.
    units : sequence of int
        Widths of the ReLU layers.
    dropout : float
        Fraction of the inputs of the last layer that is dropped in training.
    seed : int
    scaling : sequence of layers
        Layers between the input and the first batch norm; they are not trained.
    thresholds : ndarray of shape (n_classes - 1,), optional
        For ordered classes: initial thresholds of the cumulative link, ascending.
    """
    import keras

    layers = keras.layers
    seeds = [int(s) >> 1 for s in np.random.SeedSequence(seed).generate_state(len(units) + 2)]

    def dense(width: int, activation: str, index: int, name: str) -> keras.layers.Layer:
        initializer = keras.initializers.GlorotUniform(seed=seeds[index])
        return layers.Dense(width, activation=activation, kernel_initializer=initializer, name=name)

    if thresholds is not None and n_classes > 2:
        initializer = keras.initializers.GlorotUniform(seed=seeds[len(units)])
        score = layers.Dense(1, use_bias=False, kernel_initializer=initializer, name="score")
        output = [score, *link_layers(n_classes)]
    else:
        width, activation = (1, "sigmoid") if n_classes == 2 else (n_classes, "softmax")
        output = [dense(width, activation, len(units), "probabilities")]
    network = keras.Sequential(
        [
            keras.Input((n_features,), dtype="float32", name="features"),
            *scaling,
            layers.BatchNormalization(name="norm_features"),
            *[dense(size, "relu", i, f"dense_{i + 1}") for i, size in enumerate(units)],
            layers.BatchNormalization(name="norm_dense"),
            layers.Dropout(dropout, seed=seeds[-1], name="dropout"),
            *output,
        ],
        name=NOMINAL_NETWORK if thresholds is None else ORDINAL_NETWORK,
    )
    if thresholds is not None and n_classes > 2:
        set_thresholds(network, thresholds)
    return network


def scale_rows(layers: Sequence[keras.layers.Layer], X: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the given rows of X scaled by the layers; part by part, because copies of X take memory."""
    scaled = np.empty((len(rows), X.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), ROWS_PER_PASS):
        part = X[rows[start : start + ROWS_PER_PASS]]
        for layer in layers:
            part = layer(part)
        scaled[start : start + ROWS_PER_PASS] = part
    return scaled


MAX_CHUNK_IMAGES = 2**16  # bounds the number of steps per epoch
MAX_VALIDATION_IMAGES = 2**14  # evaluated after each epoch
RUN_IMAGES = 4096  # consecutive images on disk that are read together: about ten HDF5 chunks of the store
_COPIES = 6  # copies of a chunk in memory: as read, scaled and as a tensor, for this chunk and the next one


class StreamedEpochs:
    """Epochs of rows on disk: an endless sequence of chunks of images, one random view per image.

    A pass is a sequence of chunks that holds each training image once.

    Parameters
    ----------
    rows : RowStream
    label : ndarray of shape (n_rows,), int
        Class index of each row.
    train : ndarray of shape (n_rows,), bool
        True for training rows.
    seed : int

    Attributes
    ----------
    labels : ndarray of shape (n_train_images,), int
        Class indices of the training images, in their order on disk.
    n_images : int
        Maximum number of images per chunk.
    """

    def __init__(
        self, rows: RowStream, label: npt.NDArray[np.integer], *, train: npt.NDArray[np.bool_], seed: int
    ) -> None:
        self.rows, self.seed = rows, seed
        self.images = rows_by_image(rows.image)
        disk_position = np.full(len(rows), -1, dtype=np.int64)  # position of each row on disk
        start = 0
        for piece in rows.pieces:
            disk_position[piece.position.ravel()] = np.arange(start, start + piece.position.size)
            start += piece.position.size
        images = np.flatnonzero(train[self.images.plain])
        self.order = images[np.argsort(disk_position[self.images.plain[images]], kind="stable")]
        self.label = label[self.images.plain]  # (n_images,)
        self.labels = self.label[self.order]
        affordable = rows.working_bytes // (_COPIES * 4 * rows.n_features)
        self.n_images = int(max(1, min(MAX_CHUNK_IMAGES, affordable, len(self.order))))

    def epochs(self, scaling: Sequence[keras.layers.Layer]) -> Generator[dict[str, np.ndarray]]:
        """Yield the scaled rows of each chunk, with the names of `dense_training.EpochData`."""
        with ThreadPoolExecutor(1) as reader:
            chunks = self._chunks()
            pending = reader.submit(self._read, next(chunks), scaling)
            try:
                while True:
                    data = pending.result()
                    pending = reader.submit(self._read, next(chunks), scaling)
                    yield data
                    del data
            finally:
                pending.cancel()

    def _chunks(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield the images of each chunk, and one random row of each image."""
        n = len(self.order)
        run = min(RUN_IMAGES, max(1, self.n_images // 16))
        runs = np.array_split(self.order, -(-n // run))
        for number in itertools.count():  # number of the pass
            generator = np.random.default_rng([self.seed, number])
            shuffled = np.concatenate([runs[k] for k in generator.permutation(len(runs))])
            for chunk in np.array_split(shuffled, -(-n // self.n_images)):
                view = (generator.random(len(chunk)) * self.images.count[chunk]).astype(np.int64)
                yield chunk, self.images.rows[self.images.start[chunk] + view]

    def _read(
        self,
        chunk: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        scaling: Sequence[keras.layers.Layer],
    ) -> dict[str, np.ndarray]:
        images, row = chunk
        index = np.arange(len(images))
        return {
            "X": scale_rows(scaling, self.rows.take(row), index),
            "start": index,
            "count": np.ones_like(index),
            "y": self.label[images],
        }


_DIGITS = 5  # decimals of stored curves: more than a plot can show


def training_curves(estimator: Any) -> dict[str, Any] | None:
    """Return the loss and accuracy of each epoch of a fitted head; None if the head has no epochs.

    Parameters
    ----------
    estimator : estimator
        Fitted, not loaded from a file.

    Returns
    -------
    dict or None
        ``epochs``, ``best_epoch`` (of the restored weights, counted from 1), and ``loss``, ``accuracy``,
        ``val_loss`` and ``val_accuracy``: one value per epoch, None if it is not finite.
    """
    history = getattr(estimator, "history_", None)
    if history is None:
        return None
    return {
        "epochs": estimator.n_iter_,
        "best_epoch": estimator.best_epoch_,
        **{name: [_rounded(value) for value in values] for name, values in history.items()},
    }


def _rounded(value: float) -> float | None:
    return round(value, _DIGITS) if math.isfinite(value) else None


def write_tensorboard(log_dir: str | Path, history: dict[str, list[float]]) -> None:
    """Write epoch_loss and epoch_accuracy for training and validation, like Keras' TensorBoard callback."""
    import tensorflow as tf

    for part, prefix in (("train", ""), ("validation", "val_")):
        writer = tf.summary.create_file_writer(str(Path(log_dir) / part))
        with writer.as_default():
            for name in ("loss", "accuracy"):
                for step, value in enumerate(history[prefix + name]):
                    tf.summary.scalar(f"epoch_{name}", value, step=step)
        writer.close()
