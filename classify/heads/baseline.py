"""The majority class: what any head has to beat."""

from __future__ import annotations

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.utils import Tags

from classify.data.blocks import RowStream
from classify.heads.base import BaseHead
from classify.heads.grouping import resolve_rows, rows_by_image


class BaselineHead(BaseHead):
    """Predict the commonest class, with the shares of the classes among training images as probabilities.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    classifier_ : DummyClassifier
        Fitted with strategy "prior", on each image once, however many views it has.
    """

    FITTED = BaseHead.FITTED | {
        "classifier_": DummyClassifier,
    }

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # by design
        return tags

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        groups: np.ndarray | None = None,
        image: np.ndarray | None = None,
    ) -> BaselineHead:
        """Count the classes; X matters for its number of columns alone, `groups` not at all."""
        X, y = self._check_fit(X, y, dtype=np.float32)
        _, image = resolve_rows(len(y), groups, image)
        plain = rows_by_image(image).plain
        # One column: the classifier reads none, and would otherwise check every value of X again.
        self.classifier_ = DummyClassifier(strategy="prior").fit(X[plain, :1], y[plain])
        return self

    def fit_stream(self, rows: RowStream) -> BaselineHead:
        """Count the classes of rows that stay on disk; nothing is read."""
        self.classes_ = np.unique(rows.y)
        self.n_features_in_ = rows.n_features
        y = rows.y[rows_by_image(rows.image).plain]
        self.classifier_ = DummyClassifier(strategy="prior").fit(np.zeros((len(y), 1)), y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the same row of class shares for each row of X: (n_rows, n_classes), float64."""
        X = self._check_predict(X, dtype=np.float32)
        return self.classifier_.predict_proba(X[:, :1])
