"""What charts of a head draw: against scikit-learn's curves, SciPy's distributions and hand arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import poisson
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from classify.report import chart_data

CLASSES = ("low", "middle", "award")
Z = 1.959963984540054  # of 95 %


def drawn(seed: int, n: int, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels and what was said of them, in thousandths: rounding to four digits loses nothing."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, k, n)
    parts = generator.integers(1, 300, (n, k))
    parts[np.arange(n), y] += 200
    said = np.floor(parts / parts.sum(axis=1, keepdims=True) * 1000) / 1000
    return y, said


def of_class(columns: chart_data.Columns, name: str) -> np.ndarray:
    """Return x, y and threshold of a class, one row a point."""
    rows = zip(*columns.values(), strict=True)
    return np.array([row[1:] for row in rows if row[0] == name], dtype=float).reshape(-1, 3)


def farthest(points: np.ndarray, line: np.ndarray) -> float:
    """Return how far the farthest of some points is from a line through others, measured by hand."""
    start, end = line[:-1], line[1:]
    along = end - start
    length = (along**2).sum(axis=1)
    worst = 0.0
    for point in points:
        t = np.where(
            length > 0, ((point - start) * along).sum(axis=1) / np.where(length > 0, length, 1), 0.0
        ).clip(0, 1)
        worst = max(worst, float(np.linalg.norm(start + t[:, None] * along - point, axis=1).min()))
    return worst


def test_the_cells_of_a_confusion_matrix():
    found = chart_data.confusion([[3, 1, 0], [0, 4, 0], [0, 0, 0]], classes=CLASSES)
    assert found == {
        "true": ["low"] * 3 + ["middle"] * 3 + ["award"] * 3,
        "graded": list(CLASSES) * 3,
        "count": [3, 1, 0, 0, 4, 0, 0, 0, 0],
        "share": [0.75, 0.25, 0, 0, 1, 0, 0, 0, 0],
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_roc_curve_is_that_of_scikit_learn(seed):
    y, said = drawn(seed, 60)
    found = chart_data.roc(y, said, classes=CLASSES)
    for label, name in enumerate(CLASSES):
        points = of_class(found, name)
        false, true, _ = roc_curve(y == label, said[:, label], drop_intermediate=False)
        every = np.column_stack([false, true])
        np.testing.assert_allclose(points[[0, -1], :2], [[0, 0], [1, 1]])
        assert farthest(every, points[:, :2]) < 1e-4  # what was left out lies on the line
        assert farthest(points[:, :2], every) < 1e-4
        assert auc(points[:, 0], points[:, 1]) == pytest.approx(
            roc_auc_score(y == label, said[:, label]), abs=2e-4
        )
        assert len(points) < len(every)


def test_a_threshold_is_the_probability_from_which_a_point_is_reached():
    y, said = drawn(3, 80)
    for label, name in enumerate(CLASSES):
        mine = y == label
        for x, height, threshold in of_class(chart_data.roc(y, said, classes=CLASSES), name):
            asked = said[:, label] >= threshold
            assert x == pytest.approx(np.sum(asked & ~mine) / np.sum(~mine), abs=1e-4)
            assert height == pytest.approx(np.sum(asked & mine) / np.sum(mine), abs=1e-4)
        for x, height, threshold in of_class(chart_data.precision_recall(y, said, classes=CLASSES), name)[
            :-1
        ]:
            asked = said[:, label] >= threshold
            assert x == pytest.approx(np.sum(asked & mine) / np.sum(mine), abs=1e-4)
            assert height == pytest.approx(np.sum(asked & mine) / np.sum(asked), abs=1e-4)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=40).filter(
        lambda rows: len({mine for mine, _ in rows}) == 2
    )
)
def test_curves_leave_out_nothing_but_points_on_straight_lines(rows):
    y = np.array([int(mine) for mine, _ in rows])
    second = np.array([score for _, score in rows]) / 12
    said = np.column_stack([1 - second, second])
    precision, recall, _ = precision_recall_curve(y == 1, second)
    false, true, _ = roc_curve(y == 1, second, drop_intermediate=False)
    for found, every in (
        (chart_data.precision_recall(y, said, classes=("no", "yes")), np.column_stack([recall, precision])),
        (chart_data.roc(y, said, classes=("no", "yes")), np.column_stack([false, true])),
    ):
        points = of_class(found, "yes")[:, :2]
        assert farthest(every, points) < 2e-4
        assert farthest(points, every) < 2e-4
        np.testing.assert_allclose(points[[0, -1]], every[[0, -1]], atol=1e-4)


def test_a_bend_where_the_curve_stands_still_is_kept():
    """The two that look most like it are not: precision falls to nothing before it ends at 1."""
    y = np.array([0, 0, 1, 0])
    second = np.array([0.9, 0.8, 0.7, 0.1])
    said = np.column_stack([1 - second, second])
    found = of_class(chart_data.precision_recall(y, said, classes=("no", "yes")), "yes")
    assert found[:, :2].tolist() == [[1, 0.25], [1, 0.3333], [0, 0], [0, 1]]


def test_long_curves_have_a_limit_and_look_the_same():
    y, said = drawn(4, 4000)
    found = chart_data.roc(y, said, classes=CLASSES)
    for label, name in enumerate(CLASSES):
        points = of_class(found, name)
        assert len(points) == chart_data.MAX_POINTS
        np.testing.assert_array_equal(points[[0, -1], :2], [[0, 0], [1, 1]])
        assert np.all(np.diff(points[:, :2], axis=0) >= 0)
        area = roc_auc_score(y == label, said[:, label])
        assert auc(points[:, 0], points[:, 1]) == pytest.approx(area, abs=2e-3)


def test_a_curve_over_very_many_entries_keeps_its_shape():
    """Each step turns by next to nothing, and all of them together by much."""
    n = 40_000
    y = np.repeat([0, 1], n)  # all those that are none are surer: precision grows from 0 along a bow
    second = 1 - np.arange(2 * n) / (2 * n)
    said = np.column_stack([1 - second, second])
    found = of_class(chart_data.precision_recall(y, said, classes=("no", "yes")), "yes")
    bow = found[found[:, 0] > 0]
    np.testing.assert_allclose(bow[:, 1], bow[:, 0] / (bow[:, 0] + 1), atol=2e-4)
    assert len(bow) > 50


def test_of_two_classes_the_second_has_a_curve():
    y, said = drawn(5, 40, k=2)
    assert set(chart_data.roc(y, said, classes=("no", "yes"))["class"]) == {"yes"}
    assert set(chart_data.precision_recall(y, said, classes=("no", "yes"))["class"]) == {"yes"}


def test_a_class_that_all_or_none_have_has_no_curve():
    y, said = drawn(6, 40)
    y = np.where(y == 2, 1, y)
    assert chart_data.curve_labels(y, classes=CLASSES) == [0, 1]
    assert set(chart_data.roc(y, said, classes=CLASSES)["class"]) == {"low", "middle"}
    assert chart_data.curve_labels(np.ones(5, dtype=int), classes=CLASSES) == []
    assert chart_data.curve_labels(np.ones(5, dtype=int), classes=("no", "yes")) == []


def test_reliability_has_the_wilson_intervals_of_bins_that_hold_entries():
    def one(count, accuracy, confidence=0.8):
        return {"low": 0.7, "high": 0.9, "count": count, "confidence": confidence, "accuracy": accuracy}

    found = chart_data.reliability_points(
        [one(0, None, None), one(20, 0.75), one(4, 1.0), one(5, 0.0), one(30, 0.1)]
    )
    assert found["count"] == [20, 4, 5, 30]
    assert found["accuracy"] == [0.75, 1, 0, 0.1]
    assert found["confidence"] == [0.8] * 4
    # (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), with p = 0.75 and n = 20
    reach = Z * math.sqrt(0.75 * 0.25 / 20 + Z**2 / 1600)
    whole = 1 + Z**2 / 20
    low, high = (0.75 + Z**2 / 40 - reach) / whole, (0.75 + Z**2 / 40 + reach) / whole
    assert (found["low"][0], found["high"][0]) == (
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )
    assert (found["low"][1], found["high"][1]) == (pytest.approx(4 / (4 + Z**2), abs=1e-4), 1)
    assert (found["low"][2], found["high"][2]) == (0, pytest.approx(Z**2 / (5 + Z**2), abs=1e-4))
    # Three of 30: the lower end is that rate of a Poisson law that has three or more once in 20 times.
    assert poisson.sf(2, 30 * found["low"][3]) == pytest.approx(0.05, abs=1e-3)
    assert chart_data.reliability_points(None) == {
        "confidence": [],
        "accuracy": [],
        "low": [],
        "high": [],
        "count": [],
    }


def test_training_and_learning_are_rows():
    found = chart_data.training_points(
        {"loss": [1.0, 0.5], "val_loss": [2.0, math.inf], "accuracy": [0.25, None], "extra": [1]}
    )
    assert list(zip(*found.values(), strict=True)) == [
        (1, "loss", "training", 1.0),
        (2, "loss", "training", 0.5),
        (1, "loss", "validation", 2.0),
        (1, "accuracy", "training", 0.25),
    ]
    points = [{"n_images": 13.8, "accuracy": 0.93754, "low": 0.8, "high": 1.0, "draws": [1]}]
    assert chart_data.learning_points(points) == {
        "n_images": [13.8],
        "accuracy": [0.9375],
        "low": [0.8],
        "high": [1.0],
    }
    assert not any(chart_data.training_points(None).values())


def test_a_chart_without_data_is_omitted(by_hand):
    said = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    record, _ = by_hand([1, 1], {("a", "logreg"): said})
    found = chart_data.head_panels(
        record["results"][0], y=np.array([1, 1]), probabilities=said, classes=record["classes"]
    )
    assert set(found) == {"confusion", "reliability"}
    assert found["confusion"]["count"] == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    more = chart_data.head_panels(
        {**record["results"][0], "training": {"loss": [1.0]}},
        y=np.array([0, 1]),
        probabilities=said,
        classes=record["classes"],
        learning=[{"n_images": 6, "accuracy": 0.5, "low": 0.2, "high": 0.8}],
    )
    assert set(more) == {"confusion", "reliability", "roc", "precision_recall", "learning", "training"}
