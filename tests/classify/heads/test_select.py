"""Which heads a comparison is of: by name, by default, and what is refused."""

import pytest

from classify.errors import CompareError
from classify.heads.select import known_heads, suitable_heads
from classify.jobs.fit import fit

GRADES = ("low", "middle", "award")
USUAL = ["dense", "logreg", "svm-linear", "svm-rbf"]


def test_by_default_ordered_heads_join_where_classes_are_ordered():
    assert suitable_heads((), classes=GRADES, ordered=False) == [*USUAL, "baseline"]
    ordinal = ["ordinal-dense", "ordinal-logistic", "ordinal-svm"]
    assert suitable_heads((), classes=GRADES, ordered=True) == [*USUAL, *ordinal, "baseline"]
    assert suitable_heads((), classes=GRADES[:2], ordered=True) == [*USUAL, "baseline"]


def test_all_are_those_that_suit_the_classes():
    found = suitable_heads(("all",), classes=GRADES, ordered=False)
    assert {"lda", "knn", "nearest-mean"} < set(found)
    assert not [name for name in found if name.startswith("ordinal")]
    assert found[-1] == "baseline"


def test_the_ensemble_alone_votes_over_the_usual_heads():
    assert suitable_heads(known_heads(["ensemble"]), classes=GRADES, ordered=False) == [*USUAL, "baseline"]


@pytest.mark.parametrize(
    ("ordered", "classes", "why"),
    [(False, GRADES, r"--order WORST,…,BEST says which"), (True, GRADES[:2], "here are 2")],
)
def test_an_ordered_head_needs_ordered_classes(ordered, classes, why):
    with pytest.raises(CompareError, match=f"ordinal-svm: for three or more classes .*; {why}"):
        suitable_heads(("ordinal-svm",), classes=classes, ordered=ordered)


def test_a_single_fit_of_an_ordered_head_needs_them_too(make_store, tmp_path):
    store = make_store(classes=("award", "low", "middle"))
    with pytest.raises(CompareError, match="ordinal-logistic: for three or more classes"):
        fit(store, head="ordinal-logistic", params={"C": 1.0}, out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    order = ("low", "middle", "award")
    assert fit(store, head="ordinal-logistic", params={"C": 1.0}, order=order, out=tmp_path / "bundle").n_test


def test_the_vote_of_one_head_is_refused():
    with pytest.raises(CompareError, match="the vote of several heads, but logreg alone is"):
        suitable_heads(("logreg", "ensemble"), classes=GRADES, ordered=False)
    two_stores = suitable_heads(("logreg", "ensemble"), classes=GRADES, ordered=False, n_stores=2)
    assert two_stores == ["logreg", "baseline"]


def test_an_unknown_head_is_answered_with_every_name_there_is():
    with pytest.raises(CompareError, match=r"Unknown head .vote.: expected some of dense, .*, ensemble, all"):
        known_heads(["logreg", "vote"])
