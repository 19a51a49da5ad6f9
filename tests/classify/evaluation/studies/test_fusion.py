"""Study of fusion: stores that separate the classes by different columns, or by the same ones."""

from dataclasses import replace

import pytest

from classify.data.fusion import fuse
from classify.data.samples import load_samples
from classify.errors import CompareError
from classify.evaluation.studies.base import choose_on_folds, out_of_fold_predictions
from classify.evaluation.studies.representations import study_fusion

COMMON = {"counts": {"train": 60, "test": 4}, "n_features": 12, "distance": 1.6, "n_views": 1}


@pytest.fixture
def fused_case(make_case, make_store):
    def fused_case(one, other):
        stores = [
            load_samples(make_store(name, telling=telling, **COMMON))
            for name, telling in (("one", one), ("other", other))
        ]
        return replace(make_case(samples=stores[0]), stores=(*stores, fuse(stores)))

    return fused_case


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (slice(6, 12), "Fusing the stores improved the predictions."),
        (slice(0, 6), "no detectable difference: the interval contains zero"),
    ],
)
def test_fusing_helps_where_the_stores_differ(fused_case, other, sentence):
    case = fused_case(slice(0, 6), other)
    found = study_fusion(case)
    assert sentence in found["text"]
    assert list(found["figures"])[1] == found["store"] == "one+other"
    both = replace(case, samples=case.stores[-1])
    whole = out_of_fold_predictions(both, choose_on_folds(both).params)
    hits = whole.probabilities.argmax(axis=1) == whole.y
    assert found["figures"]["one+other"] == pytest.approx(hits.mean())


def test_the_single_store_is_the_one_whose_search_scores_best(fused_case):
    case = fused_case(slice(0, 1), slice(0, 12))
    scores = [choose_on_folds(replace(case, samples=samples)).score for samples in case.stores[:2]]
    assert next(iter(study_fusion(case)["figures"])) == ("one", "other")[scores[1] > scores[0]]


def test_without_fused_stores_it_says_how_to_fuse(make_case):
    with pytest.raises(CompareError, match="Pass two or more stores and add --fuse"):
        study_fusion(make_case())
