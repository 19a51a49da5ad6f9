"""Texts of the report for records written by hand."""

import numpy as np
import pytest

from classify.report import text as text_module

GOOD = np.eye(3)[[0, 1, 2, 2]]
POOR = np.eye(3)[[0, 0, 0, 2]]  # two of four right, one of the mistakes off by two
Y = [0, 1, 2, 2]


@pytest.fixture
def record(by_hand):
    found, _ = by_hand(
        Y,
        {("a", "logreg"): POOR, ("a", "svm-rbf"): None, ("a", "baseline"): GOOD},
        recommended=("a", "logreg"),
    )
    return found


def values(tiles):
    return [(tile["figure"], tile["what"], tile["interval"]) for tile in tiles]


def test_the_figures_on_top(record):
    assert values(text_module.tiles(record)) == [
        ("logreg", "recommended head, chosen by cross-validation", ""),
        ("0.250", "quadratic-weighted kappa", "[0.12, 0.38]"),
        ("0.500", "accuracy", "[0.38, 0.62]"),
        ("25.0 %", "images predicted two or more grades off", ""),
        ("4", "images in the test split, used once", ""),
        ("2", "heads compared on 1 store", ""),
    ]


def test_the_figures_on_top_of_other_runs(by_hand, record):
    alone, _ = by_hand(
        [0, 1] * 600,
        {("a", "baseline"): np.tile([[1.0, 0.0]], (1200, 1)), ("b", "knn"): None, ("b", "baseline"): None},
        classes=("no", "yes"),
        join="features",
        protocol={"kind": "nested cross-validation"},
    )
    assert values(text_module.tiles(alone)) == [
        ("1,200", "entries predicted out of fold", ""),
        ("1", "head compared on 2 stores", ""),
    ]
    record["results"][0]["metrics"].update(off_by_two=None, quadratic_kappa=None)
    record["results"][0]["intervals"] = {"quadratic_kappa": {"low": None, "high": None}}
    assert values(text_module.tiles(record))[1:4] == [
        ("–", "quadratic-weighted kappa", ""),
        ("0.500", "accuracy", ""),
        ("–", "images predicted two or more grades off", ""),
    ]
    record["statistics"]["n_entries"] = 0
    assert values(text_module.tiles(record))[4][0] == "4"
    two, _ = by_hand(Y, {("a", "knn"): GOOD}, ordered=False, recommended=("a", "knn"))
    assert [what for _, what, _ in values(text_module.tiles(two))] == [
        *("recommended head, chosen by cross-validation", "accuracy"),
        *("images in the test split, used once", "head compared on 1 store"),
    ]


def test_the_table_has_as_many_cells_as_columns(by_hand, record):
    record["results"][0]["bundle_params"] = {"levels": "middle"}
    columns, rows = text_module.table(record, {("a", "logreg"): 7})
    assert [column["name"] for column in columns[:3]] == ["head", "levels", "CV"]
    assert all(len(row["cells"]) == len(columns) for row in rows)
    assert [row["id"] for row in rows] == [7, None, None]
    assert [row["recommended"] for row in rows] == [True, False, False]
    assert [row["baseline"] for row in rows] == [False, True, False]
    assert [cell["text"] for cell in rows[0]["cells"][:2]] == ["logreg", "middle"]
    assert [cell["text"] for cell in rows[2]["cells"][:3]] == ["svm-rbf", "", "failed"]
    numbers = {column["name"]: column["number"] for column in columns}
    assert not numbers.pop("head")
    assert not numbers.pop("levels")
    assert all(numbers.values())
    several, _ = by_hand(
        Y, {("a", "knn"): GOOD, ("b", "baseline"): POOR, ("a", "baseline"): POOR, ("a, b", "ensemble"): GOOD}
    )
    _, rows = text_module.table(several, {})
    shown = [[cell["text"] for cell in row["cells"][:2]] for row in rows]
    assert shown == [["knn", "a"], ["baseline", ""], ["ensemble", ""]]


def test_an_undefined_figure_is_a_dash_with_its_reason(record):
    record["results"][0]["metrics"]["roc_auc"] = None
    record["results"][0]["undefined"] = {"roc_auc": "one class only", "something": "else"}
    record["results"][2]["notes"] = ["did not converge"]
    columns, rows = text_module.table(record, {})
    place = [column["name"] for column in columns].index("ROC-AUC")
    assert rows[0]["cells"][place] == {"text": "–", "value": None, "interval": "", "number": True}
    assert text_module.failure_lines(record) == [
        "logreg on a: area under the ROC curve is undefined: one class only",
        "svm-rbf on a failed: no convergence <b>",
        "baseline on a: did not converge",
    ]


def test_leaderboard_text(record):
    assert text_module.leaderboard_text(record) == (
        "Each mark is the quadratic-weighted kappa of a head on the test split, which was used once; the "
        "line is its 95 % interval. Heads are sorted by their cross-validation score. If two intervals "
        "overlap widely, the order of the heads may be due to chance. The next section lists the differences "
        "that are detectable."
    )
    record["statistics"].update(approximate=True, why="fewer than 30 groups", primary_metric=None)
    record["protocol"]["kind"] = "nested cross-validation"
    found = text_module.leaderboard_text(record)
    assert found.startswith(
        "Each mark is the accuracy of a head out of fold; the line is its 95 % interval (approximate: fewer "
        "than 30 groups). "
    )
    names = [name for name, _ in text_module.column_notes(record)]
    columns, _ = text_module.table(record, {})
    assert names == [*(column["name"] for column in columns[1:-1]), "[from, to]"]


