"""How differences are put into words."""

import pytest

from classify.evaluation.studies.compare import Difference, SideBySide, change, metric_words


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Difference(value=0.1, low=0.01, high=0.2), "better"),
        (Difference(value=-0.1, low=-0.2, high=-0.01), "worse"),
        (Difference(value=0.1, low=0.0, high=0.2), "unsettled"),
        (Difference(value=0.1, low=None, high=None), "unsettled"),
    ],
)
def test_the_verdict_rests_on_the_interval(difference, verdict):
    assert difference.verdict == verdict


def test_accuracy_is_told_in_points_and_kappa_as_it_is():
    found = Difference(value=0.0281, low=-0.003, high=0.0541)
    assert change(found, "accuracy") == "+2.8 points, 95 % interval −0.3 to +5.4"
    assert change(found, "quadratic_kappa") == "+0.028, 95 % interval −0.003 to +0.054"
    assert change(Difference(value=0.5, low=None, high=None), "accuracy") == "+50.0 points, no interval"
    assert change(Difference(value=None, low=None, high=None), "accuracy") == "difference undefined"


def test_figures_stand_in_one_line():
    sides = SideBySide(
        metric="accuracy",
        figures={"a": 0.812, "b": None, "c": 0.84},
        differences={"c": Difference(value=0.028, low=0.003, high=0.054)},
    )
    assert sides.words() == "a 0.812, b undefined, c 0.840 (+2.8 points, 95 % interval +0.3 to +5.4)"
    assert metric_words("quadratic_kappa") == "quadratic-weighted kappa"
