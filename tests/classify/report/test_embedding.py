"""The map against scikit-learn's t-SNE and nearest neighbours, and layouts computed by hand."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from classify.report.embedding import MIN_IMAGES, N_COMPONENTS, feature_map

MEANING = (
    "Images near each other have similar features. The axes and the distances between separate clusters have "
    "no meaning."
)


def clusters(n: int, *, width: int = 12, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of classes that are apart."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % k
    means = generator.normal(size=(k, width)) * 3
    return (means[y] + 0.3 * generator.normal(size=(n, width))).astype(np.float32), y


def within(place: np.ndarray) -> None:
    """Both axes on one scale, the longer one from 0 to 1, the shorter one in the middle."""
    low, high = place.min(axis=0), place.max(axis=0)
    assert low.min() >= 0
    assert high.max() <= 1
    assert (high - low).max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose((low + high) / 2, 0.5, atol=1e-6)


def distances(place: np.ndarray) -> np.ndarray:
    found = np.linalg.norm(place[:, None] - place[None, :], axis=2)
    return found / found.max()


def test_no_image_and_one():
    nothing = feature_map(np.zeros((0, 4), dtype=np.float32))
    assert (nothing.position.shape, nothing.method, nothing.preserved) == (
        (0, 2),
        "There are no images.",
        None,
    )
    one = feature_map(np.ones((1, 4), dtype=np.float32))
    np.testing.assert_array_equal(one.position, [[0.5, 0.5]])
    assert one.method == f"There is one image. {MEANING}"
    assert one.preserved is None


def test_few_images_are_placed_by_principal_components():
    """With fewer than five images; distances do not depend on rotation and reflection."""
    for n in (2, 3, 4):
        X = np.random.default_rng(n).normal(size=(n, 6)).astype(np.float32)
        found = feature_map(X)
        components = PCA(n_components=2, svd_solver="full").fit_transform(normalize(X).astype(float))
        np.testing.assert_allclose(distances(found.position), distances(components), atol=1e-5)
        within(found.position)
        assert found.method == f"First two principal components of the features (PCA). {MEANING}"
    assert n + 1 == MIN_IMAGES


def test_two_images_with_one_feature_lie_on_a_line():
    found = feature_map(np.array([[1.0], [-1.0]], dtype=np.float32))
    np.testing.assert_allclose(np.sort(found.position, axis=0), [[0, 0.5], [1, 0.5]])


@pytest.mark.parametrize("n", [2, 5, 40])
def test_images_with_equal_features_have_one_position(n):
    lengths = np.arange(1, n + 1, dtype=np.float32)[:, None]
    found = feature_map(np.float32([1, 2, 3]) * lengths)
    np.testing.assert_array_equal(found.position, np.full((n, 2), 0.5))
    assert found.method == f"All images have the same features, so they are at the same point. {MEANING}"
    zero = feature_map(np.zeros((n, 3), dtype=np.float32))
    np.testing.assert_array_equal(zero.position, np.full((n, 2), 0.5))


def test_five_images_are_spread():
    X = np.random.default_rng(5).normal(size=(5, 3)).astype(np.float32)
    found = feature_map(X)
    within(found.position)
    assert found.method.startswith("t-SNE of the first 3 principal components (perplexity 1.33). ")


@pytest.mark.parametrize(("n", "width", "perplexity"), [(60, 12, 59 / 3), (150, 80, 30)])
def test_the_map_matches_scikit_learn(n, width, perplexity):
    X, _ = clusters(n, width=width)
    found = feature_map(X, seed=7)
    rows = normalize(X.astype(np.float64))
    kept = min(N_COMPONENTS, n, width)
    components = PCA(n_components=kept, svd_solver="full").fit_transform(rows)
    spread = TSNE(
        perplexity=perplexity,
        init=(components[:, :2] / components[:, 0].std() * 1e-4).astype(np.float32),
        learning_rate="auto",
        max_iter=500,
        random_state=7,
        n_jobs=1,
    )
    with threadpool_limits(limits=1):  # threads that wait for each other are slow on a busy machine
        theirs = spread.fit_transform((components / components[:, 0].std()).astype(np.float32))
    assert f"first {kept} principal components (perplexity {perplexity:.3g})" in found.method

    def near(place: np.ndarray) -> np.ndarray:
        return NearestNeighbors(n_neighbors=10).fit(place).kneighbors(return_distance=False)

    # Rounding and the signs of components change the run of the algorithm, but not the neighbours.
    assert (
        np.mean([np.isin(a, b).mean() for a, b in zip(near(found.position), near(theirs), strict=True)]) > 0.6
    )
    within(found.position)


def test_classes_that_are_apart_stay_so_and_neighbours_are_counted():
    X, y = clusters(90)
    found = feature_map(X)
    nearest_one = NearestNeighbors(n_neighbors=1).fit(found.position).kneighbors(return_distance=False)[:, 0]
    np.testing.assert_array_equal(y[nearest_one], y)
    theirs = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(X.astype(float))
    by_features = theirs.kneighbors(return_distance=False)
    here = NearestNeighbors(n_neighbors=10).fit(found.position).kneighbors(return_distance=False)
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(by_features, here, strict=True)])
    assert found.preserved == pytest.approx(share, abs=0.01)


def test_the_same_input_has_the_same_places_and_is_left_alone():
    X, _ = clusters(70)
    before = X.copy()
    first, second = feature_map(X, seed=3), feature_map(X.copy(order="F"), seed=3)
    assert first.position.tobytes() == second.position.tobytes()
    assert (first.method, first.preserved) == (second.method, second.preserved)
    np.testing.assert_array_equal(X, before)
    assert first.position.dtype == np.float32


def test_copies_of_an_image_lie_together():
    X, _ = clusters(40)
    X[1::2] = X[::2]
    place = feature_map(X).position
    apart = np.linalg.norm(place[::2] - place[1::2], axis=1)
    assert np.median(apart) < 0.05


def test_too_many_images_are_sampled_evenly_over_strata():
    X, y = clusters(120)
    y = np.where(np.arange(120) < 90, 0, 1)  # 90 and 30
    first = np.zeros(120, dtype=bool)
    first[[3, 50, 100, 119]] = True
    found = feature_map(X, most=44, first=first, strata=y, seed=1)
    placed = np.isfinite(found.position).all(axis=1)
    assert placed.sum() == 44
    assert placed[first].all()
    # Of the other 116, 88 and 28, a share of 40 / 116 is placed: 30.3 and 9.7.
    counts = [int((placed & ~first & (y == k)).sum()) for k in (0, 1)]
    assert sum(counts) == 40
    assert abs(counts[0] - 88 * 40 / 116) <= 1
    assert np.isnan(found.position[~placed]).all()
    within(found.position[placed])
    assert found.method.endswith(" 44 of 120 images are shown.")
    again = feature_map(X, most=44, first=first, strata=y, seed=1)
    assert found.position.tobytes() == again.position.tobytes()
    other = feature_map(X, most=44, first=first, strata=y, seed=2)
    assert not np.array_equal(np.isfinite(other.position), np.isfinite(found.position))
    # What is placed lies as if there were nothing else.
    np.testing.assert_array_equal(feature_map(X[placed], seed=1).position, found.position[placed])


def test_more_images_with_priority_than_can_be_placed():
    X, _ = clusters(30)
    found = feature_map(X, most=10, first=np.arange(30) < 20)
    placed = np.flatnonzero(np.isfinite(found.position[:, 0]))
    assert len(placed) == 10
    assert placed.max() < 20
