"""Which function turns which fitted head into a graph, and what is too large for one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from classify.exporting.steps import Tensor
from featurize import ExportError

MOST_NUMBERS = 20_000_000  # of training rows in a head's graph: 160 MB in float64

GRAPHS: Mapping[str, str] = {  # head: "<module>.<function>" in this package
    "dense": "networks.dense",
    "logreg": "linear.logistic",
    "svm-linear": "machines.machine",
    "svm-rbf": "machines.machine",
    "ordinal-dense": "networks.dense",
    "ordinal-logistic": "linear.ordinal_logistic",
    "ordinal-svm": "machines.ordinal_machine",
    "nearest-mean": "linear.nearest_mean",
    "knn": "neighbours.neighbours",
    "lda": "linear.discriminant",
    "baseline": "linear.baseline",
}
_KEEPING: Mapping[str, tuple[str, str]] = {  # head: what counts the numbers it keeps, and of what
    "svm-linear": ("machines.kept_numbers", "support vectors"),
    "svm-rbf": ("machines.kept_numbers", "support vectors"),
    "ordinal-svm": ("machines.kept_numbers", "support vectors"),
    "knn": ("neighbours.kept_numbers", "training rows"),
}


def head_probabilities(head: str, estimator: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted head as a graph.

    Parameters
    ----------
    head : str
        Its name.
    estimator : fitted head
    rows : tensor of shape (n, n_features), float32
    name : str
        Names of its layers begin with that.

    Returns
    -------
    tensor of shape (n, n_labels), float64
        What the estimator's `predict_proba` returns.
    """
    return _function(GRAPHS[head])(estimator, rows, name=name)


def require_room(head: str, estimator: Any, *, what: str, most: int = MOST_NUMBERS) -> None:
    """Raise unless what a fitted head keeps of its training rows has room in a graph.

    Raises
    ------
    ExportError
        With how much it is, and the limit.
    """
    counter, kept = _KEEPING.get(head, ("", ""))
    numbers = _function(counter)(estimator) if counter else 0
    if numbers > most:
        raise ExportError(
            f"{what}: {head} keeps {numbers // estimator.n_features_in_:,} {kept} of "
            f"{estimator.n_features_in_:,} features, {numbers:,} numbers; an export has room for {most:,}. "
            "Export a head that keeps none, such as logreg, lda or dense"
        )


def _function(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
