"""A power law is found again where there is one."""

import numpy as np
import pytest

from classify.evaluation.studies.learning_curve import accuracy_at, fit_power_law


def test_points_on_a_power_law_give_it_back():
    sizes = np.array([50.0, 100.0, 200.0, 400.0])
    accuracy = 1 - 2.0 * sizes**-0.5
    law = fit_power_law(sizes, accuracy[None], n_scored=1e9)  # so many that half an error is nothing
    assert law.slope[0] == pytest.approx(0.5, abs=1e-6)
    assert law.scale[0] == pytest.approx(2.0, rel=1e-6)
    assert accuracy_at(law, 1600)[0] == pytest.approx(1 - 2.0 / 40, abs=1e-6)


def test_many_curves_are_fitted_as_each_alone_by_numpy():
    generator = np.random.default_rng(0)
    sizes = np.array([30.0, 60.0, 120.0, 180.0, 240.0])
    accuracy = generator.uniform(0.5, 0.9, size=(7, 5))
    laws = fit_power_law(sizes, accuracy, n_scored=200)
    for i in range(7):
        logs = np.log(((1 - accuracy[i]) * 200 + 0.5) / 201)
        slope, constant = np.polyfit(np.log(sizes), logs, 1, w=np.sqrt(sizes))
        assert laws.slope[i] == pytest.approx(-slope)
        assert laws.scale[i] == pytest.approx(np.exp(constant))


def test_an_error_of_zero_has_a_logarithm():
    law = fit_power_law([10.0, 20.0], [[1.0, 1.0]], n_scored=50)
    assert np.isfinite(law.scale).all()
    assert 0.98 < accuracy_at(law, 40)[0] <= 1.0
