"""The k nearest rows by cosine: they vote, nearer ones with more weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import assert_all_finite
from sklearn.utils.class_weight import compute_class_weight

from classify.heads.base import SCALERS, BaseHead, FitError, make_scaler, require_two_classes

NEAREST = 1e-6  # cosine distance of equal rows: below it is rounding, in float32
ROWS_A_PASS = 1024  # bounds memory


class KNNHead(BaseHead):
    """The classes of the k nearest training rows, each weighing one over its cosine distance.

    Each view is a row of its own. To the votes, which sum to k, comes one that is shared by all classes
    alike, so that none gets probability 0; that changes no order.

    Parameters
    ----------
    k : int, default=5
        Neighbours; all rows where there are fewer.
    scaling : {"standardise", "l2"}, default="l2"
        Cosines are those of raw features with "l2", and of centred ones otherwise.
    class_weight : {None, "balanced"} or dict, default=None
        Weighs the votes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    scaler_ : fitted transformer
    neighbours_ : NearestNeighbors
        It keeps all training rows.
    label_ : ndarray of shape (n_rows,)
        Index of each training row's class.
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
        """Keep the rows; `groups` and `image` make no difference.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Unscaled features.
        y : ndarray of shape (n_rows,)

        Raises
        ------
        FitError
            If there is one class only, or k is not positive.
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
        distances, found = self._nearest(X, k=self.k)
        return self._probabilities(distances, found, k=self.k)

    def _nearest(self, X: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return cosine distances of the k nearest rows, nearest first, and their numbers: (n_rows, k)."""
        X = self._check_predict(X, dtype=np.float32)
        k = min(k, len(self.label_))
        parts = [
            self.neighbours_.kneighbors(self.scaler_.transform(X[i : i + ROWS_A_PASS]), n_neighbors=k)
            for i in range(0, len(X), ROWS_A_PASS)
        ]
        return np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts])

    def _probabilities(self, distances: np.ndarray, found: np.ndarray, *, k: int) -> np.ndarray:
        distances, label = distances[:, :k].astype(np.float64), self.label_[found[:, :k]]
        weight = self.class_weight_[label] / np.maximum(distances, NEAREST)  # (n_rows, k)
        votes = np.stack([np.sum(weight * (label == c), axis=1) for c in range(len(self.classes_))], axis=1)
        shares = votes / votes.sum(axis=1, keepdims=True)
        k = distances.shape[1]
        return (k * shares + 1.0 / len(self.classes_)) / (k + 1.0)


def fold_scores(
    heads: Sequence[KNNHead],
    X_fit: np.ndarray,
    y_fit: np.ndarray,
    X_score: np.ndarray,
    *,
    soft: bool = False,
) -> list[npt.NDArray]:
    """Return each head's predictions on `X_score` after a fit on the other rows; the heads stay unfitted.

    Heads that differ in k alone share one search for neighbours. With `soft` it is the probabilities,
    (n_score, n_classes).
    """
    predictions: dict[int, npt.NDArray] = {}
    alike: dict[tuple, list[int]] = {}
    for index, head in enumerate(heads):
        alike.setdefault((head.scaling, str(head.class_weight)), []).append(index)
    assert_all_finite(X_score)
    for members in alike.values():
        one = heads[members[0]]
        most = max(heads[index].k for index in members)
        fitted = KNNHead(k=most, scaling=one.scaling, class_weight=one.class_weight).fit(X_fit, y_fit)
        distances, found = fitted._nearest(X_score, k=most)
        for index in members:
            probabilities = fitted._probabilities(distances, found, k=heads[index].k)
            best = fitted.classes_[np.argmax(probabilities, axis=1)]
            predictions[index] = probabilities if soft else best
    return [predictions[index] for index in range(len(heads))]
