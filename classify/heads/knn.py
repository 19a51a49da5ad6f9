"""k-nearest-neighbours classifier with cosine distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import assert_all_finite
from sklearn.utils.class_weight import compute_class_weight

from classify.heads.base import SCALERS, BaseHead, FitError, make_scaler, require_two_classes

MIN_DISTANCE = 1e-6  # smaller cosine distances are float32 rounding
ROWS_PER_PASS = 1024  # bounds memory


class KNNHead(BaseHead):
    """Votes of the k nearest training rows, each weighted by the inverse of its cosine distance.

    Each view is a row of its own. The votes are scaled to sum to k, and one vote is added that all classes
    share equally, so that no probability is 0. The order of the classes does not change.

    Parameters
    ----------
    k : int, default=5
        Number of neighbours; all rows if there are fewer.
    scaling : {"standardise", "l2"}, default="l2"
        Cosines of raw features with "l2", of standardised features otherwise.
    class_weight : {None, "balanced"} or dict, default=None
        Weighs the votes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    scaler_ : fitted transformer
    neighbours_ : NearestNeighbors
        Holds all training rows.
    label_ : ndarray of shape (n_rows,)
        Class index of each training row.
    class_weight_ : ndarray of shape (n_classes,)
    """

    FITTED = BaseHead.FITTED | {
        "scaler_": SCALERS,
        "neighbours_": NearestNeighbors,
        "label_": np.ndarray,
        "class_weight_": np.ndarray,
    }

    def __init__(self, *, k: int = 5, scaling: str = "l2", class_weight: str | dict | None = None) -> None:
        self.k = k
        self.scaling = scaling
        self.class_weight = class_weight

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> KNNHead:
        """Store the scaled rows; `groups` and `image` are ignored.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)

        Raises
        ------
        FitError
            If there is only one class, or k is not positive.
        """
        X, y = self._check_fit(X, y, dtype=np.float32)
        require_two_classes(self.classes_)
        if not self.k >= 1:
            raise FitError(f"k is {self.k}: expected a positive number.")
        self.label_ = np.searchsorted(self.classes_, y)
        self.class_weight_ = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        self.scaler_ = make_scaler(self.scaling)
        self.neighbours_ = NearestNeighbors(metric="cosine", algorithm="brute").fit(
            self.scaler_.fit_transform(X)
        )
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities: (n_rows, n_classes), float64, columns as in `classes_`."""
        distances, neighbours = self._nearest(X, k=self.k)
        return self._probabilities(distances, neighbours, k=self.k)

    def _nearest(self, X: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return cosine distances and indices of the k nearest training rows, nearest first: (n_rows, k)."""
        X = self._check_predict(X, dtype=np.float32)
        k = min(k, len(self.label_))
        parts = [
            self.neighbours_.kneighbors(self.scaler_.transform(X[i : i + ROWS_PER_PASS]), n_neighbors=k)
            for i in range(0, len(X), ROWS_PER_PASS)
        ]
        return np.concatenate([d for d, _ in parts]), np.concatenate([index for _, index in parts])

    def _probabilities(self, distances: np.ndarray, neighbours: np.ndarray, *, k: int) -> np.ndarray:
        """Return the class probabilities from the first k neighbours of each row."""
        distances, label = distances[:, :k].astype(np.float64), self.label_[neighbours[:, :k]]
        weight = self.class_weight_[label] / np.maximum(distances, MIN_DISTANCE)  # (n_rows, k)
        votes = np.stack([np.sum(weight * (label == c), axis=1) for c in range(len(self.classes_))], axis=1)
        shares = votes / votes.sum(axis=1, keepdims=True)
        k = distances.shape[1]
        return (k * shares + 1.0 / len(self.classes_)) / (k + 1.0)


def fold_predictions(
    heads: Sequence[KNNHead],
    X_fit: np.ndarray,
    y_fit: np.ndarray,
    X_score: np.ndarray,
    *,
    soft: bool = False,
) -> list[npt.NDArray]:
    """Fit each head on the rows of a fold and predict the scored rows; the heads themselves stay unfitted.

    Heads that differ only in k share one neighbour search.

    Parameters
    ----------
    heads : sequence of KNNHead
    X_fit, X_score : ndarray of shape (n_fit, n_features) and (n_score, n_features)
        Unscaled features.
    y_fit : ndarray of shape (n_fit,)
    soft : bool, default=False
        Return probabilities instead of classes.

    Returns
    -------
    list of ndarray of shape (n_score,), or (n_score, n_classes) if `soft`
        In the order of the heads.
    """
    predictions: dict[int, npt.NDArray] = {}
    members_by_params: dict[tuple, list[int]] = {}
    for index, head in enumerate(heads):
        members_by_params.setdefault((head.scaling, str(head.class_weight)), []).append(index)
    assert_all_finite(X_score)
    for members in members_by_params.values():
        fitted = max((heads[index] for index in members), key=lambda head: head.k)
        fitted = clone(fitted).fit(X_fit, y_fit)
        distances, neighbours = fitted._nearest(X_score, k=fitted.k)
        for index in members:
            probabilities = fitted._probabilities(distances, neighbours, k=heads[index].k)
            classes = fitted.classes_[np.argmax(probabilities, axis=1)]
            predictions[index] = probabilities if soft else classes
    return [predictions[index] for index in range(len(heads))]
