import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

from classify.data.folds import grouped_folds
from classify.errors import CompareError
from classify.heads import svm_fitting
from classify.heads.registry import make_head, solver_params
from classify.io.head_file import dump_head

SCALERS = {"standardise": StandardScaler, "l2": Normalizer}


def views(n_images=60, n_views=3, n_features=40, n_classes=3, *, seed=0):
    """Return plain rows, then augmented ones: X, y, groups (two images each) and image."""
    generator = np.random.default_rng(seed)
    label = np.arange(n_images) % n_classes
    group = np.arange(n_images) // (2 * n_classes) * n_classes + label
    hidden = generator.normal(size=(n_images, n_features)) + 1.2 * np.eye(n_features)[label]
    image = np.tile(np.arange(n_images), n_views)
    X = hidden[image] + 0.3 * generator.normal(size=(len(image), n_features))
    return np.maximum(X + 1, 0).astype(np.float32), label[image], group[image], image


def plain_pipeline(X, *, kernel, scaling, C, gamma_factor=1.0, class_weight=None):
    """Return the plain scikit-learn pipeline."""
    Z = SCALERS[scaling]().fit_transform(X)
    gamma = gamma_factor / (Z.shape[1] * Z.var())
    machine = SVC(kernel=kernel, C=C, gamma=gamma, tol=1e-6, class_weight=class_weight, break_ties=True)
    return make_pipeline(SCALERS[scaling](), machine)


@pytest.mark.parametrize("name", ["svm-linear", "svm-rbf"])
@pytest.mark.parametrize("scaling", ["standardise", "l2"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.filterwarnings("ignore:Since Pipeline does not appear:UserWarning")
def test_probabilities_agree_with_a_plain_calibrated_pipeline(name, scaling, class_weight):
    X, y, groups, image = views()
    keep = np.arange(len(y)) % 7 != 0  # classes of unequal size
    X, y, groups, image = X[keep], y[keep], groups[keep], image[keep]
    head = make_head(name, params={"scaling": scaling, "C": 3.0}, seed=5, class_weight=class_weight)
    head.fit(X, y, groups=groups, image=image)

    machine = plain_pipeline(
        X.astype(np.float64), kernel=name[4:], scaling=scaling, C=3.0, class_weight=class_weight
    )
    folds = grouped_folds(y, groups, n_folds=5, seed=5).pairs
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
    plain = CalibratedClassifierCV(machine, method="sigmoid", ensemble=False, cv=folds)
    weight = None if class_weight is None else compute_sample_weight(class_weight, y)
    plain.fit(X.astype(np.float64), y, sample_weight=weight)
    np.testing.assert_allclose(head.predict_proba(X), plain.predict_proba(X.astype(np.float64)), atol=1e-5)
    np.testing.assert_array_equal(head.predict(X), head.classes_[head.predict_proba(X).argmax(axis=1)])


@pytest.mark.parametrize("name", ["svm-linear", "svm-rbf"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_approximate_head_agrees_with_a_plain_pipeline_and_has_a_note(
    name, n_classes, monkeypatch, saved_and_loaded
):
    monkeypatch.setattr(svm_fitting, "EXACT_ROWS", 100)
    monkeypatch.setattr(svm_fitting, "N_COMPONENTS", 30)
    X, y, groups, image = views(n_classes=n_classes)
    X = X.astype(np.float64)
    head = make_head(name, params={"C": 3.0}, seed=5).fit(X, y, groups=groups, image=image)

    Z = StandardScaler().fit_transform(X)
    gamma = 1 / (Z.shape[1] * Z.var())
    steps = [StandardScaler(), LinearSVC(C=3.0, loss="squared_hinge", dual=False)]
    if name == "svm-rbf":
        steps.insert(1, Nystroem(gamma=gamma, n_components=30, random_state=5))
    folds = grouped_folds(y, groups, n_folds=5, seed=5).pairs
    plain = CalibratedClassifierCV(make_pipeline(*steps), method="sigmoid", ensemble=False, cv=folds).fit(
        X, y
    )
    np.testing.assert_allclose(head.predict_proba(X), plain.predict_proba(X), atol=1e-9)
    (note,) = head.notes_
    assert note.startswith(
        "approximate, for 180 training rows: a linear SVM in the primal (LinearSVC: squared"
    )
    assert ("30 Nyström features" in note) == (name == "svm-rbf")
    assert make_head(name, params={"solver": "exact"}).fit(X, y).notes_ == ()
    loaded = saved_and_loaded(head, name)
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))


def test_the_fitted_head_holds_only_scikit_learn_objects(saved_and_loaded):
    X, y, groups, image = views()
    head = make_head("svm-rbf").fit(X, y, groups=groups, image=image)
    (inner,) = head.classifier_.calibrated_classifiers_
    assert [type(step) for _, step in inner.estimator.steps] == [StandardScaler, SVC]
    assert inner.estimator["classify"].kernel == "rbf"  # fitted on features, not on a matrix
    assert inner.estimator["classify"].support_vectors_.shape[1] == X.shape[1]
    assert head.classifier_.n_features_in_ == X.shape[1]
    loaded = saved_and_loaded(head, "svm-rbf")
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))


