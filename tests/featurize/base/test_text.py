"""Text for people and spreadsheets; expectations are written by hand."""

import os
import stat

import pytest

from featurize.base.files import atomic_path, write_atomic
from featurize.base.text import plural, safe_cell


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
        ("\uff1d1", "'\uff1d1"),  # full-width equals sign
        ("award/a=1.jpg", "award/a=1.jpg"),
        ("", ""),
        ("\udcff.jpg", "\\xff.jpg"),
    ],
)
def test_a_cell_is_never_evaluated(text, cell):
    assert safe_cell(text) == cell


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "grades.csv"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        fail()
    assert path.read_text() == "old"
    write_atomic(path, "naïve")
    assert path.read_bytes() == b"na\xc3\xafve"
    assert os.listdir(tmp_path) == ["grades.csv"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_new_file_has_the_mode_of_an_ordinary_one(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    write_atomic(tmp_path / "written", "")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {stat.S_IMODE(ordinary.stat().st_mode)}
