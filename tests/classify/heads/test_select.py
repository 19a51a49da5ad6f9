"""Selection of heads by name and by default, and refused requests."""

import pytest

from classify.errors import CompareError
from classify.heads.select import select_heads, validate_heads
from classify.jobs.fit import fit

GRADES = ("low", "middle", "award")
DEFAULT = ["dense", "logreg", "svm-linear", "svm-rbf"]


def test_ordinal_heads_are_added_by_default_for_ordinal_classes():
    assert select_heads((), classes=GRADES, ordered=False) == [*DEFAULT, "baseline"]
    ordinal = ["ordinal-dense", "ordinal-logistic", "ordinal-svm"]
    assert select_heads((), classes=GRADES, ordered=True) == [*DEFAULT, *ordinal, "baseline"]
    assert select_heads((), classes=GRADES[:2], ordered=True) == [*DEFAULT, "baseline"]


def test_all_selects_the_heads_that_suit_the_classes():
    found = select_heads(("all",), classes=GRADES, ordered=False)
    assert {"lda", "knn", "nearest-mean"} < set(found)
    assert not [name for name in found if name.startswith("ordinal")]
    assert found[-1] == "baseline"


def test_the_ensemble_alone_selects_the_default_heads():
    assert select_heads(validate_heads(["ensemble"]), classes=GRADES, ordered=False) == [*DEFAULT, "baseline"]


@pytest.mark.parametrize(
    ("ordered", "classes", "hint"),
    [(False, GRADES, r"give the order with --order WORST,…,BEST"), (True, GRADES[:2], "there are 2")],
)
def test_an_ordinal_head_needs_ordinal_classes(ordered, classes, hint):
    with pytest.raises(CompareError, match=f"ordinal-svm: needs three or more classes .*; {hint}"):
        select_heads(("ordinal-svm",), classes=classes, ordered=ordered)


def test_a_single_fit_of_an_ordinal_head_needs_ordinal_classes(make_store, tmp_path):
    store = make_store(classes=("award", "low", "middle"))
    with pytest.raises(CompareError, match="ordinal-logistic: needs three or more classes"):
        fit(store, head="ordinal-logistic", params={"C": 1.0}, out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    order = ("low", "middle", "award")
    assert fit(store, head="ordinal-logistic", params={"C": 1.0}, order=order, out=tmp_path / "bundle").n_test


def test_an_ensemble_of_one_head_is_refused():
    with pytest.raises(CompareError, match="needs two or more heads, but only logreg is"):
        select_heads(("logreg", "ensemble"), classes=GRADES, ordered=False)
    two_stores = select_heads(("logreg", "ensemble"), classes=GRADES, ordered=False, n_stores=2)
    assert two_stores == ["logreg", "baseline"]


def test_an_unknown_head_is_refused_with_all_names():
    with pytest.raises(CompareError, match=r"Unknown head .vote.: expected some of dense, .*, ensemble, all"):
        validate_heads(["logreg", "vote"])
