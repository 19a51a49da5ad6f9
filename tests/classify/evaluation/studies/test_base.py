"""Folds of the training images and predictions out of them, against scikit-learn's."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classify.data.samples import load_samples
from classify.errors import CompareError
from classify.evaluation.studies.base import (
    choose_on_folds,
    make_context as best_case,
    out_of_fold,
    run_all,
    study_folds,
)
from classify.model_selection.grid_search import CandidateResult, SearchSettings
from classify.model_selection.protocol import make_protocol
from classify.model_selection.tasks import FittedHead, SearchResult

SETTINGS = SearchSettings(seed=0, class_weight=None, dense_options={}, log_folder=None)


@pytest.mark.parametrize("counts", [{"train": 12, "test": 5}, {"train": 12}])
def test_the_folds_are_those_of_the_comparison(make_store, counts):
    samples = load_samples(make_store(counts=counts))
    protocol = make_protocol(samples, seed=3)
    last = protocol.final or protocol.outer_folds[0]
    assert study_folds(samples, protocol, seed=3) is last.inner_folds


def test_beside_a_val_split_folds_are_made_over_train_and_val(make_store):
    samples = load_samples(make_store(counts={"train": 10, "val": 5, "test": 5}))
    folds = study_folds(samples, make_protocol(samples, seed=0), seed=0)
    held_out = np.concatenate([images for _, images in folds])
    np.testing.assert_array_equal(np.sort(held_out), samples.fit_images)
    assert not np.isin(np.concatenate([np.concatenate(fold) for fold in folds]), samples.test_images).any()


def test_out_of_fold_probabilities_are_scikit_learns(make_case):
    case = make_case(distance=1.0)
    samples = case.samples
    found = out_of_fold(case, {"C": 0.1, "scaling": "standardise"})
    assert case.images.tolist() == samples.train_images.tolist()
    for fitted, held_out in case.folds:
        rows = samples.rows(fitted)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-6))
        expected = model.fit(rows.X, rows.y).predict_proba(samples.plain[samples.content[held_out]])
        np.testing.assert_allclose(found[np.isin(case.images, held_out)], expected, atol=1e-5)


def test_the_search_is_over_the_whole_grid(make_case):
    choice = choose_on_folds(make_case(distance=1.0))
    assert choice.score is not None
    assert set(choice.params) == {"C", "scaling"}


def candidate(samples, head, score):
    fitted = FittedHead(saved=None, probabilities=np.zeros((0, 2)), fit_seconds=0.0, predict_seconds=0.0)
    choice = SearchResult(params={}, score=score, seconds=0.0)
    return CandidateResult(samples=samples, head=head, searches=(choice,), final=fitted)


def test_the_recommended_head_is_studied(make_store):
    one, two = load_samples(make_store()), load_samples(make_store("vgg16", seed=1))
    candidates = [
        candidate(one, "logreg", 0.9),
        candidate(one, "svm-rbf", 0.8),
        candidate(two, "logreg", 0.7),
    ]
    candidates += [
        candidate(two, "baseline", 0.5),
        CandidateResult(samples=two, head="svm-linear", reason="failed"),
    ]
    given = {"settings": SETTINGS, "run": list}
    protocol = make_protocol(one, seed=0)

    def case(store, head):
        return best_case(candidates, protocol, recommended={"store": store, "head": head}, **given)

    assert (case("vgg16", "logreg").samples is two, case("vgg16", "logreg").heads) == (True, ("logreg",))
    assert case("efficientnet_lite0", "svm-rbf").heads == ("logreg", "svm-rbf")
    # What is no head of the registry is studied as the best head on its store.
    assert case("efficientnet_lite0", "soft vote").head == "logreg"
    with pytest.raises(CompareError, match="no head could be fitted"):
        best_case(candidates, protocol, recommended=None, **given)


def test_a_task_that_fails_says_whose_it_is(make_case):
    case = make_case()
    tied = replace(case.samples, group=np.where(case.samples.y == 0, 0, np.arange(len(case.samples.y))))
    with pytest.raises(CompareError, match=r"svm-rbf on efficientnet_lite0: .* single group"):
        out_of_fold(replace(case, head="svm-rbf", samples=tied), {"C": 1.0})
    assert run_all(case, []) == []
