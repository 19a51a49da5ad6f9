"""What the report says in words, written down by hand for records made by hand."""

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


def told(tiles):
    return [(tile["figure"], tile["what"], tile["interval"]) for tile in tiles]


def test_the_figures_on_top(record):
    assert told(text_module.tiles(record)) == [
        ("logreg", "recommended head, chosen by cross-validation", ""),
        ("0.250", "quadratic-weighted kappa", "[0.12, 0.38]"),
        ("0.500", "accuracy", "[0.38, 0.62]"),
        ("25.0 %", "off by two grades or more", ""),
        ("4", "images tested once, never fitted on", ""),
        ("2", "heads on 1 backbone", ""),
    ]


def test_the_figures_on_top_of_other_runs(by_hand, record):
    alone, _ = by_hand(
        [0, 1] * 600,
        {("a", "baseline"): np.tile([[1.0, 0.0]], (1200, 1)), ("b", "knn"): None, ("b", "baseline"): None},
        classes=("no", "yes"),
        join="features",
        protocol={"kind": "nested cross-validation"},
    )
    assert told(text_module.tiles(alone)) == [
        ("1,200", "entries each graded by heads that had not seen it", ""),
        ("1", "head on 2 stores of features", ""),
    ]
    record["results"][0]["metrics"].update(off_by_two=None, quadratic_kappa=None)
    record["results"][0]["intervals"] = {"quadratic_kappa": {"low": None, "high": None}}
    assert told(text_module.tiles(record))[1:4] == [
        ("–", "quadratic-weighted kappa", ""),
        ("0.500", "accuracy", ""),
        ("–", "off by two grades or more", ""),
    ]
    record["statistics"]["n_entries"] = 0
    assert told(text_module.tiles(record))[4][0] == "4"
    two, _ = by_hand(Y, {("a", "knn"): GOOD}, ordered=False, recommended=("a", "knn"))
    assert [what for _, what, _ in told(text_module.tiles(two))] == [
        *("recommended head, chosen by cross-validation", "accuracy"),
        *("images tested once, never fitted on", "head on 1 backbone"),
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


def test_how_to_read_the_leaderboard(record):
    assert text_module.leaderboard_text(record) == (
        "Marks: quadratic-weighted kappa of each head, the line its 95 % interval, on the test split, which "
        "was used once; best cross-validation score first. Where lines overlap by much, the order may be "
        "chance: the next section says which differences are real."
    )
    record["statistics"].update(approximate=True, why="fewer than 30 groups", primary_metric=None)
    record["protocol"]["kind"] = "nested cross-validation"
    found = text_module.leaderboard_text(record)
    assert found.startswith(
        "Marks: accuracy of each head, the line its 95 % interval (approximate: fewer than 30 groups), out "
        "of fold; "
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
    assert first.startswith("logreg against each other head")
    assert rest == ["Better than: baseline"]
    assert text_module.verdict_text({**record, "verdicts": []}) == ["There is no pair of heads to compare."]
    assert text_module.verdict_text({**record, "recommended": None}) == [
        "There is no pair of heads to compare."
    ]


LISTED = (
    "Labels: 2 clearly look like another grade. 3 are listed in doubtful.csv, to be looked at again from the "
    "top:"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LISTED, "Labels: 2 clearly look like another grade. 3 are listed in doubtful.csv."),
        ("Labels: no grade is in doubt.", "Labels: no grade is in doubt."),
    ],
)
def test_what_studies_found(record, text, said):
    record["studies"] = {
        "labels": {"text": text, "shown": ["a.jpg"], "n_doubtful": 1, "head": "knn", "store": "a"},
        "leaks": {"text": "Leaks: none.", "shown": ["one"]},
        "of later": {"text": "Later."},
        "views": {"text": "Study of views not done: no views", "reason": "no views"},
    }
    assert text_module.study_texts(record) == [
        {"title": "Grades to look at again", "text": said, "shown": ()},
        {"title": "What leaks would have shown", "text": "Leaks: none.", "shown": ["one"]},
        {"title": "of later", "text": "Later.", "shown": ()},
    ]
    assert text_module.failed_studies(record) == ["Study of views not done: no views"]


def test_why_there_is_no_list_of_doubtful_grades(record):
    assert text_module.doubtful_text(record).endswith("Add it with: classify compare … --study labels")
    record["studies"]["labels"] = {"text": "Study of labels not done: why", "reason": "why"}
    assert text_module.doubtful_text(record) == "Study of labels not done: why"
    record["studies"]["labels"] = {"text": "…", "n_doubtful": 0, "head": "knn", "store": "a"}
    assert "(knn on a)" in text_module.doubtful_text({**record, "join": "features"})
    assert "training entries" in text_module.doubtful_text({**record, "join": "features"})


def test_panels_say_what_they_are_and_why_they_are_absent(by_hand, record):
    found = {panel["name"]: panel for panel in text_module.panels(record)}
    assert list(found) == [
        *("confusion", "roc", "precision_recall", "reliability", "learning"),
        *("training_loss", "training_accuracy"),
    ]
    assert found["roc"]["about"].startswith("One curve a class")
    assert found["roc"]["absent"] == "No class that some tested images have and others have not."
    assert found["learning"]["absent"].endswith("--study learning")
    assert found["training_loss"]["absent"] == ""
    record["studies"]["learning"] = {"text": "…", "reason": "too few images"}
    assert {p["name"]: p["absent"] for p in text_module.panels(record)}["learning"] == "too few images"
    record["studies"]["learning"] = {"text": "…", "store": "a", "head": "knn"}
    absent = {p["name"]: p["absent"] for p in text_module.panels(record)}["learning"]
    assert absent == "Drawn of single heads on a only."
    two, _ = by_hand([0, 1], {}, classes=("no", "<yes>"))
    assert text_module.panels(two)[1]["about"].startswith("The curve of <yes>.")


def test_mistakes_are_of_what_was_tested(record):
    assert "of the test images; sorted by how many grades off, then" in text_module.mistakes_text(record)
    record.update(ordered=False, join="features")
    record["protocol"]["kind"] = "nested cross-validation"
    assert "of the held out entries; sorted by how much surer" in text_module.mistakes_text(record)


def test_what_a_store_was_made_with(record):
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
        ("made of", "a, b"),
        ("config digest", "0" * 64),
        ("resize", "squash"),
        ("name", "é"),
    ]


def test_how_intervals_were_made(record):
    assert text_module.statistics_lines(record) == [
        ("Intervals", "Wilson's"),
        ("Resamples", "2,000, seed 0"),
        ("Tests of pairs", "random swaps"),
        ("Correction", "Holm-corrected over 1 pairs"),
        ("Tested", "4 images in 4 groups that are resampled as a whole"),
    ]
    record["statistics"]["test"] = None
    assert [name for name, _ in text_module.statistics_lines(record)] == ["Intervals", "Resamples", "Tested"]
