"""Study of the learning curve."""

from dataclasses import replace

import numpy as np
import pytest

from classify.errors import CompareError
from classify.evaluation.studies.learning_curve import FRACTIONS, N_DRAWS, round_number, study_learning_curve
from classify.model_selection.parallel import Failure


@pytest.mark.parametrize(
    ("wanted", "found"), [(0.3, 1), (3.9, 2), (4, 4), (47, 40), (99, 50), (420, 400), (1999, 1000)]
)
def test_round_numbers(wanted, found):
    assert round_number(wanted) == found


def test_a_rising_curve_is_extrapolated_upwards(make_case):
    """Twenty columns and classes that overlap: each further image helps."""
    case = make_case(counts={"train": 40, "test": 4}, n_features=60, distance=2.2, n_views=0)
    found = study_learning_curve(case)
    assert [point["fraction"] for point in found["points"]] == list(FRACTIONS)
    assert [len(point["draws"]) for point in found["points"]] == [N_DRAWS] * 4 + [1]
    sizes = [point["n_images"] for point in found["points"]]
    assert sizes == [8.0, 16.0, 32.0, 48.0, 64.0]  # of the 64 images of a training part
    assert found["points"][-1]["accuracy"] > found["points"][0]["accuracy"]
    assert [gain["more_images"] for gain in found["gains"]] == [20, 40, 50]
    assert 0 < found["gains"][0]["gain"] < found["gains"][-1]["gain"] < 0.2
    for gain in found["gains"]:
        assert gain["low"] <= gain["gain"] <= gain["high"]
    change = f"{100 * found['gains'][-1]['gain']:+.1f} points"
    assert f"With 50 more images, the extrapolated change is {change}" in found["text"]
    assert study_learning_curve(case) == found


def test_accuracy_at_the_full_size_is_that_of_the_folds(make_case):
    from classify.evaluation.studies.base import choose_on_folds, out_of_fold_predictions

    case = make_case(distance=1.5)
    whole = out_of_fold_predictions(case, choose_on_folds(case).params)
    hits = np.argmax(whole.probabilities, axis=1) == whole.y
    assert study_learning_curve(case)["points"][-1]["accuracy"] == pytest.approx(hits.mean())


def test_sizes_that_the_head_cannot_be_fitted_on_are_left_out(make_case):
    case = make_case()

    def run(tasks):
        small = [task.n_points == 0 and len(task.fit) < 10 for task in tasks]
        done = iter(case.run([task for task, skip in zip(tasks, small, strict=True) if not skip]))
        return [Failure(reason="too few") if skip else next(done) for skip in small]

    found = study_learning_curve(replace(case, run=run))
    assert [point["n_images"] for point in found["points"]] == [16.0, 24.0, 32.0]


def test_too_few_images_make_no_curve(make_case):
    with pytest.raises(CompareError, match="too few training images"):
        study_learning_curve(make_case("svm-linear", counts={"train": 3, "test": 2}))
