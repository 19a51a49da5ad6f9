"""The dense head: a small Keras network on stored features, as a scikit-learn estimator."""

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

from classify.data.blocks import RowStream
from classify.heads.base import BaseHead, FitError, require_two_classes, streamed_note
from classify.heads.cumulative_link import initial_thresholds
from classify.heads.dense_network import ROWS_A_PASS, is_ordinal, write_curves
from classify.heads.grouping import resolve_groups, rows_by_image, validation_images
from classify.heads.registry import SCALINGS
from classify.heads.solvers.scaling import fit_scaling

if TYPE_CHECKING:
    import keras


_warnings_caught = threading.Lock()  # by one thread at a time


class DenseHead(BaseHead):
    """Batch norm, ReLU layers, batch norm, dropout, then sigmoid, softmax or cumulative link; Adam.

    Each epoch shows one view of each image, drawn at random, the plain one among them. A grouped part of the
    images is set aside (or `X_val` is given), on plain views; training stops when the loss there has not
    improved for `patience` epochs, and the best epoch's weights are kept. Equal seeds give equal weights on
    one machine.

    Fitting calls ``tf.config.experimental.enable_op_determinism()``, which holds for the whole process and
    cannot be undone: operations without a deterministic kernel on a GPU then raise an error wherever they
    run.

    Parameters
    ----------
    units : sequence of int, default=(512, 128, 64)
        Widths of the ReLU layers.
    dropout : float, default=0.2
    learning_rate : float, default=1e-3
    epochs : int, default=300
        At most.
    batch_size : int, default=128
        Images a step, at most: the images of an epoch are spread evenly over its steps.
    patience : int, default=30
        Epochs without improvement before stopping.
    validation_fraction : float, default=0.2
        Share of each class's groups that is set aside where no validation rows are given; at least one group.
    scaling : {"standardise", "l2"}, default="standardise"
        Done inside the network.
    output : {"nominal", "ordinal"}, default="nominal"
        Whether the classes, in the order of their labels, are grades: then one score decides, and thresholds
        on it part each class from the next (`classify.heads.cumulative_link`). Two classes have a sigmoid
        either way, more that are no grades a softmax.
    class_weight : {None, "balanced"} or dict, default=None
        Weighs the loss, on validation rows too.
    seed : int, default=0
    log_dir : path, optional
        Where TensorBoard finds the curves: ``log_dir/train`` and ``log_dir/validation``, written after
        training.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    model_ : keras.Sequential
        Raw features in, class probabilities out; with two classes only the second one's.
    history_ : dict of list of float
        loss, accuracy, val_loss, val_accuracy of each epoch. Training figures are means over the epoch's
        steps.
    best_epoch_ : int
        The epoch kept, counted from 1.
    n_iter_ : int
        Epochs run.
    n_validation_ : int
        Images that decided when to stop.
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
            What must not be parted, and which rows are views of one image; the first row of an image counts
            as its plain view. By default each image is a group, and each row an image.
        X_val, y_val : ndarray of shape (n_val, n_features) and (n_val,), optional
            Rows that decide when to stop, instead of a part of X.

        Raises
        ------
        FitError
            If there is one class only, a class has a single group and no validation rows are given, or the
            loss leaves the finite numbers.
        """
        X, y = self._check_fit(X, y, dtype=np.float32)
        require_two_classes(self.classes_)
        self.check_parameters()
        groups, image = resolve_groups(len(y), groups, image)
        if X_val is None:
            plain = rows_by_image(image).plain
            aside = validation_images(
                y[plain], groups[plain], fraction=self.validation_fraction, seed=self.seed
            )
            X_val, y_val = X[plain[aside]], y[plain[aside]]
            kept = ~np.isin(image, image[plain[aside]])
            X, y, image = X[kept], y[kept], image[kept]
        else:
            X_val = self._check_predict(X_val, dtype=np.float32)
            y_val = check_validation(y_val, n_rows=len(X_val), classes=self.classes_)
        self.n_validation_ = len(X_val)
        self._train(X, y, image, X_val, y_val)
        if self.log_dir is not None:
            write_curves(self.log_dir, self.history_)
        return self

    def check_parameters(self) -> None:
        """Raise FitError if a parameter cannot be used."""
        check_parameters(self.get_params())

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float32)
        parts = [
            self.model_(X[start : start + ROWS_A_PASS], training=False).numpy()
            for start in range(0, len(X), ROWS_A_PASS)
        ]
        probabilities = np.concatenate(parts).astype(np.float64)
        if probabilities.shape[1] == 1:
            return np.hstack([1.0 - probabilities, probabilities])
        return probabilities / probabilities.sum(axis=1, keepdims=True)  # float32 sums are off by 1e-7

    def save(self, path: str | Path) -> None:
        """Write the network to ``path``, which ends in ``.keras``."""
        with _warnings_caught, warnings.catch_warnings():
            # Keras' own conversion of its variables to NumPy 2 arrays.
            warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
            self.model_.save(path)

    @classmethod
    def load(cls, path: str | Path, classes: Sequence) -> DenseHead:
        """Return a fitted head from a file of `save` and its classes, in the order of the probabilities.

        Nothing in the file is run as code. How it was trained is not in it: parameters but `output`
        are the defaults.
        """
        import keras

        network = keras.models.load_model(path, compile=False, safe_mode=True)
        head = cls(output="ordinal" if is_ordinal(network) else "nominal")
        head.model_ = network
        head.classes_ = np.asarray(classes)
        head.n_features_in_ = int(head.model_.input_shape[-1])
        return head

    def fit_stream(
        self, rows: RowStream, *, X_val: np.ndarray | None = None, y_val: np.ndarray | None = None
    ) -> DenseHead:
        """Train the network on rows that stay on disk.

        What an epoch is in memory, is a stretch of images here that fits in memory: `epochs` and `patience`
        count these. Stretches are put together from runs of rows in a random order; the images of each are
        shuffled as those of an epoch are. A thread reads the next one meanwhile. Results depend on memory,
        as far as it decides how long stretches are. At most `dense_stretches.MOST_VALIDATION` images decide
        when to stop.

        Parameters
        ----------
        rows : RowStream
        X_val, y_val : ndarray of shape (n_val, n_features) and (n_val,), optional
            As in `fit`.
        """
        from classify.heads.dense_network import MOST_VALIDATION, StreamedEpochs

        label = self._check_stream(rows)
        self.check_parameters()
        plain = rows_by_image(rows.image).plain
        kept = np.ones(len(rows), dtype=bool)
        if X_val is None:
            fraction = min(self.validation_fraction, MOST_VALIDATION / len(plain))
            aside = plain[
                validation_images(rows.y[plain], rows.groups[plain], fraction=fraction, seed=self.seed)
            ]
            X_val, y_val = rows.take(aside), rows.y[aside]
            kept = ~np.isin(rows.image, rows.image[aside])
        else:
            X_val = self._check_predict(X_val, dtype=np.float32)
            y_val = check_validation(y_val, n_rows=len(X_val), classes=self.classes_)
        self.n_validation_ = len(X_val)
        scaled = fit_scaling(rows, self.scaling, chosen=kept)
        stretches = StreamedEpochs(rows, label, kept=kept, seed=self.seed)
        self._fit_network(
            stretches.labels,
            X_val,
            y_val,
            scaling=lambda net: net.layers_of_moments(scaled.mean, scaled.variance, self.scaling),
            epochs=stretches.each,
        )
        how = (
            f"an epoch is a stretch of up to {stretches.n_images:,} of "
            f"{int(kept[plain].sum()):,} images, {self.n_validation_:,} others decide when to stop"
        )
        self.notes_ = (streamed_note(len(rows), how),)
        if self.log_dir is not None:
            write_curves(self.log_dir, self.history_)
        return self

    def _train(
        self, X: np.ndarray, y: np.ndarray, image: np.ndarray, X_val: np.ndarray, y_val: np.ndarray
    ) -> None:
        """Train on rows in memory, the same ones in every epoch."""
        images = rows_by_image(image)
        labels = np.searchsorted(self.classes_, y[images.plain])

        def always(before: Sequence[keras.layers.Layer]) -> Generator[dict[str, np.ndarray]]:
            from classify.heads.dense_network import scale_rows

            yield {
                "X": scale_rows(before, X, images.rows),
                "start": images.start,
                "count": images.count,
                "y": labels,
            }

        self._fit_network(
            labels, X_val, y_val, scaling=lambda net: net.scaling_layers(X, self.scaling), epochs=always
        )

    def _fit_network(
        self,
        labels: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
        *,
        scaling: Callable[[ModuleType], Sequence[keras.layers.Layer]],
        epochs: Callable[[Sequence[keras.layers.Layer]], Generator[Mapping[str, np.ndarray]]],
    ) -> None:
        """Train on what `epochs` yields: for each epoch X, scaled, start, count and y of `Rows`.

        `labels` are those of all images that are trained on; `scaling` makes the layers that scale.
        """
        import tensorflow as tf

        from classify.heads import dense_network as net, dense_training as training

        tf.config.experimental.enable_op_determinism()
        units, n_classes = tuple(int(size) for size in self.units), len(self.classes_)
        weight = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_[labels])
        ordinal = self.output == "ordinal"
        before = scaling(net)
        self.model_ = net.build_network(
            self.n_features_in_,
            n_classes,
            units=units,
            dropout=self.dropout,
            seed=self.seed,
            before=before,
            thresholds=initial_thresholds(np.bincount(labels) * weight) if ordinal else None,
        )
        held = {
            "X_val": net.scale_rows(before, X_val, np.arange(len(X_val))),
            "y_val": np.searchsorted(self.classes_, y_val),
            "class_weight": weight,
        }
        epoch = training.epoch_function(self.n_features_in_, n_classes, units, self.dropout, ordinal=ordinal)
        with contextlib.closing(epochs(before)) as shown:
            self.history_, self.best_epoch_ = training.train(
                self.model_,
                training.as_rows(held, shown),
                epoch,
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                patience=self.patience,
                seed=self.seed,
            )
        self.n_iter_ = len(self.history_["loss"])