def test_verdicts_begin_with_a_capital(record):
    record["verdicts"] = [
        {
            "a": {"store": "a", "head": "logreg"},
            "b": {"store": "a", "head": "baseline"},
            "verdict": "better",
            "more_images": None,
        }
    ]
    first, *rest = text_module.verdict_text(record)
    assert first.startswith("logreg compared with the other heads")
    assert rest == ["Better than: baseline"]
    assert text_module.verdict_text({**record, "verdicts": []}) == ["There is no pair of heads to compare."]
    assert text_module.verdict_text({**record, "recommended": None}) == [
        "There is no pair of heads to compare."
    ]


LISTED = "Labels: 2 clearly look like another grade. Listed in doubtful.csv: 3, the most doubtful first:"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LISTED, LISTED.replace("first:", "first.")),
        ("Labels: no grade is in doubt.", "Labels: no grade is in doubt."),
    ],
)
def test_study_texts(record, text, said):
    record["studies"] = {
        "labels": {"text": text, "shown": ["a.jpg"], "n_doubtful": 1, "head": "knn", "store": "a"},
        "leaks": {"text": "Leaks: none.", "shown": ["one"]},
        "of later": {"text": "Later."},
        "views": {"text": "Study 'views' not possible: no views", "reason": "no views"},
    }
    assert text_module.study_texts(record) == [
        {"title": "Grades to review", "text": said, "shown": ()},
        {"title": "Leakage without grouped folds", "text": "Leaks: none.", "shown": ["one"]},
        {"title": "of later", "text": "Later.", "shown": ()},
    ]
    assert text_module.failed_studies(record) == ["Study 'views' not possible: no views"]


def test_doubtful_text(record):
    assert text_module.doubtful_text(record).endswith("Compute it with: classify compare … --study labels")
    record["studies"]["labels"] = {"text": "Study 'labels' not possible: why", "reason": "why"}
    assert text_module.doubtful_text(record) == "Study 'labels' not possible: why"
    record["studies"]["labels"] = {"text": "…", "n_doubtful": 0, "head": "knn", "store": "a"}
    assert "(knn on a)" in text_module.doubtful_text({**record, "join": "features"})
    assert "Training entries" in text_module.doubtful_text({**record, "join": "features"})


def test_panels_have_explanations_and_texts_for_their_absence(by_hand, record):
    found = {panel["name"]: panel for panel in text_module.panels(record)}
    assert list(found) == [
        *("confusion", "roc", "precision_recall", "reliability", "learning"),
        *("training_loss", "training_accuracy"),
    ]
    assert found["roc"]["about"].startswith("One curve per class")
    assert found["roc"]["absent"] == "No curve: all tested images have the same class."
    assert found["learning"]["absent"].endswith("--study learning")
    assert found["training_loss"]["absent"] == ""
    record["studies"]["learning"] = {"text": "…", "reason": "too few images"}
    assert {p["name"]: p["absent"] for p in text_module.panels(record)}["learning"] == "too few images"
    record["studies"]["learning"] = {"text": "…", "store": "a", "head": "knn"}
    absent = {p["name"]: p["absent"] for p in text_module.panels(record)}["learning"]
    assert absent == "Only computed for single heads on a."
    two, _ = by_hand([0, 1], {}, classes=("no", "<yes>"))
    assert text_module.panels(two)[1]["about"].startswith("Positive class: <yes>.")


def test_mistakes_text(record):
    assert "on test images, sorted by distance in grades, then" in text_module.mistakes_text(record)
    record.update(ordered=False, join="features")
    record["protocol"]["kind"] = "nested cross-validation"
    assert "on held-out entries, sorted by the difference" in text_module.mistakes_text(record)


def test_config_lines(record):
    store = record["stores"][0]
    assert text_module.config_lines(store, None) == [
        ("backbone", "efficientnet_lite0"),
        ("features", "6"),
        ("augmented views", "0"),
        ("levels", "final"),
        ("config digest", "0" * 64),
        ("weights", '{"kind": "imagenet"}'),
    ]
    fused = {**store, "parts": ["a", "b"]}
    found = text_module.config_lines(fused, {"resize": "squash", "statistics": None, "name": "é", "few": []})
    assert found[4:] == [
        ("fused from", "a, b"),
        ("config digest", "0" * 64),
        ("resize", "squash"),
        ("name", "é"),
    ]


def test_statistics_lines(record):
    assert text_module.statistics_lines(record) == [
        ("Intervals", "Wilson's"),
        ("Resamples", "2,000, seed 0"),
        ("Paired tests", "random swaps"),
        ("Correction", "Holm-corrected over 1 pair"),
        ("Tested", "4 images in 4 groups; groups are resampled as a whole"),
    ]
    record["statistics"]["test"] = None
    assert [name for name, _ in text_module.statistics_lines(record)] == ["Intervals", "Resamples", "Tested"]
