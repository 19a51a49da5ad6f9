"""Base class of all heads, their scalers and input checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from classify.errors import CompareError
from classify.heads.registry import SCALINGS

if TYPE_CHECKING:
    from classify.data.blocks import RowStream


def all_classes(probabilities: npt.NDArray[Any], *, labels: Any, n_classes: int) -> npt.NDArray[np.float64]:
    """Return one column per class, from the columns of the classes that a head was fitted on.

    Parameters
    ----------
    probabilities : ndarray of shape (n_rows, n_fitted_classes)
    labels : array-like of shape (n_fitted_classes,), int
        Class of each column, from 0 to ``n_classes - 1``.
    n_classes : int

    Returns
    -------
    ndarray of shape (n_rows, n_classes), float64
        0 for a class that the head was not fitted on.
    """
    full = np.zeros((len(probabilities), n_classes))
    full[:, np.asarray(labels, dtype=np.int64)] = probabilities
    return full


SCALERS = (StandardScaler, Normalizer)  # types that `make_scaler` returns


class FitError(CompareError, ValueError):
    """A head cannot be fitted. Also a ValueError, which scikit-learn expects its estimators to raise."""


def make_scaler(scaling: str, *, copy: bool = True) -> TransformerMixin:
    """Return an unfitted scikit-learn transformer.

    Parameters
    ----------
    scaling : {"standardise", "l2"}
        Standardise each column, or L2-normalise each row.
    copy : bool, default=True
        Whether to copy; False scales float64 rows in place.

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
    """A scikit-learn classifier of feature rows that predicts probabilities."""

    # Fitted attributes and their types. `classify.io.head_file` saves these and the parameters.
    FITTED: ClassVar[dict[str, Any]] = {"classes_": np.ndarray, "n_features_in_": int, "notes_": tuple}

    classes_: np.ndarray
    n_features_in_: int

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable class of each row of X; the first one in a tie."""
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
        """Set `classes_` and `n_features_in_` from rows on disk; return the class index of each row."""
        self.classes_, label = np.unique(rows.y, return_inverse=True)
        self.n_features_in_ = rows.n_features
        require_two_classes(self.classes_)
        return label

    def _check_predict(self, X: Any, *, dtype: type) -> np.ndarray:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, dtype=dtype, reset=False))


class PenalizedHead(BaseHead):
    """A linear head with an L2 penalty of strength 1 / C, solved by Newton's method."""

    def __init__(
        self,
        *,
        C: float = 1.0,
        scaling: str = "standardise",
        class_weight: str | dict | None = None,
        tol: float = 1e-6,
        max_iter: int = 10_000,
    ) -> None:
        self.C = C
        self.scaling = scaling
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter


def streamed_note(n_rows: int, how: str) -> str:
    """Return the note that features were read from disk, and how the fit differs for that reason."""
    return f"{n_rows:,} training rows were read from disk, block by block: {how}"


def require_two_classes(classes: np.ndarray) -> None:
    """Raise FitError if there are fewer than two classes."""
    if len(classes) < 2:
        raise FitError(
            f"All training rows are of one class, '{classes[0]}': expected at least 2 classes. "
            "Add images of another class."
        )
