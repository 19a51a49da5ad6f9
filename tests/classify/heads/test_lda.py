"""Shrinkage LDA against scikit-learn's own solver."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.data.folds import grouped_folds
from classify.errors import CompareError
from classify.heads.registry import get_head, grid_points, make_head, validate_params
from classify.heads.scoring import grid_scores
from classify.heads.solvers.temperature import fit_temperature

SCALERS = {"standardise": StandardScaler, "l2": Normalizer}


def at(theirs, Z, temperature):
    """Return scikit-learn's probabilities with temperature scaling."""
    scores = theirs.decision_function(Z)
    scores = scores if scores.ndim > 1 else np.column_stack([np.zeros(len(Z)), scores])
    np.testing.assert_allclose(softmax(scores, axis=1), theirs.predict_proba(Z), atol=1e-12)
    return softmax(scores / temperature, axis=1)


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("n_features", [12, 150])  # fewer and more columns than rows
@pytest.mark.parametrize("shrinkage", [0.05, 0.9])
def test_probabilities_agree_with_scikit_learn(blobs, scaling, n_classes, n_features, shrinkage):
    X, y = blobs(160, n_features=n_features, n_classes=n_classes, apart=0.5)
    y[:20] = 0  # classes of unequal size
    head = make_head("lda", params={"shrinkage": shrinkage, "scaling": scaling}).fit(X[:100], y[:100])
    Z = SCALERS[scaling]().fit(X[:100].astype(float)).transform(X.astype(float))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(Z[:100], y[:100])
    expected = at(theirs, Z[100:], head.temperature_)
    np.testing.assert_allclose(head.predict_proba(X[100:]), expected, atol=1e-8)


def test_auto_is_ledoit_wolf_shrinkage_of_centred_rows(blobs):
    X, y = blobs(60, n_features=40)
    head = make_head("lda").fit(X, y)
    Z = StandardScaler().fit_transform(X.astype(float))
    centred = Z - np.stack([Z[y == k].mean(axis=0) for k in range(3)])[y]
    expected = LedoitWolf(assume_centered=True).fit(centred).shrinkage_
    assert head.shrinkage_ == pytest.approx(expected, abs=1e-12)
    assert 0 < head.shrinkage_ < 1


def test_balanced_classes_have_equal_priors(blobs):
    X, y = blobs(90)
    X, y = X[(y < 2) | (np.arange(90) % 2 == 0)], y[(y < 2) | (np.arange(90) % 2 == 0)]
    head = make_head("lda", params={"shrinkage": 0.3}, class_weight="balanced").fit(X, y)
    Z = StandardScaler().fit_transform(X.astype(float))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=[1 / 3] * 3).fit(Z, y)
    expected = at(theirs, Z, head.temperature_)
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=1e-8)


@pytest.mark.parametrize("entry", [None, np.arange(120) // 2])
def test_every_grid_point_agrees_with_a_separate_fit(blobs, entry):
    X, y = blobs(120, n_features=50, apart=0.5)
    y[80:] = np.repeat(y[80::2], 2)
    predicted = []
    rows = {"fit_rows": np.arange(80), "score_rows": np.arange(80, 120), "entry": entry}
    grid_scores(get_head("lda"), X, y, scorer=lambda _, p: predicted.append(p) or 0.0, **rows)
    for point, ours in zip(grid_points(get_head("lda")), predicted, strict=True):
        alone = make_head("lda", params=point).fit(X[:80], y[:80]).pipeline_.predict_proba(X[80:])
        if entry is not None:
            alone = (alone[::2] + alone[1::2]) / 2
        np.testing.assert_array_equal(ours, np.argmax(alone, axis=1))


def test_classes_of_equal_rows_are_separated():
    X, y = np.repeat(np.eye(3), 5, axis=0), np.repeat(np.arange(3), 5)
    head = make_head("lda").fit(X, y)
    np.testing.assert_array_equal(head.predict(X), y)
    assert np.isfinite(head.predict_proba(X)).all()


def test_shrinkage_can_be_auto_or_a_number():
    assert validate_params("lda", {"shrinkage": "auto"}) == {"shrinkage": "auto"}
    assert validate_params("lda", {"shrinkage": 0.5}) == {"shrinkage": 0.5}
    for wrong in ("some", 0.0, 1.5):
        with pytest.raises(CompareError, match=r"shrinkage.*expected auto, or a number above 0 up to 1"):
            validate_params("lda", {"shrinkage": wrong})
        with pytest.raises(CompareError, match="expected auto, or a number above 0 up to 1"):
            make_head("lda", params={"shrinkage": wrong}).fit(np.eye(4), np.arange(4) % 2)


def test_the_temperature_is_fitted_on_held_out_images(blobs):
    """Against scikit-learn's LDA of each fold, which is overconfident with many columns."""
    X, y = blobs(120, n_features=150, apart=0.3)
    image = np.repeat(np.arange(60), 2)
    y = np.repeat(y[::2], 2)
    head = make_head("lda", params={"shrinkage": 0.05}).fit(X, y, image=image)
    Z = StandardScaler().fit_transform(X.astype(float))
    held_out, probabilities = [], []
    for _, held in grouped_folds(y[::2], np.arange(60), seed=0).pairs:
        fitted = ~np.isin(image, held)
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.05).fit(Z[fitted], y[fitted])
        held_out.append(y[2 * held])
        probabilities.append(theirs.predict_proba(Z[2 * held]))
    expected = fit_temperature(np.concatenate(held_out), np.concatenate(probabilities))
    assert head.temperature_ == pytest.approx(expected, rel=1e-3)
    assert head.temperature_ > 1.5
