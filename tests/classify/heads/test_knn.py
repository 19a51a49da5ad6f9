"""kNN against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from classify.errors import CompareError
from classify.heads.registry import get_head, grid_points, make_head
from classify.heads.scoring import grid_scores


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_votes_agree_with_scikit_learn_except_for_the_shared_vote(blobs, scaling, k):
    X, y = blobs(200, apart=0.5)
    head = make_head("knn", params={"k": k, "scaling": scaling}).fit(X[:120], y[:120])
    Z = StandardScaler().fit(X[:120]).transform(X) if scaling == "standardise" else X
    theirs = KNeighborsClassifier(k, metric="cosine", weights="distance", algorithm="brute")
    shares = theirs.fit(Z[:120].astype(float), y[:120]).predict_proba(Z[120:].astype(float))
    expected = (k * shares + 1 / 3) / (k + 1)
    np.testing.assert_allclose(head.predict_proba(X[120:]), expected, atol=1e-4)
    assert head.predict_proba(X).min() > 0


def test_by_hand():
    # Cosine distances of (1, 0): 0.2 from (4, 3) / 5, 0.4 from (3, 4) / 5, 1 from (0, 1).
    X = np.array([[4.0, 3.0], [3.0, 4.0], [0.0, 1.0]])
    head = make_head("knn", params={"k": 2}).fit(X, np.array([0, 1, 1]))
    # Votes 1 / 0.2 = 5 and 1 / 0.4 = 2.5: shares 2/3 and 1/3; two votes, and one shared by both classes.
    expected = [(2 * 2 / 3 + 0.5) / 3, (2 * 1 / 3 + 0.5) / 3]
    np.testing.assert_allclose(head.predict_proba([[7.0, 0.0]])[0], expected, atol=1e-6)
    # Balanced, class 0 weighs 3 / (2 * 1), class 1 3 / (2 * 2): votes 7.5 and 1.875, shares 0.8 and 0.2.
    head = make_head("knn", params={"k": 2}, class_weight="balanced").fit(X, np.array([0, 1, 1]))
    np.testing.assert_allclose(head.predict_proba([[7.0, 0.0]])[0], [2.1 / 3, 0.9 / 3], atol=1e-6)


def test_more_neighbours_than_rows_means_all_rows(blobs):
    X, y = blobs(12)
    some, all_rows = (make_head("knn", params={"k": k}).fit(X, y) for k in (99, 12))
    np.testing.assert_array_equal(some.predict_proba(X), all_rows.predict_proba(X))


def test_equal_rows_decide_and_probabilities_are_finite(blobs):
    X, y = blobs(60)
    probabilities = make_head("knn", params={"k": 1}).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(probabilities[np.arange(60), y], (1 + 1 / 3) / 2, atol=1e-6)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("entry", [None, np.arange(120) // 2])
def test_all_k_share_one_search(blobs, monkeypatch, class_weight, entry):
    from sklearn.neighbors import NearestNeighbors

    X, y = blobs(120, apart=0.5)
    y[80:] = np.repeat(y[80::2], 2)
    searches = []
    search = NearestNeighbors.kneighbors
    monkeypatch.setattr(
        NearestNeighbors, "kneighbors", lambda *how, **more: searches.append(1) or search(*how, **more)
    )
    head, points = get_head("knn"), grid_points(get_head("knn"))
    rows = {"fit_rows": np.arange(80), "score_rows": np.arange(80, 120), "class_weight": class_weight}
    predicted = []
    grid_scores(head, X, y, scorer=lambda _, p: predicted.append(p) or 0.0, entry=entry, **rows)
    assert len(searches) == 2  # one per scaling
    for point, ours in zip(points, predicted, strict=True):
        fitted = make_head("knn", params=point, class_weight=class_weight).fit(X[:80], y[:80])
        alone = fitted.predict_proba(X[80:])
        if entry is not None:
            alone = (alone[::2] + alone[1::2]) / 2
        np.testing.assert_array_equal(ours, np.argmax(alone, axis=1))


def test_k_of_0_is_refused(blobs):
    with pytest.raises(CompareError, match="k is 0: expected a positive number"):
        make_head("knn", params={"k": 0}).fit(*blobs(12))
