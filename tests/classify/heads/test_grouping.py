"""Images set aside: whole groups, of every class."""

import numpy as np
from hypothesis import given, strategies as st

from classify.heads.grouping import validation_images


@given(st.data())
def test_images_set_aside_part_no_group_and_empty_no_class(data):
    n_classes = data.draw(st.integers(2, 5))
    sizes = data.draw(st.lists(st.integers(2, 12), min_size=n_classes, max_size=n_classes))
    y = np.repeat(np.arange(n_classes), [2 * size for size in sizes])
    groups = np.concatenate([100 * k + np.arange(2 * size) // 2 for k, size in enumerate(sizes)])
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(y))
    y, groups = y[order], groups[order]
    aside = validation_images(y, groups, fraction=0.2, seed=data.draw(st.integers(0, 99)))
    assert not set(groups[aside]) & set(groups[~aside])
    for k, size in enumerate(sizes):
        assert aside[y == k].sum() == 2 * max(1, round(0.2 * size))


def test_groups_that_mix_classes_do_not_empty_a_class():
    y = np.array([0, 0, 1, 1, 1, 2, 2])
    groups = np.array([0, 1, 0, 2, 3, 0, 4])  # group 0 holds images of all three
    for seed in range(20):
        aside = validation_images(y, groups, fraction=0.2, seed=seed)
        assert set(y[aside]) == set(y[~aside]) == {0, 1, 2}
        assert not set(groups[aside]) & set(groups[~aside])
