"""What all heads share: input checks, scaling, and the class as arg max of the probabilities."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from classify.data.blocks import RowStream
from classify.errors import CompareError
from classify.heads.registry import SCALINGS


def all_classes(probabilities: npt.NDArray[Any], *, labels: Any, n_classes: int) -> npt.NDArray[np.float64]:
    """Return one column a class; a class the head has never seen gets probability 0."""
    full = np.zeros((len(probabilities), n_classes))
    full[:, np.asarray(labels, dtype=np.int64)] = probabilities
    return full


SCALERS = (StandardScaler, Normalizer)  # those of `make_scaler`


class FitError(CompareError, ValueError):
    """Rows that a head cannot be fitted on. A ValueError too, as scikit-learn expects of its estimators."""


def make_scaler(scaling: str, *, copy: bool = True) -> TransformerMixin:
    """Return scikit-learn's transformer for a scaling: "standardise" each column or "l2"-normalise each row.

    Without `copy` it scales float64 rows in place.

    Raises
    ------
    FitError
        If the scaling is unknown.
    """
    if scaling == "standardise":
        return StandardScaler(copy=copy)
    if scaling == "l2":
        return Normalizer(norm="l2", copy=copy)
    raise FitError(f"Unknown scaling {scaling!r}: expected one of {', '.join(SCALINGS)}.")


class BaseHead(ClassifierMixin, BaseEstimator):
    """A classifier of feature rows that answers in probabilities."""

    # Fitted attributes and their types: what `classify.io.head_file` keeps, with the parameters.
    FITTED: ClassVar[dict[str, Any]] = {"classes_": np.ndarray, "n_features_in_": int, "notes_": tuple}

    classes_: np.ndarray
    n_features_in_: int

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of largest probability for each row of X; the first of equal ones."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the class probabilities, ndarray of shape (n_rows, n_classes), columns as in `classes_`."""
        raise NotImplementedError

    def _check_fit(self, X: Any, y: Any, *, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(self, X, y, dtype=dtype)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        return X, y

    def _check_stream(self, rows: RowStream) -> np.ndarray:
        """Take classes and width of rows that stay on disk; return the index of each row's class."""
        self.classes_, label = np.unique(rows.y, return_inverse=True)
        self.n_features_in_ = rows.n_features
        require_two_classes(self.classes_)
        return label

    def _check_predict(self, X: Any, *, dtype: type) -> np.ndarray:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, dtype=dtype, reset=False))


def streamed_note(n_rows: int, how: str) -> str:
    """Return the sentence that says that features were read from disk, and what that changed."""
    return f"{n_rows:,} training rows were read from disk, block by block: {how}"


def require_two_classes(classes: np.ndarray) -> None:
    """Raise FitError if there is nothing to tell apart."""
    if len(classes) < 2:
        raise FitError(
            f"All training rows are of one class, '{classes[0]}': expected at least 2 classes. "
            "Add images of another class."
        )
