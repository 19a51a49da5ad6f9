"""The cumulative link against its definition, a difference of sigmoids, in float64 with SciPy."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.special import expit, log_expit

from classify.heads import cumulative_link as link

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

THRESHOLDS = np.array([-1.5, 0.25, 0.5, 3.0])


def by_definition(score, thresholds):
    """Return P(class ≤ k) - P(class ≤ k - 1) for each class."""
    below = expit(thresholds - score[:, None])
    return np.diff(np.pad(below, [(0, 0), (1, 1)], constant_values=((0, 0), (0, 1))), axis=1)


def free(thresholds, dtype="float64"):
    return tf.constant(link.free_parameters(thresholds), dtype=dtype)


def test_probabilities_are_differences_of_sigmoids():
    score = np.linspace(-6, 6, 49)
    found = np.exp(link.log_probabilities(tf.constant(score[:, None]), free(THRESHOLDS)).numpy())
    np.testing.assert_allclose(found, by_definition(score, THRESHOLDS), rtol=1e-11)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-13)


def test_three_classes_by_hand():
    """At score 0 and thresholds ±log 3: sigmoid(-log 3) = 1/4 and sigmoid(log 3) = 3/4."""
    thresholds = np.log([1 / 3, 3.0])
    found = np.exp(link.log_probabilities(tf.zeros((1, 1)), free(thresholds, "float32")))
    np.testing.assert_allclose(found, [[0.25, 0.5, 0.25]], atol=1e-6)


def test_small_probabilities_keep_their_digits_in_float32():
    """For very negative x, sigmoid(x) is almost exp(x), so probabilities are differences of exponentials."""
    score = np.array([-80.0, -30.0, 30.0, 80.0])
    found = link.log_probabilities(tf.constant(score[:, None], "float32"), free(THRESHOLDS, "float32"))
    gaps = np.log(-np.expm1(-np.diff(THRESHOLDS)))
    above = THRESHOLDS - score[2:, None] + np.concatenate([[0.0], gaps])  # all classes but the highest
    np.testing.assert_allclose(found[2:, :-1], above, rtol=1e-5)
    below = score[:2, None] - THRESHOLDS + np.concatenate([gaps, [0.0]])  # all classes but the lowest
    np.testing.assert_allclose(found[:2, 1:], below, rtol=1e-5)
    assert np.isfinite(found).all()


def test_two_classes_are_a_logistic_regression():
    score, threshold = np.linspace(-40, 40, 9), np.array([0.75])
    found = link.log_probabilities(tf.constant(score[:, None]), free(threshold))
    expected = np.column_stack([log_expit(0.75 - score), log_expit(score - 0.75)])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_gradients_agree_with_those_of_the_definition():
    """TensorFlow's gradients of the plain formula, in float64; the loss is the mean of -log P(true class)."""
    generator = np.random.default_rng(1)
    score, y = tf.constant(generator.normal(size=(40, 1)) * 2), np.arange(40) % 5
    start = tf.constant([-1.0, 0.3, -2.0, 1.5], dtype="float64")
    with tf.GradientTape() as tape:
        tape.watch([score, start])
        ours = -tf.reduce_mean(tf.gather(link.log_probabilities(score, start), y, batch_dims=1))
    found = tape.gradient(ours, [score, start])
    with tf.GradientTape() as tape:
        tape.watch([score, start])
        thresholds = [start[0]]
        for gap in tf.unstack(start[1:]):
            thresholds.append(thresholds[-1] + tf.math.log(1 + tf.exp(gap)))
        ends = [tf.zeros(40, "float64"), *(tf.sigmoid(t - score[:, 0]) for t in thresholds)]
        ends = tf.stack([*ends, tf.ones(40, "float64")], axis=1)
        shares = ends[:, 1:] - ends[:, :-1]
        plain = -tf.reduce_mean(
            tf.math.log(tf.reduce_sum(shares * tf.one_hot(y, 5, dtype="float64"), axis=1))
        )
    np.testing.assert_allclose(ours, plain, rtol=1e-12)
    for mine, other in zip(found, tape.gradient(plain, [score, start]), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-13)


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=6))
def test_thresholds_ascend_for_any_free_parameters(numbers):
    thresholds = link.ordered_thresholds(np.array(numbers, dtype=np.float32))
    assert (np.diff(thresholds) > 0).all()


def test_free_parameters_invert_ordered_thresholds():
    found = link.ordered_thresholds(link.free_parameters(THRESHOLDS))
    np.testing.assert_allclose(found, THRESHOLDS, atol=1e-12)


def test_initial_thresholds_are_the_log_odds_of_the_class_frequencies():
    """By hand: half of the weight lies below the first threshold, three quarters below the second."""
    np.testing.assert_allclose(link.initial_thresholds(np.array([20, 10.0, 10])), [0, np.log(3)], atol=1e-12)
    start = link.initial_thresholds(np.array([3.0, 0.0, 5.0]))
    assert start[0] < start[1]  # a class without weight has an interval, too


@pytest.mark.parametrize("thresholds", [THRESHOLDS, THRESHOLDS[:1], np.array([-1.0, 0.0, 1e-40])])
def test_the_keras_layers_compute_the_same_probabilities(thresholds):
    network = keras.Sequential([keras.Input((1,)), *link.link_layers(len(thresholds) + 1)])
    link.set_thresholds(network, thresholds)
    score = np.linspace(-8, 8, 33)
    found = network(score[:, None].astype("float32")).numpy()
    np.testing.assert_allclose(found, by_definition(score, thresholds), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(link.get_thresholds(network), thresholds, atol=1e-6)
    assert link.has_link(network)
    assert not network.trainable_variables
