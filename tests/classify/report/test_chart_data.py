"""Data of the page's script, for records written by hand."""

import json

import numpy as np
import pytest

from classify.io.results import printable_json
from classify.report.chart_data import heads_of, leaderboard_columns, page_data
from classify.report.images import ShownImages
from classify.report.names import primary_metric

Y = [0, 1, 2, 2]
GOOD = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.12345, 0.2, 0.67655], [0, 0, 1]])
POOR = np.tile([[0.5, 0.25, 0.25]], (4, 1))


def verdict(a, b, *, better=False, **figures):
    return {
        "a": {"store": a[0], "head": a[1]},
        "b": {"store": b[0], "head": b[1]},
        "verdict": "better" if better else "no detectable difference",
        "difference": 0.123456,
        "low": None,
        "high": 0.98765,
        "p_holm": 0.00004,
        **figures,
    }


@pytest.fixture
def run(by_hand):
    return by_hand(
        Y,
        {
            ("a", "logreg"): GOOD,
            ("b", "knn"): POOR,
            ("a, b", "ensemble"): GOOD,
            ("b", "svm-rbf"): None,
            ("a", "baseline"): POOR,
            ("b", "baseline"): POOR,
        },
        recommended=("b", "knn"),
        verdicts=[
            verdict(("a", "logreg"), ("b", "knn"), better=True),
            verdict(("b", "svm-rbf"), ("b", "knn")),
        ],
    )


def shown(tested, **more):
    n = len(tested.entry)
    return ShownImages(
        entries=range(n), entry_images=[[k] for k in range(n)], entry_split=["test"] * n, **more
    )


def test_heads_stand_in_the_order_of_the_leaderboard(run):
    found = heads_of(*run)
    assert [(head["id"], head["name"], head["group"], head["space"]) for head in found] == [
        (0, "logreg on a", "a", "a"),
        (1, "knn on b", "b", "b"),
        (2, "ensemble", "several stores", "a"),
        (3, "baseline on a", "a", "a"),
        (4, "baseline on b", "b", "b"),
    ]


def test_a_head_of_a_single_store_goes_by_its_name(by_hand):
    record, tested = by_hand(Y, {("a", "knn"): GOOD, ("a", "baseline"): POOR})
    assert [(head["name"], head["group"]) for head in heads_of(record, tested)] == [
        ("knn", "a"),
        ("baseline", "a"),
    ]


def test_facts_are_a_sentence(run):
    record, tested = run
    record["results"][0]["bundle_params"] = {
        "C": 0.123456,
        "units": [8, 4],
        "scaling": "l2",
        "none": None,
        "few": [],
    }
    record["results"][0]["metrics"]["log_loss"] = None
    record["results"][0]["intervals"].pop("log_loss")
    record["results"][2]["bundle_params"] = {"members": ["logreg on a", "knn on b"]}
    facts = [head["facts"] for head in heads_of(record, tested)]
    assert facts[0] == (
        "Quadratic-weighted kappa 0.250 [0.12, 0.38]; accuracy 1.000 [0.88, 1.12]; log loss –; expected "
        "calibration error 0.250 [0.12, 0.38]. Hyper-parameters: C 0.1235, units 8-4, scaling l2."
    )
    assert facts[2].endswith("Members of the ensemble: logreg on a; knn on b.")
    record["results"][0]["bundle_params"] = None
    assert heads_of(record, tested)[0]["facts"].endswith("Hyper-parameters: none.")


def test_figures_of_each_class(run):
    record, tested = run
    record["results"][0]["intervals"].update(
        {"precision of low": {"low": 0.25, "high": 1.0}, "recall of low": {"low": None, "high": None}}
    )
    low = heads_of(record, tested)[0]["per_class"][0]
    assert low == {
        "name": "low",
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
        "support": 1,
        "intervals": {"precision": [0.25, 1.0], "recall": None, "f1": None},
    }