OUTPUTS = ("nominal", "ordinal")


def check_parameters(params: Mapping[str, Any]) -> None:
    """Raise FitError if one of the dense head's parameters cannot be used."""
    positive = {name: params[name] for name in ("learning_rate", "epochs", "batch_size", "patience")}
    positive["units"] = min(params["units"], default=1)
    for name, value in positive.items():
        if not value > 0:
            raise FitError(f"{name} is {value}: expected a positive number.")
    if not 0 <= params["dropout"] < 1:
        raise FitError(f"dropout is {params['dropout']}: expected a share from 0 to below 1.")
    if not 0 < params["validation_fraction"] < 1:
        raise FitError(
            f"validation_fraction is {params['validation_fraction']}: expected a share between 0 and 1."
        )
    for name, known in (("scaling", SCALINGS), ("output", OUTPUTS)):
        if params[name] not in known:
            raise FitError(f"Unknown {name} {params[name]!r}: expected one of {', '.join(known)}.")


def check_validation(y_val: Any, *, n_rows: int, classes: np.ndarray) -> np.ndarray:
    """Return the classes of `n_rows` validation rows.

    Raises
    ------
    FitError
        If there are not as many, or one is not among the training classes.
    """
    if y_val is None or len(y_val) != n_rows:
        found = "no" if y_val is None else len(y_val)
        raise FitError(f"{found} labels for {n_rows} validation rows: expected y_val beside X_val.")
    strange = np.setdiff1d(y_val, classes)
    if len(strange):
        raise FitError(f"Validation class '{strange[0]}' is not among the training classes.")
    return np.asarray(y_val)
