"""Support vector machines, linear and RBF, with calibrated probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

from classify.heads.base import BaseHead, FitError, make_scaler, require_two_classes
from classify.heads.linear import fit_quietly
from classify.heads.rows import settle_rows
from classify.splits import grouped_folds

# Above this many rows one float64 Gram matrix takes 0.8 GB and more: SVC's own bounded cache is used instead.
GRAM_ROWS = 10_000
CACHE_MEGABYTES = 500


class SVMHead(BaseHead):
    """A support vector machine whose probabilities are fitted on decisions for rows it was not fitted on.

    The probabilities come from ``CalibratedClassifierCV(method="sigmoid", ensemble=False)`` on grouped,
    stratified splits of the training rows; the class is their arg max, which near a border may differ from
    the SVM's vote.

    Parameters
    ----------
    kernel : {"linear", "rbf"}, default="linear"
    C : float, default=1.0
        As in scikit-learn.
    gamma_factor : float, default=1.0
        RBF width in units of scikit-learn's ``gamma="scale"``, 1 / (n_features * variance of the scaled
        training rows). Without meaning for the linear kernel.
    scaling : {"standardise", "l2"}, default="standardise"
    class_weight : {None, "balanced"} or dict, default=None
        Weighs the calibration too, which would otherwise give the commoner classes their advantage back.
    n_folds : int, default=5
        Parts for the calibration; fewer where a class has fewer groups.
    tol : float, default=1e-6
        Violation of the optimality conditions at which libsvm stops.
    max_iter : int, default=5000000
        libsvm iterations for each pair of classes: minutes, where there would otherwise be no end.
    seed : int, default=0
        For the calibration splits.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    classifier_ : CalibratedClassifierCV
        Of a Pipeline of scaler and SVC, fitted. Of the training rows it keeps the support vectors only.
    n_folds_ : int
        Calibration parts used.
    n_iter_ : int
        Most libsvm iterations for a pair of classes.
    converged_ : bool
        False when libsvm met `max_iter`; no warning is given.

    References
    ----------
    Platt, "Probabilistic outputs for support vector machines", 1999.
    """

    def __init__(
        self,
        *,
        kernel: str = "linear",
        C: float = 1.0,
        gamma_factor: float = 1.0,
        scaling: str = "standardise",
        class_weight: str | dict | None = None,
        n_folds: int = 5,
        tol: float = 1e-6,
        max_iter: int = 5_000_000,
        seed: int = 0,
    ) -> None:
        self.kernel = kernel
        self.C = C
        self.gamma_factor = gamma_factor
        self.scaling = scaling
        self.class_weight = class_weight
        self.n_folds = n_folds
        self.tol = tol
        self.max_iter = max_iter
        self.seed = seed

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> SVMHead:
        """Fit on all rows, and the probabilities on grouped splits of them.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)
        groups, image : ndarray of shape (n_rows,), optional
            What no calibration split may part; by default each image, by default each row.

        Raises
        ------
        CompareError
            If there is one class only, or a class has a single group.
        """
        X, y = self._check_fit(X, y, dtype=np.float64)
        require_two_classes(self.classes_)
        groups, _ = settle_rows(len(y), groups, image)
        folds = grouped_folds(
            np.searchsorted(self.classes_, y),
            groups,
            n_folds=self.n_folds,
            seed=self.seed,
            classes=[str(label) for label in self.classes_],
        )
        pipeline = make_pipeline(self, X)
        self.classifier_ = CalibratedClassifierCV(pipeline, method="sigmoid", cv=folds.pairs, ensemble=False)
        weight = {}
        if self.class_weight is not None:
            weight["sample_weight"] = compute_sample_weight(self.class_weight, y)
        with warnings.catch_warnings():
            # That the pipeline takes no sample weights is intended: its SVC weighs the classes itself.
            warnings.filterwarnings(
                "ignore", message="Since Pipeline does not appear to accept sample_weight"
            )
            self.converged_ = fit_quietly(self.classifier_, X, y, **weight)
        self.classifier_.set_params(cv=None)  # row numbers of the training data: of no use after the fit
        self.n_folds_ = folds.n_folds
        machine = self.classifier_.calibrated_classifiers_[0].estimator["classify"]
        self.n_iter_ = int(np.max(machine.n_iter_))
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        X = self._check_predict(X, dtype=np.float64)
        return self.classifier_.predict_proba(X)


def make_pipeline(head: SVMHead, X: np.ndarray) -> Pipeline:
    """Return the head's scaler and SVC, unfitted, with gamma settled on X (n_rows, n_features)."""
    if head.kernel not in ("linear", "rbf"):
        raise FitError(f"Unknown kernel {head.kernel!r}: expected linear or rbf.")
    scaler = make_scaler(head.scaling)
    # Settled once: "scale" would change a little with each calibration split.
    gamma = head.gamma_factor * scale_gamma(scaler.fit_transform(X)) if head.kernel == "rbf" else "scale"
    return Pipeline([("scale", make_scaler(head.scaling)), ("classify", _machine(head, gamma=gamma))])


