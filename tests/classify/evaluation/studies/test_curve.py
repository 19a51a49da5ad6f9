"""Learning curves: which images each part holds."""

from dataclasses import replace

import numpy as np

from classify.evaluation.studies.learning_curve import nested_subsets


def test_parts_hold_whole_groups_by_the_same_share_of_each_class(make_case):
    samples = make_case(counts={"train": 16, "test": 2}).samples
    images = samples.train_images
    group = np.where(np.isin(np.arange(len(samples.y)), images), samples.group // 2, samples.group)
    pairs = replace(samples, group=group)  # two neighbours of one class are a group: eight a class
    parts = list(nested_subsets(pairs, images, fractions=(0.25, 0.5, 1.0), seed=(0, 1)))
    for part, n_groups in zip(parts, (2, 4, 8), strict=True):
        for label in (0, 1):
            mine = part[pairs.y[part] == label]
            assert len(np.unique(pairs.group[mine])) == n_groups
        others = np.setdiff1d(images, part)
        assert not np.isin(pairs.group[part], pairs.group[others]).any()
    assert set(parts[0]) < set(parts[1]) < set(parts[2]) == set(images)
    again = next(nested_subsets(pairs, images, fractions=(0.25,), seed=(0, 1)))
    np.testing.assert_array_equal(again, parts[0])
    other = next(nested_subsets(pairs, images, fractions=(0.25,), seed=(0, 2)))
    assert not np.array_equal(other, parts[0])


def test_a_part_never_has_less_than_two_groups_of_a_class(make_case):
    samples = make_case(counts={"train": 5, "test": 2}).samples
    (part,) = nested_subsets(samples, samples.train_images, fractions=(0.125,), seed=(0,))
    assert np.bincount(samples.y[part]).tolist() == [2, 2]