def test_learning_curves_belong_to_their_heads(run):
    record, tested = run
    point = {"fraction": 0.5, "n_images": 6.0, "accuracy": 0.5, "low": 0.25, "high": 0.75}
    record["studies"]["learning"] = {
        "store": "b",
        "head": "knn",
        "points": [{**point, "n_images": 9.0, "draws": [0.5]}],
        "heads": [
            {"store": "a", "head": "logreg", "points": [point]},
            {"store": "b", "head": "knn", "points": [point]},
            {"store": "b", "head": "svm-rbf", "reason": "did not converge", "points": []},
        ],
    }
    found = heads_of(record, tested)
    sizes = {head["name"]: head["panels"].get("learning", {}).get("n_images") for head in found}
    assert sizes == {
        "logreg on a": [6.0],
        "knn on b": [9.0],
        "ensemble": None,
        "baseline on a": None,
        "baseline on b": None,
    }
    record["studies"]["learning"] = {"text": "Study 'learning' not possible: why", "reason": "why"}
    assert not any("learning" in head["panels"] for head in heads_of(record, tested))


def test_the_leaderboards_chart_has_a_row_for_each_head_with_a_figure(run):
    record, _ = run
    found = leaderboard_columns(record)
    assert found == {
        "label": ["logreg · a", "knn · b", "ensemble", "baseline"],
        "rank": [0, 1, 2, 3],
        "value": [0.25] * 4,
        "low": [0.125] * 4,
        "high": [0.375] * 4,
        "kind": ["head", "recommended", "head", "baseline"],
    }
    record["results"][0]["metrics"]["quadratic_kappa"] = None
    record["results"][1]["intervals"].pop("quadratic_kappa")
    found = leaderboard_columns(record)
    assert found["label"] == ["knn · b", "ensemble", "baseline"]
    assert found["rank"] == [0, 1, 2]
    assert (found["low"][0], found["high"][0]) == (None, None)


def test_the_baseline_stands_in_the_chart_where_only_the_second_has_a_figure(run):
    record, _ = run
    record["results"][4]["metrics"]["quadratic_kappa"] = None
    assert leaderboard_columns(record)["label"][-1] == "ensemble"


def test_the_data_of_the_page(run):
    record, tested = run
    data = page_data(record, tested, shown(tested, path=["x.jpg"], split=["train"], y=[0], picture=[-1]))
    assert json.loads(json.dumps(printable_json(data), allow_nan=False))
    assert data["recommended"] == 1
    assert (data["unit"], data["units"]) == ("image", "images")
    # Probabilities of heads 0 to 4 in units of 1/10000, entry by entry.
    said = {key: values.tolist() for key, values in data["tested"]["p"].items()}
    assert said["0"] == [7000, 2000, 1000, 1000, 8000, 1000, 1234, 2000, 6766, 0, 0, 10000]
    assert said["1"] == [5000, 2500, 2500] * 4
    assert list(said) == ["0", "1", "2", "3", "4"]
    assert data["verdicts"] == [
        {"a": 0, "b": 1, "better": True, "difference": 0.1235, "low": None, "high": 0.9877, "p_holm": 0.0}
    ]
    assert data["splits"] == ["train", "test"]
    assert list(data["tested"]["y"]) == Y
    assert set(data["charts"]) == {*data["panels"], "leaderboard", "verdicts", "map"}
    assert {head["id"] for head in data["heads"]} == set(range(5))


def test_without_verdicts_a_recommended_head_or_any_head(by_hand):
    record, tested = by_hand(Y, {("a", "baseline"): POOR}, join="features")
    data = page_data(record, tested, shown(tested))
    assert data["verdicts"] is None
    assert data["recommended"] == 0  # the one there is
    assert (data["unit"], data["units"]) == ("entry", "entries")
    record, tested = by_hand([], {("a", "knn"): None})
    record["statistics"]["primary_metric"] = None
    assert primary_metric(record) == "accuracy"
    data = page_data(record, tested, shown(tested))
    assert (data["recommended"], data["heads"], data["leaderboard"]["label"]) == (None, [], [])
