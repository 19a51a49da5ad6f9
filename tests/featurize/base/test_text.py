"""Counts with nouns, spreadsheet cells."""

import pytest

from featurize.base.text import as_names, plural, safe_cell, split_names


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (1, ("image",), "1 image"),
        (0, ("image",), "0 images"),
        (2000, ("image",), "2,000 images"),
        (1, ("class", "classes"), "1 class"),
        (3, ("class", "classes"), "3 classes"),
    ],
)
def test_plural(count, words, expected):
    assert plural(count, *words) == expected


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("\u00a0=1", "'\u00a0=1"),  # no-break space
        ("\u200b=1", "'\u200b=1"),  # zero width space
        ("\ufeff=1", "'\ufeff=1"),  # byte order mark
        ("\n=1", "'\\n=1"),
        ("\t=1", "'\\t=1"),
        ("\r1", "'\\r1"),
        ("\uff1d1", "'\uff1d1"),  # full-width equals sign
        ("award/a=1.jpg", "award/a=1.jpg"),
        ("", ""),
        ("\udcff.jpg", "\\xff.jpg"),
    ],
)
def test_a_cell_that_begins_like_a_formula_is_quoted(text, cell):
    assert safe_cell(text) == cell


@pytest.mark.parametrize("function", [as_names, split_names])
def test_names_in_any_sequence_are_a_tuple(function):
    assert function(["low", "a, b"]) == ("low", "a, b")
    assert function(iter(())) == ()


def test_a_string_is_one_name():
    assert as_names("a, b") == ("a, b",)


def test_a_string_is_split_at_commas():
    assert split_names("low, middle,,award") == ("low", "middle", "award")
    assert split_names("low") == ("low",)
    assert split_names("") == ()
