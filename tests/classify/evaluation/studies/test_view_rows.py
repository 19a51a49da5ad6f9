"""Samples whose images are rows of views, row by row."""

import numpy as np

from classify.data.samples import load_samples
from classify.evaluation.studies.views import append_views, ungrouped, views_as_images, without_views


def test_every_row_of_the_training_images_becomes_an_image_of_its_own(make_store):
    samples = load_samples(make_store(counts={"train": 4, "test": 3}, n_views=3))
    rows, before = views_as_images(samples), samples.rows(samples.train_images)
    assert len(rows.y) == 2 * 4 * (1 + 3)
    after = rows.rows(rows.train_images)
    np.testing.assert_array_equal(after.X, before.X)
    np.testing.assert_array_equal(after.y, before.y)
    assert len(np.unique(after.groups)) == len(after.y)
    assert not rows.has_test


def test_ungrouped_share_neither_group_nor_entry(make_store):
    samples = load_samples(make_store())
    alone = ungrouped(samples)
    assert len(np.unique(alone.group)) == len(set(alone.entry)) == len(alone.y)


def test_without_views_has_no_views(make_store):
    samples = load_samples(make_store())
    rows = without_views(samples).rows(samples.train_images)
    np.testing.assert_array_equal(rows.X, samples.rows(samples.train_images, views=False).X)


def test_views_stand_behind_the_images_as_images(make_store):
    samples = load_samples(make_store(counts={"train": 4, "test": 3}, n_views=3))
    chosen = samples.train_images[[5, 2]]
    more, view_of = append_views(samples, chosen)
    assert view_of.tolist() == np.repeat(chosen, 3).tolist()
    added = np.arange(len(samples.y), len(more.y))
    all_rows = samples.rows(chosen)
    np.testing.assert_array_equal(more.rows(added).X, all_rows.X[~all_rows.is_plain])
    np.testing.assert_array_equal(more.y[added], samples.y[view_of])
    np.testing.assert_array_equal(more.rows(chosen).X, all_rows.X)  # as they were, views and all
    np.testing.assert_array_equal(more.train_images, samples.train_images)
