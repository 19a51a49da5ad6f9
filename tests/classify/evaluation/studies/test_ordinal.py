"""Study of class order: ordered heads against their nominal counterparts."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from classify.errors import CompareError
from classify.evaluation.studies import representations
from classify.evaluation.studies.base import choose_on_folds, out_of_fold_predictions
from classify.evaluation.studies.representations import study_order
from classify.heads.registry import HEADS

GRADES = ("1_low", "2_middle", "3_award")


@pytest.fixture
def ordered_case(make_case):
    """Grades along one direction, with noise in it: a case as ``--order`` would make it."""

    def make(head, **options):
        samples = make_case(classes=GRADES, n_views=0, counts={"train": 30, "test": 4}).samples
        generator = np.random.default_rng(1)
        grade = np.zeros(len(samples.plain))
        grade[samples.content] = samples.y
        plain = generator.normal(size=samples.plain.shape)
        plain[:, 0] += 1.5 * grade
        return make_case(
            head, samples=replace(samples, plain=plain.astype(np.float32), ordered=True), **options
        )

    return make


def test_both_heads_are_searched_and_predicted_out_of_fold(ordered_case):
    case = ordered_case("logreg")
    found = study_order(case)
    assert found["head"] == "ordinal-logistic"
    for head in ("logreg", "ordinal-logistic"):
        mine = replace(case, head=head)
        whole = out_of_fold_predictions(mine, choose_on_folds(mine).params)
        guess = whole.probabilities.argmax(axis=1)
        kappa = cohen_kappa_score(whole.y, guess, weights="quadratic")
        assert found["figures"][head] == pytest.approx(kappa)
        assert found["error"]["figures"][head] == pytest.approx(np.mean(np.abs(guess - whole.y)))
    assert found["metric"] == "quadratic_kappa"
    assert list(found["figures"]) == ["logreg", "ordinal-logistic"]
    assert "mean absolute error: logreg 0." in found["text"]


@pytest.mark.parametrize(
    ("head", "heads", "ordered"),
    [
        ("dense", ("dense",), "ordinal-dense"),  # its sibling, compared or not
        ("ordinal-dense", ("ordinal-dense", "logreg"), "ordinal-dense"),
        ("svm-linear", ("svm-linear", "ordinal-logistic"), "ordinal-logistic"),  # one that was compared
        ("svm-linear", ("svm-linear",), "ordinal-logistic"),  # none of them has one
    ],
)
def test_the_pair_is_that_of_the_recommended_head_where_it_has_one(ordered_case, head, heads, ordered):
    assert representations._ordered_head(ordered_case(head, heads=heads)) == ordered
    assert HEADS[HEADS[ordered].nominal].name in ("logreg", "dense")


def test_classes_without_an_order_say_how_to_give_one(make_case):
    with pytest.raises(CompareError, match="--order award,low"):
        study_order(make_case())


def test_of_several_pairs_it_is_the_one_whose_ordered_head_scores_best(ordered_case):
    heads = ("ordinal-svm", "ordinal-logistic")
    case = ordered_case("svm-linear", heads=("svm-linear", *heads))
    scores = [round(choose_on_folds(replace(case, head=head)).score, 10) for head in heads]
    assert representations._ordered_head(case) == heads[int(np.argmax(scores))]
