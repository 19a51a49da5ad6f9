"""Headline sentences; every number is counted by hand from the confusion matrix."""

import pytest

from classify.report.verdict_text import headline

MATRIX = [[8, 1, 0], [1, 6, 1], [1, 0, 7]]  # 21 of 25 correct; one of four mistakes is off by two


def result(head="logreg", *, store="vgg16", matrix=MATRIX, low=0.64, accuracy=0.84):
    ends = {} if low is None else {"accuracy": {"low": low, "high": 0.93}}
    return {
        "store": store,
        "head": head,
        "confusion_matrix": matrix,
        "intervals": ends,
        "metrics": {"accuracy": accuracy},
    }


def verdict(a, b, *, better=False):
    name = "better" if better else "no detectable difference"
    return {"a": {"store": "vgg16", "head": a}, "b": {"store": "vgg16", "head": b}, "verdict": name}


def record(
    *results, verdicts=(), head="logreg", graded=True, stores=("vgg16",), kind="test split", join=None
):
    return {
        "recommended": head and {"store": "vgg16", "head": head},
        "results": results or (result(), result("baseline", accuracy=0.36)),
        "stores": [{"store": name} for name in stores],
        "statistics": {"primary_metric": "quadratic_kappa" if graded else "accuracy"},
        "protocol": {"kind": kind},
        "verdicts": verdicts,
        "join": join,
    }


def test_accuracy_of_the_recommended_head():
    assert headline(record()) == [
        "The recommended head, logreg, predicts 21 of 25 test images correctly (84 %, 95 % interval 64 % to "
        "93 %); always predicting the most frequent grade reaches 36 %.",
        "Of its 4 mistakes, 1 is two or more grades off.",
    ]


def test_without_interval_baseline_test_split_or_order():
    found = headline(
        record(result(low=None), graded=False, kind="nested cross-validation", join="probabilities")
    )
    assert found == ["The recommended head, logreg, predicts 21 of 25 entries correctly (84 %)."]
    undefined = headline(record(result(), result("baseline", accuracy=None), graded=False))
    assert undefined[0].endswith("(84 %, 95 % interval 64 % to 93 %).")


def test_with_several_stores_the_store_is_named():
    assert "head, logreg on vgg16, predicts" in headline(record(stores=("vgg16", "resnet50")))[0]
    voted = record(result("ensemble"), head="ensemble", stores=("vgg16", "resnet50"))
    assert "head, ensemble, predicts" in headline(voted)[0]


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[5, 0, 0], [0, 5, 0], [0, 0, 5]], []),
        ([[5, 1, 0], [0, 5, 0], [0, 0, 5]], ["Its only mistake is one grade off."]),
        ([[5, 0, 0], [0, 5, 0], [1, 0, 5]], ["Its only mistake is two or more grades off."]),
        ([[5, 1, 0], [1, 5, 0], [0, 0, 5]], ["Of its 2 mistakes, none is two or more grades off."]),
        ([[5, 0, 2], [0, 5, 0], [1, 0, 5]], ["Of its 3 mistakes, 3 are two or more grades off."]),
    ],
)
def test_mistakes_of_two_or_more_grades(matrix, said):
    assert headline(record(result(matrix=matrix)))[1:] == said


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ([verdict("logreg", "baseline", better=True)], []),
        ([verdict("knn", "svm-rbf", better=True)], []),
        (
            [verdict("logreg", "knn")],
            ["The recommended head is not detectably different from the 1 other head."],
        ),
        (
            [verdict("logreg", "knn"), verdict("dense", "logreg")],
            ["The recommended head is not detectably different from any of the 2 other heads."],
        ),
        (
            [
                verdict("logreg", "knn", better=True),
                verdict("dense", "logreg", better=True),
                verdict("lda", "logreg"),
                verdict("logreg", "svm-rbf"),
                verdict("baseline", "logreg"),
            ],
            [
                "The recommended head is detectably better than 1, detectably worse than 1, not detectably "
                "different from 2 of the 4 other heads."
            ],
        ),
    ],
)
def test_summary_of_the_verdicts(verdicts, said):
    assert headline(record(graded=False, verdicts=verdicts))[1:] == said


def test_without_a_recommended_head():
    assert headline(record(head=None)) == ["No head could be fitted, so none is recommended."]
