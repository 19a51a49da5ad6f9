"""Groups and folds: nothing straddles, all is tested once, tiny data shrinks the folds or is refused."""

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from classify.data.folds import group_images, grouped_folds
from classify.errors import CompareError

NO_PAIRS = np.empty((0, 2), dtype=np.int64)


def group_sets(group):
    return {frozenset(np.flatnonzero(group == g).tolist()) for g in np.unique(group)}


def test_entry_content_and_near_duplicates_link_images_over_any_number_of_steps():
    entry = ["e1", "e1", "alone", "e2", "e2", "far"]
    content = [0, 1, 1, 2, 3, 4]  # image 2 is a copy of image 1
    near = np.array([[1, 2]])  # and content 1 looks like content 2, which is in entry e2
    np.testing.assert_array_equal(group_images(entry, content, near), [0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(group_images(entry, content, NO_PAIRS), [0, 0, 0, 1, 1, 2])


def test_near_duplicates_without_an_image_still_link_groups():
    # 5 and 7 look like 6, which none of these images is
    np.testing.assert_array_equal(group_images(["a", "b"], [5, 7], np.array([[5, 6], [6, 7]])), [0, 0])


def test_no_images_have_no_groups():
    assert group_images([], [], NO_PAIRS).shape == (0,)


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 9)), min_size=1, max_size=14),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4),
)
def test_groups_equal_those_of_repeated_merging(images, near):
    entry, content = [e for e, _ in images], [c for _, c in images]
    sets = [{("entry", e), ("content", c)} for e, c in images] + [
        {("content", a), ("content", b)} for a, b in near
    ]
    merged = True
    while merged:  # the slow, plain way
        merged = False
        for a in sets:
            for b in sets:
                if a is not b and a & b:
                    a |= b
                    sets.remove(b)
                    merged = True
                    break
            if merged:
                break
    expected = [next(i for i, s in enumerate(sets) if ("entry", e) in s) for e in entry]

    group = group_images(entry, content, np.array(near, dtype=np.int64).reshape(-1, 2))

    assert group_sets(group) == group_sets(np.array(expected))
    assert group[np.sort(np.unique(group, return_index=True)[1])].tolist() == sorted(set(group.tolist()))


@st.composite
def labelled_groups(draw):
    """Groups of 1 to 6 images, mostly of one class each, in any order."""
    n_classes = draw(st.integers(2, 4))
    groups = [[k] * draw(st.integers(1, 6)) for k in range(n_classes) for _ in range(draw(st.integers(3, 8)))]
    for mixed in draw(st.lists(st.lists(st.integers(0, n_classes - 1), min_size=2, max_size=4), max_size=2)):
        groups.append(mixed)
    rows = [(label, number) for number, labels in enumerate(groups) for label in labels]
    rows = draw(st.permutations(rows))
    return np.array([label for label, _ in rows]), np.array([number for _, number in rows])


@given(labelled_groups(), st.integers(0, 2**32 - 1), st.sampled_from([1, 2]), st.sampled_from([3, 5]))
def test_folds_are_complete_disjoint_and_split_no_group(data, seed, train_groups, n_folds):
    y, groups = data
    folds = grouped_folds(y, groups, n_folds=n_folds, seed=seed, train_groups=train_groups)

    assert len(folds.pairs) == folds.n_folds
    fewest = min(len(np.unique(groups[y == k])) for k in np.unique(y))
    assert folds.n_folds <= min(n_folds, fewest)
    assert bool(folds.notes) == (folds.n_folds < n_folds)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([test for _, test in folds.pairs])), np.arange(len(y))
    )
    for train, test in folds.pairs:
        assert len(test)
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(y)))
        assert not set(groups[train]) & set(groups[test])
        for k in np.unique(y):
            assert len(np.unique(groups[train][y[train] == k])) >= train_groups


@given(labelled_groups(), st.randoms(use_true_random=False))
def test_the_same_seed_gives_the_same_folds_whatever_the_order_of_rows(data, random):
    y, groups = data
    order = list(range(len(y)))
    random.shuffle(order)
    first, again = grouped_folds(y, groups, seed=3), grouped_folds(y, groups, seed=3)
    moved = grouped_folds(y[order], groups[order], seed=3)
    for (_, test), (_, test_again), (_, test_moved) in zip(
        first.pairs, again.pairs, moved.pairs, strict=True
    ):
        np.testing.assert_array_equal(test, test_again)
        assert set(groups[test]) == set(groups[order][test_moved])


def test_another_seed_gives_other_folds():
    y, groups = np.repeat([0, 1], 40), np.arange(80)
    one, other = (grouped_folds(y, groups, seed=seed).pairs[0][1] for seed in (0, 1))
    assert one.tolist() != other.tolist()


def test_folds_are_stratified():
    y = np.array([0] * 60 + [1] * 20)
    for _, test in grouped_folds(y, np.arange(80), seed=0).pairs:
        assert np.bincount(y[test]).tolist() == [12, 4]


