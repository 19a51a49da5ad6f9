"""Temperature scaling against scikit-learn and by hand."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from classify.heads.solvers.temperature import TEMPERATURE_RANGE, apply_temperature, fit_temperature


@pytest.fixture
def overconfident():
    """Labels drawn from softmax(logits), and overconfident probabilities, softmax(3 × logits)."""
    generator = np.random.default_rng(3)
    logits = generator.normal(size=(20_000, 3))
    drawn = np.array([generator.choice(3, p=row) for row in softmax(logits, axis=1)])
    return drawn, softmax(3.0 * logits, axis=1)


def test_the_temperature_corrects_overconfidence(overconfident):
    y, probabilities = overconfident
    assert fit_temperature(y, probabilities) == pytest.approx(3.0, rel=0.05)


def test_the_temperature_agrees_with_scikit_learn():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(400, 5))
    y = np.argmax(X[:, :3] + generator.normal(size=(400, 3)), axis=1)
    head = LogisticRegression(C=1e4).fit(X[:100], y[:100])
    theirs = CalibratedClassifierCV(FrozenEstimator(head), method="temperature").fit(X[100:], y[100:])
    found = fit_temperature(y[100:], head.predict_proba(X[100:]))
    expected = theirs.predict_proba(X)
    np.testing.assert_allclose(apply_temperature(head.predict_proba(X), found), expected, atol=1e-4)


def test_by_hand():
    # (0.8, 0.2) at temperature 2: square roots 0.8944 and 0.4472, in proportion 2 to 1
    np.testing.assert_allclose(apply_temperature([[0.8, 0.2]], 2.0), [[2 / 3, 1 / 3]])
    np.testing.assert_allclose(apply_temperature([[0.5, 0.25, 0.25]], 0.5), [[4 / 6, 1 / 6, 1 / 6]])


def test_a_temperature_of_one_changes_no_bit():
    given = np.random.default_rng(1).dirichlet(np.ones(4), size=9)
    assert apply_temperature(given, 1.0).tobytes() == given.tobytes()


@pytest.mark.parametrize(
    ("y", "low", "high"), [([0, 1], TEMPERATURE_RANGE[0], 0.1), ([1, 0], 19.9, TEMPERATURE_RANGE[1])]
)
def test_the_temperature_stays_within_its_range(y, low, high):
    assert low <= fit_temperature(y, [[0.9, 0.1], [0.1, 0.9]]) <= high


def test_zeros_stay_finite_and_keep_their_order():
    scaled = apply_temperature([[1.0, 0.0, 0.0], [0.0, 0.3, 0.7]], 5.0)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaled.sum(axis=1), 1.0)
    np.testing.assert_array_equal(np.argmax(scaled, axis=1), [0, 2])
