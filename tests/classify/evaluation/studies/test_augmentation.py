"""Study of augmented views: three variants on the same held-out images, each computed with scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from classify.errors import CompareError
from classify.evaluation.studies.base import choose_on_folds
from classify.evaluation.studies.views import AVERAGED, PLAIN, VIEWS, study_augmentation, without_views


def scikit_learns(params):
    scaler = StandardScaler() if params["scaling"] == "standardise" else Normalizer()
    return make_pipeline(scaler, LogisticRegression(C=params["C"], solver="newton-cholesky", tol=1e-6))


def test_each_variant_matches_scikit_learn(make_case):
    case = make_case(distance=1.2, n_views=3, view_noise=0.8, counts={"train": 25, "test": 4})
    samples = case.samples
    without = choose_on_folds(replace(case, samples=without_views(samples))).params
    params = choose_on_folds(case).params
    right = dict.fromkeys((PLAIN, VIEWS, AVERAGED), 0)
    for fitted, held_out in case.folds:
        y = samples.y[held_out]
        plain = samples.rows(held_out, views=False).X
        alone = samples.rows(fitted, views=False)
        right[PLAIN] += np.sum(scikit_learns(without).fit(alone.X, alone.y).predict(plain) == y)
        rows, scored = samples.rows(fitted), samples.rows(held_out)
        model = scikit_learns(params).fit(rows.X, rows.y)
        right[VIEWS] += np.sum(model.predict(plain) == y)
        mean = model.predict_proba(scored.X).reshape(len(held_out), 4, 2).mean(axis=1)
        right[AVERAGED] += np.sum(np.argmax(mean, axis=1) == y)
    found = study_augmentation(case)
    assert found["metric"] == "accuracy"
    for way, n_right in right.items():
        assert found["figures"][way] == pytest.approx(n_right / len(case.images))
    step = found["differences"][VIEWS]
    assert step["difference"] == pytest.approx((right[VIEWS] - right[PLAIN]) / len(case.images))
    assert step["low"] <= step["difference"] <= step["high"]
    assert (found["n_views"], "--views-for all" in found["text"]) == (3, True)


def with_nuisance(samples, *, strength=6.0, seed=0):
    """The class stands in column 0, weakly; column 1 varies by itself, and between the views of an image."""
    generator = np.random.default_rng(seed)
    n = len(samples.plain)
    label = np.zeros(n, dtype=np.int64)
    label[samples.content] = samples.y

    def features(shape):
        X = generator.normal(size=(*shape, samples.n_features))
        X[..., 0] += np.where(label, 1.5, -1.5)[(...,) + (None,) * (len(shape) - 1)]
        X[..., 1:] *= strength
        return X.astype(np.float32)

    seen = samples.augmented_row >= 0
    return replace(samples, plain=features((n,)), augmented=features((n, samples.n_views))[seen])


def test_views_that_show_irrelevant_variation_improve_predictions(make_case):
    case = make_case(n_features=100, n_views=8, counts={"train": 50, "test": 4})
    found = study_augmentation(replace(case, samples=with_nuisance(case.samples)))
    assert found["differences"][VIEWS]["low"] > 0
    assert "Augmented views improved the predictions." in found["text"]


def test_views_that_are_copies_change_nothing(make_case):
    case = make_case(distance=1.2, view_noise=0.0, n_views=1)
    found = study_augmentation(case)
    assert found["figures"][VIEWS] == found["figures"][AVERAGED]
    assert found["differences"][AVERAGED]["verdict"] == "no detectable difference"
    assert "Averaging predictions over views made no detectable difference" in found["text"]


def test_a_store_without_views_says_how_to_make_some(make_case):
    with pytest.raises(CompareError, match="featurize extract DATA --views 4"):
        study_augmentation(make_case(n_views=0))
