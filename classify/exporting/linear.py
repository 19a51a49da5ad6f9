"""Heads whose scores are linear in scaled features: one dense layer after the scaling."""

from __future__ import annotations

from typing import Any

import numpy as np

from classify.exporting.steps import Tensor, affine, columns, scaled, two_sides


def logistic(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `LogisticHead`; arguments as of every head's graph.

    Parameters
    ----------
    head : fitted head
    rows : tensor of shape (n, n_features), float32
    name : str
        Its layers' names begin with that.

    Returns
    -------
    tensor of shape (n, n_classes), float64
        Columns as in the head's `classes_`.
    """
    regression = head.pipeline_["classify"]
    return _from_scores(scaled(rows, head.pipeline_["scale"]), regression, temperature=1.0, name=name)


def discriminant(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `DiscriminantHead`."""
    analysis, scale = head.pipeline_["classify"], head.pipeline_["scale"]
    return _from_scores(scaled(rows, scale), analysis, temperature=head.temperature_, name=name)


def nearest_mean(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `NearestMeanHead`.

    Of a squared distance, |z|² - 2 z·m + |m|², the first term is the same for all classes, and a softmax does
    not see it: what is left is linear.
    """
    from keras import ops

    means, sharpness = head.means_, head.sharpness_
    scores = affine(
        scaled(rows, head.scaler_),
        2.0 * sharpness * means.T,
        -sharpness * np.sum(means**2, axis=1),
        name=f"{name}_scores",
    )
    return ops.softmax(scores, axis=1)


def ordinal_logistic(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class probabilities of a fitted `OrdinalLogisticHead`."""
    from keras import ops

    thresholds = head.thresholds_
    n = len(thresholds)
    repeated = np.repeat(head.coef_[:, None], n, axis=1)
    above = affine(scaled(rows, head.scaler_), -repeated, thresholds, name=f"{name}_thresholds")
    below_it, above_it = ops.sigmoid(above), ops.sigmoid(ops.negative(above))  # (n_rows, n_classes - 1) each
    shares = [columns(below_it, [0])]
    if n > 1:
        between = ops.multiply(columns(below_it, range(1, n)), columns(above_it, range(n - 1)))
        shares.append(ops.multiply(between, -np.expm1(-np.diff(thresholds))))
    return ops.concatenate([*shares, columns(above_it, [n - 1])], axis=1)


def baseline(head: Any, rows: Tensor, *, name: str) -> Tensor:
    """Return the class shares of a fitted `BaselineHead`, whatever the rows."""
    shares = np.asarray(head.classifier_.class_prior_)
    return affine(rows, np.zeros((rows.shape[1], len(shares))), shares, name=f"{name}_shares")


def _from_scores(rows: Tensor, fitted: Any, *, temperature: float, name: str) -> Tensor:
    """Return the softmax of a linear classifier's scores; of two classes it has only the second one's."""
    from keras import ops

    scores = affine(
        rows, fitted.coef_.T / temperature, fitted.intercept_ / temperature, name=f"{name}_scores"
    )
    return two_sides(scores) if len(fitted.coef_) == 1 else ops.softmax(scores, axis=1)
