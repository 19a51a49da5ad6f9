"""Names and figures of metrics in words."""

from classify.io.results import METRICS, ORDERED_METRICS
from classify.report.names import NAMES, interval_text, metric_text, with_interval


def test_every_metric_of_a_record_has_a_name_of_its_own():
    assert set(NAMES) == {"cv_balanced_accuracy", *METRICS, *ORDERED_METRICS}
    for part in ("short", "long", "about"):
        told = [getattr(name, part) for name in NAMES.values()]
        assert len(set(told)) == len(told)
        assert all(told)
    assert max(len(name.short) for name in NAMES.values()) <= 9  # it heads a column of figures


def test_figures_have_three_digits_and_a_dash_where_there_is_none():
    assert [metric_text(value) for value in (0.8126, 1, 0.0, None)] == ["0.813", "1.000", "0.000", "–"]


def test_intervals_stand_in_brackets_where_there_are_some():
    result = {
        "metrics": {"accuracy": 0.8126, "log_loss": 0.5, "roc_auc": None},
        "intervals": {"accuracy": {"low": 0.716, "high": 0.8761}, "log_loss": {"low": None, "high": None}},
    }
    assert interval_text(result, "accuracy") == "[0.72, 0.88]"
    assert with_interval(result, "accuracy") == "0.813 [0.72, 0.88]"
    assert interval_text(result, "log_loss") == ""
    assert with_interval(result, "log_loss") == "0.500"
    assert with_interval(result, "roc_auc") == "–"
    assert with_interval(result, "quadratic_kappa") == "–"
