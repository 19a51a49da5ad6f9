"""The printed tables: what stands in them, and that they read well at 100 columns."""

import io

from rich.console import Console

from classify.io.results import METRICS, ORDERED_METRICS
from classify.report.leaderboard import make_tables


def result(head, *, store="efficientnet_lite0", status="ok", score=0.8, graded=True, low=0.72, levels=None):
    names = (*METRICS, *ORDERED_METRICS) if graded else METRICS
    able = status == "ok"
    return {
        "store": store,
        "head": head,
        "status": status,
        "bundle_params": {"levels": levels} if levels else {},
        "cv_balanced_accuracy": score if able else None,
        "metrics": dict.fromkeys(names, 0.813 if able else None),
        "intervals": {
            name: {"low": low, "high": None if low is None else 0.876} for name in (names if able else ())
        },
        "per_class": {
            name: {"error": value}
            for name, value in zip(("low", "middle", "award"), (0.1, None, 0.3), strict=True)
        },
        "fit_seconds": 1.24,
    }


def shown(*results, graded=True, classes=("low", "middle", "award")):
    record = {
        "dataset": "posters",
        "classes": list(classes),
        "protocol": {"kind": "test split"},
        "recommended": {"store": "efficientnet_lite0", "head": results[0]["head"]},
        "statistics": {"primary_metric": "quadratic_kappa" if graded else "accuracy"},
        "results": results,
        "stores": [{"store": name, "parts": []} for name in dict.fromkeys(one["store"] for one in results)],
    }
    stream = io.StringIO()
    for table in make_tables(record):
        Console(file=stream, width=100).print(table)
    return stream.getvalue().splitlines()


def test_the_primary_metric_has_its_interval():
    lines = shown(result("svm-rbf", graded=False), result("baseline", graded=False, low=None), graded=False)
    assert "accuracy [95 %]" in lines[1]
    assert "macro-F1" in lines[1]
    first = next(line for line in lines if "svm-rbf *" in line)
    assert "0.800 0.813 [0.72, 0.88]" in first
    assert "1.2" in first
    baseline = next(line for line in lines if "baseline" in line)
    assert "[" not in baseline
    assert baseline.index("0.813") == first.index("0.813 [")  # figures stay below each other


def test_ordered_grades_have_kappa_and_the_errors_of_each():
    lines = shown(result("ordinal-logistic"))
    first, second = (line for line in lines if "head" in line)
    assert [first.index(name) for name in ("CV", "kappa [95 %]", "accuracy", "MAE", "off by 2")] == sorted(
        first.index(name) for name in ("CV", "kappa [95 %]", "accuracy", "MAE", "off by 2")
    )
    for name in ("low", "middle", "award", "bal. acc.", "ROC-AUC", "log loss", "ECE"):
        assert name in second
    row = [line for line in lines if "ordinal-logistic *" in line][1].split()
    assert row[3:6] == ["0.100", "–", "0.300"]


def test_many_classes_have_no_room_in_a_line():
    lines = shown(result("logreg"), classes=[f"grade {k}" for k in range(9)])
    assert not [line for line in lines if "grade 3" in line]


def test_failed_heads_have_no_figures():
    lines = shown(result("logreg"), result("dense", status="failed: no such luck"))
    failed = [line for line in lines if "dense" in line]
    assert len(failed) == 2
    assert all(line.split()[-1] == "failed" for line in failed)


def test_the_widest_tables_fit():
    for graded in (False, True):
        head = "ordinal-logistic" if graded else "nearest-mean"
        lines = shown(result(head, graded=graded, levels="final" if graded else None), graded=graded)
        assert max(map(len, lines)) <= 100
        assert not [line for line in lines if "…" in line]
        assert any("efficientnet_lite0" in line for line in lines)


def test_long_names_of_several_stores_are_letters_and_the_baseline_stands_once():
    long = ("efficientnet_lite0+levels", "efficientnet_lite0+300px")
    lines = shown(*(result(head, store=store) for store in long for head in ("logreg", "baseline")))
    first = lines[: next(k for k, line in enumerate(lines) if "error of each grade" in line)]
    rows = [line.split()[:2] for line in first if "logreg" in line or "baseline" in line]
    assert rows == [["A", "logreg"], ["A", "baseline"], ["B", "logreg"]]
