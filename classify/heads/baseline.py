"""Majority-class baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.utils import Tags

from classify.heads.base import BaseHead
from classify.heads.grouping import resolve_groups, rows_by_image

if TYPE_CHECKING:
    from classify.data.blocks import RowStream


class BaselineHead(BaseHead):
    """Predict the most frequent class; the probabilities are the class frequencies of the training images.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    classifier_ : DummyClassifier
        Fitted with strategy "prior" on plain views, so that each image counts once.
    """

    FITTED = BaseHead.FITTED | {
        "classifier_": DummyClassifier,
    }

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # the features are ignored by design
        return tags

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> BaselineHead:
        """Count the classes; only the number of columns of X is used, and `groups` is ignored."""
        X, y = self._check_fit(X, y, dtype=np.float32)
        _, image = resolve_groups(len(y), groups, image)
        plain = rows_by_image(image).plain
        # One column is enough: the classifier uses none, but checks every value that it gets.
        self.classifier_ = DummyClassifier(strategy="prior").fit(X[plain, :1], y[plain])
        return self

    def fit_stream(self, rows: RowStream) -> BaselineHead:
        """Count the classes of rows that stay on disk; no feature is read."""
        self.classes_ = np.unique(rows.y)
        self.n_features_in_ = rows.n_features
        y = rows.y[rows_by_image(rows.image).plain]
        self.classifier_ = DummyClassifier(strategy="prior").fit(np.zeros((len(y), 1)), y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class frequencies for each row of X: (n_rows, n_classes), float64."""
        X = self._check_predict(X, dtype=np.float32)
        return self.classifier_.predict_proba(X[:, :1])
