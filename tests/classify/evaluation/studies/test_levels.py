"""The worth of levels: columns that tell the classes apart, in the final level or before it."""

import pytest

from classify.errors import CompareError
from classify.evaluation.studies.base import choose_on_folds, out_of_fold_predictions
from classify.evaluation.studies.representations import study_levels

LEVELS = {"level_names": ("1/2", "1/4", "final"), "level_ends": (4, 8, 12), "n_features": 12}


@pytest.mark.parametrize(
    ("telling", "sentence"),
    [
        (slice(0, 8), "The further levels paid here."),
        (slice(8, 12), "Whether the further levels paid here is not settled"),
    ],
)
def test_levels_pay_where_they_tell_the_classes_apart(make_case, telling, sentence):
    case = make_case(**LEVELS, telling=telling, counts={"train": 30, "test": 4})
    found = study_levels(case)
    assert sentence in found["text"]
    # The way that the search would choose is what a graded case finds.
    chosen = choose_on_folds(case).params
    way = {"final": "final level", "all": "all levels"}[chosen["levels"]]
    whole = out_of_fold_predictions(case, chosen)
    hits = whole.probabilities.argmax(axis=1) == whole.y
    assert found["figures"][way] == pytest.approx(hits.mean())


def test_a_store_of_one_level_says_how_to_make_more(make_case):
    with pytest.raises(CompareError, match="featurize extract DATA --levels"):
        study_levels(make_case())
