"""The nearest fitted images, against scikit-learn's own search."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from classify.data import neighbors as module
from classify.data.neighbors import nearest_rows, unit_rows
from classify.errors import CompareError


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("cells", [1, 500, 10**9])
def test_neighbors_equal_those_of_scikit_learn(monkeypatch, cells):
    monkeypatch.setattr(module, "_BLOCK_SIMILARITIES", cells)  # one row a block, some rows, all rows
    X, fitted = drawn(0, 60, 40), drawn(1, 90, 40)
    before = X.copy(), fitted.copy()
    found = nearest_rows(X, fitted, k=7)
    search = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(fitted.astype(float))
    distance, index = search.kneighbors(X.astype(float))
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.similarity, 1 - distance, atol=1e-6)
    assert (found.index.dtype, found.similarity.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(fitted, before[1])


def test_rows_of_the_same_group_are_excluded():
    X = drawn(2, 50, 8)
    group, author = np.arange(50) // 5, np.arange(50) % 7
    found = nearest_rows(X, X, k=3, exclude_groups=((group, group), (author, author)))
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    likes = unit.astype(float) @ unit.T
    for row in range(50):
        others = np.flatnonzero((group != group[row]) & (author != author[row]))
        expected = others[np.argsort(-likes[row, others], kind="stable")[:3]]
        np.testing.assert_array_equal(found.index[row], expected)


def test_missing_neighbors_are_minus_one():
    X = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
    group = np.array([0, 0, 1])
    found = nearest_rows(X, X, k=3, exclude_groups=((group, group),))
    np.testing.assert_array_equal(found.index, [[2, -1, -1], [2, -1, -1], [0, 1, -1]])
    np.testing.assert_allclose(
        found.similarity,
        [[np.sqrt(0.5), 0, 0], [np.sqrt(0.5), 0, 0], [np.sqrt(0.5), np.sqrt(0.5), 0]],
        atol=1e-6,
    )
    assert nearest_rows(X, X[:0], k=2).index.tolist() == [[-1, -1]] * 3
    assert nearest_rows(X[:0], X, k=2).index.shape == (0, 2)


@pytest.mark.parametrize("width", [3, 1280])
def test_ties_return_the_first_row(width):
    """Also where a matrix product rounds equal rows unequally, as it does at the ends of its blocks."""
    pattern = drawn(3, 4, width)
    fitted = pattern[np.arange(403) % 4]
    found = nearest_rows(pattern, fitted, k=4)
    np.testing.assert_array_equal(found.index, np.arange(4)[:, None] + np.arange(0, 16, 4))
    np.testing.assert_allclose(found.similarity, 1, atol=1e-6)


def test_features_without_any_difference_or_length():
    same = np.ones((700, 5), dtype=np.float32)
    np.testing.assert_array_equal(nearest_rows(same, same, k=3).index, np.tile([0, 1, 2], (700, 1)))
    nothing = nearest_rows(np.zeros((2, 5), dtype=np.float32), same, k=2)
    np.testing.assert_array_equal(nothing.index, [[0, 1], [0, 1]])
    np.testing.assert_array_equal(nothing.similarity, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unit_rows_have_length_1_and_zeros_stay(dtype):
    X = np.array([[3, 4], [0, 0], [-5, 12]], dtype=dtype)
    expected = [[0.6, 0.8], [0, 0], [-5 / 13, 12 / 13]]
    before = X.copy()
    found = unit_rows(X)
    np.testing.assert_array_equal(X, before)
    in_place = unit_rows(X, copy=False)
    assert in_place is X
    for unit in (found, in_place):
        np.testing.assert_allclose(unit, expected, rtol=1e-6)
        assert unit.dtype == dtype


def test_very_large_and_very_small_features():
    X = np.array([[1e30, 1e30], [1e-30, 0]], dtype=np.float32)
    np.testing.assert_allclose(nearest_rows(X, X, k=2).similarity, [[1, np.sqrt(0.5)]] * 2, atol=1e-6)


@pytest.mark.parametrize(
    ("X", "fitted", "options", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), {}, r"\(2, 3\) and \(2, 4\)"),
        (np.ones((2, 3)), np.ones((2, 3)), {"k": 0}, "k is 0"),
        (
            np.ones((2, 3)),
            np.ones((4, 3)),
            {"exclude_groups": (([1, 2], [1, 2]),)},
            r"expected \(2,\) and \(4,\)",
        ),
    ],
)
def test_inconsistent_shapes_are_refused(X, fitted, options, message):
    with pytest.raises(CompareError, match=message):
        nearest_rows(X, fitted, **options)
