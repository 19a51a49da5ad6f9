"""Verdicts on the recommended head as lines of text."""

import pytest

from classify.report.verdict_text import verdict_lines


def verdict(a, b, *, better=False, more=None, store="vgg16"):
    return {
        "a": {"store": store, "head": a},
        "b": {"store": store, "head": b},
        "verdict": "better" if better else "no detectable difference",
        "more_images": more,
    }


def record(
    verdicts, *, head="svm-rbf", stores=("vgg16",), metric="accuracy", n_entries=91, join=None, **statistics
):
    return {
        "recommended": {"store": "vgg16", "head": head, "bundle": "bundles/x"},
        "statistics": {
            "primary_metric": metric,
            "correction": "Holm-corrected over 6 pairs",
            "n_entries": n_entries,
            "approximate": False,
            "why": "",
            **statistics,
        },
        "join": join,
        "protocol": {"kind": "test split"},
        "results": [{"store": store} for store in stores],
        "stores": [{"store": store, "parts": []} for store in stores],
        "verdicts": verdicts,
    }


def test_verdicts_are_grouped():
    lines = verdict_lines(
        record(
            [
                verdict("svm-rbf", "baseline", better=True),
                verdict("svm-rbf", "dense", more=[37, 2149]),
                verdict("logreg", "svm-rbf"),
                verdict("lda", "svm-rbf", better=True),
                verdict("logreg", "dense", better=True),  # not about the recommended head
            ]
        )
    )
    assert lines == [
        "svm-rbf compared with the other heads (accuracy on the same 91 test images; paired tests, "
        "Holm-corrected over 6 pairs):",
        "  better than: baseline",
        "  worse than: lda",
        "  no detectable difference from: dense, logreg",
        "  additional test images needed to detect a difference: dense 37 to 2,100; not estimable for the "
        "others",
        "Note: svm-rbf is not detectably better than simpler heads: logreg.",
    ]


def test_a_head_no_better_than_the_baseline_is_noted():
    lines = verdict_lines(record([verdict("svm-rbf", "baseline")]))
    assert lines[-1] == "Note: svm-rbf is not detectably better than simpler heads: baseline."
    assert lines[-2].startswith("  additional test images needed to detect a difference: not estimable (")


def test_a_simple_head_has_no_simpler_one():
    lines = verdict_lines(record([verdict("logreg", "svm-rbf"), verdict("logreg", "dense")], head="logreg"))
    assert not [line for line in lines if line.startswith("Note")]


@pytest.mark.parametrize(
    ("more", "shown"),
    [([1, 9], "1 to 9"), ([123, 45678], "120 to 46,000")],
)
def test_numbers_have_two_digits(more, shown):
    lines = verdict_lines(record([verdict("svm-rbf", "logreg", more=more)]))
    assert f"  additional test images needed to detect a difference: logreg {shown}" in lines


def test_several_stores_are_named_and_entries_too():
    lines = verdict_lines(
        record(
            [
                verdict("svm-rbf", "logreg"),
                verdict("svm-rbf", "baseline", better=True),
                {**verdict("svm-rbf", "ensemble"), "b": {"store": "vgg16, resnet50", "head": "ensemble"}},
            ],
            stores=("vgg16", "resnet50"),
            n_entries=30,
            join="probabilities",
            metric="quadratic_kappa",
            approximate=True,
            why="fewer than 30 groups",
        )
    )
    assert lines[0] == (
        "svm-rbf on vgg16 compared with the other heads (quadratic-weighted kappa on the same 30 test "
        "entries; paired tests, Holm-corrected over 6 pairs; approximate: fewer than 30 groups):"
    )
    assert lines[1:3] == [
        "  better than: baseline",
        "  no detectable difference from: logreg on vgg16; ensemble",
    ]


def test_too_many_additional_images_are_not_estimable():
    lines = verdict_lines(record([verdict("svm-rbf", "logreg", more=[80, 10**8])]))
    assert (
        "a difference: not estimable (the intervals of the differences contain zero, or almost)" in lines[-2]
    )


def test_many_are_counted():
    lines = verdict_lines(record([verdict("svm-rbf", f"head{k}", more=[k + 1, 10]) for k in range(63)]))
    assert lines[1].endswith("head59 and 3 more (results.json)")
    assert lines[2].endswith(
        "a difference: head0 1 to 10, head1 2 to 10, head2 3 to 10, 60 more (results.json)"
    )
    assert lines[3:] == []


def test_many_simpler_heads_are_counted():
    simple = ["dense", "logreg", "svm-linear", "svm-rbf"]
    lines = verdict_lines(record([verdict("ensemble", one) for one in simple], head="ensemble"))
    assert lines[-1] == (
        "Note: ensemble is not detectably better than simpler heads: 4 heads, the simplest is logreg."
    )


def test_long_store_names_become_letters_and_heads_are_grouped_by_store():
    long = ("efficientnet_lite0+levels", "efficientnet_lite0+300px")
    verdicts = [
        {
            **verdict("svm-rbf", "dense"),
            "a": {"store": long[0], "head": "svm-rbf"},
            "b": {"store": store, "head": one},
        }
        for store, one in [(long[0], "dense"), (long[1], "dense"), (long[0], "lda"), ("+".join(long), "lda")]
    ]
    made = {**record(verdicts, stores=long), "recommended": {"store": long[0], "head": "svm-rbf"}}
    made["stores"].append({"store": "+".join(long), "parts": list(long)})
    assert (
        verdict_lines(made)[1] == "  no detectable difference from: dense, lda on A; dense on B; lda on A+B"
    )


def test_ordered_heads_are_compared_with_their_nominal_counterparts():
    pairs = [
        {
            **verdict("ordinal-logistic", "logreg", better=True),
            "difference": 0.051,
            "low": 0.01,
            "high": 0.09,
        },
        {**verdict("svm-rbf", "ordinal-svm"), "difference": 0.02, "low": -0.03, "high": 0.07},
        {**verdict("dense", "ordinal-dense", store="resnet50"), "difference": 0.1, "low": 0.0, "high": 0.2},
    ]
    lines = verdict_lines(record(pairs, metric="quadratic_kappa"))
    assert lines[-1] == (
        "  effect of the class order: ordinal-logistic against logreg +0.05 [+0.01, +0.09]: better; "
        "ordinal-svm against svm-rbf −0.02 [−0.07, +0.03]: no detectable difference"
    )


def test_no_lines_without_a_recommended_head_or_a_pair():
    assert verdict_lines({**record([verdict("a", "b")]), "recommended": None}) == []
    assert verdict_lines(record([])) == []