def scale_gamma(Z: np.ndarray) -> float:
    """Return scikit-learn's ``gamma="scale"`` for scaled rows (n_rows, n_features)."""
    variance = float(Z.var())
    return 1.0 / (Z.shape[1] * variance) if variance else 1.0


def fold_scores(
    heads: Sequence[SVMHead], X_fit: np.ndarray, y_fit: np.ndarray, X_score: np.ndarray
) -> list[np.ndarray]:
    """Return each head's uncalibrated decisions on `X_score` after a fit on the other rows.

    Heads of one kernel and scaling share one matrix of inner products or squared distances, so that a step in
    C costs milliseconds. The decisions are those of SVC on the features. The heads stay unfitted.
    """
    X_fit, X_score = X_fit.astype(np.float64), X_score.astype(np.float64)
    predictions: dict[int, np.ndarray] = {}
    if len(X_fit) > GRAM_ROWS:
        for index, head in enumerate(heads):
            pipeline = make_pipeline(head, X_fit)
            fit_quietly(pipeline, X_fit, y_fit)
            predictions[index] = pipeline.predict(X_score)
    else:
        for members, K_fit, K_score in _kernels(heads, X_fit, X_score):
            for index in members:
                machine = _machine(heads[index]).set_params(kernel="precomputed")
                fit_quietly(machine, K_fit, y_fit)
                predictions[index] = machine.predict(K_score)
    return [predictions[index] for index in range(len(heads))]


def _kernels(
    heads: Sequence[SVMHead], X_fit: np.ndarray, X_score: np.ndarray
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Yield heads (by index) that share a kernel, with it among fit rows and from score to fit rows."""
    by_scaling: dict[tuple[str, str], dict[float, list[int]]] = {}
    for index, head in enumerate(heads):
        factor = head.gamma_factor if head.kernel == "rbf" else 0.0
        by_scaling.setdefault((head.scaling, head.kernel), {}).setdefault(factor, []).append(index)
    for (scaling, kernel), by_factor in by_scaling.items():
        scaler = make_scaler(scaling).fit(X_fit)
        Z_fit, Z_score = scaler.transform(X_fit), scaler.transform(X_score)
        K_fit, K_score = Z_fit @ Z_fit.T, Z_score @ Z_fit.T  # (n_fit, n_fit), (n_score, n_fit)
        if kernel == "linear":
            yield by_factor[0.0], K_fit, K_score
            continue
        norms = np.diag(K_fit).copy()
        D_fit = _squared_distances(K_fit, norms, norms)
        D_score = _squared_distances(K_score, np.einsum("ij,ij->i", Z_score, Z_score), norms)
        for factor, members in by_factor.items():
            gamma = factor * scale_gamma(Z_fit)
            yield members, np.exp(-gamma * D_fit), np.exp(-gamma * D_score)


def _squared_distances(products: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.maximum(rows[:, None] + columns[None, :] - 2.0 * products, 0.0)


def _machine(head: SVMHead, *, gamma: float | str = "scale") -> SVC:
    return SVC(
        kernel=head.kernel,
        C=head.C,
        gamma=gamma,
        class_weight=head.class_weight,
        tol=head.tol,
        max_iter=head.max_iter,
        cache_size=CACHE_MEGABYTES,
        break_ties=True,  # equal votes go by the decision values, not by the order of the classes
    )
