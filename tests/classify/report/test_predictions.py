"""Reading predictions.csv, against the csv module; incomplete files are refused."""

import csv
import re

import numpy as np
import pytest

from classify.errors import CompareError
from classify.io.results import Prediction, write_predictions
from classify.report.predictions import read_tested


def test_it_matches_the_csv_module(photo_run):
    found = read_tested(photo_run.folder, photo_run.record)
    with (photo_run.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    classes = photo_run.record["classes"]
    first = [row for row in rows if (row["store"], row["head"]) == (rows[0]["store"], rows[0]["head"])]
    assert list(found.entry) == [row["entry"] for row in first]
    assert len(found.entry) == 24
    assert "test/low/<img src=x onerror=alert(1)>.jpg" in found.entry
    assert [classes[label] for label in found.y] == [row["true_class"] for row in first]
    assert len(found.probabilities) == 8  # three heads and the baseline on two stores
    assert len(rows) == 8 * 24
    place = {entry: k for k, entry in enumerate(found.entry)}
    for row in rows:
        said = found.probabilities[row["store"], row["head"]][place[row["entry"]]]
        np.testing.assert_array_equal(said, [float(row[f"p_{name}"]) for name in classes])
        assert classes[said.argmax()] == row["predicted_class"]


def written(folder, record, tested, *, store=None):
    """Write predictions.csv of a record made by hand."""
    rows = [
        Prediction(
            store=key[0],
            head=key[1],
            entry=tested.entry[k],
            path="",
            n_images=1,
            fold=None,
            true=int(tested.y[k]),
            probabilities=said[k].tolist(),
        )
        for key, said in tested.probabilities.items()
        for k in range(len(tested.y))
    ]
    write_predictions(folder / "predictions.csv", rows, classes=record["classes"])


SAID = [[0.625, 0.25, 0.125], [0.125, 0.5, 0.375], [0.25, 0.25, 0.5]]


def test_odd_names_of_classes_come_back(tmp_path, by_hand):
    record, tested = by_hand(
        [0, 1, 2], {("=a", "knn"): SAID, ("=a", "svm"): None}, classes=("=low", 'a,"b', "x\ny")
    )
    written(tmp_path, record, tested)
    found = read_tested(tmp_path, record)
    np.testing.assert_array_equal(found.y, [0, 1, 2])
    assert list(found.probabilities) == [("=a", "knn")]
    np.testing.assert_array_equal(found.probabilities["=a", "knn"], SAID)


def test_entries_stand_in_the_order_of_the_first_head(tmp_path, by_hand):
    record, tested = by_hand([0, 1, 2], {("a", "knn"): SAID, ("a", "lda"): SAID[::-1]})
    written(tmp_path, record, tested)
    head, *lines = (tmp_path / "predictions.csv").read_text().splitlines()
    (tmp_path / "predictions.csv").write_text("\n".join([head, *lines[:3], *lines[:2:-1]]) + "\n")
    found = read_tested(tmp_path, record)
    assert found.entry == tested.entry
    np.testing.assert_array_equal(found.probabilities["a", "lda"], SAID[::-1])


@pytest.mark.parametrize("quoted", [False, True])
def test_a_truncated_file_is_refused(tmp_path, by_hand, quoted):
    record, tested = by_hand(
        [0, 1, 2],
        {("a", "knn"): SAID, ("a", "lda"): SAID},
        classes=('l"w', "m,d", "top") if quoted else "lmt",
    )
    written(tmp_path, record, tested)
    path = tmp_path / "predictions.csv"
    whole = path.read_bytes()
    assert read_tested(tmp_path, record).entry == tested.entry
    for kept in range(len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(CompareError, match=r"predictions\.csv: .*Run classify compare again"):
            read_tested(tmp_path, record)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text.replace("0.625000", "much"), "cannot be read"),
        (lambda text: text.replace("knn", "k\xffn"), "does not belong to the results.json"),
        (lambda text: text.replace("p_award", "p_other"), "cannot be read"),
        (lambda text: text.replace(",low,low", ",lower,low"), "cannot be read"),
        (lambda text: text.replace("test/award/02.jpg", "test/award/03.jpg", 1), "does not belong"),
        (lambda text: text.replace("a,knn,", f'"{"x" * 200_000}",knn,'), "cannot be read"),
        (lambda text: text.replace("0.625000", "nan"), "nan is not a probability"),
        (lambda text: "", "its end is missing"),
    ],
)
def test_a_file_of_another_run_is_refused(tmp_path, by_hand, spoil, said):
    record, tested = by_hand([0, 1, 2], {("a", "knn"): SAID, ("a", "lda"): SAID})
    written(tmp_path, record, tested)
    path = tmp_path / "predictions.csv"
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(CompareError, match=said):
        read_tested(tmp_path, record)


def test_bytes_that_are_no_text_and_a_missing_file(tmp_path, by_hand):
    record, _ = by_hand([0, 1, 2], {("a", "knn"): SAID})
    with pytest.raises(CompareError) as caught:
        read_tested(tmp_path, record)
    assert str(caught.value) == f"{tmp_path}: predictions.csv is missing. Run classify compare again"
    (tmp_path / "predictions.csv").write_bytes(b"store,head\n\xff\xfe\n")
    with pytest.raises(CompareError, match=re.escape(f"{tmp_path / 'predictions.csv'}: cannot be read")):
        read_tested(tmp_path, record)
    (tmp_path / "predictions.csv").unlink()
    (tmp_path / "predictions.csv").mkdir()
    with pytest.raises(CompareError, match="cannot be read"):
        read_tested(tmp_path, record)


def test_a_run_in_which_no_head_could_be_fitted(tmp_path, by_hand):
    record, tested = by_hand([0], {("a", "knn"): None})
    written(tmp_path, record, tested)
    found = read_tested(tmp_path, record)
    assert (found.entry, len(found.y), dict(found.probabilities)) == ((), 0, {})
