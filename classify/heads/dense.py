"""Dense head: a small Keras network on stored features, as a scikit-learn estimator."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from classify.heads.base import BaseHead, FitError, require_two_classes, streamed_note
from classify.heads.cumulative_link import initial_thresholds
from classify.heads.dense_network import ORDINAL_NETWORK, ROWS_PER_PASS, write_tensorboard
from classify.heads.grouping import resolve_groups, rows_by_image, validation_images
from classify.heads.registry import SCALINGS

if TYPE_CHECKING:
    import keras

    from classify.data.blocks import RowStream


OUTPUTS = ("nominal", "ordinal")

_warnings_lock = threading.Lock()  # `warnings.catch_warnings` is not thread-safe


class DenseHead(BaseHead):
    """Batch norm, ReLU layers, batch norm, dropout, then sigmoid, softmax or cumulative link; Adam.

    Each epoch trains on one view of each image, drawn at random from all its views, the plain one included.
    Whole groups of images are held out for validation on their plain views, unless `X_val` is given. Training
    stops when the validation loss has not improved for `patience` epochs, and the weights of the best epoch
    are restored. Equal seeds give equal weights on one machine.

    Fitting calls ``tf.config.experimental.enable_op_determinism()``, which applies to the whole process and
    cannot be undone: operations without a deterministic GPU kernel then raise an error wherever they run.

    Parameters
    ----------
    units : sequence of int, default=(512, 128, 64)
        Widths of the ReLU layers.
    dropout : float, default=0.2
    learning_rate : float, default=1e-3
    epochs : int, default=300
        Maximum number of epochs.
    batch_size : int, default=128
        Maximum number of images per step. The images of an epoch are divided evenly among its steps.
    patience : int, default=30
        Epochs without improvement before stopping.
    validation_fraction : float, default=0.2
        Fraction of the groups of each class, and at least one group, that is held out if no validation rows
        are given.
    scaling : {"standardise", "l2"}, default="standardise"
        Applied inside the network.
    output : {"nominal", "ordinal"}, default="nominal"
        "ordinal" if the classes are ordered by their labels: the network then ends in one score, and
        thresholds on it separate each class from the next (`classify.heads.cumulative_link`). Two classes
        always have a sigmoid, three or more nominal ones a softmax.
    class_weight : {None, "balanced"} or dict, default=None
        Weights of the loss, on validation rows too.
    seed : int, default=0
    log_dir : path, optional
        Folder for TensorBoard curves, ``log_dir/train`` and ``log_dir/validation``, written after training.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    model_ : keras.Sequential
        Maps raw features to class probabilities; with two classes, to the probability of the second.
    history_ : dict of list of float
        loss, accuracy, val_loss, val_accuracy of each epoch. Training values are means over the steps of the
        epoch.
    best_epoch_ : int
        Epoch of the restored weights, counted from 1.
    n_iter_ : int
        Number of epochs run.
    n_validation_ : int
        Number of validation images.
    """

    def __init__(
        self,
        *,
        units: Sequence[int] = (512, 128, 64),
        dropout: float = 0.2,
        learning_rate: float = 1e-3,
        epochs: int = 300,
        batch_size: int = 128,
        patience: int = 30,
        validation_fraction: float = 0.2,
        scaling: str = "standardise",
        output: str = "nominal",
        class_weight: str | dict | None = None,
        seed: int = 0,
        log_dir: str | Path | None = None,
    ) -> None:
        self.units = units
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.scaling = scaling
        self.output = output
        self.class_weight = class_weight
        self.seed = seed
        self.log_dir = log_dir

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
        X_val: np.ndarray | None = None,
        y_val: np.ndarray | None = None,
    ) -> DenseHead:
        """Train the network.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features of plain and augmented views.
        y : ndarray of shape (n_rows,)
        groups, image : ndarray of shape (n_rows,), optional
            Group and image of each row; groups are not split for validation. The first row of an image is its
            plain view. By default each image is a group, and each row an image.
        X_val, y_val : ndarray of shape (n_val, n_features) and (n_val,), optional
            Validation rows for early stopping. By default a part of X is held out.

        Raises
        ------
        FitError
            If there is only one class, a class has a single group and no validation rows are given, or the
            loss is not finite.
        """
        X, y = self._check_fit(X, y, dtype=np.float32)
        require_two_classes(self.classes_)
        self.check_parameters()
        groups, image = resolve_groups(len(y), groups, image)
        if X_val is None:
            plain = rows_by_image(image).plain
            held_out = validation_images(
                y[plain], groups[plain], fraction=self.validation_fraction, seed=self.seed
            )
            X_val, y_val = X[plain[held_out]], y[plain[held_out]]
            train = ~np.isin(image, image[plain[held_out]])
            X, y, image = X[train], y[train], image[train]
        else:
            X_val = self._check_predict(X_val, dtype=np.float32)
            y_val = check_validation(y_val, n_rows=len(X_val), classes=self.classes_)
        self.n_validation_ = len(X_val)
        self._train(X, y, image, X_val, y_val)
        if self.log_dir is not None:
            write_tensorboard(self.log_dir, self.history_)
        return self

    def check_parameters(self) -> None:
        """Raise FitError if a parameter is invalid."""
        params = self.get_params()
        positive = {name: params[name] for name in ("learning_rate", "epochs", "batch_size", "patience")}
        positive["units"] = min(params["units"], default=1)
        for name, value in positive.items():
            if not value > 0:
                raise FitError(f"{name} is {value}: expected a positive number.")
        if not 0 <= self.dropout < 1:
            raise FitError(f"dropout is {self.dropout}: expected a number from 0 to below 1.")
        if not 0 < self.validation_fraction < 1:
            raise FitError(
                f"validation_fraction is {self.validation_fraction}: expected a number between 0 and 1."
            )
        for name, known in (("scaling", SCALINGS), ("output", OUTPUTS)):
            if params[name] not in known:
                raise FitError(f"Unknown {name} {params[name]!r}: expected one of {', '.join(known)}.")

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float32)
        parts = [
            self.model_(X[start : start + ROWS_PER_PASS], training=False).numpy()
            for start in range(0, len(X), ROWS_PER_PASS)
        ]
        probabilities = np.concatenate(parts).astype(np.float64)
        if probabilities.shape[1] == 1:
            return np.hstack([1.0 - probabilities, probabilities])
        return probabilities / probabilities.sum(axis=1, keepdims=True)  # float32 sums are off by 1e-7

    def save(self, path: str | Path) -> None:
        """Write the network to ``path``, which must end in ``.keras``."""
        with _warnings_lock, warnings.catch_warnings():
            # Raised by Keras' own conversion of its variables to NumPy 2 arrays.
            warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
            self.model_.save(path)

    @classmethod
    def load(cls, path: str | Path, classes: Sequence) -> DenseHead:
        """Return a fitted head from a file written by `save`, and its classes in the order of the outputs.

        No code in the file is run. The file does not hold the training parameters: all parameters except
        `output` have their defaults.
        """
        import keras

        network = keras.models.load_model(path, compile=False, safe_mode=True)
        head = cls(output="ordinal" if network.name == ORDINAL_NETWORK else "nominal")
        head.model_ = network
        head.classes_ = np.asarray(classes)
        head.n_features_in_ = int(head.model_.input_shape[-1])
        return head

    def fit_stream(
        self, rows: RowStream, *, X_val: np.ndarray | None = None, y_val: np.ndarray | None = None
    ) -> DenseHead:
        """Train the network on rows that stay on disk.

        Each epoch trains on one chunk of images, as many as fit in memory; `epochs` and `patience` count
        chunks. A chunk consists of runs of rows in random order, and its images are shuffled like those of an
        epoch in memory. A thread reads the next chunk during training. Results depend on the memory limit if
        it determines the size of a chunk. At most `MAX_VALIDATION_IMAGES` images are held out for validation.

        Parameters
        ----------
        rows : RowStream
        X_val, y_val : ndarray of shape (n_val, n_features) and (n_val,), optional
            As in `fit`.
        """
        from classify.heads.dense_network import MAX_VALIDATION_IMAGES, StreamedEpochs

        label = self._check_stream(rows)
        self.check_parameters()
        plain = rows_by_image(rows.image).plain
        train = np.ones(len(rows), dtype=bool)
        if X_val is None:
            fraction = min(self.validation_fraction, MAX_VALIDATION_IMAGES / len(plain))
            held_out = plain[
                validation_images(rows.y[plain], rows.groups[plain], fraction=fraction, seed=self.seed)
            ]
            X_val, y_val = rows.take(held_out), rows.y[held_out]
            train = ~np.isin(rows.image, rows.image[held_out])
        else:
            X_val = self._check_predict(X_val, dtype=np.float32)
            y_val = check_validation(y_val, n_rows=len(X_val), classes=self.classes_)
        self.n_validation_ = len(X_val)
        from classify.heads.solvers.scaling import fit_scaling

        scaled = fit_scaling(rows, self.scaling, chosen=train)
        streamed = StreamedEpochs(rows, label, train=train, seed=self.seed)
        self._fit_network(
            streamed.labels,
            X_val,
            y_val,
            make_scaling=lambda net: net.moment_scaling_layers(scaled.mean, scaled.variance, self.scaling),
            epochs=streamed.epochs,
        )
        how = (
            f"each epoch trains on up to {streamed.n_images:,} of {int(train[plain].sum()):,} images, "
            f"and {self.n_validation_:,} other images are used for early stopping"
        )
        self.notes_ = (streamed_note(len(rows), how),)
        if self.log_dir is not None:
            write_tensorboard(self.log_dir, self.history_)
        return self

    def _train(
        self, X: np.ndarray, y: np.ndarray, image: np.ndarray, X_val: np.ndarray, y_val: np.ndarray
    ) -> None:
        """Train on rows in memory; every epoch uses all of them."""
        images = rows_by_image(image)
        labels = np.searchsorted(self.classes_, y[images.plain])

        def epochs(scaling: Sequence[keras.layers.Layer]) -> Generator[dict[str, np.ndarray]]:
            from classify.heads.dense_network import scale_rows

            yield {
                "X": scale_rows(scaling, X, images.rows),
                "start": images.start,
                "count": images.count,
                "y": labels,
            }

        self._fit_network(
            labels, X_val, y_val, make_scaling=lambda net: net.scaling_layers(X, self.scaling), epochs=epochs
        )

    def _fit_network(
        self,
        labels: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
        *,
        make_scaling: Callable[[ModuleType], Sequence[keras.layers.Layer]],
        epochs: Callable[[Sequence[keras.layers.Layer]], Generator[Mapping[str, np.ndarray]]],
    ) -> None:
        """Build the network and train it.

        Parameters
        ----------
        labels : ndarray of shape (n_images,), int
            Class indices of all training images.
        X_val, y_val : ndarray of shape (n_val, n_features) and (n_val,)
        make_scaling : callable (dense_network module) -> list of layers
            Returns the fitted scaling layers.
        epochs : callable (scaling layers) -> generator
            Yields, for each epoch, scaled X, start, count and y as in `dense_training.EpochData`. The last
            item is used for all further epochs.
        """
        import tensorflow as tf

        from classify.heads import dense_network as net, dense_training as training

        tf.config.experimental.enable_op_determinism()
        units, n_classes = tuple(int(size) for size in self.units), len(self.classes_)
        weight = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_[labels])
        ordinal = self.output == "ordinal"
        scaling = make_scaling(net)
        self.model_ = net.build_network(
            self.n_features_in_,
            n_classes,
            units=units,
            dropout=self.dropout,
            seed=self.seed,
            scaling=scaling,
            thresholds=initial_thresholds(np.bincount(labels) * weight) if ordinal else None,
        )
        validation = {
            "X_val": net.scale_rows(scaling, X_val, np.arange(len(X_val))),
            "y_val": np.searchsorted(self.classes_, y_val),
            "class_weight": weight,
        }
        epoch = training.epoch_function(self.n_features_in_, n_classes, units, self.dropout, ordinal=ordinal)
        with contextlib.closing(epochs(scaling)) as training_data:
            self.history_, self.best_epoch_ = training.train(
                self.model_,
                training.epoch_data(validation, training_data),
                epoch,
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                patience=self.patience,
                seed=self.seed,
            )
        self.n_iter_ = len(self.history_["loss"])


def check_validation(y_val: Any, *, n_rows: int, classes: np.ndarray) -> np.ndarray:
    """Return the checked labels of `n_rows` validation rows.

    Raises
    ------
    FitError
        If their number differs, or one of them is not a training class.
    """
    if y_val is None or len(y_val) != n_rows:
        found = "no" if y_val is None else len(y_val)
        raise FitError(f"{found} labels for {n_rows} validation rows: expected one label per row of X_val.")
    unknown = np.setdiff1d(y_val, classes)
    if len(unknown):
        raise FitError(f"Validation class '{unknown[0]}' is not among the training classes.")
    return np.asarray(y_val)
