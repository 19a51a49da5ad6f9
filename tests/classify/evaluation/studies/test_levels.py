"""Study of levels: columns that separate the classes are in the final level or in earlier ones."""

import pytest

from classify.errors import CompareError
from classify.evaluation.studies.base import choose_on_folds, out_of_fold_predictions
from classify.evaluation.studies.representations import study_levels

LEVELS = {"level_names": ("1/2", "1/4", "final"), "level_ends": (4, 8, 12), "n_features": 12}


@pytest.mark.parametrize(
    ("telling", "sentence"),
    [
        (slice(0, 8), "Earlier levels improved the predictions."),
        (slice(8, 12), "Earlier levels made no detectable difference"),
    ],
)
def test_levels_help_where_they_separate_the_classes(make_case, telling, sentence):
    case = make_case(**LEVELS, telling=telling, counts={"train": 30, "test": 4})
    found = study_levels(case)
    assert sentence in found["text"]
    # The variant that the search chooses has the same figure as a case that is predicted out of fold.
    chosen = choose_on_folds(case).params
    way = {"final": "final level", "all": "all levels"}[chosen["levels"]]
    whole = out_of_fold_predictions(case, chosen)
    hits = whole.probabilities.argmax(axis=1) == whole.y
    assert found["figures"][way] == pytest.approx(hits.mean())


def test_a_store_of_one_level_says_how_to_make_more(make_case):
    with pytest.raises(CompareError, match="featurize extract DATA --levels"):
        study_levels(make_case())
