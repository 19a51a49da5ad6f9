"""Plain arm of the heads: the same search with scikit-learn's grid search and Keras' ``fit``.

Folds, rows, grids and the order in which ties are broken are Folio's, so that both arms have the same task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC

from classify.data.folds import grouped_folds
from classify.data.samples import Samples, load_samples
from classify.heads.grouping import validation_images
from classify.heads.registry import get_head, grid_points
from classify.jobs.options import DenseOptions
from classify.model_selection.protocol import EvaluationProtocol, make_protocol

Run = Callable[..., dict[str, Any]]
TOLERANCE = 1e-6
SCALERS = {"standardise": StandardScaler, "l2": Normalizer}


class RelativeSVC(SVC):
    """SVC with gamma as a multiple of ``gamma="scale"`` on the rows it is fitted on."""

    def __init__(self, *, gamma_factor=1.0, kernel="rbf", C=1.0, gamma="scale", tol=1e-3, cache_size=500,
                 break_ties=False):  # fmt: skip
        super().__init__(
            kernel=kernel, C=C, gamma=gamma, tol=tol, cache_size=cache_size, break_ties=break_ties
        )
        self.gamma_factor = gamma_factor

    def fit(self, X, y, sample_weight=None):
        if self.kernel == "rbf":
            self.gamma = self.gamma_factor / (X.shape[1] * X.var())
        return super().fit(X, y, sample_weight)


def search(*, store: str, jobs: int | None, seed: int = 0, dense: Mapping[str, Any] | None = None) -> Run:
    """Return an arm that tunes, fits and tests heads on a store; `jobs` is n_jobs of GridSearchCV."""
    import keras  # noqa: F401 - its import is not part of the measured search

    samples = load_samples(store)
    protocol = make_protocol(samples, seed=seed)
    options = {**vars(DenseOptions()), **(dense or {})}

    def run(*, heads: Sequence[str]) -> dict[str, Any]:
        found = {}
        for head in heads:
            if head == "dense":
                found[head] = _search_dense(samples, protocol, options, seed=seed)
            elif head != "baseline":
                found[head] = _search_sklearn(samples, protocol, head, jobs=jobs, seed=seed)
        return {"heads": found}

    return run


def dense_fits(*, store: str, options: Mapping[str, Any]) -> Run:
    """Return an arm that fits a Keras network once per seed and returns the test accuracies."""
    samples = load_samples(store)

    def run(*, seeds: Sequence[int], params: dict[str, Any]) -> dict[str, Any]:
        accuracies = []
        for seed in seeds:
            network = _fit_dense(
                samples, samples.train_images, {**vars(DenseOptions()), **options}, **params, seed=seed
            )
            accuracies.append(float(np.mean(_dense_predict(network, samples, samples.test_images)[1])))
        return {"units": len(seeds), "accuracies": accuracies}

    return run


def _pipeline(head: str, point: Mapping[str, Any]) -> Pipeline:
    if head == "logreg":
        classifier: Any = LogisticRegression(C=point["C"], tol=TOLERANCE, max_iter=10_000)
    else:
        classifier = RelativeSVC(
            kernel=head.removeprefix("svm-"), C=point["C"], gamma_factor=point.get("gamma_factor", 1.0),
            tol=TOLERANCE, break_ties=True,
        )  # fmt: skip
    return Pipeline([("scale", SCALERS[point["scaling"]]()), ("classify", classifier)])


def _search_sklearn(
    samples: Samples, protocol: EvaluationProtocol, head: str, *, jobs: int | None, seed: int
) -> dict[str, Any]:
    points = grid_points(get_head(head))
    work = protocol.outer_folds[0]
    rows = samples.rows(work.fit)
    X = rows.X.astype(np.float64)
    folds = [
        (
            np.flatnonzero(np.isin(rows.image, fitted)),
            np.flatnonzero(np.isin(rows.image, scored) & rows.is_plain),
        )
        for fitted, scored in work.inner_folds
    ]
    names = {"C": "classify__C", "gamma_factor": "classify__gamma_factor"}
    grid = [
        {
            "scale": [SCALERS[point["scaling"]]()],
            **{names[key]: [value] for key, value in point.items() if key in names},
        }
        for point in points
    ]
    search = GridSearchCV(
        _pipeline(head, points[0]), grid, cv=folds, scoring="balanced_accuracy", refit=False, n_jobs=jobs
    ).fit(X, rows.y)
    best = int(np.argmax(np.round(search.cv_results_["mean_test_score"], 10)))
    fitted = _pipeline(head, points[best])
    if head == "logreg":
        fitted.fit(X, rows.y)
    else:
        gamma = fitted.fit(X, rows.y)["classify"].gamma
        fitted = Pipeline([fitted.steps[0], ("classify", SVC(
            kernel=head.removeprefix("svm-"), C=points[best]["C"], gamma=gamma, tol=TOLERANCE, cache_size=500,
            break_ties=True,
        ))])  # fmt: skip
        splits = grouped_folds(rows.y, rows.groups, n_folds=5, seed=seed)
        fitted = CalibratedClassifierCV(fitted, method="sigmoid", cv=splits.pairs, ensemble=False)
        fitted.fit(X, rows.y)
    test = samples.rows(work.test, views=False)
    predicted = np.argmax(fitted.predict_proba(test.X.astype(np.float64)), axis=1)
    return _search_result(
        samples, points[best], search.cv_results_["mean_test_score"][best], predicted, test.y
    )


def _search_dense(
    samples: Samples, protocol: EvaluationProtocol, options: Mapping[str, Any], *, seed: int
) -> dict[str, Any]:
    work, points, means = protocol.outer_folds[0], grid_points(get_head("dense")), []
    for point in points:
        scores = []
        for fitted, scored in work.inner_folds:
            network = _fit_dense(samples, fitted, options, **point, seed=seed)
            predicted, _ = _dense_predict(network, samples, scored)
            scores.append(balanced_accuracy_score(samples.y[scored], predicted))
        means.append(np.mean(scores))
    best = int(np.argmax(np.round(means, 10)))
    network = _fit_dense(samples, work.fit, options, **points[best], seed=seed)
    predicted, _ = _dense_predict(network, samples, work.test)
    return _search_result(samples, points[best], means[best], predicted, samples.y[work.test])


def _fit_dense(
    samples: Samples, images: np.ndarray, options: Mapping[str, Any], *, scaling: str, seed: int
) -> Any:
    """Train as Keras users do: a shuffled ``tf.data`` pipeline with one view of each image per epoch."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    is_validation = validation_images(samples.y[images], samples.group[images], seed=seed)
    training, validation = images[~is_validation], images[is_validation]
    rows = samples.rows(training)
    n_views = len(rows.X) // len(training)
    X = rows.X.reshape(len(training), n_views, -1)  # (n_images, n_views, n_features)
    layers = keras.layers
    if scaling == "l2":
        scale = [layers.UnitNormalization(), layers.Rescaling(float(X.shape[-1]) ** 0.5)]
    else:
        scale = [layers.Normalization()]
        scale[0].adapt(rows.X)
    hidden = [layers.Dense(width, activation="relu") for width in options["units"]]
    middle = [layers.BatchNormalization(), *hidden, layers.BatchNormalization()]
    end = [layers.Dropout(options["dropout"]), layers.Dense(len(samples.classes), activation="softmax")]
    network = keras.Sequential([keras.Input((X.shape[-1],)), *scale, *middle, *end])
    network.compile(
        keras.optimizers.Adam(options["learning_rate"]),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    dataset = (
        tf.data.Dataset.from_tensor_slices((X, samples.y[training]))
        .shuffle(len(training), seed=seed)
        .map(lambda views, y: (views[tf.random.uniform([], maxval=n_views, dtype=tf.int32)], y))
        .batch(options["batch_size"])
        .prefetch(tf.data.AUTOTUNE)
    )
    network.fit(
        dataset,
        validation_data=(samples.rows(validation, views=False).X, samples.y[validation]),
        epochs=options["epochs"],
        callbacks=[keras.callbacks.EarlyStopping(patience=options["patience"], restore_best_weights=True)],
        shuffle=False,  # the pipeline shuffles
        verbose=0,
    )
    return network


def _dense_predict(network: Any, samples: Samples, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted class of each image, and whether it is correct."""
    predicted = np.argmax(network.predict(samples.rows(images, views=False).X, verbose=0), axis=1)
    return predicted, predicted == samples.y[images]


def _search_result(
    samples: Samples, params: Mapping[str, Any], score: float, predicted: np.ndarray, true: np.ndarray
) -> dict[str, Any]:
    return {
        "params": dict(params),
        "cv_balanced_accuracy": float(score),
        "accuracy": float(np.mean(predicted == true)),
        "predicted": [samples.classes[label] for label in predicted],
    }