def test_a_class_with_few_groups_gives_fewer_folds_and_a_note():
    y = np.array([0] * 20 + [1] * 9)
    groups = np.concatenate([np.arange(20), 20 + np.arange(9) // 3])  # class 1: three groups of three
    folds = grouped_folds(y, groups, classes=("low", "award"))
    assert folds.n_folds == 3
    assert folds.notes == ("3 folds instead of 5: class 'award' has only 3 groups of images",)


def test_five_images_per_class_give_five_folds_without_a_note():
    folds = grouped_folds(np.repeat(np.arange(17), 5), np.arange(85))
    assert (folds.n_folds, folds.notes) == (5, ())


def test_too_few_groups_name_class_and_count():
    y, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 3, 3, 3])
    with pytest.raises(
        CompareError, match=r"class 'award' has 1 group of images \(3 images\), but 2 are needed"
    ):
        grouped_folds(y, groups, classes=("low", "award"))
    groups[5] = 4
    assert grouped_folds(y, groups, classes=("low", "award")).n_folds == 2
    with pytest.raises(
        CompareError, match=r"class 'award' has 2 groups of images \(3 images\), but 3 are needed"
    ):
        grouped_folds(y, groups, classes=("low", "award"), train_groups=2)


def test_a_class_without_rows_and_a_single_class_are_refused():
    with pytest.raises(CompareError, match="class 'middle' has 0 groups"):
        grouped_folds([0, 0, 2, 2], [0, 1, 2, 3], classes=("low", "middle", "award"))
    with pytest.raises(CompareError, match="the only class is 'low'"):
        grouped_folds([0, 0, 0], [0, 1, 2], classes=("low",))


def test_groups_of_several_classes_are_refused_not_split():
    # Two folds must part each class: 0 wants groups a | b, 1 wants b | c, 2 wants a | c. No two folds do.
    y, groups = [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 0, 2]
    with pytest.raises(CompareError, match="some groups contain several classes"):
        grouped_folds(y, groups, classes=("low", "middle", "award"))


def test_skewed_groups_still_leave_every_class_in_training():
    # One entry of 50 images beside single ones, in both classes.
    y = np.array([0] * 54 + [1] * 54)
    groups = np.array([0] * 50 + [1, 2, 3, 4] + [5] * 50 + [6, 7, 8, 9])
    for seed in range(10):
        for train, test in grouped_folds(y, groups, seed=seed).pairs:
            assert set(y[train]) == {0, 1}
            assert len(test)


def test_view_rows_stay_together_in_grouped_folds_and_leak_in_naive_ones():
    n_images, n_views = 20, 4
    image = np.repeat(np.arange(n_images), 1 + n_views)
    y, groups = image % 2, image // 2 * 2 + image % 2  # a row a view; every image its own group
    for train, test in grouped_folds(y, groups, seed=0).pairs:
        assert not set(image[train]) & set(image[test])

    rows = np.random.default_rng(0).permutation(len(image))  # the tutorial's way: views shuffled like images
    naive = [(np.setdiff1d(rows, test), test) for test in np.array_split(rows, 5)]
    leaked = [len(set(image[train]) & set(image[test])) / len(set(image[test])) for train, test in naive]
    assert min(leaked) > 0.9  # nearly every scored image had another of its views in training


@given(labelled_groups())
def test_inner_folds_can_always_be_made_in_an_outer_training_part(data):
    y, groups = data
    for train, _ in grouped_folds(y, groups, train_groups=2, seed=1).pairs:
        try:
            inner = grouped_folds(y[train], groups[train], n_folds=3, seed=1)
        except CompareError as error:
            assume("tie them together" not in str(error))
            raise
        assert inner.n_folds >= 2


def test_very_many_groups_are_assigned_in_turn(monkeypatch):
    monkeypatch.setattr("classify.data.folds.MAX_STRATIFIED_GROUPS", 100)
    generator = np.random.default_rng(0)
    groups = generator.permutation(np.arange(1200) % 400)  # three rows each, of one class or several
    y = np.where(generator.random(1200) < 0.9, groups % 3, generator.integers(3, size=1200))
    folds = grouped_folds(y, groups, n_folds=5, seed=0)
    scored = np.concatenate([held for _, held in folds.pairs])
    assert sorted(scored.tolist()) == list(range(1200))
    for fitted, held in folds.pairs:
        assert not set(groups[fitted]) & set(groups[held])
        assert len(held) == pytest.approx(240, abs=3)
        assert np.bincount(y[held]) == pytest.approx(np.bincount(y) / 5, abs=12)
    again, other = (grouped_folds(y, groups, n_folds=5, seed=seed) for seed in (0, 1))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(folds.pairs, again.pairs, strict=True))
    assert not np.array_equal(folds.pairs[0][1], other.pairs[0][1])
