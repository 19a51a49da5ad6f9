"""The interval of the calibration error holds the truth where plain resampling would not."""

import numpy as np

from classify.evaluation.intervals import calibration_interval

N, BINS = 400, 5


def simulated(gap, generator):
    """Return gaps seen in five bins of as many entries, and what resamples of them would show."""
    noise = generator.normal(scale=0.4 / np.sqrt(N / BINS), size=BINS)
    gaps = (gap + noise) / BINS
    resampled = gaps + generator.normal(scale=0.4 / np.sqrt(N / BINS), size=(1000, BINS)) / BINS
    return gaps, resampled


def covered(gap, n_sets=300):
    generator = np.random.default_rng(0)
    held, plain = [], []
    for _ in range(n_sets):
        gaps, resampled = simulated(gap, generator)
        low, high = calibration_interval(gaps, resampled, np.full(BINS, 1 / BINS))
        held.append(low <= abs(gap) <= high)
        ends = np.quantile(np.abs(resampled).sum(axis=1), [0.025, 0.975])
        plain.append(ends[0] <= abs(gap) <= ends[1])
    return np.mean(held), np.mean(plain)


def test_perfect_calibration_is_covered():
    held, plain = covered(0.0)
    assert held >= 0.93
    assert plain < 0.5


def test_gaps_are_covered():
    for gap in (0.03, 0.15):
        held, _ = covered(gap)
        assert 0.92 <= held <= 0.99


def test_without_noise_the_interval_is_the_figure():
    gaps = np.array([0.02, -0.05, 0.0])
    low, high = calibration_interval(gaps, np.tile(gaps, (50, 1)), np.array([0.2, 0.5, 0.3]))
    np.testing.assert_allclose([low, high], 0.07)
    assert calibration_interval(np.zeros(3), np.zeros((50, 3)), np.full(3, 1 / 3)) == (0.0, 0.0)
