"""Texts of paired differences."""

import pytest

from classify.evaluation.studies.compare import (
    Difference,
    PairedComparison,
    difference_text,
    effect_text,
    metric_name,
)


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Difference(value=0.1, low=0.01, high=0.2), "better"),
        (Difference(value=-0.1, low=-0.2, high=-0.01), "worse"),
        (Difference(value=0.1, low=0.0, high=0.2), "no detectable difference"),
        (Difference(value=0.1, low=None, high=None), "no detectable difference"),
    ],
)
def test_the_verdict_follows_from_the_interval(difference, verdict):
    assert difference.verdict == verdict


NO_INTERVAL = Difference(value=0.5, low=None, high=None)


def test_differences_in_accuracy_are_in_percentage_points():
    found = Difference(value=0.0281, low=-0.003, high=0.0541)
    assert difference_text(found, "accuracy") == "+2.8 points, 95 % interval −0.3 to +5.4"
    assert difference_text(found, "quadratic_kappa") == "+0.028, 95 % interval −0.003 to +0.054"
    assert difference_text(NO_INTERVAL, "accuracy") == "+50.0 points, no interval"
    undefined = Difference(value=None, low=None, high=None)
    assert difference_text(undefined, "accuracy") == "difference undefined"


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference(value=0.1, low=0.01, high=0.2), "Views improved the predictions."),
        (Difference(value=-0.1, low=-0.2, high=-0.01), "Views made the predictions worse."),
        (
            Difference(value=0.1, low=0.0, high=0.2),
            "Views made no detectable difference: the interval contains zero.",
        ),
        (NO_INTERVAL, "Views made no detectable difference: no interval could be computed."),
    ],
)
def test_effects_as_sentences(difference, text):
    assert effect_text("Views", difference) == text


def test_a_comparison_as_one_line():
    comparison = PairedComparison(
        metric="accuracy",
        figures={"a": 0.812, "b": None, "c": 0.84},
        differences={"c": Difference(value=0.028, low=0.003, high=0.054)},
    )
    assert comparison.text() == "a 0.812, b undefined, c 0.840 (+2.8 points, 95 % interval +0.3 to +5.4)"
    assert metric_name("quadratic_kappa") == "quadratic-weighted kappa"