@pytest.mark.parametrize("name", ["svm-linear", "svm-rbf"])
def test_search_and_fit_use_the_same_solver_above_the_limit(name):
    assert solver_params(name, 10_000) == {}
    assert solver_params(name, 10_001) == {"solver": "approximate"}
    assert solver_params("logreg", 10**9) == {}
    X, y, groups, image = views(n_images=30)
    head = make_head(name, params=solver_params(name, 10_001)).fit(X, y, groups=groups, image=image)
    assert "for 90 training rows" in head.notes_[0]  # the solver stays approximate although the rows are few


def test_images_are_groups_by_default():
    X, y, _, image = views()
    assert make_head("svm-linear").fit(X, y, image=image).predict_proba(X) == pytest.approx(
        make_head("svm-linear").fit(X, y, groups=image).predict_proba(X), abs=1e-12
    )


def test_few_groups_mean_fewer_calibration_folds():
    X, y, groups, image = views(n_images=12)  # two groups per class
    head = make_head("svm-rbf").fit(X, y, groups=groups, image=image)
    assert head.n_folds_ == 2
    np.testing.assert_allclose(head.predict_proba(X).sum(axis=1), 1.0, atol=1e-9)


def test_a_class_with_one_group_is_refused():
    X, y, groups, image = views(n_images=12)
    with pytest.raises(CompareError, match="'2'"):
        make_head("svm-linear").fit(X, y, groups=np.where(y == 2, 1000, groups), image=image)


def test_of_the_training_rows_only_support_vectors_are_stored():
    generator = np.random.default_rng(0)
    y = np.arange(2000) % 2
    X = (generator.normal(size=(2000, 30)) + 20 * y[:, None]).astype(np.float32)
    head = make_head("svm-linear", params={"C": 1e-3}).fit(X, y)
    assert len(dump_head(head, "svm-linear").data) < X.nbytes / 2


def test_an_svm_that_does_not_converge_is_reported_without_a_warning():
    X, y, groups, image = views()
    head = make_head("svm-linear", params={"max_iter": 3}).fit(X, y, groups=groups, image=image)
    assert not head.converged_
    assert make_head("svm-linear").fit(X, y, groups=groups, image=image).converged_


def test_an_unknown_kernel_is_refused():
    X, y, _, _ = views()
    with pytest.raises(CompareError, match="kernel 'poly': expected linear or rbf"):
        make_head("svm-linear", params={"kernel": "poly"}).fit(X, y)


def test_an_unknown_solver_is_refused():
    X, y, _, _ = views()
    with pytest.raises(CompareError, match="solver 'smo': expected one of auto, exact, approximate"):
        make_head("svm-linear", params={"solver": "smo"}).fit(X, y)


@pytest.mark.parametrize("scaling", ["standardise", "l2"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_tiny_c_does_not_invert_the_predictions(n_classes, scaling):
    """Differences of the class counts between folds must not outweigh the decisions."""
    generator = np.random.default_rng(0)
    y = np.repeat(np.arange(n_classes), 24)
    X = np.abs(generator.normal(size=(len(y), 200)) + 2.0 * np.eye(200)[y % n_classes])
    X += 0.4 * (np.arange(200)[None, :] % n_classes == y[:, None])
    groups = np.arange(len(y)) // 2
    head = make_head("svm-linear", params={"C": 1e-7, "scaling": scaling}).fit(X, y, groups=groups)
    said = head.predict_proba(X)
    np.testing.assert_allclose(said.sum(axis=1), 1.0)
    voted = head.classifier_.calibrated_classifiers_[0].estimator.decision_function(X).reshape(len(y), -1)
    for label, column in zip([1] if n_classes == 2 else range(n_classes), voted.T, strict=True):
        assert roc_auc_score(y == label, column) > 0.95  # the SVM itself separates the classes
        assert roc_auc_score(y == label, said[:, label]) > 0.95
