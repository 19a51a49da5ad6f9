"""Kinds and details of skip reasons."""

import pytest

from featurize.images.skip_reasons import (
    SKIP_REASONS,
    TRANSIENT,
    UNKNOWN,
    count_kinds,
    detail_of,
    is_transient,
    kind_of,
)


def test_kinds():
    assert set(SKIP_REASONS) > TRANSIENT
    assert UNKNOWN not in SKIP_REASONS


@pytest.mark.parametrize(
    ("reason", "kind", "detail", "transient"),
    [
        ("truncated", "truncated", "", False),
        ("not an image: it is a PDF; export its pages: as images", "not an image",
         "it is a PDF; export its pages: as images", False),
        ("timed out: not decoded within 60 seconds", "timed out", "not decoded within 60 seconds", True),
        ("decoder crashed: it ended with signal 11", "decoder crashed", "it ended with signal 11", True),
        ("unreadable: Permission denied", "unreadable", "Permission denied", True),
        ("truncated by a later version", "unknown", "truncated by a later version", False),
        ("", "unknown", "", False),
    ],
)  # fmt: skip
def test_a_reason_is_a_kind_and_a_detail(reason, kind, detail, transient):
    assert (kind_of(reason), detail_of(reason), is_transient(reason)) == (kind, detail, transient)


def test_kinds_are_counted_most_frequent_first():
    reasons = ["damaged: a", "truncated", "damaged: b"]
    assert list(count_kinds(reasons).items()) == [("damaged", 2), ("truncated", 1)]
