"""Heads fitted on rows on disk, against scikit-learn and against the same heads fitted in memory."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from classify.heads.base import FitError
from classify.heads.lda import LDAHead
from classify.heads.logistic import LogisticHead
from classify.heads.nearest_centroid import NearestCentroidHead
from classify.heads.ordinal_logistic import OrdinalLogisticHead
from classify.heads.ordinal_svm import OrdinalSVMHead
from classify.heads.registry import HEADS, make_head
from classify.heads.svm import SVMHead

SCALERS = {"standardise": StandardScaler, "l2": Normalizer}
CHUNKS = (7, 64, 10_000)  # uneven last chunks, and a single chunk

pytestmark = pytest.mark.usefixtures("small_sample")


@pytest.fixture
def skewed(blobs):
    """Return overlapping classes of unequal size, in columns of different scale."""
    X, y = blobs(600, n_classes=3, apart=0.6)
    kept = np.flatnonzero((y != 2) | (np.arange(600) % 4 == 0))
    return X[kept] * np.geomspace(0.1, 10, X.shape[1], dtype=np.float32), y[kept]


def linear_part(head):
    return head.classifier_.calibrated_classifiers_[0].estimator["classify"]


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("scaling", ["standardise", "l2"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_logistic_regression_agrees_with_scikit_learn(skewed, stream_of, n_classes, scaling, class_weight):
    X, y = (part[skewed[1] < n_classes] for part in skewed)
    head = LogisticHead(C=3.0, scaling=scaling, class_weight=class_weight, tol=1e-8)
    head.fit_stream(stream_of(X, y))
    Z = SCALERS[scaling]().fit_transform(X.astype(np.float64))
    expected = LogisticRegression(C=3.0, class_weight=class_weight, tol=1e-10, max_iter=100_000).fit(Z, y)
    found = head.pipeline_["classify"]
    assert head.converged_
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-4 * np.abs(expected.coef_).max())
    np.testing.assert_allclose(head.predict_proba(X), expected.predict_proba(Z), atol=1e-5)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_linear_svm_agrees_with_linear_svc_in_the_primal(skewed, stream_of, n_classes, class_weight):
    X, y = (part[skewed[1] < n_classes] for part in skewed)
    head = SVMHead(C=0.3, class_weight=class_weight).fit_stream(stream_of(X, y))
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    expected = LinearSVC(C=0.3, class_weight=class_weight, dual=False, tol=1e-10, max_iter=100_000).fit(Z, y)
    found = linear_part(head)
    assert head.converged_
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-4 * np.abs(expected.coef_).max())
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=1e-4)


@pytest.mark.parametrize(
    "name", [name for name, head in HEADS.items() if name != "knn" and not head.tensorflow]
)
def test_a_head_fitted_on_a_stream_is_saved_completely(skewed, stream_of, name, saved_and_loaded):
    X, y = skewed
    head = make_head(name).fit_stream(stream_of(X, y))
    loaded = saved_and_loaded(head, name)
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert getattr(loaded, "notes_", ()) == getattr(head, "notes_", ())


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_svm_probabilities_are_near_those_in_memory(skewed, stream_of, kernel):
    X, y = skewed
    groups = np.arange(len(y)) // 2
    params = {"kernel": kernel, "C": 0.1, "gamma_factor": 0.3, "solver": "approximate", "seed": 3}
    inside = SVMHead(**params).fit(X, y, groups=groups)
    outside = SVMHead(**params).fit_stream(stream_of(X, y, groups=groups))
    # The SVMs of the calibration folds share a scaling and Nyström rows; in memory each has its own.
    np.testing.assert_allclose(outside.predict_proba(X), inside.predict_proba(X), atol=0.03)
    assert np.mean(outside.predict(X) == inside.predict(X)) > 0.97
    assert outside.n_folds_ == inside.n_folds_


def test_nystroem_rows_are_those_of_scikit_learn(skewed, stream_of, monkeypatch):
    monkeypatch.setattr("classify.heads.svm_fitting.N_COMPONENTS", 40)
    X, y = skewed
    params = {"kernel": "rbf", "solver": "approximate", "seed": 5, "C": 0.1}
    maps = [
        head.classifier_.calibrated_classifiers_[0].estimator
        for head in (SVMHead(**params).fit(X, y), SVMHead(**params).fit_stream(stream_of(X, y)))
    ]
    inside, outside = (one[:-1].transform(X[:50]) for one in maps)
    np.testing.assert_allclose(inside @ inside.T, outside @ outside.T, atol=1e-9)
    assert maps[1]["map"].gamma == pytest.approx(maps[0]["map"].gamma, rel=1e-9)


SAME = {
    "logreg": lambda: LogisticHead(C=1.0, class_weight="balanced", tol=1e-8),
    "ordinal-logistic": lambda: OrdinalLogisticHead(C=1.0, class_weight="balanced", tol=1e-8),
    "ordinal-logistic, l2": lambda: OrdinalLogisticHead(C=10.0, scaling="l2", tol=1e-8),
    "nearest-mean": lambda: NearestCentroidHead(),
    "nearest-mean, l2": lambda: NearestCentroidHead(scaling="l2"),
    "lda": lambda: LDAHead(class_weight="balanced"),
    "lda, shrunk": lambda: LDAHead(shrinkage=0.1, scaling="l2"),
    "baseline": lambda: make_head("baseline"),
}


@pytest.mark.parametrize("name", SAME)
def test_rows_in_memory_and_on_disk_give_the_same_head(skewed, stream_of, name):
    X, y = skewed
    groups = np.arange(len(y)) // 3
    image = np.arange(len(y)) // 2  # two views per image
    groups, y = groups[image * 2], y[image * 2]
    inside = SAME[name]().fit(X, y, groups=groups, image=image)
    for chunk_rows in CHUNKS:
        outside = SAME[name]().fit_stream(stream_of(X, y, groups=groups, image=image, chunk_rows=chunk_rows))
        np.testing.assert_allclose(outside.predict_proba(X), inside.predict_proba(X), atol=1e-5)


def test_ordinal_svm_is_near_the_one_in_memory(skewed, stream_of):
    X, y = skewed
    params = {"C": 0.1, "gamma_factor": 0.3, "solver": "approximate"}
    inside, outside = OrdinalSVMHead(**params).fit(X, y), OrdinalSVMHead(**params).fit_stream(stream_of(X, y))
    np.testing.assert_allclose(outside.predict_proba(X), inside.predict_proba(X), atol=0.05)
    assert outside.floor_ == inside.floor_


@pytest.mark.parametrize("name", ["logreg", "svm-linear", "svm-rbf", "lda"])
def test_results_do_not_depend_on_threads_or_on_the_run(skewed, stream_of, monkeypatch, name):
    X, y = skewed
    found = []
    for cores in (1, 3, 3):
        monkeypatch.setattr("classify.data.blocks.available_cores", lambda cores=cores: cores)
        params = {"C": 0.01} if "svm" in name else {}
        found.append(make_head(name, params=params).fit_stream(stream_of(X, y)).predict_proba(X))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[1], found[2])


@pytest.mark.parametrize("name", [name for name in HEADS if name not in ("knn", "baseline")])
def test_one_class_is_refused(stream_of, name):
    X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with pytest.raises(FitError, match="of one class"):
        make_head(name).fit_stream(stream_of(X, np.zeros(20, dtype=np.int64)))


def test_features_that_are_not_finite_are_refused(skewed, stream_of):
    X, y = skewed
    X[100, 3] = np.nan
    with pytest.raises(FitError, match="NaN or infinity"):
        LogisticHead().fit_stream(stream_of(X, y))


def test_an_exact_svm_is_refused(skewed, stream_of):
    with pytest.raises(FitError, match="solver=exact"):
        SVMHead(solver="exact").fit_stream(stream_of(*skewed))


def test_covariances_that_do_not_fit_are_refused(skewed, stream_of):
    with pytest.raises(FitError, match=r"Raise --memory"):
        LDAHead().fit_stream(stream_of(*skewed, working_bytes=20_000))


def test_a_note_reports_that_rows_were_read_from_disk(skewed, stream_of):
    (note,) = LogisticHead().fit_stream(stream_of(*skewed)).notes_
    assert note.startswith(f"{len(skewed[1]):,} training rows were read from disk")
