"""Validation images: whole groups of every class."""

import numpy as np
from hypothesis import given, strategies as st

from classify.heads.grouping import validation_images


@given(st.data())
def test_validation_images_are_whole_groups_and_leave_each_class_some(data):
    n_classes = data.draw(st.integers(2, 5))
    sizes = data.draw(st.lists(st.integers(2, 12), min_size=n_classes, max_size=n_classes))
    y = np.repeat(np.arange(n_classes), [2 * size for size in sizes])
    groups = np.concatenate([100 * k + np.arange(2 * size) // 2 for k, size in enumerate(sizes)])
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(y))
    y, groups = y[order], groups[order]
    held_out = validation_images(y, groups, fraction=0.2, seed=data.draw(st.integers(0, 99)))
    assert not set(groups[held_out]) & set(groups[~held_out])
    for k, size in enumerate(sizes):
        assert held_out[y == k].sum() == 2 * max(1, round(0.2 * size))


def test_groups_of_several_classes_leave_each_class_some_images():
    y = np.array([0, 0, 1, 1, 1, 2, 2])
    groups = np.array([0, 1, 0, 2, 3, 0, 4])  # group 0 holds images of all three
    for seed in range(20):
        held_out = validation_images(y, groups, fraction=0.2, seed=seed)
        assert set(y[held_out]) == set(y[~held_out]) == {0, 1, 2}
        assert not set(groups[held_out]) & set(groups[~held_out])
